"""Tasks as data: a batch of tasks is an array, or a dict of arrays, with a leading task axis.

Nothing about a task hides in an environment object or in an integer index: a Gymnasium space says
what one task is, a :class:`TaskDistribution` draws batches of them with a generator that is passed
in, and a :class:`TaskSplit` says which of them may be trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium import spaces

Tasks: TypeAlias = Any
"""``M`` tasks: an array ``[M, ...]``, or a (nested) dict of such arrays."""

Task: TypeAlias = Any
"""One task: one slice of :data:`Tasks`."""


DRAWN_TASKS = 100
"""Tasks that an evaluation draws from a distribution without a list, where nobody says how many."""


@runtime_checkable
class TaskDistribution(Protocol):
    """What tasks there are, and how to draw them."""

    @property
    def space(self) -> spaces.Space:
        """What one task is; validates tasks."""
        ...

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draw ``num_tasks`` tasks, stacked on a leading task axis, with the given generator."""
        ...


@dataclass(frozen=True)
class TaskSplit:
    """The task distributions of an environment or a data set.

    Attributes:
        train: For meta-training.
        validation: For choosing checkpoints and settings.
        test: Held out: for reporting only.
        ood: Outside the training range, where that means something.
    """

    train: TaskDistribution
    validation: TaskDistribution
    test: TaskDistribution
    ood: TaskDistribution | None = None

    @property
    def space(self) -> spaces.Space:
        """The space of one task, shared by every part."""
        return self.train.space

    def __getitem__(self, name: str) -> TaskDistribution:
        """The part called ``name``.

        Raises:
            ValueError: Unknown part, or one that these tasks do not have.
        """
        part = getattr(self, name, None) if name in self.__dataclass_fields__ else None
        if part is None:
            have = [field for field in self.__dataclass_fields__ if getattr(self, field)]
            raise ValueError(f"no task split {name!r}: these tasks have {', '.join(have)}")
        return part


class UniformTasks:
    """Independent uniform draws from a bounded space.

    Args:
        space: ``Box`` (bounded), ``Discrete``, ``MultiDiscrete``, ``MultiBinary`` or a ``Dict`` of
            these. Integer boxes include both ends.

    Raises:
        ValueError: The space is unbounded, or of another kind.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        _uniform(space, 1, np.random.default_rng(0))  # refuses a space that cannot be drawn from

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draw ``num_tasks`` tasks uniformly."""
        return _uniform(self.space, check_count("num_tasks", num_tasks), rng)

    def __repr__(self) -> str:
        return f"UniformTasks({self.space})"


