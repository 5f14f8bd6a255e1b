"""Batch normalisation: torch's function, and second derivatives that are right within vmap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta_rl.few_shot.networks.batch_norm import BatchNorm
from meta_rl.inner_loop import Params, meta_gradient, meta_loss


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4), (5, 3, 4, 2)])
def test_equals_torchs(shape: tuple[int, ...]) -> None:
    """Outputs and gradients, with parameters of the same names."""
    generator = torch.Generator().manual_seed(0)
    x = 3.0 + 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    layer = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    theirs, ours = layer(3, track_running_stats=False).double(), BatchNorm(3).double()
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        theirs.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
    ours.load_state_dict(theirs.state_dict())
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))
    for module in (ours, theirs):
        module(x).sin().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_numbers_worked_by_hand() -> None:
    """1 and 3: mean 2, variance 1; without eps -1 and 1."""
    found = BatchNorm(1, eps=0.0)(torch.tensor([[1.0], [3.0]]))
    assert found.tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_meta_gradient_is_exact(chunk_size: int | None) -> None:
    """Backward through vmap equals a loop of autograd over tasks, for a network of two of them."""
    network = nn.Sequential(
        *(nn.Linear(2, 3), BatchNorm(3), nn.Tanh(), nn.Linear(3, 3), BatchNorm(3), nn.Tanh())
    ).double()
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, value in network.named_parameters()
    }
    data = torch.randn((2, 3, 6, 2), generator=generator, dtype=torch.float64)

    def loss(values: Params, x: Tensor) -> Tensor:
        return functional_call(network, values, (x,)).sin().square().sum()

    def by_loop() -> list[Any]:
        total = torch.zeros((), dtype=torch.float64)
        for support, query in zip(*data, strict=True):
            values = list(params.values())
            gradients = torch.autograd.grad(loss(params, support), values, create_graph=True)
            fast = {n: v - 0.1 * g for (n, v), g in zip(params.items(), gradients, strict=True)}
            total = total + loss(fast, query) / 3
        return list(torch.autograd.grad(total, list(params.values())))

    mean = meta_loss(loss, loss, params, *data, lr=0.1, chunk_size=chunk_size).mean()
    found = torch.autograd.grad(mean, list(params.values()))
    expected = by_loop()
    torch.testing.assert_close(list(found), expected, rtol=1e-9, atol=1e-10)
    pure, _ = meta_gradient(loss, loss, params, *data, lr=0.1, chunk_size=chunk_size)
    torch.testing.assert_close(
        [part.detach() for part in pure.values()], expected, rtol=1e-9, atol=1e-10
    )
    assert max(part.abs().max() for part in expected) > 0.1


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="num_features has to be a whole number of at least 1"):
        BatchNorm(0)
