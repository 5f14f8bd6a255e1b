"""Pictures of runs, and the line that an evaluation prints."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from meta_rl.cli.run_folder import LearningCurve, RunFolder, learning_columns
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meta_rl.cli.commands import Plot


def report(result: EvaluationResult, path: Path) -> None:
    """Write an evaluation and, beside it, its picture, and print a line.

    Args:
        result: The evaluation.
        path: Path of its file; its ending is ``.json``.
    """
    result.save(path)
    picture = path.with_suffix(".png")
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    result.plot(figure.add_subplot())
    _save(figure, picture)
    print(_line(result))
    print(f"evaluation: {path}\npicture: {picture}")


def _save(figure: Figure, path: Path) -> None:
    """Write a picture that takes its place when it is whole."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png", dpi=150)
    with whole_file(path) as file:
        file.write(content.getvalue())


def free_path(result: EvaluationResult, folder: RunFolder) -> Path:
    """The file of an evaluation, by split and number of tasks; no other evaluation is there.

    Where another one is, such as that of another seed, the name ends with a number.
    """
    name = f"evaluation-{result.split}-{result.num_tasks}"
    for number in itertools.count(1):
        path = folder.path / f"{name}{'' if number == 1 else f'-{number}'}.json"
        if not path.exists() or path.read_text(encoding="utf-8") == result.to_json():
            break
    return path


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

    Each kind of tasks has its own axes, and so has each split.

    Raises:
        ValueError: No run given, one twice, or one without anything to draw.
    """
    if not command.runs:
        raise ValueError("plot needs a run folder")
    if len({path.resolve() for path in command.runs}) < len(command.runs):
        raise ValueError("plot got the same run folder twice")
    configs = [RunFolder(path).config() for path in command.runs]
    shared = os.path.commonpath([path.resolve().parent for path in command.runs])
    names = [f"{one.algorithm} {one.tasks} seed {one.seed}" for one in configs]
    texts = [""]
    panels: dict[tuple[str, ...], list[Callable[[Axes], object]]] = {}
    for index, (path, config, name) in enumerate(zip(command.runs, configs, names, strict=True)):
        folder, color = RunFolder(path), f"C{index % 10}"  # a run has one in all axes
        label = (
            name if names.count(name) == 1 else f"{name}, {os.path.relpath(path.resolve(), shared)}"
        )
        if config.total_timesteps or not folder.evaluations():
            curve = learning_columns(folder.learning_curve())
            place = (config.tasks, str(config.env_kwargs), curve.unit, curve.measure)
            learning = partial(_draw_learning, curve, label, color)
            panels.setdefault(("Meta-training", *place), []).append(learning)
        for file in folder.evaluations():
            result = EvaluationResult.load(file)
            measured = (result.environment, str(result.env_kwargs), result.split)
            of = f"{label}\n{file.stem}, seed {result.seed}"
            texts += [label, f"{file.stem}, seed {result.seed} ({result.design.counts()})"]
            tint = color if file == folder.evaluation else None
            key = ("adaptation", *measured, result.unit, result.measure)
            panels.setdefault(key, []).append(partial(result.plot, label=of, color=tint))
    panels = dict(sorted(panels.items()))  # meta-training comes first
    width = max(5.5, 1.0 + 0.09 * max(map(len, texts)))  # the legend has to fit
    height = 4.0 + 0.4 * max(0, max(map(len, panels.values())) - 3)
    figure = Figure(figsize=(width * max(2, len(panels)), height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, ((kind, tasks, *_), draws) in zip(axes, panels.items(), strict=True):
        for draw in draws:
            draw(ax)
        if kind == "Meta-training":
            ax.set_title(f"{kind}, {tasks}")
    out = command.out or command.runs[0] / "plot.png"
    _save(figure, out)
    print(f"picture: {out}")
    return out


def _draw_learning(curve: LearningCurve, label: str, color: str, ax: Axes) -> None:
    ax.plot(curve.steps, curve.trained, label=label, color=color)
    if curve.validated is not None:
        points = np.array([curve.steps, curve.validated])
        points = points[:, ~np.isnan(points[1])]
        ax.plot(*points, ".", markeredgecolor="black", color=color)
    ax.set_xlabel(curve.unit)
    ax.set_ylabel(f"{curve.measure} (dots: validation tasks)")
    ax.legend()
