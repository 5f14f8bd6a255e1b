"""A page for every family, from its docstring: ``docs/environments/<Name>.md``, and their index.

    python docs/pages.py

A test compares the pages with the docstrings. The pictures are those of docs/gallery.py. What
``meta-rl envs`` prints is written too, into ``meta_rl/cli/environments.json``.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym

from meta_rl.cli import listing
from meta_rl.envs.metaworld import MetaWorldTask
from meta_rl.make import ENVIRONMENTS, NAMESPACE, PYTHON_ENVIRONMENTS

PAGES = Path(__file__).parent / "environments"


def page(name: str) -> str:
    """The page of a family, by the name that it is registered with (``Name-v0``)."""
    env: Any = gym.make(NAMESPACE + name).unwrapped
    short = name.partition("-")[0]
    picture = f"![{short}]({short}.png)\n\n" if _renders(env) else ""
    return _page(short, type(env.definition), [name], picture)


def metaworld_page() -> str:
    """The page of Meta-World, whose benchmarks share a class; it needs no Meta-World."""
    return _page("MetaWorld", MetaWorldTask, list(PYTHON_ENVIRONMENTS), "")


def _page(short: str, family: type, names: list[str], picture: str) -> str:
    summary, _, body = (inspect.getdoc(family) or "").partition("\n\n")
    module = family.__module__.rpartition(".")[2]
    body = body.replace("``", "`")
    made = ", ".join(f'`gymnasium.make("{NAMESPACE}{name}")`' for name in names)
    return (
        f"# {short}\n\n{summary}\n\n{picture}"
        f"{made}; defined in "
        f"[envs/{module}.py](../../envs/{module}.py). [All environments](README.md).\n\n"
        f"{body}\n"
    )


def index() -> str:
    """The table of all families."""
    rows = []
    for name in ENVIRONMENTS:
        env: Any = gym.make(NAMESPACE + name).unwrapped
        short = name.partition("-")[0]
        summary = (inspect.getdoc(env.definition) or "").partition("\n")[0]
        picture = f'<img src="{short}.png" width="100" alt="{short}">' if _renders(env) else ""
        trial = f"{env.episodes_per_trial} × {env.horizon}"
        rows.append(f"| {picture} | [{short}]({short}.md) | {summary} | {trial} |")
    summary = (inspect.getdoc(MetaWorldTask) or "").partition("\n")[0]
    trial = f"{MetaWorldTask.episodes_per_trial} × {MetaWorldTask.horizon}"
    rows.append(f"|  | [MetaWorld](MetaWorld.md) | {summary} | {trial} |")
    return (
        "# Environments\n\n"
        "A page for each family, from its docstring; ids are `meta_rl/<Name>-v0`. How tasks, "
        "batches and pictures work: [environments.md](../environments.md).\n\n"
        "| | family | what | trial: episodes × steps |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def pages() -> dict[str, str]:
    """All files, by their names."""
    families = {f"{name.partition('-')[0]}.md": page(name) for name in ENVIRONMENTS}
    return {"README.md": index(), "MetaWorld.md": metaworld_page(), **families}


def _renders(env: Any) -> bool:
    return "rgb_array" in env.metadata["render_modes"]


def main() -> None:
    """Write them."""
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")
    facts = listing.facts_as_json(listing.current_facts())
    Path(listing.__file__).with_name(listing.FACTS).write_text(facts, encoding="utf-8")


if __name__ == "__main__":
    main()
