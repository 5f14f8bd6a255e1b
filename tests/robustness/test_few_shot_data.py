"""Data of few-shot learners: alike wherever they are given, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import meta_rl
from meta_rl.few_shot import (
    MAML,
    MANN,
    ClassPool,
    ClassTasks,
    FewShotLearner,
    FewShotTasks,
    FineTune,
    FrozenTasks,
    MatchingNet,
    MemoryNetworkLearner,
    NearestNeighbour,
    NTMLearner,
    ProtoNet,
    Reptile,
    Siamese,
    text_encoder,
)

from .every_learner import CASES, DIM, NETWORKS, WAYS, WORDS, Net, Stories, learned

Convert = Callable[[Tensor], Any]

INPUTS: dict[str, tuple[Convert, bool]] = {
    "half": (lambda x: x.to(torch.float16), False),
    "bfloat16": (lambda x: x.to(torch.bfloat16), False),
    "double": (lambda x: x.double(), False),
    "array": (lambda x: x.numpy(), False),
    "array of doubles": (lambda x: x.numpy().astype(np.float64), False),
    "array of halfs": (lambda x: x.numpy().astype(np.float16), False),
    "big-endian array": (lambda x: x.numpy().astype(">f4"), False),
    "long doubles": (lambda x: x.numpy().astype(np.longdouble), False),
    "reversed array": (lambda x: x.numpy()[..., ::-1][..., ::-1], False),
    "lists": (lambda x: x.tolist(), False),
    "lists of tensors": (lambda x: [list(task) for task in x], False),
    "lists of arrays": (lambda x: [task.numpy() for task in x], False),
    "int8": (lambda x: x.to(torch.int8), False),
    "int16": (lambda x: x.to(torch.int16), False),
    "int32": (lambda x: x.to(torch.int32), False),
    "int64": (lambda x: x.to(torch.int64), False),
    "uint16": (lambda x: x.to(torch.uint16), False),
    "array of uint32": (lambda x: x.numpy().astype(np.uint32), False),
    "array of uint64": (lambda x: x.numpy().astype(np.uint64), False),
    "lists of whole numbers": (lambda x: x.long().tolist(), False),
    "uint8": (lambda x: x.to(torch.uint8), True),
    "array of uint8": (lambda x: x.numpy().astype(np.uint8), True),
}
"""Of small whole numbers, and whether they are divided by 255."""

LABELS: dict[str, Convert] = {
    "int8": lambda y: y.to(torch.int8),
    "int16": lambda y: y.to(torch.int16),
    "int32": lambda y: y.to(torch.int32),
    "uint8": lambda y: y.to(torch.uint8),
    "uint16": lambda y: y.to(torch.uint16),
    "array": lambda y: y.numpy(),
    "array of uint64": lambda y: y.numpy().astype(np.uint64),
    "lists": lambda y: y.tolist(),
}


class Drawn:
    """Tasks of whole numbers, given out as ``convert`` says."""

    name = "drawn"

    def __init__(self, x: Convert, y: Convert = lambda y: y, scale: float = 1.0) -> None:
        self.x, self.y, self.scale = x, y, scale

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        centres = rng.integers(5, 15, (num_tasks, 1, WAYS, DIM))
        parts: list[Any] = []
        for shots in (2, 3):
            values = centres + rng.integers(-3, 4, (num_tasks, shots, WAYS, DIM))
            flat = torch.from_numpy(values.reshape(num_tasks, -1, DIM).astype(np.float32))
            labels = torch.arange(WAYS).repeat(num_tasks, shots)
            parts += [self.x(flat * self.scale), self.y(labels)]
        return FewShotTasks(*parts)

    def sample_labelled(self, num: int, rng: np.random.Generator) -> tuple[Any, Any]:
        values = torch.from_numpy(rng.integers(0, 20, (num, DIM)).astype(np.float32))
        return self.x(values * self.scale), self.y(torch.arange(num).remainder(WAYS))

    num_labels = WAYS


def results(name: str, tasks: Drawn) -> list[Tensor]:
    """What is learned in training, and what is adapted, predicted and evaluated then."""
    learner = NETWORKS[name]().learn(tasks, 2)
    batch = tasks.sample_tasks(2, np.random.default_rng(0))
    scores = learner.scores(batch.query_x, learner.adapt(batch.support))
    one = batch.support_x[1], batch.support_y[1]
    alone = learner.scores(batch.query_x[1], learner.adapt(one))
    values = meta_rl.evaluate_adaptation(learner, tasks, 3).values
    return [*learned(learner), scores, alone, torch.from_numpy(values)]


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_every_kind_of_inputs_is_alike_everywhere(name: str, kind: str) -> None:
    convert, divided = INPUTS[kind]
    want = results(name, Drawn(lambda x: x / 255 if divided else x))
    got = results(name, Drawn(convert))
    for one, other in zip(want, got, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", ["uint8", "int32", "half", "lists"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("maml", "protonet")])
def test_main_kinds_of_inputs_are_alike_for_every_learner(name: str, kind: str) -> None:
    convert, divided = INPUTS[kind]
    want = results(name, Drawn(lambda x: x / 255 if divided else x))
    for one, other in zip(want, results(name, Drawn(convert)), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", ["maml", "reptile", "protonet", "siamese", "finetune"])
def test_every_kind_of_labels_is_alike_everywhere(name: str, kind: str) -> None:
    want = results(name, Drawn(lambda x: x))
    for one, other in zip(want, results(name, Drawn(lambda x: x, LABELS[kind])), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
@pytest.mark.parametrize("own", [False, True], ids=["ours", "own"])
def test_networks_on_words_are_given_int64(own: bool, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, WORDS, (2, 6, 5), generator=generator)
    labels = torch.arange(6).remainder(3).repeat(2, 1)
    if own:
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = nn.Sequential(
                nn.Embedding(WORDS, 4), nn.Flatten(), nn.Linear(20, 3)
            )
    else:
        network = text_encoder(WORDS, 3, dim=4, hidden=4, generator=generator)
    learner = MAML(network, 0.1, seed=0, device="cpu")
    want = learner.scores(tokens, learner.adapt((tokens, labels)))
    narrow = tokens.to(kind)
    got = learner.scores(narrow, learner.adapt((narrow, labels)))
    assert torch.equal(want, got)
    learner.learn(Given(FewShotTasks(narrow, labels, narrow, labels)), 1)
    with pytest.raises(ValueError, match=f"word numbers are 0 to {WORDS - 1}, got"):
        learner.adapt((tokens + WORDS - 1, labels))


def test_bits_of_sequences_keep_their_values() -> None:
    learner = NTMLearner(3, 2, slots=6, width=4, hidden=8, seed=1, device="cpu")
    bits = torch.randint(0, 2, (1, 4, 3), generator=torch.Generator().manual_seed(0))
    want = learner.adapt((bits.float(), torch.zeros(1, 4, 0)))
    for kind in (torch.uint8, torch.bool, torch.int64, torch.float64):
        state = learner.adapt((bits.to(kind), torch.zeros(1, 4, 0)))
        assert torch.equal(state.memory, want.memory)


BAD = {
    "nan": torch.nan,
    "inf": torch.inf,
    "-inf": -torch.inf,
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("part", ["support_x", "query_x"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("memory-network",)])
def test_numbers_that_are_not_finite_are_named(name: str, part: str, value: str) -> None:
    learner, tasks = CASES[name].make(), CASES[name].tasks()
    batch = getattr(tasks, "train", tasks).sample_tasks(2, np.random.default_rng(0))
    poisoned = getattr(batch, part).clone()
    poisoned[1, 2, 0] = BAD[value]
    bad = batch._replace(**{part: poisoned})
    where = f"inputs: example 2 of task 1 holds {value}$"
    if part == "support_x":
        with pytest.raises(ValueError, match=f"support {where}"):
            learner.adapt(bad.support)
    else:
        with pytest.raises(ValueError, match=where):
            learner.predict(bad.query_x, learner.adapt(bad.support))
    with pytest.raises(ValueError, match=where):
        learner.check_batch(bad)
    trains = name not in ("nearest", "scratch", "finetune")
    if trains:
        before = [value.clone() for value in learner.module.state_dict().values()]
        with pytest.raises(ValueError, match=where):
            learner.learn(Given(bad), 1)
        after = learner.module.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class Given:
    """The same tasks, always."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        return self.batch


