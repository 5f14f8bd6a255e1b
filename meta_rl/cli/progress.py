"""Progress of long steps: bars on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

LINE_SECONDS = 30.0
"""Seconds between two lines where there is no terminal."""


def on_terminal() -> bool:
    """Tells whether the output goes to a terminal."""
    return sys.stdout.isatty()


class Shown(Protocol):
    """A display of several long steps."""

    def update(self, name: str, share: float, state: str) -> None:
        """Shows that a share (0 to 1) of a step is done."""
        ...


class _Nothing:
    def update(self, name: str, share: float, state: str) -> None:
        pass


class Lines:
    """A line with the shares of all steps now and then, and one whenever a state changes.

    Args:
        seconds: Seconds between two lines.
    """

    def __init__(self, seconds: float = LINE_SECONDS) -> None:
        self.seconds = seconds
        self._printed = time.monotonic()
        self._shares: dict[str, tuple[float, str]] = {}

    def update(self, name: str, share: float, state: str) -> None:
        """Notes a share; prints a line if it is time for one."""
        before = self._shares.get(name)
        self._shares[name] = (share, state)
        if before is not None and before[1] != state:
            print(f"{name}: {state}", flush=True)
        if time.monotonic() - self._printed >= self.seconds:
            self._printed = time.monotonic()
            parts = [f"{one} {share:.0%}" for one, (share, _) in self._shares.items()]
            print(", ".join(parts), flush=True)


class _Bars:
    def __init__(self, progress: Any) -> None:
        self.progress = progress
        self._bars: dict[str, Any] = {}

    def update(self, name: str, share: float, state: str) -> None:
        if name not in self._bars:
            self._bars[name] = self.progress.add_task(name, total=1.0, state=state)
        self.progress.update(self._bars[name], completed=share, state=state)


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Shown]:
    """Opens the display that fits the output: bars, lines, or nothing.

    Args:
        quiet: Whether nothing is shown.
    """
    if quiet:
        yield _Nothing()
    elif not on_terminal():
        yield Lines()
    else:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} % {task.fields[state]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            yield _Bars(progress)
