"""Distances of features that are large, such as raw measurements around 100,000."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from meta_rl.few_shot import (
    FewShotLearner,
    LogisticRegressionLearner,
    MatchingNet,
    NearestMean,
    NearestNeighbour,
    ProtoNet,
    Ridge,
)
from meta_rl.few_shot.learners.protonet import squared_distances

LEARNERS: dict[str, Callable[[], FewShotLearner]] = {
    "nearest": lambda: NearestNeighbour(device="cpu"),
    "protonet": lambda: ProtoNet(nn.Flatten(), device="cpu"),
    "euclidean": lambda: MatchingNet(nn.Flatten(), metric="euclidean", device="cpu"),
    "nearest-mean": lambda: NearestMean(device="cpu"),
}
LINEAR: dict[str, Callable[[], FewShotLearner]] = {
    "ridge": lambda: Ridge(nn.Flatten(), device="cpu"),
    "logistic": lambda: LogisticRegressionLearner(device="cpu"),
}


@pytest.mark.parametrize("offset", [0.0, 1e5, -3e5])
@pytest.mark.parametrize("name", LEARNERS)
def test_neighbours_are_found_far_from_the_origin(name: str, offset: float) -> None:
    """Multiples of 1/16 are exact in float32 there; near points differ by a quarter."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randint(-16, 16, (3, 8), generator=generator) / 4
    support = centres[None] + offset
    labels = torch.arange(3)[None]
    noise = torch.randint(-2, 3, (1, 30, 8), generator=generator) / 16
    query_labels = torch.arange(30).remainder(3)
    queries = centres[query_labels][None] + noise + offset
    learner = LEARNERS[name]()
    state = learner.adapt((support, labels))
    assert (learner.predict(queries, state)[0] == query_labels).all()
    near = learner.adapt((support - offset, labels))
    here, there = (learner.scores(q, s) for q, s in ((queries, state), (queries - offset, near)))
    assert torch.allclose(here, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e5, -3e5])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_classifiers_of_raw_features(name: str, offset: float) -> None:
    """Classes that are far apart are told apart wherever they lie."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randint(-16, 16, (3, 8), generator=generator) / 4
    x, queries = (
        centres.repeat(num, 1)
        + torch.randint(-4, 5, (3 * num, 8), generator=generator) / 16
        + offset
        for num in (4, 20)
    )
    learner = LINEAR[name]()
    state = learner.adapt((x, torch.arange(12).remainder(3)))
    assert (learner.predict(queries, state) == torch.arange(60).remainder(3)).all()


def test_prototypes_of_several_shots_far_from_the_origin() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-32, 32, (2, 15, 6), generator=generator) / 16
    y = torch.arange(15).remainder(3).repeat(2, 1)
    queries = torch.randint(-32, 32, (2, 9, 6), generator=generator) / 16
    learner = ProtoNet(nn.Flatten(), device="cpu")
    near = learner.scores(queries, learner.adapt((x, y)))
    far = learner.scores(queries + 1e5, learner.adapt((x + 1e5, y)))
    assert torch.allclose(near, far, rtol=1e-3, atol=1e-3)


def test_squared_distances_and_their_gradients() -> None:
    """Against differences in float64; a distance of 0 has a gradient of 0."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, n, 5, generator=generator, dtype=torch.float64) for n in (4, 3))
    a[0, 0] = b[0, 0]
    a.requires_grad_()
    got = squared_distances(a, b)
    want = (a[:, :, None] - b[:, None]).square().sum(dim=-1)
    assert torch.allclose(got, want, atol=1e-12)
    weights = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((d * weights).sum(), a)[0] for d in (got, want)]
    assert torch.allclose(*gradients, atol=1e-10)
