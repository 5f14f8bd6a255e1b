"""Training speed of the memory cores: a forward and a backward pass over whole trials.

The cores take turns, and the median of each core's passes counts, in seconds of the processor, so
that other work on the machine disturbs all of them alike.

    python benchmarks/core_speed.py
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from result_files import notes

from meta_rl.memory import MEMORY_CORES, make_memory_core
from meta_rl.provenance import package_versions, versions_text, write_atomically

SIZES = tuple(
    (steps, 25_600 // steps, hidden) for steps in (10, 50, 100, 400) for hidden in (64, 128)
)
"""Steps, trials and hidden units: as many steps in all."""
INPUTS = 16


@dataclass
class Args:
    """Settings of the run."""

    rounds: int = 5
    """Number of turns of each core, after one that does not count."""
    out: Path = Path(__file__).parent / "results"
    """Folder of core_speed.json and core_speed.md."""
    threads: int = 1
    """Number of PyTorch CPU threads."""


def seconds(num_steps: int, num_trials: int, hidden: int, rounds: int) -> dict[str, float]:
    """Returns the median time of a pass of each core."""
    torch.manual_seed(0)
    inputs = torch.randn(num_steps, num_trials, INPUTS)
    cores = {name: make_memory_core(name, INPUTS, hidden) for name in MEMORY_CORES}
    passes: dict[str, list[float]] = {name: [] for name in cores}
    for core in cores.values():
        core.set_time_scales(num_steps, torch.Generator().manual_seed(0))
    for _ in range(rounds + 1):
        for name, core in cores.items():
            start = time.process_time()
            core(inputs, core.initial_state(num_trials))[0].square().mean().backward()
            passes[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in passes.items()}


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
        f"over whole trials of {INPUTS} inputs, 25,600 steps in all, without the rest of an "
        f"iteration. The cores take turns; medians of {args.rounds} passes, in milliseconds of the "
        "processor, and how many times as fast as the GRU. The machine was shared with other work, "
        "which disturbs caches and memory: compare columns of a row, not rows.",
        "",
        f"| steps × trials, hidden units | {' | '.join(MEMORY_CORES)} |",
        "|---" * (len(MEMORY_CORES) + 1) + "|",
    ]
    for row in rows:
        times = row["seconds"]
        cells = [f"{1e3 * t:.1f} ({times['gru'] / t:.2f})" for t in times.values()]
        size = f"{row['steps']} × {row['trials']}, {row['hidden']}"
        lines.append(f"| {size} | {' | '.join(cells)} |")
    lines += ["", *notes(args.out / "core_speed.json")]
    table = "\n".join([*lines, f"{versions_text()}.", ""])
    content = {"rows": rows, "versions": package_versions()}
    write_atomically(args.out / "core_speed.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / "core_speed.md", table)
    print(table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
