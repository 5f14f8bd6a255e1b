"""Baselines of PEARL: soft actor-critic on many tasks, without context or told the task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from meta_rl.tasks import Tasks, count_tasks, take_tasks

from .pearl import PEARL
from .pearl.encoders import Belief
from .pearl.inference import LatentState


class MultiTaskSAC(PEARL):
    """Baseline that is PEARL without context: z is always 0, and all tasks share one policy.

    Data collection, replay, losses and arguments are those of :class:`meta_rl.agents.pearl.PEARL`.
    """

    def _policy_overrides(self) -> dict[str, Any]:
        return {"encoder": "none"}


class OracleSAC(MultiTaskSAC):
    """Baseline that is soft actor-critic with the task as part of its input.

    It can represent PEARL's behaviour after adaptation, but it need not be an upper bound: early in
    training on Walker2dRandParams it earns less than PEARL.

    z is the task, flattened as Gymnasium flattens its space, minus the mean of the training tasks
    and divided by their standard deviation.

    """

    def _freeze_tasks(self) -> None:
        super()._freeze_tasks()
        features = self._flat(self.train_tasks)
        self._mean, self._scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        self._features = torch.from_numpy(self._standardised(self.train_tasks)).to(self.device)

    def _policy_overrides(self) -> dict[str, Any]:
        return {**super()._policy_overrides(), "latent_size": self._features.shape[1]}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_features"]

    def _flat(self, tasks: Tasks) -> np.ndarray:
        each = range(count_tasks(tasks))
        flat = [spaces.flatten(self.task_space, take_tasks(tasks, i)) for i in each]
        return np.stack([np.asarray(part) for part in flat])

    def _standardised(self, tasks: Tasks) -> np.ndarray:
        return ((self._flat(tasks) - self._mean) / self._scale).astype(np.float32)

    def first_belief(self, tasks: Tensor) -> Belief:
        """Returns a belief that holds the tasks themselves."""
        return self._features[tasks], torch.ones(len(tasks), device=self.device)

    def adapt_to_tasks(self, tasks: Tasks) -> LatentState:
        """Returns the state of an agent that is told the tasks ``[N, ...]``."""
        features = self._standardised(tasks)
        num = len(features)
        belief = (features, np.ones(num, dtype=np.float32))
        return LatentState(features, np.zeros(num, dtype=np.int64), belief)
