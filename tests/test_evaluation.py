"""Evaluation of fast adaptation.

Values of scripted learners equal hand-worked ones, column by column; data reach ``adapt`` with the
documented shapes, in blocks that copies fill up, and sub-environments that have finished touch
neither data nor state; every distinct task counts once and gets the same number of episodes;
sub-environments of a task are averaged; chunks meet each task once and afresh; the values of a task
depend on neither; oracles are told the tasks; plain Stable-Baselines3 models are evaluated as they
are; the learner's randomness is seeded and put back; they act on one thread of torch where an
environment has its own; bad input is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import meta_rl
from meta_rl import EvaluationResult, TaskEnv, TaskVectorEnv, evaluate_adaptation, sb3_env
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.agents.bandits import bandit_learners
from meta_rl.agents.navigation import navigation_oracles
from meta_rl.agents.rl2 import RL2
from meta_rl.evaluation.tasks import distinct_tasks
from meta_rl.evaluation.trials import _keep_inactive, adapts_by_step, block_size
from meta_rl.tasks import FiniteTasks, TaskSplit, UniformTasks
from meta_rl.wrappers.previous_step import AppendPreviousStep

from .families import Corridor, ListedCorridor, PlainCorridor, PulledCorridor, QuickSuccess

NAME = "TestOnly/Listed-v0"
# An episode of task 1, 3 and 5 with action 0; each step with action a adds a / 2.
RETURNS = np.array([10.0, 93.0, 206.0])
LENGTHS = np.array([1, 3, 4])


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    meta_rl.register_task_env(NAME, ListedCorridor)
    yield
    del gym.registry[NAME]


class Counts(NamedTuple):
    """How often adapted and how often asked, int64 ``[N]`` each."""

    adapted: np.ndarray
    asked: np.ndarray


class Scripted:
    """Acts by how often it has adapted; keeps what it is given."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.given: list[tuple[Any, ...]] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 0
    ) -> tuple[np.ndarray, Counts]:
        self.asked.append((observation, state, episode_start, deterministic))
        zeros = np.zeros(len(observation), dtype=np.int64)
        state = Counts(zeros, zeros) if state is None else state
        return self.action(state), Counts(state.adapted, state.asked + 1)

    def action(self, state: Counts) -> np.ndarray:
        return np.minimum(state.adapted, 2)

    def adapt(self, rollout: Any, state: Any = None) -> Counts:
        self.given.append((rollout, state))
        return Counts(state.adapted + 1, state.asked)


class Columns(Scripted):
    """Acts by the column: 0, 1, 0, 1, ..."""

    def action(self, state: Counts) -> np.ndarray:
        return np.arange(len(state.adapted)) % 2


class CountsThreads(Scripted):
    """Keeps the number of torch's threads that it acts and adapts with."""

    def __init__(self) -> None:
        super().__init__()
        self.acted: set[int] = set()
        self.learned: set[int] = set()

    def predict(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Counts]:
        self.acted.add(torch.get_num_threads())
        return super().predict(*args, **kwargs)

    def adapt(self, *args: Any) -> Counts:
        self.learned.add(torch.get_num_threads())
        return super().adapt(*args)


def batch(num_envs: int, family: Any = ListedCorridor) -> TaskVectorEnv:
    return TaskVectorEnv(family, num_envs)


BLOCK = 1024
"""Sub-environments about which a learner is asked at once where episodes are short; the first ones
are those of the tasks, and copies of the first fill the block up."""


def ordered(result: EvaluationResult) -> np.ndarray:
    """By task: their order is drawn."""
    return result.values[np.argsort(result.values[:, 0])]


