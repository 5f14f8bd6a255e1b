"""Classical learners on Bernoulli bandits, beside the numbers of the RL² paper.

Fills the nine settings of Duan et al. (2016), table 1: 10, 100 and 500 pulls of 5, 10 and 50 arms.
Numbers to tune are chosen for each setting by mean reward on separate bandits; what is reported
comes from fresh ones, the same for every learner.

    python benchmarks/classical_bandits.py --seed 0
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from result_files import RESULTS, notes, page, papers, table, write

from meta_rl.agents.bandit_beliefs import BanditState
from meta_rl.agents.bandits import (
    UCB1,
    BestArm,
    EpsilonGreedy,
    GittinsIndex,
    Greedy,
    OptimisticThompson,
    RandomArms,
    ThompsonSampling,
)
from meta_rl.agents.gittins import bayes_optimal_plan, can_be_planned
from meta_rl.envs.bandits import BernoulliBandit
from meta_rl.provenance import package_versions
from meta_rl.rollout import Rollout

SETTINGS = [(pulls, arms) for pulls in (10, 100, 500) for arms in (5, 10, 50)]
CHUNK = 1000  # bandits at a time: their arrays stay in the cache
PAPER_NUM_BANDITS = 1000
PAPER_ROUNDING = 0.1 / np.sqrt(12.0)
PAPER = papers("RL² bandits")["rows"]
PUBLISHED = ("RL²", "SNAIL")
TENTHS = tuple(round(0.1 * tenth, 1) for tenth in range(11))


@dataclass
class Args:
    """Settings of the run."""

    seed: int = 0
    """Seed of the reported bandits; the bandits for tuning are drawn by it too, and are others."""
    num_bandits: tuple[int, int, int] = (10_000, 10_000, 2_000)
    """Numbers of bandits for the reported numbers, for trials of 10, 100 and 500 pulls."""
    num_tuning_bandits: tuple[int, int, int] = (4_000, 3_000, 1_000)
    """Numbers of bandits for tuning; an eighth for optimistic Thompson sampling, which is slow."""
    out: Path = RESULTS
    """Folder of classical_bandits.json and classical_bandits.md."""


class FirstEpsilonGreedy(EpsilonGreedy):
    """Takes the first of equally good arms, as the authors' script does."""

    def _best(self, scores: np.ndarray) -> np.ndarray:
        return scores.argmax(axis=1)


class FirstUCB1(UCB1):
    """Takes the first of equally good arms, as the authors' script does."""

    def _best(self, scores: np.ndarray) -> np.ndarray:
        return scores.argmax(axis=1)


class WhittleIndex(FirstEpsilonGreedy):
    """The closed-form approximation of the Gittins index in the authors' script, undiscounted.

    ``mean + v / (n sqrt((2 c + 1 / n) v) + mean - 1/2)`` with ``v = mean (1 - mean)``, n the
    observations with the prior's, and ``c = ln(1 / discount) = 0`` (Whittle, "Optimization over
    Time", 1982).
    """

    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Approximate indices, ``[N, A]``."""
        mean, n = self.belief.mean(state), self.belief.observations(state)
        variance = mean * (1.0 - mean)
        indices: np.ndarray = mean + variance / (np.sqrt(n * variance) + mean - 0.5)
        return indices


@dataclass(frozen=True)
class Column:
    """A learner of the table.

    Attributes:
        name: Display name.
        make: Builds it from pulls, arms, a generator and a value of the tuned number.
        grid: Values to tune over; a single ``None`` where there is nothing to tune.
        paper: The paper's numbers, where it has any.
        tuning_share: Part of the bandits for tuning that are used.
    """

    name: str
    make: Callable[[int, int, np.random.Generator, Any], Any]
    grid: tuple[float | int | None, ...] = (None,)
    paper: tuple[float, ...] | None = None
    tuning_share: float = 1.0


def paper_columns() -> list[Column]:
    """The table's columns with the definitions of the code behind the paper."""
    make = {
        "Random": lambda n, k, rng, _: RandomArms(k, rng=rng),
        "Gittins": lambda n, k, rng, _: WhittleIndex(k, rng=rng, epsilon=0.0),
        "Thompson sampling": lambda n, k, rng, _: ThompsonSampling(k, rng=rng),
        "Optimistic Thompson": lambda n, k, rng, m: OptimisticThompson(k, rng=rng, num_samples=m),
        "UCB1": lambda n, k, rng, c: FirstUCB1(k, rng=rng, c=c),
        "ε-greedy": lambda n, k, rng, epsilon: FirstEpsilonGreedy(k, rng=rng, epsilon=epsilon),
        "Greedy": lambda n, k, rng, _: FirstEpsilonGreedy(k, rng=rng, epsilon=0.0),
    }
    names = {"Gittins": "Gittins, Whittle's approximation"}
    grids: dict[str, tuple[float, ...]] = {
        "Optimistic Thompson": (1, 2, 3, 5, 7, 10, 14, 20),
        "UCB1": TENTHS,
        "ε-greedy": TENTHS,
    }
    shares = {"Optimistic Thompson": 1 / 8}
    return [
        Column(
            names.get(name, name),
            make[name],
            grids.get(name, (None,)),
            paper,
            shares.get(name, 1.0),
        )
        for name, paper in PAPER.items()
        if name in make
    ]


