"""Tuned settings that ship with the package, by algorithm and tasks."""

from __future__ import annotations

import difflib
import importlib.resources
import tomllib
from collections.abc import Callable
from typing import Any

from meta_rl.registration import NAMESPACE, find_env_id

SHARED = {"multi_task_sac": "pearl", "oracle_sac": "pearl"}
"""Baselines that take the settings of the algorithm they are compared with."""


def settings_for(algorithm: str) -> dict[str, dict[str, Any]]:
    """All settings of an algorithm, by the name of their tasks; none where none ship.

    A section with ``like = "another"`` has the other's settings, but for those of its own.
    """
    name = SHARED.get(algorithm, algorithm)
    file = importlib.resources.files("meta_rl") / "settings" / f"{name}.toml"
    sections = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {tasks: _complete(section, sections) for tasks, section in sections.items()}


def _complete(section: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    own = dict(section)
    if "like" not in own:
        return own
    shared = _complete(sections[own.pop("like")], sections)
    for table in ("env", "policy"):
        if table in own:
            own[table] = shared.get(table, {}) | own[table]
    return shared | own


def find_settings(
    algorithm: str, tasks: str, find: Callable[[str], str] = find_env_id
) -> tuple[str, str, dict[str, Any]]:
    """The settings for tasks: tuned ones where they ship, none (the defaults) elsewhere.

    Args:
        algorithm: Its name on the command line.
        tasks: A name in the settings, or any environment id, with or without ``meta_rl/`` and the
            version.
        find: What gives the environment's id (or the data set) of a name, and refuses unknown ones.

    Returns:
        The tasks' name, the environment id, and the settings: ``env`` and ``policy`` (arguments of
        the environment and of the networks), ``total_timesteps``, and arguments of the algorithm.

    Raises:
        ValueError: Unknown; lists the near matches.
    """
    known = settings_for(algorithm)
    name = tasks.removeprefix(NAMESPACE).removesuffix("-v0")
    if name in known:
        settings = dict(known[name])
        return name, find(settings.pop("env_id", name)), settings
    try:
        return name, find(tasks), {}
    except ValueError as error:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" (settings of {algorithm} exist for {', '.join(near)})" if near else ""
        raise ValueError(f"{error}{hint}") from error
