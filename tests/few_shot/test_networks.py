"""Networks: sizes from the papers, statistics by task, and first weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from meta_rl.few_shot import conv4, koch_network, omniglot_mlp, sinusoid_mlp, text_encoder
from meta_rl.few_shot.networks.feed_forward import RECIPES, FewShotNetwork


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("network", "numbers", "features"),
    [
        # 3 × 3 filters and biases: 640 + 3 · 36,928; normalisation 4 · 128; head 64 · 5 + 5
        (conv4(5), 640 + 3 * 36_928 + 512 + 325, 64),
        (conv4(5, pool="stride"), 640 + 3 * 36_928 + 512 + 325, 64),
        (conv4(5, pool="stride", flatten=True), 640 + 3 * 36_928 + 512 + 1285, 256),
        (conv4(5, flatten=False), 640 + 3 * 36_928 + 512 + 325, 64),
        (conv4(), 640 + 3 * 36_928 + 512, 64),
        (conv4(size=84, channels=3), 1792 + 3 * 36_928 + 512, 1600),
        # 784 to 256, 128, 64, 64 units, with normalisation, and the head
        (omniglot_mlp(5), 200_960 + 32_896 + 8_256 + 4_160 + 2 * 512 + 325, 64),
        (sinusoid_mlp(), 80 + 1640 + 41, 40),
    ],
)
def test_sizes(network: FewShotNetwork, numbers: int, features: int) -> None:
    assert count(network) == numbers
    assert network.num_features == features
    x = torch.rand(3, *network.input_shape, generator=generator())  # type: ignore[misc]
    assert network.body(x).shape == (3, features)


def test_koch_network_is_that_of_the_paper() -> None:
    """Its convolutions, and 4,096 units; of a small image, so that the test is fast."""
    small = koch_network(size=69, generator=generator())
    convolutions = [6_464, 401_536, 262_272, 524_544]
    assert count(small) == sum(convolutions) + 256 * 4096 + 4096
    y = small(torch.rand(2, 1, 69, 69, generator=generator()))
    assert y.shape == (2, 4096)
    assert ((y > 0) & (y < 1)).all()


@pytest.mark.parametrize("pool", ["max", "stride"])
def test_statistics_are_those_of_the_task(pool: str) -> None:
    """Batched over tasks with weights of their own: as each task alone."""
    network = conv4(3, hidden=4, size=16, pool=pool, generator=generator())
    params = {name: torch.stack([value, value * 1.1]) for name, value in network.named_parameters()}
    x = torch.rand(2, 5, 1, 16, 16, generator=generator())
    together = vmap(lambda p, inputs: functional_call(network, p, (inputs,)))(params, x)
    for task in range(2):
        own = {name: value[task] for name, value in params.items()}
        alone = functional_call(network, own, (x[task],))
        assert torch.allclose(together[task], alone, atol=1e-5)
    network.eval()
    assert torch.allclose(functional_call(network, own, (x[1],)), alone, atol=1e-6)
    features = network.body[1](network.body[0](x[0]))
    assert torch.allclose(features.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5)


def test_embeddings_use_running_statistics() -> None:
    network = conv4(hidden=4, size=16, generator=generator())
    x = torch.rand(5, 1, 16, 16, generator=generator())
    network.eval()
    assert torch.allclose(network(x)[:2], network(x[:2]), atol=1e-6)
    network.train()
    assert not torch.allclose(network(x)[:2], network(x[:2]), atol=1e-3)
    with pytest.raises(ValueError, match="norm is one of"):
        conv4(norm="batch")


def test_padding_does_not_matter_to_a_text() -> None:
    network = text_encoder(20, 3, dim=8, hidden=8, generator=generator())
    text = torch.tensor([[3, 7, 12]])
    padded = torch.tensor([[3, 7, 12, 0, 0, 0]])
    assert torch.allclose(network(text), network(padded), atol=1e-6)
    assert not torch.allclose(network(text), network(torch.tensor([[3, 7, 13]])), atol=1e-3)
    assert not torch.allclose(network(text), network(torch.tensor([[12, 7, 3]])), atol=1e-4)


def test_the_generator_draws_the_weights() -> None:
    before = torch.get_rng_state()
    first, again = (conv4(5, hidden=4, generator=generator()) for _ in range(2))
    other = conv4(5, hidden=4)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.dim() > 1:
            assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "network",
    [
        conv4(5, hidden=4, pool="stride"),
        omniglot_mlp(hidden=(8, 4)),
        sinusoid_mlp(hidden=(3,)),
        text_encoder(10, 2, dim=4, hidden=4),
    ],
)
def test_a_recipe_makes_the_same_network(network: FewShotNetwork) -> None:
    assert network.recipe is not None
    name, kwargs = network.recipe
    RECIPES[name](**kwargs).load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv4(1), "ways has to be a whole number of at least 2"),
        (lambda: conv4(size=8), "size has to be a whole number of at least 16"),
        (lambda: conv4(pool="mean"), "pool is one of max, stride"),
        (lambda: koch_network(size=28), "at least 69"),
    ],
)
def test_impossible_networks_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
