"""Seconds of evaluations, and of summaries of their results, here and in another checkout.

* ``summary()`` of 1,000 x 10 and of 20,000 x 10 values of one training.
* The evaluation of 1,000 Bernoulli bandits, 10 pulls of 10 arms, by random, UCB1, Thompson and
  Gittins learners and by an untrained RL².

With ``--against``, both checkouts take turns in processes of their own, and the medians of their
ratios are reported. What takes longer than ``--long`` seconds is measured in the first turn only.

    python benchmarks/evaluation_speed.py
    python benchmarks/evaluation_speed.py --against ../before
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, add_to_table, page, ratios, span, table

import meta_rl
from meta_rl.agents.bandits import bandit_learners
from meta_rl.agents.rl2 import RL2

BANDIT = "meta_rl/BernoulliBandit-v0"
CLASSICAL = ("random", "ucb1", "thompson", "gittins")
SUMMARIES = (1_000, 20_000)
NUM_BANDITS = 1_000
SIZES = {"num_arms": 10, "horizon": 10}
MARK = "seconds: "
"""Begins the line in which a process tells what it measured."""
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Args:
    """Settings of the run."""

    against: Path | None = None
    """Folder of another checkout of this repository, such as one of an earlier commit."""
    turns: int = 5
    """Number of turns of each checkout."""
    repeats: int = 5
    """Number of measurements in a turn, whose median is taken, after one that is not timed."""
    long: float = 2.0
    """Seconds above which something is measured once, in the first turn of a checkout."""
    measure: bool = False
    """Whether to measure in this process and print the seconds, as the turns do."""
    skip: tuple[str, ...] = ()
    """Names of contenders that are not measured (default: none)."""
    out: Path = RESULTS
    """Folder of evaluation_speed.json and evaluation_speed.md."""


def contenders() -> dict[str, Callable[[], Any]]:
    """The functions that are timed, by name; they run in earlier versions of the library too."""
    rng = np.random.default_rng(0)
    timed: dict[str, Callable[[], Any]] = {}
    for num_tasks in SUMMARIES:
        result = meta_rl.EvaluationResult(
            values=rng.normal(size=(num_tasks, 10)),
            unit="episode",
            learner="learner",
            environment="environment",
            split="test",
            seed=0,
            envs_per_task=1,
            deterministic=False,
            strata=np.zeros(num_tasks, dtype=np.int64),
        )
        timed[f"summary of {num_tasks:,} x 10 values"] = result.summary
    learners = {name: bandit_learners(**SIZES, rng=rng)[name] for name in CLASSICAL}
    learners["untrained RL²"] = RL2(env=BANDIT, env_kwargs=SIZES, seed=0, device="cpu")
    for name, learner in learners.items():
        timed[f"{NUM_BANDITS:,} bandits, {name}"] = lambda learner=learner: (
            meta_rl.evaluate_adaptation(learner, BANDIT, NUM_BANDITS, **SIZES)
        )
    return timed


def measured(args: Args) -> dict[str, float]:
    """Seconds by name, in this process."""
    torch.set_num_threads(1)
    seconds = {}
    for name, call in contenders().items():
        if name in args.skip:
            continue
        times: list[float] = []
        for _ in range(1 + args.repeats):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
            if times[-1] > args.long:
                break
        seconds[name] = float(np.median(times[1:] or times))
    return seconds


def linked(checkout: Path, folder: Path) -> Path:
    """A folder to import a checkout's packages from, as they lie in an installed package."""
    package = folder / "meta_rl"
    package.mkdir(parents=True)
    for file in (checkout / "meta_rl").iterdir():
        (package / file.name).symlink_to(file.resolve())
    for name in ("envs", "agents"):
        (package / name).symlink_to((checkout / name).resolve())
    return folder


def one_turn(path: Path, args: Args, skip: list[str]) -> dict[str, float]:
    """Seconds by name, in a process of its own that imports from ``path``."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
    command += ["--repeats", str(args.repeats), "--long", str(args.long)]
    command += ["--skip", *skip] if skip else []
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    told = json.loads(line.removeprefix(MARK))
    if not Path(told["from"]).is_relative_to(path):
        raise RuntimeError(f"meta_rl was imported from {told['from']} and not from {path}")
    return told["seconds"]


def turns(args: Args, checkouts: dict[str, Path]) -> dict[str, dict[str, list[float]]]:
    """Seconds of each turn, by checkout and name."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: linked(checkout, Path(folder).resolve() / name)
            for name, checkout in checkouts.items()
        }
        for turn in range(args.turns):
            for name, path in paths.items():
                long = [what for what, times in found[name].items() if times[0] > args.long]
                for what, seconds in one_turn(path, args, [*args.skip, *long]).items():
                    found[name].setdefault(what, []).append(seconds)
            print(f"turn {turn + 1} of {args.turns}", flush=True)
    return found


def as_rows(found: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Medians, and their ratio with the range over turns, by name of what was timed."""
    rows: dict[str, dict[str, Any]] = {}
    for what, here in found["here"].items():
        row: dict[str, Any] = {"here": float(np.median(here)), "turns": len(here)}
        before = found.get("against", {}).get(what)
        if before:
            pairs = ratios(here[: len(before)], before[: len(here)])
            row["against"] = float(np.median(before))
            row["ratio"] = float(np.median(pairs))
            row["range"] = [float(pairs.min()), float(pairs.max())]
        rows[what] = row
    return rows


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The page of all rows."""
    lines = []
    for what, row in rows.items():
        cells = [what, f"{1e3 * row['here']:,.1f}", "", "", ""]
        if "ratio" in row:
            cells[2:] = [f"{1e3 * row['against']:,.1f}", f"**{row['ratio']:.3g}**"]
            cells.append(span(row["range"], ".3g"))
        lines.append(cells)
    return page(
        "Speed of evaluations",
        "`python benchmarks/evaluation_speed.py --against CHECKOUT`: milliseconds on one core; "
        "medians of turns that alternate between this version and another, and the median ratio of "
        "this one's to the other's, with its range over turns.",
        table(["what", "here", "other", "ratio", "range"], lines),
    )


def main(args: Args) -> None:
    """Measures, and writes the table; or, in a turn, tells the seconds."""
    if args.measure:
        told = {"from": meta_rl.__path__[0], "seconds": measured(args)}
        print(MARK + json.dumps(told))
        return
    checkouts = {"here": ROOT}
    if args.against is not None:
        if not (args.against / "meta_rl").is_dir():
            raise SystemExit(f"{args.against} is no checkout: it has no folder meta_rl")
        checkouts["against"] = args.against
    rows = as_rows(turns(args, checkouts))
    print(markdown(rows))
    add_to_table(args.out / "evaluation_speed.json", rows, markdown)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
