"""Returns, advantages and the linear baseline, over time-major rollouts."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def discounted_returns(rewards: Array, ends: Array, discount: float) -> Array:
    """``G_t = r_t + discount * G_{t+1}``, cut where a sequence ends.

    Args:
        rewards: ``[T, N]``.
        ends: Bool ``[T, N]``: after this step another sequence begins; nothing flows back over it.
        discount: In ``[0, 1]``.

    Returns:
        ``[T, N]``, of the kind that was given.
    """
    returns = rewards + 0.0
    for t in range(len(returns) - 2, -1, -1):
        returns[t] = rewards[t] + discount * returns[t + 1] * ~ends[t]
    return returns


def generalized_advantages(
    rewards: Array,
    values: Array,
    next_values: Array,
    ends: Array,
    discount: float,
    gae_lambda: float,
) -> Array:
    """Generalized advantage estimation (Schulman et al., 2016, equations 11 to 16).

    ``delta_t = r_t + discount * V(s_{t+1}) - V(s_t)`` and
    ``A_t = delta_t + discount * gae_lambda * A_{t+1}``, cut where a sequence ends.

    Args:
        rewards: ``[T, N]``.
        values: ``V(s_t)``, ``[T, N]``.
        next_values: ``V(s_{t+1})``, ``[T, N]``: the caller puts 0 where nothing follows and the
            value of the true successor where an episode was truncated.
        ends: Bool ``[T, N]``: after this step another sequence begins; nothing flows back over it.
        discount: In ``[0, 1]``.
        gae_lambda: In ``[0, 1]``: 0 gives one-step errors, 1 the whole return less the value.

    Returns:
        ``[T, N]``, of the kind that was given.
    """
    return discounted_returns(
        rewards + discount * next_values - values, ends, discount * gae_lambda
    )


def linear_baseline(observations: Tensor, times: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Values of each task's own linear baseline, fitted to the returns that it is given.

    Ridge regression on the features ``o, o², t, t², t³, 1`` of Duan et al., "Benchmarking Deep
    Reinforcement Learning for Continuous Control", 2016, supplement, with observations clipped to
    [-10, 10] and the time in hundreds of steps. One solve for all tasks.

    Args:
        observations: ``[M, S, O]``: all steps of a task.
        times: The number of the step in its episode, ``[M, S]``.
        returns: Discounted, ``[M, S]``.
        mask: Bool ``[M, S]``: which steps are real; the others are not fitted.

    Returns:
        ``[M, S]``, like the returns; 0 where the mask is.
    """
    size = len(returns) if returns.is_cuda else 4  # so that a CPU's caches hold the features
    chunks = (part.split(size) for part in (observations, times, returns, mask))
    return torch.cat([_fitted(*chunk) for chunk in zip(*chunks, strict=True)])


def _fitted(observations: Tensor, times: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
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
    gram = features.mT @ features
    ridge = 1e-5 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.lstsq(gram + ridge, features.mT @ targets, driver=_driver(gram)).solution
    return (features @ weights)[..., 0].to(returns.dtype)


def _driver(gram: Tensor) -> str:
    """A solver that a singular system (a constant observation) does not stop."""
    return "gels" if gram.is_cuda else "gelsy"
