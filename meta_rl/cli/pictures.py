"""Pictures of runs, and the line that an evaluation prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meta_rl.cli.run_folder import LearningCurve, RunFolder, learning_columns
from meta_rl.evaluation.result import EvaluationResult

if TYPE_CHECKING:
    from meta_rl.cli.commands import Plot


def report(result: EvaluationResult, file: Path) -> None:
    """Writes an evaluation and, beside it, its picture, and prints a line."""
    picture = file.with_suffix(".png")
    result.save(file)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    result.plot(figure.add_subplot())
    figure.savefig(picture, dpi=150)
    print(_line(result))
    print(f"evaluation: {file}\npicture: {picture}")


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


class _Run(NamedTuple):
    """What is drawn of a run: its name and colour, its log, and its evaluations."""

    label: str
    color: str
    tasks: str
    curve: LearningCurve | None
    evaluations: list[EvaluationResult]


def plot(command: Plot) -> Path:
    """Draws learning curves and adaptation of all runs into one picture, and returns its path.

    Runs on other tasks, and evaluations of other tasks or splits, have axes of their own.

    Raises:
        ValueError: There is no run, or a run without anything to draw.
    """
    if not command.runs:
        raise ValueError("plot needs a run folder")
    runs = _read_runs(command.runs)
    learning = _grouped((run.tasks, run) for run in runs if run.curve is not None)
    adaptation = _grouped(
        (f"{result.environment} {result.split} {result.unit} {result.measure}", (run, result))
        for run in runs
        for result in run.evaluations
    )
    number = len(learning) + len(adaptation)
    if not number:
        raise ValueError(f"{command.runs[0]} has no log and no evaluation to draw yet")
    figure = Figure(figsize=(5.5 * number, 4.0), layout="constrained")
    axes = iter(figure.subplots(1, number, squeeze=False)[0])
    for tasks, group in learning.items():
        _draw_learning(next(axes), tasks, group)
    for pairs in adaptation.values():
        ax = next(axes)
        for run, result in pairs:
            result.plot(ax, label=f"{run.label}, {result.split}", color=run.color)
    out = command.out or command.runs[0] / "plot.png"
    figure.savefig(out, dpi=150)
    print(f"picture: {out}")
    return out


def _read_runs(paths: Sequence[Path]) -> list[_Run]:
    folders = [RunFolder(path) for path in paths]
    configs = [folder.config() for folder in folders]
    labels = [f"{config.algorithm} {config.tasks} seed {config.seed}" for config in configs]
    runs = []
    for index, (folder, config, label) in enumerate(zip(folders, configs, labels, strict=True)):
        evaluations = [EvaluationResult.load(file) for file in folder.evaluations()]
        needs_none = not config.total_timesteps and evaluations  # nothing was learned before
        curve = None if needs_none else learning_columns(folder.learning_curve())
        name = label if labels.count(label) == 1 else f"{label} ({folder.path})"
        runs.append(_Run(name, f"C{index % 10}", config.tasks, curve, evaluations))
    return runs


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def _draw_learning(ax: Axes, tasks: str, runs: list[_Run]) -> None:
    """Draws the scores on training tasks as lines, those on validation tasks as dots."""
    curves = [(run, run.curve) for run in runs if run.curve is not None]
    for run, curve in curves:
        ax.plot(curve.steps, curve.trained, label=run.label, color=run.color)
        if curve.validated is not None:
            points = np.array([curve.steps, curve.validated])
            points = points[:, ~np.isnan(points[1])]
            ax.plot(*points, ".", markeredgecolor="black", color=run.color)
    ax.set_xlabel(" or ".join(sorted({curve.unit for _, curve in curves})))
    measures = " or ".join(sorted({curve.measure for _, curve in curves}))
    ax.set_ylabel(f"{measures} (dots: validation tasks)")
    ax.set_title(f"Meta-training on {tasks}")
    ax.legend()
