"""Checks of arguments, and the numbers of every few-shot class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from meta_rl import UniformTasks, arguments, tasks
from meta_rl.agents.bandits import ThompsonSampling
from meta_rl.few_shot import (
    MAML,
    MANN,
    AssociativeRecallTasks,
    ClassPool,
    ClassTasks,
    CopyTasks,
    FineTune,
    LSTMLearner,
    MatchingNet,
    MemoryNetworkLearner,
    NearestNeighbour,
    NTMLearner,
    ProtoNet,
    RepeatCopyTasks,
    Reptile,
    Siamese,
    Sinusoid,
    conv4,
    koch_network,
    omniglot_mlp,
    sinusoid_mlp,
    text_encoder,
)
from meta_rl.histories import collect_histories
from meta_rl.inner_loop import in_chunks
from meta_rl.memory import make_memory_core
from meta_rl.physics.batch import MujocoBatch
from meta_rl.tasks import held_out_split

from .every_learner import WAYS, Net, points

BOX_TASKS = UniformTasks(spaces.Box(0.0, 1.0, (1,)))
NO_NUMBERS: list[Any] = [np.nan, np.inf, -np.inf, None, "1", True, np.True_, [1], 1j, np.ones(1)]


class TestChecks:
    @pytest.mark.parametrize(
        "value", [3, 3.0, np.int8(3), np.float32(3), np.array(3), np.uint64(3)]
    )
    def test_whole_numbers(self, value: Any) -> None:
        got = arguments.check_count("n", value)
        assert got == 3
        assert type(got) is int

    @pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 2.5, -1, float("1e999")])
    def test_other_counts_are_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^n has to be a whole number of at least 1, got "):
            arguments.check_count("n", value)

    def test_a_count_may_have_a_limit(self) -> None:
        assert arguments.check_count("n", 5, 0, 5) == 5
        with pytest.raises(ValueError, match=r"^n has to be at most 5, got 6$"):
            arguments.check_count("n", 6, 0, 5)

    @pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1), np.array(0.5)])
    def test_numbers(self, value: Any) -> None:
        got = arguments.check_number("x", value, above=0, most=1)
        assert got == float(value)
        assert type(got) is float

    @pytest.mark.parametrize("value", NO_NUMBERS)
    def test_what_is_no_finite_number_is_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^x has to be a finite number in \[0, 1\], got "):
            arguments.check_number("x", value, least=0, most=1)

    @pytest.mark.parametrize(
        ("value", "limits", "message"),
        [
            (0, {"above": 0}, "x has to be above 0, got 0"),
            (-0.5, {"least": 0}, "x has to be at least 0, got -0.5"),
            (2, {"most": 1}, "x has to be at most 1, got 2"),
            (1, {"above": 0, "below": 1}, "x has to be above 0 and below 1, got 1"),
            (1.5, {"least": 0, "most": 1}, r"x has to be in \[0, 1\], got 1.5"),
        ],
    )
    def test_numbers_out_of_range(self, value: Any, limits: Any, message: str) -> None:
        with pytest.raises(ValueError, match=f"^{message}$"):
            arguments.check_number("x", value, **limits)

    @pytest.mark.parametrize("rate", [*NO_NUMBERS[:-4], 0, -1, [1, -1], [1, 2, 3], [np.nan, 1], []])
    def test_rates(self, rate: Any) -> None:
        with pytest.raises(ValueError, match=r"^lr is a positive number, or \[first, last\], got "):
            arguments.check_rate("lr", rate)
        assert arguments.check_rate("lr", np.array([1.0, 0.0])) == [1.0, 0.0]

    def test_choices_flags_and_names_list_what_there_is(self) -> None:
        assert arguments.check_choice("pool", "max", ("max", "stride")) == "max"
        with pytest.raises(ValueError, match="max, stride, got 'strid'; did you mean stride"):
            arguments.check_choice("pool", "strid", ("max", "stride"))
        assert arguments.check_flag("flag", np.False_) is False
        for value in ("no", 0, None):
            with pytest.raises(ValueError, match="flag has to be True or False, got"):
                arguments.check_flag("flag", value)
        with pytest.raises(TypeError, match="unexpected keyword argument 'x'; lr, seed exist"):
            arguments.check_names(["x"], ["lr", "seed"], "f")

    def test_seeds(self) -> None:
        assert arguments.check_seed(None) is None
        assert arguments.check_seed(np.int64(3)) == 3
        for seed in (-1, 1.5, np.nan, "1", True):
            with pytest.raises(ValueError, match="seed has to be a whole number"):
                arguments.check_seed(seed)

    def test_numbers_of_numpy_become_pythons_own(self) -> None:
        class Pair(NamedTuple):
            a: Any
            b: Any

        got = arguments.plain({"k": (np.int64(1), [np.float64(2)]), "p": Pair(np.int8(1), 2)})
        assert got == {"k": (1, [2.0]), "p": Pair(1, 2)}
        assert type(got["k"][0]) is type(got["p"].a) is int

    def test_they_are_found_where_they_were(self) -> None:
        assert tasks.check_count is arguments.check_count
        assert tasks.check_number is arguments.check_number


def net(**settings: Any) -> MAML:
    return MAML(Net(WAYS), **settings, device="cpu")


COUNTS: dict[str, Any] = {
    "meta_batch_size": net,
    "num_steps": net,
    "eval_steps": net,
    "chunk_size": net,
    "inner_batch_size": lambda **k: Reptile(Net(WAYS), **k, device="cpu"),
    "eval_batch_size": lambda **k: Reptile(Net(WAYS), **k, device="cpu"),
    "fce_steps": lambda **k: MatchingNet(Net(None), **k, device="cpu"),
    "batch_size": lambda **k: FineTune(Net(WAYS), **k, device="cpu"),
    "slots": lambda **k: MANN(3, **k, device="cpu"),
    "width": lambda **k: NTMLearner(3, 2, **k, device="cpu"),
    "heads": lambda **k: MANN(3, **k, device="cpu"),
    "hidden": lambda **k: LSTMLearner(3, 2, **k, device="cpu"),
    "layers": lambda **k: LSTMLearner(3, 2, **k, device="cpu"),
    "read_heads": lambda **k: NTMLearner(3, 2, **k, device="cpu"),
    "write_heads": lambda **k: NTMLearner(3, 2, **k, device="cpu"),
    "input_size": lambda **k: NTMLearner(**k, output_size=2, device="cpu"),
    "output_size": lambda **k: LSTMLearner(3, **k, device="cpu"),
    "vocabulary_size": lambda **k: MemoryNetworkLearner(**k, device="cpu"),
    "dim": lambda **k: MemoryNetworkLearner(9, **k, device="cpu"),
    "hops": lambda **k: MemoryNetworkLearner(9, **k, device="cpu"),
    "max_time": lambda **k: MemoryNetworkLearner(9, **k, device="cpu"),
    "channels": conv4,
    "size": koch_network,
    "bits": CopyTasks,
    "item_length": AssociativeRecallTasks,
    "lengths": lambda lengths: RepeatCopyTasks((1, lengths)),
    "shots": Sinusoid,
    "queries": Sinusoid,
    "test_queries": Sinusoid,
    "num_test": Sinusoid,
    "ways": lambda ways: ClassTasks(points(), ways, 1),
    "num_tasks": lambda num_tasks: ClassTasks(points(), 2, 1, 1).sample_tasks(
        num_tasks, np.random.default_rng(0)
    ),
    "num_iterations": lambda num_iterations: net().learn(
        ClassTasks(points(), WAYS, 1, 1), num_iterations
    ),
}
NUMBERS: dict[str, Any] = {
    "lr": net,
    "scale": lambda **k: MatchingNet(Net(None), **k, device="cpu"),
    "hard_negatives": lambda **k: Siamese(Net(None), **k, device="cpu"),
    "weight_decay": lambda **k: Siamese(Net(None), **k, device="cpu"),
    "decay": lambda **k: MANN(3, **k, device="cpu"),
    "max_grad_norm": lambda **k: NTMLearner(3, 2, **k, device="cpu"),
    "linear_start": lambda **k: MemoryNetworkLearner(9, **k, device="cpu"),
    "time_noise": lambda **k: MemoryNetworkLearner(9, **k, device="cpu"),
}
BAD = [np.nan, np.inf, -1, "fast", True, None]
OPTIONAL = ("eval_steps", "chunk_size", "scale")  # None is their default


def refused(names: dict[str, Any], *more: Any) -> list[tuple[str, Any]]:
    values = [*BAD, *more]
    return [(n, v) for n in names for v in values if v is not None or n not in OPTIONAL]


@pytest.mark.parametrize(("name", "value"), refused(COUNTS, 1.5), ids=repr)
def test_every_count_is_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} has to be .*, got {value!r}"):
        COUNTS[name](**{name: value})


@pytest.mark.parametrize(("name", "value"), refused(NUMBERS), ids=repr)
def test_every_number_is_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} has to be .*, got {value!r}"):
        NUMBERS[name](**{name: value})


@pytest.mark.parametrize("name", ["first_order", "anil", "zero_head", "learn_lr"])
def test_every_flag_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has to be True or False, got 'false'"):
        net(**{name: "false"})


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: ProtoNet(Net(None), seed=seed),
        lambda seed: NearestNeighbour(seed=seed),
        lambda seed: MANN(3, seed=seed),
        lambda seed: Sinusoid(seed=seed),
    ],
)
@pytest.mark.parametrize("seed", [-1, 0.5, np.nan, "0"])
def test_every_seed_is_checked(make: Any, seed: Any) -> None:
    with pytest.raises(ValueError, match="seed has to be a whole number"):
        make(seed)


@pytest.mark.parametrize(
    "make",
    [
        lambda zero: held_out_split(BOX_TASKS, num_test=3, num_validation=zero, seed=0),
        lambda zero: make_memory_core("associative", 3, 3, zero),
        lambda zero: MujocoBatch("half_cheetah.xml", 5, chunk_size=zero),
        lambda zero: in_chunks(lambda x: x, torch.zeros(3, 1), chunk_size=zero),
        lambda zero: collect_histories(
            ThompsonSampling(10, rng=np.random.default_rng(0)),
            *("BernoulliBandit", "nowhere"),
            num_histories=2,
            num_episodes=zero,
        ),
    ],
)
def test_zero_is_not_taken_for_the_default(make: Any) -> None:
    with pytest.raises(ValueError, match="has to be a whole number of at least 1, got 0"):
        make(0)


@pytest.mark.parametrize("hidden", [3, [], [0], ["x"], None])
@pytest.mark.parametrize("make", [omniglot_mlp, sinusoid_mlp])
def test_units_of_layers_are_checked(make: Any, hidden: Any) -> None:
    with pytest.raises(ValueError, match="hidden"):
        make(hidden=hidden)


def test_numbers_of_numpy_are_taken_everywhere() -> None:
    two, half = np.int64(2), np.float32(0.5)
    conv4(two, size=np.int16(16), channels=two, hidden=two)
    text_encoder(np.int64(9), two, dim=two, hidden=two)
    MANN(np.int64(3), slots=np.int64(8), width=two, heads=two, hidden=two, decay=half)
    NTMLearner(two, two, slots=np.int64(4), width=two, hidden=two, max_grad_norm=half)
    LSTMLearner(two, two, hidden=two, layers=two, meta_lr=half)
    MemoryNetworkLearner(np.int64(9), dim=two, hops=two, linear_start=half)
    learner = Reptile(Net(WAYS), half, num_steps=two, chunk_size=two, seed=two, device="cpu")
    learner.learn(ClassTasks(points(), np.int64(WAYS), two, two), two)
    pool = ClassPool(torch.zeros(4, 1), np.array([2, 2], np.int8), names=["a", "b"])
    assert ClassTasks(pool, two, np.int64(1), np.int64(1)).class_names == ["a", "b"]
