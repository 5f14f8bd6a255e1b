"""Rows of results that grow call by call: one for each learner and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meta_rl.provenance import write_atomically


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
