"""Batch normalisation: with correct second derivatives under ``vmap``, or over several ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meta_rl.arguments import check_count
from meta_rl.compute import ranks


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


class _OverRanks(nn.modules.batchnorm._BatchNorm):
    """Ordinary batch normalisation, whose batch in training is that of all ranks together.

    ``torch.nn.SyncBatchNorm`` does the same on GPUs alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``[N, C, ...]`` over all axes but that of the features."""
        if not (self.training and ranks.together()):
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = (1, -1, *[1] * (input.dim() - 2))
        mean = ranks.differentiable_mean(input.mean(dim=dims))
        centred = input - mean.view(shape)
        variance = ranks.differentiable_mean(centred.square().mean(dim=dims))
        self._update_running(mean.detach(), variance.detach(), input)
        outputs = centred * (variance + self.eps).rsqrt().view(shape)
        return outputs * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, input: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("batch normalisation over ranks needs running statistics and momentum")
        num = input.numel() // input.shape[1] * ranks.size()
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num / (num - 1)), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class RunningBatchNorm1d(_OverRanks, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` for any number of ranks."""


class RunningBatchNorm2d(_OverRanks, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` for any number of ranks."""
