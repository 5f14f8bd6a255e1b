"""Ids of the environments, and functions that make batches of them.

``meta_rl/<Name>-v0`` is registered for ``gymnasium.make`` (the batch of one) and
``gymnasium.make_vec`` (the native batch). Importing this module imports no environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count, check_kind
from meta_rl.vector.task_batch import task_batch

NAMESPACE = "meta_rl/"

ADAPTER = "meta_rl.adapter:TaskVectorAdapter"
"""The batch for environments without a native one, as a name that is imported when needed."""

ENVIRONMENTS: dict[str, str] = {
    "AntDir-v0": "meta_rl.envs.ant:AntDir",
    "AntForwardBackward-v0": "meta_rl.envs.ant:AntForwardBackward",
    "AntGoal-v0": "meta_rl.envs.ant:AntGoal",
    "AntVel-v0": "meta_rl.envs.ant:AntVel",
    "BernoulliBandit-v0": "meta_rl.envs.bandits:BernoulliBandit",
    "DarkKeyToDoor-v0": "meta_rl.envs.dark_room:DarkKeyToDoor",
    "DarkRoom-v0": "meta_rl.envs.dark_room:DarkRoom",
    "GaussianBandit-v0": "meta_rl.envs.bandits:GaussianBandit",
    "GridNavigation-v0": "meta_rl.envs.grid_navigation:GridNavigation",
    "HalfCheetahCripple-v0": "meta_rl.envs.half_cheetah:HalfCheetahCripple",
    "HalfCheetahDir-v0": "meta_rl.envs.half_cheetah:HalfCheetahDir",
    "HalfCheetahDirMAML-v0": "meta_rl.envs.half_cheetah:HalfCheetahDirMAML",
    "HalfCheetahVel-v0": "meta_rl.envs.half_cheetah:HalfCheetahVel",
    "HalfCheetahVelMAML-v0": "meta_rl.envs.half_cheetah:HalfCheetahVelMAML",
    "HopperRandParams-v0": "meta_rl.envs.random_dynamics:HopperRandParams",
    "HopperVel-v0": "meta_rl.envs.walkers:HopperVel",
    "HumanoidDir-v0": "meta_rl.envs.humanoid:HumanoidDir",
    "PointNavigation-v0": "meta_rl.envs.point_navigation:PointNavigation",
    "PointRobot-v0": "meta_rl.envs.point_navigation:PointRobot",
    "ReacherGoal-v0": "meta_rl.envs.reacher:ReacherGoal",
    "SparsePointNavigation-v0": "meta_rl.envs.sparse_point_navigation:SparsePointNavigation",
    "TMaze-v0": "meta_rl.envs.t_maze:TMaze",
    "TabularMDP-v0": "meta_rl.envs.tabular_mdp:TabularMDP",
    "Walker2dRandParams-v0": "meta_rl.envs.random_dynamics:Walker2dRandParams",
    "Walker2dVel-v0": "meta_rl.envs.walkers:Walker2dVel",
    "WindNavigation-v0": "meta_rl.envs.wind_navigation:WindNavigation",
}

# Environments with a package of their own: the class that documents them, the functions that make
# one environment and a batch, and their arguments. The class has horizon, episodes_per_trial and
# action_space, and can be imported without that package.
PYTHON_ENVIRONMENTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    f"MetaWorld{benchmark}-v0": (
        "meta_rl.envs.metaworld:MetaWorldTask",
        "meta_rl.envs.metaworld:make_one",
        "meta_rl.envs.metaworld:make_batch",
        {"benchmark": benchmark},
    )
    for benchmark in ("ML1", "ML10", "ML25", "ML45")
}


def register_task_env(env_id: str, definition: str, **kwargs: Any) -> None:
    """Registers a family with both front ends.

    Args:
        env_id: Environment id ``Name-v0``, or ``namespace/Name-v0`` for a family of your own.
        definition: Module and name of the :class:`meta_rl.TaskFuncEnv`, ``"module:Class"``.
        **kwargs: Default arguments of its constructor.
    """
    check_kind("env_id", env_id, str, "the id of an environment")
    if not (isinstance(definition, str) or callable(definition)):
        raise TypeError(f"definition has to be 'module:Class', or a class, got {definition!r}")
    gym.register(
        id=env_id if "/" in env_id else NAMESPACE + env_id,
        entry_point="meta_rl.task_env:TaskEnv",
        vector_entry_point="meta_rl.task_env:TaskVectorEnv",
        kwargs={"definition": definition, **kwargs},
    )


def find_env_id(name: str) -> str:
    """Returns the full id of an environment.

    Args:
        name: Environment id, with or without the namespace ``meta_rl/`` and the version.

    Raises:
        ValueError: The name is unknown; the error lists similar names.
    """
    check_kind("env_id", name, str, "the id of an environment")
    for candidate in (name, NAMESPACE + name, f"{NAMESPACE}{name}-v0"):
        if candidate.partition(":")[2] or candidate in gym.registry:
            return candidate
    if "/" in name and not name.startswith(NAMESPACE):
        known = sorted(env_id for env_id in gym.registry if not env_id.startswith(NAMESPACE))
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.7)
        hint = f"did you mean {', '.join(near)}?" if near else "no imported module registers it"
        raise ValueError(
            f"unknown environment {name!r}: {hint}. The module of one of your own has to be "
            "imported first: --import MODULE"
        )
    ours = [env_id for env_id in gym.registry if env_id.startswith(NAMESPACE)]
    lower = {env_id.removeprefix(NAMESPACE).lower(): env_id for env_id in ours}
    near = difflib.get_close_matches(name.removeprefix(NAMESPACE).lower(), lower, n=5, cutoff=0.4)
    hint = f"did you mean {', '.join(lower[n] for n in near)}?" if near else "see `meta-rl envs`"
    raise ValueError(f"unknown environment {name!r}: {hint}")


def register_all() -> None:
    """Registers every environment of this package; a second call does nothing."""
    for name, definition in ENVIRONMENTS.items():
        if NAMESPACE + name not in gym.registry:
            register_task_env(name, definition)
    for name, (_, single, batch, kwargs) in PYTHON_ENVIRONMENTS.items():
        if NAMESPACE + name not in gym.registry:
            gym.register(
                id=NAMESPACE + name,
                entry_point=single,
                vector_entry_point=batch,
                kwargs=kwargs,
            )


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
        ValueError: The id is unknown, a count is below one, or the arguments name a definition.
            That is left to the id, as arguments may come from a file, which imports nothing.
    """
    if "definition" in kwargs:
        raise ValueError(
            f"{env_id} has a definition already; another one needs an id of its own, by "
            "meta_rl.register_task_env"
        )
    num_envs = check_count("num_tasks", num_tasks) * check_count("envs_per_task", envs_per_task)
    env_id = find_env_id(env_id)
    module, _, name = env_id.rpartition(":")
    if module:
        __import__(module)
    try:
        spec = gym.spec(name)
    except gym.error.Error as error:  # of a module that does not register it
        raise ValueError(f"unknown environment {env_id!r}: {error}") from error
    if spec.vector_entry_point is not None:
        env = gym.make_vec(name, num_envs=num_envs, **kwargs)
        task_batch(env)  # refuses a batch without tasks
        return env
    return resolve_name(ADAPTER).from_id(name, num_envs, **kwargs)