class SampledTasks:
    """Tasks drawn by a function: any distribution that has no class of its own.

    Args:
        space: What one task is.
        sampler: ``sampler(num_tasks, rng) -> tasks`` with a leading task axis.
    """

    def __init__(
        self, space: spaces.Space, sampler: Callable[[int, np.random.Generator], Tasks]
    ) -> None:
        self.space = space
        self.sampler = sampler

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draw ``num_tasks`` tasks by the sampler, and check them."""
        num_tasks = check_count("num_tasks", num_tasks)
        return as_tasks(self.space, self.sampler(num_tasks, rng), num_tasks)

    def __repr__(self) -> str:
        return f"SampledTasks({self.space})"


class FiniteTasks:
    """A fixed list of tasks.

    Up to ``len(self)`` tasks are drawn without replacement, so that asking for all of them gives
    each once; more are drawn as whole shuffled passes over the list.

    Args:
        space: What one task is.
        tasks: All of them, on a leading task axis.

    Raises:
        ValueError: A task outside the space, or an empty list.
    """

    def __init__(self, space: spaces.Space, tasks: Tasks) -> None:
        self.space = space
        self.tasks = as_tasks(space, tasks)
        if len(self) == 0:
            raise ValueError("a finite task distribution needs at least one task")

    @classmethod
    def seeded(cls, tasks: TaskDistribution, num_tasks: int, seed: int) -> FiniteTasks:
        """Freeze ``num_tasks`` draws from ``tasks``: the same list for the same seed, for ever."""
        return cls(tasks.space, tasks.sample_tasks(num_tasks, np.random.default_rng(seed)))

    def __len__(self) -> int:
        return count_tasks(self.tasks)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        """Draw tasks without replacement, pass by pass."""
        passes = -(-check_count("num_tasks", num_tasks) // len(self))
        order = np.concatenate([rng.permutation(len(self)) for _ in range(passes)])
        return take_tasks(self.tasks, order[:num_tasks])

    def __repr__(self) -> str:
        return f"FiniteTasks({len(self)} of {self.space})"


def held_out_split(
    tasks: TaskDistribution,
    *,
    num_test: int,
    num_validation: int | None = None,
    seed: int,
    ood: TaskDistribution | None = None,
) -> TaskSplit:
    """Split a continuous distribution: train on all of it, hold out fixed, seeded lists.

    Fresh draws of a continuous distribution meet a listed task with probability zero.

    Args:
        tasks: The distribution.
        num_test: Length of the test list.
        num_validation: Length of the validation list, as long as the test list by default.
        seed: Fixes both lists.
        ood: Passed on.
    """
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
    """Different tasks of a distribution: of a list each at most once, or fresh draws.

    The tasks of a list come in an order that is the same for every seed and every number; draws
    depend on the seed. Either way the first tasks do not depend on how many are asked for.

    Args:
        tasks: A list (:class:`FiniteTasks`) or another distribution.
        num_tasks: How many, M; ``None`` takes all of a list, and up to 100 draws.
        seed: Seed of the draws.
        name: What the tasks are called in errors.

    Returns:
        The tasks, and ``[M]`` which ones of the list they are (of the draws: 0, 1, 2, ...).

    Raises:
        ValueError: More tasks than there are.
    """
    wanted = DRAWN_TASKS if num_tasks is None else check_count("num_tasks", num_tasks)
    if isinstance(tasks, FiniteTasks):
        order = np.random.default_rng(0).permutation(len(tasks))
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


def as_tasks(space: spaces.Space, tasks: Tasks, num_tasks: int | None = None) -> Tasks:
    """Tasks as arrays of the space's dtype, checked: every one of them lies in ``space``.

    Args:
        space: What one task is.
        tasks: Arrays, or nested lists, with a leading task axis.
        num_tasks: How many there have to be; ``None`` takes any number.

    Returns:
        Arrays (a dict of arrays for a ``Dict`` space); a new array only where the dtype differs.

    Raises:
        ValueError: Names the space, and what does not fit: keys, shapes, bounds or the number.
    """
    converted = _convert(space, tasks, "tasks")
    count = count_tasks(converted)
    if num_tasks is not None and count != num_tasks:
        raise ValueError(f"expected {num_tasks} tasks (each in {space}), got {count}")
    return converted


def as_task(space: spaces.Space, task: Task) -> Task:
    """One task as arrays of the space's dtype, checked as in :func:`as_tasks`."""
    return take_tasks(as_tasks(space, add_task_axis(task)), 0)


def add_task_axis(task: Task) -> Tasks:
    """A batch of this one task."""
    if isinstance(task, Mapping):
        return {key: add_task_axis(value) for key, value in task.items()}
    return np.asarray(task)[None]


def count_tasks(tasks: Tasks) -> int:
    """The length of the leading task axis."""
    while isinstance(tasks, Mapping):
        tasks = next(iter(tasks.values()))
    return len(tasks)


def take_tasks(tasks: Tasks, index: Any) -> Tasks:
    """The tasks (or, for an integer, the one task) at ``index`` of the leading axis."""
    if isinstance(tasks, Mapping):
        return {key: take_tasks(value, index) for key, value in tasks.items()}
    return tasks[index]


def repeat_tasks(tasks: Tasks, repeats: int) -> Tasks:
    """Each task ``repeats`` times in a row: one equal block of sub-environments per task."""
    return take_tasks(tasks, np.repeat(np.arange(count_tasks(tasks)), repeats))


