"""Algorithm distillation: a sequence model that imitates the histories of a learning algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from meta_rl.arguments import check_count, check_kind
from meta_rl.histories import History
from meta_rl.vector.task_batch import task_batch

from .in_context import InContextAgent
from .sequence_policy import SequencePolicy


class AlgorithmDistillation(InContextAgent):
    """Agent that runs algorithm distillation (Laskin et al., 2022).

    A source algorithm learns each of many training tasks from scratch. Its histories show how it
    gets better. A causal sequence model predicts its next action from the history so far:

        ``minimise  - Σ_n Σ_t log p(a_t | s_0, a_0, r_0, ..., s_t)``

    A model that predicts well has to learn as the source does. On a new task it acts by its own
    predictions, and gets better in context, without a gradient step.

    The arguments are those of :class:`.InContextAgent`, and those below.

    Args:
        source_name: Name of the source in :mod:`meta_rl.agents.experts`: ``"psrl"``, ``"search"``,
            ``"thompson"``, ``"ucb1"``, ..., or ``"noised-oracle"``, an expert whose noise falls
            over the history. It is not used where ``histories`` names a data set.
        keep_every: Number of the source's episodes for each that is kept, from the first on: a slow
            source learns ``keep_every`` times as fast in context. 1 keeps all.
        **settings: Further arguments of the base class.

    Example:
        >>> from meta_rl.agents.algorithm_distillation import AlgorithmDistillation
        >>> model = AlgorithmDistillation(env="meta_rl/DarkRoom-v0", seed=0).learn(1_000_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/DarkRoom-v0")
    """

    def __init__(
        self,
        policy: str | type[SequencePolicy] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        source_name: str = "psrl",
        keep_every: int = 1,
        **settings: Any,
    ) -> None:
        self.source_name = source_name
        check_kind("source_name", source_name, str, "the name of a learner")
        self.keep_every = check_count("keep_every", keep_every)
        super().__init__(policy, env, learning_rate, **settings)

    def experts(self) -> list[str]:
        """Returns the name of the source, where there is no data set."""
        return [self.source_name] if self.histories is None else []

    def source(self) -> Any:
        """Makes the source algorithm, with draws of its own."""
        return self.find(self.source_name, self.fresh_rng())

    def source_steps(self) -> int:
        """Returns the number of steps of the source's history."""
        return self.trial_steps() * self.keep_every

    def kept(self, history: History) -> History:
        """Returns every ``keep_every``-th episode of histories.

        Raises:
            ValueError: Episodes are dropped, but do not all have ``horizon`` steps.
        """
        if self.keep_every == 1:
            return history
        horizon = task_batch(self.task_env).horizon
        ends = (np.arange(len(history.dones)) + 1) % horizon == 0
        if not (history.dones == ends[:, None]).all():
            raise ValueError("keep_every: episodes of different lengths cannot be dropped")
        episode = np.arange(len(ends)) // horizon
        steps = np.flatnonzero(episode % self.keep_every == 0)
        parts = {
            name: part if part is None or name == "tasks" else _rows(part, steps)
            for name, part in history._asdict().items()
        }
        return History(**parts)

    def labels(self, history: History) -> Any:
        """Returns the source's own actions."""
        return history.actions


def _rows(part: Any, steps: np.ndarray) -> Any:
    if isinstance(part, dict):
        return {name: _rows(value, steps) for name, value in part.items()}
    return part[steps]
