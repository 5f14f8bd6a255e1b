"""Algorithmic sequence tasks: copy, repeat copy and associative recall (Graves et al., 2014).

A task is one sequence of random bits. Its support data are the inputs to be remembered; their
targets have no features, since nothing is scored while they are read. Its query data are one input
of zeros for each output, with the bits as targets. All sequences of a draw have the same length,
which is drawn anew each time.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from gymnasium import spaces

from meta_rl.arguments import check_count
from meta_rl.few_shot.tasks import FewShotSplit, FewShotTasks, check_rng


class SequenceTasks(ABC):
    """The base class of sequence tasks: inputs to be remembered, and the outputs afterwards.

    Attributes:
        input_size: Number of features of an input, I: the bits and the markers.
        output_size: Number of features of an output, O.
        name: Name of the tasks.
    """

    input_size: int
    output_size: int
    name: str
    device: torch.device | str = "cpu"

    @abstractmethod
    def _draw(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws inputs ``[num, S, I]`` and targets ``[num, Q, O]``."""

    @property
    @abstractmethod
    def longest(self) -> tuple[int, int]:
        """Numbers of inputs S and of outputs Q of the longest sequence."""

    @property
    def space(self) -> spaces.Dict:
        """Space of one task with the longest sequence."""
        inputs, outputs = self.longest
        shapes = {
            "support_x": (inputs, self.input_size),
            "support_y": (inputs, 0),
            "query_x": (outputs, self.input_size),
            "query_y": (outputs, self.output_size),
        }
        return spaces.Dict(
            {part: spaces.Box(-np.inf, np.inf, shape, np.float32) for part, shape in shapes.items()}
        )

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        """Draws sequences of one length."""
        num_tasks = check_count("num_tasks", num_tasks)
        check_rng(rng)
        inputs, targets = self._draw(num_tasks, rng)
        x, y = (torch.from_numpy(part.astype(np.float32)) for part in (inputs, targets))
        blank = torch.zeros(*y.shape[:2], self.input_size)
        return FewShotTasks(x, x.new_zeros(*x.shape[:2], 0), blank, y).to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """Returns the same tasks, which are drawn on a device."""
        moved = copy.copy(self)
        moved.device = device
        return moved


