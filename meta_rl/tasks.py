"""Tasks as data: a batch of tasks is an array, or a dict of arrays, with a leading task axis.

No part of a task is hidden in an environment object or in an integer index. A Gymnasium space
describes one task, a :class:`TaskDistribution` draws batches of tasks with a generator that is
passed in, and a :class:`TaskSplit` separates tasks for training from held-out tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_count as check_count
from meta_rl.arguments import check_has, check_kind, checked
from meta_rl.arguments import check_number as check_number
from meta_rl.vector.arrays import array_namespace

Tasks: TypeAlias = Any
"""``M`` tasks: an array ``[M, ...]``, or a (nested) dict of such arrays."""

Task: TypeAlias = Any
"""One task: one slice of :data:`Tasks`."""


def as_tasks(space: spaces.Space, tasks: Tasks, num_tasks: int | None = None) -> Tasks:
    """Converts tasks to arrays of the space's dtype, and checks that each lies in ``space``.

    Args:
        space: Space of one task.
        tasks: Arrays, or nested lists, with a leading task axis.
        num_tasks: Required number of tasks; ``None`` (default) accepts any number.

    Returns:
        Arrays (a dict of arrays for a ``Dict`` space); a new array only where the dtype differs.

    Raises:
        ValueError: The keys, shapes, bounds or number do not fit; the error names the space.
    """
    converted = _convert_tasks(space, tasks, "tasks")
    count = count_tasks(converted)
    if num_tasks is not None and count != num_tasks:
        raise ValueError(f"expected {num_tasks} tasks (each in {space}), got {count}")
    return converted


def as_task(space: spaces.Space, task: Task) -> Task:
    """Converts one task to arrays of the space's dtype, and checks it like :func:`as_tasks`."""
    return take_tasks(as_tasks(space, add_task_axis(task)), 0)


def add_task_axis(task: Task) -> Tasks:
    """Makes a batch of one task."""
    if isinstance(task, Mapping):
        return {key: add_task_axis(value) for key, value in task.items()}
    try:
        return np.asarray(task)[None]
    except ValueError as error:
        raise ValueError(f"task: no array: {str(error).partition('.')[0]}") from error


def first_array(tasks: Tasks) -> Any:
    """Returns the first array of tasks: they themselves, or the first one of their dict."""
    while isinstance(tasks, Mapping):
        tasks = next(iter(tasks.values()))
    return tasks


def count_tasks(tasks: Tasks) -> int:
    """Returns the length of the leading task axis."""
    return len(first_array(tasks))


def take_tasks(tasks: Tasks, index: Any) -> Tasks:
    """Returns the tasks (or, for an integer, the one task) at ``index`` of the leading axis."""
    if isinstance(tasks, Mapping):
        return {key: take_tasks(value, index) for key, value in tasks.items()}
    return tasks[index]


def repeat_tasks(tasks: Tasks, repeats: int) -> Tasks:
    """Repeats each task ``repeats`` times in a row, for equal blocks of sub-environments."""
    return take_tasks(tasks, np.repeat(np.arange(count_tasks(tasks)), repeats))


def put_tasks(tasks: Tasks, index: Any, values: Tasks) -> None:
    """Writes ``values`` into ``tasks`` at ``index``, in place."""
    if isinstance(tasks, Mapping):
        for key, value in tasks.items():
            put_tasks(value, index, values[key])
    else:
        tasks[index] = values


def copy_tasks(tasks: Tasks) -> Tasks:
    """Makes a deep copy of tasks."""
    if isinstance(tasks, Mapping):
        return {key: copy_tasks(value) for key, value in tasks.items()}
    return array_namespace(tasks).asarray(tasks, copy=True)


