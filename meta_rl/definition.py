"""What an environment family writes: pure, batch-first functions over tasks.

One file with one subclass of :class:`TaskFuncEnv` is a whole family. The front ends
:class:`meta_rl.TaskEnv` (a batch of one) and :class:`meta_rl.TaskVectorEnv` (the native batch) run
it; see docs/environments.md for the contract.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.experimental.functional import FuncEnv

from meta_rl.streams import Draws
from meta_rl.tasks import Tasks, TaskSplit, count_tasks
from meta_rl.window import PictureWindow, Window


class TaskFuncEnv(FuncEnv):
    """Gymnasium's functional contract, batch-first, with the tasks as its ``params``.

    Every function takes and returns batches: each array has a leading axis of length ``N``, one
    entry per sub-environment, and there is no Python loop over them. The state is a ``NamedTuple``
    of arrays. Functions are pure: they never write into an array that they were given.

    Random numbers come from the ``rng`` that is passed in: a :class:`numpy.random.Generator`, or
    :class:`meta_rl.streams.TaskStreams` with the same methods and a stream for each
    sub-environment. Every draw has the leading axis ``N`` as its first (``rng.random((n, 3))``,
    never ``rng.random(3)`` shared by all), so that a sub-environment behaves the same whatever
    batch it is in.

    Attributes:
        observation_space: Of a single sub-environment.
        action_space: Of a single sub-environment.
        task_split: The task distributions; ``task_split.space`` is what one task is.
        horizon: Steps in an episode.
        horizon_is_terminal: Whether reaching the horizon is part of the problem (``terminated``) or
            a time limit (``truncated``).
        episodes_per_trial: Episodes on one task that make a trial, for agents and evaluation.
        adaptation_unit: After what a learner may adapt: every ``"episode"``, or every ``"step"``
            (a pull of a bandit is an episode of one step).
        steps_on_threads: Whether a step of a batch runs on several cores.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space: spaces.Space
    action_space: spaces.Space
    task_split: TaskSplit
    horizon: int
    horizon_is_terminal: bool = False
    episodes_per_trial: int = 1
    adaptation_unit: Literal["episode", "step"] = "episode"
    steps_on_threads: bool = False

    def __init__(self) -> None:
        super().__init__()

    def initial(self, rng: Draws, params: Tasks) -> Any:
        """First states of ``N`` episodes, one for each of the ``N`` tasks."""
        raise NotImplementedError

    def transition(self, state: Any, action: Any, rng: Draws, params: Tasks) -> Any:
        """The states after the actions."""
        raise NotImplementedError

    def observation(self, state: Any, rng: Draws, params: Tasks) -> Any:
        """What the agent sees of the states, ``[N, ...]``."""
        raise NotImplementedError

    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """The parts of the reward, ``[N]`` each, by names that start with ``reward_``."""
        raise NotImplementedError

    def reward(self, state: Any, action: Any, next_state: Any, rng: Draws, params: Tasks) -> Any:
        """The sum of :meth:`reward_terms`, ``[N]``."""
        return sum(self.reward_terms(state, action, next_state, rng, params).values())

    def terminal(self, state: Any, rng: Draws, params: Tasks) -> Any:
        """Which states end the episode, bool ``[N]``; none by default."""
        return np.zeros(count_tasks(params), dtype=bool)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuse tasks that their space cannot exclude by itself.

        Args:
            tasks: Inside ``task_split.space`` already.

        Raises:
            ValueError: Says which task, and what is wrong with it.
        """

    def render_frames(self, state: Any, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """One frame per sub-environment, for the modes that ``metadata`` declares.

        A family that declares ``"rgb_array"`` (uint8 ``[height, width, 3]``) and ``"render_fps"``
        has ``render_mode="human"`` too: see :meth:`open_window`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not render")

    def open_window(self) -> Window:
        """What shows one sub-environment on the screen, for ``render_mode="human"``.

        By default, the frames of :meth:`render_frames`.
        """
        return PictureWindow(
            partial(self.render_frames, render_mode="rgb_array"), type(self).__name__
        )

    def close(self) -> None:
        """Release what the definition holds (threads, windows)."""
