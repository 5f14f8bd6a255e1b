"""Observations that carry the task.

The task stands behind the observation, flattened, of whatever spaces; the last observation of an
episode carries the task that it was on, the next one the new task; Stable-Baselines3's view and a
trained agent see it; what cannot be appended is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from meta_rl import TaskEnv, TaskVectorEnv, sb3_env
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.envs.point_navigation import PointNavigation
from meta_rl.rollout import collect_episodes, collect_rollout
from meta_rl.tasks import UniformTasks, held_out_split
from meta_rl.wrappers.append_task import AppendTask

from .agents.probe_families import ObservationReward, Probe
from .families import Corridor, PushedCorridor


def none(observations: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return np.zeros(len(observations), dtype=np.int64), {}


def one_hot(tasks: Any) -> np.ndarray:
    """Of a corridor's lengths, 1 to 5."""
    return np.eye(5)[np.asarray(tasks) - 1]


def test_the_task_is_behind_the_observation() -> None:
    """A number that is discrete is one-hot: the space is that of both."""
    env = AppendTask(TaskVectorEnv(Corridor, 3))
    assert env.single_observation_space == spaces.Box(-np.inf, np.inf, (8,), np.float32)
    assert env.observation_space.shape == (3, 8)
    observations, infos = env.reset(options={"task": [1, 3, 5]})
    assert observations.dtype == np.float32
    assert observations[:, :3].tolist() == [[1, 0, 0], [3, 0, 0], [5, 0, 0]]
    np.testing.assert_array_equal(observations[:, 3:], one_hot([1, 3, 5]))
    assert infos["task"].tolist() == [1, 3, 5]


def test_continuous_tasks_are_as_they_are() -> None:
    env = AppendTask(TaskVectorEnv(ObservationReward, 2))
    observations, _ = env.reset(options={"task": [[0.5], [-0.25]]})
    assert observations.tolist() == [[0.5, 0.5], [-0.25, -0.25]]


def test_dict_tasks_and_observations() -> None:
    class Both(PushedCorridor):
        def __init__(self) -> None:
            super().__init__()
            both = spaces.Dict({"length": spaces.Discrete(3), "x": spaces.Box(0, 1, (2,))})
            self.task_split = held_out_split(UniformTasks(both), num_test=2, seed=0)

        def observation(self, state: Any, rng: Any, params: Any) -> Any:
            num = len(params["length"])
            return {"steps": state.steps.copy(), "task": np.full((num, 1), 7.0, dtype=np.float32)}

        def initial(self, rng: Any, params: Any) -> Any:
            return super().initial(rng, params["length"])

    env = AppendTask(TaskVectorEnv(Both, 2))
    task = {"length": np.array([0, 2]), "x": np.array([[0.5, 0.25], [1, 0]], dtype=np.float32)}
    observations, _ = env.reset(options={"task": task})
    expected = [[1, *[0] * 6, 7, 1, 0, 0, 0.5, 0.25], [1, *[0] * 6, 7, 0, 0, 1, 1, 0]]
    assert observations.tolist() == expected


def test_the_end_of_an_episode_carries_its_own_task() -> None:
    """Tasks are drawn anew after a trial of two episodes: the old one until then."""
    env = AppendTask(TaskVectorEnv(Corridor, 16, resample_tasks=True))
    rollout, _ = collect_rollout(env, none, 40, env.reset(seed=0)[0])
    for seen in (rollout.observations, rollout.next_observations):
        np.testing.assert_array_equal(seen[..., 3:], one_hot(seen[..., 0].astype(int)))
    before, after = rollout.observations[..., 0], rollout.next_observations[..., 0]
    np.testing.assert_array_equal(before, after)
    assert (before[1:] != before[:-1]).any(axis=0).all()  # all met other tasks


def test_episodes_that_end_early() -> None:
    env = AppendTask(TaskVectorEnv(Corridor, 3))
    rollout = collect_episodes(env, none, env.reset(options={"task": [1, 3, 5]})[0])
    np.testing.assert_array_equal(
        rollout.next_observations[rollout.mask][:, 3:].argmax(axis=1) + 1,
        rollout.next_observations[rollout.mask][:, 0],
    )


def test_the_view_of_stable_baselines3() -> None:
    env = sb3_env("meta_rl/PointNavigation-v0", 4, append_task=True)
    assert env.observation_space.shape == (4,)
    observations = env.reset()
    assert observations.shape == (4, 4)
    tasks = env.task_env.unwrapped.tasks
    np.testing.assert_allclose(observations[:, 2:], tasks, rtol=1e-6)
    assert len(np.unique(tasks, axis=0)) == 4
    both = sb3_env("BernoulliBandit", 2, append_task=True, previous_step=True, num_arms=3)
    plain = sb3_env("BernoulliBandit", 2, num_arms=3)
    assert both.observation_space.shape[0] == plain.observation_space.n + 3 + 3 + 3


def test_disabled_autoreset_is_allowed_and_next_step_is_not() -> None:
    env = AppendTask(TaskVectorEnv(Corridor, 2, autoreset_mode=AutoresetMode.DISABLED))
    env.reset(options={"task": [1, 3]})
    observations, *_ = env.step(np.zeros(2, dtype=np.int64))
    np.testing.assert_array_equal(observations[:, 3:], one_hot([1, 3]))
    with pytest.raises(ValueError, match="SAME_STEP or DISABLED"):
        AppendTask(TaskVectorEnv(Corridor, 2, autoreset_mode=AutoresetMode.NEXT_STEP))


def test_spaces_that_cannot_be_flattened_are_refused() -> None:
    class Texts(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Text(3)

    with pytest.raises(ValueError, match="cannot append Text"):
        AppendTask(TaskVectorEnv(Texts, 2))


@pytest.mark.parametrize("native", [True, False])
def test_a_waiting_task_is_not_told_before_it_is_played(native: bool) -> None:
    batch = TaskVectorEnv(PointNavigation, 2)
    env = batch if native else TaskVectorAdapter([lambda: TaskEnv(PointNavigation)] * 2)
    wrapped = AppendTask(env)
    env.set_tasks(np.full((2, 2), 0.2))
    wrapped.reset(seed=0)
    env.set_tasks(np.full((2, 2), 0.4))
    seen, infos = wrapped.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_allclose(seen[:, -2:], [[0.4, 0.4], [0.2, 0.2]], rtol=1e-6)
    np.testing.assert_array_equal(infos["task"], [[0.4, 0.4], [0.2, 0.2]])
    np.testing.assert_array_equal(env.tasks, infos["task"])
    np.testing.assert_array_equal(env.pending_tasks, np.full((2, 2), 0.4))
