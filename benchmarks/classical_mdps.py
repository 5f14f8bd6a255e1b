"""Classical learners on random tabular MDPs, beside the numbers of the RL² paper.

Fills the five settings of Duan et al. (2016), table 2: trials of 10, 25, 50, 75 and 100 episodes.
A learner that does not know the length of its trial is run once for 100 episodes and read off at
all five. Numbers to tune are chosen for each setting by mean return on separate processes; what is
reported comes from fresh ones, the same for every learner.

    python benchmarks/classical_mdps.py --seed 0 --num-mdps 2000
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

from meta_rl.agents.tabular import (
    BEB,
    OPSRL,
    PSRL,
    UCRL2,
    EpsilonGreedyMDP,
    RandomActions,
    ValueIteration,
)
from meta_rl.agents.tabular_beliefs import (
    EMPIRICAL_PRIOR,
    TABULARL_PRIOR,
    BeliefState,
    mean_transitions,
    posterior,
)
from meta_rl.envs.tabular_mdp import TabularMDP
from meta_rl.provenance import package_versions
from meta_rl.rollout import Rollout

SIZES = (10, 5, 10)  # states, actions, steps in an episode
SETTINGS = (10, 25, 50, 75, 100)
PAPER_NUM_MDPS = 1000
PAPER_SCALES = 10.0 ** np.linspace(-4.0, 0.0, 21)
PAPER = papers("RL² tabular MDPs")["rows"]
PUBLISHED = ("RL²", "SNAIL")
SNAIL_NORMALISED = papers("RL² tabular MDPs")["normalised"]


@dataclass
class Args:
    """Settings of the run."""

    seed: int = 0
    """Seed of the reported processes; those for tuning are drawn by it too, and are others."""
    num_mdps: int = 2000
    """Number of processes for the reported numbers."""
    num_tuning_mdps: int = 500
    """Number of processes for tuning."""
    out: Path = RESULTS
    """Folder of classical_mdps.json and classical_mdps.md."""


class AccumulatingUCRL2(UCRL2):
    """UCRL2 whose optimism about transitions adds up over the steps of a plan.

    In TabulaRL the backups write the optimistic transitions back into the estimate (unless they
    put all probability on one state), so each earlier step starts from what the later ones left.
    """

    def _plan(self, state: BeliefState) -> np.ndarray:
        belief = posterior(self.prior, state)
        reward_width, slack = self.confidence_widths(state)
        rewards, centres = belief.reward_mean + reward_width, mean_transitions(belief)
        q_values = np.empty((len(rewards), self.horizon, *rewards.shape[1:]))
        values = np.zeros(rewards.shape[:2])
        for step in reversed(range(self.horizon)):
            order = np.argsort(-values, axis=1)[:, None, None, :]
            falling = np.take_along_axis(values[:, None, None, :], order, -1)
            ordered = np.take_along_axis(centres, order, -1)
            cumulative = np.minimum(1.0, ordered.cumsum(-1) + slack[..., None] / 2.0)
            best = np.diff(cumulative, axis=-1, prepend=0.0)
            q_values[:, step] = rewards + (best * falling).sum(-1)
            values = q_values[:, step].max(axis=-1)
            kept = ordered[..., :1] + slack[..., None] / 2.0 > 1.0
            centres = np.empty_like(centres)
            np.put_along_axis(centres, order, np.where(kept, ordered, best), -1)
        return q_values


@dataclass(frozen=True)
class Column:
    """A learner of the table.

    Attributes:
        name: Display name.
        make: Builds it from a generator and a value of the tuned number.
        grid: Values to tune over; a single ``None`` where there is nothing to tune.
        paper: The paper's numbers, where it has any.
    """

    name: str
    make: Callable[[np.random.Generator, Any], Any]
    grid: tuple[float | int | None, ...] = (None,)
    paper: tuple[float, ...] | None = None


def paper_columns() -> list[Column]:
    """The table's columns with the definitions of the code behind the paper."""
    make = {
        "Random": lambda rng, _: RandomActions(*SIZES, rng=rng),
        "PSRL": lambda rng, _: PSRL(*SIZES, rng=rng, prior=TABULARL_PRIOR),
        "OPSRL": lambda rng, k: OPSRL(*SIZES, rng=rng, num_samples=k, prior=TABULARL_PRIOR),
        "UCRL2": lambda rng, scale: UCRL2(*SIZES, rng=rng, scale=scale),
        "UCRL2 (accumulating)": lambda rng, scale: AccumulatingUCRL2(*SIZES, rng=rng, scale=scale),
        "BEB": lambda rng, beta: BEB(
            *SIZES, rng=rng, beta=beta, steps_to_go=True, prior=TABULARL_PRIOR
        ),
        "ε-greedy": lambda rng, epsilon: EpsilonGreedyMDP(
            *SIZES, rng=rng, epsilon=epsilon, prior=EMPIRICAL_PRIOR
        ),
        "Greedy": lambda rng, _: EpsilonGreedyMDP(
            *SIZES, rng=rng, epsilon=0.0, prior=EMPIRICAL_PRIOR
        ),
    }
    grids: dict[str, tuple[float, ...]] = {
        "OPSRL": (1, 2, 3, 5, 7, 10, 14, 20),
        "UCRL2": tuple(PAPER_SCALES[10:].tolist()),
        "UCRL2 (accumulating)": tuple(PAPER_SCALES[14:].tolist()),
        "BEB": tuple((2 * SIZES[2] ** 3 * PAPER_SCALES[:11]).tolist()),
        "ε-greedy": tuple(round(0.1 * tenth, 1) for tenth in range(1, 11)),
    }
    papers_of = {**PAPER, "UCRL2 (accumulating)": PAPER["UCRL2"]}
    return [Column(name, make[name], grids.get(name, (None,)), papers_of[name]) for name in make]


