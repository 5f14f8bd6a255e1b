"""Encoders that infer a Gaussian over a latent task variable from transitions."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Belief: TypeAlias = tuple[Tensor, ...]
"""The evidence on N tasks, with leaves ``[N, ...]``; the last leaf counts the transitions."""

LEAST_VARIANCE = 1e-7


class ContextEncoder(nn.Module, ABC):
    """Base class of encoders from transitions to a Gaussian posterior over the latent z.

    The prior is the unit normal. Letters: N tasks, C transitions, D numbers in each, L of z.

    Args:
        input_size: Number of values in a transition, D.
        latent_size: Number of values in z, L.
    """

    def __init__(self, input_size: int, latent_size: int) -> None:
        super().__init__()
        self.input_size, self.latent_size = input_size, latent_size

    @abstractmethod
    def initial_belief(self, num: int) -> Belief:
        """Returns the belief about ``num`` tasks before any transition."""

    @abstractmethod
    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Returns the belief after more transitions.

        Args:
            belief: Evidence on N tasks so far.
            context: New transitions, ``[N, C, D]``.
            mask: Transitions that are real, bool ``[N, C]`` (default: all).
        """

    @abstractmethod
    def posterior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Returns mean and variance of z, ``[N, L]`` each; without transitions, the prior's."""

    def prior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Returns mean and variance of z for a task of which nothing is known, ``[N, L]`` each."""
        zeros = belief[0].new_zeros(len(belief[0]), self.latent_size)
        return zeros, torch.ones_like(zeros)

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Returns the divergence of the posterior from the prior, which training keeps small."""
        return kl_to_prior(mean, variance)


class ProductEncoder(ContextEncoder):
    """Permutation-invariant encoder: the product of one Gaussian factor per transition.

    ``q(z | c) ∝ Π_n N(z; f(c_n))`` (Rakelly et al., 2019, equation 1, and their code, whose product
    leaves out the prior). A belief holds sums of the factors' natural parameters, ``(precision [N,
    L], precision-weighted mean [N, L], count [N])``, so that it can be updated with any number of
    transitions, in any order.

    Args:
        input_size: Number of values in a transition, D.
        latent_size: Number of values in z, L.
        hidden_sizes: Sizes of the ReLU layers of f.
    """

    def __init__(self, input_size: int, latent_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(input_size, latent_size)
        self.layers = mlp([input_size, *hidden_sizes, 2 * latent_size])

    def initial_belief(self, num: int) -> Belief:
        """Returns zeros."""
        zeros = next(self.parameters()).new_zeros(num, self.latent_size)
        return zeros, zeros, zeros.new_zeros(num)

    def factors(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and variance of every transition's factor, ``[N, C, L]`` each."""
        mean, raw = self.layers(context).chunk(2, dim=-1)
        return mean, nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)

    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Adds the factors' natural parameters."""
        mean, variance = self.factors(context)
        precision = variance.reciprocal()
        count = belief[2] + context.shape[1]
        if mask is not None:
            precision = torch.where(mask[..., None], precision, 0.0)
            mean = torch.where(mask[..., None], mean, 0.0)
            count = belief[2] + mask.sum(dim=1)
        weighted = (precision * mean).sum(dim=1)
        return belief[0] + precision.sum(dim=1), belief[1] + weighted, count

    def posterior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Returns mean and variance from the summed natural parameters."""
        precision, weighted, count = belief
        known = count[:, None] > 0
        variance = torch.where(known, precision, 1.0).reciprocal()
        return weighted * variance, variance


class RecurrentEncoder(ContextEncoder):
    """Encoder that is a GRU over the transitions in order (Rakelly et al., 2019, section 6.3).

    A belief is ``(memory [N, H], count [N])``.

    Args:
        input_size: Number of values in a transition, D.
        latent_size: Number of values in z, L.
        hidden_sizes: Sizes of the ReLU layers before the GRU; the last is also its memory's size.
    """

    def __init__(self, input_size: int, latent_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(input_size, latent_size)
        self.memory_size = hidden_sizes[-1]
        self.embedding = nn.Sequential(mlp([input_size, *hidden_sizes]), nn.ReLU(inplace=True))
        self.rnn = nn.GRU(hidden_sizes[-1], self.memory_size, batch_first=True)
        self.head = nn.Linear(self.memory_size, 2 * latent_size)

    def initial_belief(self, num: int) -> Belief:
        """Returns zeros."""
        zeros = self.head.weight.new_zeros(num, self.memory_size)
        return zeros, zeros.new_zeros(num)

    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Reads the transitions in their order."""
        memory, count = belief
        if mask is None:
            return self._read(context, memory)[:, -1], count + context.shape[1]
        real = mask.sum(dim=1)
        order = (~mask).to(torch.int8).argsort(dim=1, stable=True)  # the real ones first
        outputs = self._read(context.take_along_dim(order[..., None], dim=1), memory)
        last = (real - 1).clamp(min=0)[:, None, None]
        latest = outputs.take_along_dim(last, dim=1)[:, 0]
        return torch.where(real[:, None] > 0, latest, memory), count + real

    def _read(self, context: Tensor, memory: Tensor) -> Tensor:
        return self.rnn(self.embedding(context), memory[None].contiguous())[0]

    def posterior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Returns mean and variance that the head reads from the memory."""
        memory, count = belief
        mean, raw = self.head(memory).chunk(2, dim=-1)
        known = count[:, None] > 0
        variance = nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)
        return torch.where(known, mean, 0.0), torch.where(known, variance, 1.0)


class GivenLatent(ContextEncoder):
    """Encoder of baselines without inference: z is that of the first belief, by default 0.

    A belief is ``(z [N, L], count [N])``; transitions do not change it.

    Args:
        input_size: Number of values in a transition, D.
        latent_size: Number of values in z, L.
        hidden_sizes: Not used.
    """

    def __init__(self, input_size: int, latent_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(input_size, latent_size)
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()))  # holds the device

    def initial_belief(self, num: int) -> Belief:
        """Returns zeros."""
        return self.zero.new_zeros(num, self.latent_size), self.zero.new_zeros(num)

    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Returns the belief as it is."""
        return belief

    def posterior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Returns the given z, with variance 0."""
        return belief[0], torch.zeros_like(belief[0])

    def prior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Returns the given z, with variance 0."""
        return self.posterior(belief)

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Returns zeros: nothing is inferred."""
        return mean.new_zeros(len(mean))


ENCODERS: dict[str, Callable[[int, int, Sequence[int]], ContextEncoder]] = {
    "product": ProductEncoder,
    "recurrent": RecurrentEncoder,
    "none": GivenLatent,
}
"""The encoders by their names."""


def kl_to_prior(mean: Tensor, variance: Tensor) -> Tensor:
    """Returns ``KL(N(mean, variance) || N(0, 1))`` in nats, summed over the last axis, ``[N]``."""
    return 0.5 * (mean.square() + variance - variance.log() - 1.0).sum(dim=-1)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Makes linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
