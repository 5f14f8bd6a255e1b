"""Grids in which an agent looks for a goal that it does not see."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import device
from gymnasium import spaces

from meta_rl.definition import TaskFuncEnv, ones_where, zeros_for
from meta_rl.rendering import map_picture as picture
from meta_rl.tasks import FiniteTasks, Tasks, TaskSplit, check_count
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
"""Displacements of the actions in x and y: stay, up, right, down, left."""


class GridState(NamedTuple):
    """Position of each agent.

    Attributes:
        position: Cell (x, y), int64 ``[N, 2]``; (0, 0) is the lower left cell.
    """

    position: np.ndarray


def moved(position: Any, action: Any, size: int) -> Any:
    """Returns positions after the actions; walls hold the agent back.

    Args:
        position: Cell (x, y), int ``[N, 2]``.
        action: Index into ``MOVES``, ``[N]``.
        size: Number of cells along each side of the grid.
    """
    return (position + steps(MOVES, action)).clip(0, size - 1)


def steps(moves: np.ndarray, action: Any) -> Any:
    """Returns the displacements of the actions along x and y, int ``[N, 2]``.

    Args:
        moves: Displacements, one row for each kind of action.
        action: Index of a row, ``[N]``.
    """
    xp = array_namespace(action)
    return xp.take(xp.asarray(moves, device=device(action)), action, axis=0)


def same_cell(position: Any, cell: Any) -> Any:
    """Returns whether each position equals its cell, bool ``[N]``."""
    return array_namespace(position).all(position == cell, axis=-1)


def all_cells(size: int) -> np.ndarray:
    """Returns all cells as x and y, int64 ``[size * size, 2]``, row by row from the lower left."""
    cell = np.arange(size * size)
    return np.stack([cell % size, cell // size], axis=1)


class GridNavigation(TaskFuncEnv):
    """Grid navigation of the VariBAD paper (GridNavi).

    ## Description
    An agent starts in the corner of a grid and looks for the goal, the task, which it does not see.
    The best agent searches cell by cell in the first episode, and goes straight to the goal once it
    has been there. The problem is small enough for an exact Bayes-optimal policy: see
    ``meta_rl.agents.grid_search``. Source: Zintgraf et al., "VariBAD: A Very Good Method for
    Bayes-Adaptive Deep RL via Meta-Learning", 2020, section 5.1, and the authors' code
    (``environments/navigation/gridworld.py`` of https://github.com/lmzintgraf/varibad).

    ## Action Space
    ``Discrete(5)``: stay, up (y + 1), right (x + 1), down, left. Walls hold the agent back.

    ## Observation Space
    ``Box(0, size - 1, (2,))``: x and y of the agent.

    ## Rewards
    The reward is 1 at every step after which the agent is on the goal, also when it stays there:
    info ``reward_goal``. It is -0.1 elsewhere: info ``reward_step``.

    ## Starting State
    The agent starts in the cell (0, 0).

    ## Episode End
    The episode is *terminated* after ``horizon`` steps: the horizon is part of the problem.
    (VariBAD sets ``done`` there, and nowhere else.)

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``size`` | 5 | number of cells along each side, at least 3 |
    | ``horizon`` | 15 | number of steps in an episode |
    | ``episodes_per_trial`` | 4 | number of episodes on one task |

    ## Task distribution
    ``Box(0, size - 1, (2,))``, integers: the goal, uniform over all cells but the four of the
    starting corner (21 goals of a 5 × 5 grid). Train, validation and test are the same list: the
    agent has to learn to search, not to generalise.

    ## Adaptation
    The agent adapts after every episode; a trial is ``episodes_per_trial`` episodes.

    ## Version History
    * v0: initial.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}
    horizon_is_terminal = True

    def __init__(self, size: int = 5, horizon: int = 15, episodes_per_trial: int = 4) -> None:
        super().__init__()
        self.size = check_count("size", size, least=3)
        self.horizon = check_count("horizon", horizon)
        self.episodes_per_trial = check_count("episodes_per_trial", episodes_per_trial)
        self.observation_space = spaces.Box(0.0, self.size - 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        cells = all_cells(self.size)
        space = spaces.Box(0, self.size - 1, (2,), np.int64)
        goals = FiniteTasks(space, cells[~self._is_corner(cells)])
        self.task_split = TaskSplit(train=goals, validation=goals, test=goals)

    @staticmethod
    def _is_corner(cells: np.ndarray) -> np.ndarray:
        return np.all(cells <= 1, axis=-1)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses goals in the starting corner."""
        corner = self._is_corner(tasks)
        if corner.any():
            task = int(np.argmax(corner))
            raise ValueError(
                f"task {task}: goal {tasks[task]} is one of the starting corner's four"
            )

    def initial(self, rng: Draws, params: Tasks) -> GridState:
        """Returns states in the starting corner."""
        return GridState(zeros_for(params, (2,), "int64"))

    def transition(self, state: GridState, action: Any, rng: Draws, params: Tasks) -> GridState:
        """Moves by one cell."""
        return GridState(moved(state.position, action, self.size))

    def observation(self, state: GridState, rng: Draws, params: Tasks) -> Any:
        """Returns the position: x and y."""
        xp = array_namespace(state.position)
        return xp.astype(state.position, xp.float32)

    def reward_terms(
        self, state: GridState, action: Any, next_state: GridState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns 1 on the goal, and -0.1 elsewhere."""
        reached = ones_where(same_cell(next_state.position, params))
        return {"reward_goal": reached, "reward_step": 0.1 * (reached - 1.0)}

    def render_frames(self, state: GridState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws the grid with (0, 0) at the lower left: start grey, goal green, agent blue."""
        frames = picture.grid_pictures(len(params), self.size, self.size)
        frames = picture.paint_cells(frames, np.zeros(2, dtype=np.int64), picture.START)
        frames = picture.paint_cells(frames, params, picture.GOAL)
        agents = picture.cell_pixels(state.position, self.size)
        return tuple(picture.paint_discs(frames, agents, 7.5, picture.AGENT))