def true_prior_columns() -> list[Column]:
    """The same algorithms, told the distribution that the processes are drawn from."""
    known_mean = EMPIRICAL_PRIOR._replace(reward_mean=1.0)
    return [
        Column("PSRL, true prior", lambda rng, _: PSRL(*SIZES, rng=rng)),
        Column(
            "OPSRL, true prior",
            lambda rng, k: OPSRL(*SIZES, rng=rng, num_samples=k),
            grid=(2, 3, 5, 7),
        ),
        Column(
            "UCRL2, untried rewards 1",
            lambda rng, scale: UCRL2(*SIZES, rng=rng, scale=scale, prior=known_mean),
            grid=tuple(float(scale) for scale in PAPER_SCALES[10:18]),
        ),
        Column(
            "BEB (Kolter & Ng), true prior",
            lambda rng, beta: BEB(*SIZES, rng=rng, beta=beta),
            grid=(2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 18.0, 22.0, 27.0),
        ),
        Column(
            "Greedy, true prior",
            lambda rng, _: EpsilonGreedyMDP(*SIZES, rng=rng, epsilon=0.0),
        ),
    ]


def all_columns() -> list[Column]:
    """All learners of the tables."""
    optimum = Column("Value iteration", lambda rng, _: ValueIteration(*SIZES))
    return [*paper_columns(), *true_prior_columns(), optimum]


def simulate(
    learner: Any, tasks: dict[str, np.ndarray], num_episodes: int, rng: np.random.Generator
) -> np.ndarray:
    """Return of every episode, ``[N, num_episodes]``, of a learner that adapts after each."""
    env = TabularMDP(*SIZES)
    num_tasks = len(tasks["rewards"])
    state = learner.adapt_to_tasks(tasks) if hasattr(learner, "adapt_to_tasks") else None
    returns = np.empty((num_tasks, num_episodes))
    for episode in range(num_episodes):
        rollout, state = _episode(env, learner, state, tasks, rng)
        returns[:, episode] = rollout.rewards.sum(axis=0)
        if episode < num_episodes - 1:
            state = learner.adapt(rollout, state)
    return returns


def _episode(
    env: TabularMDP, learner: Any, state: Any, tasks: dict[str, np.ndarray], rng: Any
) -> tuple[Rollout, Any]:
    shape = (env.horizon, len(tasks["rewards"]))
    cells = np.empty((env.horizon + 1, shape[1]), dtype=np.int64)
    actions, rewards = np.empty(shape, dtype=np.int64), np.empty(shape)
    place = env.initial(rng, tasks)
    for step in range(env.horizon):
        cells[step] = env.observation(place, rng, tasks)
        starts = np.full(shape[1], step == 0)
        actions[step], state = learner.predict(cells[step], state, starts)
        following = env.transition(place, actions[step], rng, tasks)
        terms = env.reward_terms(place, actions[step], following, rng, tasks)
        rewards[step] = sum(terms.values())
        place = following
    cells[-1] = env.observation(place, rng, tasks)
    ends = np.zeros(shape, dtype=bool)
    ends[-1] = True
    return Rollout(cells[:-1], actions, rewards, ends, np.zeros_like(ends), cells[1:]), state


def tune(column: Column, tasks: dict[str, np.ndarray], seed: int) -> list[Any]:
    """Best value of the tuned number for each setting, by mean return on ``tasks``."""
    if len(column.grid) == 1:
        return [column.grid[0]] * len(SETTINGS)
    totals = []
    for value in column.grid:
        learner_rng, env_rng = np.random.default_rng(seed).spawn(2)
        returns = simulate(column.make(learner_rng, value), tasks, SETTINGS[-1], env_rng)
        totals.append(returns.cumsum(axis=1).mean(axis=0)[np.array(SETTINGS) - 1])
    return [column.grid[best] for best in np.argmax(totals, axis=0)]


