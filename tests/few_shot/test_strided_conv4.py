"""The gradient written out, against automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import grad_and_value, vmap

from meta_rl.few_shot import conv4, omniglot_mlp
from meta_rl.few_shot.learner import task_loss
from meta_rl.few_shot.networks.strided_conv4 import StridedConv4
from meta_rl.inner_loop import Params

NUM_TASKS = 3


def network(**settings: Any) -> Any:
    kind: dict[str, Any] = {"pool": "stride", "flatten": True, "hidden": 6, "ways": 4}
    return conv4(**(kind | settings), generator=torch.Generator().manual_seed(0))


def fast_weights(module: torch.nn.Module, generator: torch.Generator) -> Params:
    """Of each task other ones."""
    return {
        name: value.detach()
        + 0.1 * torch.randn(NUM_TASKS, *value.shape, generator=generator, dtype=value.dtype)
        for name, value in module.named_parameters()
    }


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (17, 1), (20, 3)])
def test_loss_and_gradient(size: int, channels: int) -> None:
    module = network(size=size, channels=channels).double()
    generator = torch.Generator().manual_seed(1)
    params = fast_weights(module, generator)
    images = (NUM_TASKS, 7, channels, size, size)
    x = torch.rand(images, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, images[:2], generator=generator)

    def loss(values: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return task_loss(torch.func.functional_call(module, values, (x,)), y)

    expected, losses = vmap(grad_and_value(loss))(params, x, y)
    written = StridedConv4(module)
    gradient, found = written.gradient(vmap(written.pack)(params), x, y)
    torch.testing.assert_close(found, losses, rtol=1e-12, atol=1e-12)
    assert list(gradient) == list(params)
    for task in range(NUM_TASKS):
        unpacked = written.unpack({name: value[task] for name, value in gradient.items()})
        for name, value in unpacked.items():
            torch.testing.assert_close(value, expected[name][task], rtol=1e-9, atol=1e-12)


def test_packing_is_undone() -> None:
    module = network()
    written = StridedConv4(module)
    params = dict(module.named_parameters())
    packed = written.pack(params)
    assert packed["body.3.weight"].shape == (9 * 6, 6)
    unpacked = written.unpack(packed)
    assert list(unpacked) == list(params)
    assert all(torch.equal(unpacked[name], value) for name, value in params.items())


def changed(change: Callable[[Any], None]) -> Any:
    """A network that is another one than its recipe says."""
    module = network()
    change(module)
    return module


@pytest.mark.parametrize(
    "module",
    [
        changed(lambda module: setattr(module.body, "2", torch.nn.Tanh())),
        changed(lambda module: setattr(module.body[3], "stride", (1, 1))),
        network(pool="max"),
        network(flatten=False),
        network(norm="none"),
        network(ways=None),
        omniglot_mlp(4),
        torch.nn.Linear(3, 4),
    ],
)
def test_other_networks_do_not_fit(module: torch.nn.Module) -> None:
    assert StridedConv4.fits(network())
    assert not StridedConv4.fits(module)
