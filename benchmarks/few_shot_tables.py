"""Few-shot learners beside the numbers of their papers.

Trains with the shipped settings and evaluates on held-out tasks. Trainings keep checkpoints in
their run folders: run the same command again and a training that was cut off, or stopped by
``--max-minutes``, goes on; one that is finished is only evaluated. Each result is written as soon
as it is there, beside those of earlier calls.

    python benchmarks/few_shot_tables.py --list
    python benchmarks/few_shot_tables.py --settings maml/Sinusoid-10s protonet/Omniglot-5w1s
    python benchmarks/few_shot_tables.py --settings siamese/Omniglot-20w1s-lake --max-minutes 90
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, add_to_table, page, papers, read, table, with_interval

from meta_rl.cli import Train, run_config
from meta_rl.cli.run_folder import RunConfig, RunFolder
from meta_rl.cli.training import make_model, open_tasks, train_into
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.few_shot import lake_runs
from meta_rl.few_shot.evaluation import out_of_scope_auroc
from meta_rl.provenance import git_commit, write_atomically

PAPER: dict[str, str] = papers("few-shot")["rows"]
WANTED: dict[str, str] = {  # settings of the table, and what is demanded of each
    "maml/Sinusoid-10s": "< 0.8 after 1 step",
    "reptile/Sinusoid-10s": "",
    "finetune/Sinusoid-10s": "",
    "scratch/Sinusoid-10s": "",
    "maml/Omniglot-5w1s": "≥ 98.0",
    "maml/Omniglot-5w5s": "≥ 99.3",
    "maml/Omniglot-5w1s-mlp": "≥ 89",
    "maml/Omniglot-20w1s": "",
    "reptile/Omniglot-5w1s": "≥ 95",
    "reptile/Omniglot-5w5s": "≥ 98.5",
    "reptile/Omniglot-5w1s-transductive": "≥ 97.5",
    "reptile/Omniglot-5w5s-transductive": "≥ 99.3",
    "reptile/Omniglot-5w1s-random": "≥ 95",
    "reptile/Omniglot-5w5s-random": "≥ 98.5",
    "reptile/Omniglot-5w1s-random-transductive": "≥ 97.5",
    "reptile/Omniglot-5w5s-random-transductive": "≥ 99.3",
    "protonet/Omniglot-5w1s": "≥ 98.5",
    "protonet/Omniglot-5w5s": "≥ 99.5",
    "protonet/Omniglot-20w1s": "≥ 95",
    "protonet/Omniglot-20w5s": "",
    "ridge/Omniglot-5w1s": "≥ 98.6",
    "ridge/Omniglot-5w5s": "",
    "ridge/Omniglot-20w1s": "≥ 94.7",
    "ridge/Omniglot-20w5s": "",
    "matching/Omniglot-5w1s": "≥ 97.8",
    "matching/Omniglot-5w1s-fce": "",
    "matching/Omniglot-5w5s": "≥ 98.7",
    "siamese/Omniglot-20w1s-lake": "≥ 90",
    "siamese/Omniglot-20w1s-koch": "≥ 90",
    "finetune/Omniglot-5w1s": "",
    "finetune/Omniglot-5w5s": "",
    "scratch/Omniglot-5w1s": "",
    "scratch/Omniglot-5w5s": "",
    "nearest/Omniglot-5w1s": "",
    "nearest/Omniglot-5w5s": "",
    **{
        f"{learner}/Clinc150-5w{shots}s": ""
        for shots in (1, 5)
        for learner in ("protonet", "matching", "maml", "finetune", "scratch", "nearest")
    },
}
# Evaluated with the weights of another setting, whose training is the same one.
SAME_TRAINING = {
    **{
        f"{learner}/Omniglot-{size}": f"{learner}/Omniglot-5w1s"
        for learner in ("protonet", "ridge")
        for size in ("5w5s", "20w1s", "20w5s")
    },
    "maml/Omniglot-5w5s": "maml/Omniglot-5w1s",
    "matching/Omniglot-5w5s": "matching/Omniglot-5w1s",
    "reptile/Omniglot-5w5s": "reptile/Omniglot-5w1s",
    "reptile/Omniglot-5w1s-transductive": "reptile/Omniglot-5w1s",
    "reptile/Omniglot-5w5s-transductive": "reptile/Omniglot-5w1s",
    "reptile/Omniglot-5w5s-random": "reptile/Omniglot-5w1s-random",
    "reptile/Omniglot-5w1s-random-transductive": "reptile/Omniglot-5w1s-random",
    "reptile/Omniglot-5w5s-random-transductive": "reptile/Omniglot-5w1s-random",
    "finetune/Omniglot-5w5s": "finetune/Omniglot-5w1s",
    **{
        f"{learner}/Clinc150-5w5s": f"{learner}/Clinc150-5w1s"
        for learner in ("protonet", "matching", "maml", "finetune")
    },
}
EVALUATION_SEED = 1000


@dataclass
class Args:
    """Settings of the run."""

    settings: tuple[str, ...] = ()
    """Shipped settings, as LEARNER/SETTING: maml/Omniglot-5w1s (default: all)."""
    seed: int = 0
    """Seed of the training; the evaluation has seed 1000."""
    num_tasks: int = 600
    """Number of test tasks."""
    iterations: int | None = None
    """Number of outer updates (default: the setting's)."""
    max_minutes: float = 90.0
    """Minutes of training in this call, for each setting; the next call goes on."""
    runs: Path = Path("runs/few_shot_tables")
    """Folder of the run folders."""
    out: Path = RESULTS
    """Folder of few_shot_tables.json and few_shot_tables.md."""
    device: str = "auto"
    """PyTorch device of the learners; auto takes a GPU where there is one."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    cuda_graph: bool = False
    """Whether to record updates as CUDA graphs, where the learner can."""
    compile: bool = False
    """Whether to compile updates, where the learner can."""
    list: bool = False
    """Whether to list the settings with the papers' numbers, and do nothing else."""


class StopWatch:
    """Stops a training after so many seconds, and keeps the time of all calls in the run folder."""

    def __init__(self, folder: RunFolder, limit: float) -> None:
        self.file = folder.path / "seconds.json"
        self.before = read(self.file, 0.0)
        self.began = self.noted = time.monotonic()
        self.limit = limit

    def __call__(self, learner: Any) -> bool:
        """Tells whether there is time left."""
        elapsed = time.monotonic() - self.began
        if time.monotonic() - self.noted > 30:
            self.note()
        return elapsed < self.limit

    def note(self) -> float:
        """Writes the time of all calls; gives it."""
        self.noted = time.monotonic()
        seconds = self.before + self.noted - self.began
        write_atomically(self.file, json.dumps(seconds))
        return seconds


def setting_config(name: str, args: Args, **env_kwargs: Any) -> RunConfig:
    """The shipped setting, with other arguments of the data set where they are given."""
    algo, _, tasks_name = name.partition("/")
    config = run_config(
        Train(algo, tasks_name, total_timesteps=args.iterations, seed=args.seed, device=args.device)
    )
    return replace(config, env_kwargs=config.env_kwargs | env_kwargs)


def train_setting(
    name: str, args: Args, *, go_on: bool = True, **env_kwargs: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """The trained learner, its tasks, and what there is to say about the training.

    A training that is shared goes on for its own row only, so that all rows tell of the same one.
    """
    config = setting_config(name, args, **env_kwargs)
    run_tasks = open_tasks(config)
    tasks = run_tasks.source
    if name in SAME_TRAINING:
        trained, _, about = train_setting(SAME_TRAINING[name], args, go_on=False, **env_kwargs)
        learner: Any = make_model(config, run_tasks, args.device)
        learner.load_extra_state(trained.extra_state())
        learner.module.load_state_dict(trained.module.state_dict())
        return learner, tasks, about | {"trained_as": SAME_TRAINING[name]}
    others = "".join(f"-{key}{value}" for key, value in env_kwargs.items())
    folder = RunFolder(args.runs / f"{config.algorithm}-{config.tasks}{others}-seed{args.seed}")
    folder.check(config, resume=True)
    resumed = folder if folder.checkpoint.exists() else None
    learner = make_model(config, run_tasks, args.device, resumed=resumed)
    folder.begin(config, resume=True)
    watch = StopWatch(folder, 60 * args.max_minutes)
    if go_on or not learner.num_iterations:
        train_into(
            folder,
            learner,
            run_tasks,
            config,
            callbacks=[watch],
            options=frozenset(
                option
                for option in ("cuda_graph", "compile")
                if getattr(args, option) and learner.has_option(option)
            ),
        )
    about = {
        "seed": args.seed,
        "iterations": learner.num_iterations,
        "iterations_wanted": config.total_timesteps,
        "seconds": watch.note(),
        "device": str(learner.device),
        "threads": args.threads,
        "commit": git_commit(),
    }
    return learner, tasks, about


def described(result: EvaluationResult) -> dict[str, Any]:
    """Means and intervals of an evaluation."""
    summary = result.summary()
    return {
        "measure": result.measure,
        "unit": result.unit,
        "points": result.points,
        "mean": summary["mean"].tolist(),
        "interval": summary["mean_interval"].tolist(),
        "num_tasks": result.num_tasks,
    }


def evaluate_setting(name: str, learner: Any, tasks: Any, args: Args) -> dict[str, Any]:
    """Evaluates on test tasks and, where there are such, by the other measures of the paper."""
    row = described(evaluate_adaptation(learner, tasks, args.num_tasks, seed=EVALUATION_SEED))
    if getattr(getattr(tasks.test, "pool", None), "turns", 1) > 1:
        straight = open_tasks(setting_config(name, args, test_rotations=False)).source
        scores = evaluate_adaptation(learner, straight, args.num_tasks, seed=EVALUATION_SEED)
        row["not_turned"] = described(scores)
    if name.startswith(("siamese/", "nearest/Omniglot")):
        size = tasks.test.pool.example_shape[-1]
        runs = lake_runs(size=size)
        row["lake"] = described(evaluate_adaptation(learner, runs, len(runs)))
    if name.startswith("siamese/"):
        rng = np.random.default_rng(EVALUATION_SEED)
        row["pairs"] = learner.verify(tasks.test, args.num_tasks, rng)
    if "Clinc150" in name:
        areas = out_of_scope_auroc(
            learner, tasks.test, tasks.out_of_scope, args.num_tasks, seed=EVALUATION_SEED
        )
        row["out_of_scope_auroc"] = float(areas.mean())
    return row


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The page of all results so far."""
    heads = ["learner and tasks", "before", "after", "paper", "wanted", "test tasks", "seed"]
    lines = []
    for key, row in sorted(rows.items()):
        name = key.rpartition("@")[0]
        paper = PAPER.get(name, "") + " (Lake's runs)" * name.startswith("siamese/")
        lines.append(
            [
                name,
                _number(row, 0),
                _after(row),
                paper,
                WANTED.get(name, ""),
                f"{row['num_tasks']}",
                f"{row['seed']}",
                f"{row['iterations']} of {row['iterations_wanted']}",
                f"{row['seconds'] / 60:.0f} min, {row['device']}",
                _further(row),
            ]
        )
    return page(
        "Few-shot learners beside their papers",
        "By `python benchmarks/few_shot_tables.py`. Shipped settings; means over held-out test "
        "tasks with 95 % intervals over tasks of one training, in % for accuracies. Iterations "
        "done, of those wanted; where fewer, the same command goes on.",
        table([*heads, "iterations", "wall time", "further"], lines),
        versions=False,
    )


def _number(row: dict[str, Any], column: int) -> str:
    percent = row["measure"] == "accuracy"
    factor, digits = (100, 1) if percent else (1, 3)
    interval = [factor * bound for bound in row["interval"][column]]
    return with_interval(factor * row["mean"][column], interval, f".{digits}f")


def _after(row: dict[str, Any]) -> str:
    last = len(row["points"]) - 1
    first = f"{_number(row, 1)} after 1 {row['unit']}; " if last > 1 else ""
    plural = "" if row["points"][last] == 1 else "s"
    return f"{first}{_number(row, last)} after {row['points'][last]} {row['unit']}{plural}"


def _further(row: dict[str, Any]) -> str:
    found = []
    if "not_turned" in row:
        last = len(row["points"]) - 1
        found.append(f"test characters turned; otherwise {_number(row['not_turned'], last)}")
    if "trained_as" in row:
        found.append(f"trained as {row['trained_as'].partition('/')[2]}")
    if "lake" in row:
        found.append(f"Lake's runs {_number(row['lake'], 1)}")
    if "pairs" in row:
        found.append(f"pairs {100 * row['pairs']:.1f}")
    if "out_of_scope_auroc" in row:
        found.append(f"AUROC out of scope {row['out_of_scope_auroc']:.3f}")
    return "; ".join(found)


def main(args: Args) -> None:
    """Trains and evaluates each setting."""
    if args.list:
        for name, wanted in WANTED.items():
            print(f"{name:40} paper: {PAPER.get(name, '-'):20} wanted: {wanted or '-'}")
        return
    torch.set_num_threads(args.threads)
    for name in args.settings or tuple(WANTED):
        learner, tasks, about = train_setting(name, args)
        row = about | evaluate_setting(name, learner, tasks, args)
        add_to_table(args.out / "few_shot_tables.json", {f"{name}@{args.seed}": row}, markdown)
        print(f"{name}: {_number(row, 0)} before, {_after(row)} {_further(row)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
