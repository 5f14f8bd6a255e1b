"""Batch normalisation with correct second derivatives under ``vmap``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_rl.arguments import check_count


class BatchNorm(nn.Module):
    """A batch-normalisation layer that always uses the statistics of the current batch.

    It computes the same function, with the same parameters, as ``torch.nn.BatchNorm1d`` and
    ``BatchNorm2d`` with ``track_running_stats=False`` (Ioffe and Szegedy, 2015), from elementary
    operations. In torch 2.13, second derivatives through ``vmap`` of torch's own layers are wrong
    without any error, and so would be ``meta_loss(...).backward()`` of :mod:`meta_rl.inner_loop`.

    Args:
        num_features: Number of features, C.
        eps: Constant that is added to the variance (default: 1e-5).

    Raises:
        ValueError: ``num_features`` is below one.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(check_count("num_features", num_features)))
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``[N, C, ...]`` over all axes but that of the features."""
        dims = [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        # torch.var_mean would be several times as slow.
        centred = x - x.mean(dim=dims, keepdim=True)
        variance = centred.square().mean(dim=dims, keepdim=True)
        scale = self.weight.view(shape) * (variance + self.eps).rsqrt()
        return centred * scale + self.bias.view(shape)
