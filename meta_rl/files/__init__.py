"""Files that are written completely or not at all; the modules: files of agents and learners."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

UNFINISHED = ".{name}.{process}.part"
"""Name of a file that is being written."""


def write_atomically(path: str | Path, text: str, synced: bool = True) -> Path:
    """Writes a text file by :func:`whole_file`, and returns its path."""
    with whole_file(path, synced) as file:
        file.write(text.encode())
    return Path(path)


@contextmanager
def whole_file(path: str | Path, synced: bool = True) -> Iterator[BufferedRandom]:
    """Opens a file that takes its place when it is complete; a crash leaves the former file.

    Args:
        path: Path of the file; its folder is made if it is missing.
        synced: Whether the file is also complete after a loss of power, which takes some 10 ms
            (default: True).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(UNFINISHED.format(name=path.name, process=os.getpid()))
    try:
        with unfinished.open("w+b") as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:  # a full disk tells no name
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
