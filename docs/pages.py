"""A page for every family, from its docstring: ``docs/environments/<Name>.md``, and their index.

    python docs/pages.py

A test compares the pages with the docstrings. The pictures are those of docs/gallery.py.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym

from meta_rl.registration import ENVIRONMENTS, NAMESPACE

PAGES = Path(__file__).parent / "environments"


def page(name: str) -> str:
    """The page of a family, by the name that it is registered with (``Name-v0``)."""
    env: Any = gym.make(NAMESPACE + name).unwrapped
    family = type(env.definition)
    summary, _, body = (inspect.getdoc(family) or "").partition("\n\n")
    short = name.partition("-")[0]
    module = family.__module__.rpartition(".")[2]
    picture = f"![{short}]({short}.png)\n\n" if _renders(env) else ""
    body = body.replace("``", "`")
    return (
        f"# {short}\n\n{summary}\n\n{picture}"
        f'`gymnasium.make("{NAMESPACE}{name}")`; defined in '
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
    return {"README.md": index(), **families}


def _renders(env: Any) -> bool:
    return "rgb_array" in env.metadata["render_modes"]


def main() -> None:
    """Write them."""
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
