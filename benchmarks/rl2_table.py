"""RL² beside the numbers of its paper (Duan et al., 2016, tables 1 and 2).

Trains with the shipped settings and evaluates on fresh tasks that training never met, on the
held-out test list, and, for bandits, beside the Gittins index on the same tasks. Trainings keep
checkpoints in their run folders: run the same command again and a training that was cut off goes
on, one that is finished is only evaluated. Each setting's result is written as soon as it is there.

    python benchmarks/rl2_table.py
    python benchmarks/rl2_table.py --settings BernoulliBandit-n100-k10 --seed 1
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, add_row, page, papers, resumed_training, table

from meta_rl.agents.bandits import bandit_learners
from meta_rl.agents.rl2 import RL2
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.files import write_atomically

SETTINGS: dict[str, tuple[str, str, float]] = {  # the paper's table, its column, least of ours
    "BernoulliBandit-n10-k5": ("RL² bandits", "10 pulls, 5 arms", 6.6),
    "BernoulliBandit": ("RL² bandits", "10 pulls, 10 arms", 6.6),
    "BernoulliBandit-n10-k50": ("RL² bandits", "10 pulls, 50 arms", 6.6),
    "BernoulliBandit-n100-k5": ("RL² bandits", "100 pulls, 5 arms", 78.0),
    "BernoulliBandit-n100-k10": ("RL² bandits", "100 pulls, 10 arms", 82.5),
    "TabularMDP": ("RL² tabular MDPs", "10 episodes", 155.0),
}


@dataclass
class Args:
    """Settings of the run."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """Names of shipped settings."""
    seed: int = 0
    """Seed of the training; the evaluation has seed 1000."""
    runs: Path = Path("runs/rl2_table")
    """Folder of the run folders."""
    out: Path = RESULTS
    """Folder of rl2_table.json and rl2_table.md."""
    fresh_tasks: int = 10_000
    """Number of fresh tasks of the evaluation."""
    threads: int = 1
    """Number of PyTorch CPU threads."""


def train_and_evaluate(name: str, args: Args) -> dict[str, Any]:
    """A row of the table."""
    folder = resumed_training("rl2", name, args.seed, args.runs / f"{name}-seed{args.seed}")
    config = folder.config()
    model = RL2.load(folder.checkpoint)

    def evaluated(learner: Any, split: str, num_tasks: int) -> dict[str, float]:
        result = evaluate_adaptation(
            learner, config.env_id, num_tasks, seed=1000, split=split, **config.env_kwargs
        )
        return summarised(result)

    row: dict[str, Any] = {
        "setting": name,
        "seed": args.seed,
        "total_timesteps": model.num_timesteps,
        "train_seconds": folder.train_seconds(),
        "fresh": evaluated(model, "train", args.fresh_tasks),
        "test": evaluated(model, "test", 1000),
        "config": asdict(config),
    }
    if "Bandit" in name:
        sizes = {"num_arms": 10, "horizon": 10, **config.env_kwargs}
        gittins = bandit_learners(**sizes, rng=np.random.default_rng(0))["gittins"]
        row["gittins_fresh"] = evaluated(gittins, "train", args.fresh_tasks)
        row["gittins_test"] = evaluated(gittins, "test", 1000)
    return row


def summarised(result: EvaluationResult) -> dict[str, float]:
    """Mean of the trial's total with its standard error."""
    total = result.total
    return {
        "mean": float(total.mean()),
        "standard_error": float(total.std(ddof=1) / np.sqrt(len(total))),
        "num_tasks": len(total),
    }


def of_paper(setting: str) -> float:
    """The paper's number of RL² for a setting."""
    name, column, _ = SETTINGS[setting]
    paper = papers(name)
    return paper["rows"]["RL²"][paper["columns"].index(column)]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The committed page."""

    def cell(figures: dict[str, float] | None) -> str:
        return "" if figures is None else f"{figures['mean']:.2f} ± {figures['standard_error']:.2f}"

    lines = []
    for row in sorted(rows, key=lambda r: (list(SETTINGS).index(r["setting"]), r["seed"])):
        *_, least = SETTINGS[row["setting"]]
        lines.append(
            [
                row["setting"],
                f"{row['seed']}",
                cell(row["fresh"]),
                cell(row.get("gittins_fresh")),
                cell(row["test"]),
                cell(row.get("gittins_test")),
                f"{of_paper(row['setting'])}",
                f"{least}",
                "yes" if row["fresh"]["mean"] >= least else "**no**",
                f"{row['total_timesteps'] / 1e6:.1f} M",
                f"{row['train_seconds'] / 60:.0f} min",
            ]
        )
    heads = ["setting", "seed", "RL², fresh", "Gittins, fresh", "RL², test", "Gittins, test"]
    return page(
        "RL² on bandits and tabular MDPs",
        [
            "`python benchmarks/rl2_table.py`, shipped settings; mean total reward of a trial ±",
            "standard error. *Fresh*: 10,000 tasks of the training distribution, drawn for the",
            "evaluation; *test*: the 1,000 held-out tasks. Gittins: on the same tasks. Each "
            "training",
            "ran on one core.",
        ],
        table([*heads, "RL² in the paper", "at least", "holds", "steps", "wall time"], lines),
    )


def main(args: Args) -> None:
    """Fills the table, setting by setting."""
    torch.set_num_threads(args.threads)
    file = args.out / "rl2_table.json"
    for name in args.settings:
        if name not in SETTINGS:
            raise SystemExit(f"unknown setting {name!r}: {', '.join(SETTINGS)} exist")
        row = train_and_evaluate(name, args)
        rows = add_row(file, row, "setting", list(SETTINGS))
        write_atomically(file.with_suffix(".md"), as_markdown(rows))
        print(f"{name}: {row['fresh']} (fresh), {row['test']} (test)", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