@pytest.mark.parametrize("on_threads", [True, False])
def test_learners_act_on_one_thread_where_the_environment_has_its_own(on_threads: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        env = batch(3)
        env.steps_on_threads = on_threads
        learner = CountsThreads()
        evaluate_adaptation(learner, env, 3, 2)
        assert learner.acted == {1 if on_threads else 3}
        assert learner.learned == {3}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NAME,
        lambda: batch(3),
        lambda: TaskVectorAdapter([lambda: TaskEnv(ListedCorridor)] * 3),
        lambda: sb3_env(NAME, 3),
        lambda: TaskEnv(ListedCorridor),
        lambda: gym.make(NAME),
    ],
)
def test_values_are_the_returns_after_each_adaptation(make: Any) -> None:
    """Column k is earned with action min(k, 2), which pays half of it in each step."""
    result = evaluate_adaptation(Scripted(), make(), 3, 4)
    expected = RETURNS[:, None] + 0.5 * LENGTHS[:, None] * np.array([0, 1, 2, 2])
    np.testing.assert_array_equal(ordered(result), expected)
    np.testing.assert_array_equal(np.sort(result.total), expected.sum(axis=1))
    assert (result.num_tasks, result.unit, result.split) == (3, "episode", "test")
    assert (result.learner, result.seed, result.envs_per_task) == ("Scripted", 0, 1)
    assert (result.trainings.tolist(), result.num_trainings) == ([0, 0, 0], 1)
    assert result.environment.endswith(("families:ListedCorridor", NAME, "TaskVectorAdapter"))
    assert f" test tasks of {result.environment_title}: " in str(result)
    assert ":" not in result.environment_title
    assert result.versions["numpy"] == np.__version__


def test_the_number_of_episodes_is_that_of_a_trial_by_default() -> None:
    assert evaluate_adaptation(Scripted(), NAME, 3).values.shape == (3, 2)
    assert evaluate_adaptation(Scripted(), "BernoulliBandit", 3, horizon=4).values.shape == (3, 4)
    assert evaluate_adaptation(Scripted(), "BernoulliBandit", 3, 2, horizon=4).values.shape == (
        3,
        8,
    )


def test_episodes_reach_the_learner_with_a_mask() -> None:
    """Sub-environments that have finished idle along: neither data nor state know of it."""
    learner = Scripted()
    env = batch(3)
    assert block_size(env) == BLOCK
    evaluate_adaptation(learner, env, 3, 2)
    assert len(learner.given) == 2
    order = np.argsort(learner.given[0][0].observations[0, :3, 0])
    for episode, (rollout, state) in enumerate(learner.given):
        assert rollout.rewards.shape == rollout.mask.shape == (4, BLOCK)
        assert rollout.observations.shape == rollout.next_observations.shape == (4, BLOCK, 3)
        assert rollout.mask.sum(axis=0)[order].tolist() == LENGTHS.tolist()
        real = np.where(rollout.mask, rollout.rewards, 0.0).sum(axis=0)[order]
        np.testing.assert_array_equal(real, RETURNS + 0.5 * episode * LENGTHS)
        assert rollout.terminated[:, order[1]].tolist() == [False, False, True, False]
        assert rollout.truncated[:, order[2]].tolist() == [False, False, False, True]
        assert rollout.next_observations[[0, 2, 3], order, 1].tolist() == LENGTHS.tolist()
        assert state.asked[order].tolist() == ((episode + 1) * LENGTHS).tolist()
        assert state.adapted.tolist() == [episode] * BLOCK
        for copied in (rollout.rewards, rollout.mask, rollout.observations, state.asked[None]):
            assert np.all(copied[:, 3:] == copied[:, :1])


def test_rollouts_are_padded_to_the_horizon_whatever_the_lengths() -> None:
    """The tasks that happen to be in the batch must not decide about the shape of the data."""
    learner = Scripted()
    env = TaskVectorEnv(ListedCorridor, 1)
    evaluate_adaptation(learner, env, 3, 1)
    assert sorted(rollout.mask[:, 0].sum() for rollout, _ in learner.given) == LENGTHS.tolist()
    assert {rollout.mask.shape for rollout, _ in learner.given} == {(4, BLOCK)}


def test_starts_and_states_reach_the_learner() -> None:
    learner = Scripted()
    evaluate_adaptation(learner, batch(3), 3, 2, deterministic=True)
    assert len(learner.asked) == 8
    assert [state is None for _, state, *_ in learner.asked] == [True] + [False] * 7
    order = np.argsort(learner.asked[0][0][:3, 0])
    starts = [start[order].tolist() for _, _, start, _ in learner.asked]
    assert starts[0] == starts[4] == [True, True, True]
    assert starts[1][1:] == [False, False]
    assert all(deterministic is True for *_, deterministic in learner.asked)
    assert not evaluate_adaptation(Scripted(), batch(3), 3).deterministic


