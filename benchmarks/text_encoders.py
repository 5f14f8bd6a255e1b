"""CLINC150 on vectors of a frozen sentence encoder: baselines, and learners above them.

Each pair of domains is held out in turn, as in clinc_folds.py. The settings were chosen by the
validation tasks of fold 0, which are the test tasks of fold 1; means are given without it too.

    python benchmarks/text_encoders.py --encoder FOLDER_OF_ALL_MINILM_L6_V2
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from meta_rl.evaluation.intervals import independent_spread, student_interval
from meta_rl.few_shot import (
    FewShotTasks,
    LogisticRegressionLearner,
    NearestMean,
    ProtoNet,
    Ridge,
)
from meta_rl.few_shot.data.clinc150 import DOMAINS, FOLDS, UTTERANCES, domains_of
from meta_rl.few_shot.data.sources import obtain
from meta_rl.few_shot.evaluation import final_scores
from meta_rl.few_shot.networks.choice import network_for
from meta_rl.provenance import package_versions, versions_text, write_atomically

SHOTS = (1, 5)
EVALUATION_SEED = 1000
CHOSEN_BY = 1
"""The fold whose test tasks settings were chosen by."""


@dataclass
class Args:
    """Settings of the run."""

    encoder: str
    """Name or folder of the sentence encoder."""
    folds: tuple[int, ...] = tuple(range(len(FOLDS)))
    """Held-out pairs of domains."""
    learners: tuple[str, ...] = ("nearest-mean", "ridge", "protonet", "tfidf", "logistic")
    """Learners; tfidf is the nearest mean of TF-IDF vectors."""
    num_tasks: int = 1000
    """Number of test tasks of each fold and number of shots."""
    seed: int = 0
    """Seed of the trainings; the evaluation has seed 1000."""
    threads: int = 1
    """Number of PyTorch threads."""
    out: Path = Path(__file__).parent / "results"
    """Folder of text_encoders.json and text_encoders.md."""


def train_protonet(tasks: Any, seed: int) -> ProtoNet:
    """Trains prototypical networks with a residual head."""
    network = network_for(tasks, seed=seed, dropout=0.3, scale=6.0)
    learner = ProtoNet(network, meta_lr=[3e-4, 1e-5], seed=seed, device="cpu")
    return learner.learn(tasks, 300, log_interval=None)


def train_ridge(tasks: Any, seed: int) -> Ridge:
    """Trains ridge regression on a residual head."""
    network = network_for(tasks, seed=seed, dropout=0.3)
    learner = Ridge(network, meta_lr=[3e-4, 1e-5], seed=seed, device="cpu")
    return learner.learn(tasks, 300, log_interval=None)


TRAINED: dict[str, tuple[int, Callable[[Any, int], Any]]] = {
    "protonet": (90, train_protonet),
    "ridge": (30, train_ridge),
}
"""Number of ways in training tasks (with 1 shot and 5 queries), and the training."""
UNTRAINED: dict[str, Callable[[], Any]] = {
    "tfidf": lambda: NearestMean(seed=0, device="cpu"),
    "nearest-mean": lambda: NearestMean(seed=0, device="cpu"),
    "logistic": lambda: LogisticRegressionLearner(seed=0, device="cpu"),
}


def texts_of_clinc() -> tuple[list[str], list[str], dict[str, str]]:
    """Returns all texts that have an intent, their intents, and the domain of each intent."""
    content = json.loads(obtain(UTTERANCES).read_text(encoding="utf-8"))
    domains = json.loads(obtain(DOMAINS).read_text(encoding="utf-8"))
    pairs = [pair for part in ("train", "val", "test") for pair in content[part]]
    groups = {intent: domain for domain, intents in domains.items() for intent in intents}
    return [text for text, _ in pairs], [intent for _, intent in pairs], groups


def open_fold(fold: int, shots: int, encoder: str, ways: int = 5) -> Any:
    """Returns the tasks of a fold; ``ways`` are those of training."""
    texts, intents, groups = texts_of_clinc()
    parts = domains_of(fold)
    return FewShotTasks.from_texts(
        texts,
        intents,
        ways=5,
        shots=shots,
        queries=15,
        train={"ways": ways, "shots": 1, "queries": 5},
        groups=groups,
        validation_groups=parts["validation"],
        test_groups=parts["test"],
        encoder=encoder,
        name="Clinc150",
    )


def scores_of(name: str, fold: int, args: Args) -> dict[str, Any]:
    """Returns the accuracies in % of a learner's test tasks."""
    ways, train = TRAINED.get(name, (5, None))
    encoder = "tfidf" if name == "tfidf" else args.encoder
    splits = {shots: open_fold(fold, shots, encoder, ways) for shots in SHOTS}
    learner = UNTRAINED[name]() if train is None else train(splits[1], args.seed)
    found = {
        str(shots): (
            100 * final_scores(learner, split.test, args.num_tasks, seed=EVALUATION_SEED)
        ).tolist()
        for shots, split in splits.items()
    }
    return {"accuracy": found}


