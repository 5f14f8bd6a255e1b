"""``meta-rl enjoy``: a trained agent before and after adaptation, side by side, as a video."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from meta_rl.adaptation import Adaptation, adapt_to_task
from meta_rl.algorithm import MetaAlgorithm
from meta_rl.arguments import check_count
from meta_rl.cli.foreign import check_config
from meta_rl.cli.pretrained_runs import find_run
from meta_rl.cli.progress import shown_progress
from meta_rl.cli.settings import check_device, parsed
from meta_rl.cli.trainable import trainable
from meta_rl.evaluation.tasks import distinct_tasks
from meta_rl.files import UNFINISHED
from meta_rl.make import make_task_vec
from meta_rl.tasks import as_task, count_tasks, take_tasks
from meta_rl.vector.task_batch import task_batch

if TYPE_CHECKING:
    from meta_rl.cli.commands import Enjoy

LEAST_PIXELS = 240  # a whole factor enlarges frames so that their shorter side has as many
CAPTION_PIXELS = 30
MOST_GIF_FRAMES = 250
Frames = list[np.ndarray]


def enjoy(command: Enjoy) -> Path:
    """Write a video of the first and of the last episode on some tasks; gives its path.

    Raises:
        ValueError: No run, an agent without environment, a task that does not exist, or a family
            without pictures.
        ImportError: MP4 files need a package that is missing.
    """
    check_device(command.device)
    check_count("num_tasks", command.num_tasks)
    check_count("seed", command.seed, least=0)
    if command.num_episodes is not None:
        check_count("num_episodes", command.num_episodes)
    folder = find_run(command.run)
    out = command.video or folder.path / "enjoy.gif"
    if out.suffix not in (".gif", ".mp4"):
        raise ValueError(f"--video {out}: a file that ends with .gif or .mp4")
    config = folder.config()
    check_config(config, command.imports)
    algorithm = trainable(config.algorithm)
    if not issubclass(algorithm, MetaAlgorithm):
        raise ValueError(f"enjoy shows agents in environments; {config.algorithm} has none")
    if out.suffix == ".mp4":
        _video_writer()
    model: Any = algorithm.load(folder.find_checkpoint(command.checkpoint), device=command.device)
    try:
        env = make_task_vec(config.env_id, 1, render_mode="rgb_array", **config.env_kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config.env_id} has no pictures to show: {error}") from error
    with shown_progress() as shown:
        tasks = _tasks(command, task_batch(env).task_split)
        rows = []
        for index in range(count_tasks(tasks)):
            shown.update("tasks", index / count_tasks(tasks), "playing")
            rows.append(_played(model, env, take_tasks(tasks, index), command))
        shown.update("tasks", 1.0, "writing")
        pictures = [_joined(row) for row in zip(*_padded(rows), strict=True)]
        _write(pictures, out, float(env.metadata.get("render_fps", 10)))
    env.close()
    print(f"video: {out}")
    return out


def _tasks(command: Enjoy, split: Any) -> Any:
    if command.task is None:
        name = f"the {command.split} tasks"
        return distinct_tasks(split[command.split], command.num_tasks, command.seed, name=name)[0]
    task = as_task(split.space, parsed(command.task))
    return {k: v[None] for k, v in task.items()} if isinstance(task, dict) else task[None]


def _played(model: Any, env: Any, task: Any, command: Enjoy) -> list[Frames]:
    """The frames of the first and of the last episode on a task, with their captions."""
    episodes = command.num_episodes
    if episodes is None:
        episodes = max(2, task_batch(env).episodes_per_trial)
    frames: dict[int, Frames] = {0: [], episodes - 1: []}

    def seen(episode: int, repeat: int) -> None:
        if episode in frames and repeat == 0:
            frames[episode].append(env.render()[0])

    adapted = adapt_to_task(
        model,
        env,
        task,
        episodes,
        deterministic=command.deterministic,
        seed=command.seed,
        on_step=seen,
    )
    print(f"task {_text(task)}: {_returns_text(adapted)}", flush=True)
    captions = ["before adaptation", f"after {episodes - 1} episodes" + _of_each(model)]
    return [
        [
            _captioned(frame, f"{caption}: {adapted.returns[episode]:.1f}")
            for frame in frames[episode]
        ]
        for episode, caption in zip((0, episodes - 1), captions, strict=True)
    ]


def _of_each(model: Any) -> str:
    return f" x {model.envs_per_task}" if model.pools_episodes else ""


def _returns_text(adapted: Adaptation) -> str:
    return "returns " + ", ".join(f"{value:.2f}" for value in adapted.returns)


def _text(task: Any) -> str:
    if isinstance(task, dict):
        return ", ".join(f"{name} {_text(value)}" for name, value in task.items())
    return np.array2string(np.asarray(task), precision=3, threshold=6)


def _captioned(frame: np.ndarray, caption: str) -> np.ndarray:
    """Returns an enlarged frame with a line of text above it."""
    scale = -(-LEAST_PIXELS // min(frame.shape[:2]))
    picture = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + CAPTION_PIXELS), "white")
    canvas.paste(Image.fromarray(picture), (0, CAPTION_PIXELS))
    ImageDraw.Draw(canvas).text((6, 7), caption, fill="black", font_size=16)
    return np.asarray(canvas)


def _padded(rows: list[list[Frames]]) -> list[Frames]:
    """Returns, for each panel, as many frames as the longest has: the last one stays."""
    panels = [panel for row in rows for panel in row]
    length = max(map(len, panels))
    return [panel + panel[-1:] * (length - len(panel)) for panel in panels]


def _joined(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Joins panels, two in a row: before and after."""
    pairs = zip(panels[::2], panels[1::2], strict=True)
    rows = [np.concatenate(pair, axis=1) for pair in pairs]
    picture = np.concatenate(rows)
    height, width = picture.shape[:2]
    return picture[: height // 2 * 2, : width // 2 * 2]  # MP4 needs even sides


def _write(pictures: list[np.ndarray], out: Path, fps: float) -> None:
    """Writes a video that takes its place when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(UNFINISHED.format(name=out.stem, process=os.getpid()) + out.suffix)
    try:
        _write_video(pictures, unfinished, fps)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_video(pictures: list[np.ndarray], out: Path, fps: float) -> None:
    if out.suffix == ".mp4":
        _video_writer().mimwrite(out, pictures, fps=fps)
        return
    # GIF counts hundredths of a second, and browsers show at most 50 frames in a second.
    stride = max(1, -(-len(pictures) // MOST_GIF_FRAMES), round(fps / 25))
    first, *others = [Image.fromarray(one).quantize(64) for one in pictures[::stride]]
    duration = max(20, round(1000 * stride / fps / 10) * 10)
    first.save(out, save_all=True, append_images=others, duration=duration, loop=0)


def _video_writer() -> Any:
    try:
        importlib.import_module("imageio_ffmpeg")
        return importlib.import_module("imageio.v2")
    except ImportError as error:
        raise ImportError(
            'MP4 files need imageio-ffmpeg: pip install "meta-rl[rendering]"; .gif does without'
        ) from error
