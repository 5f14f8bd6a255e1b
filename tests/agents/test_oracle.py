"""The task-conditioned oracle.

It sees observation and task as in its training, for vectors, numbers and dicts; it earns on
held-out tasks what its agent was trained for; what does not fit is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from meta_rl import TaskVectorEnv, evaluate_adaptation, sb3_env
from meta_rl.agents.oracle import TaskConditionedOracle
from meta_rl.rollout import Rollout
from meta_rl.wrappers.append_task import AppendTask

from ..families import LENGTHS, Corridor, PushedCorridor
from ..learning import Learned
from .probe_families import TWO_TASKS, HiddenAction


class Recording:
    """An agent that acts by the task it sees: its last numbers, one-hot."""

    def __init__(self, num_seen: int, num_tasks: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (num_seen,), np.float32)
        self.num_tasks = num_tasks
        self.seen: list[np.ndarray] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 0
    ) -> Any:
        self.seen.append(observation)
        return observation[:, -self.num_tasks :].argmax(axis=1), deterministic


class Numbered(HiddenAction):
    """What is seen is a number that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(3)

    def observation(self, state: Any, rng: Any, params: Any) -> np.ndarray:
        return np.arange(len(params)) % 3


@pytest.mark.parametrize("deterministic", [True, False])
def test_it_earns_what_can_be_earned(deterministic: bool) -> None:
    """Told the action that pays, from the first episode on; the flag reaches the agent."""
    model = Recording(3, 2)
    oracle = TaskConditionedOracle(model, TWO_TASKS)
    env = TaskVectorEnv(HiddenAction, 8)
    result = evaluate_adaptation(oracle, env, num_episodes=3, deterministic=deterministic)
    assert result.values.tolist() == [[1.0] * 3] * 2
    assert result.learner == "TaskConditionedOracle"
    assert all(seen.dtype == np.float32 for seen in model.seen)


@pytest.mark.parametrize(
    ("family", "size"), [(HiddenAction, 3), (Numbered, 5), (PushedCorridor, 8 + 5), (Corridor, 8)]
)
def test_it_sees_what_its_agent_was_trained_on(family: type, size: int) -> None:
    """The observations of ``append_task``, number by number."""
    env = TaskVectorEnv(family, 6)
    plain, _ = env.reset(seed=3)
    told, _ = AppendTask(TaskVectorEnv(family, 6)).reset(seed=3)
    space = env.single_observation_space
    model = Recording(size, 2)
    oracle = TaskConditionedOracle(model, env.task_split.space, space)
    state = oracle.adapt_to_tasks(env.tasks)
    assert len(state) == 6
    _, kept = oracle.predict(plain, state)
    assert kept is state
    np.testing.assert_array_equal(model.seen[0], told)
    if isinstance(space, spaces.Box):
        TaskConditionedOracle(model, env.task_split.space).predict(plain, state)
        np.testing.assert_array_equal(model.seen[1], told)


@pytest.mark.learning
def test_ppo_is_trained_and_wrapped(seed: int, learned: Learned) -> None:
    """The whole way: with the probabilities in sight, PPO pulls the better arm."""
    env = sb3_env("BernoulliBandit", 64, append_task=True, num_arms=2, horizon=5)
    assert env.observation_space.shape == (1 + 2,)
    model = PPO(
        "MlpPolicy", env, n_steps=10, batch_size=160, learning_rate=5e-3, gamma=0.0, seed=seed,
        device="cpu",
    )  # fmt: skip
    oracle = TaskConditionedOracle(
        model, env.task_env.unwrapped.task_split.space, spaces.Discrete(1)
    )
    model.learn(10 * 640)
    result = evaluate_adaptation(oracle, "BernoulliBandit", 500, seed=seed, num_arms=2, horizon=5)
    learned("reward", result.values.mean(), at_least=0.6)  # the better of two arms: 2/3


def test_nothing_is_left_to_learn() -> None:
    oracle = TaskConditionedOracle(Recording(3, 2), TWO_TASKS)
    state = oracle.adapt_to_tasks(np.array([0, 1]))
    assert state.tolist() == [[1, 0], [0, 1]]
    empty = np.zeros((1, 2))
    rollout = Rollout(empty, empty, empty, empty > 1, empty > 1, empty)
    assert oracle.adapt(rollout, state) is state


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no room for a task of 5 numbers: train with sb3_env"):
        TaskConditionedOracle(Recording(5, 2), LENGTHS)
    discrete = Recording(5, 2)
    discrete.observation_space = spaces.Discrete(9)
    with pytest.raises(ValueError, match="no room for a task"):
        TaskConditionedOracle(discrete, TWO_TASKS)
    oracle = TaskConditionedOracle(Recording(5, 2), TWO_TASKS)
    with pytest.raises(ValueError, match=r"needs to be told the tasks: state = adapt_to_tasks"):
        oracle.predict(np.zeros((2, 3)))
    state = oracle.adapt_to_tasks(np.array([0, 1]))
    with pytest.raises(ValueError, match="are 3 numbers, but the agent was trained on Box"):
        oracle.predict(np.array([1, 2]), state)
    with pytest.raises(ValueError, match="in a Dict need observation_space="):
        oracle.predict({"steps": np.array([1, 2])}, state)
