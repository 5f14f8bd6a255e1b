"""What ``meta-rl benchmark`` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from meta_rl.cli.interruption import FailedTrainingsError
from meta_rl.cli.settings import check_device
from meta_rl.cli.suites.jobs import Job, suite_jobs
from meta_rl.cli.suites.on_ray import run_on_ray
from meta_rl.cli.suites.processes import default_workers, run_in_processes
from meta_rl.cli.suites.tables import Suite, find_suite
from meta_rl.files.checksums import checked_json
from meta_rl.provenance import write_atomically

if TYPE_CHECKING:
    from meta_rl.cli.commands import Benchmark


def benchmark(command: Benchmark) -> Path:
    """Does all jobs of a suite that are not done yet, and writes the report; gives its folder.

    Raises:
        ValueError: Unknown names, or settings that do not fit.
        FailedTrainingsError: Some jobs failed; the others are done, and the report says which.
    """
    for flag in ("seeds", "workers"):
        value = getattr(command, flag)
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    check_device(command.device)
    suite = find_suite(command.suite).with_seeds(command.seeds)
    out = command.out or Path("runs", f"suite-{Path(suite.name).stem}")
    jobs = suite_jobs(suite, command.device, command.imports)
    missing = [job for job in jobs if not job.is_done(out)]
    missing.sort(key=lambda job: job.minutes, reverse=True)  # a long one may not be left to the end
    workers = command.workers or default_workers(jobs)
    _tell(suite, jobs, missing, workers)
    if command.dry_run:
        return out
    _write_plan(suite, jobs, out, {})
    failed: dict[str, str] = {}
    ended = _watch(len(missing), failed)
    if command.ray is None:
        run_in_processes(missing, out, workers, ended)
    elif missing:
        run_on_ray(missing, out, command.ray, command.workers, ended)
    _write_plan(suite, jobs, out, failed)
    if any((out / "results").glob("*.json")):
        from meta_rl.cli.report.page import write_report

        write_report(out)
    if failed:
        raise FailedTrainingsError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(sorted(failed))}; the same "
            "command tries them again"
        )
    return out


def _tell(suite: Suite, jobs: Sequence[Job], missing: Sequence[Job], workers: int) -> None:
    """Prints what is to be done, and how long it is expected to take."""
    waiting = {job.name for job in missing}
    width = max(len(job.name) for job in jobs)
    for job in jobs:
        state = f"{job.minutes:g} min" if job.name in waiting else "done"
        print(f"{job.name:<{width}}  {state}")
    total = sum(job.minutes for job in missing)
    longest = max((job.minutes for job in missing), default=0.0)
    expected = max(longest, total / workers)
    print(
        f"{suite.title}: {len(missing)} of {len(jobs)} jobs to do, about {expected:.0f} minutes "
        f"with {workers} at a time"
    )


def _watch(number: int, failed: dict[str, str]) -> Callable[[Job, str], None]:
    """A function that prints each job that has ended, and collects those that failed."""
    began, count = time.monotonic(), 0

    def ended(job: Job, wrong: str) -> None:
        nonlocal count
        count += 1
        if wrong:
            failed[job.name] = wrong
        minutes = (time.monotonic() - began) / 60
        text = f"failed: {wrong}" if wrong else "done"
        print(f"[{count}/{number}, {minutes:.1f} min] {job.name}: {text}", flush=True)

    return ended


def _write_plan(suite: Suite, jobs: Sequence[Job], out: Path, failed: dict[str, str]) -> None:
    """Writes what the suite is, for the report: a result that is absent is told there."""
    content = {
        "name": suite.name,
        "title": suite.title,
        "about": suite.about,
        "rows": [asdict(row) for row in suite.rows],
        "jobs": [job.name for job in jobs],
        "failed": failed,
    }
    write_atomically(out / "suite.json", checked_json(content, indent=1))
