"""What ``meta-rl envs`` prints: a line for each environment and each few-shot data set."""

from __future__ import annotations

import importlib.resources
import inspect
import json
import os
import shutil
import sys
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from meta_rl.algorithms import registered_algorithms
from meta_rl.cli.settings import settings_for
from meta_rl.few_shot.data.datasets import DATASETS, dataset_maker
from meta_rl.make import NAMESPACE, PYTHON_ENVIRONMENTS

FACTS = "environments.json"
"""Facts about our own environments and data sets, by name.

``python docs/pages.py`` writes the file, so that listing imports neither MuJoCo nor PyTorch.
"""


class Facts(NamedTuple):
    """What a line tells of an environment or data set, besides its settings.

    Attributes:
        what: First line of its docstring.
        actions: Action space, as text; empty for data sets.
        trial: Episodes and steps of a trial; empty for data sets.
    """

    what: str
    actions: str = ""
    trial: str = ""


ROOM_FOR_SETTINGS = 45
"""Characters of the last column for which others are left out on a narrow terminal."""

FOOT = (
    "A trial is episodes × steps. Settings ship for `meta-rl train ALGO NAME`; where it says "
    "`rl2 (also -long)`, for `meta-rl train rl2 NAME-long` too."
)


def envs() -> None:
    """Print a line for each environment and data set: whole, or as wide as the terminal."""
    try:
        _print_tables()
        sys.stdout.flush()
    except BrokenPipeError:  # ``meta-rl envs | head``: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_tables() -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    environments, data_sets = tables()
    for line in (
        *table_lines(environments, width, leave_out=("actions", "trial", "what")),
        "",
        *table_lines(data_sets, width, leave_out=("what",)),
    ):
        print(line)
    print(f"\n{FOOT}")
    if width is not None:
        print("Long lines are cut to the terminal's width; `meta-rl envs | less -S` shows all.")


def tables() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The rows of environments and of data sets: texts by the title of their column."""
    known = shipped_facts()
    settings = shipped_settings()
    environments = []
    for env_id in sorted(env_id for env_id in gym.registry if env_id.startswith(NAMESPACE)):
        facts = known.get(env_id) or environment_facts(env_id)
        environments.append(
            {"environment": env_id, "trial": facts.trial, "actions": facts.actions}
            | {"what": facts.what, "settings": settings.get(_short(env_id), "")}
        )
    data_sets = []
    for name in sorted(DATASETS):
        facts = known.get(name) or data_set_facts(name)
        data_sets.append(
            {"few-shot tasks": name, "what": facts.what, "settings": settings.get(name, "")}
        )
    return environments, data_sets


def table_lines(
    rows: list[dict[str, str]], width: int | None, leave_out: tuple[str, ...]
) -> list[str]:
    """A table as lines, the first with the titles.

    Args:
        rows: Texts by the title of their column.
        width: Width of the terminal; ``None`` for whole lines.
        leave_out: Columns that are left out, in this order, until the others have room.
    """
    titles = list(rows[0])
    table = [{title: title for title in titles}, *rows]
    widths = {title: max(len(row[title]) for row in table) for title in titles}
    widths[titles[-1]] = min(widths[titles[-1]], ROOM_FOR_SETTINGS)
    for title in leave_out:
        if width is not None and sum(widths[t] + 2 for t in titles) > width:
            titles.remove(title)
    lines = ["  ".join(f"{row[t]:<{widths[t]}}" for t in titles).rstrip() for row in table]
    if width is None:
        return lines
    shortest = widths[titles[0]]  # names are never cut, so that they can be copied
    return [_cut(line, max(width, shortest + 3)) for line in lines]


def _cut(line: str, width: int) -> str:
    """A line of so many characters at most; ``…`` where it is cut within a cell."""
    if len(line) <= width:
        return line
    kept = line[: width - 1]
    return kept.rstrip() if kept.endswith("  ") else f"{kept}…"


def shipped_settings() -> dict[str, str]:
    """Text about the settings that ship for an environment or data set, by its short name."""
    found: dict[str, dict[str, list[str]]] = {}
    for algorithm in sorted(registered_algorithms()):
        for section, settings in settings_for(algorithm).items():
            name = str(settings.get("env_id", section.partition("-")[0]))
            found.setdefault(name, {}).setdefault(algorithm, []).append(section.removeprefix(name))
    return {name: _settings_text(algorithms) for name, algorithms in found.items()}


def _settings_text(algorithms: dict[str, list[str]]) -> str:
    """``"pearl, rl2 (also -long)"``: algorithms with the same names of settings, side by side."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for algorithm, suffixes in algorithms.items():
        alike.setdefault(tuple(suffixes), []).append(algorithm)
    parts = []
    for variants, names in alike.items():
        others = ", ".join(suffix for suffix in variants if suffix)
        also = "also" if "" in variants else "only"
        parts.append(", ".join(names) + (f" ({also} {others})" if others else ""))
    return "; ".join(parts)


def _short(env_id: str) -> str:
    return env_id.removeprefix(NAMESPACE).partition("-")[0]


# --------------------------------------------------------------------------------- facts


def shipped_facts() -> dict[str, Facts]:
    """Facts about our own environments and data sets, from the file that ships."""
    file = importlib.resources.files("meta_rl.cli") / FACTS
    content = json.loads(file.read_text(encoding="utf-8"))
    return {name: Facts(**facts) for name, facts in content.items()}


def current_facts() -> dict[str, Facts]:
    """The same, from the environments and data sets themselves."""
    ids = [env_id for env_id in sorted(gym.registry) if env_id.startswith(NAMESPACE)]
    return {
        **{env_id: environment_facts(env_id) for env_id in ids},
        **{name: data_set_facts(name) for name in sorted(DATASETS)},
    }


def facts_as_json(facts: dict[str, Facts]) -> str:
    """The content of the file that ships."""
    content = {name: part._asdict() for name, part in facts.items()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def environment_facts(env_id: str) -> Facts:
    """Facts about an environment, which is made for it, or its class imported."""
    python_env = PYTHON_ENVIRONMENTS.get(env_id.removeprefix(NAMESPACE))
    # The class tells enough, and needs no further packages.
    env: Any = load_env_creator(python_env[0]) if python_env else gym.make(env_id).unwrapped
    return Facts(
        _first_line(getattr(env, "definition", env)),
        str(env.action_space),
        f"{env.episodes_per_trial} × {env.horizon}",
    )


def data_set_facts(name: str) -> Facts:
    """Facts about a data set, whose module is imported for it."""
    return Facts(_first_line(dataset_maker(name)))


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]
