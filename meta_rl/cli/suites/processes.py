"""Jobs in processes of this machine, several at a time, each on cores of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

from meta_rl.cli.interruption import Interruption
from meta_rl.cli.suites.jobs import Job, to_text

LINES_OF_A_LOG = 20
"""Number of lines of a failed job's log that are shown."""


class Cores:
    """The cores of this machine, which are lent to jobs.

    Args:
        wanted: Largest number of cores that jobs ask for together. Where it exceeds the number of
            cores, no job gets cores of its own.
    """

    def __init__(self, wanted: int) -> None:
        known = hasattr(os, "sched_getaffinity")
        self._free = sorted(os.sched_getaffinity(0)) if known else []
        self._lends = wanted <= len(self._free)
        self._changed = threading.Condition()

    @contextmanager
    def lent(self, number: int) -> Iterator[list[int]]:
        """Lends so many cores within the context; an empty list leaves the choice to the system."""
        if not self._lends:
            yield []
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) >= number)
            taken, self._free = self._free[:number], self._free[number:]
        try:
            yield taken
        finally:
            with self._changed:
                self._free = sorted([*self._free, *taken])
                self._changed.notify_all()


def default_workers(jobs: Sequence[Job]) -> int:
    """The number of jobs at a time that this machine has cores for."""
    return max(1, (os.cpu_count() or 1) // max((job.row.cores for job in jobs), default=1))


def run_in_processes(
    jobs: Sequence[Job], out: Path, workers: int, ended: Callable[[Job, str], None]
) -> None:
    """Does jobs in processes; one that fails leaves the others alone.

    Ctrl-C and SIGTERM are passed on: each process ends after its iteration, and saves it.

    Args:
        jobs: The jobs, in the order in which they begin.
        out: Folder of the suite; what a job prints is in ``logs/NAME.log``.
        workers: Number of jobs at a time.
        ended: Called with each job that has ended, and what went wrong (empty: nothing).
    """
    cores = Cores(workers * max((job.row.cores for job in jobs), default=1))
    running: set[subprocess.Popen[bytes]] = set()
    with Interruption().handled(), ThreadPoolExecutor(workers) as pool:
        futures: dict[Future[str], Job] = {
            pool.submit(_run_one, job, out, cores, running): job for job in jobs
        }
        try:
            for future in as_completed(futures):
                ended(futures[future], future.result())
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise KeyboardInterrupt(
                "interrupted; the same command goes on from the last checkpoints"
            ) from None


def _run_one(job: Job, out: Path, cores: Cores, running: set[subprocess.Popen[bytes]]) -> str:
    """Runs a job in a process; gives the last lines of its log if it fails."""
    log = out / "logs" / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.row.cores), "PYTHONUNBUFFERED": "1"}
    with cores.lent(job.row.cores) as own, log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "meta_rl.cli.suites.work", to_text(job), str(out)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C of the terminal would be a second signal
        )
        running.add(process)
        if own:
            with suppress(ProcessLookupError):  # it has ended already
                os.sched_setaffinity(process.pid, own)
        code = process.wait()
        running.discard(process)
    if code == 0:
        return ""
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_OF_A_LOG:]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "\n".join([f"{how}, {log}", *said])
