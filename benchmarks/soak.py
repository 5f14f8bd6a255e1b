"""Memory, threads and open files of long trainings and evaluations.

Each agent trains in a process of its own, and the evaluator evaluates again and again. About once a
second, the process looks at its resident memory, threads and file descriptors. A quarter of the
time is warm-up. Of what follows, memory is judged by the slope over time (Theil and Sen's, with its
95 % interval), as a single difference says little; threads and descriptors must not change.

    python -m benchmarks.soak                           # 20 minutes each, in turn
    python -m benchmarks.soak --minutes 28 --at-once    # all at the same time, at low priority
    python -m benchmarks.soak --minutes 2 --subjects rl2 evaluator
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import tyro
from sb3_contrib import RecurrentPPO
from scipy.stats import theilslopes

import meta_rl
from benchmarks.result_files import RESULTS, add_to_table, notes, page, table
from meta_rl import few_shot
from meta_rl.algorithms import find_algorithm

OFF_POLICY = {
    **{"num_train_tasks": 10, "updates_per_iteration": 5, "tasks_per_update": 4},
    **{"initial_steps": 60, "prior_steps": 60, "posterior_steps": 0, "extra_steps": 60},
    **{"buffer_size": 10_000, "batch_size": 32},
    "policy_kwargs": {"hidden_sizes": (32, 32)},
}
GRADIENT = {"meta_batch_size": 4, "envs_per_task": 5}
ROBOTS = {**GRADIENT, "env_kwargs": {"horizon": 50}}
SEQUENCES = {"meta_batch_size": 16, "policy_kwargs": {"hidden_size": 32}}
SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rl2": ("BernoulliBandit", {"meta_batch_size": 16}),
    "varibad": ("GridNavigation", {"meta_batch_size": 8, "buffer_trials": 100}),
    "algorithm_distillation": ("DarkRoom", {**SEQUENCES, "source_name": "search"}),
    "dpt": ("BernoulliBandit", SEQUENCES),
    "ppo": ("PointRobot", {"meta_batch_size": 10}),
    "recurrent_ppo": ("BernoulliBandit", {"n_steps": 20, "batch_size": 80, "n_epochs": 2}),
    "maml_trpo": ("HalfCheetahVel", ROBOTS),
    "promp": ("PointRobot", GRADIENT),
    "pearl": ("PointRobot", OFF_POLICY),
    "multi_task_sac": ("PointRobot", OFF_POLICY),
    "oracle_sac": ("PointRobot", OFF_POLICY),
    "maml": ("Sinusoid", {"num_steps": 2, "meta_batch_size": 10}),
    "protonet": ("random images", {"meta_batch_size": 2}),
    "evaluator": ("HalfCheetahVel", ROBOTS),
    "few_shot_evaluator": ("Sinusoid", {"num_steps": 2}),
}
"""Tasks and changed settings of each subject. The evaluators evaluate MAML-TRPO and MAML, and
``recurrent_ppo`` is that of sb3-contrib on :func:`meta_rl.sb3_env`."""

FIRST = 5_000
"""Steps before the first sample of off-policy agents, which need some before their first update."""
LEAST_SAMPLES = 20
"""Least number of samples of a row; a subject that gets hardly any processor has fewer."""
WARM_UP = 0.25
FLAT = 0.01
"""Largest growth over the whole time after the warm-up, as a share of the memory."""


@dataclass
class Args:
    """Settings of the run."""

    subjects: tuple[str, ...] = tuple(SUBJECTS)
    """Names of agents, and "evaluator"."""
    minutes: float = 20.0
    """Time for each, with its warm-up."""
    at_once: bool = False
    """Measure all subjects at the same time, as processes of low priority."""
    nice: int = 10
    """Priority of these processes, 0 to 19; with too low a one they stand still beside others."""
    samples: Path | None = None
    """File for the samples of one subject, which is then measured in this process."""


def made(subject: str) -> tuple[Any, Callable[[], object]]:
    """A learner, and a function that trains it for one more iteration, or evaluates it again."""
    tasks, settings = SUBJECTS[subject]
    if subject in ("maml", "protonet", "few_shot_evaluator"):
        return made_few_shot(subject, settings)
    env = f"meta_rl/{tasks}-v0"
    if subject == "recurrent_ppo":
        view = meta_rl.sb3_env(env, 8, previous_step=True)
        recurrent = RecurrentPPO("MlpLstmPolicy", view, seed=0, device="cpu", **settings)
        return recurrent, lambda: recurrent.learn(1, reset_num_timesteps=False)
    kind: Any = find_algorithm("maml_trpo" if subject == "evaluator" else subject)
    model = kind(env=env, seed=0, device="cpu", **settings)
    if subject == "evaluator":
        horizon = settings["env_kwargs"]
        return model, lambda: meta_rl.evaluate_adaptation(model, env, 10, seed=0, **horizon)
    model.learn(FIRST if settings is OFF_POLICY else 1)
    return model, lambda: model.learn(1, reset_num_timesteps=False)


def made_few_shot(subject: str, settings: dict[str, Any]) -> tuple[Any, Callable[[], object]]:
    """The same for learners of few-shot tasks."""
    if subject == "protonet":
        images = np.random.default_rng(0).integers(0, 256, (200, 1, 28, 28), dtype=np.uint8)
        pool = few_shot.ClassPool(images, [10] * 20)
        tasks: Any = few_shot.ClassTasks(pool, 5, 1, 5)
        network = few_shot.conv4(hidden=8, generator=torch.Generator().manual_seed(0))
        learner: Any = few_shot.ProtoNet(network, seed=0, device="cpu", **settings)
    else:
        tasks = few_shot.Sinusoid(5)
        learner = few_shot.MAML(few_shot.sinusoid_mlp(), 0.01, seed=0, device="cpu", **settings)
    if subject == "few_shot_evaluator":
        return learner, lambda: meta_rl.evaluate_adaptation(learner, tasks, 50, seed=0)
    return learner, lambda: learner.learn(tasks, 1, reset_num_iterations=False)


def sample(began: float, done: int) -> dict[str, float]:
    """What the process has now (Linux only)."""
    time.sleep(0.01)  # a thread that was joined may still be leaving
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "seconds": time.monotonic() - began,
        "done": done,
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # that of the list
    }


def measure(subject: str, minutes: float) -> list[dict[str, float]]:
    """Works for so long, and gives the samples."""
    torch.set_num_threads(1)
    _, step = made(subject)
    samples: list[dict[str, float]] = []
    began, done = time.monotonic(), 0
    while time.monotonic() - began < 60 * minutes:
        step()
        done += 1
        if not samples or time.monotonic() - began - samples[-1]["seconds"] >= 1:
            samples.append(sample(began, done))
    return samples


def row(subject: str, samples: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of one subject, after the warm-up."""
    columns = {name: np.array([one[name] for one in samples]) for name in samples[0]}
    warm = columns["seconds"] >= WARM_UP * columns["seconds"][-1]
    seconds, memory = columns["seconds"][warm], columns["megabytes"][warm]
    span = seconds[-1] - seconds[0]
    slope, _, low, high = theilslopes(memory, seconds, 0.95)
    growth = [float(rate * span) for rate in (slope, low, high)]
    ranges = {
        name: [int(columns[name][warm].min()), int(columns[name][warm].max())]
        for name in ("threads", "descriptors")
    }
    return {
        "tasks": SUBJECTS[subject][0],
        "minutes": round(float(columns["seconds"][-1]) / 60, 2),
        "samples": int(warm.sum()),
        "done": [int(columns["done"][warm][0]), int(columns["done"][-1])],
        "megabytes": [float(memory[0]), float(memory[-1])],
        "growth_megabytes": growth,
        **ranges,
        "flat": bool(growth[0] <= FLAT * memory[0] and all(a == b for a, b in ranges.values())),
    }


