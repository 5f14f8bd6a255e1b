"""The documentation's tables of suites, from the results that were adopted (adopt_cells.py)."""

from __future__ import annotations

import functools

import numpy as np
from result_files import RESULTS, table

from meta_rl.cli.report.results import Group, Score, read_results


@functools.cache
def groups() -> list[Group]:
    """The rows that were adopted, in the order of the suites."""
    return read_results(RESULTS / "suites").groups


def is_adopted(*names: str, trainings: int = 1) -> bool:
    """Whether all these rows were adopted: older results of the same are then left out.

    Args:
        names: Names of rows.
        trainings: Number of trainings that each needs, those of the older result (default: 1).
    """
    return {*names} <= {one.name for one in groups() if len(one.trainings) >= trainings}


def digits_of(group: Group) -> int:
    """Number of digits after the point: three significant digits, at least."""
    score = group.score()
    assert score is not None
    size = abs(score.mean)
    return 0 if size >= 100 else 1 if size >= 30 else 2 if size >= 1 else 3


def score_text(score: Score | None, digits: int) -> str:
    """A mean and its interval."""
    if score is None:
        return ""
    text = f"{score.mean:.{digits}f}"
    if score.interval is None:
        return f"{text} (no interval)"
    return f"{text} ({score.interval[0]:.{digits}f} to {score.interval[1]:.{digits}f})"


def length(group: Group) -> str:
    """The length of a training: ``"6 M steps"``, ``"15,000 iterations"``."""
    steps, curve = group.trainings[0]["steps"], group.trainings[0]["learning_curve"]
    if curve and curve["unit"] == "iterations":
        return f"{steps:,} iterations"
    return f"{steps / 1e6:.3g} M steps"


def cells(group: Group) -> list[str]:
    """The cells of a row that README.md has too."""
    digits = digits_of(group)
    paper, best = group.row["paper"], group.reference_score("best")
    optimum = ""
    if best is not None:
        exact = "" if group.reference["exact"] else " (near the optimum)"
        optimum = f"{best:.{digits}f}{exact}"
    return [
        f"{group.learner}, {group.tasks}",
        group.measure,
        str(len(group.trainings)),
        score_text(group.score(), digits),
        "" if paper is None else f"{paper['score']:g}",
        optimum,
    ]


MOST_POINTS = 5
"""Number of points of adaptation up to which all are in the table."""
FRONT_TRAININGS = 3
"""Least number of trainings of a row in README.md."""
HEADS = ["learner, tasks", "score", "trainings", "ours (95 % interval)", "paper", "best known"]


def course(group: Group) -> str:
    """The means before adaptation and after each unit of it; only some where there are many."""
    means = group.evaluations["test"].summary()["mean"]
    digits = next(
        n for n, bound in ((3, 1), (2, 30), (1, 100), (0, np.inf)) if max(abs(means)) <= bound
    )
    texts = [f"{mean:.{digits}f}" for mean in means]
    return ", ".join(texts if len(texts) <= MOST_POINTS else [*texts[:2], "…", texts[-1]])


def suites() -> list[str]:
    """All rows, with what they cost."""
    rows = []
    for group in groups():
        rows.append(
            [
                *cells(group),
                course(group),
                score_text(group.score("ood"), digits_of(group)),
                length(group),
                f"{group.core_hours:.2f}",
            ]
        )
    heads = [*HEADS, "adaptation, from before it", "out of distribution", "length", "core-hours"]
    return table(heads, rows)


def suites_front() -> list[str]:
    """The rows with several trainings, for README.md."""
    rows = [
        [*cells(group), f"{group.core_hours:.2f}"]
        for group in groups()
        if len(group.trainings) >= FRONT_TRAININGS
    ]
    return table([*HEADS, "core-hours"], rows)
