"""Supervised few-shot tasks, which are drawn from labelled examples.

A task is a small data set: support data to learn from, query data to be scored on. They are drawn
like the tasks of environments: ``split.train.sample_tasks(32, rng)`` returns :class:`FewShotTasks`
with a leading axis of 32.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from meta_rl.arguments import check_count, check_flag, check_kind, check_names, keyword_names
from meta_rl.few_shot.data.arrays import as_tensor, find_not_finite
from meta_rl.few_shot.data.datasets import (
    DATASETS,
    FROM_DATASET,
    FROM_TEXTS,
    import_attribute,
)
from meta_rl.tasks import TaskSplit


class FewShotTasks(NamedTuple):
    """A batch of ``M`` supervised tasks.

    Attributes:
        support_x: Inputs to learn from, ``[M, S, ...]``.
        support_y: Labels of these inputs ``[M, S]`` (int64, from 0), or targets ``[M, S, D]``
            (float).
        query_x: Inputs to be scored on, ``[M, Q, ...]``.
        query_y: Labels ``[M, Q]`` or targets ``[M, Q, D]`` of these inputs.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @property
    def support(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels to learn from, which ``learner.adapt`` takes."""
        return self.support_x, self.support_y

    @property
    def query(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels to be scored on."""
        return self.query_x, self.query_y

    @property
    def num_tasks(self) -> int:
        """Number of tasks: the length of the leading axis."""
        return len(self.support_y)

    def take(self, index: Any) -> FewShotTasks:
        """Returns the tasks (or, for an integer, the one task) at ``index`` of the leading axis."""
        return FewShotTasks(*(part[index] for part in self))

    def to(self, device: torch.device | str | None = None) -> FewShotTasks:
        """Returns the same tasks as tensors on a device (default: where they are)."""
        parts = (as_tensor(part, name, device) for name, part in self._asdict().items())
        return FewShotTasks(*parts)

    @classmethod
    def from_dataset(cls, dataset: Any, ways: int, shots: int, **settings: Any) -> FewShotSplit:
        """Makes tasks from a labelled ``torch.utils.data.Dataset``; see :func:`split_dataset`."""
        make = import_attribute(FROM_DATASET)
        check_names(settings, keyword_names(inspect.signature(make).parameters), "from_dataset")
        return make(dataset, ways, shots, **settings)

    @classmethod
    def from_folder(cls, path: str | Path, ways: int, shots: int, **settings: Any) -> FewShotSplit:
        """Makes tasks from a folder of images by class; see :func:`split_folder`."""
        return import_attribute(DATASETS["ImageFolder"].home)(path, ways, shots, **settings)

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], labels: Sequence[Any], ways: int, shots: int, **settings: Any
    ) -> FewShotSplit:
        """Makes tasks from labelled texts; see :func:`split_texts`."""
        return import_attribute(FROM_TEXTS)(texts, labels, ways, shots, **settings)

    @classmethod
    def from_csv(cls, path: str | Path, ways: int, shots: int, **settings: Any) -> FewShotSplit:
        """Makes tasks from a CSV file of labelled texts; see :func:`split_csv`."""
        return import_attribute(DATASETS["Csv"].home)(path, ways, shots, **settings)


class FewShotSplit(TaskSplit):
    """Training, validation and test tasks of a data set."""

    @property
    def name(self) -> str:
        """Name of the test tasks, such as ``Omniglot-5w1s``."""
        return getattr(self.test, "name", type(self).__name__)

    def to(self, device: torch.device | str) -> FewShotSplit:
        """Returns the same tasks, which are drawn on a device."""
        parts = {
            part: getattr(self, part).to(device)
            for part in ("train", "validation", "test", "ood")
            if hasattr(getattr(self, part), "to")
        }
        moved: FewShotSplit = FewShotSplit.__new__(FewShotSplit)
        moved.__dict__.update({**self.__dict__, **parts})
        return moved


def check_rng(rng: Any) -> None:
    """Raises an error unless ``rng`` is a generator of NumPy.

    Raises:
        TypeError: ``rng`` is something else.
    """
    check_kind("rng", rng, np.random.Generator, "a numpy.random.Generator")


