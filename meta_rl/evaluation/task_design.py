"""The arrangement of a result's rows in trainings and tasks, and its intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from meta_rl.evaluation.intervals import (
    Spread,
    crossed_spread,
    independent_spread,
    interquartile_influence,
    interquartile_mean,
    interquartile_mean_of_share,
    share_interval,
    student_interval,
    trimmed_spread,
)

Kind = Literal["single", "crossed", "nested", "fixed", "none"]

OVER: dict[Kind, str] = {
    "single": "tasks of one training",
    "crossed": "trainings and tasks",
    "nested": "trainings, each on tasks of its own",
    "fixed": "trainings on these tasks",
    "none": "",
}


@dataclass(frozen=True)
class Design:
    """An arrangement of rows in trainings and tasks.

    Attributes:
        kind: Kind of the arrangement. ``"single"``: one training on several tasks; ``"crossed"``:
            several trainings, all on the same tasks; ``"nested"``: several trainings, each on tasks
            of its own; ``"fixed"``: several trainings on all tasks that exist; ``"none"``: no
            interval can be computed.
        reason: Reason for no interval; otherwise empty.
        order: Row indices, sorted by training, then by task, ``[rows]``.
        sizes: Number of tasks of each training, ``[R]``.
        num_tasks: Number of distinct tasks.
    """

    kind: Kind
    reason: str
    order: np.ndarray
    sizes: np.ndarray
    num_tasks: int

    @classmethod
    def of(cls, trainings: np.ndarray, tasks: np.ndarray, whole_distribution: bool) -> Design:
        """Finds the design of rows, from the training and the task of each, ``[rows]`` both."""
        order = np.lexsort([tasks, trainings])
        sizes = np.unique(trainings, return_counts=True)[1]
        num_tasks = len(np.unique(tasks))
        kind, reason = _find_kind(sizes, num_tasks, whole_distribution)
        return cls(kind, reason, order, sizes, num_tasks)

    @property
    def num_trainings(self) -> int:
        """Number of trainings."""
        return len(self.sizes)

    @property
    def over(self) -> str:
        """The draws that the interval covers, such as ``"trainings and tasks"``, or ``""``."""
        return OVER[self.kind]

    def counts(self, split: str = "") -> str:
        """States the numbers of trainings and distinct tasks: ``"3 trainings x 30 test tasks"``."""
        words = f"{split} task".strip()
        trainings = _counted(self.num_trainings, "training")
        if self.num_trainings * self.num_tasks == len(self.order):  # all on the same tasks
            return f"{trainings} x {_counted(self.num_tasks, words)}"
        if self.num_tasks == len(self.order) and len(set(self.sizes)) == 1:
            return (
                f"{trainings} x {_counted(int(self.sizes[0]), words)} ({self.num_tasks:,} distinct)"
            )
        return f"{trainings}, {_counted(self.num_tasks, words)}"

    def mean(self, columns: np.ndarray) -> np.ndarray:
        """Computes the mean over trainings of their means over tasks, ``[rows, C]`` to ``[C]``."""
        return self._training_means(columns).mean(axis=0)

    def mean_interval(
        self, columns: np.ndarray, confidence: float, shares: bool = False
    ) -> np.ndarray:
        """Computes the interval of the mean, ``[rows, C]`` to ``[C, 2]``.

        Where no interval can be computed, it contains all numbers.

        Args:
            columns: Values; shares are in [0, 1].
            confidence: Coverage, between 0 and 1.
            shares: Whether values are shares, whose intervals end at 0 and 1 (default: False).
        """
        if self.kind == "none":
            return _uninformative_interval(columns.shape[1], shares)
        mean = self.mean(columns)
        spread = self._spread(columns)
        if not shares:
            return student_interval(mean, spread, confidence)
        units = self.num_trainings if self.kind == "fixed" else int(self.sizes.min())
        most_if_rare = self.num_trainings if self.num_trainings > 1 else units
        return share_interval(mean, spread, units, confidence, most_if_rare)

    def iqm_interval(
        self, columns: np.ndarray, confidence: float, shares: bool = False
    ) -> np.ndarray:
        """Computes the interval of the interquartile mean of all rows, like :meth:`mean_interval`.

        Where the middle half of a column is constant and the rest is not, its variance is unknown,
        and the interval contains all numbers. Outcomes of 0 and 1 are the exception: their
        interquartile mean is a function of their share, and so is its interval.
        """
        if self.kind == "none":
            return _uninformative_interval(columns.shape[1], shares)
        if shares and np.isin(columns, (0, 1)).all():
            return interquartile_mean_of_share(self.mean_interval(columns, confidence, True))
        if self.kind == "single":
            spread = trimmed_spread(columns)
        else:
            spread = self._spread(interquartile_influence(columns))
        interval = student_interval(interquartile_mean(columns), spread, confidence)
        if shares:
            interval = np.clip(interval, 0, 1)
        unknown = (spread.variance == 0) & (np.ptp(columns, axis=0) > 0)
        return np.where(
            unknown[:, None], _uninformative_interval(columns.shape[1], shares), interval
        )

    def _spread(self, columns: np.ndarray) -> Spread:
        if self.kind == "single":
            return independent_spread(columns)
        if self.kind == "crossed":
            shape = (self.num_trainings, self.num_tasks, -1)
            return crossed_spread(columns[self.order].reshape(shape))
        return independent_spread(self._training_means(columns))

    def _training_means(self, columns: np.ndarray) -> np.ndarray:
        """Computes the mean of each training, ``[R, C]``."""
        starts = np.cumsum(self.sizes) - self.sizes
        sums = np.add.reduceat(columns[self.order], starts, axis=0)
        return np.asarray(sums / self.sizes[:, None])


def _find_kind(sizes: np.ndarray, num_tasks: int, whole_distribution: bool) -> tuple[Kind, str]:
    """Finds the kind of a design and, if there is no interval, the reason."""
    num_trainings, rows = len(sizes), int(sizes.sum())
    same = num_trainings * num_tasks == rows
    if num_trainings == 1 and whole_distribution:
        return "none", "one training, on all tasks that there are"
    if same and whole_distribution:
        return "fixed", ""
    if num_tasks == 1:
        return "none", "one task"
    if sizes.min() == 1:
        return "none", "one task in a training"
    if num_trainings == 1:
        return "single", ""
    if same:
        return "crossed", ""
    if num_tasks == rows:
        return "nested", ""
    return "none", "trainings share some of their tasks, not all"


def _uninformative_interval(num_columns: int, shares: bool) -> np.ndarray:
    """Returns the uninformative interval, ``[C, 2]``: all numbers, or from 0 to 1."""
    return np.tile([0.0, 1.0] if shares else [-np.inf, np.inf], (num_columns, 1))


def _counted(number: int, words: str) -> str:
    return f"{number:,} {words}{'' if number == 1 else 's'}"
