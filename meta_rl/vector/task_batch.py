"""The base class of all batches of task environments, native or adapted, and its tasks."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import ArrayConversion

from meta_rl.tasks import (
    Tasks,
    as_tasks,
    copy_tasks,
    count_tasks,
    repeat_tasks,
)
from meta_rl.vector.arrays import NUMPY, Arrays, dtype_kind

if TYPE_CHECKING:
    from meta_rl.tasks import TaskSplit
    from meta_rl.vector.task_assignment import TaskAssignment


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

    def trial_steps(self, share: float = 1.0) -> int:
        """Returns the number of steps of a trial, or of a share of it.

        Args:
            share: Share of the trial, above 0 and up to 1, rounded up to whole episodes (bandits:
                to pulls).
        """
        unit = 1 if self.adaptation_unit == "step" else self.horizon
        return math.ceil(self.horizon * self.episodes_per_trial * share / unit) * unit

    @property
    def num_calls(self) -> int:
        """Number of calls that changed the batch, by which an owner sees that another one did."""
        return self._assignment.num_calls

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


class NumpyView(ArrayConversion):
    """A batch of tensors with numpy arrays in and out: Gymnasium's ``ArrayConversion``.

    Args:
        env: Batch of task environments, which works with tensors.
    """

    arrays = NUMPY

    def __init__(self, env: VectorEnv) -> None:
        arrays: Any = batch_arrays(env)
        super().__init__(env, arrays.xp, np, env_device=arrays.device)


def numpy_view(env: VectorEnv) -> VectorEnv:
    """Returns the batch itself if it works with numpy arrays, otherwise its view."""
    return env if batch_arrays(env).xp is np else NumpyView(env)


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
    if isinstance(space, spaces.Discrete):
        outside = actions.min() < space.start or actions.max() >= space.start + space.n
    else:
        start: Any = 0
        end: Any = 2
        if isinstance(space, spaces.MultiDiscrete):
            edges = (space.start, space.start + space.nvec)
            start, end = (arrays.converted(edge) for edge in edges)
        outside = (actions < start).any() or (actions >= end).any()
    if outside:
        raise ValueError(f"actions: outside {space}: {actions.min()} to {actions.max()}")
