"""A setting that keeps freed tensor memory in the process (Linux with glibc).

It saves 8 % of an update of MAML with Omniglot's fully connected network, and nothing measurable of
an iteration of MAML-TRPO (``benchmarks/results/hand_written.md``).
"""

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
    """Keeps up to 1 GiB of freed memory in the process for its next tensors (Linux with glibc).

    By default glibc's malloc takes every block of 32 MiB or more from the system and returns it
    when it is freed, and smaller blocks too where much is freed at once. Fast weights of a
    meta-batch are such blocks. The system then clears fresh pages at every operation, which takes
    as long as the operation itself. The command line calls this function before it trains or
    evaluates; in a program of your own, call it before the first tensors are made. No learner calls
    it, as it changes the whole process.

    Returns:
        Whether the setting was made. It is ``False`` where the C library has no such setting or
        refuses the values, and where the user has set it by an environment variable
        (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, or ``glibc.malloc`` in
        ``GLIBC_TUNABLES``).
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
