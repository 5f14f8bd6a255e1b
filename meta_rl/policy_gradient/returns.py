"""The linear baseline of policy gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_rl.rollout import discounted_returns as discounted_returns
from meta_rl.rollout import generalized_advantages as generalized_advantages


def linear_baseline(observations: Tensor, times: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Computes the values of a linear baseline of each task, which is fitted to its returns.

    The fit is a ridge regression on the features ``o, o², t, t², t³, 1`` of Duan et al.,
    "Benchmarking Deep Reinforcement Learning for Continuous Control", 2016, supplement.
    Observations are clipped to [-10, 10], and the time is in hundreds of steps.

    Args:
        observations: Observations of all steps of a task, ``[M, S, O]``.
        times: Number of each step in its episode, ``[M, S]``.
        returns: Discounted returns, ``[M, S]``.
        mask: Whether a step is real, bool ``[M, S]``; other steps are left out of the fit.

    Returns:
        Values ``[M, S]``; 0 at steps that are not real.
    """
    size = len(returns) if returns.is_cuda else 4  # so many tasks' features fit a CPU's caches
    chunks = (part.split(size) for part in (observations, times, returns, mask))
    return torch.cat([_fit_baseline(*chunk) for chunk in zip(*chunks, strict=True)])


def _fit_baseline(observations: Tensor, times: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    size = observations.shape[-1]
    shape = (*returns.shape, 2 * size + 4)
    features = torch.ones(shape, dtype=torch.float64, device=returns.device)
    clipped = features[..., :size].copy_(observations).clamp_(-10.0, 10.0)
    features[..., size:-4] = clipped.square()
    time = times.double()[..., None] / 100.0
    features[..., -4:-1] = torch.cat([time, time**2, time**3], dim=-1)
    targets = returns.double()[..., None]
    if not bool(mask.all()):
        features, targets = features * mask[..., None], targets * mask[..., None]
    weights = _ridge_solution(features.mT @ features, features.mT @ targets)
    return (features @ weights)[..., 0].to(returns.dtype)


def _ridge_solution(gram: Tensor, targets: Tensor) -> Tensor:
    """Solves ``(gram + ridge * I) x = targets`` of each task, with a ridge of 1e-5.

    Where rounding leaves a matrix without a Cholesky factor, its ridge grows tenfold until it has
    one, as in the code of Duan et al. PyTorch's ``lstsq`` is no alternative: its driver ``gelsy``
    takes the order of its pivots from memory that is not initialised (PyTorch 2.13), so that equal
    inputs give other last digits.
    """
    ridge = gram.new_full((len(gram), 1), 1e-5)
    for _ in range(40):
        ridges = torch.diag_embed(ridge.expand(gram.shape[:2]))
        factor, broken = torch.linalg.cholesky_ex(gram + ridges)
        if not bool(broken.any()):
            break
        ridge = torch.where(broken[:, None] > 0, 10.0 * ridge, ridge)
    return torch.cholesky_solve(targets, factor)
