"""The report of a suite: its numbers, its page, and the page in a browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from meta_rl.cli import main
from meta_rl.cli.report.results import read_results
from meta_rl.cli.report.tables import costs, improvement, number, scores
from meta_rl.evaluation.aggregates import (
    bootstrap_interval,
    performance_profile,
    probability_of_improvement,
)

from .suites import ROW, result, write_folder

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two learners with two seeds: scores 4 and 6 against 8 and 10."""
    results = [
        *(result("alpha", seed, score) for seed, score in ((0, 4.0), (1, 6.0))),
        *(result("beta", seed, score) for seed, score in ((0, 8.0), (1, 10.0))),
    ]
    results[0]["row"] = {**ROW, "learner": "alpha", "paper": {"score": 5.5, "source": "<A> 2017"}}
    missing = {"beta-PointNavigation-seed2": "exit code 1, <log>"}
    names = [one["name"] for one in results]
    return write_folder(
        tmp_path / "suite", results, jobs=[*names, *missing], failed=missing, about="For <tests>."
    )


class Page(HTMLParser):
    """What a page holds: ids, links, sources of pictures, texts of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.sources: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        self.ids |= {str(found["id"])} if "id" in found else set()
        for name in ("href", "src"):
            if name in found:
                (self.links if name == "href" else set()).add(str(found[name]))
                self.sources += [str(found[name])] if name == "src" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)


class TestAggregates:
    def test_a_profile_counts_trainings_and_weighs_tasks_alike(self) -> None:
        """Tasks a: 1 of 2 above 0.5; b: 1 of 1. At 0.9 none of a, and b."""
        profile = performance_profile({"a": [0.2, 0.8], "b": [1.0]}, np.array([0.5, 0.9, 1.0]))
        assert profile == pytest.approx([0.75, 0.5, 0.0])

    def test_ties_count_half(self) -> None:
        """Pairs of a: (1, 1) half, (3, 1) one; the other tasks are not shared."""
        ours, theirs = {"a": [1.0, 3.0], "b": [9.0]}, {"a": [1.0], "c": [0.0]}
        assert probability_of_improvement(ours, theirs) == 0.75
        assert probability_of_improvement(theirs, ours) == 0.25
        with pytest.raises(ValueError, match="no tasks in common"):
            probability_of_improvement({"a": [1.0]}, {"b": [1.0]})

    def test_the_bootstrap_resamples_trainings(self) -> None:
        """The mean of two values is a, b or between with chances 1/4, 1/4, 1/2."""
        rng = np.random.default_rng(0)
        low, high = bootstrap_interval(lambda s: np.mean(s["t"]), [{"t": [0.0, 1.0]}], rng)
        assert (low, high) == (0.0, 1.0)


class TestTables:
    def test_scores(self, folder: Path) -> None:
        table = scores(read_results(folder))
        rows = [dict(zip(table.heads, row, strict=True)) for row in table.rows]
        assert [row["learner"].text for row in rows] == ["alpha", "beta"]
        assert [row["test"].key for row in rows] == pytest.approx([5.0, 9.0])
        assert [row["normalised"].text for row in rows] == [
            "0.500 (0.400 to 0.600)",
            "0.900 (0.800 to 1.000)",
        ]
        assert rows[0]["paper"].text == "5.500 (<A> 2017)"
        assert rows[0]["before adaptation"].key == 0.0
        assert rows[0]["out of distribution"].key == 1.0
        assert rows[1]["best known"].text == "10.00 (oracle)"

    def test_steps_and_time_until_a_score_is_reached(self, folder: Path) -> None:
        """The best is 10: half is 5, which alpha's seeds meet at the end (6) or never (4)."""
        table = costs(read_results(folder))
        rows = {row[1].text: dict(zip(table.heads, row, strict=True)) for row in table.rows}
        assert rows["beta"]["steps to 50%"].text == "750"  # of 1,000 (4 of 8) and 500 (5 of 10)
        assert rows["beta"]["minutes to 50%"].text == "1.50"
        assert rows["beta"]["core-hours"].text == "0.20"  # two times three minutes on two cores
        assert rows["alpha"]["steps to 90%"].text == "–"

    def test_probability_of_improvement(self, folder: Path) -> None:
        table = improvement(read_results(folder), np.random.default_rng(0))
        assert table is not None
        assert [entry.text for entry in table.rows[0]] == [
            "alpha",
            "beta",
            "1",
            "0.00 (0.00 to 0.00)",
        ]

    def test_trainings_of_other_settings_are_another_row(self, tmp_path: Path) -> None:
        other = result("alpha", 1, 6.0)
        other["config"] = {**other["config"], "total_timesteps": 7}
        found = read_results(write_folder(tmp_path / "suite", [result("alpha", 0, 4.0), other]))
        assert [len(group.trainings) for group in found.groups] == [1, 1]

    def test_trainings_of_other_code_are_told(self, tmp_path: Path) -> None:
        other = result("alpha", 1, 6.0, processor="another one")
        (group,) = read_results(
            write_folder(tmp_path / "suite", [result("alpha", 0, 4.0), other])
        ).groups
        assert group.differences == ["2 different processors"]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.12345, "0.123"),
            (-45.678, "-45.68"),
            (1234567.0, "1,234,567"),
            (0.0, "0.000"),
            (None, "–"),
        ],
    )
    def test_numbers(self, value: float | None, text: str) -> None:
        assert number(value).text == text


