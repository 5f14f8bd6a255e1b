"""Parts that the benchmarks share: files of results, tables, notes and resumed trainings.

A result is a JSON file in ``results/`` and a page of the same name, ``.md``, that a script makes
from it. Notes that belong to a result (what was tried, and in which order) are written by hand
into ``NAME_notes.md`` beside it; the script copies them into the page. Numbers of papers are in
``papers.json``, each with its source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meta_rl.provenance import package_versions, versions_text, write_atomically

if TYPE_CHECKING:
    from meta_rl.cli.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results"
PAPERS = Path(__file__).parent / "papers.json"
REPEATED = "†"
"""Mark of older results that count a task several times."""


def read(file: Path, default: Any = None) -> Any:
    """The content of a JSON file, or the default where there is no file."""
    if default is not None and not file.exists():
        return default
    return json.loads(file.read_text(encoding="utf-8"))


def result(name: str) -> Any:
    """The content of a result's JSON file, by the name of the result."""
    return read(RESULTS / f"{name}.json")


def papers(name: str) -> dict[str, Any]:
    """The entry of a paper in :data:`PAPERS`: its ``source``, and its numbers."""
    return read(PAPERS)[name]


def notes(file: Path, section: str = "") -> list[str]:
    """The notes that belong to a result, as lines that end with an empty one.

    Args:
        file: JSON file of the result; its notes are in ``NAME_notes.md`` beside it.
        section: Heading (``## section``) of the notes; by default, those above all headings.

    Returns:
        No lines where there are no such notes.
    """
    path = file.with_name(f"{file.stem}_notes.md")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    first, *others = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    found = {"": first, **dict(zip(others[::2], others[1::2], strict=True))}.get(section, "")
    return [*found.strip().splitlines(), ""] if found.strip() else []


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    heads = list(heads)
    rule = "|---" * len(heads) + "|"
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [first, rule, *others]


def page(title: str, *blocks: str | Sequence[str], versions: bool = True) -> str:
    """A page in Markdown.

    Args:
        title: The heading.
        blocks: Paragraphs and tables, as texts or as lines; empty ones are left out.
        versions: Whether the versions of the packages stand at the end.
    """
    texts = [block if isinstance(block, str) else "\n".join(block) for block in blocks]
    texts = [f"# {title}", *texts, *([f"{versions_text()}."] if versions else [])]
    return "\n\n".join(text.strip("\n") for text in texts if text.strip()) + "\n"


def write(file: Path, content: dict[str, Any], text: str) -> None:
    """Writes a result and the versions to its JSON file, and the page to the ``.md`` beside it."""
    content = {**content, "versions": package_versions()}
    write_atomically(file, json.dumps(content, indent=1, default=str) + "\n")
    write_atomically(file.with_suffix(".md"), text)


def add_row(file: Path, row: dict[str, Any], column: str, order: Sequence[str]) -> list[Any]:
    """Writes a row in place of an earlier one of the same learner and seed; gives all rows.

    Args:
        file: JSON list of rows; made where there is none.
        row: With the learner's name in ``column``, and a ``seed``.
        column: ``"learner"``, for instance.
        order: Learners, as the rows are sorted.
    """
    rows = [old for old in read(file, []) if any(old[key] != row[key] for key in (column, "seed"))]
    rows = sorted([*rows, row], key=lambda each: (order.index(each[column]), each["seed"]))
    write_atomically(file, json.dumps(rows) + "\n")
    return rows


def add_to_table(
    file: Path, rows: dict[str, Any], markdown: Callable[[dict[str, Any]], str], part: str = ""
) -> None:
    """Writes rows in place of earlier ones of the same names, and the page of all.

    Args:
        file: JSON object with ``rows`` and ``versions``; made where there is none.
        rows: Rows by name.
        markdown: Makes the page of all rows.
        part: Group of rows that these belong to (default: no group).
    """
    content = read(file, {"rows": {}})
    group = content["rows"].setdefault(part, {}) if part else content["rows"]
    group.update(rows)
    write(file, content, markdown(content["rows"]))


def known_interval(interval: Sequence[float]) -> list[float] | None:
    """The bounds of an interval; ``None`` where there is none (one training, on all tasks)."""
    return [float(bound) for bound in interval] if np.isfinite(interval).all() else None


def with_interval(mean: float, interval: Sequence[float] | None, form: str = ".1f") -> str:
    """A mean and its interval, as in a table: ``"1.0 (0.5 to 1.5)"``."""
    if interval is None:
        return f"{mean:{form}} (no interval)"
    return f"{mean:{form}} ({span(interval, form)})"


def span(values: Iterable[float], form: str = ".2f") -> str:
    """The least and the largest of values, as in a table: ``"0.50 to 1.50"``."""
    values = list(values)
    return f"{min(values):{form}} to {max(values):{form}}"


def bounds(
    means: Sequence[float], intervals: Sequence[Sequence[float] | None]
) -> tuple[list[float], list[float]]:
    """Lower and upper bounds to draw a band between; the means where there is no interval."""
    pairs = [
        (mean, mean) if interval is None else (interval[0], interval[1])
        for mean, interval in zip(means, intervals, strict=True)
    ]
    return [low for low, _ in pairs], [high for _, high in pairs]


def marked(name: str, num_tasks: int, distinct_tasks: int) -> str:
    """A learner's name, with :data:`REPEATED` where tasks were counted several times."""
    return f"{name} {REPEATED}" if distinct_tasks < num_tasks else name


def repeated_note(num_tasks: int, distinct_tasks: int, counted: str = "tasks") -> list[str]:
    """The lines below a table; none where every task was counted once.

    Args:
        num_tasks: Number of tasks that were counted.
        distinct_tasks: Number of different ones among them.
        counted: Name of the tasks.
    """
    if distinct_tasks >= num_tasks:
        return []
    return [
        f"{REPEATED} Counts {num_tasks:,} {counted}, of which only {distinct_tasks} are distinct. "
        "A task that counts several times",
        "makes the interval or the standard error too narrow. To be trained again.",
        "",
    ]


def take_turns(contenders: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures each contender once in each turn; gives what was measured, by contender."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            figures[name].append(measure())
    return figures


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    """The ratio of two contenders' figures in each turn."""
    return np.array(ours) / np.array(theirs)


def resumed_training(
    algo: str, tasks: str, seed: int, out: Path, timesteps: int | None = None
) -> RunFolder:
    """Trains with shipped settings, or goes on from the run folder's checkpoint; gives the folder.

    Args:
        algo: Algorithm, as on the command line.
        tasks: Name of the tasks, as on the command line.
        seed: Seed of the training.
        out: The run folder.
        timesteps: Number of environment steps (default: the setting's).
    """
    from meta_rl.cli import Train, train
    from meta_rl.cli.run_folder import RunFolder

    return train(
        Train(
            algo=algo,
            tasks=tasks,
            seed=seed,
            total_timesteps=timesteps,
            out=out,
            resume=RunFolder(out).config_file.exists(),
            eval_tasks=0,
            quiet=True,
            checkpoint_interval=60.0,
        )
    )
