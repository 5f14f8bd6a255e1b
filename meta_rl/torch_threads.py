"""A context manager for the number of PyTorch's threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
