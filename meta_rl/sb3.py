"""Task environments for Stable-Baselines3."""

from __future__ import annotations

from typing import Any

from meta_rl.append_task import AppendTask
from meta_rl.making import make_task_vec
from meta_rl.previous_step import AppendPreviousStep
from meta_rl.vector.sb3_view import TaskVecEnvView as TaskVecEnvView


def sb3_env(
    env_id: str,
    num_envs: int = 1,
    *,
    resample_tasks: bool = True,
    previous_step: bool = False,
    append_task: bool = False,
    **kwargs: Any,
) -> TaskVecEnvView:
    """Task environments for Stable-Baselines3's own algorithms, callbacks and evaluation.

    Args:
        env_id: As for :func:`meta_rl.make_task_vec`.
        num_envs: Sub-environments, each on a task of its own.
        resample_tasks: Draw a new task after every trial; otherwise only at seeded resets.
        previous_step: Append the previous action, reward and done flag to the observation, as RL²
            needs it (:class:`meta_rl.previous_step.AppendPreviousStep`).
        append_task: Append the task, for an oracle (:class:`meta_rl.append_task.AppendTask`).
        **kwargs: For the family and for :class:`meta_rl.TaskVectorEnv` (``split=...``).

    Raises:
        ValueError: Unknown id, or a count below one.
    """
    env = make_task_vec(env_id, num_envs, resample_tasks=resample_tasks, **kwargs)
    if append_task:
        env = AppendTask(env)
    return TaskVecEnvView(AppendPreviousStep(env) if previous_step else env)
