"""Every few-shot learner, small, with tasks that it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from meta_rl.few_shot import (
    MAML,
    MANN,
    ClassPool,
    CopyTasks,
    FewShotLearner,
    FewShotTasks,
    FineTune,
    FromScratch,
    LSTMLearner,
    MatchingNet,
    MemoryNetworkLearner,
    NearestNeighbour,
    NTMLearner,
    ProtoNet,
    Reptile,
    Ridge,
    Siamese,
    Sinusoid,
    sinusoid_mlp,
)
from meta_rl.few_shot.tasks import class_split

DIM, WAYS, WORDS = 4, 3, 30


class Net(nn.Module):
    """A network of one's own over points, with dropout."""

    num_features = 8

    def __init__(self, ways: int | None, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            self.body = nn.Sequential(nn.Linear(DIM, 8), nn.Tanh(), nn.Dropout(dropout))
            self.head = nn.Identity() if ways is None else nn.Linear(8, ways)
        if ways is not None:
            self.ways = ways
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Stories:
    """Stories of random words; the answer is the last word."""

    name = "stories"

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        story = torch.from_numpy(rng.integers(1, WORDS, (num_tasks, 4, 3)))
        times = torch.arange(4, 0, -1).repeat(num_tasks, 1)
        return FewShotTasks(story, times, story[:, -1:], story[:, -1, -1:])


def points(num_classes: int = 8, each: int = 6, seed: int = 0) -> ClassPool:
    rng = np.random.default_rng(seed)
    centres = rng.normal(0.0, 2.0, (num_classes, 1, DIM))
    values = centres + rng.normal(0.0, 0.5, (num_classes, each, DIM))
    return ClassPool(values.reshape(-1, DIM).astype(np.float32), [each] * num_classes)


def point_tasks() -> Any:
    parts = ("train", "validation", "test")
    pools = {part: points(seed=seed) for seed, part in enumerate(parts)}
    return class_split(pools, WAYS, 2, 2, name="points")


class Case(NamedTuple):
    make: Callable[..., FewShotLearner]
    tasks: Callable[[], Any]


NETWORKS: dict[str, Callable[..., FewShotLearner]] = {
    "maml": lambda **net: MAML(Net(WAYS, **net), 0.2, num_steps=2, seed=1, device="cpu"),
    "anil": lambda **net: MAML(Net(WAYS, **net), 0.2, anil=True, seed=1, device="cpu"),
    "reptile": lambda **net: Reptile(
        Net(WAYS, **net), 0.01, eval_steps=3, eval_batch_size=2, seed=1, device="cpu"
    ),
    "protonet": lambda **net: ProtoNet(Net(None, **net), seed=1, device="cpu"),
    "matching": lambda **net: MatchingNet(Net(None, **net), fce=True, seed=1, device="cpu"),
    "euclidean": lambda **net: MatchingNet(
        Net(None, **net), metric="euclidean", seed=1, device="cpu"
    ),
    "ridge": lambda **net: Ridge(Net(None, **net), seed=1, device="cpu"),
    "siamese": lambda **net: Siamese(Net(None, **net), augment=False, seed=1, device="cpu"),
    "finetune": lambda **net: FineTune(Net(WAYS, **net), eval_steps=2, seed=1, device="cpu"),
    "scratch": lambda **net: FromScratch(Net(WAYS, **net), eval_steps=2, seed=1, device="cpu"),
}
"""Learners of points that are given a network."""

CASES: dict[str, Case] = {
    **{name: Case(make, point_tasks) for name, make in NETWORKS.items()},
    "nearest": Case(lambda: NearestNeighbour(seed=1, device="cpu"), point_tasks),
    "mann": Case(
        lambda: MANN(
            WAYS, input_shape=(DIM,), slots=8, width=4, heads=1, hidden=8, seed=1, device="cpu"
        ),
        point_tasks,
    ),
    "ntm": Case(
        lambda: NTMLearner(3, 2, slots=6, width=4, hidden=8, seed=1, device="cpu"),
        lambda: CopyTasks((2, 3), bits=2),
    ),
    "lstm": Case(
        lambda: LSTMLearner(3, 2, hidden=8, layers=1, seed=1, device="cpu"),
        lambda: CopyTasks((2, 3), bits=2),
    ),
    "memory-network": Case(
        lambda: MemoryNetworkLearner(WORDS, dim=4, hops=1, seed=1, device="cpu"), Stories
    ),
    "regression": Case(
        lambda: MAML(
            sinusoid_mlp(hidden=(8,), generator=torch.Generator().manual_seed(0)),
            *(0.01,),
            seed=1,
            device="cpu",
        ),
        lambda: Sinusoid(3, num_test=20),
    ),
}
"""Every learner."""


def learned(learner: FewShotLearner) -> list[torch.Tensor]:
    """All that is learned, the optimiser's state too."""
    moments = learner.extra_state().get("moments", {})
    optimizer = learner.optimizer.state_dict()["state"] if learner.optimizer else {}
    kept = [value for state in optimizer.values() for value in state.values()]
    kept = [value for value in kept if isinstance(value, torch.Tensor)]
    return [
        value.detach().clone()
        for value in (*learner.module.state_dict().values(), *moments.values(), *kept)
    ]


def same(one: FewShotLearner, other: FewShotLearner) -> bool:
    """Whether two learners are equal bit for bit, their generators too."""
    pairs = zip(learned(one), learned(other), strict=True)
    return (
        all(torch.equal(a, b) for a, b in pairs)
        and one.rng.bit_generator.state == other.rng.bit_generator.state
        and torch.equal(one.generator.get_state(), other.generator.get_state())
    )
