"""Pictures show the robot and its goal, and where nothing can draw, the error says what to do."""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any

import glfw
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.mujoco_env import expand_model_path

import meta_rl
from meta_rl import mujoco_picture
from meta_rl.rendering.mujoco_picture import RobotCamera, make_gl_context

WIDTH, HEIGHT = 160, 120


@pytest.fixture
def _drawing() -> None:
    try:
        make_gl_context(8, 8).free()
    except RuntimeError as error:
        pytest.skip(str(error))


def draw(name: str, task: Any = None) -> np.ndarray:
    env = gym.make(
        f"meta_rl/{name}-v0", render_mode="rgb_array", width=WIDTH, height=HEIGHT, nthread=1
    )
    env.reset(seed=0, options=None if task is None else {"task": np.array(task)})
    frame = env.render()
    env.close()
    return frame


def green(frame: np.ndarray) -> np.ndarray:
    """Mean column and row of the pixels with the colour of the goal."""
    red, greens, blue = np.moveaxis(frame.astype(int), 2, 0)
    rows, columns = np.nonzero((greens > red + 40) & (greens > blue + 40))
    assert len(rows) > 5, "no goal in the picture"
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.usefixtures("_drawing")
@pytest.mark.parametrize(
    "name", ["ReacherGoal", "HalfCheetahCripple", "HopperRandParams", "Walker2dRandParams"]
)
def test_robots_without_an_arrow_have_a_picture(name: str) -> None:
    frame = draw(name)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 10  # not one colour


@pytest.mark.usefixtures("_drawing")
@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("HalfCheetahDir", [-1.0], [1.0]),
        ("AntForwardBackward", [-1.0], [1.0]),
        ("AntDir", [np.pi], [0.0]),
        ("HumanoidDir", [np.pi], [0.0]),
        ("AntGoal", [-1.5, 0.0], [1.5, 0.0]),
        ("HalfCheetahCripple", 0, 3),  # hips of the back and of the front leg
    ],
)
def test_the_goal_is_where_the_task_says(name: str, left: Any, right: Any) -> None:
    """The camera looks along y: x grows to the right."""
    middle = WIDTH / 2
    assert green(draw(name, left))[0] < middle - 2
    assert green(draw(name, right))[0] > middle + 2


@pytest.mark.usefixtures("_drawing")
@pytest.mark.parametrize("name", ["HalfCheetahVel", "AntVel", "Walker2dVel", "HopperVel"])
def test_a_higher_goal_velocity_has_a_longer_arrow(name: str) -> None:
    assert green(draw(name, [2.0]))[0] > green(draw(name, [0.7]))[0] + 3


@pytest.mark.usefixtures("_drawing")
def test_no_arrow_for_standing_still() -> None:
    with pytest.raises(AssertionError, match="no goal in the picture"):
        green(draw("HalfCheetahVel", [0.0]))


@pytest.mark.usefixtures("_drawing")
def test_a_frame_does_not_depend_on_those_before() -> None:
    """Of a robot that has run ten metres away from the camera's last place."""
    camera = RobotCamera(
        expand_model_path("hopper.xml"),
        WIDTH,
        HEIGHT,
        distance=4.0,
        elevation=-20.0,
        azimuth=90.0,
        track=True,
    )
    qpos = camera.data.qpos.copy()
    first = camera.draw(qpos, arrow=np.array([1.0, 0.0, 0.0]))
    far = qpos.copy()
    far[0] = 10.0
    camera.draw(far)
    np.testing.assert_array_equal(camera.draw(qpos, arrow=np.array([1.0, 0.0, 0.0])), first)
    camera.close()


@pytest.mark.usefixtures("_drawing")
def test_a_batch_has_a_frame_for_each_and_can_be_copied() -> None:
    env = meta_rl.make_task_vec(
        "HalfCheetahDir", 2, render_mode="rgb_array", width=WIDTH, height=HEIGHT, nthread=1
    )
    env.reset(seed=0, options={"task": np.array([[-1.0], [1.0]])})
    left, right = env.render()
    assert green(left)[0] < green(right)[0]
    pickle.loads(pickle.dumps(env.definition)).close()
    env.close()


def test_glfw_without_a_screen_is_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a context all the same, which breaks when something is drawn."""
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(glfw, "init", lambda: False)
    with pytest.raises(RuntimeError, match=r"set MUJOCO_GL=egl.*glfw: RuntimeError: no screen"):
        make_gl_context(8, 8)


def test_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_picture, "_backends", lambda: ("no_such_backend",))
    with pytest.raises(RuntimeError, match=r"set MUJOCO_GL=egl.*no_such_backend: ModuleNotFound"):
        make_gl_context(8, 8)


@pytest.mark.skipif(importlib.util.find_spec("moviepy") is None, reason="needs moviepy")
@pytest.mark.usefixtures("_drawing")
def test_videos(tmp_path: Any) -> None:
    env = gym.make("meta_rl/HalfCheetahVel-v0", render_mode="rgb_array", horizon=3, nthread=1)
    env = gym.wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda _: True)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.close()
    assert list(tmp_path.glob("videos/*.mp4"))
