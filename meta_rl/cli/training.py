"""The commands ``meta-rl train`` and ``meta-rl evaluate``, for all algorithms alike."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from meta_rl.algorithms import (
    RunTasks,
    Settings,
    TrainableAlgorithm,
    registered_algorithms,
)
from meta_rl.cli.foreign import check_config
from meta_rl.cli.interruption import FailedWriteError, InterruptedTrainingError, Interruption
from meta_rl.cli.pictures import free_path, report
from meta_rl.cli.run_folder import RunConfig, RunFolder
from meta_rl.cli.run_lock import RunLock
from meta_rl.cli.settings import (
    apply_params,
    check_device,
    check_flags,
    check_settings,
    find_settings,
    with_schedules,
)
from meta_rl.cli.trainable import algorithms_with, trainable, with_members
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.few_shot.learner import FewShotLearner

if TYPE_CHECKING:
    from meta_rl.cli.commands import Evaluate, Train

OPTIONS = ("cuda_graph", "compile")


def train(command: Train) -> RunFolder:
    """Starts or resumes the training of a command, and returns the run folder.

    Raises:
        ValueError: A name is unknown, a setting does not fit, or the folder holds another run.
        FloatingPointError: The training diverged; the last checkpoint is unchanged.
        InterruptedTrainingError: The training was interrupted; the message says what is saved.
    """
    config = run_config(command, trainable(command.algo))
    config = replace(config, threads=torch.get_num_threads())
    folder = RunFolder(
        command.out or Path("runs", f"{config.algorithm}-{config.tasks}-seed{config.seed}")
    )
    folder.check(config, command.resume)
    if command.resume:
        folder.check_resumable()
        if command.total_timesteps is None:
            config = replace(config, total_timesteps=folder.config().total_timesteps)
    interruption = Interruption()
    try:
        with interruption.handled(), folder.lock() as lock:
            _train_locked(command, config, folder, lock, interruption)
    except KeyboardInterrupt as error:
        raise InterruptedTrainingError(_what_is_saved(folder, interruption)) from error
    print(f"run folder: {folder.path}")
    return folder


def _train_locked(
    command: Train, config: RunConfig, folder: RunFolder, lock: RunLock, interruption: Interruption
) -> None:
    """Trains and evaluates in a folder that no other process writes to."""
    options = _options(command)
    _check_options(command.algo, options)
    tasks = open_tasks(config)
    resumed = folder if command.resume and folder.checkpoint.exists() else None
    model = make_model(config, tasks, command.device, options=options, resumed=resumed)
    if resumed is not None:
        folder.check_length(config, model.steps_done)
    check_length = getattr(model, "check_length", lambda num_steps: "")
    comes_first = check_length(config.total_timesteps - model.steps_done)
    if comes_first and not command.quiet:
        print(comes_first)
    lock.acquire()
    folder.begin(config, command.resume)
    train_into(
        folder,
        model,
        tasks,
        config,
        checkpoint_interval=command.checkpoint_interval,
        progress_bar=not command.quiet,
        options=options,
        interruption=interruption,
    )
    num_tasks = command.eval_tasks
    if num_tasks is None:
        num_tasks = model.evaluation_size(tasks)
    if num_tasks != 0:
        result = evaluate_adaptation(model, tasks.source, num_tasks, **tasks.arguments)
        report(result, folder.evaluation)


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
    folder = RunFolder(command.run)
    config = folder.config(checked=False)
    check_config(config, command.imports)  # tells more than a checksum
    folder.config()
    model = trainable(config.algorithm).load(folder.checkpoint, device=command.device)
    tasks = open_tasks(config, command.split)
    num_tasks = command.num_tasks
    if num_tasks is None:
        num_tasks = model.evaluation_size(tasks)
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
    report(result, command.out or free_path(result, folder))
    return result


# ------------------------------------------------------------------------- the parts of a training


def run_config(command: Train, algorithm: type[TrainableAlgorithm] | None = None) -> RunConfig:
    """Returns the shipped settings for the tasks, changed by ``--param``.

    Args:
        command: Command ``train``.
        algorithm: Class of the algorithm (default: the class that is registered by its name).

    Raises:
        ValueError: The tasks or a setting are unknown.
    """
    algorithm = trainable(command.algo) if algorithm is None else with_members(algorithm)
    tasks, env_id, shipped = find_settings(command.algo, command.tasks, algorithm.find_tasks)
    env_kwargs = {**algorithm.arguments_in(tasks), **shipped.pop("env", {})}
    policy_kwargs = dict(shipped.pop("policy", {}))
    length = int(shipped.pop(algorithm.length_setting, algorithm.default_length))
    settings = Settings(shipped, env_kwargs, policy_kwargs)
    apply_params(command.param, {"": shipped, "env": env_kwargs, "policy": policy_kwargs})
    for owner, prefix, given in algorithm.setting_owners(env_id, settings):
        check_settings(owner, prefix, given)
    check_flags(command)
    if command.total_timesteps is not None:
        length = command.total_timesteps
    if not algorithm.default_length:
        length = 0
    arguments = algorithm.run_arguments(env_id, settings, _options(command))
    return RunConfig(command.algo, tasks, env_id, env_kwargs, arguments, length, command.seed)


def open_tasks(config: RunConfig, split: str = "test") -> RunTasks:
    """Opens the tasks of a run.

    Args:
        config: Configuration of the run.
        split: Part of the split that is evaluated (default: ``"test"``).

    Raises:
        ValueError: The tasks do not take the arguments in the configuration.
    """
    algorithm = trainable(config.algorithm)
    try:
        opened = algorithm.open_tasks(config.env_id, config.env_kwargs, split)
    except TypeError as error:
        raise ValueError(f"a setting of the wrong name or kind: {error}") from error
    return RunTasks(config.env_id, *opened)


def make_model(
    config: RunConfig,
    tasks: RunTasks,
    device: str = "auto",
    *,
    options: frozenset[str] = frozenset(),
    resumed: RunFolder | None = None,
) -> TrainableAlgorithm:
    """Makes a learner, or loads it from a checkpoint.

    Args:
        config: Configuration of the run.
        tasks: Tasks of the run.
        device: Device of the networks (default: a GPU if there is one).
        options: Set of ``"cuda_graph"`` and ``"compile"`` (default: empty).
        resumed: Run folder whose checkpoint is loaded (default: a new learner is made).

    Raises:
        ValueError: Arguments, tasks or options do not fit, or the checkpoint is corrupt.
    """
    algorithm = trainable(config.algorithm)
    if resumed is not None:
        return algorithm.from_run(
            tasks,
            config.algorithm_kwargs,
            seed=config.seed,
            device=device,
            options=options,
            checkpoint=resumed.checkpoint,
        )
    arguments = with_schedules(algorithm, config.algorithm_kwargs)
    try:
        return algorithm.from_run(
            tasks, arguments, seed=config.seed, device=device, options=options
        )
    except (TypeError, AssertionError) as error:  # an unknown name, or a word for a number
        raise ValueError(f"a setting of the wrong name or kind: {error}") from error


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
        KeyboardInterrupt: The training was interrupted, and its last iteration is saved.
    """
    interruption = interruption or Interruption()
    if config.total_timesteps <= model.steps_done:
        if not folder.checkpoint.exists():
            model.save(folder.checkpoint)
        return
    watching = [
        Validation(config, tasks=tasks),
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


def _options(command: Train) -> frozenset[str]:
    return frozenset(option for option in OPTIONS if getattr(command, option))


def _check_options(name: str, options: frozenset[str]) -> None:
    """Refuses an option that the algorithm does not have, and names algorithms that have it."""
    for option in options:
        if not trainable(name).has_option(option):
            others = algorithms_with(option, registered_algorithms()[name].kind)
            flag = option.replace("_", "-")
            have = "have" if len(others) > 1 else "has"
            raise ValueError(f"--{flag} is not for {name}: {' and '.join(others)} {have} it")


# --------------------------------------------------------------------------- between iterations


class BetweenIterations(BaseCallback):
    """Base class of callbacks that agents and few-shot learners call between iterations.

    An agent is the callback's ``model``. A few-shot learner calls it with itself as the argument.
    """

    @abstractmethod
    def __call__(self, learner: Any) -> bool | None:
        """Is called after an iteration of a few-shot learner; ``False`` ends the training."""

    def _on_step(self) -> bool:
        return True


class Checkpoints(BetweenIterations):
    """Callback that saves the learner between iterations.

    Args:
        path: Path of the checkpoint, which is replaced atomically.
        interval: Time between two checkpoints, in seconds (default: 30); 0 saves at every
            iteration.
        interruption: Signals that end the training after a save (default: none).
    """

    def __init__(
        self, path: Path, interval: float = 30.0, interruption: Interruption | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self.interval = interval
        self.interruption = interruption or Interruption()
        self._saved = time.monotonic()
        self._stopping = False

    def __call__(self, learner: Any) -> bool:
        """Saves the learner if the interval is over; ``False`` ends the training.

        Raises:
            KeyboardInterrupt: The learner continued after ``False``.
        """
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = self.interruption.requested
        if self._stopping or time.monotonic() - self._saved >= self.interval:
            learner.save(self.path)
            self._saved = time.monotonic()
        return not self._stopping

    def _on_rollout_start(self) -> None:
        if not self(self.model):
            raise KeyboardInterrupt


class Validation(BetweenIterations):
    """Callback that evaluates the learner on validation tasks, and logs the scores.

    The points of evaluation are counted by the learner's steps, so that a resumed run has the same
    ones.

    Args:
        config: Configuration of the run.
        num_tasks: Number of validation tasks (default: chosen by the learner).
        num_points: Number of evaluations, evenly over the run (default: chosen by the learner).
        tasks: Tasks of the run (default: those of the configuration).
    """

    def __init__(
        self,
        config: RunConfig,
        num_tasks: int | None = None,
        num_points: int | None = None,
        tasks: RunTasks | None = None,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.tasks = open_tasks(config) if tasks is None else tasks
        if num_points is None:
            num_points = trainable(config.algorithm).validation_points
        self.every = max(1, config.total_timesteps // num_points)
        self._began = 0

    def __call__(self, learner: Any) -> None:
        """Evaluates the learner if a point of evaluation lies in its last iteration."""
        few_shot = isinstance(learner, FewShotLearner)
        done = learner.num_iterations if few_shot else learner.steps_done
        self._validate(learner, done - 1, done)

    def _on_rollout_start(self) -> None:
        self._began = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        self._validate(self.model, self._began, self.model.num_timesteps)

    def _validate(self, learner: Any, began: int, done: int) -> None:
        if done // self.every == began // self.every:
            return
        kind: Any = type(learner)
        members = with_members(kind)  # a learner that a user has made lacks them
        num_tasks = self.num_tasks
        if num_tasks is None:
            num_tasks = members.evaluation_size(learner, self.tasks, brief=True)
        result = evaluate_adaptation(
            learner, self.tasks.source, num_tasks, split="validation", **self.tasks.arguments
        )
        for name, score in members.validation_scores(learner, result).items():
            learner.logger.record(f"validation/{name}", score)
