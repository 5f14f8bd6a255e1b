"""Batch normalisation whose second derivatives survive ``vmap``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_rl.tasks import check_count


class BatchNorm(nn.Module):
    """Batch normalisation by the statistics of the batch at hand, always; it keeps none.

    The same function and parameters as ``torch.nn.BatchNorm1d`` and ``2d`` with
    ``track_running_stats=False`` (Ioffe and Szegedy, 2015), written out: second derivatives through
    ``vmap`` of torch's own are silently wrong in torch 2.13, so that ``meta_loss(...).backward()``
    of :mod:`meta_rl.inner_loop` would be.

    Args:
        num_features: C.
        eps: Added to the variance.

    Raises:
        ValueError: A count below one.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(check_count("num_features", num_features)))
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]`` over all but the features."""
        dims = [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        # Not torch.var_mean: its sums are several times as slow as these.
        centred = x - x.mean(dim=dims, keepdim=True)
        variance = centred.square().mean(dim=dims, keepdim=True)
        scale = self.weight.view(shape) * (variance + self.eps).rsqrt()
        return centred * scale + self.bias.view(shape)
