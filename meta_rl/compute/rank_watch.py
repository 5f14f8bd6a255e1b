"""A watch over the ranks of a training, which ends this one when another no longer answers."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed

_DIST: Any = torch.distributed  # PyTorch does not declare the types of its stores

BEAT = 2.0
"""Time between two signs of life of a rank, in seconds."""
PATIENCE = 30.0
"""Time without a sign of life after which a rank counts as dead, in seconds."""
START = 300.0
"""Time within which every rank has to give its first sign of life, in seconds."""


class Watch:
    """Threads that show that this rank lives, and look whether the next one does.

    A collective operation waits for its slowest rank, and cannot tell a slow one from a dead one.
    Signs of life can: they go through the store of ``torchrun``. The rank that finds a dead one
    leaves a note there, so that all others end with it.

    Args:
        rank: Number of this rank, from 0.
        size: Number of ranks.
        die: Function that ends the process with a line for the user (default: it writes the line to
            the standard error, and exits with code 1).
    """

    def __init__(self, rank: int, size: int, die: Callable[[str], Any] | None = None) -> None:
        self.rank, self.size = rank, size
        self._die = die or _exit_with
        self._store = open_store(timedelta(seconds=PATIENCE))
        self._ended = threading.Event()
        self._answered = time.monotonic()
        self._store.set(f"who/{rank}", f"process {os.getpid()} on {platform.node()}")
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._beat, self._guard)
        ]
        for thread in self._threads:
            thread.start()

    def claim(self) -> bool:
        """Tells whether this rank is the first with an error; the others stay silent then."""
        try:
            return bool(self._store.add("said", 1) == 1)
        except RuntimeError:  # the store is gone, and with it whoever failed first
            return True

    def silent_ranks(self) -> list[str]:
        """Returns the ranks without a sign of life within two beats, each with its process."""
        try:
            before = [self._sign(rank) for rank in range(self.size)]
            time.sleep(2.5 * BEAT)
            found = [rank for rank in range(self.size) if self._sign(rank) == before[rank]]
            return [self._described(rank) for rank in found if before[rank] != "left"]
        except RuntimeError:
            return ["the first host"]

    def stop(self, wait: bool = False) -> None:
        """Ends the watch; the others no longer expect this rank.

        Args:
            wait: Whether rank 0, which may host the store, waits for the others (default: False).
        """
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=BEAT)
        try:
            self._store.set(f"beat/{self.rank}", "left")
            end = time.monotonic() + PATIENCE
            while wait and self.rank == 0 and time.monotonic() < end:
                if all(self._sign(rank) == "left" for rank in range(self.size)):
                    return
                time.sleep(0.05)
        except RuntimeError:
            return  # nobody is there to be told

    def _sign(self, rank: int) -> str:
        key = f"beat/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _described(self, rank: int) -> str:
        key = f"who/{rank}"
        known = self._store.check([key])
        return f"rank {rank} ({self._store.get(key).decode()})" if known else f"rank {rank}"

    def _beat(self) -> None:
        """Shows that this rank lives, and looks at the next one and for a note."""
        following, number = (self.rank + 1) % self.size, 0
        latest, since = "", time.monotonic()
        while not self._ended.wait(BEAT):
            number += 1
            try:
                self._store.set(f"beat/{self.rank}", str(number))
                sign = self._sign(following)
                noted = self._store.check(["dead"])
                now = self._answered = time.monotonic()
                if sign not in ("left", latest):
                    latest, since = sign, now
                patience = PATIENCE if latest else START
                if noted or (sign != "left" and now - since > patience):
                    self._end(following)
            except RuntimeError:
                self._lose_store()
                return

    def _end(self, dead: int) -> None:
        """Leaves a note for the others, and ends this process; the first one says why."""
        who = self._described(dead)
        self._store.set("dead", who)
        self._die(f"{who} gives no sign of life" if self.claim() else "")

    def _guard(self) -> None:
        """Ends the process if the store itself no longer answers, as in a cut network."""
        while not self._ended.wait(1.0):
            if time.monotonic() - self._answered > PATIENCE + 2 * BEAT:
                self._lose_store()
                return

    def _lose_store(self) -> None:
        """Ends the process; the first rank of each host says why, as ranks cannot agree on one."""
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        self._die("the host of the first rank no longer answers" if first else "")


def open_store(timeout: timedelta, host_it: bool = False) -> Any:
    """Opens the store of this attempt of the job, which ``torchrun`` hosts.

    Args:
        timeout: Limit of one operation.
        host_it: Whether this process hosts the store if ``torchrun`` does not (default: False).
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = _DIST.TCPStore(
        host, port, is_master=host_it and not hosted, timeout=timeout, wait_for_workers=False
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return _DIST.PrefixStore(f"meta_rl/{attempt}", store)


def _exit_with(line: str) -> None:
    if line:
        os.write(2, f"meta-rl: {line}; the last checkpoint is as it was\n".encode())
    os._exit(1)