def our_columns() -> list[Column]:
    """The same with ties broken at random, and the optima."""
    return [
        Column(
            "UCB1, random ties",
            lambda n, k, rng, c: UCB1(k, rng=rng, c=c),
            TENTHS,
            PAPER["UCB1"],
        ),
        Column(
            "ε-greedy, random ties",
            lambda n, k, rng, epsilon: EpsilonGreedy(k, rng=rng, epsilon=epsilon),
            TENTHS,
            PAPER["ε-greedy"],
        ),
        Column(
            "Greedy, random ties",
            lambda n, k, rng, _: Greedy(k, rng=rng),
            paper=PAPER["Greedy"],
        ),
        Column(
            "Gittins, exact",
            lambda n, k, rng, _: GittinsIndex(k, n, rng=rng),
            paper=PAPER["Gittins"],
        ),
        Column("Best arm", lambda n, k, rng, _: BestArm(k)),
    ]


def all_columns() -> list[Column]:
    """All learners of the table."""
    return [*paper_columns(), *our_columns()]


def simulate(
    learner: Any, tasks: np.ndarray, num_pulls: int, rng: np.random.Generator
) -> np.ndarray:
    """Total reward ``[N]`` of a learner that adapts after every pull."""
    chunks = [tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    return np.concatenate([_trial(learner, chunk, num_pulls, rng) for chunk in chunks])


def _trial(learner: Any, tasks: np.ndarray, num_pulls: int, rng: np.random.Generator) -> np.ndarray:
    env = BernoulliBandit(tasks.shape[1], num_pulls)
    state = learner.adapt_to_tasks(tasks) if hasattr(learner, "adapt_to_tasks") else None
    place, totals = env.initial(rng, tasks), np.zeros(len(tasks))
    seen, ended = np.zeros((1, len(tasks)), dtype=np.int64), np.zeros((1, len(tasks)), dtype=bool)
    for _ in range(num_pulls):
        actions, state = learner.predict(seen[0], state)
        following = env.transition(place, actions, rng, tasks)
        rewards = sum(env.reward_terms(place, actions, following, rng, tasks).values())
        rollout = Rollout(seen, actions[None], rewards[None], ended, ended, seen)
        state, place = learner.adapt(rollout, state), following
        totals += rewards
    return totals


def run(column: Column, setting: tuple[int, int], value: Any, tasks: Any, seed: int) -> np.ndarray:
    """Total rewards ``[N]`` of a column's learner with one value of the tuned number."""
    learner_rng, env_rng = np.random.default_rng(seed).spawn(2)
    return simulate(column.make(*setting, learner_rng, value), tasks, setting[0], env_rng)


def cell_of(
    column: Column, i: int, tasks: np.ndarray, tuning_tasks: np.ndarray, seeds: Any
) -> dict[str, Any]:
    """Tunes and measures one setting: ours, the paper's, and how far they are apart."""
    setting = SETTINGS[i]
    tuned = column.grid[0]
    if len(column.grid) > 1:
        used = tuning_tasks[: int(len(tuning_tasks) * column.tuning_share)]
        means = [run(column, setting, v, used, int(seeds[1])).mean() for v in column.grid]
        tuned = column.grid[int(np.argmax(means))]
    totals = run(column, setting, tuned, tasks, int(seeds[0]))
    mean, deviation = float(totals.mean()), float(totals.std(ddof=1))
    error = deviation / float(np.sqrt(len(totals)))
    cell: dict[str, Any] = {
        "learner": column.name,
        "pulls": setting[0],
        "arms": setting[1],
        "num_bandits": len(totals),
        "tuned": tuned,
        "mean": mean,
        "standard_error": error,
    }
    if column.paper is not None:
        paper_error = np.hypot(deviation / np.sqrt(PAPER_NUM_BANDITS), PAPER_ROUNDING)
        difference = mean - column.paper[i]
        z = difference / float(np.hypot(error, paper_error))
        cell |= {"paper": column.paper[i], "difference": difference, "z": z}
    return cell


def markdown(results: dict[str, Any], file: Path) -> str:
    """The table and notes as a page.

    Args:
        results: Content of the JSON file.
        file: Path of the JSON file, which has the notes beside it.
    """
    columns = all_columns()
    rows = {c.name: [x for x in results["cells"] if x["learner"] == c.name] for c in columns}
    optimum = {(x["pulls"], x["arms"]): x["value"] for x in results["bayes_optimum"]}
    bandits, tuning = (
        " / ".join(f"{num:,}" for num in results[key])
        for key in ("num_bandits", "num_tuning_bandits")
    )
    return page(
        "Classical learners on Bernoulli bandits",
        [
            f"`{results['command']}`: {bandits} bandits for 10 / 100 / 500",
            f"pulls, tuned on {tuning} others, seed {results['seed']}, "
            f"{results['wall_time_s']:.0f} s on one core,",
            f"numpy {results['versions']['numpy']}.",
        ],
        [
            "n pulls of k arms with uniform probabilities; mean total reward ± standard error. "
            "Below:",
            "the number of Duan et al. (2016), and z = difference / combined standard error, "
            "taking",
            f"{PAPER_NUM_BANDITS:,} bandits, our deviation and rounding to 0.1 for the paper; "
            "|z| > 2 in bold. In",
            "brackets the tuned number: draws (optimistic Thompson), c (UCB1), ε.",
        ],
        table(
            ["learner", *(f"n = {n}, k = {k}" for n, k in SETTINGS)],
            [
                *([name, *map(_cell_text, row)] for name, row in rows.items()),
                [
                    "Bayes optimum, exact",
                    *(f"{optimum[s]:.3f}" if s in optimum else "" for s in SETTINGS),
                ],
                *([f"{name} (paper)", *map("{:.1f}".format, PAPER[name])] for name in PUBLISHED),
            ],
        ),
        "## Notes",
        _notes(results, columns, file),
        versions=False,
    )


def _cell_text(cell: dict[str, Any]) -> str:
    digits = 2 if cell["pulls"] == 10 else 1
    tuned = "" if cell["tuned"] is None else f" [{cell['tuned']}]"
    text = f"{cell['mean']:.{digits}f} ± {cell['standard_error']:.{digits}f}{tuned}"
    if "paper" not in cell:
        return text
    mark = "**" if abs(cell["z"]) > 2 else ""
    return f"{text}<br>{cell['paper']:.1f}, {mark}z = {cell['z']:+.1f}{mark}"


def _notes(results: dict[str, Any], columns: list[Column], file: Path) -> list[str]:
    compared = [cell for cell in results["cells"] if "z" in cell]
    lines = [
        *notes(file)[:-1],
        f"* {len(compared)} cells are compared, so about {0.0455 * len(compared):.1f} with |z| > 2 "
        "are expected by chance. The cells of a",
        "  setting share their bandits, and so do the paper's: they are not independent.",
    ]
    for column in columns:
        missed = [c for c in compared if c["learner"] == column.name and abs(c["z"]) > 2]
        if missed:
            where = ", ".join(f"({c['pulls']}, {c['arms']}) z = {c['z']:+.1f}" for c in missed)
            reason = " ".join(notes(file, column.name)) or "No reason found beyond chance."
            lines.append(f"* **{column.name}** misses at (n, k) = {where}. {reason.strip()}")
    return lines


def main(args: Args) -> None:
    """Tunes and measures all learners, and writes both files."""
    began = time.perf_counter()
    task_seed, tuning_seed, *run_seeds = np.random.SeedSequence(args.seed).generate_state(4)
    columns = all_columns()
    sizes = {n: i for i, n in enumerate(dict.fromkeys(n for n, _ in SETTINGS))}
    cells = []
    for column in columns:
        for i, (pulls, arms) in enumerate(SETTINGS):
            distribution = BernoulliBandit(arms, pulls).task_split.train
            tasks, tuning_tasks = (
                distribution.sample_tasks(num[sizes[pulls]], np.random.default_rng([seed, i]))
                for num, seed in (
                    (args.num_bandits, task_seed),
                    (args.num_tuning_bandits, tuning_seed),
                )
            )
            cells.append(cell_of(column, i, tasks, tuning_tasks, run_seeds))
        line = [_cell_text(cell).replace("<br>", " / ") for cell in cells[-len(SETTINGS) :]]
        print(f"{time.perf_counter() - began:6.0f} s  {column.name}: ", *line, flush=True)
    results = {
        **{key: value for key, value in asdict(args).items() if key != "out"},
        "command": "python " + " ".join(["benchmarks/classical_bandits.py", *sys.argv[1:]]),
        "versions": package_versions(),
        "wall_time_s": time.perf_counter() - began,
        "grids": {column.name: column.grid for column in columns},
        "bayes_optimum": [
            {"pulls": n, "arms": k, "value": bayes_optimal_plan(k, n).value}
            for n, k in SETTINGS
            if can_be_planned(k, n)
        ],
        "cells": cells,
    }
    file = args.out / "classical_bandits.json"
    write(file, results, markdown(results, file))


if __name__ == "__main__":
    main(tyro.cli(Args))
