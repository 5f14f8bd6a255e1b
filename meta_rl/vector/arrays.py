"""The kind of arrays that a batch works with: numpy's, or PyTorch's tensors on a device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import array_api_compat
import array_api_compat.numpy
import numpy as np


class Arrays:
    """A kind of arrays: numpy's, or PyTorch's tensors on one device.

    Args:
        device: PyTorch device of the tensors; ``None`` (default) for numpy's arrays.

    Attributes:
        xp: The array-API namespace: ``numpy``, or ``array_api_compat.torch``.
        device: Device of the arrays, ``"cpu"`` for numpy's.
    """

    def __init__(self, device: Any = None) -> None:
        self.xp: Any = np
        self.device: Any = "cpu"
        if device is not None:
            import torch
            from array_api_compat import torch as xp

            self.xp, self.device = xp, torch.device(device)

    def __reduce__(self) -> tuple[Any, ...]:
        return Arrays, (None if self.xp is np else self.device,)  # modules cannot be pickled

    def zeros(self, shape: Any, dtype: str) -> Any:
        """Makes an array of zeros.

        Args:
            shape: Its shape.
            dtype: Name of its dtype in the array API, such as ``"bool"``.
        """
        return self.xp.zeros(shape, dtype=getattr(self.xp, dtype), device=self.device)

    def converted(self, values: Any) -> Any:
        """Returns an array, or a dict of arrays, as arrays of this kind; copies where it must."""
        if isinstance(values, Mapping):
            return {key: self.converted(value) for key, value in values.items()}
        return self.xp.asarray(values, device=self.device)

    def to_numpy(self, values: Any) -> Any:
        """Returns arrays of this kind, or a dict or a tuple of them, as numpy arrays."""
        if self.xp is np:
            return values
        from gymnasium.wrappers.array_conversion import array_conversion

        return array_conversion(values, xp=np)


NUMPY = Arrays()
"""The arrays of numpy."""


def array_namespace(array: Any) -> Any:
    """Returns the array-API namespace of an array, as ``array_api_compat`` does but faster."""
    if type(array) is np.ndarray:
        return array_api_compat.numpy
    return array_api_compat.array_namespace(array)


@lru_cache(maxsize=64)
def _counted(num: int, xp: Any, device: Any) -> Any:
    return xp.arange(num, device=device)


def indices(array: Any) -> Any:
    """Returns ``0, 1, ..., len(array) - 1``, of the array's kind; it must not be written to."""
    if type(array) is np.ndarray:
        return _counted(len(array), np, "cpu")
    xp = array_api_compat.array_namespace(array)
    return _counted(len(array), xp, array_api_compat.device(array))


def dtype_kind(dtype: Any) -> str:
    """Returns numpy's letter for the kind of a dtype of numpy or PyTorch, such as ``"f"``."""
    if isinstance(dtype, np.dtype):
        return dtype.kind
    return "f" if dtype.is_floating_point else np.dtype(str(dtype).removeprefix("torch.")).kind
