"""Learners for dark rooms and grids with hidden goals, which know the moves but not the goals.

All remember the visited cells. Until a step pays, the goal is in one of the other cells; after
that, they take a shortest path to it and stay. They differ in where they search:

* :class:`NearestSearch` goes to the nearest cell that was not visited yet.
* :class:`GoalSampling` is posterior sampling (PSRL: Strens, 2000; Osband et al., 2013) with known
  moves: it draws the goal from its belief, which is uniform over the other cells, walks there, and
  draws again where that cell does not pay, and in every new episode.
* :class:`KeyToDoorSearch` looks for a key and then for a door, each in the nearest cell that may
  hold it.

Shapes: N tasks, C cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count, check_number
from meta_rl.rollout import Rollout
from meta_rl.wrappers.previous_step import AppendPreviousStep

from .navigation import grid_action

NOWHERE = -1


class SearchState(NamedTuple):
    """What a search knows about each task.

    Attributes:
        visited: Cells where the goal is not, bool ``[N, C]``.
        goal: Cell of the goal, int64 ``[N]``; -1 until a step has paid.
        target: Cell that the agent walks to, int64 ``[N]``; -1 where it has none.
        cell: Cell before the latest action, int64 ``[N]``.
        action: Latest action, int64 ``[N]``.
    """

    visited: np.ndarray
    goal: np.ndarray
    target: np.ndarray
    cell: np.ndarray
    action: np.ndarray


class KeySearchState(NamedTuple):
    """What a search for key and door knows about each task, and about the present episode.

    Attributes:
        no_key: Cells where the key is not, bool ``[N, C]``.
        no_door: Cells where the door is not, bool ``[N, C]``.
        key: Cell of the key, int64 ``[N]``; -1 until it has paid.
        door: Cell of the door, int64 ``[N]``; -1 until it has paid.
        has_key: Whether the key was taken in this episode, bool ``[N]``.
        opened: Whether the door was opened in this episode, bool ``[N]``.
        target: Cell that the agent walks to, int64 ``[N]``.
        cell: Cell before the latest action, int64 ``[N]``.
        action: Latest action, int64 ``[N]``.
    """

    no_key: np.ndarray
    no_door: np.ndarray
    key: np.ndarray
    door: np.ndarray
    has_key: np.ndarray
    opened: np.ndarray
    target: np.ndarray
    cell: np.ndarray
    action: np.ndarray


class RoomSearch(ABC):
    """Base class: the memory of a search, and shortest paths.

    Observations are those of :class:`.AppendPreviousStep` on a grid whose observation is the number
    of the cell, ``y * size + x``, such as ``DarkRoom``.

    Args:
        size: Number of cells along each side.
        rng: Generator of all draws.
        epsilon: Probability of a uniformly random action, in [0, 1].
    """

    def __init__(self, size: int, *, rng: np.random.Generator, epsilon: float = 0.0) -> None:
        self.size = check_count("size", size)
        self.rng = rng
        self.epsilon = check_number("epsilon", epsilon, least=0.0, most=1.0)
        cell = np.arange(self.size**2)
        self.xy = np.stack([cell % self.size, cell // self.size], axis=1)
        self.distance = np.abs(self.xy[:, None] - self.xy[None]).sum(axis=-1)

    @classmethod
    def wrap_env(cls, env: VectorEnv) -> VectorEnv:
        """Appends the previous step to the observation."""
        return env if isinstance(env, AppendPreviousStep) else AppendPreviousStep(env)

    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Returns the state as it is: it learns from what it observes, step by step."""
        return state

    @abstractmethod
    def _targets(self, state: Any, cell: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Returns the cells to search next, where the goal is not known, int64 ``[N]``.

        Args:
            state: Knowledge of each sub-environment about its room.
            cell: Cells of the agents, ``[N]``.
            fresh: Where an episode begins, bool ``[N]``.
        """

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Learns from the previous step, and takes the next step of a path.

        Args:
            observation: Flat observations, ``[N, C + 5 + 3]``.
            state: State of the last call; ``None`` before the first step.
            episode_start: Not used: the observation marks where an episode begins.
            deterministic: Whether random actions are left out.

        Returns:
            Actions, int64 ``[N]``, and the next state.

        Raises:
            ValueError: The observation has another shape.
        """
        flat, cells = np.asarray(observation), self.size**2
        if flat.ndim != 2 or flat.shape[1] != cells + 8:
            raise ValueError(f"observation must have shape [N, {cells + 8}], got {flat.shape}")
        cell = flat[:, :cells].argmax(axis=1)
        reward, ended, begins = flat[:, -3], flat[:, -2] > 0, flat[:, -1] > 0
        action = flat[:, cells:-3].argmax(axis=1)
        state = self._remembered(state, cell, action, reward, ended, begins)
        known = self._goal(state)
        target = np.where(known != NOWHERE, known, self._targets(state, cell, ended | begins))
        action = grid_action(self.xy[cell], self.xy[target])
        if self.epsilon and not deterministic:
            explores = self.rng.random(len(action)) < self.epsilon
            action = np.where(explores, self.rng.integers(5, size=len(action)), action)
        return action, state._replace(target=target, cell=cell, action=action)

    def _goal(self, state: Any) -> np.ndarray:
        """Returns the cells of known goals, -1 where the goal is not known, int64 ``[N]``."""
        goal: np.ndarray = state.goal
        return goal

    def _nearest(self, visited: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Returns the nearest cells that were not visited, the first one of equals."""
        found: np.ndarray = np.where(visited, self.size**2, self.distance[cell]).argmin(axis=1)
        return found

    def _remembered(
        self,
        state: Any,
        cell: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        ended: np.ndarray,
        begins: np.ndarray,
    ) -> Any:
        """Returns what is known after the previous step."""
        num = len(cell)
        none = np.full(num, NOWHERE)
        if state is None:
            state = SearchState(np.zeros((num, self.size**2), bool), none, none, cell, none)
        visited = np.where(begins[:, None], False, state.visited)
        goal, target = (np.where(begins, NOWHERE, part) for part in (state.goal, state.target))
        last = np.where(ended, self._after(state.cell, action), cell)  # where the step ended
        goal = np.where((reward > 0) & ~begins, last, goal)
        moved = ~begins
        visited[moved, last[moved]] = True
        return state._replace(visited=visited, goal=goal, target=target)

    def _after(self, cell: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Returns the cells after actions: stay, up, right, down, left."""
        moves = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
        x, y = np.clip(self.xy[cell] + moves[action], 0, self.size - 1).T
        after: np.ndarray = y * self.size + x
        return after


class NearestSearch(RoomSearch):
    """Learner that visits the nearest cell that was not visited yet, the first one of equals.

    It is an expert for a goal that nobody knows: every step of a search goes to a new cell where
    there is one beside the agent.
    """

    def _targets(self, state: SearchState, cell: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        return self._nearest(state.visited, cell)


class GoalSampling(RoomSearch):
    """Learner that walks to a goal drawn from its belief: PSRL with known moves."""

    def _targets(self, state: SearchState, cell: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        searched = np.take_along_axis(state.visited, state.target[:, None], axis=1)[:, 0]
        anew = fresh | (state.target == NOWHERE) | searched
        chances = self.rng.random(state.visited.shape) * ~state.visited
        return np.where(anew, chances.argmax(axis=1), state.target)


class KeyToDoorSearch(RoomSearch):
    """Learner for ``DarkKeyToDoor``: visits the nearest cell that may hold the key, then the door.

    Once it has found both, it takes a shortest path to the key and then to the door.
    """

    def _targets(self, state: KeySearchState, cell: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        return self._nearest(np.where(state.has_key[:, None], state.no_door, state.no_key), cell)

    def _goal(self, state: KeySearchState) -> np.ndarray:
        return np.where(state.has_key, state.door, state.key)

    def _remembered(
        self,
        state: KeySearchState | None,
        cell: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        ended: np.ndarray,
        begins: np.ndarray,
    ) -> KeySearchState:
        num = len(cell)
        none, no = np.full(num, NOWHERE), np.zeros(num, dtype=bool)
        if state is None:
            nowhere = np.zeros((num, self.size**2), dtype=bool)
            state = KeySearchState(nowhere, nowhere, none, none, no, no, none, cell, none)
        forgotten = begins[:, None]
        no_key, no_door = (np.where(forgotten, False, part) for part in state[:2])
        key, door = (np.where(begins, NOWHERE, part) for part in state[2:4])
        last = np.where(ended, self._after(state.cell, action), cell)  # where the step ended
        had_key, moved = state.has_key, ~begins
        took = moved & ~had_key & (reward > 0)
        opens = moved & np.where(had_key, reward > 0, reward > 1)
        has_key, opened = had_key | took, state.opened | opens
        key, door = np.where(took, last, key), np.where(opens, last, door)
        empty = moved & ~has_key
        no_key[empty, last[empty]] = True
        shut = moved & has_key & ~opened
        no_door[shut, last[shut]] = True
        over = ended | begins
        return state._replace(
            no_key=no_key,
            no_door=no_door,
            key=key,
            door=door,
            has_key=has_key & ~over,
            opened=opened & ~over,
        )
