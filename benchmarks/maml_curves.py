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
from distinct_tasks import REPEATED, marked, repeated_note
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ppo_oracle import TOLD, told_name, told_note, trained_oracle
from result_rows import add_row, bounds, known_interval, with_interval
from resumed_training import resumed_training

from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.navigation import navigation_oracles
from meta_rl.cli.settings import find_settings
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.provenance import versions_text, write_atomically

NUM_STEPS = 3  # gradient steps of the evaluation

PAPER: dict[str, dict[str, list[float]]] = {  # figure data of the authors: after 0 to 3 steps
    "PointNavigation": {
        "maml": [-40.4, -11.7, -3.33, -3.23],
        "random": [-82.7, -58.0, -53.8, -46.8],
        "oracle": [-2.29],
    },
    "HalfCheetahVelMAML": {
        "maml": [-129.5, -78.6, -66.6, -60.8],
        "pretrained": [-158.0, -135.4, -128.5, -133.6],
        "random": [-254.8, -254.3, -246.8, -230.8],
        "oracle": [-54.5],
    },
    "HalfCheetahDirMAML": {
        "maml": [-50.7, 293.2, 313.5, 315.7],
        "pretrained": [-43.0, -24.8, -12.9, 19.6],
        "random": [-35.7, 21.8, 62.3, 86.2],
        "oracle": [442.7],
    },
    "AntVel": {
        "maml": [30.6, 96.7, 100.1, 101.4],
        "pretrained": [-1.8, 6.1, 8.5, 9.5],
        "random": [-78.6, -62.8, -48.6, -35.6],
        "oracle": [107.9],
    },
}

NOTES: dict[str, str] = {  # what the committed tables need to be read with
    "HalfCheetahDirMAML": """
The two tasks are those of the training too. With `gae_lambda` 1, as in the paper, one training of
36 million steps came to 294 after one step, and another, of the same seed but for rounding, to 246
(and to 249 after 72 million). The pretrained policy and the oracle are from earlier calls; the
wall time of the latter was not kept.
""",
    "HalfCheetahVelMAML": """
Over the last 60 of 200 iterations the return after one step was nearly level, at -111.8 on the
training's tasks. One cause of the distance from the paper is noise: the standard deviation of the
actions had come from 1 to 0.46, and was falling; it costs up to 13 an episode in control alone.
With `gae_lambda` 1, as in the paper, two trainings came to -113 and -116 after one step.
`--timesteps 96000000` goes on.
""",
    "HalfCheetahVel": """
Wall times are of a core that was shared with other trainings, pauses included. An earlier training
of the same seed, which differed by rounding only, came to -174, -151 and -144.
""",
    "HalfCheetahDir": """
The two tasks are those of the training too. After 24 million steps this training had 454, 449 and
450. With `gae_lambda` 1, as in the paper, 24 million steps came to 463 after one step in one
training, to 349 in another of the same seed but for rounding, and to 89 with seed 1. The others are
from earlier calls. Wall times are of a core that was shared.
""",
    "AntVel": """
Cut off after 51 of 300 iterations: it walks better than at first, and does not yet adapt. The
same command goes on. Two likely causes: the first actions are as large as their bounds, and an ant
that stands still earns 1.05 - goal a step, so that for goals above 1.05 m/s falling at once is
better than standing. `AntDir`, whose first actions are small, adapts.
""",
    "AntDir": """
Cut off after 254 of 800 iterations, while the return after one step rose by 4 per million steps;
the same command goes on. Goals, weights and time step are PEARL's: the paper's ant has two
directions and another time step, so that its returns (8.7 before, 499 after one step) are no
measure for these. An ant that stands still earns 200. There is no agent that is told the task yet.
Another training of the same seed had 160, 174, 181 and 185 after 4 million steps.
""",
}

LEARNERS = ("maml", "pretrained", "random", "oracle")


@dataclass
class Args:
    """Settings of the run."""

    setting: Annotated[str, tyro.conf.Positional]
    """Name of a shipped setting of maml_trpo."""
    learners: tuple[str, ...] = LEARNERS
    """Which of maml, pretrained, random, oracle (the optimum, or an agent told the task)."""
    seeds: tuple[int, ...] = (0,)
    """Of the trainings; the evaluation has seed 1000."""
    timesteps: int | None = None
    """Environment steps of MAML; the shipped number by default."""
    oracle_timesteps: int = 3_000_000
    """Environment steps of the agent that is told the task."""
    runs: Path = Path("runs/maml_curves")
    """Folder of the run folders."""
    out: Path = Path(__file__).parent / "results"
    """Folder of maml_SETTING.json, .md and .png."""
    threads: int = 2
    """Of torch; MuJoCo takes all cores of the process."""


def run_meta_training(name: str, seed: int, args: Args, timesteps: int | None) -> dict[str, Any]:
    """Train, or go on with it, and evaluate on held-out tasks."""
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


def as_markdown(setting: str, rows: list[dict[str, Any]]) -> str:
    """The committed table."""
    seeds = sorted({row["seed"] for row in rows})
    counted, distinct = _counts(rows)
    lines = [
        f"# MAML-TRPO on {setting}",
        "",
        f"`python benchmarks/maml_curves.py {setting} --seeds {' '.join(map(str, seeds))}`",
        "",
        f"Mean return of {distinct} held-out tasks, 20 episodes each, after 0 to {NUM_STEPS}",
        "gradient steps (20 episodes a step), with 95 % intervals over the tasks of one training.",
        "",
        *([*NOTES[setting].strip().splitlines(), ""] if setting in NOTES else []),
        "| learner | seed | before | 1 step | 2 steps | 3 steps | steps | wall time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    paper = PAPER.get(setting, {})
    for learner in LEARNERS:
        lines += [_table_row(setting, row) for row in rows if row["learner"] == learner]
        if learner in paper:
            name = TOLD if learner == "oracle" else learner
            cells = [f"{value:g}" for value in paper[learner]]
            lines.append(f"| *{name} in the paper* | | {' | '.join(_padded(cells))} | | |")
    lines += ["", *repeated_note(counted, distinct), *_gain(setting, rows)]
    return "\n".join([*lines, f"{versions_text()}.", ""])


def _counts(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Tasks that were counted, and distinct ones among them: fewer in older results.

    Of rows that differ, the numbers of one that counts tasks several times.
    """
    figures = [row["evaluation"] for row in rows]
    counts = [(f["num_tasks"], f.get("distinct_tasks", f["num_tasks"])) for f in figures]
    return max(counts, key=lambda count: count[0] - count[1])


def _table_row(setting: str, row: dict[str, Any]) -> str:
    figures = row["evaluation"]
    cells = [
        with_interval(mean, interval)
        for mean, interval in zip(figures["mean"], figures["interval"], strict=True)
    ]
    minutes = f"{row['seconds'] / 60:.0f} min" if row["seconds"] else ""
    name = marked(_shown_name(setting, row), *_counts([row]))
    steps = f"{row['timesteps'] / 1e6:.1f} M"
    return f"| {name} | {row['seed']} | {' | '.join(_padded(cells))} | {steps} | {minutes} |"


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
    """Fill the table, learner by learner."""
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
            write_atomically(args.out / f"maml_{name}.md", as_markdown(name, rows))
            plot(name, rows, args.out / f"maml_{name}.png")
            print(f"{name}, {learner}, seed {seed}: {row['evaluation']['mean']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
