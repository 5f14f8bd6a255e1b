"""Random tabular Markov decision processes.

Transitions have the frequencies of the task's rows, with certain ones certain; rewards have the
mean of the state that was left and the noise that was asked for; episodes begin in state 0 and are
terminated after ``horizon`` steps; tasks have their distribution; the batch agrees with batches of
one; bad arguments and tasks are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from meta_rl import TaskVectorEnv, check_task_env
from meta_rl.envs.tabular_mdp import TabularMDP

NUM = 20_000
ROWS = np.array(
    [  # [state, action, next state]; from state 0 every state is reached by an action of its own
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.2, 0.3, 0.5], [0.0, 0.1, 0.9], [0.6, 0.0, 0.4]],
        [[0.05, 0.9, 0.05], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0]],
    ]
)
REWARDS = np.array([[0.0, 1.0, 2.0], [-3.0, 4.0, 5.0], [6.0, 7.0, -8.0]])


def known(num_envs: int, **kwargs: Any) -> TaskVectorEnv:
    env = TaskVectorEnv(TabularMDP, num_envs, num_states=3, num_actions=3, **kwargs)
    env.set_tasks({"rewards": REWARDS[None], "transitions": ROWS[None]})
    return env


@pytest.mark.parametrize("state", [0, 1, 2])
@pytest.mark.parametrize("action", [0, 1, 2])
def test_transitions_have_the_frequencies_of_the_rows(state: int, action: int) -> None:
    env = known(NUM)
    assert not env.reset(seed=3 * state + action)[0].any()
    observations = env.step(np.full(NUM, state))[0]  # action s leads from state 0 to state s
    assert (observations == state).all()
    observations, rewards, *_ = env.step(np.full(NUM, action))
    counts = np.bincount(observations, minlength=3)
    row = ROWS[state, action]
    assert not counts[row == 0].any()
    likely = row > 0
    if likely.sum() > 1:
        assert stats.chisquare(counts[likely], NUM * row[likely]).pvalue > 1e-4
    assert abs(rewards.mean() - REWARDS[state, action]) < 4 / np.sqrt(NUM)
    assert abs(rewards.var() - 1) < 4 * np.sqrt(2 / NUM)


def test_the_noise_of_the_reward_is_the_one_that_was_asked_for() -> None:
    env = known(NUM, reward_std=0.25)
    env.reset(seed=0)
    env.step(np.full(NUM, 2))
    _, rewards, *_, infos = env.step(np.full(NUM, 1))
    assert (infos["reward_mean"] == 7.0).all()
    assert abs(infos["reward_noise"].mean()) < 4 * 0.25 / np.sqrt(NUM)
    assert abs(infos["reward_noise"].var() / 0.0625 - 1) < 4 * np.sqrt(2 / NUM)
    np.testing.assert_array_equal(rewards, infos["reward_mean"] + infos["reward_noise"])
    still = known(3, reward_std=0.0)
    still.reset(seed=0)
    assert still.step(np.array([0, 1, 2]))[1].tolist() == [0.0, 1.0, 2.0]


def test_an_episode_begins_in_state_zero_and_is_terminated_after_ten_steps() -> None:
    env = TaskVectorEnv(TabularMDP, 50)
    observations, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for step in range(1, 31):
        before = observations
        observations, _, terminated, truncated, infos = env.step(rng.integers(5, size=50))
        assert terminated.tolist() == [step % 10 == 0] * 50
        assert not truncated.any()
        if step % 10 == 0:
            assert not observations.any()
            assert infos["final_obs"].any()
    assert before.any()
    assert (env.episodes_per_trial, env.adaptation_unit) == (10, "episode")


def test_arguments_reach_the_family() -> None:
    env = TaskVectorEnv(TabularMDP, 2, num_states=4, num_actions=2, horizon=3, episodes_per_trial=6)
    assert env.single_observation_space.n == 4
    assert env.single_action_space.n == 2
    assert env.task_split.space["transitions"].shape == (4, 2, 4)
    assert (env.horizon, env.episodes_per_trial) == (3, 6)
    check_task_env("TabularMDP", num_states=4, num_actions=2, horizon=3)


def test_the_tasks_have_their_distribution() -> None:
    """Rewards N(1, 1); an entry of a flat Dirichlet row over S states is Beta(1, S - 1)."""
    tasks = TabularMDP().task_split.train.sample_tasks(200, np.random.default_rng(0))
    rewards, rows = tasks["rewards"].ravel(), tasks["transitions"]
    assert stats.kstest(rewards, stats.norm(1, 1).cdf).pvalue > 1e-3
    assert stats.kstest(rows[..., 3].ravel(), stats.beta(1, 9).cdf).pvalue > 1e-3
    np.testing.assert_allclose(rows.sum(axis=-1), 1.0)


def test_held_out_tasks_are_fixed_lists() -> None:
    split, again = TabularMDP().task_split, TabularMDP().task_split
    assert split.ood is None
    for name in ("validation", "test"):
        assert len(split[name]) == 1000
        for part in ("rewards", "transitions"):
            np.testing.assert_array_equal(split[name].tasks[part], again[name].tasks[part])
    assert not np.isin(split.test.tasks["rewards"], split.validation.tasks["rewards"]).any()


@pytest.mark.parametrize("name", ["num_states", "num_actions", "horizon", "episodes_per_trial"])
@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_bad_counts_are_refused(name: str, count: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} has to be a whole number"):
        TabularMDP(**{name: count})


def test_a_negative_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="reward_std has to be at least 0, got -1"):
        TabularMDP(reward_std=-1)


def test_rows_that_are_no_distributions_are_refused() -> None:
    env = known(2)
    rows = np.stack([ROWS, ROWS])
    rows[1, 2, 1, 0] += 0.01
    rewards = np.stack([REWARDS, REWARDS])
    with pytest.raises(ValueError, match="task 1: rows of 'transitions' do not sum to 1"):
        env.set_tasks({"rewards": rewards, "transitions": rows})
    rows[1, 2, 1] = [-0.5, 0.5, 1.0]
    with pytest.raises(
        ValueError, match=r"tasks\['transitions'\]: task 1 is outside Box\(0.0, 1.0"
    ):
        env.set_tasks({"rewards": rewards, "transitions": rows})
    with pytest.raises(ValueError, match=r"expected a dict with keys \['rewards', 'transitions'\]"):
        env.set_tasks(rewards)


def test_rounding_of_a_row_never_leads_out_of_the_states() -> None:
    """A row may fall short of 1 by a rounding error, and the largest draw pass its last sum."""

    class Largest(np.random.Generator):
        def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
            return np.full(size, np.nextafter(1.0, 0.0))

    family = TabularMDP(3, 3)
    short = np.where(ROWS == 1.0, 1.0 - 1e-9, ROWS)[None]
    tasks = {"rewards": REWARDS[None], "transitions": short}
    rng = Largest(np.random.PCG64(0))
    state = family.initial(rng, tasks)
    assert family.transition(state, np.array([0]), rng, tasks).cell.tolist() == [2]
