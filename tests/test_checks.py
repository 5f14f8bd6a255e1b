"""The conformance checks pass what keeps the promises, and name each promise that is broken.

Every kind of draw of a numpy generator is allowed as long as its leading axis is the batch. One
broken family for each promise: Gymnasium's own contract, the task split, persistence and report of
the task, refusal of wrong tasks, seeding, reward terms, and a batch whose members do not interfere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from meta_rl import (
    SampledTasks,
    TaskFuncEnv,
    TaskSplit,
    UniformTasks,
    check_task_env,
    register_task_env,
)

from .families import LENGTHS, Corridor, CorridorState, PlainCorridor, PushedCorridor

NAME = "TestOnly/Checked-v0"


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    yield
    gym.registry.pop(NAME, None)


def check(family: Any, **kwargs: Any) -> None:
    if issubclass(family, gym.Env):
        gym.register(NAME, family)
    else:
        register_task_env(NAME, family)
    check_task_env(NAME, **kwargs)


@pytest.mark.parametrize("family", [Corridor, PushedCorridor, PlainCorridor])
def test_sound_families_pass(family: Any) -> None:
    for seed in range(3):
        check(family, seed=seed)
        del gym.registry[NAME]
    if family is Corridor:
        check(family, noise=1.0)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("random", ()),
        ("integers", (5,)),
        ("normal", (0.0, 1.0)),
        ("uniform", (0.0, 1.0)),
        ("choice", ([0.5, 1.5, 2.5],)),
        ("lognormal", (0.0, 1.0)),
        ("laplace", ()),
        ("triangular", (0.0, 0.5, 1.0)),
        ("geometric", (0.3,)),
    ],
)
def test_every_kind_of_draw_is_allowed(method: str, args: tuple[Any, ...]) -> None:
    class Drawing(Corridor):
        def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
            drift = getattr(rng, method)(*args, size=len(params))
            return CorridorState(state.steps + 1, state.noise + drift)

    check(Drawing)


def test_multivariate_draws_are_allowed() -> None:
    class Drawing(Corridor):
        def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
            pair = rng.multivariate_normal(np.zeros(2), np.eye(2), len(params))
            row = rng.dirichlet(np.ones(3), len(params))
            return CorridorState(state.steps + 1, state.noise + pair.sum(axis=1) + row[:, 0])

    check(Drawing)


# Broken families that are batched.


class LateDice(Corridor):
    """Unseeded, but not yet at the first step."""

    def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
        noise = state.noise + np.random.default_rng().random(len(params)) * (state.steps > 0)
        return CorridorState(state.steps + 1, noise)


class OneDrawForAll(Corridor):
    def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
        return CorridorState(state.steps + 1, state.noise + rng.standard_normal())


class OneRowForAll(Corridor):
    """As many draws as sub-environments, all of which go to everybody."""

    def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
        shared = rng.standard_normal(len(params)).sum()
        return CorridorState(state.steps + 1, state.noise + shared)


class Neighbours(Corridor):
    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Any, params: Any
    ) -> dict[str, Any]:
        return {"reward_place": 1.0 * params, "reward_rank": 1.0 * (params == params.max())}


class MoreDrawsAlone(Corridor):
    def transition(self, state: Any, action: Any, rng: Any, params: Any) -> Any:
        for _ in range(1 + (len(params) == 1)):
            rng.random(len(params))
        return CorridorState(state.steps + 1, state.noise)


class NoTerms(Corridor):
    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Any, params: Any
    ) -> dict[str, Any]:
        return {"pay": 1.0 * params}


class Column(Corridor):
    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Any, params: Any
    ) -> dict[str, Any]:
        return {"reward_pay": 1.0 * params[:, None]}


class UnnamedColumn(Corridor):
    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Any, params: Any
    ) -> dict[str, Any]:
        return {"reward_pay": 1.0 * params, "bonus": 1.0 * params[:, None]}


class OutsideItsSpace(Corridor):
    def observation(self, state: Any, rng: Any, params: Any) -> Any:
        return 1e6 + super().observation(state, rng, params)


class UnseededTasks(Corridor):
    def __init__(self) -> None:
        super().__init__()
        unseeded = SampledTasks(
            LENGTHS, lambda num, rng: np.random.default_rng().integers(1, 6, num)
        )
        self.task_split = TaskSplit(self.task_split.train, self.task_split.validation, unseeded)


class OneTask(Corridor):
    def __init__(self) -> None:
        super().__init__()
        split, same = self.task_split, SampledTasks(LENGTHS, lambda num, rng: np.full(num, 3))
        self.task_split = TaskSplit(same, split.validation, split.test)


class SameTasks(Corridor):
    def __init__(self) -> None:
        super().__init__()
        split = self.task_split
        same = SampledTasks(LENGTHS, lambda num, rng: np.arange(num) % 5 + 1)
        self.task_split = TaskSplit(same, split.validation, split.test)


class TwoSpaces(Corridor):
    def __init__(self) -> None:
        super().__init__()
        split, other = self.task_split, UniformTasks(gym.spaces.Discrete(4, start=1))
        self.task_split = TaskSplit(split.train, split.validation, other)


class NoValidation(Corridor):
    def __init__(self) -> None:
        super().__init__()
        no_tasks: Any = None
        self.task_split = TaskSplit(self.task_split.train, no_tasks, self.task_split.test)


# Broken environments that are plain.


class Forgetful(PlainCorridor):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.task = None
        return super().reset(seed=seed, options=options)


class Silent(PlainCorridor):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed, options=options)[0], {}


class Misreporting(PlainCorridor):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        observation, info = super().reset(seed=seed, options=options)
        return observation, {"task": info["task"] % 5 + 1}


class Gullible(PlainCorridor):
    """Takes anything, and goes on as before."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        given = (options or {}).get("task")
        if given is not None and not LENGTHS.contains(given):
            options = None
        return super().reset(seed=seed, options=options)


