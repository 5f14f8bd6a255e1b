"""Windows and grids of frames.

``render_mode="human"`` shows every first state and every step of one environment, at the family's
speed, and nothing of a batch; the window shows the frame, pixel by pixel; without a screen or
pygame, the error says so; a grid has each frame in its place.
"""

from __future__ import annotations

import pickle
import sys
import time
from typing import Any

import glfw
import gymnasium as gym
import numpy as np
import pytest

import meta_rl
from meta_rl import TaskEnv, TaskVectorEnv, frame_grid
from meta_rl.envs.point_navigation import PointRobot
from meta_rl.rendering.mujoco_picture import check_screen
from meta_rl.rendering.window import PictureWindow

from .families import Corridor


class FakeWindow:
    """Keeps what it is to show."""

    def __init__(self) -> None:
        self.shown: list[tuple[Any, Any]] = []
        self.closed = False

    def show(self, state: Any, tasks: Any) -> None:
        self.shown.append((state.position[0].tolist(), tasks[0].tolist()))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the environment has slept, instead of sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_every_state_is_shown_at_the_familys_speed(
    monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    windows = []
    monkeypatch.setattr(
        PointRobot, "open_window", lambda _: windows.append(FakeWindow()) or windows[-1]
    )
    env = gym.make("meta_rl/PointRobot-v0", render_mode="human")
    seen = [env.reset(seed=0, options={"task": np.array([0.5, -0.5])})[0].tolist()]
    for _ in range(3):
        seen.append(env.step(np.ones(2, dtype=np.float32))[0].tolist())
    assert env.render() is None
    (window,) = windows
    assert window.shown == [(position, [0.5, -0.5]) for position in [*seen, seen[-1]]]
    assert naps[0] == 0.0
    assert all(0.05 < nap <= 0.1 for nap in naps[1:])  # ten frames a second
    assert pickle.loads(pickle.dumps(env.unwrapped))._window is None
    env.close()
    assert window.closed
    env.close()


def test_only_single_environments_that_render_have_a_window() -> None:
    with pytest.raises(ValueError, match="no render_mode 'human': only rgb_array"):
        gym.make_vec("meta_rl/PointRobot-v0", num_envs=2, render_mode="human")
    with pytest.raises(ValueError, match="no render_mode 'human': nothing is rendered"):
        TaskEnv(Corridor, render_mode="human")
    assert TaskEnv(PointRobot).metadata["render_modes"] == ["human", "rgb_array"]
    assert TaskVectorEnv(PointRobot).metadata["render_modes"] == ["rgb_array"]


def test_the_window_shows_the_frame(monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    """With a driver of SDL that has no screen."""
    pygame = pytest.importorskip("pygame", reason="needs pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make("meta_rl/GridNavigation-v0", render_mode="human")
    env.reset(seed=0, options={"task": np.array([3, 4])})
    env.step(2)
    inside = env.unwrapped
    frame = inside.definition.render_frames(inside._batch._state, inside._batch._played, "")[0]
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    scale = 4  # 120 pixels become 480
    assert shown.shape == (480, 480, 3)
    for row in range(scale):
        np.testing.assert_array_equal(shown[row::scale, row::scale], frame)
    assert pygame.display.get_caption()[0] == "GridNavigation"
    env.close()
    assert not pygame.display.get_init()


def test_no_pygame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = gym.make("meta_rl/PointRobot-v0", render_mode="human")
    with pytest.raises(ImportError, match=r'render_mode="human" needs pygame: pip install pygame'):
        env.reset(seed=0)
    env.close()


def test_no_screen_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="needs pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "no such driver")
    with pytest.raises(RuntimeError, match=r"there is no screen .*rgb_array"):
        PictureWindow(lambda state, tasks: [], "")


def test_no_screen_for_robots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glfw, "init", lambda: False)
    env = gym.make("meta_rl/HopperVel-v0", render_mode="human", nthread=1)
    with pytest.raises(RuntimeError, match=r"opens a window, but there is no screen .*rgb_array"):
        env.reset(seed=0)
    env.close()


def test_robots_have_a_window_with_their_goal(naps: list[float]) -> None:
    try:
        check_screen()
    except RuntimeError as error:
        pytest.skip(str(error))
    env = gym.make("meta_rl/HalfCheetahDir-v0", render_mode="human", nthread=1)
    env.reset(seed=0, options={"task": np.array([1.0])})
    viewer = env.unwrapped._window._viewer
    assert glfw.get_window_size(viewer.window) == (480, 480)
    glfw.set_window_should_close(viewer.window, True)  # as if the user had clicked
    env.step(env.action_space.sample())
    geoms = [viewer.scn.geoms[i] for i in range(viewer.scn.ngeom)]
    assert geoms[-1].size[2] == pytest.approx(1.0)  # the arrow is as long as the direction
    body = env.unwrapped._window.data.subtree_com[1]
    np.testing.assert_allclose(viewer.cam.lookat, body)
    env.close()


def test_a_grid_has_each_frame_in_its_place() -> None:
    """Five frames: three rows of two."""
    frames = [np.full((2, 4, 3), 10 * i, dtype=np.uint8) for i in range(1, 6)]
    grid = frame_grid(frames)
    assert grid.dtype == np.uint8
    assert grid[::2, ::4, 0].tolist() == [[10, 20], [30, 40], [50, 0]]
    assert grid.shape == (6, 8, 3)


def test_a_batch_as_one_picture() -> None:
    env = gym.make_vec("meta_rl/DarkRoom-v0", num_envs=4, render_mode="rgb_array")
    env.reset(seed=0)
    frames = env.render()
    assert isinstance(frames, tuple)
    grid = frame_grid(frames)
    np.testing.assert_array_equal(grid[216:, :216], frames[2])
    view = meta_rl.sb3_env("DarkRoom", num_envs=4, render_mode="rgb_array")
    view.seed(0)
    view.reset()
    np.testing.assert_array_equal(view.render(), grid)
    view.close()
