"""Bandits.

Rewards have the mean and the variance that the task says, arm by arm; the tasks have their
distribution; an episode is terminated after ``horizon`` pulls; there is nothing to see; the batch
agrees with batches of one; bad arguments and tasks are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meta_rl import TaskVectorEnv, check_task_env
from meta_rl.envs.bandits import BernoulliBandit, GaussianBandit

NUM = 20_000
FAMILIES = pytest.mark.parametrize("family", [BernoulliBandit, GaussianBandit])


def pulls(family: Any, task: list[float], arm: int) -> np.ndarray:
    """``NUM`` rewards of one arm."""
    env = TaskVectorEnv(family, NUM, num_arms=len(task))
    env.set_tasks([task])
    env.reset(seed=arm)
    return env.step(np.full(NUM, arm))[1]


@pytest.mark.parametrize(("arm", "probability"), list(enumerate([0.0, 0.1, 0.5, 1.0])))
def test_bernoulli_rewards_are_those_of_the_pulled_arm(arm: int, probability: float) -> None:
    rewards = pulls(BernoulliBandit, [0.0, 0.1, 0.5, 1.0], arm)
    assert set(rewards) <= {0.0, 1.0}
    error = np.sqrt(probability * (1 - probability) / NUM)
    assert abs(rewards.mean() - probability) <= 4 * error


@pytest.mark.parametrize(("arm", "mean"), list(enumerate([-2.0, 0.0, 3.0])))
def test_gaussian_rewards_are_those_of_the_pulled_arm(arm: int, mean: float) -> None:
    def family(num_arms: int) -> GaussianBandit:
        return GaussianBandit(num_arms, reward_std=0.5)

    rewards = pulls(family, [-2.0, 0.0, 3.0], arm)
    assert abs(rewards.mean() - mean) < 4 * 0.5 / np.sqrt(NUM)
    assert abs(rewards.var() / 0.25 - 1) < 4 * np.sqrt(2 / NUM)
    standard = (rewards - mean) / 0.5
    assert abs((standard**3).mean()) < 4 * np.sqrt(15 / NUM)
    assert abs((standard**4).mean() - 3) < 4 * np.sqrt(96 / NUM)


@FAMILIES
def test_rewards_are_independent_over_pulls_and_sub_environments(family: Any) -> None:
    env = TaskVectorEnv(family, 5000, num_arms=2)
    env.set_tasks([[0.5, 0.5]])
    env.reset(seed=0)
    rewards = np.stack([env.step(np.zeros(5000, dtype=int))[1] for _ in range(4)])
    correlations = np.corrcoef(rewards)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(5000)
    assert abs(np.corrcoef(rewards[:, :-1].ravel(), rewards[:, 1:].ravel())[0, 1]) < 0.03


@FAMILIES
@pytest.mark.parametrize("horizon", [1, 3])
def test_an_episode_is_terminated_after_its_pulls(family: Any, horizon: int) -> None:
    env = TaskVectorEnv(family, 2, horizon=horizon, num_arms=2)
    observations, _ = env.reset(seed=0)
    for pull in range(1, 3 * horizon + 1):
        assert observations.tolist() == [0, 0]
        observations, _, terminated, truncated, infos = env.step(np.array([0, 1]))
        assert terminated.tolist() == [pull % horizon == 0] * 2
        assert not truncated.any()
        assert "reward_pull" in infos
    assert (env.adaptation_unit, env.episodes_per_trial) == ("step", 1)


def test_the_tasks_have_their_distribution() -> None:
    rng = np.random.default_rng(0)
    uniform = BernoulliBandit(4).task_split.train.sample_tasks(NUM, rng)
    assert uniform.shape == (NUM, 4)
    assert np.abs(uniform.mean(axis=0) - 0.5).max() < 4 / np.sqrt(12 * NUM)
    np.testing.assert_allclose(uniform.std(axis=0), 1 / np.sqrt(12), rtol=0.02)
    split = GaussianBandit(4, mean_std=2.0).task_split
    for name, spread in (("train", 2.0), ("ood", 4.0)):
        means = split[name].sample_tasks(NUM, rng)
        assert np.abs(means.mean(axis=0)).max() < 4 * spread / np.sqrt(NUM)
        np.testing.assert_allclose(means.std(axis=0), spread, rtol=0.03)


@FAMILIES
def test_held_out_tasks_are_fixed_lists(family: Any) -> None:
    split, again = family().task_split, family().task_split
    for name in ("validation", "test"):
        assert len(split[name]) == 1000
        np.testing.assert_array_equal(split[name].tasks, again[name].tasks)
    assert not np.isin(split.test.tasks, split.validation.tasks).any()


@FAMILIES
def test_other_sizes_keep_the_promises(family: Any) -> None:
    check_task_env(f"meta_rl/{family.__name__}-v0", num_arms=3, horizon=7)


@FAMILIES
@pytest.mark.parametrize("name", ["num_arms", "horizon"])
@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_bad_counts_are_refused(family: Any, name: str, count: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} has to be a whole number"):
        family(**{name: count})


@pytest.mark.parametrize("spreads", [{"mean_std": 0.0}, {"reward_std": -1.0}])
def test_bad_spreads_are_refused(spreads: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="_std has to be above 0"):
        GaussianBandit(**spreads)


def test_tasks_outside_the_space_are_refused() -> None:
    env = TaskVectorEnv(BernoulliBandit, 2, num_arms=2)
    for task in ([0.5, 1.1], [-0.1, 0.5], [np.nan, 0.5]):
        with pytest.raises(ValueError, match=r"task 0 is outside Box\(0.0, 1.0, \(2,\), float64\)"):
            env.set_tasks([task])
    with pytest.raises(ValueError, match=r"expected shape \(num_tasks, 2\)"):
        env.set_tasks([[0.5, 0.5, 0.5]])
