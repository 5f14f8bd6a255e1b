"""Each few-shot learner has a page, which names it, its paper's equations and its results."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import meta_rl.few_shot
from meta_rl.algorithms import OWN
from meta_rl.few_shot import FewShotLearner

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "few_shot"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.stem != "README")
HEADINGS = ["Equations", "Notes", "When to take it", "Example", "Settings", "Results"]


def test_every_learner_has_a_page() -> None:
    """Pages name it by its class and, where it has settings, by its name on the command line."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, home in OWN["few-shot learners"].items():
        learner = home.rpartition(":")[2]
        assert re.search(rf"\b{learner}\b", text), learner
        assert re.search(rf"(train {name} |`{name}`|settings/{name}\.toml|`{name}\.toml`)", text), (
            name
        )
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in index for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_have_the_same_headings(page: Path) -> None:
    found = re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    left_out = {"Equations", "When to take it"} if page.stem == "baselines" else set()
    assert found == [heading for heading in HEADINGS if heading not in left_out]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_import_what_exists(page: Path) -> None:
    """What they import from the package is public; learners get arguments that exist."""
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1
    tree = ast.parse(code[0])
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "meta_rl.few_shot"
        for alias in node.names
    }
    assert imported
    for name in imported:
        assert hasattr(meta_rl.few_shot, name), name
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        made = getattr(meta_rl.few_shot, getattr(call.func, "id", ""), None)
        if isinstance(made, type) and issubclass(made, FewShotLearner):
            assert {key.arg for key in call.keywords} <= {*_arguments(made)}, made


def _arguments(learner: type[FewShotLearner]) -> list[str]:
    """Names of arguments, those that a class passes on to its bases included."""
    return [
        name
        for kind in learner.__mro__
        if "__init__" in vars(kind)
        for name in inspect.signature(vars(kind)["__init__"]).parameters
    ]
