"""The tables of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from meta_rl.cli.report.results import Group, Results, Score
from meta_rl.evaluation.aggregates import (
    Scores,
    bootstrap_interval,
    probability_of_improvement,
)

UNKNOWN = "–"
REACHED = (0.5, 0.9)
"""Parts of the way from the lowest to the highest validation score."""


class Entry(NamedTuple):
    """An entry of a table.

    Attributes:
        text: Its text.
        key: Number to sort by; ``None`` sorts by the text.
    """

    text: str
    key: float | None = None


class Table(NamedTuple):
    """A table.

    Attributes:
        heads: Heads of the columns.
        rows: Entries of each row.
        about: Sentence that tells the content.
    """

    heads: list[str]
    rows: list[list[Entry]]
    about: str = ""


def number(value: float | None, digits: int = 4) -> Entry:
    """A number with so many digits, at least all before the decimal point."""
    if value is None or not math.isfinite(value):
        return Entry(UNKNOWN, -math.inf)
    before = 1 + math.floor(math.log10(max(abs(value), 1e-9)))
    return Entry(f"{value:,.{min(max(digits - max(before, 1), 0), 3)}f}", value)


def with_interval(score: Score | None) -> Entry:
    """A mean and its interval."""
    if score is None:
        return Entry(UNKNOWN, -math.inf)
    text = number(score.mean).text
    if score.interval is None:
        return Entry(f"{text} (no interval)", score.mean)
    low, high = (number(end).text for end in score.interval)
    return Entry(f"{text} ({low} to {high})", score.mean)


def scores(results: Results) -> Table:
    """The score of every group, beside what it is compared with."""
    heads = ["tasks", "learner", "trainings", "score", "before adaptation", "test", "success"]
    heads += ["out of distribution", "random", "best known", "normalised", "paper"]
    rows = []
    for group in results.groups:
        test = group.score()
        assert test is not None
        best = number(group.reference_score("best"))
        if group.reference.get("about") and best.text != UNKNOWN:
            exact = "" if group.reference["exact"] else ", not exact"
            best = Entry(f"{best.text} ({group.reference['about']}{exact})", best.key)
        rows.append(
            [
                Entry(group.tasks),
                Entry(group.learner),
                Entry(str(len(group.trainings)), len(group.trainings)),
                Entry(group.measure),
                number(test.before),
                with_interval(test),
                _success(group),
                with_interval(group.score("ood")),
                number(group.reference_score("random")),
                best,
                _mean_and_range(group.normalised),
                _paper(group),
            ]
        )
    return Table(heads, rows)


def costs(results: Results) -> Table:
    """Steps and wall time of every group, and until its validation score was reached."""
    heads = ["tasks", "learner", "steps", "minutes of a training", "core-hours"]
    for part in REACHED:
        heads += [f"steps to {part:.0%}", f"minutes to {part:.0%}"]
    rows = []
    for groups in results.by_tasks().values():
        for group in groups:
            minutes = [training["train_seconds"] / 60 for training in group.trainings]
            steps = group.trainings[0]["steps"]
            row = [Entry(group.tasks), Entry(group.learner), Entry(f"{steps:,}", steps)]
            row += [number(float(np.median(minutes)), 3), number(group.core_hours, 3)]
            for part in REACHED:
                row += _reached(group, _target(groups, part))
            rows.append(row)
    about = (
        "Medians over trainings; core-hours are those of all trainings with their evaluations. The "
        "percentages are parts of the way from the lowest to the "
        "highest validation score that any training on these tasks had; “–” was not reached by "
        "half of the trainings."
    )
    return Table(heads, rows, about)


def improvement(results: Results, rng: np.random.Generator) -> Table | None:
    """The probability that a training of one learner beats one of another, for each pair.

    Args:
        results: The results.
        rng: Generator of the bootstrap.

    Returns:
        ``None`` where no two learners share tasks.
    """
    learners: dict[str, dict[str, Sequence[float]]] = {}
    for group in results.groups:
        sign = 1.0 if group.higher_is_better else -1.0
        learners.setdefault(group.learner, {})[f"{group.tasks}, {group.measure}"] = [
            sign * float(score) for score in group.scores
        ]
    rows = []
    for (one, ours), (other, theirs) in combinations(learners.items(), 2):
        shared = [tasks for tasks in ours if tasks in theirs]
        if shared:
            chance = probability_of_improvement(ours, theirs)
            pair: list[Scores] = [
                {tasks: scores[tasks] for tasks in shared} for scores in (ours, theirs)
            ]
            counts = [len(own) for scores in pair for own in scores.values()]
            text = f"{chance:.2f}"
            if min(counts) > 1:
                low, high = bootstrap_interval(probability_of_improvement, pair, rng)
                text += f" ({low:.2f} to {high:.2f})"
            entries = [Entry(one), Entry(other), Entry(str(len(shared)), len(shared))]
            rows.append([*entries, Entry(text, chance)])
    heads = ["learner", "against", "kinds of tasks", "probability of improvement"]
    about = "Ties count half. Intervals are bootstrap intervals over trainings."
    return Table(heads, rows, about) if rows else None


def trainings(group: Group) -> Table:
    """Every training of a group."""
    heads = ["seed", "score", "minutes", "commit", "processor", "checkpoint (SHA-256)"]
    rows = []
    for training, score in zip(group.trainings, group.scores, strict=True):
        rows.append(
            [
                Entry(str(training["seed"]), training["seed"]),
                number(float(score)),
                number(training["train_seconds"] / 60, 3),
                Entry(str(training["code"]["commit"] or "installed package")[:18]),
                Entry(training["processor"]),
                Entry(training["checkpoint_sha256"][:16]),
            ]
        )
    return Table(heads, rows)


def points(group: Group) -> Table:
    """The mean at each point of adaptation, for each split; at most twelve points."""
    heads, rows = ["", *group.evaluations], []
    result = group.evaluations["test"]
    summaries = {split: one.summary() for split, one in group.evaluations.items()}
    last = result.values.shape[1] - 1
    for point in sorted({round(place) for place in np.linspace(0, last, min(last + 1, 12))}):
        after = point if result.points is None else result.points[point]
        row = [Entry(f"after {after} {result.unit}{'' if after == 1 else 's'}", after)]
        for split, summary in summaries.items():
            known = group.evaluations[split].design.kind != "none"
            low, high = summary["mean_interval"][point]
            bounds = (float(low), float(high)) if known and np.isfinite([low, high]).all() else None
            row.append(with_interval(Score(float(summary["mean"][point]), bounds, None)))
        rows.append(row)
    return Table(heads, rows)


def settings(group: Group) -> Table:
    """All settings of a group's trainings."""
    config = group.trainings[0]["config"]
    flat: dict[str, Any] = {"environment": config["env_id"], "length": config["total_timesteps"]}
    flat |= {f"env.{name}": value for name, value in config["env_kwargs"].items()}
    for name, value in config["algorithm_kwargs"].items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            flat[name] = value
    rows = [[Entry(name), Entry(str(value))] for name, value in flat.items()]
    return Table(["setting", "value"], rows)


