"""Pictures of every family that renders: ``docs/environments/<Name>.png`` and ``docs/gallery.png``.

    python docs/gallery.py

Without a screen, the robots need EGL or OSMesa (``MUJOCO_GL``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from meta_rl.make import ENVIRONMENTS, NAMESPACE

DOCS = Path(__file__).parent
PIXELS = 240
COLUMNS = 6

# Tasks that show well, where the first of the test list does not.
TASKS: dict[str, Any] = {
    "AntDir-v0": [0.5],
    "AntForwardBackward-v0": [-1.0],
    "AntGoal-v0": [1.5, -1.0],
    "AntVel-v0": [2.0],
    "HalfCheetahDir-v0": [-1.0],
    "HalfCheetahDirMAML-v0": [1.0],
    "HalfCheetahVel-v0": [2.0],
    "HalfCheetahVelMAML-v0": [1.0],
    "HopperVel-v0": [1.5],
    "HumanoidDir-v0": [0.5],
    "ReacherGoal-v0": [0.1, 0.12],
    "Walker2dVel-v0": [1.5],
}
STEPS = 5  # of random actions before the picture is taken


def frame(name: str) -> np.ndarray | None:
    """One picture of a family, uint8 ``[height, width, 3]``; ``None`` where it does not render."""
    if "rgb_array" not in gym.make(NAMESPACE + name).metadata["render_modes"]:
        return None
    env = gym.make(NAMESPACE + name, render_mode="rgb_array")
    split = env.get_wrapper_attr("task_split")
    task = TASKS.get(name, split.test.sample_tasks(1, np.random.default_rng(0)))
    options = {"task": np.asarray(task)} if name in TASKS else {"task": first(task)}
    env.action_space.seed(0)
    env.reset(seed=0, options=options)
    for _ in range(STEPS):
        env.step(env.action_space.sample())
    picture = env.render()
    env.close()
    return picture


def first(tasks: Any) -> Any:
    """The first of a batch of tasks."""
    return {k: v[0] for k, v in tasks.items()} if isinstance(tasks, dict) else tasks[0]


def save(picture: np.ndarray, path: Path) -> None:
    """Write a picture, no side of it longer than ``PIXELS``."""
    image = Image.fromarray(picture)
    share = PIXELS / max(image.size)
    how = Image.Resampling.LANCZOS if share < 1 else Image.Resampling.NEAREST
    image = image.resize([round(side * share) for side in image.size], how)
    image.save(path, optimize=True)


def main() -> None:
    """Draw all."""
    pictures = {name: frame(name) for name in ENVIRONMENTS}
    shown = {name: picture for name, picture in pictures.items() if picture is not None}
    for name, picture in shown.items():
        save(picture, DOCS / "environments" / f"{name.partition('-')[0]}.png")
    rows = -(-len(shown) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(1.5 * COLUMNS, 1.75 * rows), layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, picture) in zip(axes.flat, shown.items(), strict=False):
        axis.imshow(picture)
        axis.set_title(name.partition("-")[0], fontsize=8)
    figure.savefig(DOCS / "gallery.png", dpi=110)


if __name__ == "__main__":
    main()
