"""Draws docs/pictures/tasks.png: what differs between the tasks of four families of robots.

python docs/task_tiles.py

Without a screen, MuJoCo needs EGL or OSMesa (``MUJOCO_GL``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure

PATH = Path(__file__).parent / "pictures" / "tasks.png"
MOTORS = ("back hip", "back knee", "back foot", "front hip", "front knee", "front foot")


def picture(name: str, task: Any) -> np.ndarray:
    """The first state of an episode on a task, uint8 ``[height, width, 3]``."""
    env = gym.make(f"meta_rl:meta_rl/{name}-v0", render_mode="rgb_array")
    env.reset(seed=0, options={"task": task})
    frame = np.asarray(env.render())
    env.close()
    return frame


def rows() -> dict[str, list[tuple[str, Any]]]:
    """Three tasks of each family, with a text."""
    goals = [(2.0, 0.5), (0.5, 2.0), (-2.0, 0.0)]
    angles = [0.0, 1.6, 3.1]
    walkers = gym.make("meta_rl:meta_rl/Walker2dRandParams-v0").unwrapped.task_split.test.tasks
    return {
        "AntGoal": [(f"goal ({x}, {y}) m", np.array([x, y])) for x, y in goals],
        "AntDir": [(f"direction {np.rad2deg(angle):.0f}°", np.array([angle])) for angle in angles],
        "HalfCheetahCripple": [(f"dead motor: {MOTORS[i]}", np.int64(i)) for i in (0, 2, 4)],
        "Walker2dRandParams": [
            (
                f"torso × {walkers['body_mass'][i].ravel()[0]:.2g}, "
                f"thigh × {walkers['body_mass'][i].ravel()[1]:.2g}",
                {name: part[i] for name, part in walkers.items()},
            )
            for i in range(3)
        ],
    }


def main() -> None:
    """Draws all."""
    families = rows()
    figure = Figure(figsize=(7.2, 9.6), layout="constrained")
    axes = figure.subplots(len(families), 3)
    for line, (name, tasks) in zip(axes, families.items(), strict=True):
        for ax, (text, task) in zip(line, tasks, strict=True):
            ax.imshow(picture(name, task))
            ax.set_title(text, fontsize=9)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=11)
    PATH.parent.mkdir(exist_ok=True)
    figure.savefig(PATH, dpi=85)


if __name__ == "__main__":
    main()
