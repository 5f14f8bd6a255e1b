"""Draws architecture.svg, the picture of the page architecture.md.

python docs/architecture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

TASKS = [
    "task distribution\nTaskSplit",
    "tasks [M, ...]",
    "TaskVectorEnv\na task for each block",
    "TaskFuncEnv\npure functions",
]
LEARNING = [
    "agent\npredict(obs, state)",
    "Rollout\n[T, N, ...]",
    "adapt\nstate, task axis first",
    "train\nouter update",
]
WIDTH, HEIGHT = 2.5, 0.95


def box(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Draws a box with its text, around a centre."""
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    style = "round,pad=0.04,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, style, facecolor=color, edgecolor="0.3"))
    axes.text(x, y, text, ha="center", va="center", fontsize=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str) -> None:
    """Draws an arrow between two points, with its text beside the middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.3", "lw": 1.4})
    level = start[1] == end[1]
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.text(
        x if level else x + 0.12,
        y + 0.12 if level else y,
        text,
        ha="center" if level else "left",
        va="bottom" if level else "center",
        fontsize=8.5,
        color="0.25",
    )


def draw(axes: Axes) -> None:
    """Draws both rows: tasks become rewards, and rollouts become updates."""
    columns, half = [1.4, 5.2, 9.0, 12.8], WIDTH / 2 + 0.06
    top, bottom = 3.0, 0.7
    for x, text in zip(columns, TASKS, strict=True):
        box(axes, x, top, text, "#dce9f7")
    for x, text in zip(columns, LEARNING, strict=True):
        box(axes, x, bottom, text, "#e3f2dd")
    for start, end, text in zip(
        columns, columns[1:], ["sample_tasks", "set_tasks", "state, action"], strict=False
    ):
        arrow(axes, (start + half, top), (end - half, top), text)
    arrow(axes, (columns[3] - half, top - 0.25), (columns[2] + half, top - 0.25), "")
    axes.text(
        10.9, top - 0.32, "observation,\nreward", ha="center", va="top", fontsize=8.5, color="0.25"
    )
    for start, end, text in zip(
        columns, columns[1:], ["collect", "data", "new data"], strict=False
    ):
        arrow(axes, (start + half, bottom), (end - half, bottom), text)
    step = HEIGHT / 2 + 0.06
    arrow(axes, (8.6, top - step), (5.6, bottom + step), "observations, rewards")
    arrow(axes, (1.8, bottom + step), (8.0, top - step), "")
    axes.text(2.55, 1.62, "actions", fontsize=8.5, color="0.25")
    axes.annotate(
        "",
        (columns[0], bottom - step),
        (columns[3], bottom - step),
        arrowprops={
            "arrowstyle": "-|>",
            "color": "0.3",
            "lw": 1.4,
            "connectionstyle": "bar,fraction=-0.04",
        },
    )
    axes.text(7.1, -0.5, "new parameters", ha="center", va="top", fontsize=8.5, color="0.25")
    axes.set_xlim(0, 14.2)
    axes.set_ylim(-0.85, 3.65)
    axes.axis("off")


def main() -> None:
    """Writes the picture beside this file."""
    mpl.rcParams["svg.hashsalt"] = "meta_rl"
    figure = Figure(figsize=(11, 3.6))
    draw(figure.add_axes((0.0, 0.0, 1.0, 1.0)))
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