def put_tasks(tasks: Tasks, index: Any, values: Tasks) -> None:
    """Write ``values`` into ``tasks`` at ``index``, in place."""
    if isinstance(tasks, Mapping):
        for key, value in tasks.items():
            put_tasks(value, index, values[key])
    else:
        tasks[index] = values


def copy_tasks(tasks: Tasks) -> Tasks:
    """A deep copy."""
    if isinstance(tasks, Mapping):
        return {key: copy_tasks(value) for key, value in tasks.items()}
    return np.array(tasks)


def check_count(name: str, value: int, least: int = 1) -> int:
    """``value`` as an ``int``.

    Raises:
        ValueError: It is not a whole number, or less than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 or value < least:
        raise ValueError(f"{name} has to be a whole number of at least {least}, got {value!r}")
    return int(value)


def check_number(
    name: str,
    value: float,
    *,
    above: float | None = None,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Refuse a number outside its range.

    Raises:
        ValueError: It is not above ``above``, or outside ``[least, most]``; nan always is.
    """
    if above is not None and not value > above:
        raise ValueError(f"{name} has to be above {above:g}, got {value}")
    if not least <= value <= most:
        raise ValueError(f"{name} has to be in [{least:g}, {most:g}], got {value}")


def _distinct_draws(
    distribution: TaskDistribution, wanted: int, seed: int
) -> tuple[Tasks, np.ndarray]:
    """Draws by seeded blocks, until enough differ or a block brings nothing new."""
    parts: list[Tasks] = []
    found = np.zeros(0, dtype=np.int64)
    while len(found) < wanted:
        stream = np.random.SeedSequence(seed, spawn_key=(0, len(parts)))
        parts.append(distribution.sample_tasks(DRAWN_TASKS, np.random.default_rng(stream)))
        drawn = _joined_tasks(parts)
        before, found = len(found), _first_places(drawn)
        if len(found) == before:
            break
    return drawn, found


def _joined_tasks(parts: list[Tasks]) -> Tasks:
    if isinstance(parts[0], Mapping):
        return {key: _joined_tasks([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _first_places(tasks: Tasks) -> np.ndarray:
    """Where each distinct task occurs first, in ascending order."""
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


def _uniform(space: spaces.Space, num: int, rng: np.random.Generator) -> Tasks:
    if isinstance(space, spaces.Dict):
        return {key: _uniform(part, num, rng) for key, part in space.spaces.items()}
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


def _convert(space: spaces.Space, tasks: Tasks, where: str) -> Tasks:
    if isinstance(space, spaces.Dict):
        if not isinstance(tasks, Mapping) or set(tasks) != set(space.spaces):
            got = sorted(tasks) if isinstance(tasks, Mapping) else type(tasks).__name__
            raise ValueError(
                f"{where}: expected a dict with keys {sorted(space.spaces)}, got {got}"
            )
        parts = {k: _convert(s, tasks[k], f"{where}[{k!r}]") for k, s in space.spaces.items()}
        if len({count_tasks(part) for part in parts.values()}) > 1:
            sizes = {key: count_tasks(part) for key, part in parts.items()}
            raise ValueError(f"{where}: the task axes have different lengths {sizes}")
        return parts
    array = _cast(space, tasks, where)
    outside = ~_contains(space, array)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(f"{where}: task {first} is outside {space}: {array[first]!r}")
    return array


def _cast(space: spaces.Space, tasks: Tasks, where: str) -> np.ndarray:
    try:
        array = np.asarray(tasks)
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
    """Which tasks lie in the space, ``[M]``; one vectorised check for the usual spaces."""
    axes = tuple(range(1, array.ndim))
    if isinstance(space, spaces.Box):
        return np.all((array >= space.low) & (array <= space.high), axis=axes)
    if isinstance(space, spaces.Discrete):
        return (array >= space.start) & (array < space.start + space.n)
    return np.array([space.contains(task) for task in array], dtype=bool)
