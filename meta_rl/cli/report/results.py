"""The results of a suite's folder, grouped by learner and tasks."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from meta_rl.cli.report.packed import unpacked
from meta_rl.cli.suites.jobs import tasks_key
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.files.checksums import read_json


@dataclass(frozen=True)
class Score:
    """The number that stands for an evaluation.

    Attributes:
        mean: Mean over trainings and tasks.
        interval: Its 95 % interval over them; ``None`` where there is none.
        before: Mean before adaptation; ``None`` for totals.
    """

    mean: float
    interval: tuple[float, float] | None
    before: float | None


@dataclass(frozen=True)
class Group:
    """All trainings of one row of a suite, with equal settings.

    Attributes:
        name: Name of the row.
        trainings: Contents of the result files, by seed.
        reference: Content of the reference on the same tasks; empty where there is none.
    """

    name: str
    trainings: list[dict[str, Any]]
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The row of the suite's table."""
        return self.trainings[0]["row"]

    @property
    def tasks(self) -> str:
        """Name of the tasks, with the arguments that a row changes."""
        changed = self.row["settings"].get("env", {})
        texts = [f"{name}={value}" for name, value in changed.items()]
        name = str(self.row["tasks"]).removeprefix("meta_rl/").removesuffix("-v0")
        return f"{name} ({', '.join(texts)})" if texts else name

    @property
    def learner(self) -> str:
        """The learner's name, or the row's label."""
        return str(self.row["label"] or self.row["learner"])

    @cached_property
    def evaluations(self) -> dict[str, EvaluationResult]:
        """The evaluations of all trainings together, by split."""
        found: dict[str, list[EvaluationResult]] = defaultdict(list)
        for training in self.trainings:
            for split, content in training["evaluations"].items():
                found[split].append(EvaluationResult.from_content(content))
        return {split: EvaluationResult.merged(results) for split, results in found.items()}

    @property
    def totals(self) -> bool:
        """Whether the score is the total of all columns, and not the last one."""
        wanted = self.row["score"]
        return wanted == "total" or (wanted is None and self.evaluations["test"].unit == "pull")

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is better."""
        return self.evaluations["test"].measure != "mean squared error"

    @property
    def measure(self) -> str:
        """Name of the score."""
        result = self.evaluations["test"]
        if self.totals:
            return "total reward of a trial"
        return f"{result.measure} of the last {result.unit}"

    def score(self, split: str = "test") -> Score | None:
        """The score of a split; ``None`` where it was not evaluated."""
        result = self.evaluations.get(split)
        return None if result is None else score_of(result, self.totals)

    @cached_property
    def scores(self) -> np.ndarray:
        """The test score of each training, ``[R]``."""
        return np.array([self._of(result) for result in self._single("test")])

    def _single(self, split: str) -> list[EvaluationResult]:
        found = (training["evaluations"][split] for training in self.trainings)
        return [EvaluationResult.from_content(content) for content in found]

    def _of(self, result: EvaluationResult) -> float:
        return float(result.total.mean() if self.totals else result.values[:, -1].mean())

    def reference_score(self, name: str) -> float | None:
        """The score of ``"random"`` actions or of the ``"best"`` known policy."""
        content = self.reference.get(name)
        if content is None or isinstance(content, int | float):
            return content
        return self._of(EvaluationResult.from_content(content))

    @cached_property
    def normalised(self) -> np.ndarray | None:
        """The score of each training, 0 for random actions and 1 for the best known policy."""
        low, high = self.reference_score("random"), self.reference_score("best")
        if low is None or high is None or high == low:
            return None
        return np.asarray((self.scores - low) / (high - low))

    @property
    def core_hours(self) -> float:
        """Core-hours of all trainings, with their evaluations."""
        seconds = sum(t["train_seconds"] + t["evaluation_seconds"] for t in self.trainings)
        return float(seconds * self.row["cores"] / 3600)

    @property
    def differences(self) -> list[str]:
        """What the trainings do not share, of code, versions and processors."""
        names = {"code": "code", "versions": "versions of packages", "processor": "processors"}
        found = []
        for name, text in names.items():
            values = {json.dumps(t["identity"].get(name, t.get(name))) for t in self.trainings}
            found += [f"{len(values)} different {text}"] if len(values) > 1 else []
        return found


@dataclass(frozen=True)
class Results:
    """All that a report is made from.

    Attributes:
        suite: Content of ``suite.json``; with an empty title where there is none.
        groups: Groups, in the order of the suite.
        missing: Names of cells without a result, and the last line of what went wrong.
    """

    suite: dict[str, Any]
    groups: list[Group]
    missing: dict[str, str]

    def by_tasks(self) -> dict[str, list[Group]]:
        """The groups on the same tasks with the same measure."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.tasks, []).append(group)
        return found


