"""PyTorch's threads and devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from stable_baselines3.common.utils import get_device


@contextmanager
def torch_threads(num: int | None) -> Iterator[None]:
    """Sets the number of PyTorch CPU threads within the context, and restores it afterwards.

    Args:
        num: Number of threads; ``None`` does not change it.
    """
    before = torch.get_num_threads()
    if num is None or num == before:
        yield
        return
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def find_device(device: torch.device | str) -> torch.device:
    """Returns a device as Stable-Baselines3 does: the CPU for ``"cuda"`` if there is no GPU.

    Raises:
        ValueError: There is no such device.
    """
    try:
        return get_device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is 'auto', 'cpu' or 'cuda', got {device!r}") from error