def draw_distinct(
    population: int | np.ndarray, size: int, num_rows: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws ``size`` different numbers below the population in each row, in random order.

    Robert Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", 1987) runs for all rows
    at once: a row takes ``size`` draws for a population of any size. Then its order is shuffled.

    Args:
        population: Size of the population; one number, or one for each row ``[num_rows]``.
        size: Number of draws in a row, at most the smallest population.
        num_rows: Number of rows.
        rng: Generator of the draws.

    Returns:
        Numbers from 0, ``[num_rows, size]``, int64.
    """
    population = np.broadcast_to(np.asarray(population, dtype=np.int64), (num_rows,))
    drawn = np.empty((num_rows, size), dtype=np.int64)
    for column in range(size):
        last = population - size + column
        pick = rng.integers(last + 1)
        taken = (drawn[:, :column] == pick[:, None]).any(axis=1)
        drawn[:, column] = np.where(taken, last, pick)
    return rng.permuted(drawn, axis=1)


class ClassPool:
    """A pool of labelled examples on a device, sorted by class, in one tensor.

    Args:
        examples: Examples ``[N, ...]``, sorted by class, as a tensor or an array. ``uint8`` images
            are returned as floats in [0, 1], other integers as int64, floats and bools as float32.
        class_sizes: Number of examples of each class, ``[C]``; they sum to N.
        turns: Number of orientations: 4 adds every class rotated by 90, 180 and 270 degrees (in the
            last two axes, which have to be equal); 1 adds none.
        groups: Group of each class, such as its alphabet, ``[C]``, numbered from 0.
        names: Name of each class, ``[C]``.

    Raises:
        ValueError: The sizes do not sum to N, a class is empty, images to be rotated are not
            square, or examples hold NaN, infinity, complex numbers or no numbers.
    """

    def __init__(
        self,
        examples: Tensor,
        class_sizes: np.ndarray | Sequence[int],
        turns: int = 1,
        groups: np.ndarray | None = None,
        names: Sequence[Any] | None = None,
    ) -> None:
        examples = _checked_examples(examples)
        self.class_sizes = np.asarray(class_sizes, dtype=np.int64)
        if self.class_sizes.sum() != len(examples) or (self.class_sizes < 1).any():
            raise ValueError(
                f"{len(examples)} examples, but classes of sizes {self.class_sizes.tolist()}"
            )
        if turns not in (1, 4):
            raise ValueError(f"turns is 1 (none) or 4, got {turns}")
        if turns == 4 and (examples.dim() < 3 or examples.shape[-1] != examples.shape[-2]):
            raise ValueError(f"only square images can be turned, got {tuple(examples.shape[1:])}")
        if names is not None and len(names) != len(self.class_sizes):
            raise ValueError(f"{len(names)} names for {len(self.class_sizes)} classes")
        self.turns = turns
        self.num_examples = len(examples)
        self.starts = np.concatenate([[0], np.cumsum(self.class_sizes)[:-1]])
        self.groups = groups
        self.names = None if names is None else list(names)
        turned = [examples, *(examples.rot90(turn, (-2, -1)) for turn in range(1, turns))]
        self.examples = torch.cat(turned) if turns > 1 else examples

    @property
    def num_classes(self) -> int:
        """Number of classes, without rotated ones."""
        return len(self.class_sizes)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.examples.shape[1:])

    def gather(self, index: np.ndarray) -> Tensor:
        """Returns the examples at ``index`` (any shape), by one gather: ``[*index.shape, ...]``."""
        rows = torch.from_numpy(index.reshape(-1)).to(self.examples.device)
        taken = self.examples.index_select(0, rows)
        if taken.dtype == torch.uint8:
            taken = taken.to(torch.float32).div_(255)
        elif not taken.is_floating_point():
            taken = taken.to(torch.int64)
        return taken.view(*index.shape, *self.example_shape)

    def to(self, device: torch.device | str) -> ClassPool:
        """Returns the same pool on a device."""
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__dict__, examples=self.examples.to(device))
        return moved


class ClassTasks:
    """Few-shot classification tasks: ``ways`` classes, with ``shots`` support examples of each.

    A meta-batch is drawn by index arithmetic and **one** gather. The classes of a task differ, and
    their numbers (0 to ``ways - 1``) are assigned at random in every task. Support data come shot
    by shot (one example of each class, then the next); query data are shuffled, so that their order
    is uninformative. If the pool has rotated classes, each class of a task has its own rotation (as
    in MAML's code), and a task never has two rotations of a class.

    Args:
        pool: Pool of examples.
        ways: Number of classes in a task, at least 2.
        shots: Number of support examples of each class.
        queries: Number of query examples of each class.
        name: Name of the data set; the numbers of ways and shots are appended.
        within_group: Whether all classes of a task come from one group (alphabet). Groups with
            fewer than ``ways`` classes are left out.

    Raises:
        ValueError: There are fewer classes than ``ways``, or a class has fewer examples than
            ``shots + queries``.
    """

    def __init__(
        self,
        pool: ClassPool,
        ways: int,
        shots: int,
        queries: int = 15,
        *,
        name: str = "tasks",
        within_group: bool = False,
    ) -> None:
        check_kind("pool", pool, ClassPool, "a ClassPool")
        self.pool = pool
        self.ways = check_count("ways", ways, least=2)
        self.shots = check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.name = f"{name}-{self.ways}w{self.shots}s"
        if self.ways > pool.num_classes:
            raise ValueError(f"ways={ways}: more than the {pool.num_classes} classes of {name}")
        fewest = int(pool.class_sizes.min())
        if self.shots + self.queries > fewest:
            raise ValueError(
                f"shots={shots} and queries={queries}: together more than the {fewest} examples "
                f"that a class of {name} has"
            )
        self.members = self._members(check_flag("within_group", within_group))

    def _members(self, within_group: bool) -> list[np.ndarray]:
        """Returns the classes of each group that may be in a task together."""
        if not within_group:
            return [np.arange(self.pool.num_classes)]
        if self.pool.groups is None:
            raise ValueError("within_group=True, but these classes have no groups")
        groups = [np.flatnonzero(self.pool.groups == g) for g in np.unique(self.pool.groups)]
        enough = [group for group in groups if len(group) >= self.ways]
        if not enough:
            most = max(map(len, groups))
            raise ValueError(f"ways={self.ways}: more than the {most} classes of the largest group")
        return enough

    @property
    def space(self) -> spaces.Dict:
        """Space of one task."""
        parts: dict[str, spaces.Space] = {}
        examples = self.pool.examples
        for part, number in (("support", self.shots), ("query", self.queries)):
            shape = (self.ways * number, *self.pool.example_shape)
            if examples.dtype == torch.uint8:
                parts[f"{part}_x"] = spaces.Box(0.0, 1.0, shape, np.float32)
            elif examples.is_floating_point():
                parts[f"{part}_x"] = spaces.Box(-np.inf, np.inf, shape, np.float32)
            else:
                parts[f"{part}_x"] = spaces.Box(0, int(examples.max()), shape, np.int64)
            parts[f"{part}_y"] = spaces.MultiDiscrete([self.ways] * (self.ways * number))
        return spaces.Dict(parts)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        """Draws tasks on the device of the pool."""
        num_tasks, ways = check_count("num_tasks", num_tasks), self.ways
        check_rng(rng)
        classes = self._draw_classes(num_tasks, rng)  # [M, W]: position is the label
        each = self.shots + self.queries
        rows = classes.reshape(-1)
        which = draw_distinct(self.pool.class_sizes[rows], each, len(rows), rng)
        index = self.pool.starts[rows, None] + which  # [M * W, shots + queries]
        if self.pool.turns > 1:
            index += rng.integers(self.pool.turns, size=(len(rows), 1)) * self.pool.num_examples
        index = index.reshape(num_tasks, ways, each).swapaxes(1, 2)
        split = self.shots * ways
        order = rng.permuted(
            np.broadcast_to(np.arange(self.queries * ways), (num_tasks, self.queries * ways)),
            axis=1,
        )
        index = index.reshape(num_tasks, -1)
        query_index = np.take_along_axis(index[:, split:], order, axis=1)
        x = self.pool.gather(np.concatenate([index[:, :split], query_index], axis=1))
        labels = np.broadcast_to(np.arange(split) % ways, (num_tasks, split))
        y = torch.from_numpy(np.concatenate([labels, order % ways], axis=1)).to(x.device)
        return FewShotTasks(x[:, :split], y[:, :split], x[:, split:], y[:, split:])

    def _draw_classes(self, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
        if len(self.members) == 1:
            picked = draw_distinct(len(self.members[0]), self.ways, num_tasks, rng)
            return self.members[0][picked]
        group = rng.integers(len(self.members), size=num_tasks)
        sizes = np.array([len(members) for members in self.members])
        picked = draw_distinct(sizes[group], self.ways, num_tasks, rng)
        flat = np.concatenate(self.members)
        return flat[(np.cumsum(sizes) - sizes)[group, None] + picked]

    @property
    def class_names(self) -> list[Any]:
        """Names of the classes of the pool, or their numbers if it has no names."""
        names = self.pool.names
        return list(range(self.pool.num_classes)) if names is None else list(names)

    def sample_labelled(self, num: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draws single examples with their class in the whole pool, for pre-training.

        Args:
            num: Number of examples, N, drawn with replacement.
            rng: Generator of the draws.

        Returns:
            Inputs ``[N, ...]`` and classes ``[N]`` below :attr:`num_labels`.
        """
        num = check_count("num", num)
        check_rng(rng)
        example = rng.integers(self.pool.num_examples, size=num)
        turn = rng.integers(self.pool.turns, size=num)
        classes = np.searchsorted(self.pool.starts, example, side="right") - 1
        x = self.pool.gather(turn * self.pool.num_examples + example)
        y = torch.from_numpy(turn * self.pool.num_classes + classes).to(x.device)
        return x, y

    @property
    def num_labels(self) -> int:
        """Number of classes of the whole pool, where rotated ones count separately."""
        return self.pool.num_classes * self.pool.turns

    def to(self, device: torch.device | str) -> Self:
        """Returns the same tasks, which are drawn on a device."""
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__dict__, pool=self.pool.to(device))
        return moved

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.pool.num_classes} classes)"


