"""Arrays of tasks: a batch of tasks is an array, or a dict of arrays, with a leading task axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

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
    """Tells which tasks lie in the space, ``[M]``; the check is vectorised for usual spaces."""
    axes = tuple(range(1, array.ndim))
    if isinstance(space, spaces.Box):
        return np.all((array >= space.low) & (array <= space.high), axis=axes)
    if isinstance(space, spaces.Discrete):
        return (array >= space.start) & (array < space.start + space.n)
    return np.array([space.contains(task) for task in array], dtype=bool)
