"""Meta-World's own lists of goals, as tasks."""

from __future__ import annotations

import functools
import importlib
import pickle
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_count, did_you_mean
from meta_rl.tasks import FiniteTasks, TaskSplit

VERSION, MUJOCO_VERSION = "3.1.1", "3.3.0"  # of Meta-World, and of MuJoCo, which it pins
BENCHMARKS = ("ML1", "ML10", "ML25", "ML45")
NUM_VALIDATION = 10  # of the 50 training goals of each environment
METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 80}  # 0.0125 s a step
MAX_HORIZON = 500
HAND_LOW, HAND_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)  # in m


class Goals(NamedTuple):
    """Environments and goals of a benchmark.

    Attributes:
        names: Names of the environments; a task's ``env`` is an index into them.
        bounds: Lowest and highest goal of each environment, float64 ``[2, 3 or 6]``.
        train: Environment and goal of every training task, in Meta-World's order.
        test: Environment and goal of every test task.
    """

    names: tuple[str, ...]
    bounds: tuple[np.ndarray, ...]
    train: list[tuple[int, np.ndarray]]
    test: list[tuple[int, np.ndarray]]


def import_metaworld(*, pinned: bool = True) -> ModuleType:
    """Imports the package.

    Args:
        pinned: Whether MuJoCo has to be the version that the package pins (default). Native batches
            need the package's models and goals only, and work with later versions.

    Raises:
        ImportError: The package is missing, or MuJoCo's version is not the one that it pins.
    """
    install = (
        f"Meta-World {VERSION} needs mujoco=={MUJOCO_VERSION}. In a Python environment of its own: "
        'pip install "meta-rl[metaworld]"'
    )
    mujoco = importlib.import_module("mujoco")
    try:
        package = importlib.import_module("metaworld")
    except ModuleNotFoundError as error:
        raise ImportError(f"the package metaworld is missing ({error}). {install}") from error
    if pinned and mujoco.__version__ != MUJOCO_VERSION:
        raise ImportError(
            f"MuJoCo is {mujoco.__version__} here. {install}. Native batches do without the pin: "
            f"pip install --no-deps metaworld=={VERSION}"
        )
    return package


@functools.cache
def benchmark_goals(benchmark: str, env_name: str | None, goal_seed: int) -> Goals:
    """Returns Meta-World's own lists of goals.

    Args:
        benchmark: Name of the benchmark: ``"ML1"``, ``"ML10"``, ``"ML25"`` or ``"ML45"``.
        env_name: Environment of ML1 (default: ``"reach-v3"``).
        goal_seed: Seed that Meta-World draws the goals with.

    Raises:
        ValueError: The benchmark or the environment is unknown.
    """
    package = import_metaworld(pinned=False)
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark {benchmark!r}: {', '.join(BENCHMARKS)} exist")
    if benchmark != "ML1" and env_name is not None:
        raise ValueError(f"{benchmark} has environments of its own; env_name is for ML1")
    name = env_name or "reach-v3"
    known = list(package.ALL_V3_ENVIRONMENTS)
    if name not in known:
        raise ValueError(f"unknown env_name {name!r}: {did_you_mean(name, known)}")
    simulator = importlib.import_module("metaworld.sawyer_xyz_env").SawyerXYZEnv
    reset_hand = simulator._reset_hand
    bounds: dict[type, np.ndarray] = {}

    def barely_move(env: Any, steps: int = 1) -> None:
        box = env._random_reset_space
        bounds[type(env)] = np.array([box.low, box.high], dtype=np.float64)
        reset_hand(env, min(steps, 1))

    # Goals do not depend on the simulation of the hand, which would take most of the time. Its weld
    # has another size in later versions of MuJoCo.
    with mock.patch.multiple(
        simulator, _reset_hand=barely_move, reset_mocap_welds=lambda env: None
    ):
        arguments = (name,) if benchmark == "ML1" else ()
        made = getattr(package, benchmark)(*arguments, seed=goal_seed)
    names = tuple(dict.fromkeys([*made.train_classes, *made.test_classes]))
    classes = package.ALL_V3_ENVIRONMENTS
    return Goals(
        names,
        tuple(bounds[classes[name]] for name in names),
        *(_decoded(tasks, names) for tasks in (made.train_tasks, made.test_tasks)),
    )


def _decoded(tasks: list[Any], names: tuple[str, ...]) -> list[tuple[int, np.ndarray]]:
    return [(names.index(task.env_name), pickle.loads(task.data)["rand_vec"]) for task in tasks]


def split_goals(goals: Goals) -> TaskSplit:
    """Splits the tasks; the last training goals of each environment are for validation."""
    size = max(bounds.shape[1] for bounds in goals.bounds)
    padded = np.stack([np.pad(b, ((0, 0), (0, size - b.shape[1]))) for b in goals.bounds])
    space = spaces.Dict(
        {
            "env": spaces.Discrete(len(goals.names)),
            "goal": spaces.Box(
                padded[:, 0].min(axis=0), padded[:, 1].max(axis=0), dtype=np.float64
            ),
        }
    )

    def listed(tasks: list[tuple[int, np.ndarray]]) -> FiniteTasks:
        vectors = [np.pad(goal, (0, size - len(goal))) for _, goal in tasks]
        return FiniteTasks(
            space, {"env": np.array([env for env, _ in tasks]), "goal": np.array(vectors)}
        )

    train, validation = [], []
    for env in dict.fromkeys(env for env, _ in goals.train):
        own = [task for task in goals.train if task[0] == env]
        train += own[:-NUM_VALIDATION]
        validation += own[-NUM_VALIDATION:]
    return TaskSplit(train=listed(train), validation=listed(validation), test=listed(goals.test))


def observation_space() -> spaces.Box:
    """Returns the space of what is seen now and one step ago, 36 numbers."""
    low = np.concatenate([HAND_LOW, [-1.0], np.full(14, -np.inf)])
    high = np.concatenate([HAND_HIGH, [1.0], np.full(14, np.inf)])
    return spaces.Box(np.tile(low, 2), np.tile(high, 2), dtype=np.float64)


def check_horizon(horizon: int) -> int:
    """Returns the horizon, if Meta-World has that many steps.

    Raises:
        ValueError: It is not a whole number from 1 to 500.
    """
    horizon = check_count("horizon", horizon)
    if horizon > MAX_HORIZON:
        raise ValueError(f"horizon: Meta-World has at most {MAX_HORIZON} steps, got {horizon}")
    return horizon


def check_rewards(version: str) -> None:
    """Refuses other versions of the rewards than ``"v2"``.

    Raises:
        ValueError: It is another version.
    """
    if version != "v2":
        raise ValueError(
            f"reward_function_version {version!r}: only v2 is offered, Meta-World's default. v1 "
            "has other scales in every environment, and none in some"
        )


def check_goal(name: str, bounds: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Returns a goal without its padding.

    Args:
        name: Name of the environment.
        bounds: Lowest and highest goal of the environment, ``[2, 3 or 6]``.
        goal: Goal, perhaps followed by zeros.

    Raises:
        ValueError: It is outside the bounds.
    """
    low, high = bounds
    own, rest = np.split(np.asarray(goal), [len(low)])
    if rest.any() or (own < low).any() or (own > high).any():
        raise ValueError(
            f"goal {goal} is outside that of {name}: "
            f"{low} to {high}{', then zeros' if len(rest) else ''}"
        )
    return own