@runtime_checkable
class TaskDistribution(Protocol):
    """A distribution of tasks that can be sampled."""

    @property
    def space(self) -> spaces.Space:
        """The space of one task, which also validates tasks."""
        ...

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draws ``num_tasks`` tasks, stacked on a leading task axis, with the given generator."""
        ...


@dataclass(frozen=True)
class TaskSplit:
    """The task distributions of an environment or a data set.

    Attributes:
        train: Tasks for meta-training.
        validation: Tasks for choosing checkpoints and settings.
        test: Held-out tasks, for reporting only.
        ood: Tasks outside the training range; ``None`` (default) where there are none.
    """

    train: TaskDistribution
    validation: TaskDistribution
    test: TaskDistribution
    ood: TaskDistribution | None = None

    def __post_init__(self) -> None:
        """Refuses parts from which no tasks can be drawn."""
        _check_distribution("train", self.train)
        for name in ("validation", "test", "ood"):
            if getattr(self, name) is not None:
                _check_distribution(name, getattr(self, name))

    @property
    def space(self) -> spaces.Space:
        """The space of one task, shared by every part."""
        return self.train.space

    def __getitem__(self, name: str) -> TaskDistribution:
        """Returns the part called ``name``.

        Raises:
            ValueError: The part is unknown, or these tasks do not have it.
        """
        part = getattr(self, name, None) if name in self.__dataclass_fields__ else None
        if part is None:
            have = [field for field in self.__dataclass_fields__ if getattr(self, field)]
            raise ValueError(f"no task split {name!r}: these tasks have {', '.join(have)}")
        return part


def _check_distribution(name: str, tasks: Any) -> None:
    check_has(name, tasks, ["sample_tasks"], "a distribution with sample_tasks(num_tasks, rng)")


def _check_rng(rng: Any) -> None:
    check_kind("rng", rng, np.random.Generator, "a numpy.random.Generator")


class UniformTasks:
    """A distribution of independent uniform draws from a bounded space.

    Args:
        space: Space of one task: ``Box`` (bounded), ``Discrete``, ``MultiDiscrete``,
            ``MultiBinary`` or a ``Dict`` of these. Integer boxes include both ends.

    Raises:
        ValueError: The space is unbounded, or of another kind.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        _draw_uniform(space, 1, np.random.default_rng(0))  # refuses other spaces

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draws ``num_tasks`` tasks uniformly."""
        _check_rng(rng)
        return _draw_uniform(self.space, check_count("num_tasks", num_tasks), rng)

    def __repr__(self) -> str:
        return f"UniformTasks({self.space})"


class SampledTasks:
    """A distribution whose tasks are drawn by a function.

    Args:
        space: Space of one task.
        sampler: Function ``sampler(num_tasks, rng) -> tasks``, with a leading task axis.
    """

    def __init__(
        self, space: spaces.Space, sampler: Callable[[int, np.random.Generator], Tasks]
    ) -> None:
        check_kind("space", space, spaces.Space, "a space of Gymnasium")
        check_has("sampler", sampler, ["__call__"], "a function of num_tasks and rng")
        self.space = space
        self.sampler = sampler

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draws ``num_tasks`` tasks by the sampler, and checks them."""
        _check_rng(rng)
        num_tasks = check_count("num_tasks", num_tasks)
        return as_tasks(self.space, self.sampler(num_tasks, rng), num_tasks)

    def __repr__(self) -> str:
        return f"SampledTasks({self.space})"


