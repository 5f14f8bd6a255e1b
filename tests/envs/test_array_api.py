"""The robots' definitions on other arrays than numpy's: here PyTorch's tensors.

Rewards, ends, observations and what the motors get are the same numbers, and nothing goes through
numpy on the way. MuJoCo's steps are numpy's own. The other families run whole batches of tensors:
see test_tensor_batches.py.
"""

from __future__ import annotations

import pkgutil
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from meta_rl.envs.robot import Robot
from meta_rl.make import ENVIRONMENTS
from meta_rl.tasks import count_tasks

ROBOTS = [
    name
    for name, definition in sorted(ENVIRONMENTS.items())
    if issubclass(pkgutil.resolve_name(definition), Robot)
]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ROBOTS),
    ("ReacherGoal-v0", {"goal_tolerance": 0.09}),
]
NUM = 16


class Tensor(torch.Tensor):
    """A tensor that numpy must not read."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a numpy function was called with a tensor")


def as_tensors(value: Any) -> Any:
    """The arrays of a state, of tasks or of actions as tensors."""
    if isinstance(value, dict):
        return {key: as_tensors(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return type(value)(*(as_tensors(part) for part in value))
    return torch.from_numpy(np.array(value)).as_subclass(Tensor)


def assert_same(tensors: Any, arrays: Any) -> None:
    if isinstance(arrays, dict):
        assert tensors.keys() == arrays.keys()
        for key in arrays:
            assert_same(tensors[key], arrays[key])
    elif isinstance(arrays, tuple):
        for pair in zip(tensors, arrays, strict=True):
            assert_same(*pair)
    else:
        assert isinstance(tensors, torch.Tensor)
        np.testing.assert_allclose(tensors.as_subclass(torch.Tensor).numpy(), arrays, rtol=1e-6)


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_tensors_give_the_same_numbers(name: str, kwargs: dict[str, Any]) -> None:
    definition = pkgutil.resolve_name(ENVIRONMENTS[name])(**kwargs, nthread=1)
    rng = np.random.default_rng(0)
    tasks = definition.task_split.train.sample_tasks(NUM, rng)
    assert count_tasks(tasks) == NUM
    space = gym.vector.utils.batch_space(definition.action_space, NUM)
    space.seed(0)
    state, other = definition.initial(rng, tasks), as_tensors(tasks)
    for _ in range(8):
        actions = space.sample()
        after = definition.transition(state, actions, rng, tasks)
        compare(definition, (state, actions, after, tasks), other)
        state = after


def compare(definition: Any, numpys: tuple[Any, ...], other: Any) -> None:
    state, actions, after, tasks = numpys
    tensors = [as_tensors(part) for part in (state, actions, after)]
    no_rng: Any = None  # nothing is drawn
    assert_same(
        definition.reward_terms(*tensors, no_rng, other),
        definition.reward_terms(state, actions, after, no_rng, tasks),
    )
    assert_same(
        definition.observation(tensors[2], no_rng, other),
        definition.observation(after, no_rng, tasks),
    )
    assert_same(
        definition.transition_info(*tensors, other),
        definition.transition_info(state, actions, after, tasks),
    )
    assert_same(
        definition.terminal(tensors[2], no_rng, other),
        definition.terminal(after, no_rng, tasks),
    )
    assert_same(definition.control(tensors[1], other), definition.control(actions, tasks))
