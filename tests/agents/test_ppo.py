"""PPO without memory: it learns what one policy can learn, and cannot tell tasks apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meta_rl import TaskFuncEnv, TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.ppo import PPO
from meta_rl.agents.rl2 import RL2
from meta_rl.rollout import Rollout

from .probe_families import (
    ActionReward,
    Clock,
    ConstantReward,
    DelayedActionReward,
    DelayedReward,
    HiddenAction,
    ObservationActionReward,
    ObservationReward,
    ObservationTarget,
    Probe,
    RememberedPull,
)

DISCOUNT = 0.9
NUM_ENVS = 64


class TimedReward(Probe):
    """1 at every step; the time limit of four steps ends an episode, but no state is terminal."""

    horizon = 4
    horizon_is_terminal = False

    def earned(self, steps: np.ndarray, action: Any, params: Any) -> Any:
        return np.ones(len(params))

    def terminal(self, state: Clock, rng: Any, params: Any) -> Any:
        return np.zeros(len(params), dtype=bool)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_ppo(family: type[TaskFuncEnv], **changes: Any) -> PPO:
    settings = {
        "learning_rate": 1e-2,
        "num_minibatches": 2,
        "num_epochs": 4,
        "discount": DISCOUNT,
        "gae_lambda": 0.9,
        "policy_kwargs": {"hidden_sizes": (16,)},
        "seed": 0,
    }
    return PPO(env=TaskVectorEnv(family, NUM_ENVS), **{**settings, **changes})


def trained(family: type[TaskFuncEnv], iterations: int, **changes: Any) -> PPO:
    """An agent after so many iterations on a probe."""
    model = make_ppo(family, **changes)
    return model.learn(iterations * NUM_ENVS * model.trial_steps(), log_interval=None)


def earned(model: PPO, family: type[TaskFuncEnv]) -> np.ndarray:
    """What the most likely actions earn on each of the test tasks, ``[M, points]``."""
    env = TaskVectorEnv(family, NUM_ENVS)
    return evaluate_adaptation(model, env, deterministic=True, seed=3).values


def held_out_values(model: PPO, family: type[TaskFuncEnv]) -> tuple[np.ndarray, np.ndarray]:
    """The critic's values ``[T, N]`` in one episode on each test task, and the tasks."""
    env = PPO.wrap_env(TaskVectorEnv(family, NUM_ENVS))
    tasks = env.unwrapped.task_split.test.sample_tasks(NUM_ENVS, np.random.default_rng(0))
    env.unwrapped.set_tasks(tasks)
    observations, _ = env.reset(seed=0)
    values = []
    state = model.policy.initial_state(NUM_ENVS)
    with torch.inference_mode():
        for _ in range(family.horizon):
            actions, value, _, state = model.policy(torch.from_numpy(observations), state)
            observations = env.step(model.policy.clip(actions).numpy())[0]
            values.append(value.numpy())
    return np.stack(values), tasks


class TestProbes:
    def test_constant_reward(self) -> None:
        values, _ = held_out_values(trained(ConstantReward, 20), ConstantReward)
        np.testing.assert_allclose(values, 1.0, atol=0.05)

    def test_reward_that_depends_on_the_observation(self) -> None:
        values, tasks = held_out_values(trained(ObservationReward, 80), ObservationReward)
        assert np.ptp(tasks) > 1.5  # they differ
        np.testing.assert_allclose(values[0], tasks[:, 0], atol=0.25)

    def test_delayed_reward(self) -> None:
        """Values are discounted over the steps to come: discount², discount and 1."""
        values, _ = held_out_values(trained(DelayedReward, 80), DelayedReward)
        expected = np.array([DISCOUNT**2, DISCOUNT, 1.0])
        np.testing.assert_allclose(values, np.tile(expected[:, None], NUM_ENVS), atol=0.1)

    def test_delayed_reward_of_an_action(self) -> None:
        assert earned(trained(DelayedActionReward, 40), DelayedActionReward).min() == 1.0

    def test_reward_that_depends_on_the_action(self) -> None:
        assert earned(trained(ActionReward, 20), ActionReward).min() == 1.0

    def test_reward_that_depends_on_observation_and_action(self) -> None:
        assert earned(trained(ObservationActionReward, 50), ObservationActionReward).mean() > 0.9

    def test_continuous_actions(self) -> None:
        assert earned(trained(ObservationTarget, 80), ObservationTarget).mean() > -0.02


