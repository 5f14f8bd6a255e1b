"""Tasks as data: a batch of tasks is an array, or a dict of arrays, with a leading task axis.

No part of a task is hidden in an environment object or in an integer index. A Gymnasium space
describes one task, a :class:`TaskDistribution` draws batches of tasks with a generator that is
passed in, and a :class:`TaskSplit` separates tasks for training from held-out tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_count as check_count
from meta_rl.arguments import check_has, check_kind, checked
from meta_rl.arguments import check_number as check_number
from meta_rl.vector.task_arrays import Task as Task
from meta_rl.vector.task_arrays import Tasks as Tasks
from meta_rl.vector.task_arrays import add_task_axis as add_task_axis
from meta_rl.vector.task_arrays import as_task as as_task
from meta_rl.vector.task_arrays import as_tasks as as_tasks
from meta_rl.vector.task_arrays import copy_tasks as copy_tasks
from meta_rl.vector.task_arrays import count_tasks as count_tasks
from meta_rl.vector.task_arrays import first_array as first_array
from meta_rl.vector.task_arrays import put_tasks as put_tasks
from meta_rl.vector.task_arrays import repeat_tasks as repeat_tasks
from meta_rl.vector.task_arrays import take_tasks as take_tasks

DRAWN_TASKS = 100
"""Default number of tasks that an evaluation draws from a distribution without a list."""


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
    seeds = np.random.SeedSequence(seed).generate_state(2)
    return TaskSplit(
        train=tasks,
        validation=FiniteTasks.seeded(tasks, num_validation or num_test, int(seeds[0])),
        test=FiniteTasks.seeded(tasks, num_test, int(seeds[1])),
        ood=ood,
    )


def distinct_tasks(
    tasks: TaskDistribution, num_tasks: int | None, seed: int, *, name: str = "these tasks"
) -> tuple[Tasks, np.ndarray]:
    """Returns distinct tasks of a distribution: each task of a list at most once, or new draws.

    The tasks of a list come in an order that is the same for every seed and every number; draws
    depend on the seed. In both cases the first tasks do not depend on the requested number.

    Args:
        tasks: List of tasks (:class:`FiniteTasks`) or another distribution.
        num_tasks: Number of tasks, M; ``None`` for all of a list, or for up to 100 draws.
        seed: Seed of the draws.
        name: Name of the tasks in errors (default: ``"these tasks"``).

    Returns:
        The tasks, and their positions in the list ``[M]`` (for draws: 0, 1, 2, ...).

    Raises:
        ValueError: There are fewer distinct tasks.
    """
    wanted = DRAWN_TASKS if num_tasks is None else check_count("num_tasks", num_tasks)
    if isinstance(tasks, FiniteTasks):
        order = order_of_list(len(tasks))
        found = order[_first_places(take_tasks(tasks.tasks, order))]
        wanted = len(found) if num_tasks is None else wanted
        drawn = tasks.tasks
    else:
        drawn, found = _distinct_draws(tasks, wanted, seed)
        wanted = min(wanted, len(found)) if num_tasks is None else wanted
    if wanted > len(found):
        raise ValueError(
            f"num_tasks={wanted}: {name} hold {len(found)} distinct tasks, and each counts once; "
            f"ask for at most {len(found)}, and for more episodes of each by envs_per_task"
        )
    found = found[:wanted]
    index = found if isinstance(tasks, FiniteTasks) else np.arange(wanted)
    return take_tasks(drawn, found), index


def order_of_list(num_tasks: int) -> np.ndarray:
    """Returns the order, always the same, in which an evaluation takes the tasks of a list."""
    return np.random.default_rng(0).permutation(num_tasks)


def _distinct_draws(
    distribution: TaskDistribution, wanted: int, seed: int
) -> tuple[Tasks, np.ndarray]:
    """Draws seeded blocks until enough tasks are distinct, or until long nothing new has come."""
    parts: list[Tasks] = []
    places: dict[bytes, int] = {}
    drawn = latest = 0  # draws so far, and up to the latest new task
    while len(places) < wanted and drawn - latest <= 10 * (len(places) + DRAWN_TASKS):
        stream = np.random.SeedSequence(seed, spawn_key=(0, len(parts)))
        parts.append(distribution.sample_tasks(DRAWN_TASKS, np.random.default_rng(stream)))
        for place, row in enumerate(_as_bytes(parts[-1]), start=drawn):
            if places.setdefault(row, place) == place:
                latest = place
        drawn += DRAWN_TASKS
    return _concatenate_tasks(parts), np.array(list(places.values()), dtype=np.int64)


def _concatenate_tasks(parts: list[Tasks]) -> Tasks:
    if isinstance(parts[0], Mapping):
        return {key: _concatenate_tasks([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _first_places(tasks: Tasks) -> np.ndarray:
    """Returns the position of each distinct task's first occurrence, in ascending order."""
    rows = _as_bytes(tasks)
    places: dict[bytes, int] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, place)
    return np.fromiter(places.values(), dtype=np.int64, count=len(places))


def _as_bytes(tasks: Tasks) -> list[bytes]:
    if isinstance(tasks, Mapping):
        parts = [_as_bytes(tasks[key]) for key in sorted(tasks)]
        return [b"".join(row) for row in zip(*parts, strict=True)]
    array = np.ascontiguousarray(tasks)
    array = array + 0.0 if array.dtype.kind == "f" else array  # -0.0 and 0.0 are one number
    return [row.tobytes() for row in array]


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
