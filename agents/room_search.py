"""Learners for dark rooms and grids with one hidden goal, which know the moves but not the goal.

Both remember the visited cells. Until a step pays, the goal is in one of the other cells; after
that, they take a shortest path to it and stay. They differ in where they search:

* :class:`NearestSearch` goes to the nearest cell that was not visited yet.
* :class:`GoalSampling` is posterior sampling (PSRL: Strens, 2000; Osband et al., 2013) with known
  moves: it draws the goal from its belief, which is uniform over the other cells, walks there, and
  draws again where that cell does not pay, and in every new episode.

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

    def adapt(self, rollout: Rollout, state: SearchState | None = None) -> SearchState | None:
        """Returns the state as it is: it learns from what it observes, step by step."""
        return state

    @abstractmethod
    def _targets(self, state: SearchState, cell: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        """Returns the cells to search next, int64 ``[N]``.

        Args:
            state: Knowledge of each sub-environment about its room.
            cell: Cells of the agents, ``[N]``.
            fresh: Where an episode begins, bool ``[N]``.
        """

    def predict(
        self,
        observation: Any,
        state: SearchState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, SearchState]:
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
        paid, ended, begins = flat[:, -3] > 0, flat[:, -2] > 0, flat[:, -1] > 0
        state = self._remembered(state, cell, flat[:, cells:-3].argmax(axis=1), paid, ended, begins)
        found = state.goal != NOWHERE
        target = np.where(found, state.goal, self._targets(state, cell, ended | begins))
        action = grid_action(self.xy[cell], self.xy[target])
        if self.epsilon and not deterministic:
            explores = self.rng.random(len(action)) < self.epsilon
            action = np.where(explores, self.rng.integers(5, size=len(action)), action)
        return action, state._replace(target=target, cell=cell, action=action)

    def _remembered(
        self,
        state: SearchState | None,
        cell: np.ndarray,
        action: np.ndarray,
        paid: np.ndarray,
        ended: np.ndarray,
        begins: np.ndarray,
    ) -> SearchState:
        """Returns what is known after the previous step."""
        num = len(cell)
        none = np.full(num, NOWHERE)
        if state is None:
            state = SearchState(np.zeros((num, self.size**2), bool), none, none, cell, none)
        visited = np.where(begins[:, None], False, state.visited)
        goal, target = (np.where(begins, NOWHERE, part) for part in (state.goal, state.target))
        last = np.where(ended, self._after(state.cell, action), cell)  # where the step ended
        goal = np.where(paid & ~begins, last, goal)
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
        nearest: np.ndarray = np.where(state.visited, self.size**2, self.distance[cell]).argmin(
            axis=1
        )
        return nearest


class GoalSampling(RoomSearch):
    """Learner that walks to a goal drawn from its belief: PSRL with known moves."""

    def _targets(self, state: SearchState, cell: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        searched = np.take_along_axis(state.visited, state.target[:, None], axis=1)[:, 0]
        anew = fresh | (state.target == NOWHERE) | searched
        chances = self.rng.random(state.visited.shape) * ~state.visited
        return np.where(anew, chances.argmax(axis=1), state.target)
