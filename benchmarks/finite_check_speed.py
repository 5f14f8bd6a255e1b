"""Time of the checks that all that is learned is finite, as a share of an update.

A check is made in each step of an optimiser (by the norm of the gradients, which clipping needs
anyway) and after each update (all parameters and the optimiser's state). Times are those of the
processor, within trainings, so that other work on the machine disturbs updates and checks alike.
Networks and batches are small, which makes the share of the checks large.

    python -m benchmarks.finite_check_speed
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from benchmarks.result_files import RESULTS, notes, page, table, write
from benchmarks.soak import SUBJECTS, made
from meta_rl.compute import finite_state
from meta_rl.compute.finite_state import FiniteState

LARGEST_SHARE = 0.01
LARGEST_MILLISECONDS = 0.2
"""What the checks of an update may cost: one of both."""
NOT_OURS = ("recurrent_ppo", "evaluator", "few_shot_evaluator")


@dataclass
class Args:
    """Settings of the run."""

    subjects: tuple[str, ...] = tuple(name for name in SUBJECTS if name not in NOT_OURS)
    """Names of agents and learners."""
    iterations: int = 30
    """Number of iterations of each that are measured, after five that are not."""


class Clock:
    """Seconds of the processor in functions that were wrapped.

    Attributes:
        seconds: Their sum since the last call of :meth:`read`.
        calls: Number of all calls.
    """

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            self.calls += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return call

    def read(self) -> float:
        """Returns the seconds, and begins anew."""
        found, self.seconds = self.seconds, 0.0
        return found


def measure(subject: str, iterations: int) -> dict[str, float]:
    """The median milliseconds of an update and of its checks, and its number of steps."""
    model, step = made(subject)
    updates, in_steps, after, clipped = Clock(), Clock(), Clock(), Clock()
    name = "train" if hasattr(model, "train") else "update"
    setattr(model, name, updates.timed(getattr(model, name)))
    norm, check = finite_state.get_total_norm, FiniteState.check_update
    gradients = finite_state.finite_gradients

    def measured(*args: Any, **kwargs: Any) -> Any:
        """Measures the norm, unless gradients are clipped by it."""
        limit = kwargs.get("max_norm", args[3] if len(args) > 3 else None)
        clock = in_steps if limit is None else clipped
        finite_state.get_total_norm = clock.timed(norm)  # type: ignore[assignment]
        return gradients(*args, **kwargs)

    finite_state.finite_gradients = measured
    FiniteState.check_update = after.timed(check)  # type: ignore[method-assign]
    try:
        rows = []
        for _ in range(5 + iterations):
            step()
            rows.append([1e3 * clock.read() for clock in (updates, in_steps, after)])
    finally:
        finite_state.get_total_norm, finite_state.finite_gradients = norm, gradients
        FiniteState.check_update = check  # type: ignore[method-assign]
    update, in_steps_of, end = (statistics.median(column) for column in zip(*rows[5:], strict=True))
    steps = max(1, round((in_steps.calls + clipped.calls) / len(rows)))
    return {"update": update, "steps": steps, "in a step": in_steps_of / steps, "after": end}


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """The page of all rows."""
    heads = ["subject", "tasks", "an update, ms", "its steps", "check in a step, ms (share)"]
    heads += ["check after an update, ms (share)", "cheap"]
    cells = []
    for name, row in rows.items():
        of_step, of_update = (
            row["in a step"] * row["steps"] / row["update"],
            row["after"] / row["update"],
        )
        checks = [(row["in a step"], of_step), (row["after"], of_update)]
        cheap = all(t < LARGEST_MILLISECONDS or share < LARGEST_SHARE for t, share in checks)
        times = [f"{t:.3f} ({share:.2%})" for t, share in checks]
        first = [name, SUBJECTS[name][0], f"{row['update']:.3f}", f"{row['steps']}"]
        cells.append([*first, *times, "yes" if cheap else "**no**"])
    return page(
        "The time of the checks for finite numbers",
        "Medians of the processor's time within trainings, with one PyTorch thread; the sizes are "
        "those of `benchmarks.soak`. Cheap: a check takes less than "
        f"{LARGEST_SHARE:.0%} of its step or update, or less than {LARGEST_MILLISECONDS} ms. "
        "The norm of the gradients is a check only where they are not clipped by it.",
        table(heads, cells),
        notes(RESULTS / "finite_check_speed.json"),
        "Made by `python -m benchmarks.finite_check_speed`.",
    )


def main(args: Args) -> None:
    """Measure all, and write the table."""
    torch.set_num_threads(1)
    rows = {}
    for subject in args.subjects:
        rows[subject] = measure(subject, args.iterations)
        print(subject, rows[subject], flush=True)
    write(RESULTS / "finite_check_speed.json", {"rows": rows}, markdown(rows))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
