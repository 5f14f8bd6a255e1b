"""Conversion of tensors, arrays and lists of numbers to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_FEW_OPERATIONS = (torch.uint16, torch.uint32, torch.uint64)
"""Types for which PyTorch has few operations; their values are converted to int64."""


def as_tensor(values: Any, name: str, device: torch.device | str | None = None) -> Tensor:
    """Returns real numbers as a tensor on a device.

    Args:
        values: A tensor, an array, or (nested) lists of numbers, tensors or arrays.
        name: Name of the values in error messages.
        device: Device of the result (default: the device of a tensor, the CPU for others).

    Raises:
        TypeError: The values are none of these.
        ValueError: The values are complex or texts, or parts have different shapes.
    """
    tensor = values if isinstance(values, Tensor) else _from_python(values, name)
    if tensor.is_complex():
        raise ValueError(f"{name}: complex numbers ({tensor.dtype}); real numbers are wanted")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = f"{tensor.layout}, {tensor.dtype}"
        raise ValueError(f"{name}: a tensor that does not hold plain numbers ({kind})")
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.to(torch.float32)  # PyTorch has few operations for 8 bits
    if tensor.dtype in _FEW_OPERATIONS:
        large = tensor.dtype == torch.uint64
        tensor = tensor.to(torch.int64)
        if large and bool((tensor < 0).any()):
            raise ValueError(f"{name}: a whole number of 2**63 or more")
    return tensor.detach() if device is None else tensor.detach().to(device)


def _from_python(values: Any, name: str) -> Tensor:
    if isinstance(values, list | tuple) and any(_holds_tensor(part) for part in values):
        try:
            return torch.stack([as_tensor(part, name) for part in values])
        except RuntimeError as error:
            raise ValueError(f"{name}: parts of different shapes") from error
    if np.ma.is_masked(values):
        raise ValueError(f"{name}: a masked array with missing numbers")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name}: parts of different shapes") from error
    if array.dtype.kind in "US":
        raise ValueError(f"{name}: texts, such as {str(array.flat[0])!r}; numbers are wanted")
    if array.dtype.kind not in "biufc":
        kind = "None" if values is None else type(values).__name__
        raise TypeError(
            f"{name} have to be a tensor, an array or lists of numbers, got {kind} ({array.dtype})"
        )
    return from_array(array)


def from_array(array: np.ndarray) -> Tensor:
    """Returns a tensor with a copy of an array of any byte order, strides and precision."""
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":  # long double
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _holds_tensor(part: Any) -> bool:
    while isinstance(part, list | tuple) and part:
        part = part[0]
    return isinstance(part, Tensor)


class NonFiniteDataError(FloatingPointError, ValueError):
    """An error for examples that hold NaN or infinity."""


def check_finite(x: Tensor, name: str) -> None:
    """Raises an error where values are NaN or infinite.

    Args:
        x: Examples of tasks, ``[M, N, ...]``.
        name: Name of the values in the error message.

    Raises:
        NonFiniteDataError: A value is not finite; the message names the first such example and its
            task.
    """
    place = find_not_finite(x, 2)
    if place is not None:
        *where, number = place
        raise NonFiniteDataError(f"{name}: example {where[1]} of task {where[0]} holds {number}")


def find_not_finite(x: Tensor, num_axes: int) -> list[Any] | None:
    """Returns the index of the first NaN or infinity on the leading axes, and this value.

    Args:
        x: Values to be searched.
        num_axes: Number of leading axes that the index counts along.

    Returns:
        The indices and then the value; ``None`` if all values are finite.
    """
    if not x.is_floating_point() or bool(x.sum().isfinite()):  # one pass: almost always the case
        return None
    finite = x.isfinite().reshape(*x.shape[:num_axes], -1)
    bad = ~finite.all(dim=-1)
    if not bool(bad.any()):  # finite numbers with an infinite sum
        return None
    where = bad.nonzero()[0].tolist()
    row = x[tuple(where)].flatten()
    return [*where, float(row[~row.isfinite()][0])]
