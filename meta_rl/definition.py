"""The base class of environment families: pure, batch-first functions over tasks.

One file with one subclass of :class:`TaskFuncEnv` is a whole family. The front ends
:class:`meta_rl.TaskEnv` (a batch of one) and :class:`meta_rl.TaskVectorEnv` (the native batch) run
it. The contract is in docs/environments.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

from array_api_compat import device
from gymnasium import spaces
from gymnasium.experimental.functional import FuncEnv

from meta_rl.arguments import CheckedArguments
from meta_rl.rendering.window import PictureWindow, Window
from meta_rl.tasks import TaskSplit, first_array
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws
from meta_rl.vector.task_arrays import Tasks


class TaskFuncEnv(CheckedArguments, FuncEnv):
    """The base class of a family: Gymnasium's functional interface for batches of tasks.

    Every function takes and returns batches: each array has a leading axis of length ``N``, one
    entry per sub-environment, and there is no Python loop over them. The argument ``params`` is the
    tasks. The state is a ``NamedTuple`` of arrays. Functions are pure: they never write into an
    array that they were given.

    Random numbers come from the ``rng`` that is passed in: a :class:`numpy.random.Generator`, or
    an object with the same methods, which has a stream for each sub-environment
    (:class:`meta_rl.vector.streams.TaskStreams`) or draws tensors
    (:class:`meta_rl.vector.tensor_draws.TensorDraws`). The first axis of every draw is the batch
    (``rng.random((n, 3))``, never ``rng.random(3)`` shared by all). So a sub-environment behaves
    the same in every batch.

    The constructor's arguments are checked by their annotations
    (:class:`meta_rl.arguments.CheckedArguments`).

    Attributes:
        observation_space: Observation space of a single sub-environment.
        action_space: Action space of a single sub-environment.
        task_split: Task distributions; ``task_split.space`` is the space of one task.
        horizon: Number of steps in an episode.
        horizon_is_terminal: Whether an episode ends at the horizon as ``terminated``, or as
            ``truncated`` by a time limit (default: False).
        episodes_per_trial: Number of episodes in a trial on one task (default: 1).
        adaptation_unit: Interval at which a learner may adapt: every ``"episode"`` (default) or
            every ``"step"`` (bandits: every pull).
        steps_on_threads: Whether a step of a batch runs on several cores (default: False).
        device: PyTorch device of the family's tensors, if the family works on no numpy arrays
            (default: ``None``).
        numpy_only: Whether the family works on numpy arrays only (default: False).
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
    device: Any = None
    numpy_only: bool = False

    def __init__(self) -> None:
        super().__init__()

    def initial(self, rng: Draws, params: Tasks) -> Any:
        """Returns the first states of ``N`` episodes, one for each of the ``N`` tasks."""
        raise NotImplementedError

    def transition(self, state: Any, action: Any, rng: Draws, params: Tasks) -> Any:
        """Returns the states after the actions."""
        raise NotImplementedError

    def observation(self, state: Any, rng: Draws, params: Tasks) -> Any:
        """Returns the agent's observations of the states, ``[N, ...]``."""
        raise NotImplementedError

    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns the parts of the reward, ``[N]`` each, by names that start with ``reward_``."""
        raise NotImplementedError

    def reward(self, state: Any, action: Any, next_state: Any, rng: Draws, params: Tasks) -> Any:
        """Returns the sum of :meth:`reward_terms`, ``[N]``."""
        return sum(self.reward_terms(state, action, next_state, rng, params).values())

    def terminal(self, state: Any, rng: Draws, params: Tasks) -> Any:
        """Tells which states end the episode, bool ``[N]`` (default: none)."""
        return zeros_for(params, dtype="bool")

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses invalid tasks that the task space cannot exclude.

        Args:
            tasks: Tasks inside ``task_split.space``.

        Raises:
            ValueError: A task is invalid; the error states which one, and why.
        """

    def render_frames(self, state: Any, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Renders one frame per sub-environment, in a mode that ``metadata`` declares.

        A family that declares ``"rgb_array"`` (uint8 ``[height, width, 3]``) and ``"render_fps"``
        has ``render_mode="human"`` too: see :meth:`open_window`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not render")

    def open_window(self) -> Window:
        """Opens the window of ``render_mode="human"``, which shows one sub-environment.

        The default window shows the frames of :meth:`render_frames`.
        """
        return PictureWindow(
            partial(self.render_frames, render_mode="rgb_array"), type(self).__name__
        )

    def close(self) -> None:
        """Releases the definition's resources, such as threads and windows."""


def zeros_for(params: Tasks, shape: tuple[int, ...] = (), dtype: str = "float64") -> Any:
    """Makes zeros ``[N, *shape]`` for ``N`` tasks, in arrays of the tasks' kind.

    Args:
        params: Tasks, arrays or tensors.
        shape: Shape of the zeros of one sub-environment (default: a single number).
        dtype: Name of their dtype in the array API (default: ``"float64"``).
    """
    array = first_array(params)
    xp = array_namespace(array)
    return xp.zeros((len(array), *shape), dtype=getattr(xp, dtype), device=device(array))


def ones_where(condition: Any) -> Any:
    """Returns 1 where the condition holds, otherwise 0, float64 like most rewards."""
    xp = array_namespace(condition)
    return xp.astype(condition, xp.float64)
