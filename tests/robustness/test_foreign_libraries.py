"""What Gymnasium, Stable-Baselines3 and TorchRL expect of our environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeAwareObservation
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from meta_rl import evaluate_adaptation, make_task_vec, sb3_env
from meta_rl.adapter import TaskVectorAdapter

IDS = ["meta_rl/BernoulliBandit-v0", "meta_rl/PointRobot-v0", "meta_rl/TabularMDP-v0"]
BATCHES: dict[str, Callable[[str], Any]] = {
    "native": lambda env_id: gym.make_vec(env_id, num_envs=3, horizon=2, resample_tasks=True),
    "synchronous": lambda env_id: gym.make_vec(env_id, 3, "sync", horizon=2),
    "adapter": lambda env_id: TaskVectorAdapter(
        [lambda: gym.make(env_id, horizon=2)] * 3, resample_tasks=True
    ),
}


def flat(task: Any) -> np.ndarray:
    parts = task.values() if isinstance(task, dict) else [task]
    return np.concatenate([np.reshape(part, (-1,)) for part in parts])


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", BATCHES)
def test_every_info_has_the_task(kind: str, env_id: str) -> None:
    """That of the next episode where one ended; the final info has its own."""
    env = BATCHES[kind](env_id)
    infos = [env.reset(seed=0)[1]]
    for _ in range(45):
        infos.append(env.step(env.action_space.sample())[4])
        if kind != "synchronous":
            np.testing.assert_array_equal(flat(infos[-1]["task"]), flat(env.tasks))
    tasks = [flat(info["task"]) for info in infos]
    if kind == "native":
        ended = [i for i, info in enumerate(infos) if "final_info" in info]
        assert ended
        for i in ended:
            final = flat(infos[i]["final_info"]["task"])
            np.testing.assert_array_equal(final, tasks[i - 1])


def test_infos_of_single_environments_share_nothing() -> None:
    env = gym.make(IDS[1])
    _, first = env.reset(seed=0)
    info = env.step(env.action_space.sample())[4]
    np.testing.assert_array_equal(info["task"], first["task"])
    info["task"][:] = 9.0
    assert (env.step(env.action_space.sample())[4]["task"] != 9.0).all()


@pytest.mark.parametrize("env_id", [*IDS, "meta_rl/TMaze-v0"])
@pytest.mark.parametrize("limit", [5, 1000])
def test_time_limits(env_id: str, limit: int) -> None:
    """A batch with a limit and single environments with Gymnasium's wrapper agree."""
    batch = gym.make_vec(env_id, num_envs=2, max_episode_steps=limit)
    family = batch.unwrapped.definition
    assert batch.horizon == min(limit, family.horizon)
    assert make_task_vec(env_id, 2, max_episode_steps=limit).horizon == batch.horizon
    single = TimeAwareObservation(gym.make(env_id, max_episode_steps=limit))
    batch.reset(seed=0)
    single.reset(seed=0)
    for step in range(1, batch.horizon + 1):
        ends = [batch.step(batch.action_space.sample())[2:4]]
        ends = [tuple(bool(part[0]) for part in ends[0])]
        ends.append(single.step(single.action_space.sample())[2:4])
        for terminated, truncated in ends:
            assert (terminated or truncated) == (step == batch.horizon)
    adapted = TaskVectorAdapter([lambda: gym.make(env_id, max_episode_steps=limit)])
    assert adapted.horizon == batch.horizon


def test_time_without_a_limit_is_the_horizon() -> None:
    env = TimeAwareObservation(gym.make(IDS[1]))
    assert env.max_timesteps == env.unwrapped.horizon == env.spec.max_episode_steps


@pytest.mark.parametrize("previous_step", [True, False])
@pytest.mark.parametrize("algorithm", ["RecurrentPPO", "PPO"])
def test_models_are_evaluated_by_id_as_by_environment(algorithm: str, previous_step: bool) -> None:
    env = sb3_env("BernoulliBandit", 4, previous_step=previous_step)
    make: Any = {"RecurrentPPO": RecurrentPPO, "PPO": PPO}[algorithm]
    policy = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
    model = make(policy, env, n_steps=10, batch_size=10, seed=0, device="cpu")
    by_id, by_env = (evaluate_adaptation(model, where, 5) for where in ("BernoulliBandit", env))
    np.testing.assert_array_equal(by_id.values, by_env.values)
    with pytest.raises(ValueError, match="the learner was trained on observations in"):
        evaluate_adaptation(model, "PointRobot", 5)


@pytest.mark.parametrize("env_id", IDS[:2])
def test_torchrl(env_id: str) -> None:
    """Where it is installed; it takes no tasks in a ``Dict`` in the infos of a batch."""
    envs = pytest.importorskip("torchrl.envs")
    for made in (
        envs.GymEnv(env_id),
        envs.GymWrapper(gym.make(env_id)),
        envs.GymWrapper(gym.make_vec(env_id, num_envs=3), categorical_action_encoding=True),
    ):
        assert made.rollout(12, break_when_any_done=False).batch_size[-1] == 12
