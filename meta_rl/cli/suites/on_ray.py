"""Jobs as Ray tasks: on a local cluster, or on the machines of one at an address."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meta_rl.cli.suites.jobs import Job, to_text
from meta_rl.cli.suites.work import do

RETRIES = 5
"""Number of times that a job begins again whose worker died; it goes on from its checkpoint."""


def run_on_ray(
    jobs: Sequence[Job],
    out: Path,
    address: str,
    workers: int | None,
    ended: Callable[[Job, str], None],
) -> None:
    """Does jobs as Ray tasks with their cores and GPUs declared; one that fails fails alone.

    A task gets the job as text and returns nothing: the result is a file in the folder of the
    suite, which all machines have to share. What a job prints reaches this process.

    Args:
        jobs: The jobs, in the order in which they begin.
        out: Folder of the suite, on storage that all machines share.
        address: Address of a cluster; ``"auto"`` is the one that runs here or that ``RAY_ADDRESS``
            names, or else a new local one.
        workers: Number of cores of a new local cluster (default: all).
        ended: Called with each job that has ended, and what went wrong (empty: nothing).

    Raises:
        ImportError: Ray is not installed.
        ValueError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs Ray: pip install "meta-rl[distributed]"') from error
    _connect(ray, address, workers)
    try:
        # A worker does one job, as a process of this machine would.
        task = ray.remote(max_calls=1, max_retries=RETRIES)(do)
        waiting = {
            task.options(num_cpus=job.row.cores, num_gpus=job.row.gpus, name=job.name).remote(
                to_text(job), str(out.resolve())
            ): job
            for job in jobs
        }
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            ended(waiting.pop(done), _what_went_wrong(ray, done))
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, workers: int | None) -> None:
    found = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    alone = found is None and not Path("/tmp/ray/ray_current_cluster").exists()
    local = {"num_cpus": workers, "include_dashboard": False} if alone else {}
    try:
        ray.init(found, configure_logging=False, log_to_driver=True, **local)
    except Exception as error:  # Ray raises it plain where a machine is too busy to begin
        raise ValueError(f"--ray {address}: no cluster answers: {error}") from error


def _what_went_wrong(ray: Any, done: Any) -> str:
    try:
        ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return f"{type(cause).__name__}: {cause}"
    return ""