def is_python(env_id: str) -> bool:
    """Tells whether the environment needs a package of its own, and is much slower to step."""
    return find_env_id(env_id).removeprefix(NAMESPACE) in PYTHON_ENVIRONMENTS


def env_constructor(env_id: str) -> Callable[..., Any] | None:
    """Returns the callable that takes an environment's arguments; ``None`` if it is unknown."""
    definition = gym.spec(env_id).kwargs.get("definition") if env_id in gym.registry else None
    if is_python(env_id):
        definition = PYTHON_ENVIRONMENTS[find_env_id(env_id).removeprefix(NAMESPACE)][0]
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
        family = getattr(definition, "family", None)  # where one definition has several ids
        return family or f"{type(definition).__module__}:{type(definition).__qualname__}"
    spec = env.unwrapped.spec
    return type(env.unwrapped).__name__ if spec is None else spec.id


def family_title(family: str) -> str:
    """Returns the id that a family is registered with, or the name of its class if it has none.

    Args:
        family: Name that :func:`family_name` returned.
    """
    ids = [
        env_id
        for env_id, spec in gym.registry.items()
        if _definition_name(spec.kwargs.get("definition")) == family
    ]
    return ids[0] if len(ids) == 1 else family.rpartition(":")[2]


def _definition_name(definition: Any) -> str | None:
    """Returns ``module:Class`` of a registered definition, which is a class or its name."""
    if isinstance(definition, type):
        return f"{definition.__module__}:{definition.__qualname__}"
    return definition if isinstance(definition, str) else None
