"""The main job, in minutes: RL² learns to explore, and is compared on bandits it has never seen.

Meta-trains RL² on 10-armed Bernoulli bandits with 10 pulls, evaluates it and the classical
algorithms on 1,000 held-out bandits, prints a table and saves a plot.

    python benchmarks/demo.py
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import meta_rl
from meta_rl.agents.bandits import bandit_learners
from meta_rl.agents.rl2 import RL2
from meta_rl.cli import Train, train
from meta_rl.cli.run_folder import RunFolder
from meta_rl.evaluation import EvaluationResult

TASKS = "meta_rl/BernoulliBandit-v0"
CLASSICAL = ("random", "epsilon-greedy", "ucb1", "thompson", "gittins")
PAPER = {
    "random": 5.0, "epsilon-greedy": 6.6, "ucb1": 6.7, "thompson": 5.5, "gittins": 6.6, "RL²": 6.7,
}  # fmt: skip


@dataclass
class Args:
    """Settings of the demo."""

    seed: int = 0
    """Seed of the training and of the evaluation."""
    total_timesteps: int = 5_000_000
    """Number of pulls in meta-training."""
    num_tasks: int = 1000
    """Number of held-out bandits."""
    out: Path = Path("runs/demo")
    """Run folder, replaced by each demo."""


def main(args: Args) -> None:
    """Trains RL², evaluates it, and compares it with the classical algorithms."""
    began = time.monotonic()
    folder = meta_train(args)
    model = RL2.load(folder.checkpoint)
    rng = np.random.default_rng(args.seed)
    learners = bandit_learners(num_arms=10, horizon=10, rng=rng)
    results = {name: evaluate(learners[name], args) for name in CLASSICAL}
    results["RL²"] = evaluate(model, args)
    print_table(results)
    picture = draw(results, folder.path / "demo.png")
    print(f"plot: {picture}\nrun folder: {folder.path}\ntook {time.monotonic() - began:.0f} s")


def meta_train(args: Args) -> RunFolder:
    """Trains by the same code as ``meta-rl train rl2 BernoulliBandit``."""
    RunFolder(args.out).config_file.unlink(missing_ok=True)
    return train(
        Train(
            algo="rl2",
            tasks="BernoulliBandit",
            total_timesteps=args.total_timesteps,
            seed=args.seed,
            out=args.out,
            eval_tasks=0,
        )
    )


def evaluate(learner: object, args: Args) -> EvaluationResult:
    """Evaluates a learner on held-out bandits, which are the same for every learner."""
    return meta_rl.evaluate_adaptation(learner, TASKS, args.num_tasks, seed=args.seed)


def print_table(results: dict[str, EvaluationResult]) -> None:
    """Mean total reward with its 95 % interval, best last."""
    title = "Total reward of 10 pulls of 10 arms, held-out Bernoulli bandits"
    table = Table(title=title, caption="Intervals are over tasks of one training.")
    for column in ("learner", "mean", "95 % interval", "paper"):
        table.add_column(column, justify="left" if column == "learner" else "right")
    for name, result in sorted(results.items(), key=lambda item: item[1].total.mean()):
        summary = result.summary()
        low, high = summary["total_mean_interval"]
        table.add_row(
            name, f"{summary['total_mean']:.2f}", f"{low:.2f} to {high:.2f}", f"{PAPER[name]:.1f}"
        )
    Console().print(table)


def draw(results: dict[str, EvaluationResult], path: Path) -> Path:
    """Reward of every pull, for all learners."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    ax = figure.add_subplot()
    for name, result in results.items():
        result.plot(ax, label=name)
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
