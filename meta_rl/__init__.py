"""meta_rl: task distributions, meta-learning agents, and evaluation of fast adaptation.

Importing registers the environments (``meta_rl/...-v0``) and loads nothing heavy: the names below
are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from meta_rl.moved import keep_old_names
from meta_rl.registration import register_all, register_task_env

if TYPE_CHECKING:
    from meta_rl.algorithm import MetaAlgorithm as MetaAlgorithm
    from meta_rl.checks import check_task_env as check_task_env
    from meta_rl.definition import TaskFuncEnv as TaskFuncEnv
    from meta_rl.evaluation import evaluate_adaptation as evaluate_adaptation
    from meta_rl.evaluation_result import EvaluationResult as EvaluationResult
    from meta_rl.making import make_task_vec as make_task_vec
    from meta_rl.rollout import Rollout as Rollout
    from meta_rl.sb3 import sb3_env as sb3_env
    from meta_rl.task_env import TaskEnv as TaskEnv
    from meta_rl.task_env import TaskVectorEnv as TaskVectorEnv
    from meta_rl.tasks import FiniteTasks as FiniteTasks
    from meta_rl.tasks import SampledTasks as SampledTasks
    from meta_rl.tasks import TaskDistribution as TaskDistribution
    from meta_rl.tasks import TaskSplit as TaskSplit
    from meta_rl.tasks import UniformTasks as UniformTasks
    from meta_rl.window import frame_grid as frame_grid

__version__ = "0.1.0"

_HOME = {
    "EvaluationResult": "evaluation_result",
    "FiniteTasks": "tasks",
    "MetaAlgorithm": "algorithm",
    "Rollout": "rollout",
    "SampledTasks": "tasks",
    "TaskDistribution": "tasks",
    "TaskEnv": "task_env",
    "TaskFuncEnv": "definition",
    "TaskSplit": "tasks",
    "TaskVectorEnv": "task_env",
    "UniformTasks": "tasks",
    "check_task_env": "checks",
    "evaluate_adaptation": "evaluation",
    "frame_grid": "window",
    "make_task_vec": "making",
    "sb3_env": "sb3",
}

__all__ = ["__version__", "register_task_env", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


register_all()
keep_old_names()
