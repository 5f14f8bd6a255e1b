"""A probe of MAML-TRPO: tasks that nothing but adaptation can find, and agents trained on them.

Tests and ``benchmarks/maml_probe.py`` share it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from meta_rl import TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.maml_trpo import MAMLTRPO

from .probe_families import SIGNS, HiddenAction


class HiddenSide(HiddenAction):
    """Action 1 pays 1 for tasks above 0, action 0 for the others; there are 64 held-out tasks.

    The best is 1/2 before adaptation, and 1 after it.
    """

    tasks = SIGNS

    def earned(self, steps: np.ndarray, action: Any, params: Any) -> Any:
        return action == (params[:, 0] > 0)


class StopWhereLearned(BaseCallback):
    """Ends a training once the last five meta-batches earned 0.97 after adaptation."""

    def __init__(self) -> None:
        super().__init__()
        self.earned: list[float] = []

    def _on_rollout_end(self) -> None:
        self.earned.append(self.logger.name_to_value["rollout/return_after_1_steps"])

    def _on_step(self) -> bool:
        return len(self.earned) < 5 or float(np.mean(self.earned[-5:])) < 0.97


def probe_agent(seed: int, **changes: Any) -> MAMLTRPO:
    """An agent with 16 tasks at a time, and 20 episodes of each."""
    settings = {
        "envs_per_task": 20,
        "inner_lr": 0.1,
        "max_kl": 0.05,
        "curvature_fraction": 1.0,
        "cg_iterations": 5,
        "policy_kwargs": {"hidden_sizes": (16,), "activation": "tanh"},
    }
    return MAMLTRPO(env=TaskVectorEnv(HiddenSide, 16 * 20), seed=seed, **settings | changes)


def trained(model: MAMLTRPO, iterations: int, callback: BaseCallback | None = None) -> MAMLTRPO:
    """The same agent, trained for this many more iterations."""
    steps = iterations * model.n_envs * (model.num_inner_steps + 1)
    return model.learn(steps, callback, log_interval=None, reset_num_timesteps=False)


def earned(model: MAMLTRPO, seed: int) -> float:
    """The mean reward of the held-out tasks after one step of adaptation."""
    tests = TaskVectorEnv(HiddenSide, 64 * 20)
    return float(evaluate_adaptation(model, tests, 64, 2, seed=seed).values[:, 1].mean())