class FrozenTasks:
    """A fixed list of few-shot tasks, which is drawn from like :class:`meta_rl.FiniteTasks`.

    Args:
        tasks: All tasks of the list.
        space: Space of one task.
        name: Name of the data set.
    """

    def __init__(self, tasks: FewShotTasks, space: spaces.Space, name: str) -> None:
        check_kind("tasks", tasks, FewShotTasks, "FewShotTasks")
        tasks = tasks.to()
        if tasks.num_tasks == 0:
            raise ValueError("a list of tasks needs at least one")
        self.tasks = tasks
        self.space = space
        self.name = name

    def __len__(self) -> int:
        return self.tasks.num_tasks

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        """Draws tasks without replacement, pass by pass."""
        num_tasks = check_count("num_tasks", num_tasks)
        check_rng(rng)
        passes = -(-num_tasks // len(self))
        order = np.concatenate([rng.permutation(len(self)) for _ in range(passes)])
        return self.tasks.take(torch.from_numpy(order[:num_tasks]).to(self.tasks.support_x.device))

    def to(self, device: torch.device | str) -> FrozenTasks:
        """Returns the same tasks on a device."""
        return FrozenTasks(self.tasks.to(device), self.space, self.name)


def class_split(
    pools: dict[str, ClassPool],
    ways: int,
    shots: int,
    queries: int,
    *,
    name: str,
    train: dict[str, int | None] | None = None,
    within_group: bool = False,
) -> FewShotSplit:
    """Makes tasks from three pools with disjoint classes.

    Args:
        pools: Pools of ``train``, ``validation`` and ``test``, by these names.
        ways: Number of classes in a task.
        shots: Number of support examples of each class.
        queries: Number of query examples of each class.
        name: Name of the data set.
        train: Values of ``ways``, ``shots`` or ``queries`` for training, where they differ.
        within_group: Whether all classes of a task come from one group; see :class:`ClassTasks`.
    """
    sizes = {"ways": ways, "shots": shots, "queries": queries}
    check_names(train or {}, list(sizes), "train")
    changed = {key: value for key, value in (train or {}).items() if value is not None}
    parts = {
        part: ClassTasks(
            pool,
            **(sizes | changed if part == "train" else sizes),
            name=name,
            within_group=within_group,
        )
        for part, pool in pools.items()
    }
    return FewShotSplit(**parts)


def _checked_examples(examples: Any) -> Tensor:
    """Checks examples ``[N, ...]``, and returns them with a type that a pool keeps."""
    examples = as_tensor(examples, "examples")
    if examples.dim() < 1 or 0 in examples.shape[1:]:
        raise ValueError(f"examples of shape {tuple(examples.shape[1:])} hold no numbers")
    if examples.is_floating_point() or examples.dtype == torch.bool:
        examples = examples.to(torch.float32)
    place = find_not_finite(examples, 1)
    if place is not None:
        raise ValueError(f"example {place[0]} holds {place[1]}; finite numbers are wanted")
    return examples


__all__ = [
    "ClassPool",
    "ClassTasks",
    "FewShotSplit",
    "FewShotTasks",
    "FrozenTasks",
    "class_split",
    "draw_distinct",
]