def summary(rows: dict[str, dict[int, Any]], folds: tuple[int, ...]) -> dict[str, Any]:
    """Returns means over folds, and the gain over the nearest mean, with 95 % intervals."""
    means = {
        name: {
            str(shots): np.array([np.mean(row[fold]["accuracy"][str(shots)]) for fold in folds])
            for shots in SHOTS
        }
        for name, row in rows.items()
    }
    told: dict[str, Any] = {}
    for name, of_shots in means.items():
        told[name] = {"accuracy": {s: over_folds(values) for s, values in of_shots.items()}}
        if name != "nearest-mean" and "nearest-mean" in means:
            told[name]["gain"] = {
                s: over_folds(values - means["nearest-mean"][s]) for s, values in of_shots.items()
            }
    return told


def over_folds(values: np.ndarray) -> list[float]:
    """Returns the mean over folds, and its 95 % interval of Student's t."""
    mean = values.mean(keepdims=True)
    low, high = student_interval(mean, independent_spread(values[:, None]), 0.95)[0]
    return [float(mean[0]), float(low), float(high)]


def table(title: str, told: dict[str, Any]) -> list[str]:
    """Returns a Markdown table."""
    head = ["| learner | 1 shot | gain | 5 shots | gain |", "|---|---|---|---|---|"]
    lines = [f"## {title}", "", *head]
    for name, row in told.items():
        cells = [name]
        for shots in map(str, SHOTS):
            cells.append("{:.1f} ({:.1f} to {:.1f})".format(*row["accuracy"][shots]))
            gain = row["gain"][shots] if "gain" in row else None
            cells.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*gain) if gain else "")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def main(args: Args) -> None:
    """Trains and evaluates each learner on each fold; the tables are written after each learner."""
    torch.set_num_threads(args.threads)
    rows: dict[str, dict[int, Any]] = {}
    for name in args.learners:
        for fold in args.folds:
            rows.setdefault(name, {})[fold] = row = scores_of(name, fold, args)
            means = {s: round(float(np.mean(v)), 2) for s, v in row["accuracy"].items()}
            print(f"fold {fold}, {name}: {means}", flush=True)
        write_results(rows, args)


def write_results(rows: dict[str, dict[int, Any]], args: Args) -> None:
    """Writes text_encoders.json and text_encoders.md."""
    others = tuple(fold for fold in args.folds if fold != CHOSEN_BY)
    tables = {
        "All folds but the one that settings were chosen by": summary(rows, others),
        "All folds": summary(rows, args.folds),
    }
    content = {
        "results": tables,
        "folds": {
            name: {
                fold: {shots: float(np.mean(v)) for shots, v in row["accuracy"].items()}
                for fold, row in of_fold.items()
            }
            for name, of_fold in rows.items()
        },
        "num_tasks": args.num_tasks,
        "versions": package_versions(),
    }
    write_atomically(args.out / "text_encoders.json", json.dumps(content, indent=1) + "\n")
    lines = [
        "# CLINC150 on vectors of a frozen sentence encoder (all-MiniLM-L6-v2)",
        "",
        "`python benchmarks/text_encoders.py --encoder FOLDER`: each pair of domains is held",
        f"out in turn; accuracies in % on {args.num_tasks:,} test tasks of each fold, 5 ways, with",
        "95 % intervals over folds. The gain is over the nearest mean of the frozen vectors, on",
        "the same tasks. tfidf is the nearest mean of TF-IDF vectors of character n-grams.",
        "",
    ]
    for title, told in tables.items():
        lines += table(title, told)
    write_atomically(args.out / "text_encoders.md", "\n".join([*lines, f"{versions_text()}.", ""]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
