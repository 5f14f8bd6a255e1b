"""MAML-TRPO beside its paper (Finn et al., 2017) and beside the baselines of the paper.

For every setting and seed: MAML; one policy pre-trained on all tasks; a random initial policy; each
adapts by gradient steps on held-out tasks, with the halved step size after the first step as in the
paper's evaluation. ``oracle`` is the known optimum, where there is one, else PPO of
Stable-Baselines3 that is told the task, which need not be an upper bound. Trainings keep their
checkpoints in run folders: run the same command again and a training that was cut off goes on, one
that is finished is only evaluated, and a larger ``--timesteps`` continues it. Each result is
written as soon as it is there.

    python benchmarks/maml_curves.py PointNavigation --seeds 0 1 2
    python benchmarks/maml_curves.py HalfCheetahVel --learners maml --timesteps 200000000
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ppo_oracle import TOLD, told_name, told_note, trained_oracle
from result_files import (
    REPEATED,
    RESULTS,
    add_row,
    bounds,
    known_interval,
    marked,
    notes,
    page,
    papers,
    repeated_note,
    resumed_training,
    table,
    with_interval,
)

from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.navigation import navigation_oracles
from meta_rl.cli.settings import find_settings
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.files import write_atomically

NUM_STEPS = 3  # gradient steps of the evaluation

PAPER: dict[str, dict[str, list[float]]] = papers("MAML-TRPO")["rows"]  # after 0 to 3 steps
LEARNERS = ("maml", "pretrained", "random", "oracle")


@dataclass
class Args:
    """Settings of the run."""

    setting: Annotated[str, tyro.conf.Positional]
    """Name of a shipped setting of maml_trpo."""
    learners: tuple[str, ...] = LEARNERS
    """Learners: maml, pretrained, random, oracle (the optimum, or an agent told the task)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings; the evaluation has seed 1000."""
    timesteps: int | None = None
    """Number of environment steps of MAML (default: the setting's)."""
    oracle_timesteps: int = 3_000_000
    """Number of environment steps of the agent that is told the task."""
    runs: Path = Path("runs/maml_curves")
    """Folder of the run folders."""
    out: Path = RESULTS
    """Folder of maml_SETTING.json, .md and .png."""
    threads: int = 2
    """Number of PyTorch CPU threads; MuJoCo takes all cores of the process."""


def run_meta_training(name: str, seed: int, args: Args, timesteps: int | None) -> dict[str, Any]:
    """Trains, or goes on with an earlier training, and evaluates on held-out tasks."""
    out = args.runs / f"{name}-seed{seed}"
    folder = resumed_training("maml_trpo", name, seed, out, timesteps)
    config = folder.config()
    model = MAMLTRPO.load(folder.checkpoint)
    return {
        "timesteps": model.num_timesteps,
        "seconds": folder.train_seconds(),
        "curve": _thinned(folder.learning_curve()),
        "evaluation": _evaluated(model, config.env_id, config.env_kwargs),
    }


def run_random(name: str, seed: int, args: Args) -> dict[str, Any]:
    """A policy that was never trained, which adapts by the same steps."""
    _, env_id, settings = find_settings("maml_trpo", name)
    env_kwargs = settings.pop("env", {})
    settings.pop("total_timesteps")
    policy_kwargs = settings.pop("policy", {})
    model = MAMLTRPO(
        env=env_id, env_kwargs=env_kwargs, policy_kwargs=policy_kwargs, seed=seed, **settings
    )
    return {"timesteps": 0, "seconds": 0.0, "evaluation": _evaluated(model, env_id, env_kwargs)}


def run_oracle(name: str, seed: int, args: Args) -> dict[str, Any]:
    """The known optimum, where there is one; else PPO that is told the task."""
    _, env_id, settings = find_settings("maml_trpo", name)
    env_kwargs = settings.pop("env", {})
    if name in navigation_oracles():
        result = evaluate_adaptation(
            navigation_oracles()[name], env_id, num_episodes=1, seed=1000, envs_per_task=20
        )
        return {"timesteps": 0, "seconds": 0.0, "evaluation": _summary(result)}
    file = args.runs / f"{name}-oracle-seed{seed}.zip"
    oracle, timesteps, seconds = trained_oracle(
        env_id, file, args.oracle_timesteps, seed=seed, **env_kwargs
    )
    result = evaluate_adaptation(
        oracle, env_id, num_episodes=1, seed=1000, envs_per_task=20, **env_kwargs
    )
    return {"timesteps": timesteps, "seconds": seconds, "evaluation": _summary(result)}


def _evaluated(model: MAMLTRPO, env_id: str, env_kwargs: dict[str, Any]) -> dict[str, Any]:
    return _summary(
        evaluate_adaptation(
            model, env_id, num_episodes=NUM_STEPS + 1, seed=1000, envs_per_task=20, **env_kwargs
        )
    )


def _summary(result: EvaluationResult) -> dict[str, Any]:
    summary = result.summary()
    return {
        "mean": summary["mean"].tolist(),
        "interval": [known_interval(interval) for interval in summary["mean_interval"]],
        "iqm": summary["iqm"].tolist(),
        "values": result.values.round(3).tolist(),
        "num_tasks": result.num_tasks,
        "envs_per_task": result.envs_per_task,
    }


def _thinned(curve: dict[str, list[float]], points: int = 100) -> dict[str, list[float]]:
    """Steps, and returns of the training's tasks after each number of inner steps."""
    names = ["time/total_timesteps", *sorted(n for n in curve if n.startswith("rollout/return"))]
    rows = np.array([curve[name] for name in names])
    width = max(1, rows.shape[1] // points)
    rows = rows[:, : rows.shape[1] // width * width]
    means = rows.reshape(len(names), -1, width).mean(axis=2)
    return {name: row.round(2).tolist() for name, row in zip(names, means, strict=True)}


def as_markdown(setting: str, rows: list[dict[str, Any]], notes: list[str]) -> str:
    """The committed page.

    Args:
        setting: Name of the shipped setting.
        rows: Rows of the JSON file.
        notes: Lines that the table needs to be read with.
    """
    seeds = sorted({row["seed"] for row in rows})
    counted, distinct = _counts(rows)
    lines, paper = [], PAPER.get(setting, {})
    for learner in LEARNERS:
        lines += [_table_row(setting, row) for row in rows if row["learner"] == learner]
        if learner in paper:
            name = TOLD if learner == "oracle" else learner
            cells = _padded([f"{value:g}" for value in paper[learner]])
            lines.append([f"*{name} in the paper*", "", *cells, "", ""])
    return page(
        f"MAML-TRPO on {setting}",
        f"`python benchmarks/maml_curves.py {setting} --seeds {' '.join(map(str, seeds))}`",
        [
            f"Mean return of {distinct} held-out tasks, 20 episodes each, after 0 to {NUM_STEPS}",
            "gradient steps (20 episodes a step), with 95 % intervals over the tasks of one "
            "training.",
        ],
        notes,
        table(
            ["learner", "seed", "before", "1 step", "2 steps", "3 steps", "steps", "wall time"],
            lines,
        ),
        repeated_note(counted, distinct),
        _gain(setting, rows),
    )


def _counts(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Tasks that were counted, and distinct ones among them: fewer in older results.

    Where rows differ, these are the numbers of one that counts tasks several times.
    """
    figures = [row["evaluation"] for row in rows]
    counts = [(f["num_tasks"], f.get("distinct_tasks", f["num_tasks"])) for f in figures]
    return max(counts, key=lambda count: count[0] - count[1])


def _table_row(setting: str, row: dict[str, Any]) -> list[str]:
    figures = row["evaluation"]
    cells = [
        with_interval(mean, interval)
        for mean, interval in zip(figures["mean"], figures["interval"], strict=True)
    ]
    minutes = f"{row['seconds'] / 60:.0f} min" if row["seconds"] else ""
    name = marked(_shown_name(setting, row), *_counts([row]))
    steps = f"{row['timesteps'] / 1e6:.1f} M"
    return [name, f"{row['seed']}", *_padded(cells), steps, minutes]


def _padded(cells: list[str]) -> list[str]:
    return cells + [""] * (NUM_STEPS + 1 - len(cells))


def _shown_name(setting: str, row: dict[str, Any]) -> str:
    """The learner's name in tables and pictures."""
    if row["learner"] != "oracle":
        return row["learner"]
    if setting in navigation_oracles():
        return "optimum"
    return told_name(setting, row["evaluation"]["mean"][0])


def _gain(setting: str, rows: list[dict[str, Any]]) -> list[str]:
    """The part of the lead over an initial policy that three steps make up.

    The lead is that of the optimum, or of the agent that is told the task.
    """
    means = {
        learner: np.mean([r["evaluation"]["mean"] for r in rows if r["learner"] == learner], axis=0)
        for learner in {r["learner"] for r in rows}
    }
    if not {"maml", "oracle", "random"} <= set(means):
        return []
    after, told = means["maml"][-1], means["oracle"][0]
    over_random, over_before = (
        (after - start) / (told - start) for start in (means["random"][0], means["maml"][0])
    )
    name = next(_shown_name(setting, row) for row in rows if row["learner"] == "oracle")
    lines = [
        f"After {NUM_STEPS} steps MAML has {over_random:.2f} of what the {name} gains over the",
        f"untrained policy, and {over_before:.2f} of what it gains over the meta-trained policy "
        "before adaptation.",
    ]
    if name != "optimum":
        lines.append(told_note(setting, told))
    return [*lines, ""]


def plot(setting: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Learning curves of MAML, and adaptation of all learners on held-out tasks."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    learning, adaptation = figure.subplots(1, 2)
    for row in (r for r in rows if r["learner"] == "maml"):
        steps = np.array(row["curve"]["time/total_timesteps"]) / 1e6
        for after, style in ((0, ":"), (1, "-")):
            values = row["curve"][f"rollout/return_after_{after}_steps"]
            label = f"after {after} step{'s' if after != 1 else ''}"
            colour = f"C{row['seed']}"
            learning.plot(steps, values, style, color=colour, label=_once(learning, label))
    learning.set(xlabel="million environment steps", ylabel="return, training tasks")
    learning.set_title(f"MAML-TRPO on {setting}")
    learning.legend()
    counts = _counts(rows)
    for index, learner in enumerate(LEARNERS):
        for row in (r for r in rows if r["learner"] == learner):
            name = _shown_name(setting, row)
            mean = row["evaluation"]["mean"]
            colour = f"C{index}"
            if learner == "oracle":
                label = _once(adaptation, name)
                adaptation.axhline(mean[0], color=colour, linestyle="--", label=label)
                continue
            at = np.arange(len(mean))
            adaptation.plot(at, mean, "o-", color=colour, label=_once(adaptation, name))
            band = bounds(mean, row["evaluation"]["interval"])
            adaptation.fill_between(at, *band, color=colour, alpha=0.2, linewidth=0)
    paper = PAPER.get(setting, {}).get("maml")
    if paper:
        adaptation.plot(range(len(paper)), paper, "k+", markersize=10, label="maml in the paper")
    adaptation.set(xlabel="gradient steps", ylabel="return", xticks=range(NUM_STEPS + 1))
    adaptation.set_title(marked(f"{counts[1]} held-out tasks", *counts))
    if counts[1] < counts[0]:
        adaptation.set_xlabel(f"gradient steps\n{REPEATED} intervals are too narrow")
    adaptation.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the points
    figure.savefig(path, dpi=120)


def _once(axes: Axes, label: str) -> str:
    """The label, unless the legend has it already: seeds share theirs."""
    return "_nolegend_" if label in axes.get_legend_handles_labels()[1] else label


def main(args: Args) -> None:
    """Fills the table, learner by learner."""
    torch.set_num_threads(args.threads)
    name = args.setting
    runs: dict[str, Callable[[int], dict[str, Any]]] = {
        "maml": lambda seed: run_meta_training(name, seed, args, args.timesteps),
        "pretrained": lambda seed: run_meta_training(f"{name}-pretrained", seed, args, None),
        "random": lambda seed: run_random(name, seed, args),
        "oracle": lambda seed: run_oracle(name, seed, args),
    }
    file = args.out / f"maml_{name}.json"
    for learner in args.learners:
        if learner not in runs:
            raise SystemExit(f"unknown learner {learner!r}: {', '.join(LEARNERS)} exist")
        for seed in args.seeds:
            row = {"learner": learner, "seed": seed, **runs[learner](seed)}
            rows = add_row(file, row, "learner", LEARNERS)
            write_atomically(file.with_suffix(".md"), as_markdown(name, rows, notes(file)))
            plot(name, rows, file.with_suffix(".png"))
            print(f"{name}, {learner}, seed {seed}: {row['evaluation']['mean']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
