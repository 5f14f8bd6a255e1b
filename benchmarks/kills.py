"""Trainings that are killed at random moments, and resumed, beside undisturbed ones.

Every algorithm trains twice by ``meta-rl train`` with the same seed. One training is undisturbed.
The other one gets KILL, TERM and INT in turn: at a random moment of the training, while a
checkpoint is being written, and at a random moment of the process, which may still be loading.
After each signal ``--resume`` goes on. In the end its parameters, optimisers, generators, log and
evaluation have to equal those of the undisturbed training.

    python -m benchmarks.kills
    python -m benchmarks.kills --algorithms rl2 protonet --kills 3
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.result_files import RESULTS, add_to_table, page, table
from meta_rl.files.sealed import read_file

ALGORITHMS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "rl2": ("BernoulliBandit", 80_000, ("meta_batch_size=400",)),
    "ppo": ("PointRobot", 60_000, ("meta_batch_size=50",)),
    "maml_trpo": ("PointRobot", 100_000, ("meta_batch_size=20", "envs_per_task=5")),
    "promp": ("PointRobot", 100_000, ("meta_batch_size=20", "envs_per_task=5")),
    "pearl": ("PointRobot", 20_000, ("num_train_tasks=10", "updates_per_iteration=20")),
    "varibad": ("GridNavigation", 80_000, ("meta_batch_size=64", "num_minibatches=2")),
    "dpt": ("BernoulliBandit", 60_000, ("meta_batch_size=300", "policy.hidden_size=32")),
    "algorithm_distillation": (
        "DarkRoom",
        200_000,
        ("meta_batch_size=50", "policy.hidden_size=32", "source_name=search"),
    ),
    "multi_task_sac": ("PointRobot", 20_000, ("num_train_tasks=10", "updates_per_iteration=20")),
    "oracle_sac": ("PointRobot", 20_000, ("num_train_tasks=10", "updates_per_iteration=20")),
    "maml": ("Sinusoid-10s", 600, ()),
    "reptile": ("Sinusoid-10s", 300, ()),
    "ntm": ("Copy", 60, ()),
    "lstm": ("Copy", 100, ()),
    "protonet": ("Clinc150-5w1s", 200, ()),
    "matching": ("Clinc150-5w1s", 200, ()),
    "memory-network": ("Babi", 50, ()),
}
"""Tasks, length and changed settings of each training, which takes some ten seconds."""

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMES = ("start_time", "_num_timesteps_at_start", "ep_info_buffer", "_last_original_obs")
"""What tells of times, or of the process: not compared."""
TIME_COLUMNS = ("time/fps", "time/time_elapsed", "time/iterations_per_second")
MOMENTS = ("training", "writing a checkpoint", "at any time")
"""When the signals come."""
AFTER_END = "after the end"
STARTED = 1.5
"""Seconds after which the command runs; Python answers an INT while it starts by a traceback."""


@dataclass
class Args:
    """Settings of the run."""

    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Algorithms, by their names on the command line."""
    kills: int = 6
    """Number of signals that each training gets."""
    seed: int = 0
    """Seed of the moments; the trainings have seed 0."""


def command(algorithm: str, folder: Path, *more: str) -> list[str]:
    """The command of a training."""
    tasks, length, params = ALGORITHMS[algorithm]
    settings = ["--param", *params] if params else []
    return [
        *(sys.executable, "-m", "meta_rl", "train", algorithm, tasks, "--quiet", "--threads", "1"),
        *("--total-timesteps", str(length), "--checkpoint-interval", "0", "--eval-tasks", "8"),
        *("--out", str(folder), "--seed", "0", *settings, *more),
    ]


def run_whole(line: list[str]) -> float:
    """Runs a training to its end, and returns its seconds."""
    began = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True, text=True)
    return time.perf_counter() - began


def kill_once(line: list[str], folder: Path, sent: signal.Signals, when: str, wait: float) -> str:
    """Starts a training, sends a signal, and returns what was wrong then, if anything.

    Args:
        line: Command of the training.
        folder: Its run folder.
        sent: Signal to send.
        when: One of :data:`MOMENTS`.
        wait: Seconds from the first new checkpoint on, or from the start of the process on.
    """
    before = modified(folder)
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while when != "at any time" and process.poll() is None and modified(folder) == before:
        time.sleep(0.001)
    time.sleep(STARTED + wait if when == "at any time" else wait)
    writing = when == "writing a checkpoint"
    while writing and process.poll() is None and not list(folder.glob(".checkpoint.zip.*.part")):
        pass
    if process.poll() is not None:
        return AFTER_END
    process.send_signal(sent)
    _, errors = process.communicate()
    return f"traceback after {sent.name}: {errors}" if "Traceback" in errors else ""


