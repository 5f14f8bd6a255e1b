"""Pictures of runs, and the line that an evaluation prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from meta_rl.cli.run_folder import RunFolder, learning_columns
from meta_rl.evaluation.result import EvaluationResult

if TYPE_CHECKING:
    from meta_rl.cli.commands import Plot


def report(result: EvaluationResult, folder: RunFolder) -> None:
    """Write an evaluation and its picture into the run folder, and print a line."""
    result.save(folder.evaluation)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    result.plot(figure.add_subplot())
    figure.savefig(folder.picture, dpi=150)
    print(_line(result))
    print(f"evaluation: {folder.evaluation}\npicture: {folder.picture}")


def _line(result: EvaluationResult) -> str:
    """The result in a line; returns are summed over the trial."""
    if result.measure != "return":
        return str(result)
    summary = result.summary()
    last = result.values.shape[1] - 1
    return (
        f"{result.learner}, {result.counts_text()} of {result.environment}: "
        f"total {summary['total_mean']:.2f} "
        f"({result.interval_text(summary['total_mean_interval'], digits=2)}); "
        f"{result.unit} 1: {summary['mean'][0]:.3f}, {result.unit} {last + 1}: "
        f"{summary['mean'][last]:.3f}" + result.success_text()
    )


def plot(command: Plot) -> Path:
    """Draw learning curves and adaptation of all runs into one picture; gives its path.

    Raises:
        ValueError: No run given, or one without anything to draw.
    """
    if not command.runs:
        raise ValueError("plot needs a run folder")
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    learning, adaptation = figure.subplots(1, 2)
    curves = []
    for index, path in enumerate(command.runs):
        folder = RunFolder(path)
        config = folder.config()
        color = f"C{index % 10}"  # a run has one in both pictures
        label = f"{config.algorithm} {config.tasks} seed {config.seed}"
        if folder.evaluation.exists():
            EvaluationResult.load(folder.evaluation).plot(adaptation, label=label, color=color)
            if not config.total_timesteps:
                continue  # nothing was learned before the tasks
        curve = learning_columns(folder.learning_curve())
        curves.append(curve)
        learning.plot(curve.steps, curve.trained, label=label, color=color)
        if curve.validated is not None:
            points = np.array([curve.steps, curve.validated])
            points = points[:, ~np.isnan(points[1])]
            learning.plot(*points, ".", markeredgecolor="black", color=color)
    if curves:
        learning.set_xlabel(" or ".join(sorted({curve.unit for curve in curves})))
        measures = " or ".join(sorted({curve.measure for curve in curves}))
        learning.set_ylabel(f"{measures} (dots: validation tasks)")
        learning.legend()
    learning.set_title("Meta-training")
    out = command.out or command.runs[0] / "plot.png"
    figure.savefig(out, dpi=150)
    print(f"picture: {out}")
    return out
