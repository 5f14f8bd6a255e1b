"""The log and the progress bar of a few-shot training."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from meta_rl.arguments import plain


class TrainingLog:
    """A log of the means of the updates' numbers.

    Args:
        logger: Logger that the lines are written to.
        interval: Number of iterations between two lines; ``None`` for no lines.
        done: Number of iterations before the training begins.
        pending: Result of :meth:`pending` of a former log, for the next line (default: nothing).
    """

    def __init__(
        self,
        logger: Logger,
        interval: int | None = None,
        done: int = 0,
        pending: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.logger = logger
        self.interval = interval
        self.numbers: dict[str, list[Tensor]] = {}
        if pending is not None:
            self.numbers = {name: list(values) for name, values in pending["updates"].items()}
            for name, value in pending["others"].items():
                logger.record(name, value)
        self.last: dict[str, Tensor] = {}
        self.began = time.monotonic()
        self.begin = done

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Adds the numbers of an update."""
        self.last = {name: value.detach() for name, value in numbers.items()}
        if self.interval is None:
            return
        for name, value in self.last.items():
            self.numbers.setdefault(name, []).append(value)

    def write_if_due(self, done: int) -> None:
        """Writes the means since the last line if the interval is over and nothing is written yet.

        Args:
            done: Number of iterations so far.
        """
        if self.interval is None or done % self.interval or not self.numbers:
            return
        for name, values in self.numbers.items():
            self.logger.record(f"train/{name}", float(torch.stack(values).mean()))
        seconds = max(time.monotonic() - self.began, sys.float_info.epsilon)
        self.logger.record("time/iterations", done)
        self.logger.record("time/iterations_per_second", (done - self.begin) / seconds)
        self.logger.dump(step=done)
        self.numbers = {}

    def pending(self, done: int) -> dict[str, dict[str, Any]]:
        """Returns what the next line has so far, for a checkpoint; a line that is due is written.

        Args:
            done: Number of iterations so far.
        """
        self.write_if_due(done)
        updates = {name: torch.stack(values) for name, values in self.numbers.items()}
        others = plain(dict(self.logger.name_to_value))
        return {
            "updates": updates,
            "others": {k: v for k, v in others.items() if isinstance(v, int | float | str)},
        }


def progress(num: int, show: bool, title: str, log: TrainingLog) -> Iterator[int]:
    """Yields the numbers of iterations, with a progress bar on request.

    Args:
        num: Number of iterations.
        show: Whether the bar is shown.
        title: Text before the bar.
        log: Log whose latest numbers are shown after the bar.
    """
    if not show:
        yield from range(num)
        return
    from tqdm.auto import tqdm

    with tqdm(total=num, desc=title, unit="it", mininterval=0.5) as bar:
        for iteration in range(num):
            yield iteration
            if bar.update(1) and log.last:
                bar.set_postfix({k: f"{float(v):.3f}" for k, v in log.last.items()}, refresh=False)
