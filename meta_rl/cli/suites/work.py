"""A process that does one job of a suite: ``python -m meta_rl.cli.suites.work JOB OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from meta_rl.cli.foreign import import_modules
from meta_rl.cli.interruption import FailedWriteError
from meta_rl.cli.suites.jobs import from_text
from meta_rl.compute.freed_memory import keep_freed_memory
from meta_rl.compute.torch_state import torch_threads


def do(text: str, out: str) -> None:
    """Does a job, unless its result is there; both are texts, so that they can be sent.

    Args:
        text: The job as JSON.
        out: Folder of the suite.
    """
    job = from_text(text)
    import_modules(job)  # those of --import: a table imports nothing by itself
    keep_freed_memory()
    with torch_threads(job.row.cores):
        if not job.is_done(Path(out)):
            job.run(Path(out))


def main() -> int:
    """Does the job of the command line; gives the exit code."""
    try:
        do(*sys.argv[1:])
    except (ValueError, OSError, ImportError, FloatingPointError, FailedWriteError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(error or "interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
