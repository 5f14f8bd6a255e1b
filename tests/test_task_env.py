"""The two front ends, and the registration of families.

Every autoreset mode gives hand-worked observations, rewards, ends and final observations, and what
Gymnasium's SyncVectorEnv of the same environments gives; tasks persist, are taken by each
sub-environment at its next reset, in blocks, and are chosen again after ``None``; trials end after
``episodes_per_trial`` episodes; the choice of tasks shifts no other random number; the same seed
gives the same course; reward terms sum; bad input and bad order of calls are refused; ids are
found, or near ones are named; every registered family keeps the promises of ``check_task_env``.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import meta_rl
from meta_rl import TaskEnv, TaskVectorEnv, check_task_env, make_task_vec
from meta_rl.make import (
    ENVIRONMENTS,
    as_task_vec,
    family_name,
    family_title,
    find_env_id,
    register_all,
)

from .families import Corridor, PushedCorridor

REGISTERED = sorted(f"meta_rl/{name}" for name in ENVIRONMENTS)
MODES = list(AutoresetMode)


def corridor(tasks: Any, mode: AutoresetMode = AutoresetMode.SAME_STEP, **kwargs: Any) -> Any:
    env = TaskVectorEnv(Corridor, len(tasks), autoreset_mode=mode, **kwargs)
    env.set_tasks(tasks)
    return env


def places(observations: np.ndarray) -> list[list[float]]:
    """Task and steps made, without the noise."""
    return observations[:, :2].tolist()


def still(env: Any) -> np.ndarray:
    return np.zeros(env.num_envs, dtype=np.int64)


# The steps of tasks 1, 3 and 5: what is seen, earned, terminated, truncated.
NEVER = [False, False, False]
COURSES = {
    AutoresetMode.SAME_STEP: [
        ([[1, 0], [3, 1], [5, 1]], [11, 30, 50], [True, False, False], NEVER),
        ([[1, 0], [3, 2], [5, 2]], [11, 31, 51], [True, False, False], NEVER),
        ([[1, 0], [3, 0], [5, 3]], [11, 32, 52], [True, True, False], NEVER),
        ([[1, 0], [3, 1], [5, 0]], [11, 30, 53], [True, False, False], [False, False, True]),
    ],
    AutoresetMode.NEXT_STEP: [
        ([[1, 1], [3, 1], [5, 1]], [11, 30, 50], [True, False, False], NEVER),
        ([[1, 0], [3, 2], [5, 2]], [0, 31, 51], NEVER, NEVER),
        ([[1, 1], [3, 3], [5, 3]], [11, 32, 52], [True, True, False], NEVER),
        ([[1, 0], [3, 0], [5, 4]], [0, 0, 53], NEVER, [False, False, True]),
        ([[1, 1], [3, 1], [5, 0]], [11, 30, 0], [True, False, False], NEVER),
    ],
}


@pytest.mark.parametrize("mode", COURSES)
def test_autoreset_gives_hand_worked_courses(mode: AutoresetMode) -> None:
    env = corridor([1, 3, 5], mode)
    assert env.metadata["autoreset_mode"] is mode
    observations, infos = env.reset()
    assert places(observations) == [[1, 0], [3, 0], [5, 0]]
    assert infos["task"].tolist() == [1, 3, 5]
    for seen, earned, terminated, truncated in COURSES[mode]:
        outcome = env.step(np.array([2, 0, 0]))
        assert places(outcome[0]) == seen
        assert [part.tolist() for part in outcome[1:4]] == [earned, terminated, truncated]


def test_same_step_keeps_the_last_observation_of_the_old_episode() -> None:
    env = corridor([1, 3, 5])
    env.reset()
    _, rewards, *_, infos = env.step(np.array([2, 0, 0]))
    assert infos["final_obs"][0].tolist() == [1, 1, 0]
    assert infos["_final_obs"].tolist() == [True, False, False]
    assert infos["final_info"]["reward_place"][0] == 10
    assert infos["reward_place"].tolist() == [10, 30, 50]
    assert infos["reward_action"].tolist() == [1, 0, 0]
    assert infos["_reward_action"].all()
    assert rewards.dtype == np.float64
    env.step(still(env))
    env.step(still(env))
    *_, infos = env.step(still(env))
    assert infos["final_obs"][[0, 2]].tolist() == [[1, 1, 0], [5, 4, 0]]


def test_disabled_autoreset_waits_for_the_mask() -> None:
    env = corridor([1, 3, 5], AutoresetMode.DISABLED)
    env.reset()
    observations, *_, infos = env.step(still(env))
    assert places(observations) == [[1, 1], [3, 1], [5, 1]]
    assert "final_obs" not in infos
    with pytest.raises(gym.error.ResetNeeded):
        env.step(still(env))
    mask = np.array([True, False, False])
    assert places(env.reset(options={"reset_mask": mask})[0]) == [[1, 0], [3, 1], [5, 1]]
    observations, rewards, *_ = env.step(still(env))
    assert places(observations) == [[1, 1], [3, 2], [5, 2]]
    assert rewards.tolist() == [10, 31, 51]


@pytest.mark.parametrize(
    "mask", [[True, False], [1, 0, 0], [False] * 3, np.ones((3, 1), bool), "all"]
)
def test_bad_reset_masks_are_refused(mask: Any) -> None:
    env = corridor([1, 3, 5])
    env.reset()
    with pytest.raises(ValueError, match=r"reset_mask: expected bool of shape \(3,\)"):
        env.reset(options={"reset_mask": mask})


def test_the_first_reset_is_one_of_all() -> None:
    env = TaskVectorEnv(Corridor, 2)
    with pytest.raises(ValueError, match="first reset has to be one of all"):
        env.reset(options={"reset_mask": np.array([True, False])})


def assert_same_ends(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ("final_obs" in ours) == ("final_obs" in theirs)
    if "final_obs" in ours:
        ended = theirs["_final_obs"]
        np.testing.assert_array_equal(ours["_final_obs"], ended)
        np.testing.assert_array_equal(
            ours["final_obs"][ended], np.stack(theirs["final_obs"][ended])
        )
        for term in ("reward_place", "reward_action"):
            theirs_of = theirs["final_info"][term][ended]
            np.testing.assert_array_equal(ours["final_info"][term][ended], theirs_of)


@pytest.mark.parametrize("mode", MODES)
def test_the_native_batch_equals_gymnasiums_sync_vector_env(mode: AutoresetMode) -> None:
    tasks = [1, 2, 3, 4, 5]
    ours = corridor(tasks, mode)
    theirs = SyncVectorEnv([lambda: TaskEnv(Corridor)] * 5, autoreset_mode=mode)
    for env, task in zip(theirs.envs, tasks, strict=True):
        env.set_task(task)
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])
    rng = np.random.default_rng(0)
    for _ in range(25):
        actions = rng.integers(3, size=5)
        left, right = ours.step(actions), theirs.step(actions)
        for one, other in zip(left[:4], right[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        assert_same_ends(left[4], right[4])
        done = left[2] | left[3]
        if mode is AutoresetMode.DISABLED and done.any():
            observations = [e.reset(options={"reset_mask": done})[0] for e in (ours, theirs)]
            np.testing.assert_array_equal(*observations)


def test_tasks_are_set_in_equal_blocks() -> None:
    env = TaskVectorEnv(Corridor, 4)
    assert env.tasks is None
    env.set_tasks([2, 5])
    assert env.tasks is None
    assert env.pending_tasks.tolist() == [2, 2, 5, 5]
    assert env.reset()[1]["task"].tolist() == [2, 2, 5, 5]
    assert env.tasks.tolist() == [2, 2, 5, 5]
    assert env.pending_tasks is None
    assert env.reset(options={"task": [3]})[1]["task"].tolist() == [3, 3, 3, 3]
    for tasks in ([1, 2, 3], np.zeros(0, dtype=int)):
        with pytest.raises(ValueError, match="do not divide 4 sub-environments"):
            env.set_tasks(tasks)
    with pytest.raises(ValueError, match=r"task 1 is outside Discrete\(5, start=1\)"):
        env.set_tasks([1, 6])
    assert env.tasks.tolist() == [3, 3, 3, 3]


def test_a_new_task_waits_for_the_next_reset_of_each_sub_environment() -> None:
    env = corridor([1, 3, 5], resample_tasks=True)
    env.reset()
    assert env.trial_start.tolist() == [True, True, True]
    env.set_tasks([2])
    assert env.tasks.tolist() == [1, 3, 5]
    seen, began = [], []
    played = []
    for _ in range(4):
        seen.append(env.step(still(env))[0][:, 0].tolist())
        began.append(env.trial_start.tolist())
        played.append(env.tasks.tolist())
        pending = env.pending_tasks
        assert (pending is None) == (len(seen) == 4)
        assert pending is None or pending.tolist() == [2, 2, 2]
    assert seen == played == [[2, 3, 5], [2, 3, 5], [2, 2, 5], [2, 2, 2]]
    assert began == [[True, False, False], NEVER, [False, True, False], [False, False, True]]


def test_set_tasks_persist_over_every_kind_of_reset() -> None:
    env = corridor([1, 3], resample_tasks=True)
    for seed in (None, 0, 1):
        assert env.reset(seed=seed)[1]["task"].tolist() == [1, 3]
        for _ in range(9):
            assert env.step(still(env))[0][:, 0].tolist() == [1, 3]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_trials_end_after_their_number_of_episodes(mode: AutoresetMode) -> None:
    env = TaskVectorEnv(Corridor, 6, resample_tasks=True, autoreset_mode=mode, episodes_per_trial=3)
    task = env.reset(seed=1)[0][:, 0]
    finished = np.zeros(6, dtype=int)
    waiting = np.zeros(6, dtype=bool)
    changes = 0
    for _ in range(80):
        observations, _, terminated, truncated, _ = env.step(still(env))
        done = terminated | truncated
        reset = done if mode is AutoresetMode.SAME_STEP else waiting
        waiting = done
        finished += reset
        begins = reset & (finished % 3 == 0)
        assert env.trial_start.tolist() == begins.tolist()
        changed = observations[:, 0] != task
        assert not (changed & ~begins).any()
        changes += changed.sum()
        task = observations[:, 0]
    assert changes > 10


def test_without_resampling_a_chosen_task_persists_and_a_seed_chooses_again() -> None:
    env = TaskVectorEnv(Corridor, 8)
    first = env.reset(seed=0)[1]["task"]
    for _ in range(12):
        assert env.step(still(env))[0][:, 0].tolist() == first.tolist()
    assert env.reset()[1]["task"].tolist() == first.tolist()
    assert not env.trial_start.any()
    assert env.reset(seed=1)[1]["task"].tolist() != first.tolist()
    assert env.trial_start.all()
    assert env.reset(seed=0)[1]["task"].tolist() == first.tolist()


def test_a_reset_counts_an_episode_that_was_begun_only() -> None:
    env = TaskVectorEnv(Corridor, 8, resample_tasks=True, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    for _ in range(5):
        env.reset()
        assert not env.trial_start.any()
    env.step(still(env))
    env.reset()
    assert not env.trial_start.any()
    env.step(still(env))
    env.reset()
    assert env.trial_start.all()


def test_none_lets_the_environment_choose_again() -> None:
    env = corridor([5] * 8, resample_tasks=True)
    env.reset(seed=0)
    env.set_tasks(None)
    assert env.tasks.tolist() == [5] * 8
    assert env.reset(seed=0)[1]["task"].tolist() != [5] * 8
    env.set_tasks([2])
    env.set_tasks(None)
    assert env.tasks.tolist() != [2] * 8


def test_self_chosen_tasks_come_from_the_split() -> None:
    listed = Corridor().task_split["validation"].tasks
    env = TaskVectorEnv(Corridor, 10, split="validation")
    assert sorted(env.reset(seed=0)[1]["task"]) == sorted(listed)
    with pytest.raises(ValueError, match="no task split 'ood'"):
        TaskVectorEnv(Corridor, split="ood")


def test_earlier_infos_and_tasks_are_not_written_to() -> None:
    env = TaskVectorEnv(Corridor, 8, resample_tasks=True)
    given = np.array([1, 2, 3, 4, 5, 1, 2, 3])
    env.set_tasks(given)
    given[:] = 5
    assert env.reset(seed=0)[1]["task"].tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    env.tasks[:] = 4
    assert env.tasks.tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    env.set_tasks(None)
    observations, infos = env.reset(seed=0)
    kept = observations.copy(), infos["task"].copy()
    for _ in range(20):
        env.step(still(env))
    np.testing.assert_array_equal(observations, kept[0])
    np.testing.assert_array_equal(infos["task"], kept[1])
    assert env.tasks.tolist() != kept[1].tolist()


def course(env: Any, seed: int, num_steps: int = 30, **reset: Any) -> list[np.ndarray]:
    """Everything that comes out of a seeded run with the same actions."""
    rng = np.random.default_rng(0)
    record = [env.reset(seed=seed, **reset)[0]]
    for _ in range(num_steps):
        record += env.step(rng.integers(3, size=env.num_envs))[:4]
    return record


def test_a_seed_fixes_the_course_whatever_came_before() -> None:
    env = TaskVectorEnv(Corridor, 4, resample_tasks=True, noise=1.0)
    fresh = TaskVectorEnv(Corridor, 4, resample_tasks=True, noise=1.0)
    first = course(env, 5)
    for record in (course(env, 5), course(fresh, 5)):
        for one, other in zip(first, record, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], course(env, 6)[0])


def test_the_choice_of_tasks_shifts_no_other_random_number() -> None:
    """Noise is the same with tasks chosen once, chosen after each trial, and set."""
    noises = []
    for resample, tasks in ((False, None), (True, None), (True, np.zeros((3, 10)))):
        env = gym.make_vec(
            "meta_rl/GaussianBandit-v0", num_envs=3, resample_tasks=resample, horizon=4
        )
        env.reset(seed=3, options=None if tasks is None else {"task": tasks})
        noise = []
        for _ in range(12):
            means = env.unwrapped.tasks[:, 1]
            noise.append(env.step(np.ones(3, dtype=int))[1] - means)
        noises.append(np.array(noise))
    np.testing.assert_allclose(noises[0], noises[1], atol=1e-12)
    np.testing.assert_allclose(noises[0], noises[2], atol=1e-12)


def test_reward_terms_sum_to_the_reward() -> None:
    env = TaskVectorEnv(Corridor, 5, autoreset_mode=AutoresetMode.NEXT_STEP)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, rewards, *_, infos = env.step(rng.integers(3, size=5))
        np.testing.assert_array_equal(infos["reward_place"] + infos["reward_action"], rewards)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 0], r"actions: expected \(3,\), got \(2,\)"),
        ([[0], [0], [0]], r"expected \(3,\), got \(3, 1\)"),
        ([0, 0, 3], r"outside Discrete\(3\): 0 to 3"),
        ([0, -1, 0], r"outside Discrete\(3\): -1 to 0"),
        ([0.0, 1.0, 2.0], r"expected integers of Discrete\(3\), got float64"),
    ],
)
def test_wrong_actions_are_refused(actions: Any, message: str) -> None:
    env = corridor([1, 3, 5])
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions))


def test_wrong_shapes_of_continuous_actions_are_refused() -> None:
    env = TaskVectorEnv(PushedCorridor, 3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions: expected \(3, 2\), got \(3,\)"):
        env.step(np.zeros(3))


def test_a_step_needs_a_reset() -> None:
    with pytest.raises(gym.error.ResetNeeded):
        corridor([1]).step(np.array([0]))
    env = TaskEnv(Corridor)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(options={"task": 1})
    assert env.step(0)[2]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


@pytest.mark.parametrize(
    ("error", "message", "kwargs"),
    [
        (ValueError, "num_envs has to be a whole number of at least 1, got 0", {"num_envs": 0}),
        (ValueError, "num_envs", {"num_envs": 1.5}),
        (
            ValueError,
            "autoreset_mode is one of NextStep, SameStep",
            {"autoreset_mode": "sometimes"},
        ),
        (ValueError, "no task split 'all'", {"split": "all"}),
        (ValueError, "render_mode 'human'", {"render_mode": "human"}),
        (ValueError, r"is built already; it takes no \['noise'\]", {"noise": 1.0}),
    ],
)
def test_bad_arguments_are_refused(
    error: type[Exception], message: str, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        TaskVectorEnv(Corridor(), **kwargs)


def test_other_things_are_no_definitions() -> None:
    with pytest.raises(TypeError, match=r"expected a TaskFuncEnv.*got <class 'dict'>"):
        TaskVectorEnv(dict)
    with pytest.raises(ValueError, match=r"unknown reset options \['goal'\]"):
        corridor([1]).reset(options={"goal": 1})
    with pytest.raises(ValueError, match="render_mode"):
        corridor([1]).render()


def test_the_batch_of_one_gives_single_values() -> None:
    env = TaskEnv(Corridor)
    assert env.task is None
    observation, info = env.reset(options={"task": 3})
    assert observation.tolist() == [3, 0, 0]
    assert info == {"task": 3}
    assert env.trial_start is True
    observation, reward, terminated, truncated, info = env.step(2)
    assert (observation.tolist(), reward, terminated, truncated) == ([3, 1, 0], 31.0, False, False)
    assert info == {"reward_place": 30, "reward_action": 1, "task": 3}
    assert type(reward) is float
    assert type(terminated) is bool
    assert (env.horizon, env.episodes_per_trial, env.adaptation_unit) == (4, 2, "episode")


def test_the_task_of_the_batch_of_one_persists() -> None:
    env = TaskEnv(Corridor)
    env.reset(seed=0, options={"task": 5})
    for seed in (None, 3):
        assert env.reset(seed=seed)[1]["task"] == 5
    env.set_task(2)
    assert env.reset()[0][0] == 2
    env.set_task(None)
    assert env.reset()[0][0] == 2
    assert len({int(env.reset(seed=seed)[1]["task"]) for seed in range(20)}) == 5
    with pytest.raises(ValueError, match=r"Discrete\(5, start=1\)"):
        env.reset(options={"task": 0})
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(options={"tasks": 1})


def test_the_batch_of_one_is_the_native_batch_of_one() -> None:
    one = TaskEnv(Corridor, noise=1.0)
    batch = TaskVectorEnv(Corridor, 1, noise=1.0, autoreset_mode="Disabled")
    for seed in (4, None, None, 4):
        left, right = one.reset(seed=seed)[0], batch.reset(seed=seed)[0]
        np.testing.assert_array_equal(left, right[0])
        left, right = one.step(1)[0], batch.step(np.array([1]))[0]
        np.testing.assert_array_equal(left, right[0])


def test_dict_observations_pass_both_front_ends() -> None:
    env = TaskVectorEnv(PushedCorridor, 2)
    env.reset(seed=0, options={"task": [1, 5]})
    observations, rewards, *_, infos = env.step(np.array([[0.5, 0.5], [-1.0, 0.0]]))
    assert observations["steps"].tolist() == [0, 1]
    assert observations["task"].tolist() == [[1.0], [5.0]]
    assert rewards.tolist() == [10.5, 49.5]
    assert infos["final_obs"]["steps"][0] == 1
    single, _ = TaskEnv(PushedCorridor).reset(options={"task": 5})
    assert single["task"].tolist() == [5.0]
    assert single["steps"] == 0


@pytest.mark.parametrize("env_id", REGISTERED)
def test_registered_families_keep_their_promises(env_id: str) -> None:
    check_task_env(env_id)


def test_ids_are_made_by_gymnasium() -> None:
    assert {f"meta_rl/{name}" for name in ENVIRONMENTS} <= set(gym.registry)
    env = gym.make("meta_rl/BernoulliBandit-v0", num_arms=3)
    assert isinstance(env.unwrapped, TaskEnv)
    assert env.action_space.n == 3
    batch = gym.make_vec("meta_rl/BernoulliBandit-v0", num_envs=5, num_arms=3)
    assert isinstance(batch.unwrapped, TaskVectorEnv)
    assert batch.num_envs == 5
    assert batch.spec.id == "meta_rl/BernoulliBandit-v0"
    assert gym.make("meta_rl:meta_rl/TabularMDP-v0").unwrapped.horizon == 10
    before = dict(gym.registry)
    register_all()
    assert before == dict(gym.registry)


def test_make_task_vec_multiplies_tasks_and_takes_short_names() -> None:
    env = make_task_vec("TabularMDP", 3, 2, num_states=4)
    assert env.num_envs == 6
    assert env.single_observation_space.n == 4
    assert family_name(env) == "meta_rl.envs.tabular_mdp:TabularMDP"
    assert family_title(family_name(env)) == "meta_rl/TabularMDP-v0"
    assert family_title("some.module:Unregistered") == "Unregistered"
    assert family_title("Omniglot-5w1s") == "Omniglot-5w1s"
    assert make_task_vec("meta_rl:meta_rl/TabularMDP-v0", 2).num_envs == 2
    for counts in ((0, 1), (2, 0), (1.5, 1), (2, -3)):
        with pytest.raises(ValueError, match="has to be a whole number of at least 1"):
            make_task_vec("TabularMDP", *counts)


def test_unknown_ids_name_near_ones() -> None:
    for name in ("TabularMDP", "TabularMDP-v0", "meta_rl/TabularMDP-v0"):
        assert find_env_id(name) == "meta_rl/TabularMDP-v0"
    hint = re.escape("unknown environment 'tabularmpd': did you mean meta_rl/TabularMDP-v0")
    with pytest.raises(ValueError, match=hint):
        make_task_vec("tabularmpd", 1)
    with pytest.raises(ValueError, match="meta-rl envs"):
        find_env_id("xyzzy")


def test_your_own_family_is_registered_with_both_front_ends() -> None:
    name = "TestOnly/Corridor-v0"
    meta_rl.register_task_env(name, Corridor, noise=2.0)
    try:
        assert gym.make(name).unwrapped.definition.noise == 2.0
        assert gym.make_vec(name, num_envs=2, noise=0.5).unwrapped.definition.noise == 0.5
    finally:
        del gym.registry[name]


def test_only_environments_with_tasks_become_batches() -> None:
    env = TaskVectorEnv(Corridor, 2)
    assert as_task_vec(env) is env
    assert as_task_vec(TaskEnv(Corridor)).num_envs == 1
    with pytest.raises(ValueError, match="has no tasks"):
        as_task_vec(gym.make_vec("CartPole-v1", num_envs=1))
    for wrong in (gym.make("CartPole-v1"), "CartPole-v1", None):
        with pytest.raises((ValueError, TypeError), match="with a task_split"):
            as_task_vec(wrong)
