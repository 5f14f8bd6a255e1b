"""Oracles of the navigation families: they are told the task, and what they earn is the optimum.

A learner that has to find out what the task is cannot do better. What an oracle's episode earns is
known in closed form: :func:`dense_optimum`, :func:`sparse_optimum` and :func:`time_within` for
points, ``GridOracle.optimal_steps_on_goal`` for grids. The Bayes-optimal policy of grid navigation,
which is not told, is in :mod:`meta_rl.agents.grid_search`.

Shapes: N tasks, T steps of an episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from meta_rl.rollout import Rollout

GRID_MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
"""What the actions of the grid families add to x and y: stay, up, right, down, left."""

MAX_STEP = 0.1
"""How far an action of 1 moves a point along its axis."""


class _Oracle(ABC):
    """What oracles share: a state that comes from the tasks alone."""

    @abstractmethod
    def adapt_to_tasks(self, tasks: Any) -> Any:
        """What to know of the tasks; leaves have a leading task axis."""

    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Return the state as it is: there is nothing left to learn.

        Raises:
            ValueError: There is no state: the oracle was not told the tasks.
        """
        return self._told(state)

    def _told(self, state: Any) -> Any:
        if state is None:
            raise ValueError(
                f"{type(self).__name__} needs to be told the tasks: state = adapt_to_tasks(tasks)"
            )
        return state


class PointTask(NamedTuple):
    """What an oracle knows of a point's task.

    Attributes:
        goal: x and y, ``[N, 2]``.
        wind: What moves the point at every step on top of its action, ``[N, 2]``.
    """

    goal: np.ndarray
    wind: np.ndarray


class PointOracle(_Oracle):
    """Straight to the goal, as fast as both axes allow, and then stays.

    For ``PointNavigation``, ``PointRobot`` and ``SparsePointNavigation``.

    Both axes move independently and the way left along each of them is the shortest possible after
    every step, and hence so is the distance: no policy earns more, whether the reward falls with
    the distance at every step or only near the goal.
    """

    def adapt_to_tasks(self, tasks: np.ndarray) -> PointTask:
        """The goals are the tasks, ``[N, 2]``."""
        goal = np.asarray(tasks, dtype=np.float64)
        return PointTask(goal, np.zeros_like(goal))

    def predict(
        self,
        observation: Any,
        state: PointTask | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PointTask]:
        """The clipped way to the goal, float32 ``[N, 2]``.

        Raises:
            ValueError: There is no state.
        """
        state = self._told(state)
        way = (state.goal - np.asarray(observation, dtype=np.float64) - state.wind) / MAX_STEP
        return np.clip(way, -1.0, 1.0).astype(np.float32), state


class WindOracle(PointOracle):
    """Straight to the fixed goal of ``WindNavigation`` against the known wind; holds its place.

    Args:
        goal: Where it is.
    """

    def __init__(self, goal: tuple[float, float] = (0.0, 1.0)) -> None:
        self.goal = goal

    def adapt_to_tasks(self, tasks: np.ndarray) -> PointTask:
        """The winds are the tasks, ``[N, 2]``."""
        wind = np.asarray(tasks, dtype=np.float64)
        return PointTask(np.broadcast_to(np.asarray(self.goal), wind.shape), wind)


def shortest_ways(start: Any, task: PointTask, num_steps: int) -> np.ndarray:
    """The least that can be left of the way after 1, ..., T steps, along each axis: ``[N, T, 2]``.

    It shrinks by the point's own step and by the wind's share in its direction:
    ``max(|w| - t (MAX_STEP + sign(w) wind), 0)`` for a way w (winds no stronger than ``MAX_STEP``).

    Args:
        start: x and y, ``[N, 2]`` or ``[2]``.
        task: Goals and winds.
        num_steps: T.
    """
    way = task.goal - np.asarray(start)
    speed = MAX_STEP + np.sign(way) * task.wind
    steps = np.arange(1, num_steps + 1)
    return np.maximum(np.abs(way)[:, None] - steps[:, None] * speed[:, None], 0.0)


