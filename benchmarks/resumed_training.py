"""Trainings of the benchmarks, each in a run folder, by the command line's own ``train``."""

from __future__ import annotations

from pathlib import Path

from meta_rl.cli import Train, train
from meta_rl.cli.run_folder import RunFolder


def resumed_training(
    algo: str, tasks: str, seed: int, out: Path, timesteps: int | None = None
) -> RunFolder:
    """Train with shipped settings, or go on from the run folder's checkpoint; gives the folder.

    Args:
        algo: Algorithm, as on the command line.
        tasks: Name of the tasks, as on the command line.
        seed: Of the training.
        out: The run folder.
        timesteps: Environment steps; the shipped number by default.
    """
    return train(
        Train(
            algo=algo,
            tasks=tasks,
            seed=seed,
            total_timesteps=timesteps,
            out=out,
            resume=True,
            eval_tasks=0,
            quiet=True,
            checkpoint_interval=60.0,
        )
    )
