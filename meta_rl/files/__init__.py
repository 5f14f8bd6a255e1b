"""Files that are written completely or not at all; the modules: files of agents and learners."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path


def write_atomically(path: str | Path, text: str) -> Path:
    """Writes a text file by :func:`whole_file`, and returns its path."""
    with whole_file(path) as file:
        file.write(text.encode())
    return Path(path)


@contextmanager
def whole_file(path: str | Path) -> Iterator[BufferedRandom]:
    """Opens a file that takes its place when it is complete; a crash leaves the former file.

    Args:
        path: Path of the file; its folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:  # a full disk tells no name
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
