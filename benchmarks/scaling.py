"""Seconds of an iteration on one rank and on two, at the same meta-batch.

Each rank has one core for physics and networks alike, and its own sub-environments. Turns with one
and with two ranks alternate, so that other work on the machine disturbs both alike. Run it on a
machine with as many free cores as ranks.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --ranks 1 2 4 --turns 5
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro

from benchmarks.result_files import RESULTS, notes, page, read, table, write
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.rl2 import RL2
from meta_rl.compute import ranks
from meta_rl.compute.freed_memory import keep_freed_memory

CASES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "MAML-TRPO": (
        MAMLTRPO,
        {"meta_batch_size": 40, "envs_per_task": 20},
        "40 tasks with 20 episodes of 200 steps, before and after an inner step",
    ),
    "RL²": (
        RL2,
        {"meta_batch_size": 256, "num_minibatches": 4, "num_epochs": 4},
        "256 trials of 400 steps, 4 minibatches, 4 epochs",
    ),
}
"""Agents on HalfCheetahVel, their settings, and these in words."""
SHORT = {"MAML-TRPO": {"meta_batch_size": 4, "envs_per_task": 5}, "RL²": {"meta_batch_size": 16}}
"""Changed settings with ``--short``."""

OF_RANK = "SCALING_OUT"
"""Name of the variable that holds the file of a rank's result; the parent process has none."""


@dataclass
class Args:
    """Settings of the run."""

    ranks: tuple[int, ...] = (1, 2)
    """Numbers of ranks; the first one is the base of the factors."""
    turns: int = 3
    """Number of trainings with each number of ranks."""
    iterations: int = 3
    """Number of iterations of a training, after one that does not count."""
    cases: tuple[str, ...] = tuple(CASES)
    """Agents to measure."""
    short: bool = False
    """Small meta-batches, to try the script; the result is only printed."""
    out: Path = RESULTS
    """Folder of scaling.json and scaling.md."""


def train_as_rank(case: str, iterations: int, short: bool) -> dict[str, float]:
    """Trains as one of the ranks, on a core of its own; returns medians of an iteration."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    torch.set_num_threads(1)
    keep_freed_memory()
    algorithm, settings, _ = CASES[case]
    settings = {**settings, **(SHORT[case] if short else {})}
    model = algorithm(env="HalfCheetahVel", seed=0, device="cpu", **settings)
    spent: dict[str, list[float]] = defaultdict(list)
    for part in ("collect_rollouts", "train"):
        setattr(model, part, timed(getattr(model, part), spent[part]))
    messages = counted_messages()
    for _ in range(iterations + 1):
        messages.clear()
        began = time.perf_counter()
        model.learn(1, log_interval=None, reset_num_timesteps=False)
        spent["iteration"].append(time.perf_counter() - began)
    medians = {part: statistics.median(each[1:]) for part, each in spent.items()}
    return {**medians, "messages": len(messages), "bytes": sum(messages)}


def timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Returns the method, which adds its seconds to a list."""

    def timed_method(*args: Any) -> Any:
        began = time.perf_counter()
        returned = method(*args)
        spent.append(time.perf_counter() - began)
        return returned

    return timed_method


def counted_messages() -> list[int]:
    """Returns a list that grows by the bytes of each collective operation."""
    sizes: list[int] = []
    send = ranks._collective

    def counted(function: Any, *args: Any) -> None:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        send(function, *args)

    ranks._collective = counted
    return sizes


def measured(case: str, num_ranks: int, args: Args) -> dict[str, float]:
    """Runs a training by torchrun, and returns what rank 0 measured."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        line = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(num_ranks), "-m", "benchmarks.scaling"),
            *("--cases", case, "--iterations", str(args.iterations)),
            *(["--short"] if args.short else []),
        ]
        environment = {**os.environ, OF_RANK: str(file), "OMP_NUM_THREADS": "1"}
        subprocess.run(line, check=True, env=environment)
        return json.loads(file.read_text(encoding="utf-8"))


def rows_of(case: str, args: Args) -> dict[str, Any]:
    """Measures a case in alternating turns; returns medians by number of ranks, and factors."""
    turns: dict[int, list[dict[str, float]]] = {num: [] for num in args.ranks}
    for turn in range(args.turns):
        for num in args.ranks:
            turns[num].append(measured(case, num, args))
            seconds = turns[num][-1]["iteration"]
            print(f"{case}, turn {turn + 1}, {num} ranks: {seconds:.2f} s", flush=True)
    base = [each["iteration"] for each in turns[args.ranks[0]]]
    rows = {}
    for num, each in turns.items():
        factors = [one / row["iteration"] for one, row in zip(base, each, strict=True)]
        medians = {key: statistics.median(row[key] for row in each) for key in each[0]}
        rows[str(num)] = {**medians, "factors": factors}
    return rows


def markdown(cases: dict[str, Any], file: Path) -> str:
    """The page of all cases."""
    lines = []
    for case, rows in cases.items():
        for num, row in rows.items():
            spread = f"{min(row['factors']):.2f} to {max(row['factors']):.2f}"
            lines.append(
                [
                    *(case, num, f"{row['collect_rollouts']:.2f}", f"{row['train']:.2f}"),
                    *(f"{row['iteration']:.2f}", f"{statistics.median(row['factors']):.2f}"),
                    *(spread, f"{row['messages']:.0f}", f"{row['bytes'] / 1e6:.1f}"),
                ]
            )
    heads = ["agent", "ranks", "rollouts, s", "update, s", "iteration, s", "factor", "range"]
    words = "; ".join(f"{case}: {CASES[case][2]}" for case in cases)
    return page(
        "Scaling over ranks",
        f"`python -m benchmarks.scaling`: HalfCheetahVel, one core for each rank. {words}. Medians "
        "over alternating turns; the factor compares the iteration with that of the first row in "
        "the same turn. Messages are collective operations of an iteration.",
        table([*heads, "messages", "MB"], lines),
        notes(file),
    )


def main(args: Args) -> None:
    """Measures, and writes the table; as one of the ranks, trains."""
    if OF_RANK in os.environ:
        with ranks.joined():
            found = train_as_rank(args.cases[0], args.iterations, args.short)
            if ranks.is_first():
                Path(os.environ[OF_RANK]).write_text(json.dumps(found), encoding="utf-8")
        return
    file = args.out / "scaling.json"
    cases = read(file, {"cases": {}})["cases"]
    for case in args.cases:
        cases[case] = rows_of(case, args)
        if not args.short:
            write(file, {"cases": cases}, markdown(cases, file))
    print(markdown(cases, file))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
