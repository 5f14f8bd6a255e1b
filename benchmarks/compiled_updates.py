"""Speed of updates of few-shot learners, as they are and compiled (``learn(compile=True)``).

Updates of shipped settings, drawing the tasks and the outer step included, on a CPU. Reptile with
Omniglot's convolutions has, compiled, the gradient of :mod:`.strided_conv4`.

    python benchmarks/compiled_updates.py
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, page, ratios, span, table, write

from meta_rl.cli import Train, run_config
from meta_rl.cli.training import make_model, open_tasks
from meta_rl.compute.freed_memory import keep_freed_memory


@dataclass
class Args:
    """Settings of the run."""

    settings: tuple[str, ...] = (
        "maml/Sinusoid-10s",
        "maml/Omniglot-5w1s-mlp",
        "maml/Omniglot-5w1s",
        "reptile/Omniglot-5w1s",
    )
    """Shipped settings, as LEARNER/SETTING."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of PyTorch CPU threads."""
    seconds: float = 5.0
    """Seconds of each turn, which has at least ten updates, after a few that are not timed."""
    turns: int = 3
    """Number of measurements, one after the other; medians are reported."""
    out: Path = RESULTS
    """Folder of compiled_updates.json and compiled_updates.md."""


def milliseconds(learner: Any, tasks: Any, seconds: float, compile: bool) -> float:
    """The median time of an update."""
    times: list[float] = []

    def go_on(_: Any) -> bool:
        times.append(time.perf_counter())
        return len(times) < 15 or times[-1] - times[5] < seconds

    learner.learn(tasks, 10**9, compile=compile, callback=go_on)
    return 1e3 * float(np.median(np.diff(times)[5:]))


def compared(name: str, threads: int, args: Args) -> dict[str, Any]:
    """Milliseconds of an update, plain and compiled, turn by turn."""
    torch.set_num_threads(threads)
    config = run_config(Train(*name.split("/"), seed=0, device="cpu"))
    run_tasks = open_tasks(config)
    tasks = run_tasks.source
    learners: list[Any] = [make_model(config, run_tasks, "cpu") for _ in range(2)]
    began = time.perf_counter()
    learners[1].learn(tasks, 1, compile=True)
    first = time.perf_counter() - began
    turns = [
        [milliseconds(learners[i], tasks, args.seconds, bool(i)) for i in range(2)]
        for _ in range(args.turns)
    ]
    plain, compiled = np.array(turns).T
    gains = ratios(plain, compiled)
    return {
        "setting": name,
        "threads": threads,
        "plain": float(np.median(plain)),
        "compiled": float(np.median(compiled)),
        "ratio": float(np.median(gains)),
        "range": [float(gains.min()), float(gains.max())],
        "first_seconds": first,
    }


def main(args: Args) -> None:
    """Measures, and writes the table."""
    keep_freed_memory()
    torch.compiler.config.force_disable_caches = True  # so that the first update does compile
    rows = [compared(name, threads, args) for name in args.settings for threads in args.threads]
    text = page(
        "Updates of few-shot learners, compiled",
        "`python benchmarks/compiled_updates.py`: updates of shipped settings on a CPU; medians of "
        f"{args.turns} turns of {args.seconds:g} s, in milliseconds. The first compiled update "
        "includes compiling.",
        table(
            ["setting", "threads", "plain", "compiled", "ratio", "range", "first, s"],
            [
                [
                    row["setting"],
                    f"{row['threads']}",
                    f"{row['plain']:.1f}",
                    f"{row['compiled']:.1f}",
                    f"**{row['ratio']:.2f}**",
                    span(row["range"]),
                    f"{row['first_seconds']:.0f}",
                ]
                for row in rows
            ],
        ),
    )
    print(text)
    write(args.out / "compiled_updates.json", {"rows": rows}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