class TestBlindness:
    @pytest.mark.parametrize("family", [ActionReward, ObservationTarget])
    def test_the_previous_step_changes_nothing(self, family: type[TaskFuncEnv]) -> None:
        """Action and reward may be anything; the flags tell the time, to the critic alone."""
        policy = make_ppo(family).policy
        rng = np.random.default_rng(0)
        obs = rng.normal(size=(3, 8, policy.observation_space.shape[0])).astype(np.float32)
        obs[..., -2:] = 0.0
        other = obs.copy()
        other[..., 1:-2] = rng.normal(size=other[..., 1:-2].shape)
        later = other.copy()
        later[1, :, -2] = 1.0  # a new episode begins
        moved = obs + np.eye(obs.shape[-1], dtype=np.float32)[0]

        def outputs(obs: np.ndarray) -> list[torch.Tensor]:
            hidden = policy.features(torch.from_numpy(obs), ())
            chances = policy.distribution(hidden).log_prob(torch.ones(3, 8, *shape))
            return [chances, policy.values(hidden)]

        shape = policy.action_space.shape or ()
        with torch.no_grad():
            (actor, critic), same, new = outputs(obs), outputs(other), outputs(later)
            assert torch.equal(actor, same[0])
            assert torch.equal(critic, same[1])
            assert torch.equal(actor, new[0])
            assert torch.equal(critic[0], new[1][0])
            assert not torch.isclose(critic[1:], new[1][1:]).any()
            assert not torch.isclose(actor, outputs(moved)[0]).all()

    def test_nothing_is_learned_of_a_task(self) -> None:
        """Where RL² has 1 at last (tests of its probes), it stays at 1/2: one arm for both."""
        values = earned(trained(RememberedPull, 50), RememberedPull)
        assert len(values) == 2
        np.testing.assert_array_equal(values.mean(axis=0), [0.5, 0.0, 0.0, 0.5])
        hidden = earned(trained(HiddenAction, 20), HiddenAction)
        np.testing.assert_array_equal(hidden.mean(axis=0), [0.5, 0.5])

    def test_the_state_is_a_clock(self) -> None:
        """``predict`` gives it and takes it; actions do not depend on it."""
        model = make_ppo(ObservationTarget)
        obs = np.random.default_rng(0).normal(size=(3, model.observation_space.shape[0]))
        obs[:, -2:] = [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
        first, state = model.predict(obs, deterministic=True)
        np.testing.assert_array_equal(state[0], np.zeros((3, 2)))
        second, after = model.predict(obs, state, deterministic=True)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(after[0], [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
        assert model.adapt(random_rollout(model), state) is state
        with pytest.raises(ValueError, match="state: expected leaves of shapes"):
            model.predict(obs, ())


def random_rollout(model: PPO) -> Rollout:
    """Three steps of two sub-environments: the first ends by its time limit, the second dies."""
    rng = np.random.default_rng(0)
    shape = (3, 2, model.observation_space.shape[0])
    observations, successors = rng.normal(size=(2, *shape)).astype(np.float32)
    observations[..., -2:] = 0.0
    observations[2, :, -2] = observations[0, :, -1] = 1.0
    truncated, terminated = np.zeros((2, 3, 2), dtype=bool)
    truncated[1, 0] = terminated[1, 1] = True
    return Rollout(
        observations,
        np.zeros((3, 2), dtype=np.int64),
        rng.normal(size=(3, 2)),
        terminated,
        truncated,
        successors,
        extras={"values": torch.from_numpy(rng.normal(size=(3, 2)).astype(np.float32))},
    )


class TestAdvantages:
    def test_ends_of_episodes(self) -> None:
        """With lambda 1, by hand: nothing flows over an end, be it a time limit or a last state.

        Both columns end after the second step. The end of the trial cuts them after the third one,
        whose successor is at step 1 of its episode, and its value is taken.
        """
        model = make_ppo(ActionReward, discount=0.5, gae_lambda=1.0, normalize_advantages=False)
        rollout = random_rollout(model)
        with torch.no_grad():
            last = torch.from_numpy(rollout.next_observations[-1])
            clock = torch.tensor([[3.0, 1.0]]).expand(2, 2)
            following = model.policy.values(model.policy.read(last, clock)).numpy()
        assert np.abs(following).min() > 1e-3
        rewards, values = rollout.rewards, rollout.extras["values"].numpy()
        third = rewards[2] + 0.5 * following - values[2]
        expected = [rewards[0] + 0.5 * rewards[1] - values[0], rewards[1] - values[1], third]
        found = model._advantages(rollout).numpy()
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("gae_lambda", [0.5, 1.0])
    def test_the_critic_knows_the_time(self, gae_lambda: float) -> None:
        """1 at every step is worth what is left: nothing else tells the steps apart."""
        model = trained(TimedReward, 150, discount=1.0, gae_lambda=gae_lambda)
        values, _ = held_out_values(model, TimedReward)
        np.testing.assert_allclose(values, np.tile([[4.0], [3.0], [2.0], [1.0]], 64), atol=0.1)


class TestAgent:
    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        """A resumed training ends as an undisturbed one, bit for bit."""
        whole = trained(ObservationTarget, 4)
        part = trained(ObservationTarget, 2)
        part.save(tmp_path / "ppo")
        env = TaskVectorEnv(ObservationTarget, NUM_ENVS)
        loaded = PPO.load(tmp_path / "ppo", env=env)
        loaded.learn(2 * NUM_ENVS, log_interval=None, reset_num_timesteps=False)
        assert loaded.num_timesteps == whole.num_timesteps
        ours, theirs = loaded.policy.state_dict(), whole.policy.state_dict()
        assert all(torch.equal(ours[name], part) for name, part in theirs.items())
        with pytest.raises(ValueError, match="a checkpoint of PPO, not of RL2"):
            RL2.load(tmp_path / "ppo")

    def test_bad_settings_are_refused(self) -> None:
        with pytest.raises(ValueError, match="num_minibatches=65, but only 64 trials"):
            make_ppo(ActionReward, num_minibatches=65)
        with pytest.raises(TypeError, match="core"):
            make_ppo(ActionReward, policy_kwargs={"core": "gru"})
