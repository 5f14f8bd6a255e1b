"""Layers of torch.nn in a network of one's own: exact meta-gradients, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import meta_rl
from meta_rl.few_shot import MAML, FewShotTasks, FromScratch, ProtoNet, Reptile, conv4

from .every_learner import NETWORKS, Net, point_tasks

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop because")  # weight_norm
TASKS, LR, STEPS = 3, 0.4, 3
BATCH_NORM = {"track_running_stats": False}

VECTORS: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": lambda: nn.LayerNorm(12),
    "LayerNorm without bias": lambda: nn.LayerNorm(12, bias=False),
    "LayerNorm without scale": lambda: nn.LayerNorm(12, elementwise_affine=False),
    "RMSNorm": lambda: nn.RMSNorm(12),
    "GroupNorm": lambda: nn.GroupNorm(3, 12),
    "BatchNorm1d": lambda: nn.BatchNorm1d(12, **BATCH_NORM),
    "functional layer_norm": lambda: Functional(12),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 12)),
    "attention": lambda: Attention(12),
    "no normalisation": nn.Identity,
}
IMAGES: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "BatchNorm1d": (1, lambda: nn.BatchNorm1d(4, **BATCH_NORM)),
    "BatchNorm2d": (2, lambda: nn.BatchNorm2d(4, **BATCH_NORM)),
    "BatchNorm3d": (3, lambda: nn.BatchNorm3d(4, **BATCH_NORM)),
    "InstanceNorm1d": (1, lambda: nn.InstanceNorm1d(4)),
    "InstanceNorm2d": (2, lambda: nn.InstanceNorm2d(4, affine=True)),
    "InstanceNorm3d": (3, lambda: nn.InstanceNorm3d(4, affine=True)),
    "GroupNorm": (2, lambda: nn.GroupNorm(2, 4)),
    "LayerNorm": (2, lambda: nn.LayerNorm([4, 3, 3])),
    "RMSNorm": (2, lambda: nn.RMSNorm([4, 3, 3])),
    "LocalResponseNorm": (2, lambda: nn.LocalResponseNorm(2)),
}


class Functional(nn.Module):
    """Layer normalisation by a function, which no list of layers can find."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.scale)


class Attention(nn.Module):
    """A layer of a transformer over the features, with layer normalisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(-1, (-1, 4))).flatten(-2)


def make_network(layer: Callable[[], nn.Module], dimensions: int = 0) -> tuple[nn.Module, Any]:
    """A network with the layer, and the shape of its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if dimensions == 0:
            body = [nn.Linear(6, 12), layer(), nn.Tanh(), nn.Linear(12, 3)]
            network, shape = nn.Sequential(*body), (6,)
        else:
            convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](1, 4, 3)
            head = nn.Linear(4 * 3**dimensions, 3)
            network = nn.Sequential(convolution, layer(), nn.Tanh(), nn.Flatten(), head)
            shape = (1,) + (5,) * dimensions
        with torch.no_grad():
            for parameter in network.parameters():  # scales of 1 would hide a fault
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network, shape


def make_batch(shape: tuple[int, ...]) -> FewShotTasks:
    generator = torch.Generator().manual_seed(0)
    x, query_x = (torch.randn(TASKS, num, *shape, generator=generator) for num in (6, 9))
    y, query_y = (torch.arange(num).remainder(3).repeat(TASKS, 1) for num in (6, 9))
    return FewShotTasks(x, y, query_x, query_y)


@sdpa_kernel(SDPBackend.MATH)
def loop_gradient(network: nn.Module, batch: FewShotTasks, first_order: bool) -> Tensor:
    """The meta-gradient in float64, task by task, by ``torch.autograd`` alone."""
    wide = copy.deepcopy(network).double()
    start: Any = dict(wide.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for index in range(TASKS):
        x, y, query_x, query_y = batch.take(index)
        fast = dict(start)
        for _ in range(STEPS):
            loss = functional.cross_entropy(functional_call(wide, fast, (x.double(),)), y)
            graph = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            fast = {k: v - LR * g for (k, v), g in zip(fast.items(), graph, strict=True)}
        outputs = functional_call(wide, fast, (query_x.double(),))
        total = total + functional.cross_entropy(outputs, query_y) / TASKS
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(start.values()))])


def our_gradient(network: nn.Module, batch: FewShotTasks, **settings: Any) -> Tensor:
    learner = MAML(network, lr=LR, num_steps=STEPS, seed=0, device="cpu", **settings)
    learner.optimizer = torch.optim.SGD(learner.module.parameters(), lr=1e-30)
    learner.module.train()
    learner.update(batch)
    gradients = [parameter.grad for parameter in network.parameters()]
    return torch.cat([g.double().flatten() for g in gradients if g is not None])


