"""Runs that differ by their seed alone, as one group with aggregated curves and evaluations."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from meta_rl.cli.run_folder import LearningCurve, RunConfig, RunFolder, learning_columns
from meta_rl.evaluation.result import EvaluationResult

NOT_SETTINGS = ("seed", "versions", "commit", "threads", "options", "total_timesteps")
"""Parts of a configuration in which the runs of a group may differ."""

MOST_POINTS = 400
"""Largest number of points of an aggregated curve whose runs have logged at different steps."""


class Run(NamedTuple):
    """A run folder and its configuration."""

    folder: RunFolder
    config: RunConfig


@dataclass(frozen=True)
class RunGroup:
    """Runs that are shown as one.

    Attributes:
        label: Name in legends and tables.
        runs: The runs, at least one.
    """

    label: str
    runs: list[Run]

    @property
    def config(self) -> RunConfig:
        """The configuration of the first run."""
        return self.runs[0].config

    def evaluations(self) -> dict[str, EvaluationResult]:
        """Reads the evaluations by the name of their file; those of several runs are merged."""
        found: dict[str, list[EvaluationResult]] = {}
        for run in self.runs:
            for file in run.folder.evaluations():
                found.setdefault(file.stem, []).append(EvaluationResult.load(file))
        return {
            name: results[0] if len(results) == 1 else EvaluationResult.merged(results)
            for name, results in found.items()
        }

    def curve(self) -> AggregatedCurve | None:
        """Aggregates the learning curves; ``None`` where none of several runs has logged yet."""
        if not self.config.total_timesteps and self.evaluations():
            return None
        logged = [run for run in self.runs if run.folder.progress.exists()]
        if not logged and len(self.runs) > 1:
            return None
        # A single run without a log is an error that names its folder.
        curves = [learning_columns(run.folder.learning_curve()) for run in logged or self.runs]
        return aggregated(curves)


class Band(NamedTuple):
    """A curve of means, with an interval.

    Attributes:
        steps: Steps at each point.
        mean: Mean over the runs.
        interval: 95 % Student interval over the runs, ``[points, 2]``; ``None`` for one run.
    """

    steps: np.ndarray
    mean: np.ndarray
    interval: np.ndarray | None


class AggregatedCurve(NamedTuple):
    """The learning curve of a group.

    Attributes:
        trained: Scores on training tasks.
        validated: Scores on validation tasks; ``None`` where they were not logged.
        unit: Unit of the steps.
        measure: Name of the score.
        num_runs: Number of runs that have logged something.
    """

    trained: Band
    validated: Band | None
    unit: str
    measure: str
    num_runs: int


def find_groups(paths: Sequence[Path], by: str = "settings") -> list[RunGroup]:
    """Groups run folders.

    Args:
        paths: Run folders.
        by: ``"settings"`` (default) joins the runs that differ by their seed alone;
            ``"algorithm"`` joins all runs of an algorithm on the same tasks.

    Raises:
        ValueError: A folder holds no run, or is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("the same run folder is given twice")
    runs = [Run(folder, folder.config()) for folder in map(RunFolder, paths)]
    found: dict[Any, list[Run]] = {}
    for run in runs:
        key: Any = (run.config.algorithm, run.config.tasks, *_tasks_of(run.config))
        if by == "settings":
            key = _settings(run.config)
            # A second run of the same seed is a run of its own.
            seeds = [other.config.seed for other in runs[: runs.index(run)] if _alike(other, run)]
            key = (key, seeds.count(run.config.seed))
        found.setdefault(key, []).append(run)
    groups = list(found.values())
    labels = _labels(groups)
    return [RunGroup(label, group) for label, group in zip(labels, groups, strict=True)]


def _alike(one: Run, other: Run) -> bool:
    return _settings(one.config) == _settings(other.config)


def _settings(config: RunConfig) -> str:
    kept = {name: value for name, value in asdict(config).items() if name not in NOT_SETTINGS}
    return json.dumps(kept, sort_keys=True)


