"""A training before it begins: its configuration, its tasks and its learner."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meta_rl.algorithms import (
    RunTasks,
    Settings,
    TrainableAlgorithm,
    registered_algorithms,
)
from meta_rl.arguments import check_count
from meta_rl.cli.config_file import with_file
from meta_rl.cli.run_folder import RunConfig, RunFolder
from meta_rl.cli.settings import (
    apply_params,
    check_flags,
    check_settings,
    find_settings,
    with_schedules,
)
from meta_rl.cli.trainable import algorithms_with, trainable, with_members

if TYPE_CHECKING:
    from meta_rl.cli.commands import Train

OPTIONS = ("cuda_graph", "compile")


def run_config(command: Train, algorithm: type[TrainableAlgorithm] | None = None) -> RunConfig:
    """Returns the shipped settings for the tasks, changed by ``--param``.

    Args:
        command: Command ``train``.
        algorithm: Class of the algorithm (default: the class that is registered by its name).

    Raises:
        ValueError: The tasks or a setting are unknown.
    """
    command, file = with_file(command)
    algo, named = str(command.algo), str(command.tasks)
    algorithm = trainable(algo) if algorithm is None else with_members(algorithm)
    tasks, env_id, shipped = find_settings(algo, named, algorithm.find_tasks)
    env_kwargs = {**algorithm.arguments_in(tasks), **shipped.pop("env", {})}
    policy_kwargs = dict(shipped.pop("policy", {}))
    length = shipped.pop(algorithm.length_setting, algorithm.default_length)
    length = check_count(algorithm.length_setting, length, least=0)
    if file is not None:
        own = (shipped, env_kwargs, policy_kwargs)
        for known, given in zip(own, vars(file.settings).values(), strict=True):
            if file.complete:
                known.clear()
            known.update(given)
    settings = Settings(shipped, env_kwargs, policy_kwargs)
    apply_params(command.param, {"": shipped, "env": env_kwargs, "policy": policy_kwargs})
    for owner, prefix, given in algorithm.setting_owners(env_id, settings):
        check_settings(owner, prefix, given)
    check_flags(command)
    if command.total_timesteps is not None:
        length = command.total_timesteps
    if not algorithm.default_length:
        length = 0
    arguments = algorithm.run_arguments(env_id, settings, options_of(command))
    seed = 0 if command.seed is None else command.seed
    return RunConfig(algo, tasks, env_id, env_kwargs, arguments, length, seed)


def folder_name(config: RunConfig) -> str:
    """Returns the name of the default run folder, which is legal on every system."""
    tasks = re.sub(r"[^A-Za-z0-9._=+-]+", "-", config.tasks).strip("-.")
    return f"{config.algorithm}-{tasks}-seed{config.seed}"


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
        missing = re.search(r"missing \d+ required .*arguments?: (.+)", str(error))
        if missing is not None:
            needed = " ".join(f"env.{name}=..." for name in re.findall(r"'(\w+)'", missing[1]))
            raise ValueError(f"{config.tasks} needs --param {needed}") from error
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


def options_of(command: Train) -> frozenset[str]:
    """Returns the options that a command asks for."""
    return frozenset(option for option in OPTIONS if getattr(command, option))


def check_options(name: str, options: frozenset[str]) -> None:
    """Refuses an option that the algorithm does not have, and names algorithms that have it."""
    for option in options:
        if not trainable(name).has_option(option):
            others = algorithms_with(option, registered_algorithms()[name].kind)
            flag = option.replace("_", "-")
            have = "have" if len(others) > 1 else "has"
            raise ValueError(f"--{flag} is not for {name}: {' and '.join(others)} {have} it")
