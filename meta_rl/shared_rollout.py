"""One batch of rollouts shared by the calling thread and others."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread

import mujoco
import numpy as np
from mujoco import _callbacks
from mujoco.rollout import Rollout

CONTROL = mujoco.mjtState.mjSTATE_CTRL.value


@dataclass
class Rollouts:
    """A batch to be rolled out.

    Attributes:
        models: One per row.
        physics: First states, ``[N, nstate]``.
        num_steps: Calls of ``mj_step``.
        controls: ``[N, num_steps, nu]``; none where ``None``.
        states: Written to, ``[N, num_steps, nstate]``.
        sensordata: Written to, ``[N, num_steps, nsensordata]``.
    """

    models: list[mujoco.MjModel]
    physics: np.ndarray
    num_steps: int
    controls: np.ndarray | None = None
    states: np.ndarray | None = None
    sensordata: np.ndarray | None = None

    def __getitem__(self, rows: slice) -> Rollouts:
        arrays = ("physics", "controls", "states", "sensordata")
        parts = {name: getattr(self, name) for name in arrays}
        parts = {name: part if part is None else part[rows] for name, part in parts.items()}
        return replace(self, models=self.models[rows], **parts)


class SharedRollout:
    """``mujoco.rollout`` in which the caller works too, and does not wait for a pool to.

    Where a batch takes a millisecond, to wake a thread, and to be woken by it, is a tenth of that.
    Here the caller's own share is under way while the others wake up.

    Args:
        nthread: Threads, the caller among them.
        chunk_size: Rows that a thread takes at a time.
    """

    def __init__(self, nthread: int, chunk_size: int | None = None) -> None:
        self.nthread = nthread
        self.chunk_size = chunk_size
        self._own = _Pool(1)
        self._others: _Pool | None = None
        self._companion: _Companion | None = None

    def __call__(self, work: Rollouts) -> None:
        """Roll out every row."""
        num = len(work.models)
        rows = _Rows(num)
        chunk_size = self.chunk_size or _chunk_size(num, self.nthread)
        with _profiler_off():
            if chunk_size >= num or self.nthread == 1:
                self._own.roll_out(work, num)
                return
            if self._others is None or self._companion is None:
                self._others, self._companion = _Pool(self.nthread - 1), _Companion()
            self._companion.start(partial(self._others.roll_out_chunks, work, rows, chunk_size))
            try:
                self._own.roll_out_chunks(work, rows, chunk_size)
            finally:
                self._companion.wait()

    def close(self) -> None:
        """End the threads; the next call starts them again."""
        self._own.close()
        if self._others is not None and self._companion is not None:
            self._others.close()
            self._companion.close()
        self._own, self._others, self._companion = _Pool(1), None, None


class _Pool:
    """MuJoCo's pool, and data for each of its threads; of one thread, only the data."""

    def __init__(self, nthread: int) -> None:
        self.nthread = nthread
        self._rollout: Rollout | None = None
        self._data: dict[bool, list[mujoco.MjData]] = {}

    def roll_out_chunks(self, work: Rollouts, rows: _Rows, chunk_size: int) -> None:
        """A chunk for each thread at a time, as long as there are any."""
        while part := rows.take(chunk_size * self.nthread):
            self.roll_out(work[part], chunk_size)

    def roll_out(self, work: Rollouts, chunk_size: int) -> None:
        if self._rollout is None:
            self._rollout = Rollout(nthread=self.nthread if self.nthread > 1 else 0)
        sensing = work.sensordata is not None  # by another model
        if sensing not in self._data:
            self._data[sensing] = [mujoco.MjData(work.models[0]) for _ in range(self.nthread)]
        self._rollout.rollout(
            work.models,
            self._data[sensing],
            work.physics,
            work.controls,
            control_spec=CONTROL,
            skip_checks=True,
            nstep=work.num_steps,
            state=work.states,
            sensordata=work.sensordata,
            chunk_size=chunk_size,
        )

    def close(self) -> None:
        if self._rollout is not None:
            self._rollout.close()


class _Rows:
    """What is left of a batch."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._taken = 0
        self._lock = Lock()

    def take(self, num: int) -> slice | None:
        """The next rows, up to so many; ``None`` after the last."""
        with self._lock:
            first = self._taken
            self._taken = min(first + num, self._num)
            return slice(first, self._taken) if first < self._taken else None


Job = Callable[[], None]


class _Companion:
    """A thread that does a job at a time. An executor does the same, 20 µs later."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        # The thread knows the queues only: it ends with whoever owns them.
        Thread(target=_work, args=(self._jobs, self._outcomes), daemon=True).start()
        self._end = weakref.finalize(self, self._jobs.put, None)

    def start(self, job: Job) -> None:
        self._jobs.put(job)

    def wait(self) -> None:
        error = self._outcomes.get()
        if error is not None:
            raise error

    def close(self) -> None:
        self._end()


def _work(jobs: SimpleQueue[Job | None], outcomes: SimpleQueue[BaseException | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
            outcomes.put(None)
        except BaseException as error:
            outcomes.put(error)
        del job  # and with it the arrays


def _chunk_size(num: int, nthread: int) -> int:
    """As many chunks for every thread, of 32 rows or, of large batches, a tenth of its share.

    Threads lose time where they meet (small chunks) and where one is left with the last chunk. A
    chunk is a row larger than its share: the caller, who takes the first, begins some 20 µs before
    the others.
    """
    chunks_per_thread = min(max(num // (32 * nthread), 1), 10)
    chunk_size = -(-num // (nthread * chunks_per_thread))
    return chunk_size + 1 if chunk_size >= 32 else chunk_size


def _find_clock() -> ctypes.c_void_p | None:
    """MuJoCo's ``mjcb_time``, a documented global of its C library; ``None`` where it hides."""
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(_callbacks.__file__), "mjcb_time")
    except (OSError, ValueError):
        return None


_CLOCK = _find_clock()


@contextlib.contextmanager
def _profiler_off() -> Iterator[None]:
    """Take the clock from MuJoCo's profiler, which nobody reads here: 5 % of a step of an Ant."""
    clock = None if _CLOCK is None else _CLOCK.value
    if _CLOCK is None or clock is None:
        yield
        return
    _CLOCK.value = None
    try:
        yield
    finally:
        _CLOCK.value = clock
