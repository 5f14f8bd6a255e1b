"""CLINC150 with each pair of domains held out in turn: few-shot learners beside fine-tuning.

Two held-out domains are a small sample of domains, however many tasks are drawn from them. Trains
the shipped settings on each fold, and compares learners on the same tasks. The settings were chosen
by validation tasks of fold 0, which are the test tasks of fold 1; means are given without it too.

    python benchmarks/clinc_folds.py
    python benchmarks/clinc_folds.py --learners protonet --folds 2 3
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from few_shot_tables import EVALUATION_SEED, train_setting
from few_shot_tables import Args as Training
from scipy.stats import bootstrap

from meta_rl.few_shot.clinc150 import FOLDS
from meta_rl.few_shot.evaluation import final_scores
from meta_rl.provenance import package_versions, versions_text, write_atomically

LEARNERS = ("protonet", "matching", "maml", "finetune", "nearest")
CHOSEN_BY = 1
"""The fold whose test tasks settings were chosen by."""
SHOTS = (1, 5)


@dataclass
class Args:
    """Settings of the run."""

    learners: tuple[str, ...] = LEARNERS
    """Of the command line's names."""
    folds: tuple[int, ...] = tuple(range(len(FOLDS)))
    """Held-out pairs of domains."""
    num_tasks: int = 2000
    """Test tasks of each fold and number of shots."""
    seed: int = 0
    """Of the trainings; the evaluation has seed 1000."""
    runs: Path = Path("runs/clinc_folds")
    """Folder of the run folders, and of scores.json, with the accuracies of all tasks."""
    out: Path = Path(__file__).parent / "results"
    """Folder of clinc_folds.json and clinc_folds.md."""
    device: str = "auto"
    """Of the learners."""
    threads: int = 1
    """Of torch."""


Scores = dict[str, dict[str, dict[str, list[float]]]]
"""Accuracies of tasks, by learner, fold and shots."""


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean, and a 95 % bootstrap interval over the entries."""
    rng = np.random.default_rng(0)
    found = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=rng)
    return float(values.mean()), *map(float, found.confidence_interval)


def compared(scores: Scores, folds: tuple[int, ...]) -> dict[str, Any]:
    """Means over folds, and differences to fine-tuning on the same tasks, of complete learners."""

    def pooled(learner: str, shots: int) -> np.ndarray:
        parts = [scores[learner][str(fold)][str(shots)] for fold in folds]
        return 100 * np.concatenate(parts)

    complete = [name for name in LEARNERS if all(str(f) in scores.get(name, {}) for f in folds)]
    rows: dict[str, Any] = {name: {} for name in complete}
    for name in complete:
        for shots in SHOTS:
            row = {"accuracy": interval(pooled(name, shots))}
            if name != "finetune" and "finetune" in complete:
                row["gain"] = interval(pooled(name, shots) - pooled("finetune", shots))
            rows[name][str(shots)] = row
    return rows


def table(rows: dict[str, Any], title: str) -> list[str]:
    """The rows as Markdown."""
    lines = [
        f"## {title}",
        "",
        "| learner | 1 shot | less fine-tuning | 5 shots | less fine-tuning |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        for found in row.values():
            mean, low, high = found["accuracy"]
            cells.append(f"{mean:.1f} ({low:.1f} to {high:.1f})")
            mean, low, high = found.get("gain", (None,) * 3)
            cells.append("" if mean is None else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""] if rows else []


def results(scores: Scores) -> dict[str, dict[str, Any]]:
    """What is told, by title: means over folds, then each fold."""
    every = tuple(range(len(FOLDS)))
    others = tuple(fold for fold in every if fold != CHOSEN_BY)
    told = {
        "All folds but the one that settings were chosen by": compared(scores, others),
        "All folds": compared(scores, every),
    }
    for fold in every:
        note = ": settings were chosen by these" if fold == CHOSEN_BY else ""
        told[f"Fold {fold}, {' and '.join(FOLDS[fold])}{note}"] = compared(scores, (fold,))
    return told


def markdown(told: dict[str, dict[str, Any]], args: Args) -> str:
    """All tables."""
    lines = [
        "# CLINC150, each pair of domains held out in turn",
        "",
        f"`python benchmarks/clinc_folds.py`: shipped settings, seed {args.seed}; accuracies in % "
        f"on {args.num_tasks:,} test tasks of each fold, 5 ways, with 95 % bootstrap intervals "
        "over tasks; differences are on the same tasks.",
        "",
    ]
    for title, rows in told.items():
        lines += table(rows, title)
    return "\n".join([*lines, f"{versions_text()}.", ""])


def main(args: Args) -> None:
    """Train and evaluate each learner on each fold; what is there already is kept."""
    torch.set_num_threads(args.threads)
    kept = args.runs / "scores.json"
    scores: Scores = json.loads(kept.read_text()) if kept.exists() else {}
    training = Training(seed=args.seed, runs=args.runs, device=args.device, threads=args.threads)
    for fold in args.folds:
        for name in args.learners:
            found: dict[str, list[float]] = {}
            for shots in SHOTS:
                learner, tasks, _ = train_setting(
                    f"{name}/Clinc150-5w{shots}s", training, fold=fold
                )
                reached = final_scores(learner, tasks.test, args.num_tasks, seed=EVALUATION_SEED)
                found[str(shots)] = np.round(reached, 4).tolist()
            scores.setdefault(name, {})[str(fold)] = found
            write_atomically(kept, json.dumps(scores) + "\n")
            told = results(scores)
            content = {"results": told, "versions": package_versions()}
            write_atomically(args.out / "clinc_folds.json", json.dumps(content, indent=1) + "\n")
            write_atomically(args.out / "clinc_folds.md", markdown(told, args))
            means = ", ".join(f"{shots}: {100 * np.mean(v):.2f}" for shots, v in found.items())
            print(f"fold {fold}, {name}: {means}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
