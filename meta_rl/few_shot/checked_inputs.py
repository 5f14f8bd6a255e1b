"""What few-shot learners refuse: support data, labels and inputs that do not fit their network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from meta_rl.few_shot.tasks import FewShotTasks


class CheckedInputs:
    """Checks of a learner's data, each with one clear error.

    Attributes:
        network: Tells by ``input_shape`` and ``vocabulary_size`` what it takes, where it has them.
        device: Of the network.
        ways: Classes that the network tells apart; ``None`` for any number.
        regression: Whether targets are values rather than labels.
    """

    network: nn.Module
    device: torch.device
    ways: int | None
    regression: bool
    _example_dims: int | None

    def check_support(self, support: Any) -> tuple[Tensor, Tensor]:
        """Support data on the device, with a task axis.

        Raises:
            ValueError: As :meth:`adapt`.
        """
        try:
            x, y = support[:2] if hasattr(support, "support_x") else support
        except (TypeError, ValueError) as error:
            raise ValueError("support data are a pair (inputs, labels)") from error
        x, y = (torch.as_tensor(part, device=self.device) for part in (x, y))
        if y.is_floating_point() != self.regression:
            kind = "values (floats)" if self.regression else "labels (whole numbers)"
            raise ValueError(f"{type(self).__name__} learns {kind}, got targets of {y.dtype}")
        y = y.to(self._dtype if self.regression else torch.int64)
        if y.dim() == (2 if self.regression else 1):
            x, y = x[None], y[None]
        if y.dim() < 2 or x.shape[:2] != y.shape[:2]:
            raise ValueError(f"inputs {tuple(x.shape)} and labels {tuple(y.shape)} do not match")
        if y.shape[0] == 0 or y.shape[1] == 0:
            raise ValueError("an empty support set: adaptation needs at least one example")
        if not self.regression:
            self._check_labels(y)
        return self._check_inputs(x), y

    def _check_labels(self, y: Tensor) -> None:
        low, high = int(y.min()), int(y.max())
        if low < 0 or (self.ways is not None and high >= self.ways):
            allowed = "0 and more" if self.ways is None else f"0 to {self.ways - 1}"
            raise ValueError(f"labels have to be {allowed}, got {low} to {high}")

    def _check_inputs(self, x: Tensor) -> Tensor:
        """Inputs with a task axis; also learns their dimensions from a network of one's own."""
        shape = getattr(self.network, "input_shape", None)
        if self._example_dims is None:
            self._example_dims = x.dim() - 2
        fits = x.dim() == self._example_dims + 2 and all(
            want in (None, have) for want, have in zip(shape or (), x.shape[2:], strict=False)
        )
        if not fits:
            wanted = shape or f"{self._example_dims} dimensions"
            raise ValueError(
                f"inputs of shape {tuple(x.shape)} are no [tasks, examples, *{wanted}], as the "
                "network takes"
            )
        if x.dtype == torch.uint8:
            return x.to(self._dtype).div(255)
        if x.is_floating_point() or x.dtype == torch.bool:
            return x.to(self._dtype)
        self._check_numbers(x)
        return x

    def _check_numbers(self, x: Tensor) -> None:
        """Whole numbers are numbers of words."""
        words = getattr(self.network, "vocabulary_size", None)
        if words is None:
            if getattr(self.network, "input_shape", None) is not None:
                raise ValueError(
                    f"inputs of {x.dtype}: images are uint8 (0 to 255) or floats, and so are values"
                )
            return
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= words:
            raise ValueError(f"word numbers are 0 to {words - 1}, got {low} to {high}")

    @property
    def _dtype(self) -> torch.dtype:
        """Of floats that the network takes."""
        kinds = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        return next(kinds, torch.float32)

    def check_batch(self, batch: Any) -> None:
        """Refuse training data that the network does not take; it is asked once, at the beginning.

        Raises:
            ValueError: As :meth:`adapt`.
        """
        if not isinstance(batch, FewShotTasks):
            return
        self.check_support(batch.support)
        self._check_inputs(batch.query_x)
        if not self.regression and self.ways is not None:
            self._check_labels(batch.query_y)
