"""T-maze: a cue at the start tells which way to turn at the end of a corridor."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.definition import TaskFuncEnv, ones_where, zeros_for
from meta_rl.rendering import map_picture as picture
from meta_rl.tasks import FiniteTasks, Tasks, TaskSplit, check_count
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

from .grid_navigation import steps

MOVES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""Displacements of the actions in x and y: right, up, left, down."""


class MazeState(NamedTuple):
    """Position of each agent, and the state of its cue.

    Attributes:
        position: Cell (x, y), int64 ``[N, 2]``; the corridor is y = 0, the cue is at x = 0.
        steps: Number of steps taken in the episode, int64 ``[N]``.
        cue_shown: Whether the agent sees the cue now, bool ``[N]``.
        cue_gone: Whether the cue has been shown, now or before, bool ``[N]``.
    """

    position: np.ndarray
    steps: np.ndarray
    cue_shown: np.ndarray
    cue_gone: np.ndarray


class TMaze(TaskFuncEnv):
    """T-maze with a cue at the start that the agent has to remember.

    ## Description
    A corridor has a junction at its end. The task is the side of the junction where the goal lies.
    The corridor's first cell shows it once, and the agent has to remember it to the end. Source: Ni
    et al., "When Do Transformers Shine in RL? Decoupling Memory from Credit Assignment", 2023
    (passive T-maze with ``oracle_length=0``, active with 1; ``envs/tmaze.py`` of
    https://github.com/twni2016/Memory-RL), after Bakker, "Reinforcement Learning with Long
    Short-Term Memory", 2001.

    ## Action Space
    ``Discrete(4)``: right (x + 1), up (y + 1), left, down. Walls hold the agent back.

    ## Observation Space
    ``Box((3,))``: x, y and the cue (the task, +1 or -1, at the first visit of x = 0; otherwise 0).
    With ``ambiguous_position``, x is replaced by 1 at the junction and 0 before it, so that all
    cells of the corridor look alike. (The source then puts y and the cue into one number.)

    ## Rewards
    ``goal_reward`` at the last step, if the agent is on the goal's side then: info ``reward_goal``.
    ``penalty`` at every other step at which x is less than the steps taken minus ``oracle_length``,
    so that an agent that always goes right is never fined: info ``reward_penalty``.

    ## Starting State
    The agent starts at x = ``oracle_length``, y = 0.

    ## Episode End
    The episode is *terminated* after ``corridor_length + 2 * oracle_length + 1`` steps, which are
    just enough.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``corridor_length`` | 10 | number of cells from the start to the junction |
    | ``oracle_length`` | 0 | number of cells from the start back to the cue |
    | ``goal_reward`` | 1.0 | reward on the goal's side at the end |
    | ``penalty`` | 0.0 | reward for lagging behind; 0 or less |
    | ``ambiguous_position`` | ``False`` | whether x is hidden in the corridor |

    ## Task distribution
    ``Box(-1, 1, (1,))``, integers: the goal's side, +1 (up) or -1 (down). There are only two tasks:
    validation and test equal train.

    ## Adaptation
    The agent adapts after every episode; a trial is one episode, which reveals the task.

    ## Version History
    * v0: initial.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}
    horizon_is_terminal = True

    def __init__(
        self,
        corridor_length: int = 10,
        oracle_length: int = 0,
        goal_reward: float = 1.0,
        penalty: float = 0.0,
        ambiguous_position: bool = False,
    ) -> None:
        super().__init__()
        self.corridor_length = check_count("corridor_length", corridor_length)
        self.oracle_length = check_count("oracle_length", oracle_length, least=0)
        self.goal_reward = float(goal_reward)
        self.penalty = check_number("penalty", penalty, most=0)
        self.ambiguous_position = bool(ambiguous_position)
        self.junction = self.oracle_length + self.corridor_length
        self.horizon = self.corridor_length + 2 * self.oracle_length + 1
        farthest = 1 if self.ambiguous_position else self.junction
        self.observation_space = spaces.Box(
            np.array([0, -1, -1], dtype=np.float32), np.array([farthest, 1, 1], dtype=np.float32)
        )
        self.action_space = spaces.Discrete(len(MOVES))
        sides = FiniteTasks(spaces.Box(-1, 1, (1,), np.int64), [[-1], [1]])
        self.task_split = TaskSplit(train=sides, validation=sides, test=sides)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses 0, which is no side."""
        if (tasks == 0).any():
            task = int(np.argmax(tasks[:, 0] == 0))
            raise ValueError(f"task {task}: the side has to be -1 or 1, got 0")

    def initial(self, rng: Draws, params: Tasks) -> MazeState:
        """Returns states at the start, which shows the cue if the cue is there."""
        position = zeros_for(params, (2,), "int64")
        position[:, 0] = self.oracle_length
        shown = position[:, 0] == 0
        return MazeState(position, zeros_for(params, dtype="int64"), shown, shown)

    def transition(self, state: MazeState, action: Any, rng: Draws, params: Tasks) -> MazeState:
        """Moves by one cell within the corridor and both sides of its junction."""
        xp = array_namespace(state.position)
        target = state.position + steps(MOVES, action)
        x, y = target[:, 0], target[:, 1]
        in_corridor = (y == 0) & (x >= 0) & (x <= self.junction)
        at_side = (xp.abs(y) == 1) & (x == self.junction)
        position = xp.where((in_corridor | at_side)[:, None], target, state.position)
        shown = (position[:, 0] == 0) & ~state.cue_gone
        return MazeState(position, state.steps + 1, shown, state.cue_gone | shown)

    def observation(self, state: MazeState, rng: Draws, params: Tasks) -> Any:
        """Returns x (or whether it is the junction's), y and the cue."""
        x, y = state.position[:, 0], state.position[:, 1]
        xp = array_namespace(state.position)
        where = xp.astype(x == self.junction, x.dtype) if self.ambiguous_position else x
        cue = xp.where(state.cue_shown, params[:, 0], 0)
        return xp.astype(xp.stack([where, y, cue], axis=1), xp.float32)

    def reward_terms(
        self, state: MazeState, action: Any, next_state: MazeState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns the reward for the right side at the end, and the penalty for lagging behind."""
        last = next_state.steps >= self.horizon
        at_goal = next_state.position[:, 1] == params[:, 0]
        behind = next_state.position[:, 0] < next_state.steps - self.oracle_length
        return {
            "reward_goal": self.goal_reward * ones_where(last & at_goal),
            "reward_penalty": self.penalty * ones_where(~last & behind) + 0.0,  # no -0.0
        }

    def render_frames(self, state: MazeState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws the maze: walls dark, cue's cell pale, goal green, agent blue (if cued, orange)."""
        frames = picture.grid_pictures(len(params), self.junction + 1, 3)
        for x in range(self.junction):
            for y in (0, 2):
                frames = picture.paint_cells(frames, np.array([x, y]), picture.WALL)
        frames = picture.paint_cells(frames, np.array([0, 1]), picture.ZONE)
        side = params[:, 0] + 1
        goals = np.stack([np.full_like(side, self.junction), side], axis=1)
        frames = picture.paint_cells(frames, goals, picture.GOAL)
        agents = picture.cell_pixels(state.position + np.array([0, 1]), 3)
        cued = picture.paint_discs(frames, agents, 7.5, picture.KEY)
        frames = picture.paint_discs(frames, agents, 7.5, picture.AGENT)
        return tuple(np.where(state.cue_shown[:, None, None, None], cued, frames))
