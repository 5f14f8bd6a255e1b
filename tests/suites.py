"""A suite's folder for tests, written without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from meta_rl import EvaluationResult

TABLE = """
title = "Small"
about = "A suite <for> tests."
seeds = 2

[[cells]]
learner = "rl2"
tasks = "BernoulliBandit"
budget = 96
minutes = 0.1
num_tasks = 8
settings = { meta_batch_size = 4, num_minibatches = 2, num_epochs = 1, policy = { hidden_size = 4 }, env = { num_arms = 2, horizon = 3 } }
paper = { score = 2.5, source = "a paper" }
"""  # noqa: E501

CONFIG = {
    "env_id": "meta_rl/PointNavigation-v0",
    "env_kwargs": {},
    "algorithm_kwargs": {"inner_lr": 0.4},
    "total_timesteps": 1000,
}
ROW: dict[str, Any] = {
    "tasks": "PointNavigation",
    "label": None,
    "settings": {},
    "num_tasks": None,
    "num_episodes": None,
    "score": None,
    "paper": None,
    "cores": 2,
}


def evaluation(values: Any, split: str = "test") -> dict[str, Any]:
    """A saved evaluation with these values ``[tasks, episodes]``."""
    result = EvaluationResult(
        values=np.array(values, dtype=np.float64),
        unit="episode",
        learner="L",
        environment="PointNavigation",
        split=split,
        seed=0,
        envs_per_task=1,
        deterministic=False,
        listed=True,
    )
    content: dict[str, Any] = json.loads(result.to_json())
    return content


def result(learner: str, seed: int, last: float, **changed: Any) -> dict[str, Any]:
    """A result of a cell: three tasks with the returns ``last`` - 1, ``last`` and ``last`` + 1."""
    values = [[0.0, last + shift] for shift in (-1.0, 0.0, 1.0)]
    content = {
        "kind": "cell",
        "name": f"{learner}-PointNavigation-seed{seed}",
        "identity": {"settings": "s", "code": "c", "versions": {}},
        "row": {**ROW, "learner": learner},
        "seed": seed,
        "command": f"meta-rl train {learner} PointNavigation --seed {seed}",
        "config": CONFIG,
        "code": {"commit": "0123456789abcdef", "digest": "c"},
        "processor": "a processor",
        "steps": 1000,
        "train_seconds": 120.0,
        "evaluation_seconds": 60.0,
        "learning_curve": {
            "unit": "environment steps",
            "measure": "return of a trial",
            "steps": [100.0, 500.0, 1000.0],
            "seconds": [12.0, 60.0, 120.0],
            "scores": [0.0, last / 2, last],
        },
        "checkpoint_sha256": "f" * 64,
        "evaluations": {"test": evaluation(values), "ood": evaluation([[0.0, 1.0]], "ood")},
    }
    return {**content, **changed}


def write_folder(folder: Path, results: list[dict[str, Any]], **suite: Any) -> Path:
    """Writes a suite's folder with results and a reference: random earns 0, the best 10."""
    from meta_rl.cli.suites.jobs import tasks_key

    for part in ("results", "references"):
        (folder / part).mkdir(parents=True)
    for one in results:
        (folder / "results" / f"{one['name']}.json").write_text(json.dumps(one), encoding="utf-8")
    reference = {
        "name": "reference",
        "identity": {},
        "tasks": tasks_key(CONFIG, ROW),
        "random": 0.0,
        "best": evaluation([[0.0, 10.0]]),
        "about": "oracle",
        "exact": True,
    }
    file = folder / "references" / "reference.json"
    file.write_text(json.dumps(reference), encoding="utf-8")
    names = [one["name"] for one in results]
    plan = {"title": "Small", "about": "", "rows": [], "jobs": names, "failed": {}}
    (folder / "suite.json").write_text(json.dumps({**plan, **suite}), encoding="utf-8")
    return folder
