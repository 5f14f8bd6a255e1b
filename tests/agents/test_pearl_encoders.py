"""Encoders of context against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from meta_rl.agents.pearl.encoders import GivenLatent, ProductEncoder, kl_to_prior


class TestKL:
    def test_equals_numbers_worked_by_hand(self) -> None:
        """Mean 2, variance 1: 2²/2 = 2. Mean 0, variance e²: (e² - 2 - 1)/2. The prior: 0."""
        mean = torch.tensor([[2.0], [0.0], [0.0]])
        variance = torch.tensor([[1.0], [torch.e**2], [1.0]])
        expected = torch.tensor([2.0, (torch.e**2 - 3.0) / 2.0, 0.0])
        torch.testing.assert_close(kl_to_prior(mean, variance), expected)

    def test_equals_torchs(self) -> None:
        generator = torch.Generator().manual_seed(0)
        mean = torch.randn(7, 3, generator=generator)
        variance = torch.rand(7, 3, generator=generator) + 0.1
        expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum(dim=1)
        torch.testing.assert_close(kl_to_prior(mean, variance), expected)


class Given(ProductEncoder):
    """The context holds the factors' means and variances themselves."""

    def factors(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, variance = context.chunk(2, dim=-1)
        return mean, variance


class TestProduct:
    def test_two_factors_by_hand(self) -> None:
        """N(1, 1/2) N(4, 1): precision 2 + 1 = 3, mean (2 * 1 + 1 * 4) / 3 = 2."""
        encoder = Given(2, 1, [3])
        context = torch.tensor([[[1.0, 0.5], [4.0, 1.0]]])
        mean, variance = encoder.posterior(encoder.update(encoder.initial_belief(1), context))
        torch.testing.assert_close(mean, torch.tensor([[2.0]]))
        torch.testing.assert_close(variance, torch.tensor([[1.0 / 3.0]]))

    def test_equals_the_product_of_densities(self) -> None:
        """Up to a constant, at any z."""
        generator = torch.Generator().manual_seed(0)
        encoder = Given(4, 2, [3])
        means = torch.randn(1, 5, 2, generator=generator)
        variances = torch.rand(1, 5, 2, generator=generator) + 0.2
        context = torch.cat([means, variances], dim=-1)
        mean, variance = encoder.posterior(encoder.update(encoder.initial_belief(1), context))
        z = torch.linspace(-2.0, 2.0, 9)[:, None]
        product = Normal(means[0, :, None], variances[0, :, None].sqrt()).log_prob(z).sum(dim=0)
        difference = product - Normal(mean, variance.sqrt()).log_prob(z)
        torch.testing.assert_close(difference, difference[:1].expand(9, 2), rtol=0, atol=1e-4)

    def test_nothing_seen_is_the_prior(self) -> None:
        encoder = ProductEncoder(3, 2, [4])
        mean, variance = encoder.posterior(encoder.initial_belief(5))
        assert mean.shape == variance.shape == (5, 2)
        assert (mean == 0).all()
        assert (variance == 1).all()

    def test_variances_do_not_vanish(self) -> None:
        """An output of -1000 would give the variance 0 and an infinite precision."""
        encoder = ProductEncoder(1, 1, [1])
        for parameter in encoder.parameters():
            torch.nn.init.zeros_(parameter)
        encoder.layers[-1].bias.data[1] = -1000.0
        belief = encoder.update(encoder.initial_belief(1), torch.zeros(1, 1, 1))
        assert encoder.posterior(belief)[1].item() == pytest.approx(1e-7, rel=1e-3)


def test_given_latent_learns_nothing() -> None:
    encoder = GivenLatent(3, 2, [4])
    belief = (torch.tensor([[1.0, -2.0]]), torch.ones(1))
    mean, variance = encoder.posterior(encoder.update(belief, torch.randn(1, 4, 3)))
    torch.testing.assert_close(mean, belief[0])
    assert (variance == 0).all()
    assert (encoder.divergence(mean, variance) == 0).all()