def test_pulls_reach_the_learner_one_by_one() -> None:
    learner = Scripted()
    env = TaskVectorEnv("meta_rl.envs.bandits:BernoulliBandit", 5, num_arms=3, horizon=6)
    result = evaluate_adaptation(learner, env, 5)
    assert result.unit == "pull"
    assert len(learner.given) == 6
    for pull, (rollout, state) in enumerate(learner.given):
        assert rollout.rewards.shape == (1, BLOCK)
        assert rollout.mask.all()
        assert rollout.actions.tolist() == [[min(pull, 2)] * BLOCK]
        assert rollout.terminated.tolist() == [[pull == 5] * BLOCK]
        assert state.adapted.tolist() == [pull] * BLOCK
        np.testing.assert_array_equal(rollout.rewards[0, :5], result.values[:, pull])


def test_pulls_of_finished_sub_environments_are_masked() -> None:
    class Listed(PulledCorridor):
        def __init__(self) -> None:
            super().__init__()
            self.task_split = ListedCorridor().task_split

    learner = Scripted()
    result = evaluate_adaptation(learner, batch(3, Listed), 3, 1)
    order = np.argsort(result.values[:, 0])
    steps = [[10, 0, 0, 0], [30, 31.5, 33, 0], [50, 51.5, 53, 54]]
    np.testing.assert_array_equal(result.values[order], steps)
    masks = [rollout.mask[0, order].tolist() for rollout, _ in learner.given]
    assert masks == [[True] * 3, [False, True, True], [False, True, True], [False, False, True]]
    assert learner.given[-1][1].adapted[order].tolist() == [1, 3, 3]


def test_sub_environments_of_a_task_are_averaged() -> None:
    """Columns act 0 and 1 in turn, so that the mean action is a half."""
    for env, extra in ((NAME, {}), (batch(6), {}), (NAME, {"max_envs": 2})):
        learner = Columns()
        result = evaluate_adaptation(learner, env, 3, 1, envs_per_task=2, **extra)
        np.testing.assert_array_equal(ordered(result)[:, 0], RETURNS + 0.25 * LENGTHS)
        tasks = learner.asked[0][0][:, 0]
        np.testing.assert_array_equal(tasks[::2], tasks[1::2])


@pytest.mark.parametrize(("env", "max_envs"), [(NAME, 2), (NAME, 1), (2, 4096), (7, 4096)])
def test_chunks_meet_each_task_once_and_afresh(env: Any, max_envs: int) -> None:
    learner = Scripted()
    env = batch(env) if isinstance(env, int) else env
    result = evaluate_adaptation(learner, env, 3, 2, max_envs=max_envs)
    expected = RETURNS[:, None] + 0.5 * LENGTHS[:, None] * np.arange(2)
    np.testing.assert_array_equal(ordered(result), expected)
    at_once = 7 if env is not NAME and env.num_envs == 7 else min(max_envs, 2)
    chunks = sum(state is None for _, state, *_ in learner.asked)
    assert chunks == -(-3 // at_once)


class TaskCounts(NamedTuple):
    """How often adapted and how often asked: one for each task, int64 ``[M]``."""

    adapted: np.ndarray
    asked: np.ndarray


class Pooled(Scripted):
    """Adapts to all sub-environments of a task together: a state of M tasks, for N columns."""

    envs_per_task = 2

    def __init__(self, changes_when_asked: bool = False) -> None:
        super().__init__()
        self.changes_when_asked = changes_when_asked

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 0
    ) -> tuple[np.ndarray, Any]:
        self.asked.append((observation, state, episode_start, deterministic))
        if state is None:
            return np.zeros(len(observation), dtype=np.int64), None
        if self.changes_when_asked:
            state = TaskCounts(state.adapted, state.asked + 1)
        return np.minimum(np.repeat(state.adapted, 2), 2), state

    def adapt(self, rollout: Any, state: Any = None) -> Any:
        self.given.append((rollout, state))
        num_tasks = rollout.rewards.shape[1] // rollout.envs_per_task
        if state is None:
            state = TaskCounts(np.zeros(num_tasks, int), np.zeros(num_tasks, int))
        return TaskCounts(state.adapted + 1, state.asked)


