"""Speed of an update of Reptile with Omniglot's convolutions, as it is and compiled.

An update of the shipped setting: five tasks, five inner steps of ten images each. Compiled, it has
the gradient of :mod:`meta_rl.few_shot.strided_conv4`.

    python benchmarks/reptile_speed.py
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from meta_rl.cli import Train
from meta_rl.few_shot.command import few_shot_config, make_learner, make_tasks
from meta_rl.provenance import package_versions, versions_text, write_atomically

SETTING = "Omniglot-5w1s"


@dataclass
class Args:
    """Settings of the run."""

    threads: tuple[int, ...] = (1, 2)
    """Of torch."""
    updates: int = 50
    """Of each turn, after a few that are not timed."""
    turns: int = 3
    """Measurements, one after the other; medians are reported."""
    out: Path = Path(__file__).parent / "results"
    """Folder of reptile_speed.json and reptile_speed.md."""


def milliseconds(learner: Any, tasks: Any, updates: int, compile: bool) -> float:
    """Of an update, the median."""
    times: list[float] = []
    learner.learn(
        tasks, updates + 5, compile=compile, callback=lambda _: times.append(time.perf_counter())
    )
    return 1e3 * float(np.median(np.diff(times)[5:]))


def main(args: Args) -> None:
    """Measure, and write the table."""
    config = few_shot_config(Train("reptile", SETTING, seed=0, device="cpu"))
    tasks = make_tasks(config)
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        learners = [(compile, make_learner(config, tasks, "cpu")) for compile in (False, True)]
        turns = [
            [milliseconds(learner, tasks, args.updates, compile) for compile, learner in learners]
            for _ in range(args.turns)
        ]
        plain, compiled = np.array(turns).T
        ratios = plain / compiled
        rows.append(
            {
                "threads": threads,
                "plain": float(np.median(plain)),
                "compiled": float(np.median(compiled)),
                "ratio": float(np.median(ratios)),
                "range": [float(ratios.min()), float(ratios.max())],
            }
        )
    lines = [
        "# An update of Reptile, compiled",
        "",
        f"`python benchmarks/reptile_speed.py`: reptile, {SETTING}, on a CPU; medians of "
        f"{args.turns} turns of {args.updates} updates, in milliseconds.",
        "",
        "| threads | plain | compiled | ratio | range |",
        "|---|---|---|---|---|",
        *(
            f"| {row['threads']} | {row['plain']:.0f} | {row['compiled']:.0f} | "
            f"**{row['ratio']:.2f}** | {row['range'][0]:.2f} to {row['range'][1]:.2f} |"
            for row in rows
        ),
        "",
        f"{versions_text()}.",
        "",
    ]
    print("\n".join(lines))
    content = {"rows": rows, "versions": package_versions()}
    write_atomically(args.out / "reptile_speed.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / "reptile_speed.md", "\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