class Terse(PlainCorridor):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        given = (options or {}).get("task")
        if given is not None and not LENGTHS.contains(given):
            raise ValueError("no")
        return super().reset(seed=seed, options=options)


class SeededAnew(PlainCorridor):
    """Begins at a random place, but seeds its generator again at every reset."""

    latest = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.latest = self.latest if seed is None else seed
        super().reset(seed=seed, options=options)
        self.place = np.random.default_rng(self.latest).random()
        return self.seen(), {"task": self.task}

    def seen(self) -> np.ndarray:
        return super().seen() + np.float32([0.0, 0.0, getattr(self, "place", 0.0)])


class Tip(PlainCorridor):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + 0.25 * (action == 2), *rest


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (LateDice, "the same seed gives different episodes"),
        (OneDrawForAll, r"rng.standard_normal drew shape \(\).*share random numbers"),
        (OneRowForAll, "observation is .* in the batch of 4, but .* in a batch of one"),
        (Neighbours, "reward is .* in the batch of 4, but .* in a batch of one"),
        (MoreDrawsAlone, "a batch of one draws more random numbers"),
        (Column, r"reward_terms: reward_pay has shape \(4, 1\) in a batch of 4"),
        (UnnamedColumn, r"reward_terms: they sum to the shape \(4, 4\) in a batch of 4"),
        (NoTerms, r"names that begin with reward_, .*it has \['pay', 'task'\]"),
        (OneTask, "train: 20 draws are all the task 3"),
        (SameTasks, "two different generators give the same tasks"),
        (SeededAnew, "20 resets without a seed all begin with the same one"),
        (OutsideItsSpace, "observation"),
        (UnseededTasks, "test: the same generator gives different tasks"),
        (TwoSpaces, r"test tasks have a space of their own: Discrete\(4, start=1\)"),
        (NoValidation, "the task split has no validation"),
        (Forgetful, "did not persist"),
        (Silent, 'reset returns no info."task"'),
        (Misreporting, r"was set, but info has"),
        (Gullible, "is outside the space, but was accepted"),
        (Terse, "does not name its space: no"),
        (Tip, "but its terms sum to"),
    ],
)
def test_each_broken_promise_is_named(family: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(family, seed=1)


def test_a_missing_function_is_named() -> None:
    class Unfinished(Corridor):
        observation = TaskFuncEnv.observation

    with pytest.raises(NotImplementedError, match=r"Unfinished needs a function observation\(\)"):
        check(Unfinished)


def test_a_missing_declaration_is_named() -> None:
    class NoSplit(TaskFuncEnv):
        observation_space = action_space = gym.spaces.Discrete(2)

    with pytest.raises(ValueError, match="NoSplit has to declare task_split, horizon"):
        check(NoSplit)


def test_unknown_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown environment"):
        check_task_env("meta_rl/Nowhere-v0")