@pytest.mark.parametrize("changes_when_asked", [False, True])
@pytest.mark.parametrize(("env", "max_envs"), [(NAME, 4096), (NAME, 4), (6, 0)])
def test_sub_environments_of_a_task_adapt_together(
    env: Any, max_envs: int, changes_when_asked: bool
) -> None:
    """The learner's own number of them; states of M tasks stay whole where episodes end early."""
    learner = Pooled(changes_when_asked)
    result = evaluate_adaptation(
        learner, batch(env) if isinstance(env, int) else env, 3, 4, max_envs=max_envs
    )
    expected = RETURNS[:, None] + 0.5 * LENGTHS[:, None] * np.array([0, 1, 2, 2])
    np.testing.assert_array_equal(ordered(result), expected)
    assert result.envs_per_task == 2
    chunks = 2 if max_envs == 4 else 1
    assert len(learner.given) == 4 * chunks
    for rollout, state in learner.given:
        assert rollout.envs_per_task == 2
        assert rollout.rewards.shape == (4, BLOCK)
        tasks = rollout.observations[0, :, 0]
        np.testing.assert_array_equal(tasks[::2], tasks[1::2])
        assert state is None or len(state.adapted) == BLOCK // 2
        np.testing.assert_array_equal(rollout.mask.sum(axis=0), np.minimum(tasks, 4))
    if changes_when_asked and chunks == 1:
        # A task goes on as long as one of its sub-environments does, three episodes with a state.
        asked = learner.given[-1][1].asked
        tasks = learner.given[-1][0].observations[0, ::2, 0]
        np.testing.assert_array_equal(asked, 3 * np.minimum(tasks, 4))


@pytest.mark.parametrize("leaf", [np.zeros, torch.zeros])
def test_states_go_on_until_the_last_of_a_task_has_finished(leaf: Any) -> None:
    """Of four columns of two tasks, those of the first have ended, and half of the second."""
    active = np.array([False, False, True, False])
    old, new = leaf((2, 3)), leaf((2, 3)) + 1
    kept = _keep_inactive(active, {"a": (new, [new])}, {"a": (old, [old])}, 0, 2)["a"][1][0]
    assert kept.tolist() == [[0] * 3, [1] * 3]
    each = _keep_inactive(active, leaf(4) + 1, leaf(4), 0, 2)
    assert each.tolist() == [0, 0, 1, 0]
    layers = _keep_inactive(active, leaf((5, 4, 1)) + 1, leaf((5, 4, 1)), 1, 2)
    assert layers[..., 0].tolist() == [[0, 0, 1, 0]] * 5


@pytest.mark.parametrize("leaf", [np.zeros((5, 4)), torch.zeros(3), 7, np.float64(0), "state"])
def test_states_without_an_axis_of_the_tasks_are_refused(leaf: Any) -> None:
    active = np.array([False, False, True, False])
    with pytest.raises(ValueError, match=r"4 sub-environments \(or 2 tasks\) on axis 0"):
        _keep_inactive(active, leaf, "old", 0, 2)
    assert _keep_inactive(np.ones(4, bool), leaf, "old", 0, 2) is leaf  # nothing has to be kept


def test_a_learner_names_the_axis_of_its_tasks() -> None:
    class Layers:
        """Acts by the steps that it was asked in, which its second axis counts."""

        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, **kwargs: Any
        ) -> Any:
            state = np.zeros((2, len(observation)), dtype=np.int64) if state is None else state
            return np.minimum(state[1], 2), state + 1

    with pytest.raises(ValueError, match="state_task_axis"):
        evaluate_adaptation(Layers(), batch(3), 3, 2)
    learner = Layers()
    learner.state_task_axis = 1
    result = evaluate_adaptation(learner, batch(3), 3, 2)
    # Actions 1; 2, 2, 2; 2, 2, 2, 2: what was asked in the first episode, and up to 2.
    second = RETURNS + 0.5 * np.array([1, 6, 8])
    np.testing.assert_array_equal(ordered(result)[:, 1], second)


