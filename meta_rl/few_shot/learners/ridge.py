"""Ridge regression on a learned embedding, with a closed-form solution for each task (R2-D2).

Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable closed-form solvers",
ICLR 2019 (arXiv:1805.08136).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from meta_rl.arguments import check_number
from meta_rl.few_shot.learner import Rate
from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory


class Ridge(EmbeddingLearner):
    """Ridge regression from embeddings to one-hot labels, whose penalty and scale are learned.

    The weights of a task are ``Xᵀ (X Xᵀ + λ I)⁻¹ Y``, the paper's equation 5, where ``X`` are the
    embedded support examples with a constant feature: a solve of the size of the support set, made
    for all tasks at once. Logits are the predictions times a learned scale (equation 6, whose
    offset would cancel in the softmax).

    Args:
        network: An embedding, such as ``conv4()``.
        penalty: First value of the penalty λ, which is learned.
        scale: First value of the scale of the logits, which is learned.
        meta_lr: Step size of Adam: a number, or its first and last value.
        meta_batch_size: Number of tasks in an update.
        seed: Seed of all draws (default: from the system's entropy).
        device: Device to learn on: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        penalty: float = 1.0,
        scale: float = 10.0,
        meta_lr: Rate = 1e-3,
        meta_batch_size: int = 1,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        super().__init__(
            network, meta_lr=meta_lr, meta_batch_size=meta_batch_size, seed=seed, device=device
        )
        first = (check_number("penalty", penalty, above=0.0), check_number("scale", scale, above=0))
        self.module["head"] = _Logarithms([math.log(value) for value in first])
        self.module.to(self.device)

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the scaled predictions of each task's ridge regression."""
        penalty, scale = self.module["head"].get_parameter("values").exp().unbind()
        # In double precision, as products of features around 100,000 have no decimals in single.
        keys, targets = _with_constant(memory.keys.double()), memory.one_hot().double()
        gram = keys @ keys.transpose(1, 2)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        dual = torch.linalg.solve(gram + penalty * identity, targets)  # [M, S, W]
        predicted = _with_constant(queries.double()) @ keys.transpose(1, 2) @ dual
        logits = (scale * predicted).to(queries.dtype)
        return logits.masked_fill(targets.sum(dim=1)[:, None] == 0, -torch.inf)


class _Logarithms(nn.Module):
    """Learned logarithms of positive numbers."""

    def __init__(self, first: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(first))


def _with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)
