"""Matching networks: they average the labels of the support set, weighted by attention.

Vinyals et al., "Matching networks for one shot learning", 2016 (arXiv:1606.04080).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_choice, check_count, check_flag, check_number
from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory
from meta_rl.few_shot.learners.protonet import squared_distances

METRICS = ("cosine", "euclidean")
TINY = 1e-12


class MatchingNet(EmbeddingLearner):
    """Matching network: ``P(y | x, S) = Σ a(x, x_i) y_i`` with a softmax as attention a.

    This is equation 1 of the paper.

    Args:
        network: An embedding, such as ``conv4()``.
        metric: ``"cosine"``, as in the paper, or ``"euclidean"`` (negative squared distance).
        scale: First value of the learned factor on similarities (default: 10 for cosines, 1
            otherwise). The paper has no factor, but cosines lie in [-1, 1], where a softmax over
            few examples stays nearly flat.
        fce: Whether embeddings use the full context: a bidirectional LSTM embeds the support set
            as a whole, and an LSTM that attends to it embeds queries (appendix A of the paper).
        fce_steps: Number of steps of the attention LSTM.
        meta_batch_size: Number of tasks in an update.
        **settings: Further arguments of :class:`.FewShotLearner`.

    Raises:
        ValueError: The metric is unknown, the scale is not positive, or ``fce`` is given with a
            network that has no attribute ``num_features``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        metric: str = "cosine",
        scale: float | None = None,
        fce: bool = False,
        fce_steps: int = 5,
        meta_batch_size: int = 8,
        **settings: Any,
    ) -> None:
        super().__init__(network, meta_batch_size=meta_batch_size, **settings)
        self.metric = check_choice("metric", metric, METRICS)
        usual = 10.0 if metric == "cosine" else 1.0
        first = usual if scale is None else check_number("scale", scale, above=0.0)
        self.module["scale"] = _Scale(first).to(self.device, self.dtype)
        self.fce = check_flag("fce", fce)
        fce_steps = check_count("fce_steps", fce_steps)
        if fce:
            features = getattr(network, "num_features", None)
            if features is None:
                raise ValueError("fce=True needs a network with an attribute num_features")
            with torch.random.fork_rng(devices=[]):
                context = FullContext(features, fce_steps)
            context.draw_weights(torch.Generator().manual_seed(self.generator.initial_seed()))
            self.module["context"] = context.to(self.device, self.dtype)

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the logarithm of the attention that each class gets."""
        keys = memory.keys
        if self.fce:
            queries, keys = self.module["context"](queries, keys)
        if self.metric == "cosine":
            queries, keys = (functional.normalize(part, dim=-1) for part in (queries, keys))
            similarity = queries @ keys.transpose(1, 2)
        else:
            similarity = -squared_distances(queries, keys)
        attention = torch.softmax(self.module["scale"]() * similarity, dim=-1)
        return (attention @ memory.one_hot()).clamp(min=TINY).log()


class _Scale(nn.Module):
    """A positive number that is learned as its logarithm."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor(first).log())

    def forward(self) -> Tensor:
        return self.logarithm.exp()


class FullContext(nn.Module):
    """A module that embeds in the context of the whole support set (appendix A of the paper).

    A bidirectional LSTM over the support set, in its order, gives ``g(x_i) = h→_i + h←_i +
    g'(x_i)``. An LSTM with a skip connection gives ``f(x)``: it sees ``f'(x)`` at every step, and
    adds to its hidden state what it reads from the support set by attention.

    Args:
        features: Number of features of the embeddings, D.
        num_steps: Number of steps of the attention LSTM.
    """

    def __init__(self, features: int, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.both_ways = nn.LSTM(features, features, batch_first=True, bidirectional=True)
        self.attend = nn.LSTMCell(features, features)

    def draw_weights(self, generator: torch.Generator) -> None:
        """Draws weights uniformly within ``±1/sqrt(D)``, as PyTorch does."""
        bound = self.attend.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds queries ``[M, Q, D]`` and the support set ``[M, S, D]`` in context."""
        forward, backward = self.both_ways(keys)[0].chunk(2, dim=-1)
        keys = forward + backward + keys
        flat = queries.flatten(0, 1)
        hidden, cell = flat, torch.zeros_like(flat)
        for _ in range(self.num_steps):
            attention = hidden.view_as(queries) @ keys.transpose(1, 2)
            read = (torch.softmax(attention, dim=-1) @ keys).flatten(0, 1)
            # The paper feeds back the concatenation [h, r]; a sum keeps the size of the cell.
            new, cell = self.attend(flat, (hidden + read, cell))
            hidden = new + flat
        return hidden.view_as(queries), keys