def test_learners_may_adapt_by_episode_where_others_do_by_step() -> None:
    """``adapts_by_step = False``: the whole trial of a bandit is one episode of data."""

    class ByEpisode(Scripted):
        adapts_by_step = False

    learner = ByEpisode()
    env = TaskVectorEnv("meta_rl.envs.bandits:BernoulliBandit", 5, num_arms=3, horizon=6)
    result = evaluate_adaptation(learner, env, 5, 3)
    assert result.unit == "episode"
    assert result.values.shape == (5, 3)
    assert len(learner.given) == 3
    for episode, (rollout, state) in enumerate(learner.given):
        assert rollout.actions.tolist() == [[min(episode, 2)] * BLOCK] * 6
        assert state.adapted.tolist() == [episode] * BLOCK
        earned = rollout.rewards[:, :5].sum(axis=0)
        np.testing.assert_array_equal(earned, result.values[:, episode])
    assert not adapts_by_step(learner, env)
    assert adapts_by_step(Scripted(), env)
    assert not adapts_by_step(Scripted(), batch(3))


def test_whole_numbers_may_be_floats() -> None:
    result = evaluate_adaptation(Scripted(), NAME, 3.0, 1.0, envs_per_task=2.0)
    np.testing.assert_array_equal(ordered(result)[:, 0], RETURNS)


def test_every_listed_task_counts_once() -> None:
    values = evaluate_adaptation(Scripted(), NAME, num_episodes=1, max_envs=2).values[:, 0]
    assert sorted(values) == RETURNS.tolist()
    with pytest.raises(ValueError, match=r"num_tasks=4: the test tasks hold 3 .*envs_per_task"):
        evaluate_adaptation(Scripted(), NAME, 4)


def test_repeated_entries_of_a_list_count_once() -> None:
    class Repeated(Corridor):
        def __init__(self) -> None:
            super().__init__()
            tasks = FiniteTasks(self.task_split.space, [3, 1, 3, 5, 1])
            self.task_split = TaskSplit(tasks, tasks, tasks)

    result = evaluate_adaptation(Scripted(), batch(2, Repeated), num_episodes=1)
    np.testing.assert_array_equal(ordered(result)[:, 0], RETURNS)
    with pytest.raises(ValueError, match="hold 3 distinct tasks"):
        evaluate_adaptation(Scripted(), batch(2, Repeated), 5)


def test_draws_differ_from_each_other() -> None:
    """A distribution without a list that can only give five tasks gives each once."""

    class Drawn(Corridor):
        def __init__(self) -> None:
            super().__init__()
            tasks = UniformTasks(self.task_split.space)
            self.task_split = TaskSplit(tasks, tasks, tasks)

    few = len(
        {
            int(task)
            for task in UniformTasks(Corridor().task_split.space).sample_tasks(
                1000, np.random.default_rng(0)
            )
        }
    )
    assert evaluate_adaptation(Scripted(), batch(2, Drawn)).num_tasks == few
    assert evaluate_adaptation(Scripted(), batch(2, Drawn), few - 1).num_tasks == few - 1
    with pytest.raises(ValueError, match=f"hold {few} distinct tasks"):
        evaluate_adaptation(Scripted(), batch(2, Drawn), few + 1)


def test_a_hundred_tasks_are_drawn_where_there_is_no_list() -> None:
    """And the first draws do not depend on the number of draws."""
    env = "GaussianBandit"
    learner = bandit_learners(10, 10, np.random.default_rng(0), "gaussian")["greedy"]
    results = [
        evaluate_adaptation(learner, env, number, split="train") for number in (None, 130, 7)
    ]
    assert [result.num_tasks for result in results] == [100, 130, 7]
    np.testing.assert_array_equal(results[0].values[:7], results[2].values)
    np.testing.assert_array_equal(results[0].values, results[1].values[:100])


def test_an_oracle_is_told_the_tasks() -> None:
    class Oracle(Scripted):
        def adapt_to_tasks(self, tasks: np.ndarray) -> Counts:
            self.told = tasks
            return Counts(np.where(tasks == 3, 2, 0), np.zeros(len(tasks), dtype=np.int64))

        def adapt(self, rollout: Any, state: Any = None) -> Any:
            return state

    learner = Oracle()
    result = evaluate_adaptation(learner, batch(3), 3, 2)
    assert len(learner.told) == BLOCK
    np.testing.assert_array_equal(learner.told, learner.asked[0][0][:, 0])
    expected = RETURNS + np.array([0.0, 3.0, 0.0])
    np.testing.assert_array_equal(ordered(result), np.stack([expected, expected], axis=1))


