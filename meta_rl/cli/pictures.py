"""Pictures of runs, and the line that an evaluation prints."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.run_groups import AggregatedCurve, RunGroup, find_groups
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


def free_path(result: EvaluationResult, folder: RunFolder, suffix: str = "") -> Path:
    """The file of an evaluation, by split and number of tasks; no other evaluation is there.

    Where another one is, such as that of another seed, the name ends with a number.

    Args:
        result: The evaluation.
        folder: Run folder.
        suffix: Text after the number of tasks, such as ``"-best"``.
    """
    name = f"evaluation-{result.split}-{result.num_tasks}{suffix}"
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
    end = f", {result.unit} {last + 1}: {summary['mean'][last]:.3f}" if last else ""
    return (
        f"{result.learner}, {result.counts_text()} of {result.environment_title}: "
        f"total {summary['total_mean']:.2f} "
        f"({result.interval_text(summary['total_mean_interval'], digits=2)}); "
        f"{result.unit} 1: {summary['mean'][0]:.3f}{end}" + result.success_text()
    )


def plot(command: Plot) -> Path:
    """Draw learning curves and adaptation of all runs into one picture; gives its path.

    Runs that differ by their seed alone are one curve, with an interval over the runs. Each kind of
    tasks has its own axes, and so has each split.

    Raises:
        ValueError: No run given, one twice, or one without anything to draw.
    """
    if not command.runs:
        raise ValueError("plot needs a run folder")
    out = command.out or command.runs[0] / "plot.png"
    draw(find_groups(command.runs), out)
    print(f"picture: {out}")
    return out


class Style(NamedTuple):
    """The look of a group's curves, the same in all axes."""

    color: str
    marker: str
    linestyle: str

    @classmethod
    def of(cls, index: int) -> Style:
        """Returns the style of the group at ``index``; a hundred groups have different ones."""
        round_, place = divmod(index, len(COLOURS))
        return cls(COLOURS[place], MARKERS[index % len(MARKERS)], LINES[round_ % len(LINES)])


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#9a6324")
"""Okabe and Ito's colours, which colour-blind readers can tell apart, and a brown."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES = ("-", "--", ":", "-.")
LONG_LEGEND = 3
"""Number of entries from which a legend lies under its axes."""


def draw(groups: Sequence[RunGroup], out: Path) -> None:
    """Draw groups of runs into one picture.

    Args:
        groups: The groups.
        out: Path of the picture.

    Raises:
        ValueError: A run has nothing to draw.
    """
    panels: dict[tuple[str, ...], list[Callable[[Axes], object]]] = {}
    texts = [group.label for group in groups]
    for index, group in enumerate(groups):
        style, config = Style.of(index), group.config
        curve = group.curve()
        if curve is not None:
            place = (config.tasks, str(config.env_kwargs), curve.unit, curve.measure)
            learning = partial(_draw_learning, curve, group.label, style)
            panels.setdefault(("Meta-training", *place), []).append(learning)
        for name, result in group.evaluations().items():
            usual = name == "evaluation" and result.seed == 0  # that of the training's end
            of = group.label if usual else f"{group.label}\n{name}, seed {result.seed}"
            texts += [f"{of.splitlines()[-1]} ({result.design.counts()})"]
            measured = (result.environment, str(result.env_kwargs), result.split)
            key = ("adaptation", *measured, result.unit, result.measure)
            tint = style if name == "evaluation" else None
            panels.setdefault(key, []).append(partial(_draw_adaptation, result, of, tint))
    if not panels:
        raise ValueError("the runs have logged nothing yet")
    panels = dict(sorted(panels.items()))  # meta-training comes first
    width = max(5.5, 1.0 + 0.085 * max(map(len, texts)))  # the legend has to fit
    most = max(map(len, panels.values()))
    height = 4.0 + (0.45 * most if most >= LONG_LEGEND else 0.0)
    figure = Figure(figsize=(width * max(2, len(panels)), height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    others = [COLOURS[(len(groups) + i) % len(COLOURS)] for i in range(len(COLOURS))]
    for ax, ((kind, tasks, *_), draws) in zip(axes, panels.items(), strict=True):
        ax.set_prop_cycle(color=others)  # of lines without a group's style
        for one in draws:
            one(ax)
        if kind == "Meta-training":
            ax.set_title(f"{kind}, {tasks}{_runs_text(groups, tasks)}")
        if len(draws) >= LONG_LEGEND:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize="small")
            for band in ax.collections:  # many bands lie on each other
                band.set_alpha(0.1)
    _save(figure, out)


def _runs_text(groups: Sequence[RunGroup], tasks: str) -> str:
    """The number of runs of each curve, where all curves have the same one and it is not 1."""
    counts = {len(group.runs) for group in groups if group.config.tasks == tasks}
    return f", {counts.pop()} runs each" if len(counts) == 1 and counts != {1} else ""


def _draw_learning(curve: AggregatedCurve, label: str, style: Style, ax: Axes) -> None:
    color, marker, line = style
    trained, validated = curve.trained, curve.validated
    every = max(1, len(trained.steps) // 8)
    ax.plot(
        trained.steps,
        trained.mean,
        label=label,
        color=color,
        linestyle=line,
        marker=marker,
        markevery=every if validated is None else [],  # the legend shows it
    )
    if trained.interval is not None:
        ax.fill_between(trained.steps, *trained.interval.T, color=color, alpha=0.2, linewidth=0)
    if validated is not None:
        ax.plot(validated.steps, validated.mean, marker, markeredgecolor="black", color=color, ms=5)
    ax.set_xlabel(curve.unit)
    about = f"{curve.measure} (dots: validation tasks)"
    if curve.num_runs > 1:
        about += "\nbands: 95 % intervals over runs"
    if len(about) > len(ax.get_ylabel()):
        ax.set_ylabel(about)
    ax.legend()


def _draw_adaptation(result: EvaluationResult, label: str, style: Style | None, ax: Axes) -> None:
    drawn = len(ax.lines)
    result.plot(ax, label=label, color=None if style is None else style.color)
    if style is not None:
        line = ax.lines[drawn]
        line.set_marker(style.marker)
        line.set(linestyle=style.linestyle)
        line.set_markersize(5)
        line.set_markevery(max(1, result.values.shape[1] // 10))
        ax.legend()
