"""The base class of environment families: pure, batch-first functions over tasks.

One file with one subclass of :class:`TaskFuncEnv` is a whole family. The front ends
:class:`meta_rl.TaskEnv` (a batch of one) and :class:`meta_rl.TaskVectorEnv` (the native batch) run
it. The contract is in docs/environments.md.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from array_api_compat import device
from gymnasium import spaces
from gymnasium.experimental.functional import FuncEnv

from meta_rl.arguments import CheckedArguments
from meta_rl.rendering.window import PictureWindow, Window
from meta_rl.tasks import Tasks, TaskSplit, first_array
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

SECTIONS = (
    *("Description", "Action Space", "Observation Space", "Rewards", "Starting State"),
    *("Episode End", "Arguments", "Task distribution", "Adaptation", "Version History"),
)
"""Titles of the sections of a family's docstring, in their order."""


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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Completes the docstring with sections (``## Action Space``) of the base classes."""
        super().__init_subclass__(**kwargs)
        complete_docstring(cls)

    def __init__(self) -> None:
        super().__init__()

    def initial(self, rng: Draws, params: Tasks) -> Any:
        """Returns the first states of ``N`` episodes, one for each of the ``N`` tasks."""
        raise NotImplementedError(f"{type(self).__name__} needs a function initial()")

    def transition(self, state: Any, action: Any, rng: Draws, params: Tasks) -> Any:
        """Returns the states after the actions."""
        raise NotImplementedError(f"{type(self).__name__} needs a function transition()")

    def observation(self, state: Any, rng: Draws, params: Tasks) -> Any:
        """Returns the agent's observations of the states, ``[N, ...]``."""
        raise NotImplementedError(f"{type(self).__name__} needs a function observation()")

    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns the parts of the reward, ``[N]`` each, by names that start with ``reward_``."""
        raise NotImplementedError(f"{type(self).__name__} needs a function reward_terms()")

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


def complete_docstring(family: type) -> None:
    """Adds the sections that a family's docstring leaves out from the docstrings of its bases.

    A section begins with a line such as ``## Action Space``. Rows of a base's table of arguments
    follow those of the family, whose own row for an argument replaces that of the base.

    Args:
        family: Class whose ``__doc__`` is completed.
    """
    if not family.__doc__ or "## " not in family.__doc__:
        return
    summary, sections = _sections(family)
    for base in family.__mro__[1:]:
        for title, text in _sections(base)[1].items():
            own = sections.setdefault(title, text)
            if title == "Arguments" and own.startswith("|"):
                sections[title] = _joined_tables(own, text)
    order = sorted(sections, key=lambda title: [*SECTIONS, title].index(title))
    parts = [f"## {title}\n{sections[title]}" for title in order]
    _written[family] = family.__doc__
    family.__doc__ = "\n\n".join([summary, *parts])


_written: WeakKeyDictionary[type, str] = WeakKeyDictionary()
"""Docstrings of families as they were written, before they were completed."""


def _sections(owner: type) -> tuple[str, dict[str, str]]:
    """Returns the text before the first section of a docstring, and the sections by title."""
    before, *parts = inspect.cleandoc(
        _written.get(owner) or vars(owner).get("__doc__") or ""
    ).split("\n## ")
    split = (part.partition("\n") for part in parts)
    return before.strip(), {title: text.strip() for title, _, text in split}


def _joined_tables(own: str, inherited: str) -> str:
    """Returns the rows of one table that the other lacks, and then the other's rows."""
    head, line, *rows = own.splitlines()
    mine, theirs = (
        {row.split("|")[1]: row for row in table} for table in (rows, inherited.splitlines()[2:])
    )
    new = [row for name, row in mine.items() if name not in theirs]
    return "\n".join(
        [head, line, *new, *(theirs | {k: mine[k] for k in theirs if k in mine}).values()]
    )


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