def test_plain_models_are_evaluated_as_they_are() -> None:
    model = PPO("MlpPolicy", sb3_env("BernoulliBandit", 4), seed=0, device="cpu")
    result = evaluate_adaptation(model, "BernoulliBandit", 300, deterministic=True)
    assert result.learner == "PPO"
    assert result.values.shape == (300, 10)
    arm = model.predict(np.zeros(1, dtype=int), deterministic=True)[0][0]
    env = meta_rl.make_task_vec("BernoulliBandit", 1)
    tasks, _ = distinct_tasks(env.unwrapped.task_split["test"], 300, seed=0)
    spread = np.sqrt((tasks[:, arm] * (1 - tasks[:, arm])).sum() * 10) / 3000
    assert abs(result.values.mean() - tasks[:, arm].mean()) < 4 * spread


def test_a_learner_may_wrap_the_environment() -> None:
    class Wrapping(Scripted):
        def wrap_env(self, env: Any) -> Any:
            return AppendPreviousStep(env)

    learner = Wrapping()
    result = evaluate_adaptation(learner, batch(3), 3, 2)
    np.testing.assert_array_equal(ordered(result)[:, 0], RETURNS)
    assert learner.asked[0][0].shape == (BLOCK, 9)
    begins = [rows[:3, -1].tolist() for rows, *_ in learner.asked]
    assert begins[0] == [1, 1, 1]
    assert not np.any(begins[1:])


