"""Batches of tensors: ``TaskVectorEnv(device=...)`` on PyTorch's CPU device.

* With the same draws, every family that is not a robot gives what it gives in numpy arrays, in the
  same dtypes, and nothing is copied to numpy on the way: steps, automatic and masked resets, infos,
  tasks that are drawn again, trials' starts.
* Draws are fixed by a seed, lie in their range, and have their mean and spread.
* Invalid actions and masks are refused, and numbers that are not finite stop a training.
* Gymnasium's and Stable-Baselines3's views, evaluations and the other agents see numpy arrays.
* RL² and PPO train without a copy to numpy, and to the same weights as on numpy arrays.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import ArrayConversion

import meta_rl
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.ppo import PPO
from meta_rl.agents.rl2 import RL2
from meta_rl.envs.bandits import BernoulliBandit
from meta_rl.vector.streams import TaskStreams
from meta_rl.vector.task_batch import NumpyView
from meta_rl.vector.tensor_draws import CopiedDraws, TensorDraws

FAMILIES: dict[str, dict[str, Any]] = {
    "BernoulliBandit": {},
    "GaussianBandit": {},
    "TabularMDP": {},
    "PointNavigation": {"horizon": 9, "goal_tolerance": 0.2},
    "PointRobot": {"horizon": 9},
    "SparsePointNavigation": {"horizon": 9},
    "WindNavigation": {"horizon": 9},
    "GridNavigation": {"horizon": 9},
    "DarkRoom": {"horizon": 9, "terminate_at_goal": True, "size": 3},
    "DarkKeyToDoor": {"horizon": 9, "terminate_at_door": True, "size": 3},
    "TMaze": {},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in FAMILIES),
    ("SparsePointNavigation", {"reward": "dense"}),
    ("TMaze", {"ambiguous_position": True, "penalty": -0.3}),
]
NUM = 6
CPU = torch.device("cpu")


@contextmanager
def no_copies_to_numpy() -> Iterator[None]:
    """Every way from a tensor to numpy raises."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tensor was copied to numpy")

    with mock.patch.multiple(torch.Tensor, numpy=refuse, __array__=refuse, __dlpack__=refuse):
        yield


def make(name: str, **kwargs: Any) -> tuple[Any, Any]:
    """The same batch in numpy arrays and in tensors."""
    kwargs = {**FAMILIES[name], **kwargs}
    arrays = meta_rl.make_task_vec(name, NUM, **kwargs)
    arrays.action_space.seed(0)
    return arrays, meta_rl.make_task_vec(name, NUM, **kwargs, device="cpu")


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
        assert str(tensors.dtype) == f"torch.{arrays.dtype}"
        # Norms are summed in another order.
        np.testing.assert_allclose(tensors.numpy(), arrays, rtol=1e-12, atol=1e-15)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_results_are_those_of_numpy_arrays(name: str, kwargs: dict[str, Any], mode: str) -> None:
    ours, tensors = make(name, autoreset_mode=mode, resample_tasks=True, **kwargs)
    seeds = list(range(NUM))
    assert_same(tensors.reset(seed=seeds), ours.reset(seed=seeds))
    ended = masked = 0
    done = np.zeros(NUM, dtype=bool)
    for step in range(45):
        mask = done if mode == "Disabled" else np.arange(NUM) % 2 == step % 2
        if mask.any() and (mode == "Disabled" or step % 7 == 0):
            with no_copies_to_numpy():
                begun = tensors.reset(options={"reset_mask": as_tensor(mask)})
            assert_same(begun, ours.reset(options={"reset_mask": mask}))
            masked += 0 < mask.sum() < NUM
        actions = ours.action_space.sample()
        with no_copies_to_numpy():
            stepped = tensors.step(as_tensor(actions))
        expected = ours.step(actions)
        assert_same(stepped, expected)
        assert_same(tensors.unwrapped.trial_start, ours.unwrapped.trial_start)
        assert_same(tensors.unwrapped.tasks, ours.unwrapped.tasks)
        done = expected[2] | expected[3]
        ended += done.sum()
    assert ended > NUM
    early = any(key.startswith("terminate") or key == "goal_tolerance" for key in FAMILIES[name])
    assert masked or (mode == "Disabled" and not early)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_fixes_everything(name: str) -> None:
    def episode(env: Any, seed: int) -> list[torch.Tensor]:
        env.action_space.seed(0)
        env.reset(seed=seed)
        return [env.step(env.action_space.sample())[1] for _ in range(12)]

    env = make(name)[1]
    first = torch.stack(episode(env, 3))
    assert torch.equal(torch.stack(episode(env, 3)), first)
    if name in ("GaussianBandit", "TabularMDP", "PointRobot"):
        assert not torch.equal(torch.stack(episode(env, 4)), first)
    if name == "BernoulliBandit":
        unseeded = [make(name)[1].reset()[1]["task"] for _ in range(2)]
        assert not torch.equal(*unseeded)
    env.reset(seed=3)
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        other.action_space.seed(0)
        again = torch.stack([other.step(other.action_space.sample())[1] for _ in range(12)])
        assert torch.equal(again, first)


