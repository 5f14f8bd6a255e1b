"""What becomes of memory that tensors gave back."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST_KEPT = 256 * 2**20
_MOST_KEPT = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed memory for its next tensors, on Linux with glibc.

    By default glibc's malloc takes every block of 32 MiB or more from the system and gives it back
    when it is freed, and smaller ones too where much is freed at once. Fast weights of a meta-batch
    are such blocks: the system then clears fresh pages at every operation, for as long as the
    operation itself takes. The command line calls this before it trains or evaluates; in a program
    of your own, call it before the first tensors. It concerns the whole process, hence no learner
    does it by itself.

    Returns:
        Whether it was done: ``False`` where the C library has no such setting, or does not take
        these values, and where the environment sets it (``MALLOC_TRIM_THRESHOLD_``,
        ``MALLOC_MMAP_THRESHOLD_``, or ``glibc.malloc`` in ``GLIBC_TUNABLES``), which is left as it
        is.
    """
    by_user = any(
        name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if by_user or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False
    return bool(
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        and library.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
    )
