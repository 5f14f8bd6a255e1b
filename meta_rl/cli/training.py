"""What ``meta-rl train`` and ``meta-rl evaluate`` do, for all algorithms alike."""

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
from meta_rl.arguments import check_count
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
    """Train as the command says, or go on with it; gives the run folder.

    Raises:
        ValueError: Unknown names, settings that do not fit, or a folder that holds another run.
        FloatingPointError: The training diverged; the last checkpoint is as it was.
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
    """Train and evaluate, in a folder that no other process writes to."""
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
    """What to say of a training that was interrupted."""
    if not folder.checkpoint.exists():
        again = "--resume begins it again" if folder.config_file.exists() else "no run was begun"
        return f"interrupted; nothing is saved yet, and {again}"
    after = " after a whole iteration, which is saved" if interruption.requested else ""
    return f"interrupted{after}; --resume goes on from the last checkpoint"


def evaluate(command: Evaluate) -> EvaluationResult:
    """Evaluate a run's last checkpoint; writes the result and its picture.

    Raises:
        ValueError: No run, no checkpoint, an unknown split, or more tasks than there are.
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
    """The shipped settings for the tasks, changed by ``--param``.

    Args:
        command: The command.
        algorithm: Class of the algorithm (default: found by the command's name of it).

    Raises:
        ValueError: Unknown tasks or settings.
    """
    algorithm = trainable(command.algo) if algorithm is None else with_members(algorithm)
    tasks, env_id, shipped = find_settings(command.algo, command.tasks, algorithm.find_tasks)
    env_kwargs = {**algorithm.arguments_in(tasks), **shipped.pop("env", {})}
    policy_kwargs = dict(shipped.pop("policy", {}))
    length = shipped.pop(algorithm.length_setting, algorithm.default_length)
    length = check_count(algorithm.length_setting, length, least=0)
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
    """The tasks of a run.

    Args:
        config: Configuration of the run.
        split: Part of the split that is to be evaluated.

    Raises:
        ValueError: Arguments that the tasks do not take.
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
    """A learner that is ready to train.

    Args:
        config: Configuration of the run.
        tasks: Tasks of the run.
        device: Device of the networks.
        options: ``"cuda_graph"``, ``"compile"``.
        resumed: Run folder whose checkpoint is to be loaded (default: a new learner).

    Raises:
        ValueError: Arguments, tasks or options that do not fit, or a corrupt checkpoint.
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
    """Train up to the length in the configuration, with log and checkpoints in the folder.

    Args:
        folder: Folder of the run.
        model: Learner that is fresh, or from the run's checkpoint.
        tasks: Tasks of the run.
        config: Configuration of the run.
        checkpoint_interval: Seconds between checkpoints; 0 saves at every iteration.
        progress_bar: Show one.
        callbacks: Further callbacks that the learner takes, such as one that stops the training.
        options: ``"cuda_graph"``, ``"compile"``.
        interruption: Signals that end the training between two iterations (default: none).

    Raises:
        FailedWriteError: A file could not be written; earlier files are as they were.
        KeyboardInterrupt: The training was interrupted; what it did is saved.
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
    """Refuse an option that the algorithm does not have, and name those that have it."""
    for option in options:
        if not trainable(name).has_option(option):
            others = algorithms_with(option, registered_algorithms()[name].kind)
            flag = option.replace("_", "-")
            have = "have" if len(others) > 1 else "has"
            raise ValueError(f"--{flag} is not for {name}: {' and '.join(others)} {have} it")


# --------------------------------------------------------------------------- between iterations


class BetweenIterations(BaseCallback):
    """A callback for agents, which are callbacks' ``model``, and for few-shot learners.

    Few-shot learners call it with themselves after every iteration.
    """

    @abstractmethod
    def __call__(self, learner: Any) -> bool | None:
        """Look at a few-shot learner after an iteration; ``False`` ends the training."""

    def _on_step(self) -> bool:
        return True


class Checkpoints(BetweenIterations):
    """Save the learner between iterations, where its ``save`` keeps all that it needs.

    Args:
        path: Path of the checkpoint, which is replaced atomically.
        interval: Seconds between two checkpoints; 0 saves at every iteration.
        interruption: Signals that end the training here, after a save (default: none).
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
        """Save the learner if the interval is over; ``False`` ends the training.

        Raises:
            KeyboardInterrupt: The learner went on though it was told to end.
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
    """Log what the learner earns on validation tasks, so many times in a run.

    The points are counted by the learner's steps, so that a resumed run has the same ones.

    Args:
        config: Configuration of the run.
        num_tasks: Number of validation tasks (default: the learner's).
        num_points: Number of evaluations, evenly over the run (default: the learner's).
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
        """Validate the learner if a point lies in its last iteration."""
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