def test_tasks_are_tensors_and_may_be_given_as_tensors() -> None:
    env = make("GridNavigation")[1].unwrapped
    goals = torch.tensor([[4, 4], [2, 3]])
    env.set_tasks(goals)
    assert torch.equal(env.pending_tasks, goals.repeat_interleave(3, dim=0))
    env.reset(seed=0)
    assert torch.equal(env.tasks, goals.repeat_interleave(3, dim=0))
    with pytest.raises(ValueError, match="outside Box"):
        env.set_tasks(goals + 5)


def test_a_family_may_state_its_device() -> None:
    class OfTensors(BernoulliBandit):
        device = "cpu"

    env = meta_rl.TaskVectorEnv(OfTensors, 2)
    assert isinstance(env.reset(seed=0)[0], torch.Tensor)


def test_draws_of_tensors() -> None:
    draws = TensorDraws(CPU, seed=0)
    num = 20_000
    for drawn, low, high, mean, spread in (
        (draws.random(num), 0, 1, 0.5, 12**-0.5),
        (draws.uniform(-1.0, 3.0, (num,)), -1, 3, 1.0, 4 * 12**-0.5),
        (draws.standard_normal((num, 1)), -np.inf, np.inf, 0.0, 1.0),
        (draws.normal(2.0, 0.5, num), -np.inf, np.inf, 2.0, 0.5),
        (draws.integers(3, size=(num, 2)).double(), 0, 2, 1.0, (2 / 3) ** 0.5),
        (draws.integers(5, 7, size=num).double(), 5, 6, 5.5, 0.5),
    ):
        assert len(drawn) == num
        assert drawn.dtype == torch.float64
        assert low <= drawn.min()
        assert drawn.max() <= high
        assert drawn.mean().item() == pytest.approx(mean, abs=5 * spread / num**0.5)
        assert drawn.std().item() == pytest.approx(spread, rel=0.03)
    assert torch.equal(TensorDraws(CPU, 1).random(5), TensorDraws(CPU, 1).random(5))
    assert not torch.equal(TensorDraws(CPU).random(5), TensorDraws(CPU).random(5))


def test_copied_draws_are_those_of_the_source() -> None:
    copied = CopiedDraws(TaskStreams([1, 2, 3]), CPU)
    rows = torch.tensor([True, False, True])
    source = TaskStreams([1, 2, 3])
    assert copied[rows].random((2, 4)).tolist() == source[[0, 2]].random((2, 4)).tolist()
    assert copied.beta(1.0, 2.0, size=3).tolist() == source.beta(1.0, 2.0, size=3).tolist()