def modified(folder: Path) -> int:
    """The time of the latest checkpoint, in nanoseconds; 0 where there is none."""
    try:
        return os.stat(folder / "checkpoint.zip").st_mtime_ns
    except FileNotFoundError:
        return 0


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the parts that differ, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            found
            for key in keys
            if key not in TIMES
            for found in differences(one.get(key), other.get(key), f"{name}.{key}".strip("."))
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{name}.{i}")]
    if isinstance(one, np.random.Generator) and isinstance(other, np.random.Generator):
        return differences(one.bit_generator.state, other.bit_generator.state, name)
    if isinstance(one, torch.Tensor | np.ndarray):
        a, b = np.asarray(one), np.asarray(other)
        return [] if a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) else [name]
    same = type(one) is type(other) and (one == other or repr(one) == repr(other))
    return [] if same else [name]


def log(folder: Path) -> list[dict[str, str]]:
    """The rows of a training's log, but for columns of time."""
    with (folder / "progress.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in rows]


def compared(one: Path, other: Path) -> list[str]:
    """What differs between two run folders."""
    first, second = (read_file(folder / "checkpoint.zip").content for folder in (one, other))
    found = differences(first, second)
    if log(one) != log(other):
        found.append("progress.csv")
    values = [json.loads((f / "evaluation.json").read_text())["values"] for f in (one, other)]
    return found + ([] if values[0] == values[1] else ["evaluation.json"])


def files(folder: Path) -> list[str]:
    """The names of a run folder's files and folders."""
    return sorted(path.name for path in folder.iterdir())


def disturbed(algorithm: str, kills: int, draw: random.Random, folder: Path) -> dict[str, Any]:
    """One row of the table: an undisturbed and a disturbed training of an algorithm.

    Nine signals have all pairs of signals and moments; fewer ones begin at a random pair.
    """
    shift = draw.randrange(9)
    seconds = run_whole(command(algorithm, folder / "undisturbed"))
    run, sendings, found = folder / "disturbed", [], []
    for i in range(kills):
        sent, when = SIGNALS[(i + shift) % 3], MOMENTS[(i + i // 3 + shift // 3) % 3]
        line = command(algorithm, run, *(["--resume"] if (run / "config.json").exists() else []))
        most = seconds if when == "at any time" else 0.6 * seconds / kills
        wrong = kill_once(line, run, sent, when, draw.uniform(0, most))
        if wrong != AFTER_END:
            sendings.append((sent.name, when))
            found += [wrong] if wrong else []
    run_whole(command(algorithm, run, "--resume"))
    found += compared(folder / "undisturbed", run)
    if files(folder / "undisturbed") != files(run):
        found.append(f"files: {files(folder / 'undisturbed')}, but {files(run)}")
    return {
        "algorithm": algorithm,
        "tasks": ALGORITHMS[algorithm][0],
        "signals": {one.name: sum(sent == one.name for sent, _ in sendings) for one in SIGNALS},
        "moments": {one: sum(when == one for _, when in sendings) for one in MOMENTS},
        "iterations": len(log(run)),
        "differences": found,
    }


def markdown(named: dict[str, dict[str, Any]]) -> str:
    """The page of all rows."""
    rows = [named[name] for name in ALGORITHMS if name in named]
    heads = ["algorithm", "tasks", "rows of the log", "KILL, TERM, INT"]
    heads += ["in training, in a write, at any time", "differences"]
    cells = [
        [
            row["algorithm"],
            row["tasks"],
            f"{row['iterations']}",
            ", ".join(str(number) for number in row["signals"].values()),
            ", ".join(str(number) for number in row["moments"].values()),
            "; ".join(row["differences"]) or "none",
        ]
        for row in rows
    ]
    total = sum(sum(row["signals"].values()) for row in rows)
    return page(
        "Killed and resumed trainings",
        f"{total} signals to trainings by `meta-rl train`, each of which was resumed. Compared bit "
        "for bit with an undisturbed training: parameters, optimisers, generators, `progress.csv` "
        "(but for columns of time) and the evaluation. Signals after the end are not counted.",
        table(heads, cells),
        "Made by `python -m benchmarks.kills`.",
    )


def main(args: Args) -> None:
    """Run all, and write the table after each algorithm."""
    for algorithm in args.algorithms:
        draw = random.Random(f"{args.seed} {algorithm}")
        with TemporaryDirectory() as folder:
            row = disturbed(algorithm, args.kills, draw, Path(folder))
        print(row, flush=True)
        add_to_table(RESULTS / "kills.json", {algorithm: row}, markdown)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
