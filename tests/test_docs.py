"""The documentation is that of the code.

The pages of the families are those that their docstrings give, with the headings of Gymnasium and
two more, each with a picture where the family renders; relative links lead somewhere; the tutorial
runs.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import runpy
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from meta_rl import TaskFuncEnv, algorithms
from meta_rl.cli import listing
from meta_rl.make import ENVIRONMENTS, PYTHON_ENVIRONMENTS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HEADINGS = [
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "Task distribution",
    "Adaptation",
    "Version History",
]
MARKDOWN = [
    *sorted(ROOT.glob("*.md")),
    *(path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts),
    *sorted(DOCS.glob("tutorials/*.ipynb")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]


def test_pages_are_up_to_date() -> None:
    """Otherwise run ``python docs/pages.py``."""
    expected = runpy.run_path(str(DOCS / "pages.py"))["pages"]()
    written = {
        path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("environments/*.md")
    }
    assert written.keys() == expected.keys()
    for name, text in expected.items():
        assert written[name] == text, name
    assert len(expected) == len(ENVIRONMENTS) + 2  # the index, and one page for all of Meta-World


def test_what_the_command_line_lists_is_up_to_date() -> None:
    """Otherwise run ``python docs/pages.py``."""
    assert listing.shipped_facts() == listing.current_facts()


@pytest.mark.parametrize(
    "family", [*ENVIRONMENTS.values(), *{made[0] for made in PYTHON_ENVIRONMENTS.values()}]
)
def test_every_family_has_the_headings(family: str) -> None:
    docstring = inspect.getdoc(pkgutil.resolve_name(family)) or ""
    assert re.findall(r"^## (.*)$", docstring, re.MULTILINE) == HEADINGS


def test_sections_that_a_docstring_leaves_out_are_those_of_the_bases() -> None:
    """In the usual order; rows of arguments are joined, and the family's own ones count."""

    class Base(TaskFuncEnv):
        """Base.

        ## Arguments
        | argument | default | meaning |
        |---|---|---|
        | ``a`` | 1 | first |
        | ``b`` | 2 | second |

        ## Adaptation
        After each step.
        """

    class Other(Base):
        """Other.

        ## Adaptation
        After each episode.
        """

    class Mixin(Base):
        """Mixin.

        ## Rewards
        One.
        """

    class Family(Mixin, Other):
        """Family.

        ## Arguments
        | argument | default | meaning |
        |---|---|---|
        | ``b`` | 3 | third |
        | ``c`` | 4 | fourth |

        ## Description
        Text.

        ## Notes
        More text.
        """

    table = "| argument | default | meaning |\n|---|---|---|\n"
    rows = "| ``c`` | 4 | fourth |\n| ``a`` | 1 | first |\n| ``b`` | 3 | third |"
    assert Family.__doc__ == (
        f"Family.\n\n## Description\nText.\n\n## Rewards\nOne.\n\n"
        f"## Arguments\n{table}{rows}\n\n## Adaptation\nAfter each episode.\n\n## Notes\nMore text."
    )


def test_every_family_that_renders_has_a_picture() -> None:
    pictures = {path.stem for path in DOCS.glob("environments/*.png")}
    named = {
        path.stem
        for path in DOCS.glob("environments/*.md")
        if f"({path.stem}.png)" in path.read_text()
    }
    assert pictures == named
    assert len(pictures) == len(ENVIRONMENTS) - 3  # bandits and tabular MDPs have none


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    for link in links:
        if "://" not in link:
            assert (path.parent / link).exists(), link


def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its family keeps the promises, and |u| of a uniform u in [-1, 1] is 0.5 ± 0.29 on average."""
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    tutorial = importlib.import_module("my_family")
    try:
        assert tutorial.main() == pytest.approx(-0.5, abs=4 * 0.29 / 100)
        with pytest.raises(ValueError, match="outside Box"):
            gym.make("examples/HiddenNumber-v0").reset(options={"task": [2.0]})
    finally:
        del gym.registry["examples/HiddenNumber-v0"], sys.modules["my_family"]


def test_the_example_of_an_algorithm_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pulls of five arms earn 5 by chance; who remembers what paid earns above 6."""
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    monkeypatch.setattr(algorithms, "_registered", dict(algorithms._registered))
    example = importlib.import_module("my_algorithm")
    try:
        assert algorithms.find_algorithm("mean-memory") is example.MeanMemoryAgent
        assert example.main() >= 5.8
    finally:
        del sys.modules["my_algorithm"]


def test_the_documentation_shows_the_tutorial() -> None:
    code = (DOCS / "examples" / "my_family.py").read_text(encoding="utf-8")
    block = (DOCS / "environments.md").read_text(encoding="utf-8")
    block = block[block.index("class HiddenNumber") :]
    shown = block[: block.index("    def initial")].rstrip()
    assert shown in code