def score_of(result: EvaluationResult, totals: bool) -> Score:
    """The number that stands for an evaluation.

    Args:
        result: The evaluation.
        totals: Whether it is the total of all columns (default: the last column).
    """
    summary = result.summary()
    if totals:
        mean, interval, before = summary["total_mean"], summary["total_mean_interval"], None
    else:
        mean, interval = summary["mean"][-1], summary["mean_interval"][-1]
        before = float(summary["mean"][0])
    known = result.design.kind != "none" and np.isfinite(interval).all()
    return Score(float(mean), (float(interval[0]), float(interval[1])) if known else None, before)


def read_results(folder: Path) -> Results:
    """Reads all results in a folder of a suite.

    Raises:
        ValueError: The folder has no results, or a file is no result.
    """
    contents = _read_all(folder / "results", _TRAINING)
    if not contents:
        raise ValueError(
            f"{folder} holds no results: there is no {folder / 'results'}/*.json; "
            "`meta-rl benchmark SUITE --out DIR` writes them"
        )
    references = {one["tasks"]: one for one in _read_all(folder / "references", _REFERENCE)}
    plan = folder / "suite.json"
    suite: dict[str, Any] = {
        "title": folder.name,
        "about": "",
        "rows": [],
        "jobs": [],
        "failed": {},
    }
    if plan.exists():
        suite = _read(plan, _PLAN)
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for content in contents:
        name = content["name"].rpartition("-seed")[0]
        grouped[name, json.dumps(_settings(content))].append(content)
    order = [name.rpartition("-seed")[0] for name in suite["jobs"]]
    groups = []
    for (name, _), trainings in grouped.items():
        key = tasks_key(trainings[0]["config"], trainings[0]["row"])
        trainings.sort(key=lambda one: one["seed"])
        groups.append(Group(name, trainings, references.get(key, {})))
    groups.sort(key=lambda one: order.index(one.name) if one.name in order else len(order))
    return Results(suite, groups, _missing(suite, {one["name"] for one in contents}))


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    """The settings that trainings of one group share."""
    config = content["config"]
    names = ("env_id", "env_kwargs", "algorithm_kwargs", "total_timesteps")
    row = {name: content["row"][name] for name in ("num_tasks", "num_episodes")}
    return {name: config[name] for name in names} | row


def _missing(suite: dict[str, Any], there: set[str]) -> dict[str, str]:
    cells = [name for name in suite["jobs"] if not name.startswith("reference-")]
    failed: dict[str, str] = suite["failed"]
    absent = [name for name in cells if name not in there]
    told = {name: failed.get(name, "no result yet") for name in absent}
    return told | {name: text for name, text in failed.items() if name not in told}


@dataclass
class _Row:
    """The parts of a suite's row that reports need."""

    learner: str
    tasks: str
    label: str | None
    settings: dict[str, Any]
    num_tasks: int | None
    num_episodes: int | None
    score: str | None
    paper: dict[str, Any] | None
    cores: int


@dataclass
class _Config:
    """The parts of a run's configuration."""

    env_id: str
    env_kwargs: dict[str, Any]
    algorithm_kwargs: dict[str, Any]
    total_timesteps: int


@dataclass
class _Training:
    """The parts of a cell's result."""

    name: str
    identity: dict[str, Any]
    row: _Row
    seed: int
    command: str
    config: _Config
    code: dict[str, Any]
    processor: str
    steps: int
    train_seconds: float
    evaluation_seconds: float
    learning_curve: dict[str, Any] | None
    checkpoint_sha256: str
    evaluations: dict[str, dict[str, Any]]


@dataclass
class _Reference:
    """The parts of a reference."""

    name: str
    identity: dict[str, Any]
    tasks: str
    random: float | dict[str, Any] | None
    best: float | dict[str, Any] | None
    about: str
    exact: bool


@dataclass
class _Plan:
    """The parts of ``suite.json``."""

    title: str
    about: str
    jobs: list[str]
    failed: dict[str, str]


WRONG = (*(ValueError, LookupError, TypeError, AttributeError), OverflowError, RecursionError)
"""Errors of contents of another kind."""
_TRAINING, _REFERENCE, _PLAN = (TypeAdapter[Any](one) for one in (_Training, _Reference, _Plan))


def _read_all(folder: Path, wanted: TypeAdapter[Any]) -> list[dict[str, Any]]:
    return [_read(file, wanted) for file in sorted(folder.glob("*.json"))]


def _read(file: Path, wanted: TypeAdapter[Any]) -> dict[str, Any]:
    """Reads a file of a suite, and looks at its checksum and its parts.

    Raises:
        ValueError: The file was changed, or is none of a suite.
    """
    try:
        content, damage = read_json(file)
        content = unpacked(content)
        wanted.validate_json(json.dumps(content), strict=True)
        evaluations = [content.get(name) for name in ("random", "best")]
        for one in [*evaluations, *content.get("evaluations", {}).values()]:
            if isinstance(one, dict):
                EvaluationResult.from_content(one)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise ValueError(f"{file} is no result of a suite: {where}: {found['msg']}") from error
    except WRONG as error:
        raise ValueError(f"{file} is no result of a suite: {error!r}") from error
    if damage:
        raise ValueError(damage)
    return content
