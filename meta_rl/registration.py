"""The registered environments, by name; importing this module imports no environment.

``meta_rl/<Name>-v0`` is registered for ``gymnasium.make`` (the batch of one) and
``gymnasium.make_vec`` (the native batch).
"""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium as gym

from meta_rl.arguments import check_kind

NAMESPACE = "meta_rl/"

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

# Environments that are Python objects: the class, the function that makes batches, and their
# arguments. The class has horizon, episodes_per_trial and action_space, and can be imported
# without the packages that its objects need.
PYTHON_ENVIRONMENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"MetaWorld{benchmark}-v0": (
        "meta_rl.envs.metaworld:MetaWorldTask",
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
    for name, (single, batch, kwargs) in PYTHON_ENVIRONMENTS.items():
        if NAMESPACE + name not in gym.registry:
            gym.register(
                id=NAMESPACE + name,
                entry_point=single,
                vector_entry_point=batch,
                kwargs=kwargs,
            )
