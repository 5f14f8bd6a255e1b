"""Observations that carry the previous step.

Rows equal hand-worked ones: at the start of a trial, inside an episode, over the end of an episode
within a trial, at a new trial, and in ``final_obs``; over native and adapted batches, with flat and
dict observations, discrete and continuous actions. A plain reset within a trial carries the
previous step on. Earlier rows are not written to; spaces and autoreset modes that do not fit are
refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from meta_rl import TaskEnv, TaskVectorEnv, make_task_vec
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.wrappers.previous_step import AppendPreviousStep

from .families import Corridor, PlainCorridor, PushedCorridor


def native(num_envs: int, family: Any = Corridor, **kwargs: Any) -> TaskVectorEnv:
    return TaskVectorEnv(family, num_envs, **kwargs)


def adapted(num_envs: int, family: Any = None, **kwargs: Any) -> TaskVectorAdapter:
    maker = PlainCorridor if family is None else (lambda: TaskEnv(family))
    return TaskVectorAdapter([maker] * num_envs, **kwargs)


BOTH = pytest.mark.parametrize("make", [native, adapted])


@BOTH
def test_rows_over_episodes_and_trials(make: Any) -> None:
    """Task, steps, noise; action one-hot; reward, end, new trial."""
    env = AppendPreviousStep(make(2))
    assert env.observation_space.shape == (2, 9)
    assert env.single_observation_space.shape == (9,)
    rows, _ = env.reset(options={"task": [1, 3]})
    assert rows.dtype == np.float32
    assert env.observation_space.contains(rows)
    assert rows.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 1], [3, 0, 0, 0, 0, 0, 0, 0, 1]]
    rows, *_, infos = env.step(np.array([2, 1]))
    assert rows.tolist() == [[1, 0, 0, 0, 0, 1, 11, 1, 0], [3, 1, 0, 0, 1, 0, 30.5, 0, 0]]
    assert infos["final_obs"][0].tolist() == [1, 1, 0, 0, 0, 1, 11, 1, 0]
    env.unwrapped.set_tasks([2])
    rows, *_, infos = env.step(np.array([0, 0]))
    assert rows.tolist() == [[2, 0, 0, 0, 0, 0, 0, 0, 1], [3, 2, 0, 1, 0, 0, 31, 0, 0]]
    assert infos["final_obs"][0].tolist() == [1, 1, 0, 1, 0, 0, 10, 1, 0]
    rows, *_ = env.step(np.array([1, 2]))
    assert rows.tolist() == [[2, 1, 0, 0, 1, 0, 20.5, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0, 1]]


@BOTH
def test_the_previous_step_passes_the_end_of_an_episode_until_the_trial_ends(make: Any) -> None:
    env = AppendPreviousStep(make(8, resample_tasks=True))
    env.reset(seed=0)
    episodes = np.zeros(8, dtype=int)
    for _ in range(40):
        actions = np.full(8, 1)
        rows, rewards, terminated, truncated, _ = env.step(actions)
        done = terminated | truncated
        episodes += done
        new = done & (episodes % 2 == 0)
        np.testing.assert_array_equal(rows[:, -1], new)
        assert not rows[new, 3:-1].any()
        np.testing.assert_array_equal(rows[~new, -3], np.float32(rewards[~new]))
        np.testing.assert_array_equal(rows[~new, -2], done[~new])
        np.testing.assert_array_equal(rows[~new, 4], 1)
    assert episodes.min() > 4


@BOTH
def test_a_plain_reset_within_a_trial_carries_the_previous_step_on(make: Any) -> None:
    env = AppendPreviousStep(make(2))
    env.reset(options={"task": [2, 2]})
    env.step(np.array([0, 1]))
    env.step(np.array([2, 1]))
    rows, _ = env.reset()
    assert rows.tolist() == [[2, 0, 0, 0, 0, 1, 22, 1, 0], [2, 0, 0, 0, 1, 0, 21.5, 1, 0]]
    env.step(np.array([0, 1]))
    rows, _ = env.reset()  # in the middle of an episode
    assert rows.tolist() == [[2, 0, 0, 1, 0, 0, 20, 0, 0], [2, 0, 0, 0, 1, 0, 20.5, 0, 0]]
    rows, _ = env.reset(options={"task": [4, 4]})
    assert rows.tolist() == [[4, 0, 0, 0, 0, 0, 0, 0, 1]] * 2


def test_a_masked_reset_leaves_the_others_alone() -> None:
    env = AppendPreviousStep(native(2, autoreset_mode=AutoresetMode.DISABLED))
    env.reset(options={"task": [1, 3]})
    rows, *_ = env.step(np.array([2, 1]))
    assert rows[0].tolist() == [1, 1, 0, 0, 0, 1, 11, 1, 0]
    rows, _ = env.reset(options={"reset_mask": np.array([True, False])})
    assert rows.tolist() == [[1, 0, 0, 0, 0, 1, 11, 1, 0], [3, 1, 0, 0, 1, 0, 30.5, 0, 0]]


def test_dict_observations_and_continuous_actions() -> None:
    """Steps one-hot (7), task (1); action (2); reward, end, new trial."""
    env = AppendPreviousStep(native(2, PushedCorridor))
    rows, _ = env.reset(options={"task": [1, 3]})
    assert rows[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1]
    rows, *_, infos = env.step(np.array([[0.5, 0.25], [-1.0, 0.5]]))
    assert rows[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0.5, 0.25, 10.375, 1, 0]
    assert rows[1].tolist() == [0, 1, 0, 0, 0, 0, 0, 3, -1, 0.5, 29.75, 0, 0]
    assert infos["final_obs"][0].tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 0.5, 0.25, 10.375, 1, 0]


def test_dict_observations_of_adapted_batches() -> None:
    env = AppendPreviousStep(adapted(2, PushedCorridor))
    env.reset(options={"task": [1, 3]})
    rows, *_, infos = env.step(np.array([[0.5, 0.25], [-1.0, 0.5]], dtype=np.float32))
    assert rows[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0.5, 0.25, 10.375, 1, 0]
    assert infos["final_obs"][0].tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 0.5, 0.25, 10.375, 1, 0]


def test_discrete_spaces_start_where_they_say() -> None:
    family = Corridor()
    family.action_space = spaces.Discrete(3, start=4)
    env = AppendPreviousStep(native(2, family))
    env.reset(options={"task": [5]})
    assert env.step(np.array([4, 6]))[0][:, 3:6].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_earlier_rows_are_not_written_to() -> None:
    env = AppendPreviousStep(native(3, resample_tasks=True))
    rows, _ = env.reset(seed=0)
    kept = [(rows, rows.copy())]
    for step in range(12):
        rows = env.reset()[0] if step % 5 == 4 else env.step(np.array([0, 1, 2]))[0]
        kept.append((rows, rows.copy()))
    for rows, copied in kept:
        np.testing.assert_array_equal(rows, copied)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="SAME_STEP or DISABLED"):
        AppendPreviousStep(make_task_vec("BernoulliBandit", 2, autoreset_mode="NextStep"))
    family = Corridor()
    family.observation_space = spaces.MultiDiscrete([2, 2])
    with pytest.raises(ValueError, match=r"cannot append MultiDiscrete"):
        AppendPreviousStep(native(1, family))