def measure(
    column: Column, tasks: dict[str, np.ndarray], tuned: list[Any], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean total return, its standard error and the deviation over processes, by setting."""
    totals = np.empty((len(SETTINGS), len(tasks["rewards"])))
    for value in dict.fromkeys(tuned):
        wanted = [i for i, chosen in enumerate(tuned) if chosen == value]
        learner_rng, env_rng = np.random.default_rng(seed).spawn(2)
        length = SETTINGS[wanted[-1]]
        returns = simulate(column.make(learner_rng, value), tasks, length, env_rng)
        for i in wanted:
            totals[i] = returns[:, : SETTINGS[i]].sum(axis=1)
    deviations = totals.std(axis=1, ddof=1)
    return totals.mean(axis=1), deviations / np.sqrt(totals.shape[1]), deviations


def cells_of(
    column: Column, tuned: list[Any], measured: Any, optimum: float
) -> list[dict[str, Any]]:
    """One record for each setting: ours, the paper's, and how far they are apart."""
    cells = []
    for i, episodes in enumerate(SETTINGS):
        mean, error, deviation = (float(part[i]) for part in measured)
        cell = {
            "learner": column.name,
            "episodes": episodes,
            "tuned": tuned[i],
            "mean": mean,
            "standard_error": error,
            "fraction_of_optimum": mean / (optimum * episodes),
        }
        if column.paper is not None:
            difference = mean - column.paper[i]
            paper_error = deviation / np.sqrt(PAPER_NUM_MDPS)
            z = difference / float(np.hypot(error, paper_error))
            cell |= {"paper": column.paper[i], "difference": difference, "z": z}
        cells.append(cell)
    return cells


def markdown(results: dict[str, Any], file: Path) -> str:
    """The tables and notes as a page.

    Args:
        results: Content of the JSON file.
        file: Path of the JSON file, which has the notes beside it.
    """
    columns = all_columns()
    rows = {c.name: [x for x in results["cells"] if x["learner"] == c.name] for c in columns}
    heads = ["learner", *(f"n = {n}" for n in SETTINGS)]
    per_trial = results["optimal_return_per_episode"] * np.array(SETTINGS)
    return page(
        "Classical learners on random tabular MDPs",
        f"`{results['command']}`: {results['num_mdps']:,} processes, tuned on "
        f"{results['num_tuning_mdps']:,} others, seed {results['seed']}, "
        f"{results['wall_time_s']:.0f} s on one core, numpy {results['versions']['numpy']}.",
        [
            "10 states, 5 actions, 10 steps; n episodes on one process; mean total return ± "
            "standard",
            "error. Below: the number of Duan et al. (2016), and z = difference / combined "
            "standard",
            f"error, taking {PAPER_NUM_MDPS:,} processes and our deviation for the paper; "
            "|z| > 2 in bold. In brackets",
            "the tuned number: samples (OPSRL), scale (UCRL2), β (BEB), ε.",
        ],
        table(
            heads,
            [
                *([name, *map(_cell_text, row)] for name, row in rows.items()),
                *([f"{name} (paper)", *map("{:.1f}".format, PAPER[name])] for name in PUBLISHED),
            ],
        ),
        "## As a fraction of value iteration",
        table(
            heads,
            [
                *(
                    [name, *(f"{x['fraction_of_optimum']:.3f}" for x in row)]
                    for name, row in rows.items()
                ),
                *(
                    [
                        f"{name} (paper) / our value iteration",
                        *map("{:.3f}".format, PAPER[name] / per_trial),
                    ]
                    for name in PUBLISHED
                ),
                *(
                    [f"{name}, as SNAIL prints it", *map("{:.3f}".format, row)]
                    for name, row in SNAIL_NORMALISED.items()
                ),
            ],
        ),
        "## Notes",
        _notes(results, columns, file),
        versions=False,
    )


def _cell_text(cell: dict[str, Any]) -> str:
    tuned = "" if cell["tuned"] is None else f" [{cell['tuned']:.3g}]"
    text = f"{cell['mean']:.1f} ± {cell['standard_error']:.1f}{tuned}"
    if "paper" not in cell:
        return text
    mark = "**" if abs(cell["z"]) > 2 else ""
    return f"{text}<br>{cell['paper']:.1f}, {mark}z = {cell['z']:+.1f}{mark}"


def _notes(results: dict[str, Any], columns: list[Column], file: Path) -> list[str]:
    optimum = results["optimal_return_per_episode"]
    shares = zip(PAPER["SNAIL"], SNAIL_NORMALISED["SNAIL"], SETTINGS, strict=True)
    implied = float(np.mean([total / share / n for total, share, n in shares]))
    compared = [cell for cell in results["cells"] if "z" in cell]
    return [
        "* Definitions follow the code behind the paper: the authors' evaluation script runs the",
        "  agents of TabulaRL. Their copy of it was not to be had; the public one believes that",
        "  mean rewards are N(0, 1) while the processes have N(1, 1), and gives greedy, ε-greedy",
        "  and UCRL2 no prior. The rows below the paper's tell the algorithms the true",
        "  distribution; UCRL2 has no prior, so that it is told only what untried rewards average.",
        *_prior_notes(results),
        f"* Value iteration earns {optimum:.2f} an episode here (exact expectation over the same",
        f"  processes); SNAIL's fractions imply {implied:.2f}, so that its normaliser is not the",
        "  optimal undiscounted return. The reason is not known to us: compare fractions only",
        "  within one normaliser.",
        f"* {len(compared)} cells are compared, so about {0.0455 * len(compared):.1f} with "
        "|z| > 2 are expected by chance. The cells of a",
        "  row share their processes, and so do the paper's columns: they are not independent.",
        "* The paper tunes on the processes that it reports, we do not.",
        *_miss_notes(compared, columns, file),
    ]


def _prior_notes(results: dict[str, Any]) -> list[str]:
    """Notes on the belief about mean rewards: PSRL's first setting, and which learners beat RL²."""
    cells = {(c["learner"], c["episodes"]): c for c in results["cells"]}
    believed, told = cells["PSRL", SETTINGS[0]], cells["PSRL, true prior", SETTINGS[0]]
    lines = [
        f"* PSRL at n = {SETTINGS[0]}: the paper has {believed['paper']:.1f}; "
        f"{believed['mean']:.1f} with the belief N(0, 1), {told['mean']:.1f} with N(1, 1)."
    ]
    for n, rl2 in zip(SETTINGS, PAPER["RL²"], strict=True):
        better = [
            f"{c['learner']} ({c['mean']:.1f})"
            for c in results["cells"]
            if c["episodes"] == n
            and c["learner"] != "Value iteration"
            and c["mean"] - rl2 > 2 * c["standard_error"] * np.hypot(1, _paper_ratio(results))
        ]
        if better:
            lines.append(f"* Above RL² ({rl2}) at n = {n} by z > 2: {', '.join(better)}.")
    return lines


def _paper_ratio(results: dict[str, Any]) -> float:
    """Standard error of 1,000 processes over ours."""
    return float(np.sqrt(results["num_mdps"] / PAPER_NUM_MDPS))


def _miss_notes(compared: list[dict[str, Any]], columns: list[Column], file: Path) -> list[str]:
    lines = []
    for column in columns:
        missed = [c for c in compared if c["learner"] == column.name and abs(c["z"]) > 2]
        if missed:
            where = ", ".join(f"n = {c['episodes']} (z = {c['z']:+.1f})" for c in missed)
            reason = " ".join(notes(file, column.name)) or "No reason found beyond chance."
            lines.append(f"* **{column.name}** misses at {where}. {reason.strip()}")
    return lines


def main(args: Args) -> None:
    """Tunes and measures all learners, and writes both files."""
    began = time.perf_counter()
    tuning_seed, test_seed, run_seed, tuning_run_seed = np.random.SeedSequence(
        args.seed
    ).generate_state(4)
    distribution = TabularMDP(*SIZES).task_split.train
    tuning_tasks = distribution.sample_tasks(
        args.num_tuning_mdps, np.random.default_rng(tuning_seed)
    )
    tasks = distribution.sample_tasks(args.num_mdps, np.random.default_rng(test_seed))
    optimum = float(ValueIteration(*SIZES).optimal_return(tasks).mean())
    columns = all_columns()
    cells = []
    for column in columns:
        tuned = tune(column, tuning_tasks, int(tuning_run_seed))
        measured = measure(column, tasks, tuned, int(run_seed))
        cells += cells_of(column, tuned, measured, optimum)
        line = [_cell_text(cell).replace("<br>", " / ") for cell in cells[-len(SETTINGS) :]]
        print(f"{time.perf_counter() - began:6.0f} s  {column.name}: ", *line, flush=True)
    results = {
        **{key: value for key, value in asdict(args).items() if key != "out"},
        "command": "python " + " ".join(["benchmarks/classical_mdps.py", *sys.argv[1:]]),
        "versions": package_versions(),
        "wall_time_s": time.perf_counter() - began,
        "optimal_return_per_episode": optimum,
        "grids": {column.name: column.grid for column in columns},
        "cells": cells,
    }
    file = args.out / "classical_mdps.json"
    write(file, results, markdown(results, file))


if __name__ == "__main__":
    main(tyro.cli(Args))
