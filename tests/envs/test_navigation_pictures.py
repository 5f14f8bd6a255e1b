"""Pictures of the navigation families.

The agent and the goal are at the right pixels, in the plane and on grids; pictures of a batch are
those of its sub-environments; keys disappear and cues show; Gymnasium's ways to a picture work:
``gym.make`` with ``rgb_array`` and ``rgb_array_list``, wrappers that render, ``RecordVideo``.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import AddRenderObservation, RecordVideo

from meta_rl import TaskEnv, TaskVectorEnv
from meta_rl.envs import map_picture as picture
from meta_rl.envs.dark_room import DarkKeyToDoor, DarkRoom
from meta_rl.envs.grid_navigation import GridNavigation
from meta_rl.envs.point_navigation import PointNavigation, PointRobot
from meta_rl.envs.sparse_point_navigation import SparsePointNavigation
from meta_rl.envs.t_maze import TMaze
from meta_rl.envs.wind_navigation import WindNavigation

FAMILIES = [
    PointNavigation,
    PointRobot,
    SparsePointNavigation,
    WindNavigation,
    GridNavigation,
    DarkRoom,
    DarkKeyToDoor,
    TMaze,
]


def centre_of(frame: np.ndarray, colour: picture.Colour) -> tuple[float, float]:
    """Mean row and column of the pixels of one colour."""
    rows, columns = np.nonzero((frame == colour).all(axis=-1))
    assert len(rows), f"no pixel of colour {colour}"
    return float(rows.mean()), float(columns.mean())


def colour_at(frame: np.ndarray, x: int, y: int, height: int) -> tuple[int, ...]:
    """Of the middle of a grid's cell."""
    row, column = picture.cell_pixels([x, y], height)
    return tuple(frame[row, column].tolist())


def rendered(family: Any, tasks: Any, actions: list[Any] = (), **kwargs: Any) -> list[np.ndarray]:
    num = len(tasks["key"] if isinstance(tasks, dict) else tasks)
    env = TaskVectorEnv(family, num, render_mode="rgb_array", **kwargs)
    env.set_tasks(tasks)
    env.reset(seed=0)
    for action in actions:
        env.step(np.repeat(np.array(action)[None], num, axis=0))
    return list(env.render())


def test_plane_pixels_by_hand() -> None:
    """The middle, the corners, the border for what lies outside; up is towards row 0."""
    last = picture.PLANE_PIXELS - 1
    points = [[-2.0, -1.0], [2.0, 3.0], [-2.0, 3.0], [9.0, -9.0]]
    pixels = picture.plane_pixels(points, centre=(0.0, 1.0), half_width=2.0)
    assert pixels.tolist() == [[last, 0], [0, last], [0, 0], [last, last]]
    middle = picture.plane_pixels([0.0, 1.0], centre=(0.0, 1.0), half_width=2.0)
    assert np.abs(middle - last / 2).max() <= 0.5


