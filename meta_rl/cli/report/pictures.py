"""The pictures of a report, as SVG in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from meta_rl.cli.report.results import Group
from meta_rl.evaluation.aggregates import Scores, bootstrap_interval, performance_profile

SIZE = (6.4, 4.0)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Colours that people with colour blindness can tell apart (Okabe and Ito, 2008)."""


class Picture(NamedTuple):
    """A picture.

    Attributes:
        caption: Sentence that tells the content.
        source: The picture as a data URI, which needs no file and no network.
    """

    caption: str
    source: str


def adaptation(tasks: str, groups: Sequence[Group]) -> Picture:
    """Draws the adaptation of all learners on the same tasks, with intervals."""
    figure, ax = _axes()
    for group in groups:
        group.evaluations["test"].plot(ax, label=group.learner)
    ax.set_title("Adaptation on test tasks")
    return Picture(f"Adaptation on {tasks}.", _source(figure))


def learning(tasks: str, groups: Sequence[Group]) -> Picture | None:
    """Draws the validation scores of every training; ``None`` where none was logged."""
    figure, ax = _axes()
    drawn = 0
    for index, group in enumerate(groups):
        curves = [t["learning_curve"] for t in group.trainings if t["learning_curve"]]
        for number, curve in enumerate(curves):
            label = f"{group.learner} ({len(curves)} trainings)" if number == 0 else None
            color = COLORS[index % len(COLORS)]
            ax.plot(curve["steps"], curve["scores"], color=color, label=label, marker=".", lw=1)
            ax.set_xlabel(curve["unit"])
            ax.set_ylabel(curve["measure"])
        drawn += len(curves)
    if not drawn:
        return None
    ax.set_title("Validation tasks during training")
    ax.legend()
    return Picture(f"Learning curves on {tasks}; a line is a training.", _source(figure))


def profiles(learners: Mapping[str, Scores], rng: np.random.Generator) -> Picture:
    """Draws the performance profile of each learner, with bootstrap intervals.

    Args:
        learners: Normalised scores of the trainings, by tasks, by learner.
        rng: Generator of the bootstrap.
    """
    figure, ax = _axes()
    values = [score for own in learners.values() for scores in own.values() for score in scores]
    thresholds = np.linspace(min(0.0, *values) - 0.02, max(1.0, *values) + 0.02, 201)
    for name, scores in learners.items():
        shares = performance_profile(scores, thresholds)
        label = f"{name} (kinds of tasks: {len(scores)})"
        (line,) = ax.plot(thresholds, shares, label=label)

        def statistic(drawn: Scores) -> np.ndarray:
            return performance_profile(drawn, thresholds)

        if max(map(len, scores.values())) > 1:
            low, high = bootstrap_interval(statistic, [scores], rng).T
            ax.fill_between(thresholds, low, high, color=line.get_color(), alpha=0.15, lw=0)
    ax.set_xlabel("normalised score τ (0: random actions, 1: optimum)")
    ax.set_ylabel("share of trainings with a score above τ")
    ax.set_title("Performance profiles")
    ax.legend()
    return Picture("Performance profiles; bands are 95 % bootstrap intervals.", _source(figure))


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=SIZE, layout="constrained")
    ax = figure.add_subplot()
    ax.set_prop_cycle(cycler(color=COLORS))
    ax.grid(alpha=0.25)
    return figure, ax


def _source(figure: Figure) -> str:
    """The figure as a data URI, the same bytes for the same figure."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "meta_rl"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
