"""The exact Bayes-optimal policy of grid navigation.

GridNavi (Zintgraf et al., "VariBAD", 2020) hides a goal in one of the cells of a grid. Until an
agent finds it, it only learns that the visited cells are not the goal. A policy is therefore a
fixed path through the grid, which restarts at the corner in every episode. Once the goal is found,
the best agent stays there until the episode ends, and takes a shortest path in every later episode.
The Bayes-optimal return is thus that of the best path, where finding the goal g for the first time
at step s of episode e is worth

    (H - s + 1) + (E - 1 - e) (H - d(g) + 1)

steps on the goal (d is the distance from the corner). :func:`bayes_optimal_search` finds this path
by forward dynamic programming over (cell, set of searched cells), one layer per step. It leaves out
states that cannot beat the path of an earlier, narrower search (branch and bound), and is exact.

Shapes: N tasks, E episodes of a trial, H steps of an episode, C states of a layer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count
from meta_rl.rollout import Rollout
from meta_rl.wrappers.previous_step import AppendPreviousStep

from .navigation import GRID_MOVES, grid_action

MAX_GOALS = 62
"""Largest number of goals: a set of goals is the bits of an int64."""

MAX_STATES = 2_000_000
"""Largest number of states in a layer; beyond it the search takes too much memory."""

GOAL_REWARD = 1.0
STEP_REWARD = -0.1


class SearchPlan(NamedTuple):
    """A path to follow until the goal is found, and its expected return.

    Attributes:
        actions: Actions of the path, int64 ``[E, H]``.
        cells: Positions (x, y) after each action, int64 ``[E, H, 2]``.
        steps_on_goal: Expected number of steps on the goal in a trial.
        expected_return: Expected return of a trial.
    """

    actions: np.ndarray
    cells: np.ndarray
    steps_on_goal: float
    expected_return: float


class _Layer(NamedTuple):
    """States of the search at one step, int64 ``[C]`` each."""

    cell: np.ndarray  # number of the agent's cell
    searched: np.ndarray  # set of goals that the agent has visited, as bits
    value: np.ndarray  # steps on the goal so far, summed over these goals
    parent: np.ndarray  # index of the state before, in the layer before


class _Search:
    """The search of one grid, with its tables."""

    def __init__(self, size: int, horizon: int, num_episodes: int) -> None:
        self.horizon, self.num_episodes = horizon, num_episodes
        cell = np.arange(size**2)
        self.xy = np.stack([cell % size, cell // size], axis=1)
        distance = self.xy.sum(axis=1)
        is_goal = (self.xy > 1).any(axis=1)
        self.num_goals = int(is_goal.sum())
        self.bit = np.where(is_goal, 1 << np.maximum(np.cumsum(is_goal) - 1, 0), 0)
        self.everywhere = int(self.bit.sum())
        # Steps on the goal in an episode at whose start it is known.
        self.later = np.where(is_goal, np.maximum(horizon - distance + 1, 0), 0)
        # Goals at each distance as bits, nearest first, with their steps in a later episode.
        self.rings = [
            (int(self.bit[is_goal & (distance == d)].sum()), max(horizon - d + 1, 0))
            for d in range(2, 2 * size - 1)
        ]
        # Staying, or running into a wall, never helps the search: all that it finds later could be
        # found a step earlier.
        target = self.xy[None] + GRID_MOVES[1:, None]
        inside = ((target >= 0) & (target < size)).all(axis=2)
        self.neighbours = np.where(inside, target[..., 1] * size + target[..., 0], -1)

    def bound(self, episode: int, step: int, searched: np.ndarray) -> np.ndarray:
        """Returns an upper bound on what can still be gained after a step, ``[C]``.

        The bound assumes that every following step of this episode, and of the next (from its
        second step on), finds another goal, and the nearest goals first, which pay most later.
        """
        rest = self.everywhere & ~searched
        missing = np.bitwise_count(rest).astype(np.int64)
        left = np.minimum(missing, self.horizon - step)
        episodes_after = self.num_episodes - 1 - episode
        total = _falling_sum(self.horizon - step, left)
        if episodes_after:
            next_found = np.minimum(missing - left, self.horizon - 1)
            total = total + _falling_sum(self.horizon - 1, next_found)
            # A goal that is found even later pays less than 1 + (H - 1) steps in its own episode.
            total = total + (missing - left - next_found) * (self.horizon - 1)
        for ring, pays in self.rings:
            count = np.bitwise_count(rest & ring).astype(np.int64)
            now = np.minimum(count, left)
            left = left - now
            total = total + now * episodes_after * pays
            total = total + (count - now) * max(episodes_after - 1, 0) * pays
        return total

    def expand(self, layer: _Layer, episode: int, step: int) -> _Layer:
        """Returns all states after one more step, with the best path to each."""
        if len(layer.cell) > MAX_STATES:
            raise ValueError(
                f"this grid is too large for an exact search: over {MAX_STATES:,} states at step "
                f"{step} of episode {episode + 1}"
            )
        parts = []
        for neighbour in self.neighbours:
            cell = neighbour[layer.cell]
            parent = np.flatnonzero(cell >= 0)
            cell = cell[parent]
            new = (self.bit[cell] & ~layer.searched[parent]) != 0
            found_now = self.horizon - step + 1
            gain = found_now + (self.num_episodes - 1 - episode) * self.later[cell]
            value = layer.value[parent] + np.where(new, gain, 0)
            parts.append((cell, layer.searched[parent] | self.bit[cell], value, parent))
        states = _Layer(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        if step == self.horizon:  # the next step starts at the corner, wherever this one ended
            order = np.lexsort((-states.value, states.searched))
        else:
            order = np.lexsort((-states.value, states.cell, states.searched))
        states = _Layer(*(field[order] for field in states))
        changes = np.diff(states.searched) != 0
        if step < self.horizon:
            changes |= np.diff(states.cell) != 0
        return _Layer(*(field[np.append(True, changes)] for field in states))

    def run(self, at_least: int, width: int | None) -> tuple[int, list[int]]:
        """Returns the best total over all goals, and the path of cells that has it.

        Args:
            at_least: Total that is known to be possible; states that cannot reach it are left out.
            width: Number of the most promising states of a layer to keep; ``None`` keeps all.
        """
        zero = np.zeros(1, dtype=np.int64)
        layers = [_Layer(zero, zero, zero, zero)]
        for episode in range(self.num_episodes):
            for step in range(1, self.horizon + 1):
                layer = layers[-1]
                if step == 1:
                    layer = layer._replace(cell=np.zeros_like(layer.cell))
                states = self.expand(layer, episode, step)
                hope = states.value + self.bound(episode, step, states.searched)
                keep = np.flatnonzero(hope >= at_least)
                if width is not None:
                    keep = keep[np.argsort(-hope[keep], kind="stable")[:width]]
                layers.append(_Layer(*(field[keep] for field in states)))
        index = int(layers[-1].value.argmax())
        best, path = int(layers[-1].value[index]), []
        for layer in layers[:0:-1]:
            path.append(int(layer.cell[index]))
            index = int(layer.parent[index])
        return best, path[::-1]


def _falling_sum(first: int, count: np.ndarray) -> np.ndarray:
    """Returns the sum of ``count`` numbers: ``first + (first - 1) + ...``."""
    return count * first - count * (count - 1) // 2


@lru_cache(maxsize=8)
def bayes_optimal_search(size: int = 5, horizon: int = 15, num_episodes: int = 4) -> SearchPlan:
    """Computes the exact Bayes-optimal policy and return of grid navigation.

    The goal is uniform over all cells but the four of the starting corner. The published 5 × 5 grid
    with 4 episodes of 15 steps has 825 / 21 expected steps on the goal, and an expected return of
    1.1 · 825 / 21 - 6 ≈ 37.21.

    Args:
        size: Number of cells along each side, 3 to 8.
        horizon: Number of steps in an episode, H.
        num_episodes: Number of episodes in a trial, E.

    Raises:
        ValueError: The size is out of range, a count is below one, or there are too many states (7
            × 7 cells and 20 steps, for example; 6 × 6 takes less than a second).
    """
    if check_count("size", size, least=3) ** 2 - 4 > MAX_GOALS:
        raise ValueError(f"size has to be at most 8, got {size}")
    check_count("horizon", horizon)
    check_count("num_episodes", num_episodes)
    search = _Search(size, horizon, num_episodes)
    possible, _ = search.run(at_least=0, width=3000)
    best, path = search.run(at_least=possible, width=None)
    cells = search.xy[path].reshape(num_episodes, horizon, 2)
    starts = np.zeros((num_episodes, 1, 2), dtype=np.int64)
    moves = np.diff(np.concatenate([starts, cells], axis=1), axis=1)
    actions = (moves[:, :, None, :] == GRID_MOVES).all(axis=-1).argmax(axis=-1)
    steps_on_goal = best / search.num_goals
    steps = horizon * num_episodes
    expected_return = GOAL_REWARD * steps_on_goal + STEP_REWARD * (steps - steps_on_goal)
    actions.flags.writeable = cells.flags.writeable = False  # shared by all callers
    return SearchPlan(actions, cells, steps_on_goal, expected_return)


class SearchState(NamedTuple):
    """State of the search of each task.

    Attributes:
        steps: Number of steps taken in the trial, int64 ``[N]``.
        cell: Position of the agent after its last action, int64 ``[N, 2]``.
        goal: Position of the goal, int64 ``[N, 2]``; -1 until it is found.
    """

    steps: np.ndarray
    cell: np.ndarray
    goal: np.ndarray


class BayesOptimalSearch:
    """Bayes-optimal agent of grid navigation, which follows the best path until it finds the goal.

    It sees rewards within an episode through :class:`.AppendPreviousStep`,
    with which the evaluator wraps the environment.

    Args:
        size: Number of cells along each side.
        horizon: Number of steps in an episode, H.
        num_episodes: Number of episodes in a trial, E. In further episodes an agent that has not
            found the goal repeats the path of the last one.
    """

    def __init__(self, size: int = 5, horizon: int = 15, num_episodes: int = 4) -> None:
        self.plan = bayes_optimal_search(size, horizon, num_episodes)
        self.size, self.horizon, self.num_episodes = size, horizon, num_episodes

    @staticmethod
    def wrap_env(env: VectorEnv) -> VectorEnv:
        """Wraps the environment so that observations carry the previous reward."""
        return AppendPreviousStep(env)

    def adapt(self, rollout: Rollout, state: SearchState | None = None) -> SearchState | None:
        """Returns the state as it is: :meth:`predict` has seen every reward, or is about to."""
        return state

    def predict(
        self,
        observation: Any,
        state: SearchState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, SearchState]:
        """Returns Bayes-optimal actions ``[N]``.

        Args:
            observation: Observations of ``AppendPreviousStep``, ``[N, 2 + 5 + 3]``.
            state: State from the previous call; ``None`` at the start of a trial.
            episode_start: Tasks where an episode begins, bool ``[N]``.
            deterministic: Not used: the policy is deterministic.

        Raises:
            ValueError: The observation has another shape.
        """
        observation = np.asarray(observation)
        if observation.ndim != 2 or observation.shape[1] != 2 + len(GRID_MOVES) + 3:
            raise ValueError(
                f"observation must have shape [N, {2 + len(GRID_MOVES) + 3}] "
                f"(see AppendPreviousStep), got {list(observation.shape)}"
            )
        num = len(observation)
        if state is None:
            unknown = np.full((num, 2), -1, dtype=np.int64)
            state = SearchState(np.zeros(num, dtype=np.int64), np.zeros_like(unknown), unknown)
        # The reward belongs to the last action, even if a new episode has begun since.
        found = (observation[:, -3] > 0) & (state.goal[:, 0] < 0) & (state.steps > 0)
        goal = np.where(found[:, None], state.cell, state.goal)
        starts = np.zeros(num, dtype=bool) if episode_start is None else np.asarray(episode_start)
        ahead = -state.steps % self.horizon  # more than 0 only if an episode was cut short
        steps = state.steps + np.where(starts, ahead, 0)
        cell = np.round(observation[:, :2]).astype(np.int64)
        episode = np.minimum(steps // self.horizon, self.num_episodes - 1)
        searching = self.plan.actions[episode, steps % self.horizon]
        actions = np.where(goal[:, 0] < 0, searching, grid_action(cell, goal))
        cell = np.clip(cell + GRID_MOVES[actions], 0, self.size - 1)
        return actions, SearchState(steps + 1, cell, goal)