class Random(Scripted):
    """Acts by both of its generators."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(5)
        self.generator = torch.Generator().manual_seed(5)

    def action(self, state: Counts) -> np.ndarray:
        num = len(state.asked)
        drawn = torch.randint(2, (num,), generator=self.generator).numpy()
        return drawn + self.rng.integers(2, size=num)


def test_the_seed_fixes_the_values_and_the_learner_is_left_untouched() -> None:
    learner = Random()
    rng, before = learner.rng, learner.rng.bit_generator.state
    generator = learner.generator.get_state()
    results = [evaluate_adaptation(learner, NAME, 3, 4, seed=seed) for seed in (1, 1, 2)]
    assert learner.rng is rng
    assert rng.bit_generator.state == before
    assert torch.equal(learner.generator.get_state(), generator)
    np.testing.assert_array_equal(results[0].values, results[1].values)
    assert not np.array_equal(ordered(results[0]), ordered(results[2]))
    rng.random(3)
    again = evaluate_adaptation(learner, NAME, 3, 4, seed=1)
    np.testing.assert_array_equal(results[0].values, again.values)


def test_a_learner_that_fails_is_left_untouched() -> None:
    class Failing(Random):
        def adapt(self, rollout: Any, state: Any = None) -> Any:
            raise RuntimeError("no")

    learner = Failing()
    rng, generator = learner.rng, learner.generator.get_state()
    with pytest.raises(RuntimeError, match="no"):
        evaluate_adaptation(learner, NAME, 3)
    assert learner.rng is rng
    assert torch.equal(learner.generator.get_state(), generator)


def test_states_of_other_kinds_are_frozen_too() -> None:
    """Tuples, dicts and tensors: each leaf counts the steps of its own sub-environment."""

    class Nested:
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, **kwargs: Any
        ) -> Any:
            num = len(observation)
            if state is None:
                state = ({"a": np.zeros(num)}, torch.zeros(num, 2))
            state = ({"a": state[0]["a"] + 1}, state[1] + 1)
            return np.zeros(num, dtype=np.int64), state

        def adapt(self, rollout: Any, state: Any) -> Any:
            self.state = state
            return state

    learner = Nested()
    evaluate_adaptation(learner, batch(3), 3, 2)
    assert sorted(learner.state[0]["a"][:3]) == (2 * LENGTHS).tolist()
    np.testing.assert_array_equal(learner.state[1][:, 1], learner.state[0]["a"])


def test_an_environment_chooses_its_tasks_again_afterwards() -> None:
    env = batch(3)
    evaluate_adaptation(Scripted(), env, 3, 1)
    assert len({tuple(env.reset(seed=seed)[1]["task"]) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "Nowhere"}, "unknown environment 'Nowhere'"),
        ({"env": None}, "with a task_split"),
        ({"split": "all"}, "no task split 'all'"),
        ({"num_tasks": "3"}, "num_tasks has to be a whole number"),
        ({"num_tasks": 0}, "num_tasks has to be a whole number"),
        ({"num_tasks": 1.5}, "num_tasks has to be a whole number"),
        ({"num_episodes": 0}, "num_episodes has to be a whole number"),
        ({"num_episodes": -1}, "num_episodes has to be a whole number"),
        ({"envs_per_task": 0}, "envs_per_task has to be a whole number"),
        ({"envs_per_task": 2}, "3 sub-environments: no whole number of 2 each"),
        ({"noise": 1.0}, r"\['noise'\] are for an environment given by its id"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    learner = Scripted()
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate_adaptation(learner, **{"env": batch(3), "num_tasks": 3, **changes})
    assert not learner.asked


def test_environments_without_tasks_are_refused() -> None:
    for env in (gym.make("CartPole-v1"), gym.make_vec("CartPole-v1", num_envs=1)):
        with pytest.raises(ValueError, match="task"):
            evaluate_adaptation(Scripted(), env, 3)


def test_plain_environments_are_evaluated() -> None:
    """Task t pays 10 t + s in step s, for at most 4 steps."""
    env = TaskVectorAdapter([PlainCorridor] * 4)
    result = evaluate_adaptation(Scripted(), env, num_episodes=1)
    tasks = np.unique(env.task_split.test.tasks)
    steps = np.minimum(tasks, 4)
    np.testing.assert_array_equal(
        np.sort(result.values[:, 0]), 10 * tasks * steps + steps * (steps - 1) / 2
    )


def pooled_success(env: Any, num_episodes: int) -> float:
    """The share of successes in the first episodes that finish anywhere in the batch."""
    env.reset(seed=0)
    outcomes: list[float] = []
    while len(outcomes) < num_episodes:
        *_, terminated, truncated, infos = env.step(np.zeros(env.num_envs, dtype=np.int64))
        done = terminated | truncated
        outcomes += [infos["final_info"]["success"][i] for i in np.flatnonzero(done)]
    return float(np.mean(outcomes[:num_episodes]))


def test_success_counts_every_task_alike_and_not_the_quick_ones_more_often() -> None:
    """One of two tasks succeeds, in a tenth of the time: half, not nine of ten or all."""
    env = TaskVectorAdapter([QuickSuccess] * 2)
    result = evaluate_adaptation(Scripted(), env, 2, 2)
    order = np.argsort(result.values[:, 0])
    assert result.values[order].tolist() == [[1.0] * 2, [10.0] * 2]
    assert result.success[order].tolist() == [[1.0] * 2, [0.0] * 2]
    assert result.summary()["success"].tolist() == [0.5] * 2
    told = "(no interval: one training, on all tasks that there are)"
    assert f"; success 0.500 before adaptation, 0.500 {told} in the last episode" in str(result)
    env.set_tasks([0, 1])
    assert pooled_success(env, 6) == 1.0
    assert pooled_success(env, 11) == 10 / 11


def test_success_of_a_task_is_the_share_of_its_episodes_and_survives_saving(tmp_path: Path) -> None:
    class Lucky(QuickSuccess):
        """Succeeds in the step in which the action is 1, and goes on; nothing else ends it."""

        def step(self, action: Any) -> Any:
            seen, reward, _, _, _ = super().step(action)
            ended = self.steps == self.horizon
            return seen, reward, False, ended, {"success": float(action == 1)}

    class Sometimes(Scripted):
        """The second of each four succeeds, in its third step only; later all do, in the last."""

        def action(self, state: Counts) -> np.ndarray:
            step = state.asked % 10
            first = (np.arange(len(step)) % 4 == 1) & (step == 2)
            return np.where(state.adapted > 0, step == 9, first).astype(np.int64)

    env = TaskVectorAdapter([Lucky] * 8)
    result = evaluate_adaptation(Sometimes(), env, 2, 2, envs_per_task=4)
    assert result.success.tolist() == [[0.25, 1.0]] * 2
    loaded = EvaluationResult.load(result.save(tmp_path / "result.json"))
    np.testing.assert_array_equal(loaded.success, result.success)
    both = EvaluationResult.merged([result, loaded])
    assert both.success.tolist() == [[0.25, 1.0]] * 4
    without = evaluate_adaptation(Scripted(), NAME, 3)
    assert without.success is None
    assert "success" not in without.summary()
    content = json.loads(without.save(tmp_path / "old.json").read_text())
    del content["checksum"]
    del content["success"]  # as it was saved before there was success
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert EvaluationResult.load(tmp_path / "old.json").success is None


class InPlace:
    """Counts its steps by writing into its state."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, **kwargs: Any
    ) -> Any:
        state = np.zeros(len(observation), dtype=np.int64) if state is None else state
        state += 1
        return state % 3, state


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_a_learner_may_write_into_its_state(num_envs: int) -> None:
    """What is asked after the end of an episode leaves no trace in the state."""
    values = ordered(evaluate_adaptation(InPlace(), batch(num_envs), 3, 2))
    for task, length in enumerate(LENGTHS):
        actions = (np.arange(2 * length) + 1) % 3
        earned = RETURNS[task] + 0.5 * actions.reshape(2, length).sum(axis=1)
        np.testing.assert_array_equal(values[task], earned)


