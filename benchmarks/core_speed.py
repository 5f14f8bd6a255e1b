"""Training speed of the memory cores: a forward and a backward pass over whole trials.

The cores take turns, and the fastest of each core's passes counts, so that other work on the
machine disturbs all of them alike.

    python benchmarks/core_speed.py
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from meta_rl.memory import MEMORY_CORES, make_memory_core
from meta_rl.provenance import package_versions, versions_text, write_atomically

SIZES = ((10, 256, 64), (60, 64, 64), (60, 64, 128), (400, 32, 128))
"""Steps, trials and hidden units."""
INPUTS = 16


@dataclass
class Args:
    """Settings of the run."""

    rounds: int = 8
    """Number of turns of each core."""
    out: Path = Path(__file__).parent / "results"
    """Folder of core_speed.json and core_speed.md."""
    threads: int = 1
    """Number of PyTorch CPU threads."""


def seconds(num_steps: int, num_trials: int, hidden: int, rounds: int) -> dict[str, float]:
    """Returns the time of the fastest pass of each core."""
    torch.manual_seed(0)
    inputs = torch.randn(num_steps, num_trials, INPUTS)
    cores = {name: make_memory_core(name, INPUTS, hidden) for name in MEMORY_CORES}
    best = dict.fromkeys(cores, float("inf"))
    for _ in range(rounds):
        for name, core in cores.items():
            start = time.perf_counter()
            core(inputs, core.initial_state(num_trials))[0].square().mean().backward()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main(args: Args) -> None:
    """Measure, and write the table."""
    torch.set_num_threads(args.threads)
    rows = [
        {"steps": t, "trials": n, "hidden": h, "seconds": seconds(t, n, h, args.rounds)}
        for t, n, h in SIZES
    ]
    lines = [
        "# Training speed of memory cores",
        "",
        f"`python benchmarks/core_speed.py`, {args.threads} thread: a forward and a backward pass "
        f"over whole trials of {INPUTS} inputs, without the rest of an iteration. The cores take "
        f"turns; fastest of {args.rounds} passes. Milliseconds, and how many times as fast as the "
        "GRU. The machine was busy with other work: single cells are off by up to a factor of two.",
        "",
        f"| steps × trials, hidden units | {' | '.join(MEMORY_CORES)} |",
        "|---" * (len(MEMORY_CORES) + 1) + "|",
    ]
    for row in rows:
        times = row["seconds"]
        cells = [f"{1e3 * t:.1f} ({times['gru'] / t:.2f})" for t in times.values()]
        size = f"{row['steps']} × {row['trials']}, {row['hidden']}"
        lines.append(f"| {size} | {' | '.join(cells)} |")
    table = "\n".join([*lines, "", f"{versions_text()}.", ""])
    content = {"rows": rows, "versions": package_versions()}
    write_atomically(args.out / "core_speed.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / "core_speed.md", table)
    print(table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
