"""CLINC150 on vectors of a frozen sentence encoder: baselines, and learners above them.

Each pair of domains is held out in turn, as in clinc_folds.py. The settings were chosen by the
validation tasks of fold 0, which are the test tasks of fold 1; means are given without it too.
Vectors are cached. Rows of earlier calls are kept.

    python benchmarks/text_encoders.py
    python benchmarks/text_encoders.py --learners ridge protonet --folds 2 3
    python benchmarks/text_encoders.py --learners nearest-mean plda --csv intents.csv
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from few_shot_tables import EVALUATION_SEED, train_setting
from few_shot_tables import Args as Training
from result_files import RESULTS, notes, page, read, table, with_interval, write
from torch import Tensor

from meta_rl.evaluation.intervals import independent_spread, student_interval
from meta_rl.few_shot import (
    MAML,
    PLDA,
    FewShotTasks,
    LogisticRegressionLearner,
    MatchingNet,
    NearestMean,
    ProtoNet,
    Ridge,
    SentenceEncoder,
    Siamese,
)
from meta_rl.few_shot.data.clinc150 import DOMAINS, FOLDS, UTTERANCES, domains_of
from meta_rl.few_shot.data.encoders import encoded
from meta_rl.few_shot.data.sources import obtain
from meta_rl.few_shot.evaluation import final_scores, out_of_scope_auroc
from meta_rl.few_shot.networks.choice import network_for
from meta_rl.few_shot.tasks import ClassPool, class_split

SHOTS = (1, 5)
CHOSEN_BY = 1
"""The fold whose test tasks settings were chosen by."""
BASELINE = "nearest-mean"
FALLING = [3e-4, 1e-5]
"""First and last step size of the heads' training."""


@dataclass(frozen=True)
class Row:
    """A learner of the table.

    Attributes:
        title: Name in the table.
        encoder: Number of last layers of the sentence encoder, ``"tfidf"``, or ``"words"`` for a
            learner that is trained on words from scratch.
        ways: Number of ways of training tasks, which have 1 shot and 5 queries; 0 for no training.
        make: Function from tasks and a seed to the trained learner.
    """

    title: str
    encoder: int | str
    ways: int
    make: Callable[[Any, int], Any]


def trained(
    kind: Any, iterations: int, head: dict[str, Any], **settings: Any
) -> Callable[[Any, int], Any]:
    """Returns a function that trains a learner with a residual head.

    Args:
        kind: Class of the learner.
        iterations: Number of updates.
        head: Arguments of the head.
        **settings: Arguments of the learner.
    """

    def make(tasks: Any, seed: int) -> Any:
        network = network_for(tasks, seed=seed, **head)
        learner = kind(network, meta_lr=FALLING, seed=seed, device="cpu", **settings)
        return learner.learn(tasks, iterations, log_interval=None)

    return make


def nearest_mean(tasks: Any, seed: int) -> NearestMean:
    """Returns the nearest class mean, which learns nothing."""
    return NearestMean(seed=seed, device="cpu")


def logistic(tasks: Any, seed: int) -> LogisticRegressionLearner:
    """Returns logistic regression, which learns nothing from other tasks."""
    return LogisticRegressionLearner(seed=seed, device="cpu")


def plda(tasks: Any, seed: int) -> PLDA:
    """Returns PLDA, whose covariances are those of the training classes."""
    return PLDA(seed=seed, device="cpu").learn(tasks)


