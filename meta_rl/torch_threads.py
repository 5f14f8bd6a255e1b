"""How many threads PyTorch computes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(num: int | None) -> Iterator[None]:
    """So many threads for PyTorch within; as many as before afterwards.

    Args:
        num: Of the threads; ``None`` leaves them as they are.
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
