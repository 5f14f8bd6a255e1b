"""Oracles of the navigation families, which are told the task and earn the optimal return.

A learner that has to infer the task cannot do better. The return of an oracle's episode has a
closed form: :func:`dense_optimum`, :func:`sparse_optimum` and :func:`time_within` for points,
``GridOracle.optimal_steps_on_goal`` for grids. The Bayes-optimal policy of grid navigation, which
is not told the task, is in :mod:`meta_rl.agents.grid_search`.

Shapes: N tasks, T steps of an episode.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .oracle import Oracle

GRID_MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
"""Displacements of the grid families' actions in x and y: stay, up, right, down, left."""

MAX_STEP = 0.1
"""Distance that an action of 1 moves a point along its axis."""


class PointTask(NamedTuple):
    """Task of a point, as an oracle knows it.

    Attributes:
        goal: Position (x, y) of the goal, ``[N, 2]``.
        wind: Displacement that is added to the action at every step, ``[N, 2]``.
    """

    goal: np.ndarray
    wind: np.ndarray


class PointOracle(Oracle):
    """Oracle that moves to the goal as fast as both axes allow, and then stays.

    It is for ``PointNavigation``, ``PointRobot`` and ``SparsePointNavigation``.

    Both axes move independently. After every step the remaining distance along each axis is the
    shortest possible, and so is the Euclidean distance: no policy earns more, whether the reward
    falls with the distance everywhere or only near the goal.
    """

    def adapt_to_tasks(self, tasks: np.ndarray) -> PointTask:
        """Returns the goals, which are the tasks, ``[N, 2]``, and no wind."""
        goal = np.asarray(tasks, dtype=np.float64)
        return PointTask(goal, np.zeros_like(goal))

    def act(self, observation: Any, state: PointTask, deterministic: bool) -> np.ndarray:
        """Returns the displacement to the goal, clipped to actions, float32 ``[N, 2]``."""
        move = (state.goal - np.asarray(observation, dtype=np.float64) - state.wind) / MAX_STEP
        return np.clip(move, -1.0, 1.0).astype(np.float32)


class WindOracle(PointOracle):
    """Oracle that moves to the fixed goal of ``WindNavigation`` in the known wind, and stays.

    Args:
        goal: Position (x, y) of the goal.
    """

    def __init__(self, goal: tuple[float, float] = (0.0, 1.0)) -> None:
        self.goal = goal

    def adapt_to_tasks(self, tasks: np.ndarray) -> PointTask:
        """Returns the fixed goal and the winds, which are the tasks, ``[N, 2]``."""
        wind = np.asarray(tasks, dtype=np.float64)
        return PointTask(np.broadcast_to(np.asarray(self.goal), wind.shape), wind)


def shortest_ways(start: Any, task: PointTask, num_steps: int) -> np.ndarray:
    """Returns the least remaining distance along each axis after 1, ..., T steps, ``[N, T, 2]``.

    It shrinks by the point's own step and by the wind along it: ``max(|w| - t (MAX_STEP + sign(w)
    wind), 0)`` for a displacement w to the goal (winds are no stronger than ``MAX_STEP``).

    Args:
        start: Start position (x, y), ``[N, 2]`` or ``[2]``.
        task: Goals and winds.
        num_steps: Number of steps, T.
    """
    way = task.goal - np.asarray(start)
    speed = MAX_STEP + np.sign(way) * task.wind
    steps = np.arange(1, num_steps + 1)
    return np.maximum(np.abs(way)[:, None] - steps[:, None] * speed[:, None], 0.0)


