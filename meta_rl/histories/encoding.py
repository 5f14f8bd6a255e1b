"""A batch of histories in memory, and the flat observations that agents with memory see.

Shapes: N histories, T steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.tasks import Tasks, take_tasks
from meta_rl.wrappers.previous_step import FlatEncoder


class History(NamedTuple):
    """A batch of histories, each on one task, time-major.

    Attributes:
        tasks: Tasks, with a leading axis of N.
        observations: Observations of the environment before each action, ``[T, N, ...]``.
        actions: Actions, ``[T, N, ...]``.
        rewards: Rewards, ``[T, N]``.
        dones: Whether the step ended an episode, bool ``[T, N]``.
        labels: Actions of an expert in place of those that were taken, ``[T, N, ...]``; ``None``
            where no expert was asked.
    """

    tasks: Tasks
    observations: Any
    actions: Any
    rewards: np.ndarray
    dones: np.ndarray
    labels: Any = None


class HistoryEncoder:
    """An encoder of histories, equal to what :class:`.AppendPreviousStep` returns while acting.

    Args:
        observation_space: Space of a single observation of the environment.
        action_space: Space of a single action.

    Raises:
        ValueError: A space cannot be flattened.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self._encode_obs = FlatEncoder(observation_space)
        self._encode_action = FlatEncoder(action_space)
        self.size = self._encode_obs.size + self._encode_action.size + 3

    def __call__(self, history: History) -> np.ndarray:
        """Returns flat observations, float32 ``[T, N, O]``; a trial begins at the first step."""
        num_steps, num = history.rewards.shape
        flat = np.zeros((num_steps, num, self.size), dtype=np.float32)
        seen = self._encode_obs.size
        for t in range(num_steps):
            self._encode_obs.write(take_tasks(history.observations, t), flat[t, :, :seen])
            if t > 0:
                self._encode_action.write(history.actions[t - 1], flat[t, :, seen:-3])
        flat[1:, :, -3] = history.rewards[:-1]
        flat[1:, :, -2] = history.dones[:-1]
        flat[0, :, -1] = 1.0
        return flat
