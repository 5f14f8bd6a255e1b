"""RL² beside the best that is possible, episode by episode on held-out tasks.

Trains with the shipped settings. GridNavigation (VariBAD's GridNavi) has an exact Bayes-optimal
policy, which has to find the goal like RL² does; robots have an oracle that sees the task, PPO of
Stable-Baselines3. The training keeps its checkpoint in the run folder: the same command goes on
where it was cut off, and a larger ``--timesteps`` continues it.

    python benchmarks/rl2_adaptation.py GridNavigation
    python benchmarks/rl2_adaptation.py HalfCheetahVel --num-tasks 40 --envs-per-task 20
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from ppo_oracle import trained_oracle
from resumed_training import resumed_training

from meta_rl.agents.grid_search import BayesOptimalSearch
from meta_rl.agents.rl2 import RL2
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.provenance import package_versions, versions_text, write_atomically

EXACT = {"GridNavigation": BayesOptimalSearch}


@dataclass
class Args:
    """Settings of the run."""

    tasks: Annotated[str, tyro.conf.Positional]
    """A setting of rl2 that is named like its environment."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings; the evaluation has seed 1000."""
    timesteps: int | None = None
    """Environment steps of RL²; the shipped number by default."""
    oracle_timesteps: int = 3_000_000
    """Environment steps of the oracle of a robot."""
    num_tasks: int = 1000
    """Test tasks of the evaluation; a shorter list is gone through again and again."""
    envs_per_task: int = 1
    """Sub-environments of each."""
    runs: Path = Path("runs/rl2_adaptation")
    """Folder of the run folders."""
    out: Path = Path(__file__).parent / "results"
    """Folder of rl2_TASKS.json, .md and .png."""
    threads: int = 1
    """Of torch; MuJoCo takes all cores of the process."""


def evaluated(learner: Any, args: Args) -> EvaluationResult:
    """On the test tasks."""
    return evaluate_adaptation(
        learner, args.tasks, args.num_tasks, seed=1000, envs_per_task=args.envs_per_task
    )


def best_possible(args: Args) -> tuple[str, EvaluationResult, str]:
    """Its name, its returns, and what it is."""
    if args.tasks in EXACT:
        return "Bayes-optimal", evaluated(EXACT[args.tasks](), args), "exact search"
    file = args.runs / f"{args.tasks}-oracle-seed0.zip"
    oracle, timesteps, _ = trained_oracle(args.tasks, file, args.oracle_timesteps)
    about = f"PPO, {timesteps / 1e6:.0f} M steps"
    return "oracle, sees the task", evaluated(oracle, args), about


def row(name: str, result: EvaluationResult, about: str) -> str:
    """A row of the table: mean return of every episode ± standard error over the tasks."""
    errors = result.values.std(axis=0, ddof=1) / np.sqrt(result.num_tasks)
    cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(result.values.mean(axis=0), errors, strict=True)]
    return f"| {name} | {' | '.join(cells)} | {result.total.mean():.2f} | {about} |"


def main(args: Args) -> None:
    """Train, evaluate, and write the table and the picture."""
    torch.set_num_threads(args.threads)
    name, best, about = best_possible(args)
    rows, results = [row(name, best, about)], {"best": best.values.mean(axis=0).tolist()}
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = best.plot(figure.add_subplot(), label=name)
    for seed in args.seeds:
        out = args.runs / f"{args.tasks}-seed{seed}"
        folder = resumed_training("rl2", args.tasks, seed, out, args.timesteps)
        model = RL2.load(folder.checkpoint)
        result = evaluated(model, args)
        about = f"{model.num_timesteps / 1e6:.0f} M steps, {folder.train_seconds() / 60:.0f} min"
        rows.append(row(f"RL², seed {seed}", result, about))
        results[f"rl2_seed{seed}"] = result.values.mean(axis=0).tolist()
        result.plot(ax, label=f"RL², seed {seed}")
    write(args, rows, results)
    figure.savefig(args.out / f"rl2_{args.tasks}.png", dpi=120)


def write(args: Args, rows: list[str], results: dict[str, list[float]]) -> None:
    """The table and its numbers."""
    episodes = range(1, len(results["best"]) + 1)
    values = [part for name, part in results.items() if name != "best"]
    parts = np.mean(values, axis=0) / results["best"]
    share = f"RL²'s part of the best return, by episode: {', '.join(f'{p:.1%}' for p in parts)}."
    seeds = " ".join(map(str, args.seeds))
    command = f"python benchmarks/rl2_adaptation.py {args.tasks} --seeds {seeds}"
    command += f" --num-tasks {args.num_tasks} --envs-per-task {args.envs_per_task}"
    table = "\n".join(
        [
            f"# RL² on {args.tasks}",
            "",
            f"`{command}`:",
            f"mean return of each episode on {args.num_tasks:,} test tasks, {args.envs_per_task} "
            "sub-environments each, ± standard error over the tasks of one training; shipped "
            "settings.",
            "",
            f"| learner | {' | '.join(f'episode {i}' for i in episodes)} | trial | training |",
            "|---" * (len(episodes) + 3) + "|",
            *rows,
            "",
            *([share, ""] if min(results["best"]) > 0 else []),
            f"{versions_text()}.",
            "",
        ]
    )
    print(table)
    content = {"results": results, "versions": package_versions()}
    write_atomically(args.out / f"rl2_{args.tasks}.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / f"rl2_{args.tasks}.md", table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
