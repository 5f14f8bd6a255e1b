"""RL² beside a Bayes-optimal policy or an agent that is told the task, episode by episode.

Trains with the shipped settings and evaluates on held-out tasks. GridNavigation (VariBAD's
GridNavi) has an exact Bayes-optimal policy, which has to find the goal like RL² does; for robots,
PPO of Stable-Baselines3 is told the task, which need not be an upper bound. The training keeps its
checkpoint in the run folder: the same command goes on where it was cut off, and a larger
``--timesteps`` continues it.

    python benchmarks/rl2_adaptation.py GridNavigation --envs-per-task 48
    python benchmarks/rl2_adaptation.py HalfCheetahVel --envs-per-task 20
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from ppo_oracle import told_name, told_note, trained_oracle
from result_files import (
    REPEATED,
    RESULTS,
    marked,
    page,
    repeated_note,
    resumed_training,
    table,
)
from result_files import write as write_result

from meta_rl.agents.grid_search import BayesOptimalSearch
from meta_rl.agents.rl2 import RL2
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation

EXACT = {"GridNavigation": BayesOptimalSearch}


@dataclass
class Args:
    """Settings of the run."""

    tasks: Annotated[str, tyro.conf.Positional]
    """Name of a setting of rl2 that is named like its environment."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings; the evaluation has seed 1000."""
    timesteps: int | None = None
    """Number of environment steps of RL² (default: the setting's)."""
    oracle_timesteps: int = 3_000_000
    """Number of environment steps of the agent that is told a robot's task."""
    envs_per_task: int = 1
    """Number of sub-environments of each test task."""
    runs: Path = Path("runs/rl2_adaptation")
    """Folder of the run folders."""
    out: Path = RESULTS
    """Folder of rl2_TASKS.json, .md and .png."""
    threads: int = 1
    """Number of PyTorch CPU threads; MuJoCo takes all cores of the process."""


def evaluated(learner: Any, args: Args) -> EvaluationResult:
    """Evaluates on all test tasks."""
    return evaluate_adaptation(learner, args.tasks, seed=1000, envs_per_task=args.envs_per_task)


def best_known(args: Args) -> tuple[str, EvaluationResult, str]:
    """The name, the returns and the description of what RL² is compared with."""
    if args.tasks in EXACT:
        return "Bayes-optimal", evaluated(EXACT[args.tasks](), args), "exact search"
    file = args.runs / f"{args.tasks}-oracle-seed0.zip"
    agent, timesteps, _ = trained_oracle(args.tasks, file, args.oracle_timesteps)
    result = evaluated(agent, args)
    name = told_name(args.tasks, result.values.mean())
    return name, result, f"PPO, {timesteps / 1e6:.0f} M steps"


def as_row(name: str, result: EvaluationResult, about: str) -> dict[str, Any]:
    """Mean return of every episode, and its standard error over the tasks."""
    errors = result.values.std(axis=0, ddof=1) / np.sqrt(result.num_tasks)
    return {
        "learner": name,
        "mean": result.values.mean(axis=0).tolist(),
        "standard_error": errors.tolist(),
        "training": about,
        "num_tasks": result.num_tasks,
        "envs_per_task": result.envs_per_task,
    }


def main(args: Args) -> None:
    """Trains, evaluates, and writes the table and the picture."""
    torch.set_num_threads(args.threads)
    name, best, about = best_known(args)
    rows = [as_row(name, best, about)]
    for seed in args.seeds:
        out = args.runs / f"{args.tasks}-seed{seed}"
        folder = resumed_training("rl2", args.tasks, seed, out, args.timesteps)
        model = RL2.load(folder.checkpoint)
        result = evaluated(model, args)
        about = f"{model.num_timesteps / 1e6:.0f} M steps, {folder.train_seconds() / 60:.0f} min"
        rows.append(as_row(f"RL², seed {seed}", result, about))
    write(args.tasks, args.seeds, rows, args.out)


def write(tasks: str, seeds: tuple[int, ...], rows: list[dict[str, Any]], out: Path) -> None:
    """Writes the table, its numbers and the picture."""
    text = as_markdown(tasks, seeds, rows)
    print(text)
    write_result(out / f"rl2_{tasks}.json", {"rows": rows}, text)
    plot(tasks, rows, out / f"rl2_{tasks}.png")


def counts(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Tasks that were counted, and distinct ones among them: fewer in older results."""
    counted = rows[0]["num_tasks"]
    return counted, rows[0].get("distinct_tasks", counted)


def plot(tasks: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Mean return of every episode, with a band of one standard error over the tasks."""
    counted, distinct = counts(rows)
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot()
    for row in rows:
        mean, error = np.array(row["mean"]), np.array(row["standard_error"])
        at = np.arange(len(mean))
        ax.plot(at, mean, ".-", label=row["learner"])
        ax.fill_between(at, mean - error, mean + error, alpha=0.2, linewidth=0)
    ax.set(xlabel="episodes of adaptation", ylabel="mean return ± standard error", xticks=at)
    ax.set_title(marked(f"{tasks}, {distinct:,} test tasks", counted, distinct))
    if distinct < counted:
        ax.set_xlabel(f"episodes of adaptation\n{REPEATED} errors are too small")
    ax.legend()
    figure.savefig(path, dpi=120)


def as_markdown(tasks: str, seeds: tuple[int, ...], rows: list[dict[str, Any]]) -> str:
    """The committed page. The first row is what RL² is compared with."""
    best, *others = rows
    counted, distinct = counts(rows)
    envs_per_task = best["envs_per_task"]
    command = f"python benchmarks/rl2_adaptation.py {tasks} --seeds {' '.join(map(str, seeds))}"
    command += f" --envs-per-task {envs_per_task}" if envs_per_task > 1 else ""
    each = f", {envs_per_task} sub-environments each" if envs_per_task > 1 else ""
    lines = []
    for row in rows:
        cells = [
            f"{mean:.2f} ± {error:.2f}"
            for mean, error in zip(row["mean"], row["standard_error"], strict=True)
        ]
        name = marked(row["learner"], counted, distinct)
        lines.append([name, *cells, f"{np.sum(row['mean']):.2f}", row["training"]])
    shares = ""
    if min(best["mean"]) > 0:
        parts = np.mean([row["mean"] for row in others], axis=0) / best["mean"]
        shares = (
            f"RL²'s part of the {best['learner']} return, by episode: "
            f"{', '.join(f'{part:.1%}' for part in parts)}."
        )
    episodes = [f"episode {i + 1}" for i in range(len(best["mean"]))]
    return page(
        f"RL² on {tasks}",
        f"`{command}`:\nmean return of each episode on {distinct:,} test tasks{each}, ± standard "
        "error over the tasks of one training; shipped settings.",
        table(["learner", *episodes, "trial", "training"], lines),
        repeated_note(counted, distinct),
        "" if tasks in EXACT else told_note(tasks, np.mean(best["mean"])),
        shares,
    )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
