"""Algorithmic sequence tasks: copy, repeat copy and associative recall (Graves et al., 2014).

A task is one sequence of random bits. Its support data are the inputs to be remembered, with
targets of no features (nothing is scored while they are read); its query data are inputs of zeros,
one for each output that is wanted, with the bits as targets. The sequences of one draw have the
same length, which is drawn anew each time.
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
    """Sequences to be remembered, and what has to be said afterwards.

    Attributes:
        input_size: Features of an input, I: the bits and the markers.
        output_size: Features of an output, O.
        name: Of the tasks.
    """

    input_size: int
    output_size: int
    name: str
    device: torch.device | str = "cpu"

    @abstractmethod
    def _draw(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs ``[num, S, I]`` and targets ``[num, Q, O]``."""

    @property
    @abstractmethod
    def longest(self) -> tuple[int, int]:
        """Inputs and outputs of the longest sequence, S and Q."""

    @property
    def space(self) -> spaces.Dict:
        """One task of the longest kind."""
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
        """Draw sequences of one length."""
        num_tasks = check_count("num_tasks", num_tasks)
        check_rng(rng)
        inputs, targets = self._draw(num_tasks, rng)
        x, y = (torch.from_numpy(part.astype(np.float32)) for part in (inputs, targets))
        blank = torch.zeros(*y.shape[:2], self.input_size)
        return FewShotTasks(x, x.new_zeros(*x.shape[:2], 0), blank, y).to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """The same tasks, drawn onto a device."""
        moved = copy.copy(self)
        moved.device = device
        return moved


class CopyTasks(SequenceTasks):
    """Say the sequence again. One marker: its end.

    Args:
        lengths: Shortest and longest.
        bits: Of a vector.

    Raises:
        ValueError: Counts below one, or a range that is empty.
    """

    def __init__(self, lengths: Sequence[int] = (1, 20), bits: int = 8) -> None:
        self.lengths = _check_range("lengths", lengths)
        self.bits = self.output_size = check_count("bits", bits)
        self.input_size = self.bits + 1
        self.name = f"Copy-{_range_name(self.lengths)}"

    @property
    def longest(self) -> tuple[int, int]:
        """Of the longest sequence."""
        return self.lengths[1] + 1, self.lengths[1]

    def _draw(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        length = int(rng.integers(self.lengths[0], self.lengths[1] + 1))
        targets = rng.integers(2, size=(num, length, self.bits))
        inputs = np.zeros((num, length + 1, self.input_size))
        inputs[:, :length, : self.bits] = targets
        inputs[:, length, self.bits] = 1
        return inputs, targets


class RepeatCopyTasks(SequenceTasks):
    """Say the sequence again so many times, then an end marker.

    The marker of the end holds the number of repeats, scaled to mean 0 and variance 1 over a
    range, as in the paper; the last output feature is the end marker.

    Args:
        lengths: Shortest and longest.
        repeats: Fewest and most.
        bits: Of a vector.
        scale: The range that numbers of repeats are scaled by; ``repeats`` by default. Tests with
            more repeats than in training need that of training.

    Raises:
        ValueError: Counts below one, or a range that is empty.
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
        """Of the longest sequence."""
        return self.lengths[1] + 1, self.lengths[1] * self.repeats[1] + 1

    def scaled(self, repeats: int) -> float:
        """The number of repeats as the machine is told it."""
        low, high = self.scale
        spread = np.sqrt(((high - low + 1) ** 2 - 1) / 12)  # of a uniform whole number
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
    """After a list of items one of them, not the last, is shown again: say the one after it.

    Two markers: before each item of the list; before and after the item that is asked.

    Args:
        items: Fewest and most of the list, at least 2.
        item_length: Vectors of an item.
        bits: Of a vector.

    Raises:
        ValueError: Counts too low, or a range that is empty.
    """

    def __init__(self, items: Sequence[int] = (2, 6), item_length: int = 3, bits: int = 6) -> None:
        self.items = _check_range("items", items, least=2)
        self.item_length = check_count("item_length", item_length)
        self.bits = self.output_size = check_count("bits", bits)
        self.input_size = self.bits + 2
        self.name = f"AssociativeRecall-{_range_name(self.items)}"

    @property
    def longest(self) -> tuple[int, int]:
        """Of the longest list."""
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
        raise ValueError(f"{name} are the least and the most, got {values!r}") from error
    low, high = check_count(name, low, least=least), check_count(name, high, least=least)
    if low > high:
        raise ValueError(f"{name}: the least {low} is above the most {high}")
    return low, high


def _range_name(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}to{values[1]}"


def copy_split(
    lengths: Sequence[int] = (1, 20), test_length: int = 20, bits: int = 8
) -> FewShotSplit:
    """Copy tasks: training over lengths, validation and test at one length.

    Args:
        lengths: Shortest and longest in training.
        test_length: Of validation and test.
        bits: Of a vector.
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
    """Repeat copy: training over lengths and repeats, validation and test at one of each.

    Args:
        lengths: Shortest and longest in training.
        repeats: Fewest and most in training.
        test_length: Of validation and test.
        test_repeats: Likewise.
        bits: Of a vector.
    """
    test = RepeatCopyTasks(
        (test_length, test_length), (test_repeats, test_repeats), bits, scale=repeats
    )
    return FewShotSplit(RepeatCopyTasks(lengths, repeats, bits), test, test)


def recall_split(
    items: Sequence[int] = (2, 6), test_items: int = 6, item_length: int = 3, bits: int = 6
) -> FewShotSplit:
    """Associative recall: training over numbers of items, validation and test with one number.

    Args:
        items: Fewest and most in training.
        test_items: Of validation and test.
        item_length: Vectors of an item.
        bits: Of a vector.
    """
    test = AssociativeRecallTasks((test_items, test_items), item_length, bits)
    return FewShotSplit(AssociativeRecallTasks(items, item_length, bits), test, test)
