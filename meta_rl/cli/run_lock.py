"""A run folder has one owner at a time."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout


class RunLock:
    """The lock of a run folder, which its process holds while it trains.

    The operating system holds the lock and gives it back when the process ends, however it ends: a
    file that a killed process left is no obstacle. The file says who holds it.

    Args:
        folder: Path of the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "run.lock"
        self._lock = FileLock(self.file, timeout=0)

    def __enter__(self) -> Self:
        if self.folder.exists():
            self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock.is_locked:
            self.file.unlink(missing_ok=True)  # while no other process can hold it
            self._lock.release()

    def acquire(self) -> None:
        """Take the lock, if it is not held already; the folder is made where it is missing.

        Raises:
            ValueError: Another process holds it, or the folder cannot be written to.
        """
        if self._lock.is_locked:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self.file.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        except Timeout as error:
            raise ValueError(
                f"another process trains in {self.folder} ({self._owner()}): wait for it, or give "
                "--out another folder"
            ) from error
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written to: {error}") from error

    def _owner(self) -> str:
        try:
            return self.file.read_text(encoding="utf-8").strip() or "unknown"
        except OSError:
            return "unknown"