DROPOUT = {"dropout": 0.3}
SHRUNK = {**DROPOUT, "scale": 6.0}
CLASSIFIER = {**DROPOUT, "classifies": True}
ONE = {"meta_batch_size": 1}
INNER: dict[str, Any] = {"lr": 0.4, "num_steps": 5, "anil": True, "zero_head": True}
LEARNERS = {
    "nearest-mean": Row("nearest class mean", 1, 0, nearest_mean),
    "logistic": Row("logistic regression", 1, 0, logistic),
    "tfidf": Row("TF-IDF, nearest class mean", "tfidf", 0, nearest_mean),
    "scratch": Row("prototypical networks on words, from scratch", "words", 90, nearest_mean),
    "protonet": Row("prototypical networks", 1, 90, trained(ProtoNet, 300, SHRUNK)),
    "ridge": Row("ridge regression (R2-D2)", 1, 30, trained(Ridge, 300, DROPOUT)),
    "matching": Row("matching networks", 1, 90, trained(MatchingNet, 300, DROPOUT, **ONE)),
    "siamese": Row("Siamese networks", 1, 30, trained(Siamese, 300, DROPOUT, augment=False, **ONE)),
    "maml": Row("MAML (ANIL, empty heads)", 1, 30, trained(MAML, 300, CLASSIFIER, **INNER, **ONE)),
    "plda": Row("PLDA", 1, 90, plda),
    "nearest-mean-2": Row("nearest class mean, two layers", 2, 0, nearest_mean),
    "ridge-2": Row("ridge regression, two layers", 2, 30, trained(Ridge, 300, DROPOUT)),
    "plda-2": Row("PLDA, two layers", 2, 90, plda),
}
"""Learners by name; the first four are baselines. Two layers are those of the encoder."""


@dataclass
class Args:
    """Settings of the run."""

    encoder: str = "all-MiniLM-L6-v2"
    """Name or folder of the sentence encoder."""
    folds: tuple[int, ...] = tuple(range(len(FOLDS)))
    """Held-out pairs of domains."""
    learners: tuple[str, ...] = tuple(LEARNERS)
    """Learners: those of the table."""
    num_tasks: int = 500
    """Number of test tasks of each fold and number of shots."""
    seed: int = 0
    """Seed of the trainings; the evaluation has seed 1000."""
    runs: Path = Path("runs/clinc_folds")
    """Folder of the run folders of trainings from scratch."""
    threads: int = 1
    """Number of PyTorch threads."""
    out: Path = RESULTS
    """Folder of text_encoders.json and text_encoders.md."""
    csv: Path | None = None
    """CSV file with columns text, label and domain of another data set, for the same settings;
    its drawn test domains are scored, nothing is written."""


@cache
def texts_of_clinc() -> tuple[list[str], list[str], dict[str, str], list[str]]:
    """Returns texts, their intents, the domain of each intent, and texts of no intent."""
    content = json.loads(obtain(UTTERANCES).read_text(encoding="utf-8"))
    domains = json.loads(obtain(DOMAINS).read_text(encoding="utf-8"))
    parts = ("train", "val", "test")
    pairs = [pair for part in parts for pair in content[part]]
    groups = {intent: domain for domain, intents in domains.items() for intent in intents}
    outside = [text for part in parts for text, _ in content[f"oos_{part}"]]
    return [text for text, _ in pairs], [intent for _, intent in pairs], groups, outside


@cache
def encoder_of(name: str, encoder: int | str) -> Any:
    """Returns an encoder; vectors of the sentence encoder are computed, or read, only once."""
    if isinstance(encoder, str):
        return encoder
    texts, _, _, outside = texts_of_clinc()
    every = sorted({*texts, *outside})
    vectors = encoded(SentenceEncoder(name, encoder), every)
    rows = {text: row for row, text in enumerate(every)}
    return lambda asked: vectors[[rows[text] for text in asked]]


@lru_cache(maxsize=2 * len(FOLDS))
def pools_of(fold: int, name: str, encoder: int | str) -> tuple[dict[str, ClassPool], Tensor]:
    """Returns the vectors of the parts of a fold, and those of texts of no intent."""
    texts, intents, groups, outside = texts_of_clinc()
    parts = domains_of(fold)
    split = FewShotTasks.from_texts(
        texts,
        intents,
        ways=5,
        shots=1,
        groups=groups,
        validation_groups=parts["validation"],
        test_groups=parts["test"],
        encoder=encoder_of(name, encoder),
        progress_bar=False,
    )
    pools = {part: split[part].pool for part in ("train", "validation", "test")}
    return pools, encoded(split.preparation.encoder, outside, progress_bar=False)