def _success(group: Group) -> Entry:
    result = group.evaluations["test"]
    if result.success is None:
        return Entry(UNKNOWN, -math.inf)
    return number(float(result.design.mean(result.success)[-1]), 3)


def _mean_and_range(values: np.ndarray | None) -> Entry:
    if values is None:
        return Entry(UNKNOWN, -math.inf)
    mean = float(values.mean())
    if len(values) == 1:
        return Entry(f"{mean:.3f}", mean)
    return Entry(f"{mean:.3f} ({values.min():.3f} to {values.max():.3f})", mean)


def _paper(group: Group) -> Entry:
    paper = group.row["paper"]
    if paper is None:
        return Entry(UNKNOWN, -math.inf)
    return Entry(f"{number(paper['score']).text} ({paper['source']})", paper["score"])


def _target(groups: Sequence[Group], part: float) -> float | None:
    """A validation score so far on the way from the lowest to the highest of all trainings."""
    curves = [t["learning_curve"] for group in groups for t in group.trainings]
    curves = [curve for curve in curves if curve]
    known = [score for curve in curves for score in curve["scores"]]
    if not known or len({curve["measure"] for curve in curves}) > 1:
        return None
    worst, best = min(known), max(known)
    if curves[0]["measure"] == "loss":
        worst, best = best, worst
    return float(worst + part * (best - worst))


def _reached(group: Group, target: float | None) -> list[Entry]:
    """Median of the steps, and of the minutes, until a validation score was reached."""
    found = []
    for training in group.trainings:
        curve = training["learning_curve"]
        at: float | None = None
        if curve and target is not None:
            sign = -1.0 if curve["measure"] == "loss" else 1.0
            there = [sign * score >= sign * target for score in curve["scores"]]
            at = there.index(True) if any(there) else None
        end = [math.inf, math.inf]
        found.append(end if at is None else [curve["steps"][at], curve["seconds"][at] / 60])
    steps, minutes = (float(value) for value in np.median(np.array(found), axis=0))
    known = Entry(f"{steps:,.0f}", steps) if math.isfinite(steps) else number(None)
    return [known, number(minutes, 3)]
