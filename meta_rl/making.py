"""Functions that make batches of task environments from ids or from environments."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv

from meta_rl.registration import NAMESPACE, PYTHON_ENVIRONMENTS, find_env_id
from meta_rl.task_batch import task_batch
from meta_rl.tasks import check_count

ADAPTER = "meta_rl.adapter:TaskVectorAdapter"
"""The batch for environments without a native one, as a name that is imported when needed."""


def make_task_vec(env_id: str, num_tasks: int, envs_per_task: int = 1, **kwargs: Any) -> VectorEnv:
    """Makes a batch of ``num_tasks * envs_per_task`` sub-environments, one equal block per task.

    Args:
        env_id: Environment id, with or without ``meta_rl/`` and the version. It is the id of a
            family of this library, or of any registered environment that has a ``task_split`` and
            accepts ``reset(options={"task": ...})``.
        num_tasks: Number of tasks at a time, M.
        envs_per_task: Number of sub-environments of each task, B (default: 1).
        **kwargs: Arguments of the family and of :class:`meta_rl.TaskVectorEnv`; for a plain Python
            environment, of :class:`meta_rl.adapter.TaskVectorAdapter`.

    Raises:
        ValueError: The id is unknown, or a count is below one.
    """
    num_envs = check_count("num_tasks", num_tasks) * check_count("envs_per_task", envs_per_task)
    env_id = find_env_id(env_id)
    module, _, name = env_id.rpartition(":")
    if module:
        __import__(module)
    if gym.spec(name).vector_entry_point is not None:
        env = gym.make_vec(name, num_envs=num_envs, **kwargs)
        task_batch(env)  # refuses a batch without tasks
        return env
    return resolve_name(ADAPTER).from_id(name, num_envs, **kwargs)


def is_python(env_id: str) -> bool:
    """Tells whether sub-environments are Python objects, which are much slower to step."""
    return find_env_id(env_id).removeprefix(NAMESPACE) in PYTHON_ENVIRONMENTS


def env_constructor(env_id: str) -> Callable[..., Any] | None:
    """Returns the callable that takes an environment's arguments; ``None`` if it is unknown."""
    definition = gym.spec(env_id).kwargs.get("definition") if env_id in gym.registry else None
    if is_python(env_id):
        definition = gym.spec(env_id).entry_point
    if isinstance(definition, str):
        definition = load_env_creator(definition)
    return definition if callable(definition) else None


def as_task_vec(env: Any) -> VectorEnv:
    """Returns a batch of task environments: the given one, or a batch of one environment.

    Args:
        env: Batch with ``task_split`` and ``set_tasks``; or one environment that has a
            ``task_split`` and accepts ``reset(options={"task": ...})``.

    Raises:
        TypeError: This is no environment.
        ValueError: The environment has no tasks.
    """
    if isinstance(env, VectorEnv):
        task_batch(env)  # refuses a batch without tasks
        return env
    if not isinstance(env, gym.Env) or not hasattr(env.unwrapped, "task_split"):
        error = ValueError if isinstance(env, gym.Env) else TypeError
        raise error(
            f"expected an environment id or task environments with a task_split, got {env!r}"
        )
    return resolve_name(ADAPTER)([lambda: env])


def family_name(env: VectorEnv) -> str:
    """Returns the name of a batch's family: ``module:Class`` of its definition, or its id."""
    definition = getattr(env.unwrapped, "definition", None)
    if definition is not None:
        return f"{type(definition).__module__}:{type(definition).__qualname__}"
    spec = env.unwrapped.spec
    return type(env.unwrapped).__name__ if spec is None else spec.id