class TestPage:
    def test_the_page_is_whole_and_holds_all_it_shows(self, folder: Path) -> None:
        assert main(["report", str(folder)]) == 0
        text = (folder / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        assert page.open == []
        assert {link.removeprefix("#") for link in page.links} <= page.ids
        assert all(link.startswith("#") for link in page.links)
        assert len(page.sources) == 3  # profiles, adaptation, learning curves
        for source in page.sources:
            assert source.startswith("data:image/svg+xml;base64,")
            assert b"</svg>" in base64.b64decode(source.partition(",")[2])
        shown = "".join(page.texts)
        assert "meta-rl train alpha PointNavigation --seed 0" in shown
        assert "For <tests>." in shown
        assert "exit code 1, <log>" in shown
        assert not re.search(r"https?://", text.replace("http://www.w3.org", ""))

    def test_the_same_results_give_the_same_page(self, folder: Path) -> None:
        texts = []
        for _ in range(2):
            assert main(["report", str(folder)]) == 0
            texts.append((folder / "report.html").read_text(encoding="utf-8"))
        assert texts[0] == texts[1]

    def test_markdown_has_the_tables(self, folder: Path) -> None:
        assert main(["report", str(folder), "--out", str(folder / "other.html")]) == 0
        lines = (folder / "other.md").read_text(encoding="utf-8").splitlines()
        (row,) = (line for line in lines if line.startswith("| PointNavigation | beta | 2 |"))
        assert row.count("|") == 13
        assert "- beta-PointNavigation-seed2: exit code 1, <log>" in lines

    def test_a_folder_without_results_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", str(tmp_path)]) == 2
        assert f"{tmp_path} holds no results" in capsys.readouterr().err

    def test_a_damaged_result_is_named(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = folder / "results" / "alpha-PointNavigation-seed0.json"
        file.write_text("[1]", encoding="utf-8")
        assert main(["report", str(folder)]) == 2
        assert f"{file} is no result of a suite" in capsys.readouterr().err


PROBE = """
<script>
addEventListener("error", event => document.title = "error: " + event.message);
addEventListener("load", () => {
  const table = document.querySelector("table"), said = [];
  const order = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent).join();
  const head = [...table.querySelectorAll("th")].find(one => one.textContent.trim() === "test");
  for (let click = 0; click < 2; click++) { head.firstElementChild.click(); said.push(order()); }
  const drawn = [...document.images].filter(one => one.complete && one.naturalWidth > 300).length;
  document.body.dataset.probe = [...said, drawn + " of " + document.images.length, document.title,
    performance.getEntriesByType("resource").filter(one => !one.name.startsWith("data:")).length
    ].join("; ");
});
</script>
</head>"""


@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
def test_a_browser_loads_sorts_and_draws_without_network(folder: Path, tmp_path: Path) -> None:
    """Scripts of the page run without errors, and nothing is fetched."""
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = tmp_path / "probe.html"
    page.write_text(text.replace("</head>", PROBE), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *options, *offline, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    assert found[1] == "alpha,beta; beta,alpha; 3 of 3; Small; 0"
