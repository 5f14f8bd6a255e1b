"""What the command line does with names and files that others may have written."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from meta_rl.algorithms import Settings, find_algorithm, registered_algorithms
from meta_rl.cli.run_folder import RunConfig
from meta_rl.cli.settings import check_settings
from meta_rl.cli.trainable import trainable
from meta_rl.files.sealed import Saved, read_file, with_suffix, write_file

if TYPE_CHECKING:
    from meta_rl.cli.commands import Convert


def import_modules(command: Any) -> None:
    """Imports the modules of ``--import``, and that of ``my_module:MyTask-v0``.

    Modules in the current folder are found after all others.

    Raises:
        ValueError: A module does not exist, or it fails.
    """
    names = list(command.imports)
    module, _, env_id = str(getattr(command, "tasks", None) or "").rpartition(":")
    if module:
        names.append(module)
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError("a module has a name such as my_package.my_module")
            importlib.import_module(name)
        except Exception as error:  # a user's module can fail in all ways
            where = f"--import {name}" if name in command.imports else f"{module}:{env_id}"
            raise ValueError(f"{where}: {error}") from error


def check_module(what: str, tasks: str, imported: Collection[str]) -> None:
    """Refuses tasks in a file whose module the user has not named.

    Args:
        what: Name of the file or run that uses the tasks, for the message.
        tasks: Name of the tasks, or id of the environment.
        imported: Modules that the user has named.

    Raises:
        ValueError: The module was not named.
    """
    module = tasks.rpartition(":")[0]
    if module not in ("", "meta_rl", *imported):
        raise ValueError(
            f"{what} is on {tasks}, and a file imports nothing: if you trust the module, give "
            f"--import {module}"
        )


def check_config(config: RunConfig, imported: Collection[str]) -> None:
    """Refuses a run whose names or arguments are unknown, or whose module was not imported.

    The configuration of a run is a file, and a file imports nothing.

    Args:
        config: Configuration of the run.
        imported: Modules that the user has named.

    Raises:
        ValueError: The module of the environment was not named, a name is unknown, or the
            environment does not take the arguments.
    """
    check_module("the run", config.env_id, imported)
    try:
        algorithm = trainable(config.algorithm)
        algorithm.find_tasks(config.env_id)
    except ValueError as error:
        if "--import" in str(error):
            raise
        raise ValueError(
            f"{error}. If it is your own, name the module that registers it: --import MODULE"
        ) from error
    settings = Settings(config.algorithm_kwargs, config.env_kwargs, {})
    for owner, prefix, given in algorithm.setting_owners(config.env_id, settings):
        if prefix == "env.":
            check_settings(owner, prefix, given)


def convert(command: Convert) -> None:
    """Rewrites a checkpoint of the former format, whose code is run.

    Raises:
        FileNotFoundError: There is no old file.
        ValueError: The new file exists, the old one is damaged, or it holds objects of your own.
    """
    new = with_suffix(command.new)
    if new.exists():
        raise ValueError(f"{new} exists already")
    saved = read_file(command.old, trust_pickle=True)
    attributes = saved.content.get("attributes")
    if attributes is not None and not isinstance(attributes["policy_class"], str):
        owner = _agent_class(saved.owner)
        saved = Saved(saved.owner, owner.plain_content(attributes, saved.content["parameters"]))
    write_file(new, saved)
    print(f"checkpoint: {new}")


def _agent_class(name: str) -> Any:
    """Returns the registered agent whose class has this name."""
    for algorithm, found in registered_algorithms().items():
        if found.home.rpartition(":")[2] == name:
            return find_algorithm(algorithm)
    raise ValueError(
        f"no algorithm is registered whose class is {name}: name its module by --import, or call "
        f"{name}.load(OLD, trust_pickle=True).save(NEW)"
    )
