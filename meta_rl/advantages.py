"""Advantage estimates over time-major rollouts."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


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
    deltas = rewards + discount * next_values - values
    advantages = deltas + 0.0
    for t in range(len(deltas) - 2, -1, -1):
        carried = discount * gae_lambda * advantages[t + 1]
        advantages[t] = deltas[t] + carried * ~ends[t]
    return advantages
