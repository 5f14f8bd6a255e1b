"""RL² reaches the known optimum of every probe on held-out tasks, with the values it has there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from meta_rl import TaskFuncEnv, TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.rl2 import RL2

from ..learning import Learned
from .probe_families import (
    ActionReward,
    ConstantReward,
    DelayedActionReward,
    DelayedReward,
    ObservationActionReward,
    ObservationReward,
    ObservationTarget,
    RememberedEpisode,
    RememberedPull,
)

DISCOUNT = 0.9
NUM_ENVS = 64

pytestmark = pytest.mark.learning


def trained(family: type[TaskFuncEnv], iterations: int, seed: int, **changes: Any) -> RL2:
    """An agent after so many iterations on a probe."""
    settings = {
        "learning_rate": 1e-2,
        "num_minibatches": 2,
        "num_epochs": 4,
        "discount": DISCOUNT,
        "gae_lambda": 0.9,
        "policy_kwargs": {"hidden_size": 16},
        "seed": seed,
    }
    model = RL2(env=TaskVectorEnv(family, NUM_ENVS), **{**settings, **changes})
    return model.learn(iterations * NUM_ENVS * model.trial_steps(), log_interval=None)


def held_out_trial(model: RL2, family: type[TaskFuncEnv]) -> tuple[np.ndarray, np.ndarray]:
    """One trial on each test task: the critic's values ``[T, N]``, and the tasks."""
    env = RL2.wrap_env(TaskVectorEnv(family, NUM_ENVS))
    tasks = env.unwrapped.task_split.test.sample_tasks(NUM_ENVS, np.random.default_rng(0))
    env.unwrapped.set_tasks(tasks)
    observations, _ = env.reset(seed=0)
    memory = model.policy.initial_state(NUM_ENVS)
    values = []
    with torch.inference_mode():
        for _ in range(family.horizon * family.episodes_per_trial):
            obs = torch.from_numpy(observations)
            actions, value, _, memory = model.policy(obs, memory, deterministic=True)
            observations = env.step(model.policy.clip(actions).numpy())[0]
            values.append(value.numpy())
    return np.stack(values), tasks


def earned(model: RL2, family: type[TaskFuncEnv], deterministic: bool = True) -> np.ndarray:
    """What the most likely actions, or drawn ones, earn on the test tasks, ``[tasks, points]``."""
    env = TaskVectorEnv(family, NUM_ENVS)
    return evaluate_adaptation(model, env, deterministic=deterministic, seed=model.seed).values


def falling(left: float) -> float:
    """A learning rate that falls to 0, for values that have to be precise."""
    return 1e-2 * left


def error(values: Any, expected: Any) -> float:
    """The largest difference."""
    return float(np.abs(values - np.asarray(expected)).max())


class TestProbes:
    """Each reaches its optimum on held-out tasks; the first that fails names the broken part."""

    def test_constant_reward(self, seed: int, learned: Learned) -> None:
        """The critic learns a constant: the value of a single step that pays 1 is 1."""
        values, _ = held_out_trial(trained(ConstantReward, 20, seed), ConstantReward)
        learned("largest error of the value", error(values, 1.0), at_most=0.05)

    def test_reward_that_depends_on_the_observation(self, seed: int, learned: Learned) -> None:
        """The critic sees the observation: on unseen tasks its value is the observation."""
        values, tasks = held_out_trial(trained(ObservationReward, 80, seed), ObservationReward)
        assert np.ptp(tasks) > 1.5  # they differ
        errors = np.abs(values[0] - tasks[:, 0])
        learned("mean error of the value", errors.mean(), at_most=0.1)  # a constant: 1/2
        learned("largest error of the value", errors.max(), at_most=0.25)

    def test_delayed_reward(self, seed: int, learned: Learned) -> None:
        """Values are discounted over the steps to come: discount², discount and 1."""
        values, _ = held_out_trial(trained(DelayedReward, 50, seed), DelayedReward)
        expected = np.array([DISCOUNT**2, DISCOUNT, 1.0])
        learned("largest error of the values", error(values, expected[:, None]), at_most=0.06)

    def test_delayed_reward_of_an_action(self, seed: int, learned: Learned) -> None:
        """The first action is credited with a reward that comes two steps later."""
        values = earned(trained(DelayedActionReward, 20, seed), DelayedActionReward)
        learned("reward", values.mean(), at_least=0.9)

    def test_reward_that_depends_on_the_action(self, seed: int, learned: Learned) -> None:
        """The policy improves: the better of two actions is taken, and its value is 1."""
        model = trained(ActionReward, 20, seed)
        learned("reward", earned(model, ActionReward).mean(), at_least=0.9)
        values, _ = held_out_trial(model, ActionReward)
        learned("largest error of the value", error(values, 1.0), at_most=0.15)

    def test_reward_that_depends_on_observation_and_action(
        self, seed: int, learned: Learned
    ) -> None:
        """The policy sees the observation: only tasks next to zero may be mistaken.

        Actions are drawn: the likeliest ones of an untrained policy may be right by chance.
        """
        model = trained(ObservationActionReward, 160, seed)
        values = earned(model, ObservationActionReward, deterministic=False)
        learned("reward", values.mean(), at_least=0.8)

    def test_continuous_actions(self, seed: int, learned: Learned) -> None:
        """A normal policy finds the target that it observes: at most 0, less by the distance²."""
        values = earned(trained(ObservationTarget, 50, seed), ObservationTarget)
        learned("reward", values.mean(), at_least=-0.02)

    @pytest.mark.parametrize("core", ["gru", "lstm"])
    def test_memory_over_pulls(self, core: str, seed: int, learned: Learned) -> None:
        """The arm that the first reward tells is pulled at the end, over two pulls that pay 0."""
        kwargs = {"core": core, "hidden_size": 16}
        model = trained(RememberedPull, 80, seed, policy_kwargs=kwargs, learning_rate=falling)
        values = earned(model, RememberedPull)
        assert 0.2 < values[:, 0].mean() < 0.8  # the first is a guess: there are both tasks
        assert values[:, 1:3].max() == 0.0
        learned("last reward", values[:, 3].mean(), at_least=0.9)
        critic, _ = held_out_trial(model, RememberedPull)
        expected = [0.5 + DISCOUNT**3, DISCOUNT**2, DISCOUNT, 1.0]
        learned("error of the mean values", error(critic.mean(axis=1), expected), at_most=0.15)

    def test_memory_over_episodes(self, seed: int, learned: Learned) -> None:
        """What the first episode told is known in the second: the memory outlives the episode."""
        model = trained(RememberedEpisode, 80, seed, learning_rate=falling)
        values = earned(model, RememberedEpisode)
        assert 0.2 < values[:, 0].mean() < 0.8
        learned("second episode", values[:, 1].mean(), at_least=0.9)
        critic, _ = held_out_trial(model, RememberedEpisode)
        expected = [0.5 + DISCOUNT**2, DISCOUNT, 1.0, 0.0]
        learned("error of the mean values", error(critic.mean(axis=1), expected), at_most=0.15)