def learned(name: str, fold: int, args: Args) -> tuple[Any, dict[int, Any], Tensor, float]:
    """Returns the trained learner, its tasks by shots, texts of no intent, and seconds."""
    row = LEARNERS[name]
    if row.encoder == "words":
        training = Training(seed=args.seed, runs=args.runs, device="cpu", threads=args.threads)
        made = {k: train_setting(f"protonet/Clinc150-5w{k}s", training, fold=fold) for k in SHOTS}
        learner, first, about = made[SHOTS[0]]
        splits = {shots: tasks for shots, (_, tasks, _) in made.items()}
        return learner, splits, first.out_of_scope, about["seconds"]
    pools, outside = pools_of(fold, args.encoder, row.encoder)
    train: dict[str, int | None] = {"ways": row.ways or 5, "shots": 1, "queries": 5}
    splits = {
        shots: class_split(pools, 5, shots, 15, name="Clinc150", train=train) for shots in SHOTS
    }
    began = time.process_time()
    learner = row.make(splits[SHOTS[0]], args.seed)
    return learner, splits, outside, time.process_time() - began


def scores_of(name: str, fold: int, args: Args) -> dict[str, Any]:
    """Returns accuracies in % and areas under the ROC curve by shots, and seconds of training."""
    learner, splits, outside, seconds = learned(name, fold, args)
    found: dict[str, Any] = {"seconds": seconds, "num_tasks": args.num_tasks}
    for shots, split in splits.items():
        many = (args.num_tasks,)
        right = final_scores(learner, split.test, *many, seed=EVALUATION_SEED)
        areas = out_of_scope_auroc(learner, split.test, outside, *many, seed=EVALUATION_SEED)
        found[str(shots)] = {"accuracy": 100 * float(right.mean()), "auroc": float(areas.mean())}
    return found


Folds = dict[str, dict[str, Any]]
"""What :func:`scores_of` returned, by learner and fold."""


def summary(folds: Folds, chosen: tuple[int, ...]) -> dict[str, Any]:
    """Returns means over folds, and the gain over the baseline, with 95 % intervals."""
    complete = {
        name: [folds[name][str(fold)] for fold in chosen]
        for name in LEARNERS
        if all(str(fold) in folds.get(name, {}) for fold in chosen)
    }

    def values(name: str, shots: int, measure: str) -> np.ndarray:
        return np.array([row[str(shots)][measure] for row in complete[name]])

    told: dict[str, Any] = {}
    for name, rows in complete.items():
        told[name] = {"seconds": float(np.mean([row["seconds"] for row in rows]))}
        for shots in SHOTS:
            part = {
                measure: over_folds(values(name, shots, measure))
                for measure in ("accuracy", "auroc")
            }
            if BASELINE in complete and name != BASELINE:
                gain = values(name, shots, "accuracy") - values(BASELINE, shots, "accuracy")
                part["gain"] = over_folds(gain)
            told[name][str(shots)] = part
    return told


def over_folds(values: np.ndarray) -> list[float]:
    """Returns the mean over folds, and its 95 % interval of Student's t."""
    mean = values.mean(keepdims=True)
    low, high = student_interval(mean, independent_spread(values[:, None]), 0.95)[0]
    return [float(mean[0]), float(low), float(high)]


