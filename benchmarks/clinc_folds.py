"""CLINC150 with each pair of domains held out in turn: few-shot learners beside fine-tuning.

Two held-out domains are a small sample of domains, however many tasks are drawn from them. Trains
the shipped settings on each fold, and compares learners on the same tasks. The settings were chosen
by validation tasks of fold 0, which are the test tasks of fold 1; means are given without it too.

    python benchmarks/clinc_folds.py
    python benchmarks/clinc_folds.py --learners protonet --folds 2 3
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from few_shot_tables import EVALUATION_SEED, train_setting
from few_shot_tables import Args as Training
from result_files import RESULTS, page, read, table, with_interval, write

from meta_rl.evaluation import EvaluationResult
from meta_rl.few_shot.data.clinc150 import FOLDS
from meta_rl.few_shot.evaluation import final_scores
from meta_rl.files import write_atomically

LEARNERS = ("protonet", "matching", "maml", "finetune", "nearest")
CHOSEN_BY = 1
"""The fold whose test tasks settings were chosen by."""
SHOTS = (1, 5)


@dataclass
class Args:
    """Settings of the run."""

    learners: tuple[str, ...] = LEARNERS
    """Learners, by the command line's names."""
    folds: tuple[int, ...] = tuple(range(len(FOLDS)))
    """Numbers of the folds; each holds out a pair of domains."""
    num_tasks: int = 2000
    """Number of test tasks of each fold and number of shots."""
    seed: int = 0
    """Seed of the trainings; the evaluation has seed 1000."""
    runs: Path = Path("runs/clinc_folds")
    """Folder of the run folders, and of scores.json, with the accuracies of all tasks."""
    out: Path = RESULTS
    """Folder of clinc_folds.json and clinc_folds.md."""
    device: str = "auto"
    """PyTorch device of the learners; auto takes a GPU where there is one."""
    threads: int = 1
    """Number of PyTorch CPU threads."""


Scores = dict[str, dict[str, dict[str, list[float]]]]
"""Accuracies of tasks, by learner, fold and shots."""


def over_folds(scores: Scores, learner: str, folds: tuple[int, ...]) -> EvaluationResult:
    """Accuracies in %, ``[tasks of all folds, numbers of shots]``: a training for each fold."""
    parts = [np.array([scores[learner][str(fold)][str(k)] for k in SHOTS]).T for fold in folds]
    return EvaluationResult(
        100 * np.concatenate(parts),
        unit="shot",
        learner=learner,
        environment="Clinc150",
        split="test",
        seed=EVALUATION_SEED,
        envs_per_task=1,
        deterministic=True,
        trainings=np.repeat(folds, [len(part) for part in parts]),
        tasks=np.arange(sum(map(len, parts))),
        measure="accuracy in %",
        points=list(SHOTS),
    )


def intervals(result: EvaluationResult) -> list[list[float]]:
    """Mean and 95 % interval, for each number of shots."""
    summary = result.summary()
    return np.column_stack([summary["mean"], summary["mean_interval"]]).tolist()


def compared(scores: Scores, folds: tuple[int, ...]) -> dict[str, Any]:
    """Means over folds, and differences to fine-tuning on the same tasks, of complete learners."""
    complete = {
        name: over_folds(scores, name, folds)
        for name in LEARNERS
        if all(str(fold) in scores.get(name, {}) for fold in folds)
    }
    rows: dict[str, Any] = {}
    for name, result in complete.items():
        rows[name] = {"accuracy": intervals(result)}
        if name != "finetune" and "finetune" in complete:
            difference = result.values - complete["finetune"].values
            rows[name]["gain"] = intervals(replace(result, values=difference))
    return rows


def as_table(rows: dict[str, Any]) -> list[str]:
    """The rows as Markdown."""
    lines = []
    for name, row in rows.items():
        cells = [name]
        for column, (mean, *interval) in enumerate(row["accuracy"]):
            cells.append(with_interval(mean, interval))
            gain = row["gain"][column] if "gain" in row else None
            cells.append(with_interval(gain[0], gain[1:], "+.1f") if gain else "")
        lines.append(cells)
    return table(["learner", "1 shot", *["less fine-tuning", "5 shots", "less fine-tuning"]], lines)


def results(scores: Scores) -> dict[str, dict[str, Any]]:
    """The tables by their titles: means over folds, then each fold."""
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
    """The page of all tables."""
    about = (
        f"`python benchmarks/clinc_folds.py`: shipped settings, seed {args.seed}; accuracies in % "
        f"on {args.num_tasks:,} test tasks of each fold, 5 ways, with 95 % intervals: over folds "
        "where there are several, else over tasks; differences are on the same tasks."
    )
    tables = [
        part for title, rows in told.items() if rows for part in (f"## {title}", as_table(rows))
    ]
    return page("CLINC150, each pair of domains held out in turn", about, *tables)


def kept_scores(file: Path, num_tasks: int) -> Scores:
    """The scores of earlier calls.

    Raises:
        ValueError: They were measured on another number of tasks.
    """
    scores: Scores = read(file, {})
    for fold in (fold for folds in scores.values() for fold in folds.values()):
        for values in fold.values():
            if len(values) != num_tasks:
                raise ValueError(
                    f"{file} has scores of {len(values)} tasks, not of {num_tasks}: move it"
                )
    return scores


def main(args: Args) -> None:
    """Trains and evaluates each learner on each fold; scores of others are kept."""
    torch.set_num_threads(args.threads)
    kept = args.runs / "scores.json"
    scores = kept_scores(kept, args.num_tasks)
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
            means = ", ".join(f"{shots}: {100 * np.mean(v):.2f}" for shots, v in found.items())
            print(f"fold {fold}, {name}: {means}", flush=True)
    told = results(scores)
    write(args.out / "clinc_folds.json", {"results": told}, markdown(told, args))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
