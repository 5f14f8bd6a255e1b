"""Encoders that infer a task from transitions: a Gaussian over a latent variable."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Belief: TypeAlias = tuple[Tensor, ...]
"""The evidence on N tasks, every leaf ``[N, ...]``; the last one counts their transitions."""

LEAST_VARIANCE = 1e-7


class ContextEncoder(nn.Module, ABC):
    """Turns transitions into a Gaussian posterior over the latent task variable z.

    The prior is the unit normal. Letters: N tasks, C transitions, D numbers in each, L of z.

    Args:
        input_size: D.
        latent_size: L.
    """

    def __init__(self, input_size: int, latent_size: int) -> None:
        super().__init__()
        self.input_size, self.latent_size = input_size, latent_size

    @abstractmethod
    def initial_belief(self, num: int) -> Belief:
        """The belief about ``num`` tasks before any transition."""

    @abstractmethod
    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Learn from more transitions.

        Args:
            belief: The evidence on N tasks so far.
            context: ``[N, C, D]``.
            mask: Bool ``[N, C]``, which of them are real; all by default.
        """

    @abstractmethod
    def posterior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Mean and variance of z, ``[N, L]`` each; those of the prior before any transition."""

    def prior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """Mean and variance of z while nothing is to be used of the context, ``[N, L]`` each."""
        zeros = belief[0].new_zeros(len(belief[0]), self.latent_size)
        return zeros, torch.ones_like(zeros)

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Divergence of the posterior from the prior, which training keeps small, ``[N]``."""
        return kl_to_prior(mean, variance)


class ProductEncoder(ContextEncoder):
    """Permutation-invariant: the product of one Gaussian factor per transition.

    ``q(z | c) ∝ Π_n N(z; f(c_n))`` (Rakelly et al., 2019, equation 1, and their code, whose product
    leaves out the prior). A belief is the sums of the factors' natural parameters, so that it can
    go on with any number of transitions, in any order: ``(precision [N, L], precision-weighted mean
    [N, L], count [N])``.

    Args:
        input_size: D.
        latent_size: L.
        hidden_sizes: Sizes of the ReLU layers of f.
    """

    def __init__(self, input_size: int, latent_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(input_size, latent_size)
        self.layers = mlp([input_size, *hidden_sizes, 2 * latent_size])

    def initial_belief(self, num: int) -> Belief:
        """Zeros."""
        zeros = next(self.parameters()).new_zeros(num, self.latent_size)
        return zeros, zeros, zeros.new_zeros(num)

    def factors(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every transition's factor, ``[N, C, L]`` each."""
        mean, raw = self.layers(context).chunk(2, dim=-1)
        return mean, nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)

    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Add the factors' natural parameters."""
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
        """Mean and variance by the summed natural parameters."""
        precision, weighted, count = belief
        known = count[:, None] > 0
        variance = torch.where(known, precision, 1.0).reciprocal()
        return weighted * variance, variance


class RecurrentEncoder(ContextEncoder):
    """A GRU over the transitions in their order (an ablation in Rakelly et al., 2019, section 6.3).

    A belief is ``(memory [N, H], count [N])``.

    Args:
        input_size: D.
        latent_size: L.
        hidden_sizes: Sizes of the ReLU layers before the GRU; the last is also its memory's size.
    """

    def __init__(self, input_size: int, latent_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(input_size, latent_size)
        self.memory_size = hidden_sizes[-1]
        self.embedding = nn.Sequential(mlp([input_size, *hidden_sizes]), nn.ReLU(inplace=True))
        self.rnn = nn.GRU(hidden_sizes[-1], self.memory_size, batch_first=True)
        self.head = nn.Linear(self.memory_size, 2 * latent_size)

    def initial_belief(self, num: int) -> Belief:
        """Zeros."""
        zeros = self.head.weight.new_zeros(num, self.memory_size)
        return zeros, zeros.new_zeros(num)

    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """Read the transitions in their order."""
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
        """Mean and variance that the head reads from the memory."""
        memory, count = belief
        mean, raw = self.head(memory).chunk(2, dim=-1)
        known = count[:, None] > 0
        variance = nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)
        return torch.where(known, mean, 0.0), torch.where(known, variance, 1.0)


class GivenLatent(ContextEncoder):
    """No inference: z is what the belief says from the start, by default 0. For baselines.

    A belief is ``(z [N, L], count [N])``; transitions change nothing.

    Args:
        input_size: D.
        latent_size: L.
        hidden_sizes: Not used.
    """

    def __init__(self, input_size: int, latent_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__(input_size, latent_size)
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()))  # knows the device

    def initial_belief(self, num: int) -> Belief:
        """Zeros."""
        return self.zero.new_zeros(num, self.latent_size), self.zero.new_zeros(num)

    def update(self, belief: Belief, context: Tensor, mask: Tensor | None = None) -> Belief:
        """The identity."""
        return belief

    def posterior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """The given z, with certainty."""
        return belief[0], torch.zeros_like(belief[0])

    def prior(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """The given z, too."""
        return self.posterior(belief)

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Zeros: nothing is inferred."""
        return mean.new_zeros(len(mean))


ENCODERS: dict[str, Callable[[int, int, Sequence[int]], ContextEncoder]] = {
    "product": ProductEncoder,
    "recurrent": RecurrentEncoder,
    "none": GivenLatent,
}
"""Encoders by their names."""


def kl_to_prior(mean: Tensor, variance: Tensor) -> Tensor:
    """``KL(N(mean, variance) || N(0, 1))`` in nats, summed over the last axis: ``[N]``."""
    return 0.5 * (mean.square() + variance - variance.log() - 1.0).sum(dim=-1)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