def _tasks_of(config: RunConfig) -> tuple[str, str]:
    return config.env_id, json.dumps(config.env_kwargs, sort_keys=True)


def _labels(groups: list[list[Run]]) -> list[str]:
    """Names the groups: algorithm, tasks and seeds; then settings, then folders, where needed."""
    shared = os.path.commonpath([run.folder.path.resolve().parent for g in groups for run in g])
    names = [f"{g[0].config.algorithm} {g[0].config.tasks}" for g in groups]
    settings = [_flat(g[0].config) for g in groups]
    labels = []
    for name, group, own in zip(names, groups, settings, strict=True):
        others = [s for n, s in zip(names, settings, strict=True) if n == name]
        differing = [key for key in own if any(other.get(key) != own[key] for other in others)]
        text = ", ".join([name, *(f"{key}={own[key]}" for key in differing)])
        seeds = f"seed {group[0].config.seed}" if len(group) == 1 else f"{len(group)} runs"
        joint = "," if differing or len(group) > 1 else ""
        labels.append(f"{text}{joint} {seeds}")
    for i, group in enumerate(groups):
        if labels.count(labels[i]) > 1:
            path = os.path.relpath(group[0].folder.path.resolve(), shared)
            labels[i] = f"{labels[i]}, {path}"
    return labels


def _flat(config: RunConfig) -> dict[str, str]:
    """Returns the settings by short names, as on the command line."""
    found = {f"env.{key}": value for key, value in config.env_kwargs.items()}
    for key, value in config.algorithm_kwargs.items():
        if key == "policy_kwargs":
            found |= {f"policy.{name}": part for name, part in (value or {}).items()}
        else:
            found[key] = value
    return {key: json.dumps(value).strip('"') for key, value in found.items()}


def aggregated(curves: list[LearningCurve]) -> AggregatedCurve:
    """Averages learning curves over runs, at the steps that all of them have reached.

    Raises:
        ValueError: The curves count different things, or have no steps in common.
    """
    first = curves[0]
    if any((one.unit, one.measure) != (first.unit, first.measure) for one in curves):
        raise ValueError("the runs of a group have logged different measures")
    trained = [_without_gaps(one.steps, one.trained) for one in curves]
    validated = [_without_gaps(one.steps, one.validated) for one in curves if one.validated]
    validated = [(steps, scores) for steps, scores in validated if len(steps)]
    return AggregatedCurve(
        _band(trained),
        _band(validated) if len(validated) == len(curves) else None,
        first.unit,
        first.measure,
        len(curves),
    )


def _without_gaps(steps: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([steps, scores], dtype=np.float64)
    steps, scores = points[:, ~np.isnan(points[1])]
    return steps, scores


def _band(curves: list[tuple[np.ndarray, np.ndarray]]) -> Band:
    """Averages curves; curves with other steps than the first are interpolated linearly."""
    steps = _common_steps([steps for steps, _ in curves])
    scores = np.stack([np.interp(steps, *curve) for curve in curves])
    mean, num = scores.mean(axis=0), len(scores)
    if num == 1:
        return Band(steps, mean, None)
    half = stats.t.ppf(0.975, num - 1) * scores.std(axis=0, ddof=1) / np.sqrt(num)
    return Band(steps, mean, np.stack([mean - half, mean + half], axis=1))


def _common_steps(steps: list[np.ndarray]) -> np.ndarray:
    if any(not len(one) for one in steps):
        raise ValueError("a run of the group has logged no score yet")
    low, high = max(one[0] for one in steps), min(one[-1] for one in steps)
    if low > high:
        raise ValueError("the runs of a group have logged no steps in common")
    found = np.unique(np.concatenate([one[(one >= low) & (one <= high)] for one in steps]))
    return found if len(found) <= MOST_POINTS else np.linspace(low, high, MOST_POINTS)
