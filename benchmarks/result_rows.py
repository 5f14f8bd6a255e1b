"""Results that grow call by call: rows of curves, and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meta_rl.provenance import package_versions, write_atomically


def known_interval(interval: Sequence[float]) -> list[float] | None:
    """The bounds of an interval; ``None`` where there is none (one training, on all tasks)."""
    return [float(bound) for bound in interval] if np.isfinite(interval).all() else None


def with_interval(mean: float, interval: Sequence[float] | None, form: str = ".1f") -> str:
    """A mean and its interval, as in a table: ``"1.0 (0.5 to 1.5)"``."""
    if interval is None:
        return f"{mean:{form}} (no interval)"
    return f"{mean:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"


def bounds(
    means: Sequence[float], intervals: Sequence[Sequence[float] | None]
) -> tuple[list[float], list[float]]:
    """Lower and upper bounds to draw a band between; the means where there is no interval."""
    pairs = [
        (mean, mean) if interval is None else (interval[0], interval[1])
        for mean, interval in zip(means, intervals, strict=True)
    ]
    return [low for low, _ in pairs], [high for _, high in pairs]


def add_row(file: Path, row: dict[str, Any], column: str, order: Sequence[str]) -> list[Any]:
    """Write a row in place of an earlier one of the same learner and seed; gives all rows.

    Args:
        file: JSON list of rows; made where there is none.
        row: With the learner's name in ``column``, and a ``seed``.
        column: ``"learner"``, for instance.
        order: Learners, as the rows are sorted.
    """
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    rows = [old for old in rows if any(old[key] != row[key] for key in (column, "seed"))]
    rows = sorted([*rows, row], key=lambda each: (order.index(each[column]), each["seed"]))
    write_atomically(file, json.dumps(rows) + "\n")
    return rows


def add_to_table(
    file: Path, rows: dict[str, Any], markdown: Callable[[dict[str, Any]], str], part: str = ""
) -> None:
    """Write rows in place of earlier ones of the same names, and the table of all.

    Args:
        file: JSON object with ``rows`` and ``versions``; made where there is none. The table goes
            beside it, as ``.md``.
        rows: By name.
        markdown: Makes the table of all rows.
        part: Group of rows that these belong to; none by default.
    """
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": {}}
    group = content["rows"].setdefault(part, {}) if part else content["rows"]
    group.update(rows)
    content["versions"] = package_versions()
    write_atomically(file, json.dumps(content, indent=1) + "\n")
    write_atomically(file.with_suffix(".md"), markdown(content["rows"]))
