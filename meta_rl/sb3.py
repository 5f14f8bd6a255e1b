"""Task environments for Stable-Baselines3."""

from __future__ import annotations

from typing import Any

from meta_rl.arguments import checked
from meta_rl.make import make_task_vec
from meta_rl.vector.sb3_view import TaskVecEnvView as TaskVecEnvView
from meta_rl.wrappers.append_task import AppendTask
from meta_rl.wrappers.previous_step import AppendPreviousStep


@checked
def sb3_env(
    env_id: str,
    num_envs: int = 1,
    *,
    resample_tasks: bool = True,
    previous_step: bool = False,
    append_task: bool = False,
    **kwargs: Any,
) -> TaskVecEnvView:
    """Makes task environments for Stable-Baselines3's own algorithms, callbacks and evaluation.

    Args:
        env_id: Environment id, with or without ``meta_rl/`` and the version.
        num_envs: Number of sub-environments, each on a task of its own (default: 1).
        resample_tasks: Whether a new task is drawn after every trial (default: True), or only at
            seeded resets.
        previous_step: Whether the previous action, reward and done flag are appended to the
            observation, as for RL² (:class:`.AppendPreviousStep`; default:
            False).
        append_task: Whether the task is appended to the observation, for an oracle
            (:class:`meta_rl.wrappers.append_task.AppendTask`; default: False).
        **kwargs: Arguments of the family and of :class:`meta_rl.TaskVectorEnv` (``split=...``).

    Raises:
        ValueError: The id is unknown, or a count is below one.
    """
    env = make_task_vec(env_id, num_envs, resample_tasks=resample_tasks, **kwargs)
    if append_task:
        env = AppendTask(env)
    return TaskVecEnvView(AppendPreviousStep(env) if previous_step else env)
