"""Checks and conversion of support, query and training data for a learner's network.

Inputs may be tensors, arrays or lists of any real numbers. ``uint8`` inputs are images and are
divided by 255; other integers and bools keep their values. All become floats of the network's
precision. A network on words gets int64 numbers, which are not divided. Labels may have any integer
type.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meta_rl.arguments import check_kind
from meta_rl.few_shot.data.arrays import as_tensor, check_finite
from meta_rl.few_shot.tasks import FewShotTasks


class CheckedInputs:
    """The part of a learner that checks and converts its data.

    Attributes:
        network: Network; its attributes ``input_shape`` and ``vocabulary_size``, where it has
            them, say what it takes.
        device: Device of the network.
        ways: Number of classes that the network tells apart; ``None`` for any number.
        regression: Whether targets are values rather than labels.
    """

    network: nn.Module
    device: torch.device
    ways: int | None
    regression: bool
    _example_dims: int | None

    divides_bytes: ClassVar[bool] = True
    """Whether ``uint8`` inputs are images, which are divided by 255."""

    def check_support(self, support: Any) -> tuple[Tensor, Tensor]:
        """Returns support data on the device, with a task axis.

        Raises:
            TypeError: The support data are no pair of inputs and labels.
            ValueError: The data do not fit; see :meth:`FewShotLearner.adapt`.
        """
        x, y = self._as_pair(support)
        if y.is_floating_point() != self.regression:
            kind = "values (floats)" if self.regression else "labels (whole numbers)"
            raise ValueError(f"{type(self).__name__} learns {kind}, got targets of {y.dtype}")
        if y.dim() == (2 if self.regression else 1):
            x, y = x[None], y[None]
        return self._checked_pair(x, y, "support")

    def _as_pair(self, support: Any) -> tuple[Tensor, Tensor]:
        if isinstance(support, FewShotTasks):
            support = support.support
        wanted = "a pair (inputs, labels)"
        check_kind("support data", support, (tuple, list), wanted)
        if len(support) != 2:
            raise ValueError(f"support data have to be {wanted}, got {len(support)} parts")
        x, y = support
        return (
            as_tensor(x, "support inputs", self.device),
            as_tensor(y, "support labels", self.device),
        )

    def _checked_pair(self, x: Tensor, y: Tensor, part: str) -> tuple[Tensor, Tensor]:
        """Checks inputs and labels that have a task axis; ``part`` names them in errors."""
        if y.dim() < 2 or x.shape[:2] != y.shape[:2]:
            raise ValueError(
                f"{part}: inputs {tuple(x.shape)} and labels {tuple(y.shape)} do not match"
            )
        if y.shape[0] == 0 or y.shape[1] == 0:
            raise ValueError(f"an empty {part} set: a task needs at least one example in it")
        if self.regression:
            y = y.to(self.dtype)
            check_finite(y, f"{part} targets")
        else:
            if y.dim() > 2:
                raise ValueError(
                    f"{part}: labels of shape {tuple(y.shape)}; one whole number for each example "
                    "is wanted"
                )
            y = y.to(torch.int64)
            self._check_labels(y, part)
        return self.check_inputs(x, f"{part} inputs"), y

    def _check_labels(self, y: Tensor, part: str = "support") -> None:
        low, high = int(y.min()), int(y.max())
        if low < 0 or (self.ways is not None and high >= self.ways):
            allowed = "0 and more" if self.ways is None else f"0 to {self.ways - 1}"
            raise ValueError(f"{part} labels have to be {allowed}, got {low} to {high}")

    def check_inputs(self, inputs: Any, name: str = "inputs") -> Tensor:
        """Returns inputs with a task axis as the network takes them.

        For a network without ``input_shape``, the first inputs fix the number of dimensions of an
        example.

        Raises:
            TypeError: The inputs are no tensor, array or lists of numbers.
            ValueError: The inputs do not fit; see :meth:`FewShotLearner.adapt`.
        """
        x = as_tensor(inputs, name, self.device)
        self._check_shape(x)
        if 0 in x.shape[2:]:
            raise ValueError(f"{name}: examples of shape {tuple(x.shape[2:])} hold no numbers")
        return self._converted(x, name)

    def _check_shape(self, x: Tensor) -> None:
        shape = getattr(self.network, "input_shape", None)
        if self._example_dims is None and x.dim() >= 2:
            self._example_dims = x.dim() - 2
        dims = self._example_dims or 0
        fits = x.dim() == dims + 2 and all(
            want in (None, have) for want, have in zip(shape or (), x.shape[2:], strict=False)
        )
        if not fits:
            wanted = shape or f"{dims} dimensions"
            raise ValueError(
                f"inputs of shape {tuple(x.shape)} are no [tasks, examples, *{wanted}], as the "
                "network takes"
            )

    def _converted(self, x: Tensor, name: str) -> Tensor:
        words = self._vocabulary_size()
        declared = getattr(self.network, "vocabulary_size", None) is not None
        if words is not None and (declared or not x.is_floating_point()):
            return _word_numbers(x, words)
        if x.dtype == torch.uint8 and self.divides_bytes:
            return x.to(self.dtype).div(255)
        converted = x.to(self.dtype)
        if x.is_floating_point():
            check_finite(converted, name)
        return converted

    def _vocabulary_size(self) -> int | None:
        """Returns the number of words of a network that declares it or begins with an embedding."""
        told = getattr(self.network, "vocabulary_size", None)
        if told is not None:
            return int(told)
        for module in self.network.modules():
            if next(module.parameters(recurse=False), None) is not None:
                if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    return module.num_embeddings
                return None
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network's parameters; float32 if it has none."""
        kinds = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        return next(kinds, torch.float32)

    def check_batch(self, batch: Any) -> FewShotTasks:
        """Returns training tasks as the network takes them.

        Raises:
            TypeError: The batch is no :class:`FewShotTasks`.
            ValueError: The data do not fit; see :meth:`FewShotLearner.adapt`.
        """
        wanted = "FewShotTasks (support_x, support_y, query_x, query_y)"
        check_kind("what sample_tasks gives", batch, tuple, wanted)
        if len(batch) != 4:
            raise TypeError(
                f"what sample_tasks gives has to be {wanted}, got a tuple of {len(batch)}"
            )
        support = self.check_support(tuple(batch[:2]))
        x, y = (as_tensor(part, "query data", self.device) for part in batch[2:])
        if y.is_floating_point() != support[1].is_floating_point():
            raise ValueError(f"support labels are of {support[1].dtype}, query labels of {y.dtype}")
        if y.dim() == (2 if self.regression else 1):
            x, y = x[None], y[None]
        query = self._checked_pair(x, y, "query")
        if len(query[1]) != len(support[1]):
            raise ValueError(
                f"support data of {len(support[1])} tasks, but query data of {len(query[1])}"
            )
        checked = FewShotTasks(*support, *query)
        if not self.regression:
            self._check_query_labels(checked)
        return checked

    def _check_query_labels(self, batch: FewShotTasks) -> None:
        """Raises an error for queries of a class that neither network nor support set has."""
        most = int(batch.support_y.max()) if self.ways is None else self.ways - 1
        if int(batch.query_y.max()) > most:
            raise ValueError(
                f"query labels go up to {int(batch.query_y.max())}, but classes only up to {most}"
            )


def _word_numbers(x: Tensor, words: int) -> Tensor:
    if x.is_floating_point() or x.dtype == torch.bool:
        raise ValueError(
            f"the network takes word numbers (whole numbers from 0 to {words - 1}), got inputs of "
            f"{x.dtype}"
        )
    numbers = x.to(torch.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= words:
        raise ValueError(f"word numbers are 0 to {words - 1}, got {low} to {high}")
    return numbers
