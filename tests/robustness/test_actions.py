"""Actions that are no actions are refused, wherever a batch of environments steps."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import meta_rl
from meta_rl import make_task_vec, sb3_env
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.vector.task_batch import check_actions

CONTINUOUS = ["meta_rl/PointNavigation-v0", "meta_rl/HalfCheetahVel-v0"]
BAD = [np.nan, np.inf, -np.inf]


def poisoned(shape: tuple[int, ...], value: float) -> np.ndarray:
    actions = np.zeros(shape, dtype=np.float32)
    actions[-1, -1] = value
    return actions


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("env_id", CONTINUOUS)
def test_batches_refuse_what_is_not_finite(env_id: str, value: float) -> None:
    env = make_task_vec(env_id, 3)
    env.reset(seed=0)
    actions = poisoned(env.action_space.shape, value)
    with pytest.raises(ValueError, match=r"actions: expected finite numbers .* sub-environment 2"):
        env.step(actions)
    observations, rewards, *_ = env.step(np.zeros_like(actions))  # the state is as it was
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    env.close()


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_adapted_environments_refuse_it_too(asynchronous: bool, value: float) -> None:
    env = TaskVectorAdapter.from_id(CONTINUOUS[0], 2, asynchronous=asynchronous, num_processes=1)
    try:
        env.reset(seed=0)
        with pytest.raises(ValueError, match="actions: expected finite numbers"):
            env.step(poisoned((2, 2), value))
        assert np.isfinite(env.step(np.zeros((2, 2), np.float32))[0]).all()
    finally:
        env.close()


def test_adapted_discrete_environments_refuse_actions_out_of_range() -> None:
    env = TaskVectorAdapter.from_id("meta_rl/BernoulliBandit-v0", 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions: outside"):
        env.step(np.array([0, 99]))
    env.close()


@pytest.mark.parametrize("value", BAD)
def test_single_environments_and_the_view_of_sb3_refuse_it(value: float) -> None:
    single = gym.make(CONTINUOUS[0])
    single.reset(seed=0)
    with pytest.raises(ValueError, match="expected finite numbers"):
        single.unwrapped.step(poisoned((1, 2), value)[0])
    view: Any = sb3_env(CONTINUOUS[0], num_envs=2)
    view.reset()
    with pytest.raises(ValueError, match="expected finite numbers"):
        view.step(poisoned((2, 2), value))
    view.close()


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros((3, 2)), r"expected \(2, 2\), got \(3, 2\)"),
        (spaces.Box(-1, 1, (2,)), np.full((2, 2), 1j), "expected real numbers"),
        (spaces.Box(-1, 1, (2,)), np.full((2, 2), "a"), "expected real numbers"),
        (spaces.Box(-1, 1, (2,)), np.full((2, 2), None), "expected real numbers"),
        (spaces.Discrete(3), np.array([0.0, 1.0]), "expected integers"),
        (spaces.Discrete(3), np.array([True, False]), "expected integers"),
        (spaces.Discrete(3, start=1), np.array([0, 1]), "outside Discrete"),
        (spaces.MultiDiscrete([2, 3]), np.array([[1, 2], [1, 3]]), "outside MultiDiscrete"),
        (spaces.MultiDiscrete([2, 3]), np.array([[1, 2], [np.nan, 0]]), "expected integers"),
        (spaces.MultiBinary(2), np.array([[1, 2], [1, 0]]), "outside MultiBinary"),
    ],
)
def test_actions_of_every_space(space: spaces.Space, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_actions(actions, space, 2)


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Box(-1, 1, (2,)), [[5, 0], [0, -5]]),  # clipped by the environments
        (spaces.Box(-1, 1, (2,)), np.zeros((2, 2), np.float16)),
        (spaces.Discrete(3), [0, 2]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2], [0, 0]]),
        (spaces.MultiBinary(2), np.array([[True, False], [True, True]])),
    ],
)
def test_actions_that_are_taken(space: spaces.Space, actions: Any) -> None:
    assert np.array_equal(check_actions(actions, space, 2), np.asarray(actions))


def test_numbers_of_numpy_among_the_arguments_of_an_environment(tmp_path: Any) -> None:
    from meta_rl.agents.rl2 import RL2

    agent = RL2(
        env="meta_rl/BernoulliBandit-v0",
        meta_batch_size=np.int64(4),
        num_minibatches=2,
        env_kwargs={"num_arms": np.int64(3), "horizon": np.array(5)},
        device="cpu",
    )
    agent.save(tmp_path / "agent.zip")
    loaded = RL2.load(tmp_path / "agent.zip", env="meta_rl/BernoulliBandit-v0", device="cpu")
    assert loaded.action_space.n == 3
    assert meta_rl.__version__
