"""Ctrl-C and SIGTERM: a training ends between two iterations, and what it did is saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nmeta-rl: stopping after this iteration, which is saved then; again to stop at once\n"


class InterruptedTrainingError(KeyboardInterrupt):
    """A training was interrupted; the message says what is saved."""


class Interruption:
    """What Ctrl-C and SIGTERM do to a training.

    Args:
        notice: Whether the first signal prints a line (default: True).

    Attributes:
        requested: Whether the training has to end after its iteration.
    """

    def __init__(self, notice: bool = True) -> None:
        self.requested = False
        self.notice = notice
        self._deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within it, both signals raise ``KeyboardInterrupt``, but for :meth:`deferred` parts.

        Signals that are ignored stay so, as those of a process in the background. Only the main
        thread can handle signals; elsewhere nothing changes.
        """
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {one: signal.getsignal(one) for one in SIGNALS}
        handled = {one: old for one, old in before.items() if old not in (signal.SIG_IGN, None)}
        for one in handled:
            signal.signal(one, self._handle)
        try:
            yield
        finally:
            for one, old in handled.items():
                signal.signal(one, old)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it, the first signal only sets :attr:`requested`; the second one interrupts.

        Raises:
            KeyboardInterrupt: At its end, if one was requested.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: Any) -> None:
        if not self._deferred or self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self.notice:
            os.write(2, NOTICE)  # print is not safe in a handler


class FailedWriteError(RuntimeError):
    """A training could not write a file; the earlier checkpoint is as it was."""


class FailedTrainingsError(RuntimeError):
    """Some of several trainings failed; the message names them, and the others are done."""


class SilentExitError(RuntimeError):
    """The command ends with code 1, and another process says why."""
