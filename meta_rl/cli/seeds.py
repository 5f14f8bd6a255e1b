"""``meta-rl train --seeds``: one process for each seed, and one display of their progress."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from meta_rl.cli.interruption import (
    FailedSeedsError,
    InterruptedTrainingError,
    Interruption,
)
from meta_rl.cli.progress import Shown, shown_progress
from meta_rl.cli.run_folder import RunFolder

if TYPE_CHECKING:
    from meta_rl.cli.commands import Train

POLL_SECONDS = 0.5
EXECUTE = "meta_rl.cli.commands:execute"
"""The function that a process calls, as a name that is imported there."""


@dataclass
class SeedRun:
    """The training of one seed.

    Attributes:
        command: Command of the process.
        folder: Run folder.
        length: Length of the training.
        process: Process, once it has been started.
    """

    command: Train
    folder: RunFolder
    length: int
    process: SpawnProcess | None = None

    @property
    def log(self) -> Path:
        """The file of what the process prints."""
        return self.folder.path / "train.log"

    @property
    def state(self) -> str:
        """``"waiting"``, ``"training"``, ``"done"`` or ``"failed"``."""
        if self.process is None:
            return "waiting"
        if self.process.exitcode is None:
            return "training"
        return "done" if self.process.exitcode == 0 else "failed"


def train_seeds(command: Train, plan: Sequence[SeedRun]) -> list[RunFolder]:
    """Train all seeds, as many at a time as there are cores.

    A seed that fails ends alone. Ctrl-C and SIGTERM end each training after its iteration.

    Args:
        command: The command with ``--seeds``.
        plan: The training of each seed.

    Returns:
        The run folders.

    Raises:
        FailedSeedsError: Some seeds failed.
        InterruptedTrainingError: The trainings were interrupted; what they did is saved.
    """
    at_once = max(1, (os.cpu_count() or 1) // (command.threads or 1))
    print(f"{len(plan)} seeds, {min(at_once, len(plan))} at a time", flush=True)
    try:
        with Interruption().handled(), shown_progress(quiet=command.quiet) as shown:
            _run_all(plan, at_once, shown)
    except KeyboardInterrupt as error:
        _end_all(plan)
        raise InterruptedTrainingError(
            "interrupted; the same command with --resume goes on"
        ) from error
    failed = [run for run in plan if run.state == "failed"]
    if failed:
        names = "; ".join(
            f"seed {run.command.seed}: {_last_line(run.log)} ({run.log})" for run in failed
        )
        raise FailedSeedsError(f"{len(failed)} of {len(plan)} seeds failed: {names}")
    return [run.folder for run in plan]


def _run_all(plan: Sequence[SeedRun], at_once: int, shown: Shown) -> None:
    waiting = list(plan)
    while True:
        running = [run for run in plan if run.state == "training"]
        for run in waiting[: max(0, at_once - len(running))]:
            waiting.remove(run)
            run.process = _started(run)
        for run in plan:
            name = f"seed {run.command.seed}"
            share = 1.0 if run.state == "done" else steps_logged(run.folder) / max(1, run.length)
            shown.update(name, min(1.0, share), run.state)
        if all(run.state in ("done", "failed") for run in plan):
            return
        time.sleep(POLL_SECONDS)


def _started(run: SeedRun) -> SpawnProcess:
    # Not forked: a copy of a process with threads of torch can wait for ever.
    process = multiprocessing.get_context("spawn").Process(
        target=_train_one, args=(run.command, run.log)
    )
    process.start()
    return process


def _train_one(command: Train, log: Path) -> None:
    """The process of one seed: a session of its own, which writes what it prints into a file."""
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C reaches the process that shows the progress, and it alone
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1, encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        code = resolve_name(EXECUTE)(command)
        sys.stdout.flush()
    sys.exit(code)


def _end_all(plan: Sequence[SeedRun]) -> None:
    """Ask every training to end after its iteration, and wait for it."""
    running = [run.process for run in plan if run.process is not None and run.process.is_alive()]
    for process in running:
        if process.pid is not None:
            os.kill(process.pid, signal.SIGTERM)
    for process in running:
        process.join()


def steps_logged(folder: RunFolder) -> float:
    """Returns the steps in the last line of a log that another process is writing; else 0."""
    try:
        with folder.progress.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        row = rows[-1]
        return float(row.get("time/total_timesteps") or row["time/iterations"])
    except (OSError, IndexError, KeyError, ValueError, TypeError):
        return 0.0


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it was ended"
    return lines[-1].removeprefix("meta-rl: ") if lines else "it was ended"


def seed_folder(command: Train, seed: int, default: Path) -> Path:
    """Returns the run folder of a seed: ``OUT/seedN``, or the default one."""
    return default if command.out is None else command.out / f"seed{seed}"


def command_for(command: Train, seed: int, folder: Path) -> Train:
    """Returns the command of one seed's process.

    It resumes a run where there is one, and begins it otherwise.
    """
    begun = command.resume and (folder / "config.json").exists()
    return replace(
        command,
        seeds=(),
        seed=seed,
        out=folder,
        resume=begun,
        quiet=True,
        threads=command.threads or 1,
    )
