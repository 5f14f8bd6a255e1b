"""The commands ``meta-rl train`` and ``meta-rl evaluate``, for all algorithms alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.logger import Logger

from meta_rl.algorithms import RunTasks, TrainableAlgorithm
from meta_rl.cli.callbacks import (
    BetweenIterations,
    Checkpoints,
    KeptCheckpoints,
    ProgressLines,
    Validation,
)
from meta_rl.cli.foreign import check_config
from meta_rl.cli.interruption import (
    FailedTrainingsError,
    FailedWriteError,
    InterruptedTrainingError,
    Interruption,
    SilentExitError,
)
from meta_rl.cli.pictures import free_path, report
from meta_rl.cli.preparation import (
    check_options,
    folder_name,
    make_model,
    open_tasks,
    options_of,
    run_config,
)
from meta_rl.cli.pretrained_runs import find_run
from meta_rl.cli.progress import on_terminal
from meta_rl.cli.run_folder import RunConfig, RunFolder
from meta_rl.cli.run_lock import RunLock
from meta_rl.cli.seeds import Execute, SeedRun, command_for, seed_folder, train_seeds
from meta_rl.cli.settings import check_device
from meta_rl.cli.tracking import check_tracking, tracked
from meta_rl.cli.trainable import trainable
from meta_rl.compute import ranks
from meta_rl.compute.finite_state import FiniteState
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.few_shot.data.arrays import NonFiniteDataError

if TYPE_CHECKING:
    from meta_rl.cli.commands import Evaluate, Train

__all__ = [
    "BetweenIterations",
    "Checkpoints",
    "Validation",
    "evaluate",
    "make_model",
    "open_tasks",
    "run_config",
    "train",
    "train_into",
    "train_on_ranks",
]


def train_on_ranks(command: Train) -> None:
    """Trains as one of the ranks that ``torchrun`` started, or alone without it.

    Raises:
        FailedTrainingsError: Another rank is gone.
        SilentExitError: Another rank ends with an error, which it reports itself.
    """
    try:
        with ranks.joined():
            train(command)
    except ranks.OtherRankError as error:
        raise SilentExitError(str(error)) from error
    except ranks.RankError as error:
        raise FailedTrainingsError(f"{error}; the last checkpoint is as it was") from error


def train(command: Train) -> RunFolder:
    """Starts or resumes the training of a command, and returns the run folder.

    Raises:
        ValueError: A name is unknown, a setting does not fit, or the folder holds another run.
        FloatingPointError: The training diverged; the last checkpoint is unchanged.
        InterruptedTrainingError: The training was interrupted; the message says what is saved.
    """
    config, folder = _planned(command)
    check_tracking(command)
    interruption = Interruption(notice=not ranks.together())
    try:
        with interruption.handled():
            if not ranks.is_first():
                _train_along(command, config, folder, interruption)
                return folder
            with folder.lock() as lock:
                _train_locked(command, config, folder, lock, interruption)
    except KeyboardInterrupt as error:
        raise InterruptedTrainingError(_what_is_saved(folder, interruption)) from error
    for line in folder.description():
        print(line)
    return folder


def train_several(command: Train, execute: Execute) -> None:
    """Trains several seeds, each in a process of its own.

    Args:
        command: Command ``train`` with ``--seeds``.
        execute: Function by which each process runs its command.

    Raises:
        ValueError: The seeds are not distinct, or one of the trainings cannot begin.
        FailedTrainingsError: Some of the trainings failed.
        InterruptedTrainingError: The trainings were interrupted; what they did is saved.
    """
    if len(set(command.seeds)) < len(command.seeds):
        raise ValueError(f"--seeds: each seed once, got {' '.join(map(str, command.seeds))}")
    if command.seed is not None:
        raise ValueError("--seed and --seeds exclude each other")
    plan = []
    for seed in command.seeds:
        name = folder_name(run_config(replace(command, seeds=(), seed=seed)))
        path = seed_folder(command, seed, Path("runs", name))
        own = command_for(command, seed, path)
        config, folder = _planned(own)
        plan.append(SeedRun(own, folder, config.total_timesteps))
    folders = train_seeds(command, plan, execute)
    paths = " ".join(str(folder.path) for folder in folders)
    print(f"run folders: {paths}\ncompare them: meta-rl compare {paths}")


def _planned(command: Train) -> tuple[RunConfig, RunFolder]:
    """Returns a training's configuration and folder; refuses a folder that does not fit.

    Rank 0 decides for all ranks.
    """
    if not ranks.is_first():
        plan = json.loads(ranks.from_first(""))
        return RunConfig(**plan["config"]), RunFolder(plan["folder"])
    config = run_config(command)
    options = sorted(options_of(command))
    config = replace(config, threads=torch.get_num_threads(), options=options)
    folder = RunFolder(command.out or Path("runs", folder_name(config)))
    folder.check(config, command.resume)
    if command.resume:
        folder.check_resumable()
        if command.total_timesteps is None:
            config = replace(config, total_timesteps=folder.config().total_timesteps)
    ranks.from_first(json.dumps({"config": asdict(config), "folder": str(folder.path)}))
    return config, folder


def _made_model(
    command: Train, config: RunConfig, tasks: RunTasks, folder: RunFolder
) -> tuple[TrainableAlgorithm, bool]:
    """Returns the learner, new or from the checkpoint, and whether it is from there."""
    options = options_of(command)
    check_options(config.algorithm, options)
    exists = folder.checkpoint.exists()
    resumed = ranks.from_first(str(command.resume and exists)) == "True"
    if resumed and not exists:
        raise ValueError(
            f"there is no {folder.checkpoint} on this host: the run folder has to be on storage "
            "that the hosts of all ranks share"
        )
    source = folder if resumed else None
    return make_model(config, tasks, command.device, options=options, resumed=source), resumed


def _train_along(
    command: Train, config: RunConfig, folder: RunFolder, interruption: Interruption
) -> None:
    """Trains as a rank that writes neither files nor messages."""
    tasks = open_tasks(config)
    model, _ = _made_model(command, config, tasks, folder)
    if config.total_timesteps <= model.steps_done:
        return
    model.set_logger(Logger(None, []))
    watching = [Checkpoints(folder.checkpoint, interruption=interruption)]
    with interruption.deferred():
        options = options_of(command)
        model.train_until(config.total_timesteps, tasks, watching, options=options)


def _train_locked(
    command: Train, config: RunConfig, folder: RunFolder, lock: RunLock, interruption: Interruption
) -> None:
    """Trains and evaluates in a folder that no other process writes to."""
    tasks = open_tasks(config)
    model, resumed = _made_model(command, config, tasks, folder)
    if resumed:
        folder.check_length(config, model.steps_done)
    check_length = getattr(model, "check_length", lambda num_steps: "")
    comes_first = check_length(config.total_timesteps - model.steps_done)
    if comes_first and not command.quiet:
        print(comes_first)
    lock.acquire()
    folder.begin(config, command.resume)
    with tracked(command, config, folder, model) as trackers:
        train_into(
            folder,
            model,
            tasks,
            config,
            checkpoint_interval=command.checkpoint_interval,
            progress_bar=not command.quiet and on_terminal(),
            callbacks=[*_watching(command, config, folder, model), *trackers],
            options=options_of(command),
            interruption=interruption,
        )
    with ranks.alone():
        _evaluate_at_end(command, folder, model, tasks)


def _evaluate_at_end(
    command: Train, folder: RunFolder, model: TrainableAlgorithm, tasks: RunTasks
) -> None:
    """Evaluates a trained learner on test tasks, unless the command asks for none."""
    num_tasks = command.eval_tasks
    if num_tasks is None:
        num_tasks = model.evaluation_size(tasks)
    if num_tasks != 0:
        if not command.quiet:
            of = "all" if num_tasks is None else num_tasks
            print(f"evaluating on {of} test tasks ...", flush=True)
        result = evaluate_adaptation(model, tasks.source, num_tasks, **tasks.arguments)
        report(result, folder.evaluation)


def _watching(
    command: Train, config: RunConfig, folder: RunFolder, model: TrainableAlgorithm
) -> list[BetweenIterations]:
    """Returns the callbacks that the flags ask for."""
    made: list[BetweenIterations] = []
    if command.checkpoint_every is not None:
        made.append(KeptCheckpoints(folder, command.checkpoint_every, model.steps_done))
    if not command.quiet and not on_terminal():
        unit = "iterations" if model.steps_column == "time/iterations" else "environment steps"
        made.append(ProgressLines(config.total_timesteps, unit))
    return made


def _what_is_saved(folder: RunFolder, interruption: Interruption) -> str:
    """Returns the message for a training that was interrupted."""
    if not folder.checkpoint.exists():
        again = "--resume begins it again" if folder.config_file.exists() else "no run was begun"
        return f"interrupted; nothing is saved yet, and {again}"
    after = " after a whole iteration, which is saved" if interruption.requested else ""
    return f"interrupted{after}; --resume goes on from the last checkpoint"


def evaluate(command: Evaluate) -> EvaluationResult:
    """Evaluates the last checkpoint of a run, and writes the result and its picture.

    Raises:
        ValueError: There is no run or no checkpoint, the split is unknown, or it has fewer tasks.
    """
    check_device(command.device)
    if command.out and (command.out.suffix != ".json" or command.out.exists()):
        raise ValueError(f"--out {command.out}: the name of a new file that ends with .json")
    if command.out and (picture := command.out.with_suffix(".png")).exists():
        raise ValueError(f"--out {command.out}: its picture would overwrite {picture}")
    folder = find_run(command.run)
    config = folder.config(checked=False)
    check_config(config, command.imports)  # tells more than a checksum
    folder.config()
    checkpoint = folder.find_checkpoint(command.checkpoint)
    model = trainable(config.algorithm).load(checkpoint, device=command.device)
    tasks = open_tasks(config, command.split)
    num_tasks = command.num_tasks
    if num_tasks is None:
        num_tasks = model.evaluation_size(tasks)
    of = "all" if num_tasks is None else num_tasks
    print(f"evaluating on {of} {command.split} tasks ...", flush=True)
    result = evaluate_adaptation(
        model,
        tasks.source,
        num_tasks,
        command.num_episodes,
        split=command.split,
        seed=command.seed,
        deterministic=command.deterministic,
        **tasks.arguments,
    )
    suffix = "" if command.checkpoint == "last" else f"-{command.checkpoint}"
    report(result, command.out or free_path(result, folder, suffix))
    return result


def train_into(
    folder: RunFolder,
    model: TrainableAlgorithm,
    tasks: RunTasks,
    config: RunConfig,
    *,
    checkpoint_interval: float = 30.0,
    progress_bar: bool = False,
    callbacks: Sequence[Any] = (),
    options: frozenset[str] = frozenset(),
    interruption: Interruption | None = None,
) -> None:
    """Trains up to the length in the configuration, with log and checkpoints in the folder.

    Args:
        folder: Folder of the run.
        model: Learner, new or loaded from the run's checkpoint.
        tasks: Tasks of the run.
        config: Configuration of the run.
        checkpoint_interval: Time between two checkpoints, in seconds (default: 30); 0 saves at
            every iteration.
        progress_bar: Whether a progress bar is shown (default: False).
        callbacks: Further callbacks of the learner (default: none).
        options: Set of ``"cuda_graph"`` and ``"compile"`` (default: empty).
        interruption: Signals that end the training between two iterations (default: none).

    Raises:
        FailedWriteError: A file could not be written; earlier files are as they were.
        FloatingPointError: The training diverged, or its data are not finite.
        KeyboardInterrupt: The training was interrupted, and its last iteration is saved.
    """
    interruption = interruption or Interruption()
    if config.total_timesteps <= model.steps_done:
        if not folder.checkpoint.exists():
            model.save(folder.checkpoint)
        return
    watching = [
        Validation(config, tasks=tasks, best=folder),
        Checkpoints(folder.checkpoint, checkpoint_interval, interruption),
        *callbacks,
    ]
    try:
        with closing(folder.logger(model.steps_done, 0, model.steps_column)) as logger:
            model.set_logger(logger)
            with interruption.deferred():
                model.train_until(
                    config.total_timesteps,
                    tasks,
                    watching,
                    progress_bar=progress_bar,
                    options=options,
                )
                model.save(folder.checkpoint)
    except OSError as error:
        raise FailedWriteError(f"{error}; the training stopped") from error
    except NonFiniteDataError as error:
        where = f"iteration {model.current_iteration}: " if isinstance(model, FiniteState) else ""
        raise FloatingPointError(f"{where}{error}") from error
