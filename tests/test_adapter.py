"""Python environments as a batch with tasks.

The adapter gives what the native batch of the same family gives: hand-worked courses, tasks set in
blocks, taken at the next reset of each sub-environment and persisting, trials of
``episodes_per_trial`` episodes, self-chosen tasks, seeding; over ids, over plain Python
environments, over processes. Lengths are read from the environment or its id; bad input is refused.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from meta_rl import TaskEnv, TaskVectorEnv, make_task_vec
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.vector.task_batch import TaskBatch, task_batch

from .families import Corridor, PlainCorridor, PushedCorridor

MAKERS = {"plain": PlainCorridor, "batch of one": lambda: TaskEnv(Corridor)}


def adapted(num_envs: int, kind: str = "plain", **kwargs: Any) -> TaskVectorAdapter:
    return TaskVectorAdapter([MAKERS[kind]] * num_envs, **kwargs)


def still(env: Any) -> np.ndarray:
    return np.zeros(env.num_envs, dtype=np.int64)


@pytest.mark.parametrize("kind", MAKERS)
def test_set_tasks_give_the_course_of_the_native_batch(kind: str) -> None:
    ours, native = adapted(5, kind), TaskVectorEnv(Corridor, 5)
    assert ours.tasks is None
    assert isinstance(ours, TaskBatch)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (ours.horizon, ours.episodes_per_trial, ours.adaptation_unit) == (4, 2, "episode")
    for name in ("observation_space", "action_space", "single_action_space"):
        assert getattr(ours, name) == getattr(native, name)
    rng = np.random.default_rng(0)
    for step in range(40):
        if step % 10 == 0:
            tasks = rng.integers(1, 6, size=5)
            for env in (ours, native):
                env.set_tasks(tasks)
        if step % 20 == 0:
            (left, left_info), (right, right_info) = ours.reset(), native.reset()
            np.testing.assert_array_equal(left, right)
            np.testing.assert_array_equal(left_info["task"], right_info["task"])
            assert ours.trial_start.all()
        actions = rng.integers(3, size=5)
        left, right = ours.step(actions), native.step(actions)
        for one, other in zip(left[:4], right[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(ours.trial_start, native.trial_start)
        np.testing.assert_array_equal(ours.tasks, native.tasks)
        done = left[2] | left[3]
        if done.any():
            np.testing.assert_array_equal(
                np.stack(left[4]["final_obs"][done]), right[4]["final_obs"][done]
            )


@pytest.mark.parametrize("kind", MAKERS)
def test_masked_resets_are_those_of_the_native_batch(kind: str) -> None:
    """Which begin, on which tasks; the others go on. A mask of nobody is refused."""
    ours, native = adapted(6, kind), TaskVectorEnv(Corridor, 6)
    rng = np.random.default_rng(0)
    for env in (ours, native):
        with pytest.raises(ValueError, match="the first reset has to be one of all"):
            env.reset(seed=4, options={"reset_mask": np.arange(6) > 2})
        env.reset(seed=4)
    begun = 0
    for step in range(40):
        actions = rng.integers(3, size=6)
        left, right = ours.step(actions), native.step(actions)
        for one, other in zip(left[:4], right[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        if step % 5 == 2:
            tasks = rng.integers(1, 6, size=6)
            mask = rng.random(6) < 0.5
            mask[0] = True
            seed = step if step == 7 else None
            if step > 15:
                for env in (ours, native):
                    env.set_tasks(tasks)
            (left, left_info), (right, right_info) = (
                env.reset(seed=seed, options={"reset_mask": mask}) for env in (ours, native)
            )
            np.testing.assert_array_equal(left, right)
            np.testing.assert_array_equal(left_info["task"], right_info["task"])
            np.testing.assert_array_equal(ours.trial_start, native.trial_start)
            begun += ours.trial_start.sum()
    assert 0 < begun < 6 * 8
    for wrong in (np.zeros(6, dtype=bool), np.ones(5, dtype=bool), np.ones(6)):
        with pytest.raises(ValueError, match=r"reset_mask: expected bool of shape \(6,\)"):
            ours.reset(options={"reset_mask": wrong})


def test_tasks_are_set_in_equal_blocks() -> None:
    env = adapted(4)
    env.set_tasks([2, 5])
    assert env.tasks is None
    assert env.pending_tasks.tolist() == [2, 2, 5, 5]
    assert env.reset()[0][:, 0].tolist() == [2, 2, 5, 5]
    assert env.reset(options={"task": [1]})[1]["task"].tolist() == [1, 1, 1, 1]
    assert env.reset(seed=3)[0][:, 0].tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="3 tasks do not divide 4 sub-environments"):
        env.set_tasks([1, 2, 3])
    with pytest.raises(ValueError, match=r"task 0 is outside Discrete\(5, start=1\)"):
        env.set_tasks([7])
    assert env.tasks.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", MAKERS)
def test_trials_end_after_their_number_of_episodes(kind: str) -> None:
    env = adapted(6, kind, resample_tasks=True)
    observations, infos = env.reset(seed=2)
    task = observations[:, 0]
    assert infos["task"].tolist() == task.tolist()
    finished = np.zeros(6, dtype=int)
    changes = 0
    for _ in range(60):
        observations, _, terminated, truncated, _ = env.step(still(env))
        done = terminated | truncated
        finished += done
        begins = done & (finished % 2 == 0)
        assert env.trial_start.tolist() == begins.tolist()
        assert env.tasks.tolist() == observations[:, 0].tolist()
        changed = observations[:, 0] != task
        assert not (changed & ~begins).any()
        changes += changed.sum()
        task = observations[:, 0]
    assert changes > 10


def test_self_chosen_tasks_are_those_of_the_native_batch_and_persist() -> None:
    env, native = adapted(8), TaskVectorEnv(Corridor, 8)
    for seed in (0, 1, 0):
        tasks = env.reset(seed=seed)[0][:, 0]
        assert tasks.tolist() == native.reset(seed=seed)[1]["task"].tolist()
        for _ in range(10):
            assert env.step(still(env))[0][:, 0].tolist() == tasks.tolist()
        assert env.reset()[0][:, 0].tolist() == tasks.tolist()
        assert not env.trial_start.any()
    listed = TaskVectorAdapter([PlainCorridor] * 20, split="test").reset(seed=0)[1]["task"]
    assert sorted(listed) == sorted(Corridor().task_split["test"].tasks)


def test_none_lets_the_environment_choose_again() -> None:
    env = adapted(8)
    env.set_tasks([5])
    env.reset(seed=0)
    env.set_tasks([3])
    env.set_tasks(None)
    assert env.tasks.tolist() == [5] * 8
    assert env.reset()[0][:, 0].tolist() == [5] * 8
    assert len(set(env.reset(seed=0)[0][:, 0])) > 1


def course(env: Any, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    record = [env.reset(seed=seed)[0]]
    for _ in range(25):
        record += env.step(rng.integers(3, size=env.num_envs))[:4]
    return record


def test_a_seed_fixes_the_course_in_turn_and_in_processes() -> None:
    """Each sub-environment has random numbers of its own; processes change nothing."""
    kwargs = {"resample_tasks": True, "horizon": 3, "num_arms": 3}
    env = TaskVectorAdapter.from_id("meta_rl/GaussianBandit-v0", 3, **kwargs)
    first = course(env, 5)
    assert env.single_action_space.n == 3
    for one, other in zip(first, course(env, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[2], course(env, 6)[2])
    noise = [first[2][i] for i in range(3)]
    assert len(set(noise)) == 3

    def make() -> gym.Env:
        return gym.make("meta_rl/GaussianBandit-v0", horizon=3, num_arms=3)

    processes = TaskVectorAdapter(
        [make] * 3, asynchronous=True, num_processes=2, resample_tasks=True, context="spawn"
    )
    assert (env.steps_on_threads, processes.steps_on_threads) == (False, True)
    try:
        for one, other in zip(first, course(processes, 5), strict=True):
            np.testing.assert_array_equal(one, other)
        processes.set_tasks(np.zeros((3, 3)))
        assert not processes.reset()[1]["task"].any()
        np.testing.assert_array_equal(processes.trial_start, True)
    finally:
        processes.close()


def test_dict_tasks_and_dict_observations() -> None:
    env = TaskVectorAdapter.from_id("meta_rl/TabularMDP-v0", 2, num_states=2, num_actions=1)
    stay = np.eye(2)[None, :, None, :]
    rewards = np.array([[[3.0], [0.0]], [[-3.0], [0.0]]])
    tasks = {"rewards": rewards, "transitions": np.repeat(stay, 2, axis=0)}
    _, infos = env.reset(options={"task": tasks})
    np.testing.assert_array_equal(infos["task"]["rewards"], rewards)
    *_, infos = env.step(still(env))
    assert infos["reward_mean"].tolist() == [3.0, -3.0]
    pushed = TaskVectorAdapter([lambda: TaskEnv(PushedCorridor)] * 2)
    observations, _ = pushed.reset(options={"task": [1, 5]})
    assert observations["task"].tolist() == [[1.0], [5.0]]


def test_plain_environments_are_made_by_their_id() -> None:
    """Those without a native batch; the length is that of the id where they have none."""

    class Endless(PlainCorridor):
        horizon = None

    name = "TestOnly/Plain-v0"
    gym.register(name, Endless, max_episode_steps=3)
    try:
        env = make_task_vec(name, 2, 2)
        assert isinstance(env, TaskVectorAdapter)
        assert (env.num_envs, env.horizon) == (4, 3)
        env.reset(options={"task": [5, 1]})
        for _ in range(2):
            assert not env.step(still(env))[3].any()
        assert env.step(still(env))[3].tolist() == [True, True, False, False]
    finally:
        del gym.registry[name]
    with pytest.raises(ValueError, match="give it a horizon"):
        TaskVectorAdapter([Endless])


def test_bad_environments_and_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="has no task_split"):
        TaskVectorAdapter([lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match="num_envs has to be a whole number of at least 1, got 0"):
        TaskVectorAdapter([])
    with pytest.raises(ValueError, match="num_envs"):
        TaskVectorAdapter.from_id("meta_rl/TabularMDP-v0", 0)
    with pytest.raises(ValueError, match="no task split 'ood'"):
        adapted(1, split="ood")
    with pytest.raises(ValueError, match=r"unknown reset options \['goal'\]"):
        adapted(1).reset(options={"goal": 1})
    env = adapted(2)
    assert task_batch(gym.wrappers.vector.RecordEpisodeStatistics(env)) is env