def dense_optimum(ways: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    """Returns the best return of an episode in which each step costs the distance, ``[N]``.

    Args:
        ways: Remaining distances from :func:`shortest_ways`, ``[N, T, 2]``.
        tolerance: Distance along both axes below which the episode ends; ``None`` where nothing
            ends it early.
    """
    distances = np.linalg.vector_norm(ways, axis=-1)
    if tolerance is None:
        return -distances.sum(axis=1)
    arrived = (ways < tolerance).all(axis=-1)
    over = np.cumsum(arrived, axis=1) > arrived  # arrived at an earlier step
    return -np.where(over, 0.0, distances).sum(axis=1)


def sparse_optimum(ways: np.ndarray, radius: float) -> np.ndarray:
    """Returns the best return where a step within a radius pays 1 minus the distance, ``[N]``."""
    distances = np.linalg.vector_norm(ways, axis=-1)
    return np.where(distances <= radius, 1.0 - distances, 0.0).sum(axis=1)


def time_within(ways: np.ndarray, radius: float) -> np.ndarray:
    """Returns the best return of an episode that pays 1 per step within a radius, ``[N]``."""
    distances = np.linalg.vector_norm(ways, axis=-1)
    return (distances <= radius).sum(axis=1).astype(np.float64)


def grid_action(cell: Any, goal: Any) -> np.ndarray:
    """Returns the next action of a shortest path, first along x: int64 ``[N]``.

    Args:
        cell: Position of the agent, int ``[N, 2]``.
        goal: Position of the goal, int ``[N, 2]``.
    """
    way = np.asarray(goal) - np.asarray(cell)
    x, y = way[:, 0], way[:, 1]
    along_x = np.where(x > 0, 2, 4)
    along_y = np.where(y > 0, 1, np.where(y < 0, 3, 0))
    return np.where(x != 0, along_x, along_y)


class GridTask(NamedTuple):
    """Task of a grid, as an oracle knows it, and whether the agent holds the key.

    Attributes:
        goal: Position of the goal or, with keys, of the door, int64 ``[N, 2]``.
        key: Position of the key, int64 ``[N, 2]``.
        has_key: Whether the agent has been at the key in this episode, bool ``[N]``.
    """

    goal: np.ndarray
    key: np.ndarray
    has_key: np.ndarray


class GridOracle(Oracle):
    """Oracle of ``GridNavigation`` and ``DarkRoom``: takes a shortest path and stays on the goal.

    Args:
        size: Number of cells along each side.
        cell_numbers: Whether observations are numbers of cells (``y * size + x``) and not (x, y).
    """

    def __init__(self, size: int, cell_numbers: bool = False) -> None:
        self.size = size
        self.cell_numbers = cell_numbers

    def adapt_to_tasks(self, tasks: Any) -> GridTask:
        """Returns the goals, which are the tasks, ``[N, 2]``; no key is needed."""
        goal = np.asarray(tasks, dtype=np.int64)
        return GridTask(goal, goal, np.ones(len(goal), dtype=bool))

    def _cells(self, observation: Any) -> np.ndarray:
        observation = np.asarray(observation)
        if self.cell_numbers:
            return np.stack([observation % self.size, observation // self.size], axis=1)
        return np.round(observation).astype(np.int64)

    def act(self, observation: Any, state: GridTask, deterministic: bool) -> np.ndarray:
        """Returns the next action of a shortest path, int64 ``[N]``."""
        target = np.where(state.has_key[:, None], state.goal, state.key)
        return grid_action(self._cells(observation), target)

    @staticmethod
    def optimal_steps_on_goal(tasks: Any, start: tuple[int, int], horizon: int) -> np.ndarray:
        """Returns the number of steps that end on the goal in the best episode, ``[N]``.

        A goal at distance d is first entered by step ``max(d, 1)``.

        Args:
            tasks: Goals, ``[N, 2]``.
            start: Start position (x, y) of the episode.
            horizon: Number of steps in the episode.
        """
        distance = np.abs(np.asarray(tasks) - np.asarray(start)).sum(axis=1)
        return np.maximum(horizon + 1 - np.maximum(distance, 1), 0).astype(np.float64)


class KeyToDoorOracle(GridOracle):
    """Oracle of ``DarkKeyToDoor``: takes a shortest path to the key, and then to the door.

    It earns 2 where the horizon allows; ``4 (size - 1)`` steps are always enough.

    Args:
        size: Number of cells along each side.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, cell_numbers=True)

    def adapt_to_tasks(self, tasks: Any) -> GridTask:
        """Returns the cells of the keys and of the doors."""
        door = np.asarray(tasks["door"], dtype=np.int64)
        key = np.asarray(tasks["key"], dtype=np.int64)
        return GridTask(door, key, np.zeros(len(door), dtype=bool))

    def predict(
        self,
        observation: Any,
        state: GridTask | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, GridTask]:
        """Returns the next action of a shortest path, int64 ``[N]``.

        Raises:
            ValueError: There is no state.
        """
        state = self.require_state(state)
        # A step that ends on the key takes it; starting there does not.
        at_key = (self._cells(observation) == state.key).all(axis=1)
        has_key = state.has_key | at_key
        if episode_start is not None:
            has_key = has_key & ~np.asarray(episode_start, dtype=bool)
        return super().predict(observation, state._replace(has_key=has_key))


class SideTask(NamedTuple):
    """Task of a T-maze, as an oracle knows it.

    Attributes:
        side: Side of the goal, +1 (up) or -1 (down), int64 ``[N]``.
    """

    side: np.ndarray


class TMazeOracle(Oracle):
    """Oracle of ``TMaze``: goes right to the junction, then to the goal's side.

    It earns ``goal_reward``.

    Args:
        junction: Position x of the junction; 1 with ambiguous positions.
    """

    RIGHT, UP, DOWN = 0, 1, 3

    def __init__(self, junction: int = 10) -> None:
        self.junction = junction

    def adapt_to_tasks(self, tasks: Any) -> SideTask:
        """Returns the sides, which are the tasks, ``[N, 1]``."""
        return SideTask(np.asarray(tasks, dtype=np.int64)[:, 0])

    def act(self, observation: Any, state: SideTask, deterministic: bool) -> np.ndarray:
        """Returns the next action of the path, int64 ``[N]``."""
        at_junction = np.asarray(observation)[:, 0] >= self.junction
        turn = np.where(state.side > 0, self.UP, self.DOWN)
        return np.where(at_junction, turn, self.RIGHT)


def navigation_oracles() -> dict[str, Any]:
    """Returns each navigation family's oracle, for its default arguments, by the family's name."""
    return {
        "PointNavigation": PointOracle(),
        "PointRobot": PointOracle(),
        "SparsePointNavigation": PointOracle(),
        "WindNavigation": WindOracle(),
        "GridNavigation": GridOracle(size=5),
        "DarkRoom": GridOracle(size=9, cell_numbers=True),
        "DarkKeyToDoor": KeyToDoorOracle(size=9),
        "TMaze": TMazeOracle(junction=10),
    }
