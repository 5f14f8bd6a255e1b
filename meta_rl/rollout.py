"""Rollouts: time-major experience of many sub-environments, and how it is collected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Rollout:
    """Experience of ``N`` sub-environments over ``T`` steps, time-major.

    ``N`` is the leading task axis of the learner's state: one column per sub-environment.

    Attributes:
        observations: What the agent saw before each action, ``[T, N, ...]``.
        actions: ``[T, N, ...]``.
        rewards: ``[T, N]``, float.
        terminated: ``[T, N]``, bool: the episode ended in a terminal state at this step.
        truncated: ``[T, N]``, bool: the episode was cut by its time limit at this step.
        next_observations: The true successors, ``[T, N, ...]``: where an episode ended, its last
            observation and not the first of the next episode.
        mask: ``[T, N]``, bool: which steps are real; ``None`` where all are (no padding).
        extras: More arrays ``[T, N, ...]`` by name (log-probabilities, values, ...).
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_observations: np.ndarray
    mask: np.ndarray | None = None
    extras: dict[str, Any] = field(default_factory=dict)
