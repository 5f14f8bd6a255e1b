"""RL² reaches the known optimum of every probe on held-out tasks, with the values it has there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from meta_rl import TaskFuncEnv, TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.rl2 import RL2

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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(family: type[TaskFuncEnv], iterations: int, **changes: Any) -> RL2:
    """An agent after so many iterations on a probe."""
    settings = {
        "learning_rate": 1e-2,
        "num_minibatches": 2,
        "num_epochs": 4,
        "discount": DISCOUNT,
        "gae_lambda": 0.9,
        "policy_kwargs": {"hidden_size": 16},
        "seed": 0,
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
            observations = env.step(model.policy.clip(actions.numpy()))[0]
            values.append(value.numpy())
    return np.stack(values), tasks


def earned(model: RL2, family: type[TaskFuncEnv]) -> np.ndarray:
    """What the most likely actions earn on the test tasks, ``[64, points]``."""
    env = TaskVectorEnv(family, NUM_ENVS)
    return evaluate_adaptation(model, env, num_tasks=64, deterministic=True, seed=3).values


class TestProbes:
    """Each reaches its optimum on held-out tasks; the first that fails names the broken part."""

    def test_constant_reward(self) -> None:
        """The critic learns a constant: the value of a single step that pays 1 is 1."""
        values, _ = held_out_trial(trained(ConstantReward, 20), ConstantReward)
        np.testing.assert_allclose(values, 1.0, atol=0.05)

    def test_reward_that_depends_on_the_observation(self) -> None:
        """The critic sees the observation: on unseen tasks its value is the observation."""
        values, tasks = held_out_trial(trained(ObservationReward, 80), ObservationReward)
        assert np.ptp(tasks) > 1.5  # they differ
        assert np.abs(values[0] - tasks[:, 0]).mean() < 0.1  # a constant is off by 1/2
        np.testing.assert_allclose(values[0], tasks[:, 0], atol=0.25)

    def test_delayed_reward(self) -> None:
        """Values are discounted over the steps to come: discount², discount and 1."""
        values, _ = held_out_trial(trained(DelayedReward, 50), DelayedReward)
        expected = np.array([DISCOUNT**2, DISCOUNT, 1.0])
        np.testing.assert_allclose(values, np.tile(expected[:, None], NUM_ENVS), atol=0.06)

    def test_delayed_reward_of_an_action(self) -> None:
        """The first action is credited with a reward that comes two steps later."""
        assert earned(trained(DelayedActionReward, 20), DelayedActionReward).min() == 1.0

    def test_reward_that_depends_on_the_action(self) -> None:
        """The policy improves: the better of two actions is taken, and its value is 1."""
        model = trained(ActionReward, 20)
        assert earned(model, ActionReward).min() == 1.0
        values, _ = held_out_trial(model, ActionReward)
        np.testing.assert_allclose(values, 1.0, atol=0.15)

    def test_reward_that_depends_on_observation_and_action(self) -> None:
        """The policy sees the observation: only tasks next to zero may be mistaken."""
        assert earned(trained(ObservationActionReward, 50), ObservationActionReward).mean() > 0.9

    def test_continuous_actions(self) -> None:
        """A normal policy finds the target that it observes: at most 0, less by the distance²."""
        assert earned(trained(ObservationTarget, 50), ObservationTarget).mean() > -0.02

    @pytest.mark.parametrize("core", ["gru", "lstm"])
    def test_memory_over_pulls(self, core: str) -> None:
        """The arm that the first reward tells is pulled at the end, over two pulls that pay 0."""
        kwargs = {"core": core, "hidden_size": 16}
        model = trained(RememberedPull, 50, policy_kwargs=kwargs)
        values = earned(model, RememberedPull)
        assert 0.3 < values[:, 0].mean() < 0.7  # the first is a guess: there are both tasks
        assert values[:, 1:3].max() == 0.0
        assert values[:, 3].min() == 1.0
        critic, _ = held_out_trial(model, RememberedPull)
        expected = [0.5 + DISCOUNT**3, DISCOUNT**2, DISCOUNT, 1.0]
        np.testing.assert_allclose(critic.mean(axis=1), expected, atol=0.15)

    def test_memory_over_episodes(self) -> None:
        """What the first episode told is known in the second: the memory outlives the episode."""
        model = trained(RememberedEpisode, 50)
        values = earned(model, RememberedEpisode)
        assert 0.3 < values[:, 0].mean() < 0.7
        assert values[:, 1].min() == 1.0
        critic, _ = held_out_trial(model, RememberedEpisode)
        expected = [0.5 + DISCOUNT**2, DISCOUNT, 1.0, 0.0]
        np.testing.assert_allclose(critic.mean(axis=1), expected, atol=0.15)
