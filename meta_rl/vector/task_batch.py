"""The base class of all batches of task environments, native or adapted, and its tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper

from meta_rl.tasks import (
    TaskDistribution,
    Tasks,
    TaskSplit,
    as_tasks,
    copy_tasks,
    count_tasks,
    put_tasks,
    repeat_tasks,
    take_tasks,
)
from meta_rl.vector.arrays import Arrays, dtype_kind

NUMPY = Arrays()


class TaskAssignment:
    """The tasks of a batch: those that are set, or those that it draws for itself.

    The rules are the same for native batches, adapted ones and Meta-World:

    * Tasks that were set persist. Each sub-environment begins to play its own at its next reset.
    * Where none were set, tasks are drawn at the first reset, at every seeded one and, with
      ``resample``, when a trial of ``episodes_per_trial`` episodes is over. An episode without a
      step does not count.

    Args:
        num_envs: Number of sub-environments, N.
        distribution: Distribution of the tasks that are drawn.
        episodes_per_trial: Number of episodes on one task.
        resample: Whether a new task is drawn after every trial.
        arrays: Kind of the arrays of masks and tasks (default: numpy's).

    Attributes:
        played: The tasks that are played, ``[N, ...]``; ``None`` before the first reset.
        trial_start: Where an episode has just begun on a new task, bool ``[N]``.
    """

    def __init__(
        self,
        num_envs: int,
        distribution: TaskDistribution,
        episodes_per_trial: int,
        *,
        resample: bool = False,
        arrays: Arrays = NUMPY,
    ) -> None:
        self.num_envs = num_envs
        self.distribution = distribution
        self.episodes_per_trial = episodes_per_trial
        self.resample = resample
        self.arrays = arrays
        self.played: Tasks = None
        self._nowhere = arrays.zeros(num_envs, "bool")
        self._everywhere = ~self._nowhere
        self.trial_start = arrays.zeros(num_envs, "bool")
        self._given: Tasks = None  # what was set
        self._due = self._nowhere  # where no reset has brought it yet
        self._ahead: Tasks = None  # what was drawn ahead
        self._is_ahead = self._nowhere  # where it has not been played yet
        self._episodes = arrays.zeros(num_envs, "int64")  # ended in the current trial
        self._stepped = self._nowhere  # in the current episode
        self._seeds: int | list[int] | None = None
        self._rngs: list[np.random.Generator] | None = None  # made when they are first needed

    @property
    def pending(self) -> Tasks | None:
        """The tasks that were set and that some sub-environment does not play yet."""
        return copy_tasks(self._given) if self._due.any() else None

    def set(self, tasks: Tasks | None) -> None:
        """Set one task for each sub-environment; ``None`` lets them be drawn again."""
        self._given = None if tasks is None else copy_tasks(self.arrays.converted(tasks))
        self._due = self._nowhere if tasks is None else self._everywhere

    def seed(self, seed: int | Sequence[int]) -> int | list[int]:
        """Seed the draws: together, or each sub-environment's by its own seed.

        Tasks have streams of their own, so that a task given or drawn shifts nothing else.

        Returns:
            The seed or the seeds, checked.

        Raises:
            ValueError: A wrong number of seeds, or seeds that are no whole numbers from 0.
        """
        seeds = np.asarray(seed)
        if seeds.shape not in ((), (self.num_envs,)) or seeds.dtype.kind not in "iu":
            raise ValueError(
                f"seed: expected a whole number, or {self.num_envs} of them, one for each "
                f"sub-environment; got {seed!r}"
            )
        if np.any(seeds < 0):
            raise ValueError(f"seed: expected whole numbers from 0, got {seed!r}")
        self._seeds = int(seeds) if seeds.ndim == 0 else [int(own) for own in seeds]
        self._rngs = None
        self._is_ahead = self._nowhere  # what was drawn ahead came from other seeds
        return self._seeds

    def step(self) -> None:
        """Note that every sub-environment takes a step."""
        self._stepped = self._everywhere
        self.trial_start = self.arrays.zeros(self.num_envs, "bool")

    def prepare(
        self, mask: np.ndarray, *, seeded: bool = False, stepped: bool = False
    ) -> tuple[np.ndarray, Tasks]:
        """Draw ahead the tasks that resets bring.

        Args:
            mask: The sub-environments that are to be reset, bool ``[N]``.
            seeded: Whether the reset has a seed.
            stepped: Whether they will have taken a step by then, as before an automatic reset.

        Returns:
            Where a new task waits, bool ``[N]``, and the tasks ``[N, ...]``, which are meaningful
            there.
        """
        if self._given is not None:
            return self._due & mask, self._given
        due = mask & self._everywhere
        if self.played is not None and not seeded:
            ended = self._episodes + (self._stepped | stepped)
            due = mask & (self.resample & (ended >= self.episodes_per_trial))
        draw = due & ~self._is_ahead
        if draw.all():
            self._ahead = self._drawn(draw)
        elif draw.any():
            self._ahead = copy_tasks(self.played if self._ahead is None else self._ahead)
            put_tasks(self._ahead, draw, self._drawn(draw))
        self._is_ahead = self._is_ahead | draw
        return due, self._ahead

    def begin(self, mask: np.ndarray, *, seeded: bool = False) -> None:
        """Begin new episodes where ``mask`` says so.

        Raises:
            ValueError: The first reset is not one of all sub-environments.
        """
        if self.played is None and not mask.all():
            raise ValueError("the first reset has to be one of all sub-environments")
        new, coming = self.prepare(mask, seeded=seeded)
        if new.all():
            self.played = copy_tasks(coming)
        elif new.any():
            self.played = copy_tasks(self.played)  # earlier infos keep theirs
            put_tasks(self.played, new, take_tasks(coming, new))
        if self._given is not None:
            self._due = self._due & ~new
        else:
            self._is_ahead = self._is_ahead & ~new
        self._episodes = (self._episodes + (mask & self._stepped)) * ~new
        self._stepped = self._stepped & ~mask
        self.trial_start = new

    def _drawn(self, mask: Any) -> Tasks:
        """Draws for the sub-environments where ``mask``, in their order."""
        return self.arrays.converted(self._sampled(self.arrays.xp.nonzero(mask)[0].tolist()))

    def _sampled(self, chosen: list[int]) -> Tasks:
        seeds = self._seeds
        if not isinstance(seeds, list):
            if self._rngs is None:
                self._rngs = [np.random.default_rng(None if seeds is None else [seeds, 1])]
            return self.distribution.sample_tasks(len(chosen), self._rngs[0])
        if self._rngs is None:
            self._rngs = [np.random.default_rng([own, 1]) for own in seeds]
        tasks = None
        for place, i in enumerate(chosen):
            own = self.distribution.sample_tasks(1, self._rngs[i])
            tasks = repeat_tasks(own, len(chosen)) if tasks is None else tasks
            put_tasks(tasks, slice(place, place + 1), own)
        return tasks


class TaskBatch(VectorEnv):
    """A vector environment whose sub-environments have tasks.

    Attributes:
        task_split: Task distributions.
        horizon: Largest number of steps in an episode.
        episodes_per_trial: Number of episodes in a trial on one task.
        adaptation_unit: Interval at which a learner may adapt: every ``"episode"`` or ``"step"``.
        arrays: Kind of the batch's arrays (default: numpy's).
    """

    arrays: Arrays = NUMPY
    task_split: TaskSplit
    horizon: int
    episodes_per_trial: int
    adaptation_unit: str
    _assignment: TaskAssignment

    @property
    def _played(self) -> Tasks:
        return self._assignment.played

    @property
    def tasks(self) -> Tasks:
        """The tasks that are played, one per sub-environment; ``None`` before the first reset."""
        return None if self._played is None else copy_tasks(self._played)

    @property
    def pending_tasks(self) -> Tasks | None:
        """The tasks that the next resets bring, one per sub-environment; ``None`` if none wait."""
        return self._assignment.pending

    @property
    def trial_start(self) -> Any:
        """Where the latest observation is the first on a task, bool ``[N]``."""
        return self._assignment.trial_start

    @abstractmethod
    def set_tasks(self, tasks: Tasks | None) -> None:
        """Sets the tasks from the next reset of each sub-environment on; see TaskVectorEnv."""

    def _check_tasks(self, tasks: Tasks) -> Tasks:
        """Checks that tasks are in their space, and that their number divides ``num_envs``."""
        tasks = as_tasks(self.task_split.space, tasks)
        num_tasks = count_tasks(tasks)
        if num_tasks == 0 or self.num_envs % num_tasks:
            raise ValueError(
                f"{num_tasks} tasks do not divide {self.num_envs} sub-environments into equal "
                "blocks"
            )
        return tasks

    def _one_for_each(self, tasks: Tasks) -> Tasks:
        """Repeats each task for an equal block of neighbouring sub-environments."""
        return copy_tasks(repeat_tasks(tasks, self.num_envs // count_tasks(tasks)))

    def _check_actions(self, actions: Any) -> Any:
        """Converts actions to an array, and checks them by :func:`check_actions`."""
        return check_actions(actions, self.single_action_space, self.num_envs, self.arrays)

    def _check_mask(self, mask: Any) -> Any:
        if mask is None:
            return ~self.arrays.zeros(self.num_envs, "bool")
        mask = self.arrays.converted(mask)
        if mask.dtype != self.arrays.xp.bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset_mask: expected bool of shape ({self.num_envs},) with a True in it, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        return mask


def task_batch(env: Any) -> TaskBatch:
    """Returns the batch of task environments under all wrappers.

    Raises:
        ValueError: There is no such batch.
    """
    base = env.unwrapped if isinstance(env, VectorEnv) else env
    if not isinstance(base, TaskBatch):
        raise ValueError(
            f"{env} has no tasks: make the batch by meta_rl.make_task_vec, or wrap plain "
            "environments by meta_rl.adapter.TaskVectorAdapter"
        )
    return base


def batch_arrays(env: Any) -> Arrays:
    """Returns the kind of arrays that a batch, or its outermost wrapper, returns."""
    while isinstance(env, VectorWrapper) and not hasattr(env, "arrays"):
        env = env.env
    return getattr(env, "arrays", NUMPY)


def check_actions(actions: Any, space: spaces.Space, num_envs: int, arrays: Arrays = NUMPY) -> Any:
    """Checks the actions of a batch, and returns them as an array.

    Args:
        actions: Actions, one for each sub-environment, ``[num_envs, ...]``.
        space: Space of one action. Actions of a ``Box`` may lie outside its bounds, as environments
            clip them.
        num_envs: Number of sub-environments.
        arrays: Kind of the array that is returned (default: numpy's).

    Raises:
        ValueError: Actions have another shape or kind, lie outside a discrete space, or have NaN or
            infinity in a continuous space.
    """
    actions = arrays.xp.asarray(actions, device=arrays.device)
    shape = (num_envs, *(space.shape or ()))
    if actions.shape != shape:
        raise ValueError(f"actions: expected {shape}, got {tuple(actions.shape)}")
    if isinstance(space, spaces.Box):
        _check_finite_actions(actions, space, arrays)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        _check_whole_actions(actions, space, arrays)
    return actions


def _check_finite_actions(actions: Any, space: spaces.Box, arrays: Arrays) -> None:
    if dtype_kind(actions.dtype) not in "fiub":
        raise ValueError(f"actions: expected real numbers of {space}, got {actions.dtype}")
    finite = arrays.xp.isfinite(actions)
    if not finite.all():
        first = finite.reshape(len(actions), -1).all(axis=1).tolist().index(False)
        raise ValueError(
            f"actions: expected finite numbers of {space}, got {actions[first]} in "
            f"sub-environment {first}"
        )


def _check_whole_actions(
    actions: Any, space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary, arrays: Arrays
) -> None:
    kind = dtype_kind(actions.dtype)
    if kind not in "iub" or (kind == "b" and not isinstance(space, spaces.MultiBinary)):
        raise ValueError(f"actions: expected integers of {space}, got {actions.dtype}")
    start: Any = 0
    end: Any = 2
    if isinstance(space, spaces.Discrete):
        start, end = int(space.start), int(space.start + space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        start, end = (arrays.converted(edge) for edge in (space.start, space.start + space.nvec))
    if (actions < start).any() or (actions >= end).any():
        raise ValueError(f"actions: outside {space}: {actions.min()} to {actions.max()}")
