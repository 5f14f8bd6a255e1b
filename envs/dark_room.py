"""Dark rooms: grids in which the agent only sees its own cell."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.definition import TaskFuncEnv, ones_where, zeros_for
from meta_rl.rendering import map_picture as picture
from meta_rl.tasks import FiniteTasks, Tasks, TaskSplit, check_count, count_tasks, take_tasks
from meta_rl.vector.streams import Draws

from .grid_navigation import MOVES, GridState, all_cells, moved, same_cell

SEED = 2022
TRAIN_SHARE = 0.8


class _DarkRoom(TaskFuncEnv):
    """Base class of dark rooms: the grid, and an observation that is the number of the cell.

    ## Action Space
    ``Discrete(5)``: stay, up (y + 1), right (x + 1), down, left. Walls hold the agent back.

    ## Observation Space
    ``Discrete(size * size)``: the agent's cell, ``y * size + x``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``size`` | 9 | number of cells along each side |
    | ``episodes_per_trial`` | 10 | number of episodes on one task |

    ## Adaptation
    The agent adapts after every episode; a trial is ``episodes_per_trial`` episodes.

    ## Version History
    * v0: initial.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, size: int, horizon: int, episodes_per_trial: int) -> None:
        super().__init__()
        self.size = check_count("size", size, least=2)
        self.horizon = check_count("horizon", horizon)
        self.episodes_per_trial = check_count("episodes_per_trial", episodes_per_trial)
        self.observation_space = spaces.Discrete(self.size**2)
        self.action_space = spaces.Discrete(len(MOVES))
        self.cell_space = spaces.Box(0, self.size - 1, (2,), np.int64)

    def _cell(self, position: Any) -> Any:
        return position[:, 1] * self.size + position[:, 0]