def test_cell_pixels_by_hand() -> None:
    side = picture.CELL_PIXELS
    pixels = picture.cell_pixels([[0, 0], [2, 1]], height=3)
    assert pixels.tolist() == [
        [2 * side + side // 2, side // 2],
        [side + side // 2] * 1 + [2 * side + side // 2],
    ]


@pytest.mark.parametrize(
    ("family", "half", "centre"),
    [(PointNavigation, 1.1, 0.0), (PointRobot, 2.1, 0.0), (SparsePointNavigation, 1.3, 0.0)],
)
def test_points_and_goals_are_where_they_are(family: Any, half: float, centre: float) -> None:
    goals = np.array([[0.6, 0.8], [-0.8, 0.6]])
    env = TaskVectorEnv(family, 2, render_mode="rgb_array")
    env.set_tasks(goals)
    env.reset(seed=0)
    for _ in range(3):
        points = env.step(np.array([[1.0, -1.0], [-1.0, -0.5]]))[0]
    pixels = picture.PLANE_PIXELS - 1
    for frame, point, goal in zip(env.render(), points, goals, strict=True):
        assert frame.shape == (picture.PLANE_PIXELS, picture.PLANE_PIXELS, 3)
        assert frame.dtype == np.uint8
        for place, colour in ((point, picture.AGENT), (goal, picture.GOAL)):
            share = place / (2 * half) + 0.5
            row, column = centre_of(frame, colour)
            assert abs(column - share[0] * pixels) <= 0.6
            assert abs(row - (1 - share[1]) * pixels) <= 0.6


def test_zones_that_pay_are_drawn_to_scale() -> None:
    (frame,) = rendered(SparsePointNavigation, [[0.0, 1.0]])
    colours = frame.reshape(-1, 3)
    zone = ((colours == picture.ZONE) | (colours == picture.GOAL)).all(axis=1).sum()
    per_unit = picture.PLANE_PIXELS / 2.6
    assert zone == pytest.approx(np.pi * (0.2 * per_unit) ** 2, rel=0.06)


def test_wind_moves_the_point_in_the_picture() -> None:
    still, blown = rendered(WindNavigation, [[0.0, 0.0], [0.08, 0.0]], [[0.0, 0.0]] * 5)
    rows, columns = zip(*(centre_of(f, picture.AGENT) for f in (still, blown)), strict=True)
    assert rows[0] == rows[1]
    assert columns[1] - columns[0] == pytest.approx(0.4 * picture.PLANE_PIXELS / 2.2, abs=1.2)
    assert centre_of(still, picture.GOAL) == centre_of(blown, picture.GOAL)


def test_grids_by_hand() -> None:
    frames = rendered(GridNavigation, [[3, 0], [4, 4]], [2, 1])
    for frame, goal in zip(frames, ([3, 0], [4, 4]), strict=True):
        assert frame.shape == (5 * picture.CELL_PIXELS, 5 * picture.CELL_PIXELS, 3)
        expected = {(0, 0): picture.START, tuple(goal): picture.GOAL, (1, 1): picture.AGENT}
        for x in range(5):
            for y in range(5):
                wanted = expected.get((x, y), picture.FLOOR)
                assert colour_at(frame, x, y, 5) == wanted, (x, y)
    (frame,) = rendered(DarkRoom, [[0, 8]])
    assert colour_at(frame, 0, 8, 9) == picture.GOAL
    assert colour_at(frame, 4, 4, 9) == picture.AGENT


def test_keys_disappear_when_taken() -> None:
    tasks = {"key": [[0, 0]], "door": [[2, 0]]}
    (before,) = rendered(DarkKeyToDoor, tasks, [1, 1], size=3)
    assert colour_at(before, 0, 0, 3) == picture.KEY
    assert colour_at(before, 2, 0, 3) == picture.GOAL
    taken = [4, 4, 3, 3, 1, 1]  # to the corner, and up again
    (after,) = rendered(DarkKeyToDoor, tasks, taken, size=3)
    assert colour_at(after, 0, 0, 3) == picture.FLOOR
    assert colour_at(after, 0, 2, 3) == picture.AGENT


def test_t_maze_by_hand() -> None:
    up, down = rendered(TMaze, [[1], [-1]], corridor_length=2)
    for frame, goal, other in ((up, 2, 0), (down, 0, 2)):
        assert frame.shape == (3 * picture.CELL_PIXELS, 3 * picture.CELL_PIXELS, 3)
        assert colour_at(frame, 2, goal, 3) == picture.GOAL
        assert colour_at(frame, 2, other, 3) == picture.FLOOR
        assert colour_at(frame, 0, 1, 3) == picture.KEY  # the agent sees the cue
        assert colour_at(frame, 1, 0, 3) == colour_at(frame, 0, 2, 3) == picture.WALL
    (moved,) = rendered(TMaze, [[1]], [0], corridor_length=2)
    assert colour_at(moved, 1, 1, 3) == picture.AGENT
    assert colour_at(moved, 0, 1, 3) == picture.ZONE


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_a_batch_are_those_of_its_sub_environments(family: Any) -> None:
    definition = family()
    tasks = definition.task_split.train.sample_tasks(3, np.random.default_rng(0))
    env = TaskVectorEnv(definition, 3, render_mode="rgb_array")
    env.set_tasks(tasks)
    env.reset(seed=0)
    state = env._state
    together = env.render()
    assert len(together) == 3
    for i, frame in enumerate(together):
        one = type(state)(*(part[[i]] for part in state))
        alone = definition.render_frames(one, _at(tasks, [i]), "rgb_array")
        np.testing.assert_array_equal(frame, alone[0])


def _at(tasks: Any, index: list[int]) -> Any:
    return {k: v[index] for k, v in tasks.items()} if isinstance(tasks, dict) else tasks[index]


@pytest.mark.parametrize("family", FAMILIES)
def test_gymnasium_makes_environments_that_render(family: Any) -> None:
    """As gymnasium.make does it, without a warning (warnings are errors here)."""
    env = gym.make(f"meta_rl/{family.__name__}-v0", render_mode="rgb_array")
    assert env.metadata["render_modes"] == ["human", "rgb_array"]
    assert env.render_mode == "rgb_array"
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    collected = gym.make(f"meta_rl/{family.__name__}-v0", render_mode="rgb_array_list")
    collected.reset(seed=0)
    for _ in range(2):
        collected.step(collected.action_space.sample())
    frames = collected.render()
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[0], frame)
    seen, _ = AddRenderObservation(env).reset(seed=0)
    np.testing.assert_array_equal(seen, frame)


def test_families_without_pictures_say_so() -> None:
    with pytest.raises(ValueError, match="render_mode 'rgb_array'"):
        gym.make("meta_rl/BernoulliBandit-v0", render_mode="rgb_array")


def test_rendering_needs_a_reset() -> None:
    for env in (
        TaskEnv(TMaze, render_mode="rgb_array"),
        TaskVectorEnv(TMaze, 2, render_mode="rgb_array"),
    ):
        with pytest.raises(gym.error.ResetNeeded, match="render"):
            env.render()


def test_videos_are_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """``RecordVideo`` gives moviepy, which is replaced here, every frame of an episode."""
    clips: list[Any] = []

    class Clip:
        def __init__(self, frames: list[np.ndarray], fps: float) -> None:
            self.frames, self.fps = frames, fps
            clips.append(self)

        def write_videofile(self, path: str, logger: Any = None) -> None:
            pass

        def close(self) -> None:
            pass

    names = ["moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[-1]].ImageSequenceClip = Clip
    env = RecordVideo(
        gym.make("meta_rl/GridNavigation-v0", render_mode="rgb_array"),
        str(tmp_path / "videos"),
        episode_trigger=lambda episode: True,
        disable_logger=True,
    )
    env.reset(seed=0, options={"task": [2, 2]})
    for _ in range(15):
        env.step(2)
    env.close()
    assert len(clips) == 1
    assert clips[0].fps == 5
    assert len(clips[0].frames) == 16
    columns = [centre_of(frame, picture.AGENT)[1] for frame in clips[0].frames[:6]]
    assert np.diff(columns).tolist() == pytest.approx([picture.CELL_PIXELS] * 4 + [0])
