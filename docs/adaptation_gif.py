"""Draws docs/pictures/adaptation.gif: a robot before and after adaptation to two tasks.

    python docs/adaptation_gif.py

The agent is docs/examples/cheetah.zip, made by ``meta-rl train maml_trpo HalfCheetahDir
--total-timesteps 3200000``. Without a screen, MuJoCo needs EGL or OSMesa (``MUJOCO_GL``). Both rows
show the same agent: at the top before it has seen anything of the task, below after gradient steps
on its own episodes. The line under each picture is the way from the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import meta_rl
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.rollout import collect_episodes

TASKS = "meta_rl/HalfCheetahDir-v0"
DIRECTIONS = np.array([[1.0], [-1.0]])
NAMES = ("run forward", "run backward")
ENVS_PER_TASK = 20
NUM_STEPS = 3  # gradient steps
EVERY = 4  # steps of the environment between pictures
LENGTH = 160  # steps that are shown
SIZE = (290, 120)  # of a picture, in pixels; text and line come on top
STRIP = 22
METRES = 19.0  # that half of the line shows
DT = 0.05  # duration of a step of HalfCheetahDir, in seconds
SEED = 0
DOCS = Path(__file__).parent


def adapted(agent: MAMLTRPO) -> Any:
    """The agent's fast weights for both tasks, after gradient steps on its own episodes."""
    env = meta_rl.make_task_vec(TASKS, num_tasks=2, envs_per_task=ENVS_PER_TASK)
    env.set_tasks(DIRECTIONS)
    start = np.ones(env.num_envs, dtype=bool)
    state = None
    for step in range(NUM_STEPS):

        def act(observations: Any, state: Any = state) -> tuple[Any, dict[str, Any]]:
            return agent.predict(observations, state, start)[0], {}

        rollout = collect_episodes(env, act, env.reset(seed=SEED + step)[0])
        rollout.envs_per_task = ENVS_PER_TASK
        state = agent.adapt(rollout, state)
    env.close()
    return state


def film(agent: MAMLTRPO, state: Any) -> list[list[tuple[np.ndarray, float]]]:
    """Pictures of an episode of each task, with the way from the start, by time and task."""
    env = meta_rl.make_task_vec(TASKS, num_tasks=2, render_mode="rgb_array")
    env.set_tasks(DIRECTIONS)
    observation, _ = env.reset(seed=SEED)
    start = np.ones(2, dtype=bool)
    frames, ways, returns = [], np.zeros(2), np.zeros(2)
    for step in range(LENGTH):
        if step % EVERY == 0:
            frames.append(list(zip(map(np.asarray, env.render()), ways.tolist(), strict=True)))
        action, _ = agent.predict(observation, state, start, deterministic=True)
        observation, rewards, _, _, infos = env.step(action)
        ways = ways + DT * infos["reward_forward"] * DIRECTIONS[:, 0]
        returns += rewards
    env.close()
    print("returns:", returns.round(1), "metres:", ways.round(1))
    return frames


def tile(frame: np.ndarray, way: float, text: str) -> Image.Image:
    """A text, a smaller picture, and a line with a dot where the robot is."""
    image = Image.fromarray(frame)
    height = round(image.width * SIZE[1] / SIZE[0])
    top = (image.height - height) // 2
    image = image.crop((0, top, image.width, top + height)).resize(SIZE, Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (SIZE[0], SIZE[1] + 2 * STRIP), "white")
    sheet.paste(image, (0, STRIP))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((4, 2), text, fill="black", font=font)
    middle, y = SIZE[0] / 2, SIZE[1] + 1.5 * STRIP
    x = middle + way / METRES * middle
    draw.line((0, y, SIZE[0], y), fill="grey")
    draw.line((middle, y - 6, middle, y + 6), fill="grey")
    draw.line((middle, y, x, y), fill="royalblue", width=4)
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill="royalblue")
    draw.text((4 if way > 0 else SIZE[0] - 60, y - 10), f"{way:+.1f} m", fill="black", font=font)
    return sheet


def main() -> None:
    """Films the agent before and after adaptation, and writes the GIF."""
    agent = MAMLTRPO.load(DOCS / "examples" / "cheetah.zip")
    rows = {"before": film(agent, None), "after adaptation": film(agent, adapted(agent))}
    width, height = SIZE[0] + 6, SIZE[1] + 2 * STRIP + 6
    pictures = []
    for time in range(len(rows["before"])):
        sheet = Image.new("RGB", (2 * width - 6, 2 * height - 6), "white")
        for row, (name, frames) in enumerate(rows.items()):
            for column, (frame, way) in enumerate(frames[time]):
                picture = tile(frame, way, f"{NAMES[column]}: {name}")
                sheet.paste(picture, (column * width, row * height))
        pictures.append(sheet.quantize(48, dither=Image.Dither.NONE))
    path = DOCS / "pictures" / "adaptation.gif"
    path.parent.mkdir(exist_ok=True)
    duration = round(1000 * DT * EVERY)
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