X, Y = torch.ones(2, 6, DIM), torch.arange(6).remainder(3).repeat(2, 1)
QUERY = (torch.ones(2, 3, DIM), torch.arange(3).repeat(2, 1))


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        (None, TypeError, r"support data has to be a pair \(inputs, labels\), got None"),
        (X, TypeError, "a pair .* got Tensor"),
        ((X, None), TypeError, "support labels have to be a tensor, an array or lists"),
        ((None, Y), TypeError, "support inputs have to be .* got None"),
        ((X, Y, X), ValueError, "got 3 parts"),
        ((X.to(torch.complex64), Y), ValueError, r"support inputs: complex numbers"),
        ((X, Y.to(torch.complex64)), ValueError, "support labels: complex numbers"),
        ((X[:, :0], Y[:, :0]), ValueError, "an empty support set"),
        ((X[..., :0], Y), ValueError, "hold no numbers|as the network takes"),
        ((X, Y.float()), ValueError, "learns labels"),
        ((X, Y - 1), ValueError, "support labels have to be"),
        ((X, [["a"] * 6] * 2), ValueError, "support labels: texts, such as 'a'"),
        (([[1.0, 2.0], [3.0]], Y), ValueError, "support inputs: parts of different shapes"),
        (({"x": 1}, Y), TypeError, "support inputs have to be .* got dict"),
        (
            (X.double() * 1e300, Y),
            ValueError,
            "holds inf",
        ),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: MAML(Net(WAYS), device="cpu"),
        lambda: Reptile(Net(WAYS), device="cpu"),
        lambda: ProtoNet(Net(None), device="cpu"),
        lambda: MANN(WAYS, input_shape=(DIM,), slots=4, width=2, heads=1, hidden=4, device="cpu"),
    ],
    ids=["maml", "reptile", "protonet", "mann"],
)
def test_other_support_data_are_refused(
    make: Callable[[], FewShotLearner], support: Any, error: type[Exception], message: str
) -> None:
    learner = make()
    with pytest.raises(error, match=message):
        learner.adapt(support)
    if isinstance(support, tuple) and len(support) == 2:
        with pytest.raises(error, match=message):
            learner.learn(Given((*support, *QUERY)), 1)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ((QUERY[0].to(torch.complex64), QUERY[1]), ValueError, "complex numbers"),
        ((QUERY[0][:, :0], QUERY[1][:, :0]), ValueError, "an empty query set"),
        ((QUERY[0][:1], QUERY[1][:1]), ValueError, "support data of 2 tasks, but query data of 1"),
        ((QUERY[0], QUERY[1].float()), ValueError, "query labels of torch.float32"),
        ((QUERY[0], QUERY[1] + 1), ValueError, "query labels"),
        ((QUERY[0], QUERY[1][:, :2]), ValueError, "query: inputs .* do not match"),
        ((None, QUERY[1]), TypeError, "query data have to be"),
    ],
)
@pytest.mark.parametrize("name", ["maml", "protonet", "matching", "siamese"])
def test_other_query_data_are_refused_in_training(
    name: str, query: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        NETWORKS[name]().learn(Given((X, Y, *query)), 1)


def test_queries_of_a_class_without_an_example_are_refused() -> None:
    labels = Y.clone()
    labels[1][labels[1] == 1] = 0
    with pytest.raises(ValueError, match="query 1 of task 1 is of class 1, which has no support"):
        NETWORKS["protonet"]().learn(Given((X, labels, *QUERY)), 1)


def test_answers_and_words_of_stories_are_checked() -> None:
    learner = MemoryNetworkLearner(WORDS, dim=4, hops=1, seed=1, device="cpu")
    batch = Stories().sample_tasks(2, np.random.default_rng(0))
    for part, message in (("support_x", "word numbers are"), ("query_y", "answers are word")):
        bad = batch._replace(**{part: getattr(batch, part) + WORDS})
        with pytest.raises(ValueError, match=message):
            learner.learn(Given(bad), 1)
    narrow = FewShotTasks(*(part.to(torch.int16) for part in batch))
    assert torch.isfinite(learner.learn(Given(narrow), 1).scores(batch.query_x)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: MAML(None), "network has to be a torch.nn.Module, got None"),
        (lambda: ProtoNet(nn.Linear), "network has to be a torch.nn.Module, got the class Linear"),
        (lambda: NETWORKS["maml"]().learn(None, 1), "tasks has to be a split, or a distribution"),
        (lambda: NETWORKS["maml"]().learn([], 1), r"sample_tasks\(num_tasks, rng\), got list"),
        (lambda: NETWORKS["maml"]().learn(Given(None), 1), "what sample_tasks gives has to be"),
        (lambda: NETWORKS["maml"]().learn(Given((1, 2)), 1), "got a tuple of 2"),
        (lambda: NETWORKS["maml"]().predict(None), "inputs have to be a tensor"),
        (lambda: NETWORKS["maml"]().predict(X, "state"), "state has to be None, or what adapt"),
        (lambda: NETWORKS["protonet"]().predict(X, {}), "what adapt of ProtoNet gives, got dict"),
        (lambda: NETWORKS["reptile"]().adapt((X, Y), {}), "what adapt of Reptile gives"),
        (lambda: ClassTasks(None, 2, 1), "pool has to be a ClassPool, got None"),
        (lambda: FrozenTasks(None, None, "x"), "tasks has to be FewShotTasks, got None"),
        (lambda: Siamese(Net(None)).verify(None, 1, None), "tasks has to be"),
        (
            lambda: MAML(Net(WAYS), learn_rate=0.1),
            "unexpected keyword argument 'learn_rate'; did you",
        ),
        (lambda: MatchingNet(Net(None), metrics="cosine"), "did you mean metric"),
        (
            lambda: text_encoder(9, hiden=3),
            "unexpected keyword argument 'hiden'.* hidden",
        ),
        (lambda: ClassPool(None, [1]), "examples have to be a tensor"),
        (
            lambda: ClassTasks(pool(), 2, 1, 1).sample_tasks(1, 0),
            "rng has to be a numpy.random.Generator, got int",
        ),
    ],
)
def test_objects_of_the_wrong_kind_are_a_type_error(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        wrong()


def test_targets_that_are_not_finite_are_refused_everywhere() -> None:
    learner, tasks = CASES["regression"].make(), CASES["regression"].tasks()
    batch = tasks.train.sample_tasks(50, np.random.default_rng(0))
    batch.query_y[1, 2] = torch.nan
    message = "query targets: example 2 of task 1 holds nan"
    with pytest.raises(ValueError, match=message):
        learner.learn(Given(batch), 1)
    with pytest.raises(ValueError, match=r"query targets: example 2 of task .* holds nan"):
        meta_rl.evaluate_adaptation(learner, Given(batch), 50)
    with pytest.raises(ValueError, match="support targets: example 1 of task 0 holds inf"):
        learner.adapt(([[1.0], [2.0]], [[1.0], [torch.inf]]))


def pool() -> ClassPool:
    return ClassPool(torch.ones(6, 2), [2, 2, 2])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (torch.tensor([[1.0], [torch.nan]]), "example 1 holds nan"),
        (np.array([[1.0], [-np.inf]]), "example 1 holds -inf"),
        (torch.ones(2, 1, dtype=torch.complex64), "complex"),
        (torch.ones(2, 0), "hold no numbers"),
    ],
)
def test_examples_of_a_pool_are_checked(examples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassPool(examples, [1, 1])


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int8, np.int64])
def test_whole_numbers_of_a_pool_keep_their_values(kind: Any) -> None:
    tasks = ClassTasks(ClassPool(np.arange(8).reshape(8, 1).astype(kind), [2] * 4), 2, 1, 1)
    x = tasks.sample_tasks(50, np.random.default_rng(0)).support_x
    assert x.dtype == torch.int64
    assert set(x.flatten().tolist()) == set(range(8))


def test_nearest_neighbours_take_whole_numbers() -> None:
    learner = NearestNeighbour(device="cpu")
    x = np.array([[[0, 300], [300, 0]]])
    state = learner.adapt((x, [[0, 1]]))
    assert learner.predict(x, state).tolist() == [[0, 1]]


def test_finetuning_checks_single_examples() -> None:
    tasks = Drawn(lambda x: x * torch.nan)
    with pytest.raises(ValueError, match="holds nan"):
        FineTune(Net(WAYS), seed=0, device="cpu").learn(tasks, 1)
