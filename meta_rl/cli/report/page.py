"""What ``meta-rl report`` does: one HTML page that holds all it shows, and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from meta_rl.cli.report import pictures, tables
from meta_rl.cli.report.results import Group, Results, read_results
from meta_rl.cli.report.tables import Table
from meta_rl.evaluation.aggregates import Scores
from meta_rl.provenance import versions_text, write_atomically


class Section(NamedTuple):
    """A section of the report.

    Attributes:
        title: Its heading.
        anchor: Its name in links.
        paragraphs: Texts.
        command: Command that repeats it; empty for none.
        tables: Tables.
        pictures: Pictures.
    """

    title: str
    anchor: str
    paragraphs: list[str]
    command: str
    tables: list[Table]
    pictures: list[pictures.Picture]


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the report of a suite's folder; gives the path of the page.

    Args:
        folder: Folder of the suite.
        out: Path of the page (default: ``report.html`` in the folder); the Markdown is beside it.

    Raises:
        ValueError: The folder has no results, or the path is no HTML file.
    """
    out = out or folder / "report.html"
    if out.suffix != ".html":
        raise ValueError(f"--out {out}: the name of a file that ends with .html")
    results = read_results(folder)
    content = {
        "title": results.suite["title"],
        "about": results.suite["about"],
        "missing": results.missing,
        "sections": sections(results),
        "versions": versions_text(),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("meta_rl.cli.report", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(("html.jinja",)),
    )
    for template, path in (("page.html.jinja", out), ("page.md.jinja", out.with_suffix(".md"))):
        write_atomically(path, environment.get_template(template).render(content))
    print(f"report: {out}")
    return out


def sections(results: Results) -> list[Section]:
    """The sections: scores, comparisons, kinds of tasks, costs, and one for each cell."""
    rng = np.random.default_rng(0)
    kinds = results.by_tasks()
    found = [Section("Scores", "scores", [SCORES], "", [tables.scores(results)], [])]
    found += _comparisons(results, rng)
    for tasks, groups in kinds.items():
        drawn = [pictures.adaptation(tasks, groups), pictures.learning(tasks, groups)]
        shown = [picture for picture in drawn if picture is not None]
        found.append(Section(tasks, _anchor(f"tasks-{tasks}"), [], "", [], shown))
    found.append(Section("Steps and time", "costs", [], "", [tables.costs(results)], []))
    found += map(_cell, results.groups)
    return found


SCORES = (
    "Intervals are 95 % intervals over trainings and test tasks (docs/evaluation.md); with one "
    "training, over tasks alone. A normalised score is 0 for random actions and 1 for the best "
    "known policy on the same test tasks, with its range over trainings. A click on a head sorts."
)


def _comparisons(results: Results, rng: np.random.Generator) -> Iterator[Section]:
    learners: dict[str, dict[str, Any]] = {}
    for group in results.groups:
        if group.normalised is not None:
            learners.setdefault(group.learner, {})[group.tasks] = group.normalised
    known: dict[str, Scores] = dict(learners)
    chances = tables.improvement(results, rng)
    if known or chances:
        text = "Performance profiles have the tasks whose optimum is known."
        yield Section(
            "Comparison of learners",
            "comparison",
            [text] if known else [],
            "",
            [chances] if chances else [],
            [pictures.profiles(known, rng)] if known else [],
        )


def _cell(group: Group) -> Section:
    paragraphs = [
        f"{group.learner} on {group.tasks}: {group.evaluations['test'].counts_text()}.",
        *(f"The trainings have {text}." for text in group.differences),
    ]
    shown = [tables.points(group), tables.trainings(group), tables.settings(group)]
    anchor, command = _anchor(f"cell-{group.name}"), group.trainings[0]["command"]
    return Section(f"Cell {group.name}", anchor, paragraphs, command, shown, [])


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
