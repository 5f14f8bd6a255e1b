"""RL² on GridNavigation (VariBAD's GridNavi) beside the exact Bayes-optimal policy.

Trains with the shipped settings and evaluates on held-out tasks, episode by episode. The training
keeps its checkpoint in the run folder: the same command goes on where it was cut off.

    python benchmarks/rl2_grid_navigation.py --seeds 0
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from meta_rl.agents.grid_search import BayesOptimalSearch
from meta_rl.agents.rl2 import RL2
from meta_rl.cli import Train, train
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.provenance import package_versions, write_atomically

TASKS = "GridNavigation"


@dataclass
class Args:
    """Settings of the run."""

    seeds: tuple[int, ...] = (0,)
    """Of the trainings; the evaluation has seed 1000."""
    num_tasks: int = 1000
    """Test tasks of the evaluation: the 21 goals, again and again."""
    runs: Path = Path("runs/rl2_grid_navigation")
    """Folder of the run folders."""
    out: Path = Path(__file__).parent / "results"
    """Folder of rl2_grid_navigation.json, .md and .png."""
    threads: int = 1
    """Of torch."""


def evaluated(learner: Any, args: Args) -> EvaluationResult:
    """On the test tasks."""
    return evaluate_adaptation(learner, TASKS, args.num_tasks, seed=1000)


def row(name: str, result: EvaluationResult, about: str) -> str:
    """A row of the table: mean return of every episode ± standard error."""
    errors = result.values.std(axis=0, ddof=1) / np.sqrt(result.num_tasks)
    cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(result.values.mean(axis=0), errors, strict=True)]
    return f"| {name} | {' | '.join(cells)} | {result.total.mean():.2f} | {about} |"


def main(args: Args) -> None:
    """Train, evaluate, and write the table and the picture."""
    torch.set_num_threads(args.threads)
    optimum = evaluated(BayesOptimalSearch(), args)
    rows = [row("Bayes-optimal", optimum, "exact search")]
    results: dict[str, Any] = {"bayes_optimal": optimum.values.mean(axis=0).tolist()}
    ax = optimum.plot(Figure(figsize=(6, 4), layout="constrained").add_subplot(), label="optimal")
    for seed in args.seeds:
        began = time.monotonic()
        path = args.runs / f"{TASKS}-seed{seed}"
        folder = train(
            Train(
                algo="rl2", tasks=TASKS, seed=seed, out=path, resume=True, eval_tasks=0, quiet=True
            )
        )
        minutes = (time.monotonic() - began) / 60
        model = RL2.load(folder.checkpoint)
        result = evaluated(model, args)
        elapsed = max(folder.learning_curve()["time/time_elapsed"]) / 60
        about = f"{model.num_timesteps / 1e6:.0f} M steps, {max(minutes, elapsed):.0f} min"
        rows.append(row(f"RL², seed {seed}", result, about))
        results[f"rl2_seed{seed}"] = result.values.mean(axis=0).tolist()
        result.plot(ax, label=f"RL², seed {seed}")
    third = np.mean([v[2] for name, v in results.items() if name != "bayes_optimal"])
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    table = "\n".join(
        [
            "# RL² on GridNavigation",
            "",
            f"`python benchmarks/rl2_grid_navigation.py --seeds {' '.join(map(str, args.seeds))}`:",
            f"mean return of each of four episodes on {args.num_tasks:,} test tasks ± standard",
            "error; shipped settings, one core.",
            "",
            "| learner | episode 1 | episode 2 | episode 3 | episode 4 | trial | training |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Third episode: {third / optimum.values[:, 2].mean():.1%} of the optimal return.",
            "",
            f"{versions}.",
            "",
        ]
    )
    print(table)
    content = {"results": results, "versions": package_versions()}
    write_atomically(args.out / "rl2_grid_navigation.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / "rl2_grid_navigation.md", table)
    ax.figure.savefig(args.out / "rl2_grid_navigation.png", dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
