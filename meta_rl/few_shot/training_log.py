"""The log and the progress bar of a few-shot training."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from meta_rl.few_shot.learner import FewShotLearner


class TrainingLog:
    """Means of an update's numbers, written every so many iterations."""

    def __init__(self, learner: FewShotLearner, interval: int | None) -> None:
        self.learner = learner
        self.interval = interval
        self.numbers: dict[str, list[Tensor]] = {}
        self.last: dict[str, Tensor] = {}
        self.began = time.monotonic()
        self.begin = learner.num_iterations

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Note the numbers of an update."""
        self.last = {name: value.detach() for name, value in numbers.items()}
        for name, value in self.last.items():
            self.numbers.setdefault(name, []).append(value)

    def write_if_due(self) -> None:
        """Write the means since the last line, where the interval is over."""
        learner = self.learner
        if self.interval is None or learner.num_iterations % self.interval:
            return
        for name, values in self.numbers.items():
            learner.logger.record(f"train/{name}", float(torch.stack(values).mean()))
        done = learner.num_iterations - self.begin
        seconds = max(time.monotonic() - self.began, sys.float_info.epsilon)
        learner.logger.record("time/iterations", learner.num_iterations)
        learner.logger.record("time/iterations_per_second", done / seconds)
        learner.logger.dump(step=learner.num_iterations)
        self.numbers = {}


def progress(num: int, show: bool, learner: FewShotLearner, log: TrainingLog) -> Iterator[int]:
    """Numbers of iterations, with a progress bar if it is to be shown."""
    if not show:
        yield from range(num)
        return
    from tqdm.auto import tqdm

    with tqdm(total=num, desc=type(learner).__name__, unit="it", mininterval=0.5) as bar:
        for iteration in range(num):
            yield iteration
            if bar.update(1) and log.last:
                bar.set_postfix({k: f"{float(v):.3f}" for k, v in log.last.items()}, refresh=False)
