"""Rollouts: arrays equal hand-worked steps, time-major.

Successors of ended episodes are their last observations, natively and adapted, flat and as dicts; a
rollout goes on where the one before stopped; extras are stacked; ``watch`` stops early; episodes
of different length are masked; torch acts on one thread where an environment has its own; other
autoreset modes and bad counts are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from meta_rl import TaskEnv, TaskVectorEnv
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.rollout import (
    Step,
    collect_episodes,
    collect_rollout,
    stack_batches,
    true_successors,
)

from .families import Corridor, PushedCorridor

TASKS = [1, 3, 5]


def by_count(observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The action is the number of steps made, at most 2; the extra is twice that."""
    actions = np.minimum(observations[:, 1].astype(np.int64), 2)
    return actions, {"double": 2 * actions}


def start(family: Any = Corridor, adapt: bool = False) -> tuple[Any, Any]:
    if adapt:
        env: Any = TaskVectorAdapter([lambda: TaskEnv(family)] * 3)
    else:
        env = TaskVectorEnv(family, 3)
    return env, env.reset(options={"task": TASKS})[0]


@pytest.mark.parametrize("adapt", [False, True])
def test_arrays_are_those_of_the_steps(adapt: bool) -> None:
    env, observations = start(adapt=adapt)
    rollout, following = collect_rollout(env, by_count, 4, observations)
    steps = [[0, 0, 0], [0, 1, 1], [0, 2, 2], [0, 0, 3]]
    assert rollout.observations[..., 0].tolist() == [TASKS] * 4
    assert rollout.observations[..., 1].tolist() == steps
    assert rollout.actions.tolist() == np.minimum(steps, 2).tolist()
    assert rollout.next_observations[..., 1].tolist() == (np.array(steps) + 1).tolist()
    assert rollout.rewards.tolist() == [[10, 30, 50], [10, 31.5, 51.5], [10, 33, 53], [10, 30, 54]]
    assert rollout.terminated.tolist() == [[True, t == 2, False] for t in range(4)]
    assert rollout.truncated.tolist() == [[False, False, t == 3] for t in range(4)]
    assert rollout.extras["double"].tolist() == (2 * rollout.actions).tolist()
    assert rollout.mask is None
    assert following[:, 1].tolist() == [0, 1, 0]


def test_a_rollout_goes_on_where_the_one_before_stopped() -> None:
    whole, _ = collect_rollout(*(lambda env, o: (env, by_count, 6, o))(*start()))
    env, observations = start()
    first, observations = collect_rollout(env, by_count, 2, observations)
    second, _ = collect_rollout(env, by_count, 4, observations)
    joined = np.concatenate([first.next_observations, second.next_observations])
    np.testing.assert_array_equal(whole.next_observations, joined)


@pytest.mark.parametrize("adapt", [False, True])
def test_dict_observations_have_true_successors(adapt: bool) -> None:
    env, observations = start(PushedCorridor, adapt)

    def act(observations: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return np.zeros((3, 2), dtype=np.float32), {}

    rollout, following = collect_rollout(env, act, 4, observations)
    assert rollout.actions.shape == (4, 3, 2)
    assert rollout.observations["task"].shape == (4, 3, 1)
    assert rollout.observations["steps"].tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2], [0, 0, 3]]
    successors = [[1, 1, 1], [1, 2, 2], [1, 3, 3], [1, 1, 4]]
    assert rollout.next_observations["steps"].tolist() == successors
    assert following["steps"].tolist() == [0, 1, 0]


def test_a_watch_stops_after_the_step() -> None:
    env, observations = start()
    calls = iter([True, False])
    rollout, following = collect_rollout(
        env, by_count, 5, observations, watch=lambda step: next(calls)
    )
    assert rollout.rewards.shape == (2, 3)
    assert following[:, 1].tolist() == [0, 2, 2]


def test_successors_without_an_end_are_the_observations() -> None:
    observations = np.arange(3)
    assert true_successors(observations, np.zeros(3, dtype=bool), {}) is observations
    ended = np.array([False, True, False])
    successors = true_successors(observations, ended, {"final_obs": np.array([7, 8, 9])})
    assert successors.tolist() == [0, 8, 2]
    assert observations.tolist() == [0, 1, 2]


def test_batches_are_stacked_on_a_leading_axis() -> None:
    stacked = stack_batches([{"a": np.array([1, 2])}, {"a": np.array([3, 4])}])
    assert stacked["a"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode: AutoresetMode) -> None:
    env = TaskVectorEnv(Corridor, 3, autoreset_mode=mode)
    with pytest.raises(ValueError, match="rollouts need SAME_STEP"):
        collect_rollout(env, by_count, 4, env.reset(seed=0)[0])


