"""Making batches of task environments, from whatever names or holds them."""

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
"""The batch of environments that have none of their own, by name as environments are."""


def make_task_vec(env_id: str, num_tasks: int, envs_per_task: int = 1, **kwargs: Any) -> VectorEnv:
    """A batch of ``num_tasks * envs_per_task`` sub-environments, in one equal block per task.

    Args:
        env_id: An id, with or without ``meta_rl/`` and the version; of a family of ours, or of any
            registered environment with a ``task_split`` that takes ``options={"task": ...}``.
        num_tasks: Tasks at a time, M.
        envs_per_task: Sub-environments for each, B.
        **kwargs: For the family and for :class:`meta_rl.TaskVectorEnv`; for a plain Python
            environment, for :class:`meta_rl.adapter.TaskVectorAdapter`.

    Raises:
        ValueError: Unknown id, or a count below one.
    """
    num_envs = check_count("num_tasks", num_tasks) * check_count("envs_per_task", envs_per_task)
    env_id = find_env_id(env_id)
    module, _, name = env_id.rpartition(":")
    if module:
        __import__(module)
    if gym.spec(name).vector_entry_point is not None:
        return gym.make_vec(name, num_envs=num_envs, **kwargs)
    return resolve_name(ADAPTER).from_id(name, num_envs, **kwargs)


def is_python(env_id: str) -> bool:
    """Whether sub-environments are Python objects, which take much longer to step."""
    return find_env_id(env_id).removeprefix(NAMESPACE) in PYTHON_ENVIRONMENTS


def env_constructor(env_id: str) -> Callable[..., Any] | None:
    """The callable that takes an environment's arguments; ``None`` where that is not known."""
    definition = gym.spec(env_id).kwargs.get("definition") if env_id in gym.registry else None
    if is_python(env_id):
        definition = gym.spec(env_id).entry_point
    if isinstance(definition, str):
        definition = load_env_creator(definition)
    return definition if callable(definition) else None


def as_task_vec(env: Any) -> VectorEnv:
    """A batch of task environments, from one of them or from the batch itself.

    Args:
        env: A batch with ``task_split`` and ``set_tasks``; or one environment with a ``task_split``
            that takes ``options={"task": ...}``, which becomes a batch of one.

    Raises:
        ValueError: Something without tasks.
    """
    if isinstance(env, VectorEnv):
        task_batch(env)  # refuses one without tasks
        return env
    if not isinstance(env, gym.Env) or not hasattr(env.unwrapped, "task_split"):
        raise ValueError(
            f"expected an environment id or task environments with a task_split, got {env!r}"
        )
    return resolve_name(ADAPTER)([lambda: env])


def family_name(env: VectorEnv) -> str:
    """What family a batch is of: ``module:Class`` of its definition, or its id."""
    definition = getattr(env.unwrapped, "definition", None)
    if definition is not None:
        return f"{type(definition).__module__}:{type(definition).__qualname__}"
    spec = env.unwrapped.spec
    return type(env.unwrapped).__name__ if spec is None else spec.id
