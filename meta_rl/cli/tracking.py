"""``--track``: Weights & Biases, through the callback that it has for Stable-Baselines3."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.base_class import BaseAlgorithm

from meta_rl.cli.run_folder import RunConfig, RunFolder

if TYPE_CHECKING:
    from meta_rl.cli.commands import Train

PROJECT = "meta-rl"


def check_tracking(command: Train) -> None:
    """Refuses ``--track`` where Weights & Biases is not installed.

    Raises:
        ValueError: It is not installed; the error says what to do.
    """
    if command.track:
        _wandb()


def _wandb() -> tuple[Any, Any]:
    try:
        wandb = importlib.import_module("wandb")
        return wandb, importlib.import_module("wandb.integration.sb3").WandbCallback
    except ImportError as error:
        raise ValueError(f"--track needs Weights & Biases: pip install wandb ({error})") from error


@contextmanager
def tracked(
    command: Train, config: RunConfig, folder: RunFolder, model: Any
) -> Iterator[list[Any]]:
    """Opens a run of Weights & Biases, if the command asks for it; gives callbacks.

    It reads the TensorBoard events of the run folder. A resumed run goes on with the same record.

    Args:
        command: The command.
        config: Configuration of the run.
        folder: Run folder.
        model: Learner; the callback is for agents.
    """
    if not command.track:
        yield []
        return
    wandb, callback = _wandb()
    record = wandb.init(
        project=PROJECT,
        name=folder.path.name,
        id=hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:16],
        resume="allow",
        config=asdict(config),
        dir=str(folder.path),
        sync_tensorboard=True,
    )
    try:
        yield [callback()] if isinstance(model, BaseAlgorithm) else []
    finally:
        record.finish()
