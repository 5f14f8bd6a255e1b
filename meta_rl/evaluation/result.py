"""The result of an evaluation: a value for each training, task and point of adaptation."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import InitVar, asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meta_rl.evaluation.intervals import interquartile_mean as interquartile_mean
from meta_rl.evaluation.task_design import Design
from meta_rl.files.checksums import check_annotations, checked_json, read_json
from meta_rl.make import family_title
from meta_rl.provenance import package_versions, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ARRAYS = ("values", "success", "trainings", "tasks", "task_seeds", "strata")


@dataclass(frozen=True)
class EvaluationResult:
    """The rewards of a learner on held-out tasks, before and after adaptation.

    A result has one row for each training and task. One evaluation gives the result of one
    training, and :meth:`merged` joins several.

    Attributes:
        values: Means over the sub-environments of a task, ``[rows, points]``. For environments that
            adapt after episodes: the return of episode k + 1, after k episodes; for bandits: the
            reward of pull k + 1, after k pulls. Column 0 is before adaptation.
        unit: Unit of adaptation, one between two columns: ``"episode"`` or ``"pull"``.
        learner: Class of the learner.
        environment: Family of the environment, ``module:Class``, or name of the data set.
        split: Part of the task split that the tasks came from.
        seed: Seed of the evaluation.
        envs_per_task: Number of sub-environments of each task.
        deterministic: Whether the most likely actions were taken.
        strata: Former name of ``trainings``, taken by the constructor only.
        versions: Versions of the packages.
        measure: Kind of values: ``"return"``, ``"accuracy"`` or ``"mean squared error"``.
        points: Number of units of adaptation before each column (default: 0, 1, 2, ...).
        success: Share of the task's sub-environments in which an info ``success`` was above 0 in
            any step of that episode (or pull), ``[rows, points]``; ``None`` where infos have no
            ``success``.
        trainings: Training of each row, int64 ``[rows]`` (default: all 0).
        tasks: Number of the task of each row, int64 ``[rows]``. By default, the rows of each
            training are the same tasks in the same order where all trainings have the same number
            of rows, and different tasks otherwise.
        listed: Whether ``tasks`` are positions in a list; equal positions are the same task.
            Otherwise tasks were drawn: the same task has the same number and the same seed.
        whole_distribution: Whether the result has all tasks that exist (two directions, 21 goals).
            The interval is then for a new training on these tasks.
        env_kwargs: Arguments of the environment, as text, where it was given by its id.
        task_seeds: Seed with which the task of each row was drawn, int64 ``[rows]``; ``None``
            (default) is ``seed`` for all. It has no meaning for tasks of a list.

    Raises:
        ValueError: Shapes do not match, or a training has the same task twice.
    """

    values: np.ndarray
    unit: str
    learner: str
    environment: str
    split: str
    seed: int
    envs_per_task: int
    deterministic: bool
    strata: InitVar[np.ndarray | None] = None
    versions: dict[str, str] = field(default_factory=package_versions)
    measure: str = "return"
    points: list[int] | None = None
    success: np.ndarray | None = None
    trainings: np.ndarray = None  # type: ignore[assignment]  # an array after __post_init__
    tasks: np.ndarray = None  # type: ignore[assignment]
    listed: bool = False
    whole_distribution: bool = False
    env_kwargs: dict[str, str] = field(default_factory=dict)
    task_seeds: np.ndarray | None = None

    def __post_init__(self, strata: np.ndarray | None) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"values have to be [rows, points], got shape {values.shape}")
        if self.success is not None and np.shape(self.success) != values.shape:
            raise ValueError(f"success {np.shape(self.success)} beside values {values.shape}")
        if self.points is not None and len(self.points) != values.shape[1]:
            raise ValueError(f"{len(self.points)} points beside values {values.shape}")
        trainings = strata if self.trainings is None else self.trainings
        trainings = _check_row_numbers("trainings", trainings, np.zeros(len(values), np.int64))
        tasks = _check_row_numbers("tasks", self.tasks, _default_tasks(trainings))
        arrays = {"values": values, "trainings": trainings, "tasks": tasks}
        if self.task_seeds is not None:
            arrays["task_seeds"] = _check_row_numbers("task_seeds", self.task_seeds, tasks)
        for name, value in arrays.items():
            object.__setattr__(self, name, value)
        pairs = np.stack([trainings, self.distinct_tasks])
        _, rows, counts = np.unique(pairs, axis=1, return_index=True, return_counts=True)
        if counts.max() > 1:
            row = rows[np.argmax(counts)]
            training, task = trainings[row], tasks[row]
            raise ValueError(
                f"training {training} has task {task} {counts.max()} times: give the mean of its "
                "episodes in one row (envs_per_task makes more of them)"
            )
        if not np.isfinite(values).all():
            row, point = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"values have to be finite: that of row {row} at point {point} is "
                f"{values[row, point]}"
            )

    def __str__(self) -> str:
        """Describes the mean before and after adaptation, with its interval, in one line."""
        summary = self.summary()
        last = self.values.shape[1] - 1 if self.points is None else self.points[-1]
        return (
            f"{self.learner}, {self.counts_text()} of {self.environment_title}: "
            f"{self._mean_measure} {summary['mean'][0]:.3f} before adaptation, "
            f"{summary['mean'][-1]:.3f} ({self.interval_text(summary['mean_interval'][-1])}) "
            f"after {last} {self.unit}{'' if last == 1 else 's'}" + self.success_text()
        )

    @property
    def environment_title(self) -> str:
        """Id of the environment, or name of the data set, for texts to read."""
        return family_title(self.environment)

    @property
    def _mean_measure(self) -> str:
        return self.measure if self.measure.startswith("mean ") else f"mean {self.measure}"

    def counts_text(self) -> str:
        """States the numbers of trainings and distinct tasks: ``"3 trainings x 30 test tasks"``."""
        return self.design.counts(self.split)

    def interval_text(self, interval: np.ndarray, digits: int = 3) -> str:
        """Describes an interval and the randomness that it covers, or why there is none.

        Args:
            interval: Ends of the interval, from :meth:`summary` with the default confidence.
            digits: Number of digits after the decimal point (default: 3).
        """
        low, high = interval
        if self.design.kind == "none":
            return f"no interval: {self.design.reason}"
        if np.isinf([low, high]).any():
            return "no interval: half of the values are the same"
        return f"95 % interval {low:.{digits}f} to {high:.{digits}f} over {self.design.over}"

    def success_text(self) -> str:
        """Describes the success: ``"; success 0.1 before adaptation, 0.8 (...)"``, or ``""``."""
        if self.success is None:
            return ""
        rates = self.design.mean(self.success)
        interval = self.design.mean_interval(self.success, 0.95, shares=True)[-1]
        return (
            f"; success {rates[0]:.3f} before adaptation, {rates[-1]:.3f} "
            f"({self.interval_text(interval)}) in the last {self.unit}"
        )

    @cached_property
    def design(self) -> Design:
        """The combination of trainings and tasks, which decides how intervals are computed."""
        return Design.of(self.trainings, self.distinct_tasks, self.whole_distribution)

    @cached_property
    def distinct_tasks(self) -> np.ndarray:
        """Number of the task of each row, ``[rows]``: equal numbers are the same task."""
        if self.listed:
            return self.tasks
        pairs = np.stack([self._seed_of_each_task(), self.tasks], axis=1)
        return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)

    def _seed_of_each_task(self) -> np.ndarray:
        if self.task_seeds is None:
            return np.full(len(self.tasks), self.seed, dtype=np.int64)
        return self.task_seeds

    @property
    def num_tasks(self) -> int:
        """Number of distinct tasks."""
        return self.design.num_tasks

    @property
    def num_trainings(self) -> int:
        """Number of trainings."""
        return self.design.num_trainings

    @property
    def shares(self) -> bool:
        """Whether the values are shares: accuracies from 0 to 1, or outcomes of only 0 and 1."""
        if self.measure == "accuracy":
            return bool(self.values.min() >= 0 and self.values.max() <= 1)
        return bool(np.isin(self.values, (0, 1)).all())

    @property
    def total(self) -> np.ndarray:
        """The total of each row's trial, which is the sum over the columns, ``[rows]``."""
        return np.asarray(self.values.sum(axis=1))

    def summary(self, confidence: float = 0.95) -> dict[str, np.ndarray]:
        """Computes means with their intervals, for each column and for the whole trial.

        The mean is that of the trainings' means over their tasks. The interquartile mean (IQM) is
        the mean of the middle half of all rows (Agarwal et al., "Deep RL at the edge of the
        statistical precipice", 2021). ``docs/evaluation.md`` explains the intervals and gives
        their measured coverage. Where no interval can be computed (``design.kind == "none"``, for
        instance with one task), it goes from minus infinity to infinity, or from 0 to 1 for shares.

        Args:
            confidence: Coverage of the intervals, between 0 and 1 (default: 0.95).

        Returns:
            ``mean`` and ``iqm`` ``[points]``, ``mean_interval`` and ``iqm_interval``
            ``[points, 2]``; ``total_mean`` (a number) and ``total_mean_interval`` ``[2]``, and the
            same for ``total_iqm``. Where infos have ``success``, its mean ``success`` ``[points]``
            and ``success_interval`` ``[points, 2]``.

        Raises:
            ValueError: The confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence has to lie between 0 and 1, got {confidence}")
        summary: dict[str, np.ndarray] = {}
        design, total = self.design, self.total[:, None]
        for name, estimate, interval in (
            ("mean", design.mean, design.mean_interval),
            ("iqm", interquartile_mean, design.iqm_interval),
        ):
            summary[name] = estimate(self.values)
            summary[f"{name}_interval"] = interval(self.values, confidence, self.shares)
            summary[f"total_{name}"] = estimate(total)[0]
            points = self.values.shape[1] if self.shares else 1  # the mean of shares is one, too
            of_mean = interval(total / points, confidence, self.shares)[0]
            summary[f"total_{name}_interval"] = points * of_mean
        if self.success is not None:
            summary["success"] = design.mean(self.success)
            summary["success_interval"] = design.mean_interval(self.success, confidence, True)
        return summary

    def plot(
        self, ax: Axes | None = None, *, label: str | None = None, color: str | None = None
    ) -> Axes:
        """Draws the mean of each column with its 95 % interval.

        The legend states the numbers of trainings and tasks, and what the interval is over.

        Args:
            ax: Axes to draw in (default: axes of a new figure; ``ax.figure.savefig(path)`` saves
                it).
            label: Name in the legend (default: the learner).
            color: Colour of line and interval (default: the next colour of the axes).
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6.0, 4.0), layout="constrained").add_subplot()
        summary = self.summary()
        # The x-axis counts the units before a column: pull 1 is made after 0 pulls.
        before = np.arange(self.values.shape[1]) if self.points is None else self.points
        name = f"{label or self.learner} ({self.design.counts()})"
        (line,) = ax.plot(before, summary["mean"], label=name, marker=".", color=color)
        self._draw_interval(ax, before, summary["mean_interval"], line.get_color())
        ax.set_xlabel(f"{self.unit}s of adaptation")
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)
        ax.set_ylabel("mean reward" if self.unit == "pull" else self._mean_measure)
        family = self.environment.rpartition(":")[2]
        title = f"{family}, {self.counts_text()}"
        # Results with other counts may share the axes: the legend has the counts of each.
        ax.set_title(title if ax.get_title() in ("", title) else f"{family}, {self.split} tasks")
        ax.legend()
        return ax

    def _draw_interval(self, ax: Axes, before: Any, interval: np.ndarray, color: Any) -> None:
        """Draws the band, and explains it in the legend once for all bands of its kind."""
        if self.design.kind == "none":
            about = f"no interval: {self.design.reason}"
            if about not in ax.get_legend_handles_labels()[1]:
                ax.plot([], [], " ", label=about)
            return
        about = f"95 % interval over {self.design.over}"
        known = about in ax.get_legend_handles_labels()[1]
        label = "" if known else about
        if len(interval) == 1:  # a band over one point would be invisible
            ax.vlines(before, *interval.T, label=label, color=color, alpha=0.4, linewidth=3)
            return
        ax.fill_between(before, *interval.T, label=label, color=color, alpha=0.2, linewidth=0)

    def save(self, path: str | Path) -> Path:
        """Writes the result as JSON, atomically, and returns the path."""
        return write_atomically(path, self.to_json())

    def to_json(self) -> str:
        """Returns the text that :meth:`save` writes."""
        content = {"num_trainings": self.num_trainings, "num_tasks": self.num_tasks, **asdict(self)}
        for name in ("values", "success", "trainings", "tasks", "task_seeds"):
            content[name] = None if content[name] is None else content[name].tolist()
        return checked_json(content)

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """Reads a file that :meth:`save` of this or an earlier version wrote.

        Raises:
            ValueError: The file is not a saved evaluation, or it was changed.
        """
        try:
            content, damage = read_json(Path(path))
            result = cls.from_content(content)
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is no saved evaluation: {error!r}") from error
        if damage:
            raise ValueError(damage)
        return result

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> EvaluationResult:
        """Makes a result of what :meth:`to_json` writes, without its checksum.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is of another kind, or there is too much.
            ValueError: Values do not fit.
        """
        arrays = {"values": np.array(content["values"], dtype=np.float64)}
        if content.get("success") is not None:
            arrays["success"] = np.array(content["success"], dtype=np.float64)
        counts = ("num_tasks", "num_trainings", "checksum")
        content = {key: value for key, value in content.items() if key not in counts}
        check_annotations({k: v for k, v in content.items() if k not in ARRAYS}, cls)
        return cls(**content | arrays)

    @classmethod
    def merged(cls, results: Sequence[EvaluationResult]) -> EvaluationResult:
        """Joins trainings of one learner into one result, in which each keeps its own number.

        Tasks with equal numbers are the same task if they are positions in a list (``listed``), or
        if they were drawn with the same seed; the trainings are then crossed with the tasks.
        Tasks that were drawn with different seeds are different tasks, and each training has its
        own. Where trainings share only some of their tasks, the result has no intervals. The order
        of merging makes no difference to means and intervals.

        Args:
            results: Results of one training each, or of several trainings that were merged before.

        Raises:
            ValueError: There are no results, or they differ in the learner, environment, measure or
                points of adaptation.
        """
        results = list(results)
        if not results:
            raise ValueError("results to merge have to be of one kind, and at least one: got none")
        first = results[0]
        for name, value in first._kind.items():
            others = {str(result._kind[name]) for result in results} - {str(value)}
            if others:
                raise ValueError(
                    f"results to merge have to be of one kind: {name} is {value} in the first "
                    f"and {', '.join(sorted(others))} in another"
                )
        trainings, num_trainings = [], 0
        for result in results:
            _, within = np.unique(result.trainings, return_inverse=True)
            trainings.append(num_trainings + within)
            num_trainings += result.num_trainings
        told = [result.success for result in results if result.success is not None]
        joined = {
            "values": np.concatenate([result.values for result in results]),
            "trainings": np.concatenate(trainings),
            "tasks": np.concatenate([result.tasks for result in results]),
            "task_seeds": np.concatenate([result._seed_of_each_task() for result in results]),
            "success": np.concatenate(told) if len(told) == len(results) else None,
        }
        return cls(**{**asdict(first), **joined})

    @property
    def _kind(self) -> dict[str, Any]:
        """The properties that have to be equal in all results that are merged."""
        names = ("learner", "environment", "env_kwargs", "unit", "split", "measure")
        ways = ("envs_per_task", "deterministic", "listed", "whole_distribution")
        points = self.points or list(range(self.values.shape[1]))
        return {name: getattr(self, name) for name in (*names, *ways)} | {"points": points}

    def to_frame(self) -> pd.DataFrame:
        """Makes a pandas table with one row for each training, task and column.

        Its columns are ``training``, ``task``, ``point`` (number of units of adaptation before),
        ``value`` and, where infos have it, ``success``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                'to_frame needs pandas: pip install "meta-rl[pandas]"; to_csv does without'
            ) from error
        return pd.DataFrame(self._table())

    def to_csv(self, path: str | Path) -> Path:
        """Writes the table of :meth:`to_frame` as CSV, atomically, and returns the path."""
        table = self._table()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        return write_atomically(path, text.getvalue())

    def _table(self) -> dict[str, np.ndarray]:
        rows, columns = self.values.shape
        points = np.arange(columns) if self.points is None else np.array(self.points)
        table = {
            "training": np.repeat(self.trainings, columns),
            "task": np.repeat(self.distinct_tasks, columns),
            "point": np.tile(points, rows),
            "value": self.values.ravel(),
        }
        return table if self.success is None else {**table, "success": np.ravel(self.success)}


def _check_row_numbers(name: str, given: Any, default: np.ndarray) -> np.ndarray:
    """Checks whole numbers, one for each row; returns ``default`` where none are given."""
    if given is None:
        return default
    numbers = np.asarray(given)
    if numbers.shape != default.shape or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"{name} have to be {len(default)} whole numbers, one for each row of values, got "
            f"{numbers.dtype} {numbers.shape}"
        )
    return numbers.astype(np.int64)


def _default_tasks(trainings: np.ndarray) -> np.ndarray:
    """Numbers the tasks within each training if all have as many rows, or all rows otherwise."""
    _, counts = np.unique(trainings, return_counts=True)
    tasks = np.arange(len(trainings))
    if len(set(counts)) == 1:
        tasks[np.argsort(trainings, kind="stable")] = np.tile(np.arange(counts[0]), len(counts))
    return tasks