class FiniteTasks:
    """A fixed list of tasks.

    Up to ``len(self)`` tasks are drawn without replacement, so that a draw of all tasks has each
    task once. More tasks are drawn in whole shuffled passes over the list.

    Args:
        space: Space of one task.
        tasks: All tasks, on a leading task axis.

    Raises:
        ValueError: A task is outside the space, or the list is empty.
    """

    def __init__(self, space: spaces.Space, tasks: Tasks) -> None:
        check_kind("space", space, spaces.Space, "a space of Gymnasium")
        self.space = space
        self.tasks = as_tasks(space, tasks)
        if len(self) == 0:
            raise ValueError("a finite task distribution needs at least one task")

    @classmethod
    def seeded(cls, tasks: TaskDistribution, num_tasks: int, seed: int) -> FiniteTasks:
        """Makes a fixed list of ``num_tasks`` draws from ``tasks``, always equal for a seed."""
        _check_distribution("tasks", tasks)
        check_count("seed", seed, least=0)
        return cls(tasks.space, tasks.sample_tasks(num_tasks, np.random.default_rng(seed)))

    def __len__(self) -> int:
        return count_tasks(self.tasks)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draws tasks without replacement, pass by pass."""
        _check_rng(rng)
        passes = -(-check_count("num_tasks", num_tasks) // len(self))
        order = np.concatenate([rng.permutation(len(self)) for _ in range(passes)])
        return take_tasks(self.tasks, order[:num_tasks])

    def __repr__(self) -> str:
        return f"FiniteTasks({len(self)} of {self.space})"


@checked
def held_out_split(
    tasks: TaskDistribution,
    *,
    num_test: int,
    num_validation: int | None = None,
    seed: int,
    ood: TaskDistribution | None = None,
) -> TaskSplit:
    """Splits a continuous distribution into all of it for training, and fixed held-out lists.

    A new draw from a continuous distribution equals a listed task with probability zero.

    Args:
        tasks: Continuous distribution of tasks.
        num_test: Length of the test list.
        num_validation: Length of the validation list (default: length of the test list).
        seed: Seed of both lists.
        ood: Tasks outside the training range (default: none).
    """
    _check_distribution("tasks", tasks)
    check_count("seed", seed, least=0)
    num_validation = num_test if num_validation is None else num_validation
    seeds = np.random.SeedSequence(seed).generate_state(2)
    return TaskSplit(
        train=tasks,
        validation=FiniteTasks.seeded(tasks, num_validation, int(seeds[0])),
        test=FiniteTasks.seeded(tasks, num_test, int(seeds[1])),
        ood=ood,
    )


def _draw_uniform(space: spaces.Space, num: int, rng: np.random.Generator) -> Tasks:
    if isinstance(space, spaces.Dict):
        return {key: _draw_uniform(part, num, rng) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            raise ValueError(f"cannot draw uniformly from the unbounded {space}")
        shape = (num, *space.shape)
        if np.issubdtype(space.dtype, np.integer):
            return rng.integers(space.low, space.high, shape, dtype=space.dtype, endpoint=True)
        return rng.uniform(space.low, space.high, shape).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return space.start + rng.integers(space.n, size=num, dtype=space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start + rng.integers(space.nvec, size=(num, *space.shape), dtype=space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=(num, *space.shape), dtype=space.dtype)
    raise ValueError(f"cannot draw uniformly from {space}: give a SampledTasks instead")


def _convert_tasks(space: spaces.Space, tasks: Tasks, where: str) -> Tasks:
    if isinstance(space, spaces.Dict):
        if not isinstance(tasks, Mapping) or set(tasks) != set(space.spaces):
            got = sorted(tasks) if isinstance(tasks, Mapping) else type(tasks).__name__
            raise ValueError(
                f"{where}: expected a dict with keys {sorted(space.spaces)}, got {got}"
            )
        parts = {k: _convert_tasks(s, tasks[k], f"{where}[{k!r}]") for k, s in space.spaces.items()}
        if len({count_tasks(part) for part in parts.values()}) > 1:
            sizes = {key: count_tasks(part) for key, part in parts.items()}
            raise ValueError(f"{where}: the task axes have different lengths {sizes}")
        return parts
    array = _cast_array(space, tasks, where)
    outside = ~_contains(space, array)
    if outside.any():
        first = int(np.argmax(outside))
        task = " ".join(repr(array[first]).split())  # in one line
        raise ValueError(f"{where}: task {first} is outside {space}: {task}")
    return array


def _cast_array(space: spaces.Space, tasks: Tasks, where: str) -> np.ndarray:
    try:
        array = np.asarray(tasks.cpu() if hasattr(tasks, "cpu") else tasks)
        same_kind = np.can_cast(array.dtype, np.dtype(space.dtype), "same_kind")
        if not same_kind and not (
            array.dtype.kind in "iub" and np.dtype(space.dtype).kind in "iuf"
        ):
            raise TypeError(f"dtype {array.dtype}")
        array = array.astype(space.dtype, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: not an array of tasks in {space}: {error}") from error
    if array.ndim != len(space.shape or ()) + 1 or array.shape[1:] != space.shape:
        expected = ("num_tasks", *(space.shape or ()))
        shape = str(expected).replace("'", "")
        raise ValueError(f"{where}: expected shape {shape} of tasks in {space}, got {array.shape}")
    return array


def _contains(space: spaces.Space, array: np.ndarray) -> np.ndarray:
    """Tells which tasks are finite and in the space, ``[M]``; vectorised for usual spaces."""
    axes = tuple(range(1, array.ndim))
    if isinstance(space, spaces.Box):
        inside = (array >= space.low) & (array <= space.high) & np.isfinite(array)
        return np.all(inside, axis=axes)
    if isinstance(space, spaces.Discrete):
        return (array >= space.start) & (array < space.start + space.n)
    return np.array([space.contains(task) for task in array], dtype=bool)