class DarkRoom(_DarkRoom):
    """Square room with a goal that the agent does not see (dark room).

    ## Description
    An agent in a square room looks for a goal that it does not see, and is paid at every step that
    it stays there. Source: Laskin et al., "In-context Reinforcement Learning with Algorithm
    Distillation", 2022, section 4.1. The authors published no code; in some other implementations
    the goal ends the episode. Here, as in the paper, it does not by default; for the paper's hard
    variant, which pays once, use ``size=17, terminate_at_goal=True``.

    ## Rewards
    The reward is 1 at every step after which the agent is on the goal: info ``reward_goal``.

    ## Starting State
    The agent starts in the middle of the room.

    ## Episode End
    The episode is *truncated* after ``horizon`` steps; *terminated* on the goal with
    ``terminate_at_goal``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 20 | number of steps in an episode |
    | ``terminate_at_goal`` | ``False`` | whether reaching the goal ends the episode |

    ## Task distribution
    ``Box(0, size - 1, (2,))``, integers: the goal's x and y, any cell. The list of cells is
    shuffled once (seeded): four fifths are for training, and the rest is halved into validation and
    test (65, 8 and 8 of 81). The paper says that training and evaluation goals differ, but not
    which they are.
    """

    def __init__(
        self,
        size: int = 9,
        horizon: int = 20,
        episodes_per_trial: int = 10,
        terminate_at_goal: bool = False,
    ) -> None:
        super().__init__(size, horizon, episodes_per_trial)
        self.terminate_at_goal = bool(terminate_at_goal)
        self.task_split = cut_list(self.cell_space, all_cells(self.size))

    def initial(self, rng: Draws, params: Tasks) -> GridState:
        """Returns states in the middle of the room."""
        return GridState(zeros_for(params, (2,), "int64") + self.size // 2)

    def transition(self, state: GridState, action: Any, rng: Draws, params: Tasks) -> GridState:
        """Moves by one cell."""
        return GridState(moved(state.position, action, self.size))

    def observation(self, state: GridState, rng: Draws, params: Tasks) -> Any:
        """Returns the number of the cell."""
        return self._cell(state.position)

    def reward_terms(
        self, state: GridState, action: Any, next_state: GridState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns 1 on the goal, otherwise 0."""
        at_goal = same_cell(next_state.position, params)
        return {"reward_goal": ones_where(at_goal)}

    def terminal(self, state: GridState, rng: Draws, params: Tasks) -> Any:
        """Returns whether the agent is on the goal and ``terminate_at_goal`` is set."""
        return same_cell(state.position, params) & self.terminate_at_goal

    def render_frames(self, state: GridState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws the room with (0, 0) at the lower left: goal green, agent blue."""
        frames = picture.grid_pictures(len(params), self.size, self.size)
        frames = picture.paint_cells(frames, params, picture.GOAL)
        agents = picture.cell_pixels(state.position, self.size)
        return tuple(picture.paint_discs(frames, agents, 7.5, picture.AGENT))


class KeyState(NamedTuple):
    """Position of each agent, and its progress in the episode.

    Attributes:
        position: Cell (x, y), int64 ``[N, 2]``; (0, 0) is the lower left cell.
        has_key: Whether it has found the key, bool ``[N]``.
        door_open: Whether it has been at the door with the key, bool ``[N]``.
    """

    position: np.ndarray
    has_key: np.ndarray
    door_open: np.ndarray


class DarkKeyToDoor(_DarkRoom):
    """Dark room with a key and a door that the agent has to find in this order.

    ## Description
    The room is that of ``DarkRoom``, but the agent has to find a key first and then a door. It sees
    neither of them, nor whether it holds the key. Source: Laskin et al., "In-context Reinforcement
    Learning with Algorithm Distillation", 2022, section 4.1. Other implementations differ: in some
    the door pays at every step spent there, in some it ends the episode (``terminate_at_door``),
    and in AMAGO's the agent sees whether it holds the key. Here, as in the paper's text, key and
    door pay once each.

    ## Rewards
    The first step that ends on the key pays 1: info ``reward_key``. The first step that ends at the
    door with the key pays 1 (the same step if both are in one cell): info ``reward_door``.

    ## Starting State
    Every episode starts in a uniformly random cell, without the key. In the cell of the key, the
    action "stay" takes it.

    ## Episode End
    The episode is *truncated* after ``horizon`` steps; *terminated* at the open door with
    ``terminate_at_door``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 50 | number of steps in an episode |
    | ``terminate_at_door`` | ``False`` | whether opening the door ends the episode |

    ## Task distribution
    A ``Dict`` of ``key`` and ``door``, each ``Box(0, size - 1, (2,))``, integers: their x and y,
    any two cells. The list of pairs is shuffled once (seeded): four fifths are for training, and
    the rest is halved into validation and test (5,249, 656 and 656 of 6,561).
    """

    def __init__(
        self,
        size: int = 9,
        horizon: int = 50,
        episodes_per_trial: int = 10,
        terminate_at_door: bool = False,
    ) -> None:
        super().__init__(size, horizon, episodes_per_trial)
        self.terminate_at_door = bool(terminate_at_door)
        space = spaces.Dict({"key": self.cell_space, "door": self.cell_space})
        cells = all_cells(self.size)
        pair = np.arange(len(cells) ** 2)
        pairs = {"key": cells[pair % len(cells)], "door": cells[pair // len(cells)]}
        self.task_split = cut_list(space, pairs)

    def initial(self, rng: Draws, params: Tasks) -> KeyState:
        """Draws a start in any cell, without the key."""
        nowhere = zeros_for(params, dtype="bool")
        return KeyState(rng.integers(self.size, size=(len(nowhere), 2)), nowhere, nowhere)

    def transition(self, state: KeyState, action: Any, rng: Draws, params: Tasks) -> KeyState:
        """Moves by one cell, takes the key that is there, and opens the door with it."""
        position = moved(state.position, action, self.size)
        has_key = state.has_key | same_cell(position, params["key"])
        door_open = state.door_open | (has_key & same_cell(position, params["door"]))
        return KeyState(position, has_key, door_open)

    def observation(self, state: KeyState, rng: Draws, params: Tasks) -> Any:
        """Returns the number of the cell."""
        return self._cell(state.position)

    def reward_terms(
        self, state: KeyState, action: Any, next_state: KeyState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns 1 for the key and 1 for the door, once each."""
        return {
            "reward_key": ones_where(next_state.has_key & ~state.has_key),
            "reward_door": ones_where(next_state.door_open & ~state.door_open),
        }

    def terminal(self, state: KeyState, rng: Draws, params: Tasks) -> Any:
        """Returns whether the door is open and ``terminate_at_door`` is set."""
        return state.door_open & self.terminate_at_door

    def render_frames(self, state: KeyState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws the room from above: key orange until taken, door green, agent blue."""
        frames = picture.grid_pictures(count_tasks(params), self.size, self.size)
        frames = picture.paint_cells(frames, params["door"], picture.GOAL)
        # The key is smaller than a cell, so that a door under it shows.
        keys = picture.cell_pixels(params["key"], self.size)
        with_keys = picture.paint_discs(frames, keys, 9.5, picture.KEY)
        frames = np.where(state.has_key[:, None, None, None], frames, with_keys)
        agents = picture.cell_pixels(state.position, self.size)
        return tuple(picture.paint_discs(frames, agents, 7.5, picture.AGENT))


def cut_list(space: spaces.Space, tasks: Tasks) -> TaskSplit:
    """Shuffles all tasks once and cuts the list: four fifths train, the rest is halved.

    Args:
        space: Space of one task.
        tasks: All tasks, at least 4.
    """
    num = count_tasks(tasks)
    order = np.random.default_rng(SEED).permutation(num)
    num_test = max(1, round(num * (1 - TRAIN_SHARE) / 2))
    parts = order[: num - 2 * num_test], order[num - 2 * num_test : -num_test], order[-num_test:]
    return TaskSplit(*(FiniteTasks(space, take_tasks(tasks, part)) for part in parts))