def test_success_that_is_told_now_and_then_is_none_elsewhere() -> None:
    class Silent(QuickSuccess):
        def step(self, action: Any) -> Any:
            *outcome, info = super().step(action)
            return *outcome, info if info.get("success") else {}

    for num_envs in (1, 2):
        result = evaluate_adaptation(Scripted(), TaskVectorAdapter([Silent] * num_envs), 2, 2)
        order = np.argsort(result.values[:, 0])
        assert result.success[order].tolist() == [[1.0] * 2, [0.0] * 2]


def test_tasks_are_all_that_there_are_only_if_all_were_evaluated() -> None:
    oracle = navigation_oracles()
    whole = evaluate_adaptation(oracle["GridNavigation"], "GridNavigation", num_episodes=1)
    part = evaluate_adaptation(oracle["GridNavigation"], "GridNavigation", 5, 1)
    other = evaluate_adaptation(oracle["DarkRoom"], "DarkRoom", num_episodes=1, split="train")
    assert [r.whole_distribution for r in (whole, part, other)] == [True, False, False]


@pytest.mark.parametrize("learner", [None, "rl2", Scripted, object()])
def test_what_is_no_learner(learner: Any) -> None:
    with pytest.raises(TypeError, match=r"a learner is an object with predict\(observation"):
        evaluate_adaptation(learner, NAME)


@pytest.mark.parametrize("seed", [None, -1, 1.5, "a", True])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed has to be a whole number of at least 0"):
        evaluate_adaptation(Scripted(), NAME, seed=seed)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_batches_that_do_not_reset_in_the_same_step(mode: str) -> None:
    with pytest.raises(ValueError, match="SAME_STEP"):
        evaluate_adaptation(Scripted(), TaskVectorEnv(ListedCorridor, 2, autoreset_mode=mode))


def test_an_own_batch_chooses_its_tasks_again_after_a_failure() -> None:
    class Failing(Scripted):
        def adapt(self, rollout: Any, state: Any = None) -> Any:
            raise RuntimeError("no")

    env = batch(3)
    with pytest.raises(RuntimeError, match="no"):
        evaluate_adaptation(Failing(), env)
    assert env.pending_tasks is None
    assert len({tuple(env.reset(seed=seed)[1]["task"]) for seed in range(5)}) > 1


def test_arguments_of_the_environment_tell_results_apart() -> None:
    results = [evaluate_adaptation(Scripted(), "BernoulliBandit", 5, num_arms=n) for n in (3, 4)]
    assert results[0].env_kwargs == {"num_arms": "3"}
    with pytest.raises(ValueError, match=r"env_kwargs is .*3.* in the first and .*4"):
        EvaluationResult.merged(results)


def test_an_agent_of_another_environment_is_refused() -> None:
    """The message says what differs, and not how observations are made."""
    agent = RL2(env="BernoulliBandit", meta_batch_size=8, seed=0)
    with pytest.raises(ValueError, match="RL2 was trained with observations of shape"):
        evaluate_adaptation(agent, "GridNavigation")