class CopyTasks(SequenceTasks):
    """Copy tasks: the output is the input sequence. One marker shows its end.

    Args:
        lengths: Minimum and maximum length of a sequence.
        bits: Number of bits of a vector.

    Raises:
        ValueError: A count is below one, or a range is empty.
    """

    def __init__(self, lengths: Sequence[int] = (1, 20), bits: int = 8) -> None:
        self.lengths = _check_range("lengths", lengths)
        self.bits = self.output_size = check_count("bits", bits)
        self.input_size = self.bits + 1
        self.name = f"Copy-{_range_name(self.lengths)}"

    @property
    def longest(self) -> tuple[int, int]:
        """Numbers of inputs and outputs of the longest sequence."""
        return self.lengths[1] + 1, self.lengths[1]

    def _draw(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        length = int(rng.integers(self.lengths[0], self.lengths[1] + 1))
        targets = rng.integers(2, size=(num, length, self.bits))
        inputs = np.zeros((num, length + 1, self.input_size))
        inputs[:, :length, : self.bits] = targets
        inputs[:, length, self.bits] = 1
        return inputs, targets


class RepeatCopyTasks(SequenceTasks):
    """Repeat copy tasks: the output is the sequence a number of times, and then an end marker.

    The end marker of the input holds the number of repeats, scaled to mean 0 and variance 1 over a
    range, as in the paper. The last output feature is the end marker of the output.

    Args:
        lengths: Minimum and maximum length of a sequence.
        repeats: Minimum and maximum number of repeats.
        bits: Number of bits of a vector.
        scale: Range by which numbers of repeats are scaled (default: ``repeats``). Tests with more
            repeats than in training need the range of training.

    Raises:
        ValueError: A count is below one, or a range is empty.
    """

    def __init__(
        self,
        lengths: Sequence[int] = (1, 10),
        repeats: Sequence[int] = (1, 10),
        bits: int = 8,
        *,
        scale: Sequence[int] | None = None,
    ) -> None:
        self.lengths = _check_range("lengths", lengths)
        self.repeats = _check_range("repeats", repeats)
        self.scale = _check_range("scale", repeats if scale is None else scale)
        self.bits = check_count("bits", bits)
        self.input_size, self.output_size = self.bits + 2, self.bits + 1
        self.name = f"RepeatCopy-{_range_name(self.lengths)}x{_range_name(self.repeats)}"

    @property
    def longest(self) -> tuple[int, int]:
        """Numbers of inputs and outputs of the longest sequence."""
        return self.lengths[1] + 1, self.lengths[1] * self.repeats[1] + 1

    def scaled(self, repeats: int) -> float:
        """Returns the number of repeats as it is scaled for the input."""
        low, high = self.scale
        spread = np.sqrt(((high - low + 1) ** 2 - 1) / 12)  # std of a uniform whole number
        return float((repeats - (low + high) / 2) / max(spread, 1.0))

    def _draw(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        length = int(rng.integers(self.lengths[0], self.lengths[1] + 1))
        repeats = int(rng.integers(self.repeats[0], self.repeats[1] + 1))
        drawn = rng.integers(2, size=(num, length, self.bits))
        inputs = np.zeros((num, length + 1, self.input_size))
        inputs[:, :length, : self.bits] = drawn
        inputs[:, length, self.bits :] = 1, self.scaled(repeats)
        targets = np.zeros((num, length * repeats + 1, self.output_size))
        targets[:, :-1, : self.bits] = np.tile(drawn, (1, repeats, 1))
        targets[:, -1, self.bits] = 1
        return inputs, targets


class AssociativeRecallTasks(SequenceTasks):
    """Associative recall tasks: after a list, one of its items is the cue for the item after it.

    There are two markers: one before each item of the list, one before and after the cue.

    Args:
        items: Minimum and maximum number of items in the list, at least 2.
        item_length: Number of vectors of an item.
        bits: Number of bits of a vector.

    Raises:
        ValueError: A count is too low, or a range is empty.
    """

    def __init__(self, items: Sequence[int] = (2, 6), item_length: int = 3, bits: int = 6) -> None:
        self.items = _check_range("items", items, least=2)
        self.item_length = check_count("item_length", item_length)
        self.bits = self.output_size = check_count("bits", bits)
        self.input_size = self.bits + 2
        self.name = f"AssociativeRecall-{_range_name(self.items)}"

    @property
    def longest(self) -> tuple[int, int]:
        """Numbers of inputs and outputs for the longest list."""
        return (self.items[1] + 1) * (self.item_length + 1) + 1, self.item_length

    def _draw(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        count = int(rng.integers(self.items[0], self.items[1] + 1))
        items = rng.integers(2, size=(num, count, self.item_length, self.bits))
        asked = rng.integers(count - 1, size=num)
        rows = np.arange(num)
        shown = np.concatenate([items, items[rows, asked][:, None]], axis=1)
        marked = np.zeros((num, count + 1, self.item_length + 1, self.input_size))
        marked[:, :, 1:, : self.bits] = shown
        marked[:, :-1, 0, self.bits] = 1
        marked[:, -1, 0, self.bits + 1] = 1
        end = np.zeros((num, 1, self.input_size))
        end[..., self.bits + 1] = 1
        inputs = np.concatenate([marked.reshape(num, -1, self.input_size), end], axis=1)
        return inputs, items[rows, asked + 1]


def _check_range(name: str, values: Sequence[int], least: int = 1) -> tuple[int, int]:
    try:
        low, high = values
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are a minimum and a maximum, got {values!r}") from error
    low, high = check_count(name, low, least=least), check_count(name, high, least=least)
    if low > high:
        raise ValueError(f"{name}: the minimum {low} is above the maximum {high}")
    return low, high


def _range_name(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}to{values[1]}"


def copy_split(
    lengths: Sequence[int] = (1, 20), test_length: int = 20, bits: int = 8
) -> FewShotSplit:
    """Makes copy tasks with a range of lengths for training, and one length for the other parts.

    Args:
        lengths: Minimum and maximum length in training.
        test_length: Length in validation and test.
        bits: Number of bits of a vector.
    """
    test = CopyTasks((test_length, test_length), bits)
    return FewShotSplit(CopyTasks(lengths, bits), test, test)


def repeat_copy_split(
    lengths: Sequence[int] = (1, 10),
    repeats: Sequence[int] = (1, 10),
    test_length: int = 10,
    test_repeats: int = 10,
    bits: int = 8,
) -> FewShotSplit:
    """Makes repeat copy tasks with ranges of lengths and repeats for training.

    Args:
        lengths: Minimum and maximum length in training.
        repeats: Minimum and maximum number of repeats in training.
        test_length: Length in validation and test.
        test_repeats: Number of repeats in validation and test.
        bits: Number of bits of a vector.
    """
    test = RepeatCopyTasks(
        (test_length, test_length), (test_repeats, test_repeats), bits, scale=repeats
    )
    return FewShotSplit(RepeatCopyTasks(lengths, repeats, bits), test, test)


def recall_split(
    items: Sequence[int] = (2, 6), test_items: int = 6, item_length: int = 3, bits: int = 6
) -> FewShotSplit:
    """Makes associative recall tasks with a range of numbers of items for training.

    Args:
        items: Minimum and maximum number of items in training.
        test_items: Number of items in validation and test.
        item_length: Number of vectors of an item.
        bits: Number of bits of a vector.
    """
    test = AssociativeRecallTasks((test_items, test_items), item_length, bits)
    return FewShotSplit(AssociativeRecallTasks(items, item_length, bits), test, test)