def dense_optimum(ways: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    """Best return of an episode in which each step costs the distance, ``[N]``.

    Args:
        ways: Of :func:`shortest_ways` from the start, ``[N, T, 2]``.
        tolerance: The episode ends with the first step after which both ways are shorter than
            this; ``None`` where nothing ends it early.
    """
    distances = np.linalg.vector_norm(ways, axis=-1)
    if tolerance is None:
        return -distances.sum(axis=1)
    arrived = (ways < tolerance).all(axis=-1)
    over = np.cumsum(arrived, axis=1) > arrived  # arrived at an earlier step
    return -np.where(over, 0.0, distances).sum(axis=1)


def sparse_optimum(ways: np.ndarray, radius: float) -> np.ndarray:
    """Best return of an episode that pays 1 minus the distance within a radius, ``[N]``."""
    distances = np.linalg.vector_norm(ways, axis=-1)
    return np.where(distances <= radius, 1.0 - distances, 0.0).sum(axis=1)


def time_within(ways: np.ndarray, radius: float) -> np.ndarray:
    """Best return of an episode that pays 1 per step within a radius, ``[N]``."""
    distances = np.linalg.vector_norm(ways, axis=-1)
    return (distances <= radius).sum(axis=1).astype(np.float64)


def grid_action(cell: Any, goal: Any) -> np.ndarray:
    """The next action of a shortest path, first along x: int64 ``[N]``.

    Args:
        cell: Where the agent is, int ``[N, 2]``.
        goal: Where it goes, int ``[N, 2]``.
    """
    way = np.asarray(goal) - np.asarray(cell)
    x, y = way[:, 0], way[:, 1]
    along_x = np.where(x > 0, 2, 4)
    along_y = np.where(y > 0, 1, np.where(y < 0, 3, 0))
    return np.where(x != 0, along_x, along_y)


class GridTask(NamedTuple):
    """What an oracle knows of a grid's task, and whether it holds the key.

    Attributes:
        goal: Where to end, int64 ``[N, 2]``; with keys, the door.
        key: Where to go first, int64 ``[N, 2]``.
        has_key: Whether it has been there in this episode, bool ``[N]``.
    """

    goal: np.ndarray
    key: np.ndarray
    has_key: np.ndarray


class GridOracle(_Oracle):
    """A shortest path to the goal, and then stays: ``GridNavigation`` and ``DarkRoom``.

    Args:
        size: Cells along each side.
        cell_numbers: Whether observations are numbers of cells (``y * size + x``) and not (x, y).
    """

    def __init__(self, size: int, cell_numbers: bool = False) -> None:
        self.size = size
        self.cell_numbers = cell_numbers

    def adapt_to_tasks(self, tasks: Any) -> GridTask:
        """The goals are the tasks, ``[N, 2]``; no key is needed."""
        goal = np.asarray(tasks, dtype=np.int64)
        return GridTask(goal, goal, np.ones(len(goal), dtype=bool))

    def _cells(self, observation: Any) -> np.ndarray:
        observation = np.asarray(observation)
        if self.cell_numbers:
            return np.stack([observation % self.size, observation // self.size], axis=1)
        return np.round(observation).astype(np.int64)

    def predict(
        self,
        observation: Any,
        state: GridTask | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, GridTask]:
        """The next action of a shortest path, int64 ``[N]``.

        Raises:
            ValueError: There is no state.
        """
        state = self._told(state)
        target = np.where(state.has_key[:, None], state.goal, state.key)
        return grid_action(self._cells(observation), target), state

    @staticmethod
    def optimal_steps_on_goal(tasks: Any, start: tuple[int, int], horizon: int) -> np.ndarray:
        """Steps that end on the goal in the best episode, ``[N]``.

        A goal at distance d is first entered by step ``max(d, 1)``.

        Args:
            tasks: Goals, ``[N, 2]``.
            start: Of the episode.
            horizon: Steps of the episode.
        """
        distance = np.abs(np.asarray(tasks) - np.asarray(start)).sum(axis=1)
        return np.maximum(horizon + 1 - np.maximum(distance, 1), 0).astype(np.float64)


class KeyToDoorOracle(GridOracle):
    """A shortest path to the key, and then to the door: ``DarkKeyToDoor``.

    It earns 2 where the horizon allows: never more than ``4 (size - 1)`` steps are needed.

    Args:
        size: Cells along each side.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, cell_numbers=True)

    def adapt_to_tasks(self, tasks: Any) -> GridTask:
        """Where the keys and the doors are."""
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
        """The next action of a shortest path, int64 ``[N]``.

        Raises:
            ValueError: There is no state.
        """
        state = self._told(state)
        # The key is taken by a step that ends on it, not by starting there.
        at_key = (self._cells(observation) == state.key).all(axis=1)
        has_key = state.has_key | at_key
        if episode_start is not None:
            has_key = has_key & ~np.asarray(episode_start, dtype=bool)
        return super().predict(observation, state._replace(has_key=has_key))


class SideTask(NamedTuple):
    """What an oracle knows of a T-maze.

    Attributes:
        side: +1 (up) or -1 (down), int64 ``[N]``.
    """

    side: np.ndarray


class TMazeOracle(_Oracle):
    """Right to the junction, then to the goal's side: ``TMaze``. It earns ``goal_reward``.

    Args:
        junction: x of the junction; with ambiguous positions, 1.
    """

    RIGHT, UP, DOWN = 0, 1, 3

    def __init__(self, junction: int = 10) -> None:
        self.junction = junction

    def adapt_to_tasks(self, tasks: Any) -> SideTask:
        """The sides are the tasks, ``[N, 1]``."""
        return SideTask(np.asarray(tasks, dtype=np.int64)[:, 0])

    def predict(
        self,
        observation: Any,
        state: SideTask | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, SideTask]:
        """The next action of the path, int64 ``[N]``.

        Raises:
            ValueError: There is no state.
        """
        state = self._told(state)
        at_junction = np.asarray(observation)[:, 0] >= self.junction
        turn = np.where(state.side > 0, self.UP, self.DOWN)
        return np.where(at_junction, turn, self.RIGHT), state


def navigation_oracles() -> dict[str, Any]:
    """The oracle of every navigation family with its default arguments, by the family's name."""
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
