"""The result tables of README.md and of docs/ are those that the results' JSON files give."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / name
        for name in ("results.md", "few-shot.md", "evaluation.md", "metaworld.md")
    ),
    ROOT / "docs" / "agents" / "pearl.md",
    *(
        ROOT / "docs" / "few_shot" / f"{name}.md"
        for name in (
            *("baselines", "maml", "matching_networks", "prototypical_networks"),
            *("reptile", "siamese_networks"),
        )
    ),
    ROOT / "docs" / "pretrained.md",
]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that fills the tables."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("docs_tables")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_numbers_of_the_results(page: Path, tables: Any) -> None:
    """Otherwise run ``make docs-tables``."""
    text = page.read_text(encoding="utf-8")
    assert text == tables.filled(text)


def test_every_table_stands_in_one_page(tables: Any) -> None:
    assert tables.pages() == PAGES[:1] + sorted(PAGES[1:])
    found = Counter(
        name
        for page in PAGES
        for name in re.findall(r"<!-- table: (.*) -->", page.read_text(encoding="utf-8"))
    )
    assert found == dict.fromkeys(tables.TABLES, 1)


def test_the_page_of_results_has_no_other_tables(tables: Any) -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    left = tables.BLOCK.sub("", text)
    assert "|---" in text
    assert "|---" not in left


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_changed_table_is_noticed(page: Path, tables: Any) -> None:
    """Each table in turn gets another last digit; nothing outside of the tables changes."""
    text = page.read_text(encoding="utf-8")
    blocks = list(tables.BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        at = block.start() + max(match.start() for match in re.finditer(r"\d", block.group()))
        changed = text[:at] + str(9 - int(text[at])) + text[at + 1 :]
        assert changed != text
        assert tables.filled(changed) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: nothing -->\n<!-- end of table -->\n", "'nothing'; there are why, headline"),
        ("<!-- table: speed -->\n\n| what |\n", "1 of the page's tables have no end"),
    ],
)
def test_wrong_markers_are_errors(text: str, message: str, tables: Any) -> None:
    with pytest.raises(ValueError, match=message):
        tables.filled(text)


def test_an_empty_table_is_filled(tables: Any) -> None:
    """Lines of a table have the indent of its markers."""
    filled = tables.filled("* item\n\n  <!-- table: speed -->\n  <!-- end of table -->\n\nend\n")
    rows = [line for line in filled.splitlines() if "|" in line]
    assert filled.startswith("* item\n\n  <!-- table: speed -->\n\n  | what | ratio |")
    assert filled.endswith(" |\n\n  <!-- end of table -->\n\nend\n")
    assert len(rows) == 2 + 5
    assert all(line.startswith("  |") for line in rows)


class TestResultFiles:
    """What the scripts of the benchmarks share."""

    @pytest.fixture
    def files(self, tables: Any) -> Any:
        return importlib.import_module("result_files")

    def test_notes_are_kept_in_their_sections(self, files: Any, tmp_path: Path) -> None:
        file = tmp_path / "speed.json"
        assert files.notes(file) == []
        (tmp_path / "speed_notes.md").write_text("First.\n\n## one part\n\nSecond,\nthird.\n")
        assert files.notes(file) == ["First.", ""]
        assert files.notes(file, "one part") == ["Second,", "third.", ""]
        assert files.notes(file, "another") == []

    def test_a_page_leaves_empty_blocks_out(self, files: Any) -> None:
        lines = files.table(["a", ""], [["1", "2"], ["", "3"]])
        page = files.page("Title", "About.", [], "", lines, versions=False)
        assert page == "# Title\n\nAbout.\n\n| a |  |\n|---|---|\n| 1 | 2 |\n|  | 3 |\n"
        assert files.page("Title").splitlines()[-1] == f"{files.versions_text()}."

    def test_a_row_takes_the_place_of_the_same_learner_and_seed(
        self, files: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.json"
        add: Callable[..., Any] = files.add_row
        for learner, seed, value in (("b", 0, 1), ("a", 1, 2), ("a", 0, 3), ("b", 0, 4)):
            row = {"learner": learner, "seed": seed, "value": value}
            rows = add(file, row, "learner", ["a", "b"])
        assert [(row["learner"], row["value"]) for row in rows] == [("a", 3), ("a", 2), ("b", 4)]
        assert files.read(file) == rows

    def test_groups_of_a_table_are_kept(self, files: Any, tmp_path: Path) -> None:
        file = tmp_path / "rows.json"
        for part, value in (("one", 1), ("two", 2), ("one", 3)):
            files.add_to_table(file, {"row": value}, str, part)
        assert files.read(file)["rows"] == {"one": {"row": 3}, "two": {"row": 2}}
        assert file.with_suffix(".md").read_text() == "{'one': {'row': 3}, 'two': {'row': 2}}"

    def test_contenders_take_turns(self, files: Any) -> None:
        calls: list[str] = []

        def measure(name: str) -> float:
            calls.append(name)
            return float(len(calls))

        contenders = {name: lambda name=name: measure(name) for name in "ab"}
        assert files.take_turns(contenders, 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
        assert calls == ["a", "b", "a", "b"]

    def test_papers_have_sources(self, files: Any) -> None:
        names = files.read(files.PAPERS)
        assert names
        for name in names:
            assert files.papers(name)["source"]
