"""The log for TensorBoard, which tells when it cannot be written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.logger import TensorBoardOutputFormat


class Events(TensorBoardOutputFormat):
    """TensorBoard's log, whose errors are raised in the thread that logs, with the folder's name.

    TensorBoard writes in a thread of its own, whose errors Python would print too.

    Args:
        folder: Folder of the log.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._failed = False
        self._others = set(threading.enumerate())
        self._hook = threading.excepthook
        threading.excepthook = self._seen
        try:
            with self._named():
                super().__init__(folder)
        except OSError:
            threading.excepthook = self._hook
            raise

    def write(self, *arguments: Any, **kwargs: Any) -> None:
        """Adds the numbers of a step, and flushes them.

        Raises:
            OSError: They could not be written.
        """
        with self._named():
            super().write(*arguments, **kwargs)

    def close(self) -> None:
        """Closes the log.

        Raises:
            OSError: The rest could not be written, and no earlier error has told so.
        """
        failed = self._failed
        try:
            with self._named():
                super().close()
        except OSError:
            if not failed:
                raise
        finally:
            threading.excepthook = self._hook

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            text = error.strerror or str(error)
            raise OSError(error.errno, text, self._folder) from error

    def _seen(self, arguments: threading.ExceptHookArgs) -> None:
        """Leaves out errors of the writer's thread, which the next write raises."""
        own = arguments.thread not in self._others
        if not (own and issubclass(arguments.exc_type, OSError)):
            self._hook(arguments)
