"""``--config``: settings from a TOML file, or those of an earlier run."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from meta_rl.algorithms import Settings
from meta_rl.arguments import did_you_mean
from meta_rl.cli.foreign import check_module
from meta_rl.cli.run_folder import RunFolder

if TYPE_CHECKING:
    from meta_rl.cli.commands import Train

FLAGS = ("algo", "tasks", "total_timesteps", "seed")
"""Flags of ``meta-rl train`` that a file can give."""


class FileSettings(NamedTuple):
    """Settings from a file.

    Attributes:
        settings: Settings of the algorithm, the environment and the networks.
        complete: Whether they replace the shipped settings, instead of changing them.
    """

    settings: Settings
    complete: bool


def with_file(command: Train) -> tuple[Train, FileSettings | None]:
    """Completes a command by its ``--config``; flags take precedence over the file.

    Raises:
        ValueError: The file is damaged, its tasks are in a module that the command does not name,
            or neither it nor the command names algorithm and tasks.
        FileNotFoundError: There is no such file.
    """
    found: dict[str, Any] = {}
    settings = None
    if command.config is not None:
        found, settings = read_settings(command.config)
    given = {name: value for name, value in found.items() if getattr(command, name) is None}
    if "tasks" in given:
        check_module(f"--config {command.config}", given["tasks"], command.imports)
    if command.seeds:
        given.pop("seed", None)
    command = replace(command, **given)
    if command.algo is None or command.tasks is None:
        raise ValueError("train needs ALGO and TASKS, or a --config file that has algo and tasks")
    return command, settings


def read_settings(path: Path) -> tuple[dict[str, Any], FileSettings]:
    """Reads flags and settings from a TOML file, or from the ``config.json`` of a run.

    A TOML file has ``algo``, ``tasks``, ``seed``, ``total_timesteps`` and settings of the
    algorithm, and the tables ``env`` and ``policy``; all are optional.

    Raises:
        ValueError: The file has another form.
    """
    if path.suffix == ".json":
        return _of_a_run(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: {error}") from error
    flags = {name: content.pop(name) for name in FLAGS if name in content}
    for name, value in flags.items():
        kind = str if name in ("algo", "tasks") else int
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"--config {path}: {name} has to be of type {kind.__name__}")
    tables = {name: content.pop(name, {}) for name in ("env", "policy")}
    for name, table in [*tables.items(), *content.items()]:
        if isinstance(table, dict) != (name in tables):
            hint = did_you_mean(name, sorted(tables))
            raise ValueError(f"--config {path}: {name} is no table of settings; {hint}")
    return flags, FileSettings(Settings(content, tables["env"], tables["policy"]), False)


def _of_a_run(path: Path) -> tuple[dict[str, Any], FileSettings]:
    if path.name != "config.json":
        raise ValueError(f"--config {path}: a .toml file, or the config.json of a run")
    config = RunFolder(path.parent).config()
    algorithm = dict(config.algorithm_kwargs)
    policy = algorithm.pop("policy_kwargs", None) or {}
    flags = {
        "algo": config.algorithm,
        "tasks": config.tasks,
        "total_timesteps": config.total_timesteps,
        "seed": config.seed,
    }
    return flags, FileSettings(Settings(algorithm, dict(config.env_kwargs), dict(policy)), True)