def error_of(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("double", [False, True], ids=["float", "double"])
@pytest.mark.parametrize("layer", VECTORS)
def test_meta_gradients_through_layers_of_vectors(layer: str, double: bool) -> None:
    network, shape = make_network(VECTORS[layer])
    batch = make_batch(shape)
    want = loop_gradient(network, batch, first_order=False)
    network = network.double() if double else network
    assert error_of(our_gradient(network, batch), want) < (1e-12 if double else 1e-3)


@pytest.mark.parametrize("layer", IMAGES)
def test_meta_gradients_through_layers_of_images(layer: str) -> None:
    dimensions, make = IMAGES[layer]
    network, shape = make_network(make, dimensions)
    batch = make_batch(shape)
    want = loop_gradient(network, batch, first_order=False)
    for chunk_size in (None, 2):
        got = our_gradient(copy.deepcopy(network).double(), batch, chunk_size=chunk_size)
        assert error_of(got, want) < 1e-12


@pytest.mark.parametrize("layer", ["LayerNorm", "BatchNorm1d"])
def test_first_order_gradients(layer: str) -> None:
    network, shape = make_network(VECTORS[layer])
    batch = make_batch(shape)
    want = loop_gradient(network, batch, first_order=True)
    got = our_gradient(network.double(), batch, first_order=True)
    assert error_of(got, want) < 1e-12


@pytest.mark.parametrize("layer", [*VECTORS])
def test_adapting_and_reptile_are_a_loop_too(layer: str) -> None:
    network, shape = make_network(VECTORS[layer])
    batch, network = make_batch(shape), network.double()
    state = FromScratch(network, lr=LR, eval_steps=STEPS, device="cpu").adapt(batch.support)
    alone = copy.deepcopy(network)
    optimizer = torch.optim.SGD(alone.parameters(), lr=LR)
    for _ in range(STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(alone(batch.support_x[1].double()), batch.support_y[1]).backward()
        optimizer.step()
    for name, value in alone.named_parameters():
        assert torch.allclose(state[name][1], value, atol=1e-10)
    learner = Reptile(network, lr=0.01, meta_batch_size=TASKS, seed=0, device="cpu")
    assert torch.isfinite(learner.update(batch)["loss"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.CrossMapLRN2d(2), "no second derivatives"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "changes its buffers"),
        (nn.BatchNorm1d(4), "track_running_stats=False"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "track_running_stats=False"),
        (nn.SyncBatchNorm(4), "track_running_stats=False"),
        (nn.GRU(4, 4), "vmap does not batch it"),
        (nn.RReLU(), "vmap does not batch it"),
        (nn.LazyLinear(4), "lazy layers"),
        (nn.LazyBatchNorm1d(track_running_stats=False), "lazy layers"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_layers_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAML(nn.Sequential(layer), device="cpu")


@pytest.mark.parametrize("name", NETWORKS)
def test_double_networks(name: str, tmp_path: Any) -> None:
    def make(**net: Any) -> Any:
        return NETWORKS[name](**net)

    learner = make()
    network = learner.network.double()
    network.requires_grad_()
    settings = dict(learner.settings)
    double = type(learner)(network, **settings, device="cpu")
    tasks = point_tasks()
    double.learn(tasks, 2)
    batch = tasks.test.sample_tasks(2, np.random.default_rng(0))
    scores = double.scores(batch.query_x, double.adapt(batch.support))
    assert scores.dtype == torch.float64
    assert double.scores(batch.query_x).dtype == torch.float64
    result = meta_rl.evaluate_adaptation(double, tasks, 3)
    assert np.isfinite(result.values).all()
    ways = getattr(network, "ways", None)
    loaded = type(double).load(double.save(tmp_path / "d"), network=Net(ways).double())
    assert torch.equal(loaded.scores(batch.query_x, loaded.adapt(batch.support)), scores)


def test_our_double_networks_are_loaded_as_such(tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    network = conv4(hidden=2, size=16, generator=generator).double()
    learner = ProtoNet(network, seed=0, device="cpu")
    loaded = ProtoNet.load(learner.save(tmp_path / "d"), device="cpu")
    pairs = zip(learner.module.parameters(), loaded.module.parameters(), strict=True)
    assert all(a.dtype == torch.float64 and torch.equal(a, b) for a, b in pairs)