def test_invalid_actions_and_masks_are_refused() -> None:
    grid, point = make("GridNavigation")[1], make("PointNavigation")[1]
    grid.reset(seed=0)
    point.reset(seed=0)
    good = torch.zeros(NUM, 2)
    for env, actions, message in (
        (grid, torch.zeros(NUM), "integers"),
        (grid, torch.zeros(NUM, dtype=torch.bool), "integers"),
        (grid, torch.full((NUM,), 5), "outside"),
        (grid, torch.zeros(NUM + 1, dtype=torch.int64), r"expected \(6,\), got \(7,\)"),
        (point, torch.where(torch.arange(NUM)[:, None] == 2, torch.nan, good), "sub-environment 2"),
        (point, good * 1j, "real numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(actions)
    for mask in (torch.zeros(NUM, dtype=torch.bool), torch.ones(NUM), torch.ones(2) > 0):
        with pytest.raises(ValueError, match="reset_mask"):
            grid.reset(options={"reset_mask": mask})


def test_views_are_numpy_arrays() -> None:
    ours, tensors = make("TabularMDP")
    view = ArrayConversion(tensors, torch, np)
    seeds: Any = list(range(NUM))
    np.testing.assert_array_equal(view.reset(seed=seeds)[0], ours.reset(seed=seeds)[0])
    for _ in range(12):
        actions = ours.action_space.sample()
        for got, expected in zip(view.step(actions)[:4], ours.step(actions)[:4], strict=True):
            assert isinstance(got, np.ndarray)
            np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="HalfCheetahVel works on numpy arrays only"):
        meta_rl.make_task_vec("HalfCheetahVel", 2, device="cpu")
    pictures = meta_rl.make_task_vec("DarkRoom", 2, device="cpu", render_mode="rgb_array")
    pictures.reset(seed=0)
    frames: Any = pictures.render()
    assert frames[0].shape[-1] == 3


def test_view_of_stable_baselines3() -> None:
    """Nothing is drawn on this grid, so that the numbers are those of numpy arrays."""
    views = [
        meta_rl.sb3_env("GridNavigation", NUM, previous_step=True, append_task=True, **kwargs)
        for kwargs in ({}, {"device": "cpu"})
    ]
    for view in views:
        view.seed(0)
    np.testing.assert_array_equal(*(view.reset() for view in views))
    ended = 0
    for _ in range(4 * 15 + 1):  # the fifth episode is on new tasks
        actions = np.array([views[0].action_space.sample() for _ in range(NUM)])
        expected, got = (view.step(actions) for view in views)
        for numbers, others in zip(expected[:3], got[:3], strict=True):
            assert isinstance(others, np.ndarray)
            np.testing.assert_array_equal(numbers, others)
        for info in (*expected[3], *got[3]):
            info.get("episode", {}).pop("t", None)  # the time that passed
        np.testing.assert_equal(got[3], expected[3])
        np.testing.assert_array_equal(*(view.get_attr("task") for view in views))
        ended += expected[2].sum()
    assert ended == 4 * NUM


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(agent: type[RL2 | PPO], name: str, **env_kwargs: Any) -> Any:
    """An agent after two iterations, of which the second one does not reset the view."""
    model = agent(
        env=name,
        env_kwargs={**FAMILIES[name], **env_kwargs},
        meta_batch_size=8,
        num_epochs=2,
        num_minibatches=2,
        seed=0,
        device="cpu",
    )
    steps = 8 * model.trial_steps()
    model.learn(steps)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    if env_kwargs:
        with no_copies_to_numpy():
            model.learn(steps, reset_num_timesteps=False)
    else:
        model.learn(steps, reset_num_timesteps=False)
    after = model.policy.parameters()
    assert not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    return model


@pytest.mark.parametrize("agent", [RL2, PPO])
@pytest.mark.parametrize(
    "name", ["BernoulliBandit", "GaussianBandit", "TabularMDP", "PointRobot", "GridNavigation"]
)
def test_training_copies_nothing_to_numpy(agent: type[RL2 | PPO], name: str) -> None:
    model = train(agent, name, device="cpu")
    observations = model.begin_tasks()
    assert isinstance(observations, torch.Tensor)
    if name == "GridNavigation":  # nothing is drawn there
        expected = train(agent, name).policy.state_dict()
        for key, value in model.policy.state_dict().items():
            assert torch.equal(value, expected[key])


def test_the_check_of_copies_can_fail() -> None:
    with no_copies_to_numpy():
        for read in (lambda x: x.numpy(), np.asarray, np.from_dlpack):
            with pytest.raises(AssertionError, match="copied to numpy"):
                read(torch.zeros(2))


def test_a_reward_that_is_not_finite_stops_the_training() -> None:
    class Broken(BernoulliBandit):
        def reward_terms(self, *args: Any) -> dict[str, Any]:
            terms = super().reward_terms(*args)
            return {key: term / 0.0 for key, term in terms.items()}

    model = RL2(env=meta_rl.TaskVectorEnv(Broken, 4, device="cpu"), num_minibatches=1, seed=0)
    with pytest.raises(FloatingPointError, match="a reward is not finite"):
        model.learn(40)


def test_evaluations_and_other_agents_see_numpy_arrays() -> None:
    model = train(RL2, "TabularMDP", device="cpu")
    ours, tensors = make("TabularMDP")
    values = [
        meta_rl.evaluate_adaptation(model, env, num_tasks=NUM, seed=0).values
        for env in (ours, tensors)
    ]
    np.testing.assert_array_equal(*values)
    other = MAMLTRPO(
        env="PointRobot",
        env_kwargs={"device": "cpu"},
        meta_batch_size=2,
        envs_per_task=3,
        seed=0,
        device="cpu",
    )
    assert isinstance(other.task_env, NumpyView)
    other.learn(1)
    assert other.num_timesteps > 0
