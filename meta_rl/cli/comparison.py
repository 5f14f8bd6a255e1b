"""``meta-rl compare``: aggregated curves and evaluations of runs, as table, CSV and picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meta_rl.cli.listing import table_lines
from meta_rl.cli.pictures import draw
from meta_rl.cli.run_groups import Band, RunGroup, find_groups
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.provenance import write_atomically

if TYPE_CHECKING:
    from meta_rl.cli.commands import Compare


def compare(command: Compare) -> list[dict[str, Any]]:
    """Compare runs: prints a table, and writes it, the curves and a picture into a folder.

    Returns:
        The rows of the table.

    Raises:
        ValueError: No run given, one twice, or nothing to compare.
    """
    if not command.runs:
        raise ValueError("compare needs run folders")
    groups = find_groups(command.runs, command.by)
    rows = [row for group in groups for row in _evaluation_rows(group)]
    curves = [row for group in groups for row in _curve_rows(group)]
    if not rows and not curves:
        raise ValueError("the runs have logged nothing yet, and have no evaluation")
    out = command.out
    out.mkdir(parents=True, exist_ok=True)
    for line in _table(rows):
        print(line)
    if curves:
        _write_csv(curves, out / "curves.csv")
    if rows:
        _write_csv(rows, out / "evaluations.csv")
    draw(groups, out / "comparison.png")
    print(f"picture: {out / 'comparison.png'}\ntables: {out}/evaluations.csv, {out}/curves.csv")
    return rows


def _evaluation_rows(group: RunGroup) -> list[dict[str, Any]]:
    return [
        {
            "group": group.label,
            "tasks": group.config.tasks,
            "evaluation": name,
            "split": result.split,
            "num_trainings": result.num_trainings,
            "num_tasks": result.num_tasks,
            "measure": result.measure,
            **_numbers(result),
        }
        for name, result in group.evaluations().items()
    ]


def _numbers(result: EvaluationResult) -> dict[str, Any]:
    """The mean before and after adaptation; for returns, that of the whole trial too."""
    summary = result.summary()
    found = {
        "before": summary["mean"][0],
        "after": summary["mean"][-1],
        **_ends("after", summary["mean_interval"][-1]),
    }
    if result.measure == "return":
        found["total"] = summary["total_mean"]
        found |= _ends("total", summary["total_mean_interval"])
    if result.success is not None:
        found["success"] = summary["success"][-1]
    return {name: value if value == "" else float(value) for name, value in found.items()}


def _ends(name: str, interval: np.ndarray) -> dict[str, Any]:
    known = bool(np.isfinite(interval).all())
    low, high = interval if known else ("", "")
    return {f"{name}_low": low, f"{name}_high": high}


def _curve_rows(group: RunGroup) -> list[dict[str, Any]]:
    curve = group.curve()
    if curve is None:
        return []
    rows = []
    bands: dict[str, Band | None] = {"training": curve.trained, "validation": curve.validated}
    for tasks, band in bands.items():
        for i, steps in enumerate([] if band is None else band.steps.tolist()):
            assert band is not None
            low, high = ("", "") if band.interval is None else band.interval[i].tolist()
            rows.append(
                {"group": group.label, "tasks": tasks, "unit": curve.unit, "steps": steps}
                | {"measure": curve.measure, "mean": float(band.mean[i]), "low": low, "high": high}
                | {"num_runs": curve.num_runs}
            )
    return rows


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table: one for each group and evaluation, the best of each tasks first."""
    if not rows:
        return ["no evaluations yet"]
    shown = []
    for row in sorted(rows, key=_rank):
        after = f"{row['after']:.3f}"
        if row["after_low"] != "":
            after += f" ({row['after_low']:.3f} to {row['after_high']:.3f})"
        total = "" if "total" not in row else f"{row['total']:.2f}"
        if total and row["total_low"] != "":
            total += f" ({row['total_low']:.2f} to {row['total_high']:.2f})"
        shown.append(
            {"runs": row["group"], "evaluation": row["evaluation"]}
            | {"trainings x tasks": f"{row['num_trainings']} x {row['num_tasks']} {row['split']}"}
            | {"before": f"{row['before']:.3f}", "after (95 %)": after, "trial (95 %)": total}
            | {"measure": row["measure"]}
        )
    return table_lines(shown, None, leave_out=())


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    worse = row["after"] if "error" in row["measure"] else -row.get("total", row["after"])
    return row["tasks"], row["split"], worse


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