@pytest.mark.parametrize("num_steps", [0, -1, 1.5])
def test_bad_counts_are_refused(num_steps: Any) -> None:
    env, observations = start()
    with pytest.raises(ValueError, match="num_steps has to be a whole number of at least 1"):
        collect_rollout(env, by_count, num_steps, observations)


@pytest.mark.parametrize("adapt", [False, True])
def test_ends_and_infos_are_told(adapt: bool) -> None:
    """Of every step, and before ``watch``; infos that there are none of are refused."""
    env, observations = start(adapt=adapt)
    told: list[tuple[str, Any]] = []

    def watch(step: Step) -> bool:
        told.append(("step", None))
        return True

    rollout, _ = collect_rollout(
        env,
        by_count,
        4,
        observations,
        watch=watch,
        on_done=lambda done: told.append(("done", done.tolist())),
        info_names=["reward_place"],
    )
    assert [what for what, _ in told] == ["done", "step"] * 4
    ended = (rollout.terminated | rollout.truncated).tolist()
    assert [done for _, done in told[::2]] == ended
    expected = 10.0 * rollout.observations[..., 0] + rollout.observations[..., 1]
    np.testing.assert_array_equal(rollout.extras["reward_place"], expected)
    with pytest.raises(ValueError, match=r"infos have no 'reward_x'; they have .*'reward_"):
        collect_rollout(env, by_count, 1, observations, info_names=["reward_x"])


@pytest.mark.parametrize("adapt", [False, True])
def test_episodes_are_those_of_the_steps(adapt: bool) -> None:
    """One of each length 1, 3 and 4; what goes on after an end is masked."""
    env, observations = start(adapt=adapt)
    rollout = collect_episodes(env, by_count, observations)
    assert rollout.mask is not None
    assert rollout.mask.T.tolist() == [
        [True, False, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]
    real = np.where(rollout.mask, rollout.rewards, 0.0)
    assert real.T.tolist() == [[10, 0, 0, 0], [30, 31.5, 33, 0], [50, 51.5, 53, 54]]
    assert rollout.observations[rollout.mask][:, 1].tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert rollout.next_observations[rollout.mask][:, 1].tolist() == [1, 1, 1, 2, 2, 3, 3, 4]
    assert rollout.terminated[[0, 2], [0, 1]].all()
    assert rollout.truncated[3].tolist() == [False, False, True]
    assert (rollout.terminated | rollout.truncated)[rollout.mask].sum() == 3
    assert rollout.extras["double"].tolist() == (2 * rollout.actions).tolist()
    assert rollout.envs_per_task == 1


def test_episodes_of_one_length_have_no_mask() -> None:
    env = TaskVectorEnv(Corridor, 2)
    rollout = collect_episodes(env, by_count, env.reset(options={"task": [3, 3]})[0])
    assert rollout.mask is None
    assert rollout.rewards.shape == (3, 2)


def test_episodes_of_dict_observations() -> None:
    env, observations = start(PushedCorridor)

    def act(observations: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return np.zeros((3, 2), dtype=np.float32), {}

    rollout = collect_episodes(env, act, observations)
    assert rollout.observations["steps"][rollout.mask].tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert rollout.next_observations["steps"][rollout.mask].tolist() == [1, 1, 1, 2, 2, 3, 3, 4]
    assert rollout.extras == {}


def test_episodes_stop_when_asked() -> None:
    env, observations = start()
    calls = iter([True, False])
    rollout = collect_episodes(env, by_count, observations, watch=lambda step: next(calls))
    assert rollout.rewards.shape == (2, 3)
    assert rollout.mask.tolist() == [[True] * 3, [False, True, True]]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_episodes_in_other_autoreset_modes_are_refused(mode: AutoresetMode) -> None:
    env = TaskVectorEnv(Corridor, 3, autoreset_mode=mode)
    with pytest.raises(ValueError, match="rollouts need SAME_STEP"):
        collect_episodes(env, by_count, env.reset(seed=0)[0])


@pytest.mark.parametrize("on_threads", [True, False])
def test_torch_acts_on_one_thread_where_the_environment_has_its_own(on_threads: bool) -> None:
    """And has its threads back after it, also after an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        env, observations = start()
        env.steps_on_threads = on_threads
        seen = []

        def act(observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            seen.append(torch.get_num_threads())
            if len(seen) == 3:
                raise RuntimeError("in the policy")
            return by_count(observations)

        with pytest.raises(RuntimeError, match="in the policy"):
            collect_rollout(
                env, act, 4, observations, watch=lambda step: torch.get_num_threads() == 3
            )
        assert seen == [1 if on_threads else 3] * 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
