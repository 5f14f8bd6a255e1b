"""Batches of rollouts that the calling thread and other threads share.

Compared with MuJoCo's own thread pool, this saves 9 % of the processor time of an iteration of
MAML-TRPO on HalfCheetahVel, but no time on the clock of a busy machine
(``benchmarks/results/hand_written.md``).
"""

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
    """The inputs and outputs of a batch of rollouts.

    Attributes:
        models: Models, one per row.
        physics: Initial states, ``[N, nstate]``.
        num_steps: Number of calls of ``mj_step``.
        controls: Inputs, ``[N, num_steps, number of inputs]``; ``None`` for none.
        states: Array for the states, which is written to, ``[N, num_steps, nstate]``.
        sensordata: Array for sensor data, which is written to, ``[N, num_steps, nsensordata]``.
        control_spec: Kind of the inputs, bits of ``mjtState`` (default: those of actuators).
        warmstarts: Accelerations that the solver starts from, ``[N, nv]`` (default: zeros).
        sizes: Name of the models' sizes, where a pool serves models of several sizes (default: one
            size with sensor data, and one without).
    """

    models: list[mujoco.MjModel]
    physics: np.ndarray
    num_steps: int
    controls: np.ndarray | None = None
    states: np.ndarray | None = None
    sensordata: np.ndarray | None = None
    control_spec: int = CONTROL
    warmstarts: np.ndarray | None = None
    sizes: str | None = None

    def __getitem__(self, rows: slice) -> Rollouts:
        arrays = ("physics", "controls", "states", "sensordata", "warmstarts")
        parts = {name: getattr(self, name) for name in arrays}
        parts = {name: part if part is None else part[rows] for name, part in parts.items()}
        return replace(self, models=self.models[rows], **parts)


class SharedRollout:
    """``mujoco.rollout`` with the calling thread as one of the workers.

    A batch may take a millisecond, and waking a pool and being woken by it a tenth of that. Here
    the calling thread computes its own share while the others wake up.

    Args:
        nthread: Number of threads, the calling one included.
        chunk_size: Number of rows that a thread takes at a time (default: chosen by the number of
            rows).
    """

    def __init__(self, nthread: int, chunk_size: int | None = None) -> None:
        self.nthread = nthread
        self.chunk_size = chunk_size
        self._own = _Pool(1)
        self._others: _Pool | None = None
        self._companion: _Companion | None = None

    def __call__(self, work: Rollouts) -> None:
        """Rolls out every row."""
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
        """Ends the threads; the next call starts them again."""
        self._own.close()
        if self._others is not None and self._companion is not None:
            self._others.close()
            self._companion.close()
        self._own, self._others, self._companion = _Pool(1), None, None


class _Pool:
    """MuJoCo's thread pool with data for each thread; one thread needs only the data."""

    def __init__(self, nthread: int) -> None:
        self.nthread = nthread
        self._rollout: Rollout | None = None
        self._data: dict[bool | str, list[mujoco.MjData]] = {}

    def roll_out_chunks(self, work: Rollouts, rows: _Rows, chunk_size: int) -> None:
        """Rolls out chunks, one for each thread at a time, until no rows are left."""
        while part := rows.take(chunk_size * self.nthread):
            self.roll_out(work[part], chunk_size)

    def roll_out(self, work: Rollouts, chunk_size: int) -> None:
        if self._rollout is None:
            self._rollout = Rollout(nthread=self.nthread if self.nthread > 1 else 0)
        sizes = work.sizes or work.sensordata is not None  # sensing uses another model
        if sizes not in self._data:
            self._data[sizes] = [mujoco.MjData(work.models[0]) for _ in range(self.nthread)]
        self._rollout.rollout(
            work.models,
            self._data[sizes],
            work.physics,
            work.controls,
            control_spec=work.control_spec,
            skip_checks=True,
            nstep=work.num_steps,
            initial_warmstart=work.warmstarts,
            state=work.states,
            sensordata=work.sensordata,
            chunk_size=chunk_size,
        )

    def close(self) -> None:
        if self._rollout is not None:
            self._rollout.close()


class _Rows:
    """The rows of a batch that no thread has taken yet."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._taken = 0
        self._lock = Lock()

    def take(self, num: int) -> slice | None:
        """Takes the next rows, at most ``num``; returns ``None`` after the last."""
        with self._lock:
            first = self._taken
            self._taken = min(first + num, self._num)
            return slice(first, self._taken) if first < self._taken else None


Job = Callable[[], None]


class _Companion:
    """A thread that does one job at a time; an executor would start each 20 µs later."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        # The thread has only the queues, so that this object can be freed, which ends the thread.
        self._thread = Thread(target=_do_jobs, args=(self._jobs, self._outcomes), daemon=True)
        self._thread.start()
        self._end = weakref.finalize(self, self._jobs.put, None)

    def start(self, job: Job) -> None:
        self._jobs.put(job)

    def wait(self) -> None:
        error = self._outcomes.get()
        if error is not None:
            raise error

    def close(self) -> None:
        """Ends the thread, and waits for its end."""
        self._end()
        self._thread.join()


def _do_jobs(jobs: SimpleQueue[Job | None], outcomes: SimpleQueue[BaseException | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
            outcomes.put(None)
        except BaseException as error:
            outcomes.put(error)
        del job  # frees its arrays


def _chunk_size(num: int, nthread: int) -> int:
    """Chooses the rows in a chunk: 32, or a tenth of a thread's share of a large batch.

    All threads get equally many chunks. Small chunks make threads wait for the lock, and large ones
    make them wait for the last chunk. A chunk is one row larger than its share: the calling thread
    takes the first chunk, and begins some 20 µs before the others.
    """
    chunks_per_thread = min(max(num // (32 * nthread), 1), 10)
    chunk_size = -(-num // (nthread * chunks_per_thread))
    return chunk_size + 1 if chunk_size >= 32 else chunk_size


def _find_clock() -> ctypes.c_void_p | None:
    """Finds MuJoCo's documented global variable ``mjcb_time``; ``None`` if it is not exported."""
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(_callbacks.__file__), "mjcb_time")
    except (OSError, ValueError):
        return None


_CLOCK = _find_clock()


@contextlib.contextmanager
def _profiler_off() -> Iterator[None]:
    """Switches MuJoCo's profiler off by removing its clock, which saves 5 % of a step of Ant."""
    clock = None if _CLOCK is None else _CLOCK.value
    if _CLOCK is None or clock is None:
        yield
        return
    _CLOCK.value = None
    try:
        yield
    finally:
        _CLOCK.value = clock