def as_table(told: dict[str, Any]) -> list[str]:
    """Returns a Markdown table."""
    lines = []
    for name, row in told.items():
        cells = [LEARNERS[name].title]
        for shots in map(str, SHOTS):
            part = row[shots]
            cells.append(with_interval(part["accuracy"][0], part["accuracy"][1:]))
            gain = part.get("gain")
            cells.append(with_interval(gain[0], gain[1:], "+.1f") if gain else "")
            cells.append(f"{part['auroc'][0]:.3f}")
        cells.append(f"{row['seconds']:.1f} s" if LEARNERS[name].ways else "none")
        lines.append(cells)
    heads = [cell for k in ("1 shot", "5 shots") for cell in (k, "gain", "AUROC")]
    return table(["learner", *heads, "training"], lines)


def results(folds: Folds) -> dict[str, dict[str, Any]]:
    """The tables by their titles."""
    every = tuple(range(len(FOLDS)))
    others = tuple(fold for fold in every if fold != CHOSEN_BY)
    return {
        "All folds but the one that settings were chosen by": summary(folds, others),
        "All folds": summary(folds, every),
    }


def markdown(told: dict[str, dict[str, Any]], args: Args) -> str:
    """The page of all tables."""
    about = (
        "`python benchmarks/text_encoders.py`: each pair of domains of CLINC150 is held out in "
        f"turn. Accuracies are in % on {args.num_tasks:,} test tasks of each fold, 5 ways, with "
        "95 % intervals of Student's t over folds. The gain is over the nearest class mean of the "
        "frozen vectors; its interval is over the gains of the folds. AUROC is the area under the "
        "ROC curve that tells queries of a task from as many texts of no intent, by the largest "
        "class probability. The training is in seconds of one core for a fold. Vectors are "
        "computed once and cached."
    )
    more = (
        "Learners work on vectors of the sentence encoder all-MiniLM-L6-v2, where the table says "
        "nothing else; networks that are trained on them have a residual head. Two layers are the "
        "pooled vectors of the encoder's last two layers side by side. TF-IDF is of character "
        "n-grams."
    )
    tables = [part for title, rows in told.items() for part in (f"## {title}", as_table(rows))]
    told_by_hand = notes(args.out / "text_encoders.json")
    return page(
        "CLINC150 on vectors of a frozen sentence encoder", about, more, *tables, told_by_hand
    )


def unseen(args: Args) -> None:
    """Prints the accuracies of the same settings on another data set, whose domains are drawn."""
    for name in args.learners:
        row = LEARNERS[name]
        ways = min(row.ways or 5, 30)  # as many as a smaller data set may have
        layers, train = row.encoder, {"ways": ways, "shots": 1, "queries": 5}
        encoder = layers if isinstance(layers, str) else SentenceEncoder(args.encoder, layers)
        sizes = {"train": train, "groups": "domain", "seed": args.seed}
        for shots in SHOTS:
            split = FewShotTasks.from_csv(args.csv, 5, shots, encoder=encoder, **sizes)
            learner = row.make(split, args.seed)
            scores = final_scores(learner, split.test, args.num_tasks, seed=EVALUATION_SEED)
            error = 1.96 * scores.std() / len(scores) ** 0.5
            print(f"{name}, {shots} shots: {100 * scores.mean():.2f} ± {100 * error:.2f}")


def main(args: Args) -> None:
    """Trains and evaluates each learner on each fold; the tables are written after each learner.

    With ``--csv`` it only prints what the settings reach there.
    """
    torch.set_num_threads(args.threads)
    if args.csv is not None:
        unseen(args)
        return
    file = args.out / "text_encoders.json"
    folds: Folds = {
        name: rows for name, rows in read(file, {}).get("folds", {}).items() if name in LEARNERS
    }
    for name in args.learners:
        for fold in args.folds:
            folds.setdefault(name, {})[str(fold)] = row = scores_of(name, fold, args)
            parts = (f"{k}: {row[str(k)]['accuracy']:.2f}" for k in SHOTS)
            print(f"fold {fold}, {name}: {', '.join(parts)}, {row['seconds']:.0f} s", flush=True)
        told = results(folds)
        write(file, {"results": told, "folds": folds}, markdown(told, args))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