def markdown(rows: dict[str, Any]) -> str:
    """The page of all rows."""
    heads = ["subject", "tasks", "minutes", "iterations after the warm-up", "memory, MB"]
    heads += ["growth by the slope, MB (95 % interval)", "threads", "open files", "flat"]
    cells = [
        [
            name,
            one["tasks"],
            f"{one['minutes']:.1f}",
            f"{one['done'][1] - one['done'][0]:,}",
            " to ".join(f"{value:.1f}" for value in one["megabytes"]),
            "{:.2f} ({:.2f} to {:.2f})".format(*one["growth_megabytes"]),
            " to ".join(str(value) for value in sorted(set(one["threads"]))),
            " to ".join(str(value) for value in sorted(set(one["descriptors"]))),
            "yes" if one["flat"] else "**no**",
        ]
        for name, one in ((name, rows[name]) for name in SUBJECTS if name in rows)
    ]
    return page(
        "Memory, threads and open files over time",
        "Each agent or learner trains in a process of its own; the evaluators evaluate MAML-TRPO "
        "and MAML. "
        f"The first {WARM_UP:.0%} of the time is warm-up. The growth is that of the whole time "
        "after it, by Theil and Sen's slope. Flat: it is at most "
        f"{FLAT:.0%} of the memory, and threads and open files do not change.",
        table(heads, cells),
        notes(RESULTS / "soak.json"),
        "Made by `python -m benchmarks.soak`.",
    )


def start(subject: str, minutes: float, file: Path) -> subprocess.Popen[bytes]:
    """Starts the process that measures a subject."""
    words = ["--subjects", subject, "--minutes", str(minutes), "--samples", str(file)]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.soak", *words])


def main(args: Args) -> None:
    """Measure each subject in a process of its own, and write the table after each."""
    if args.samples is not None:
        args.samples.write_text(json.dumps(measure(args.subjects[0], args.minutes)))
        return
    groups = [args.subjects] if args.at_once else [(one,) for one in args.subjects]
    if args.at_once:
        os.nice(args.nice)
    for group in groups:
        with TemporaryDirectory() as folder:
            files = {subject: Path(folder, subject) for subject in group}
            started = [start(subject, args.minutes, file) for subject, file in files.items()]
            ended = dict(zip(files, [one.wait() for one in started], strict=True))
            samples = {s: json.loads(files[s].read_text()) for s, code in ended.items() if not code}
        found = {s: row(s, one) for s, one in samples.items() if len(one) >= LEAST_SAMPLES}
        for subject, one in found.items():
            print(subject, one, flush=True)
        add_to_table(RESULTS / "soak.json", found, markdown)
        if len(found) < len(group):
            missing = ", ".join(subject for subject in group if subject not in found)
            raise SystemExit(f"failed, or too few samples in this time: {missing}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
