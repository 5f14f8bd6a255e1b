"""Prototypical networks: they predict the class with the nearest mean embedding.

Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", 2017 (arXiv:1703.05175).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory


class ProtoNet(EmbeddingLearner):
    """Prototypical network: a softmax over negative squared distances to prototypes.

    These are equations 1 and 2 of the paper. The paper trains with more classes than it tests with:
    make the data set with ``train_ways=60, train_queries=5``.

    Args:
        network: An embedding, such as ``conv4()``.
        meta_batch_size: Number of tasks in an update.
        **settings: Further arguments of :class:`.FewShotLearner`.
    """

    def __init__(self, network: nn.Module, *, meta_batch_size: int = 1, **settings: Any) -> None:
        super().__init__(network, meta_batch_size=meta_batch_size, **settings)

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns negative squared distances to the prototypes."""
        centre = memory.keys.detach().mean(dim=1, keepdim=True)  # for the precision of the means
        means, counts = prototypes(memory._replace(keys=memory.keys - centre))
        distances = squared_distances(queries - centre, means)
        return (-distances).masked_fill(counts[:, None, :] == 0, -torch.inf)


def prototypes(memory: Memory) -> tuple[Tensor, Tensor]:
    """Returns the mean embedding of each class ``[M, W, D]``, and its size ``[M, W]``."""
    member = memory.one_hot()
    counts = member.sum(dim=1)
    sums = member.transpose(1, 2) @ memory.keys
    return sums / counts.clamp(min=1)[..., None], counts


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Returns ``|a_i - b_j|²``: ``[M, I, D]`` and ``[M, J, D]`` give ``[M, I, J]``.

    It sums squared differences, since ``|a|² + |b|² - 2 a · b`` cancels for large features.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
