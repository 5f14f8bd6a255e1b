"""Meta-RL on Meta-World's ML1: learning curves, and success on held-out goals as agents adapt.

Trains with the shipped settings (rl2, maml_trpo, pearl), whose curves are of validation goals, then
evaluates on the 50 test goals of Meta-World. Trainings keep a checkpoint in their run folders: run
the same command again and one that was cut off goes on, one that is finished is only evaluated, and
a larger ``--timesteps`` continues it. Each result is written as soon as it is there, beside those
of earlier calls. Needs the extra ``metaworld``.

    python benchmarks/metaworld_curves.py reach
    python benchmarks/metaworld_curves.py reach --agents rl2 --timesteps 12000000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from result_files import (
    REPEATED,
    RESULTS,
    add_row,
    notes,
    page,
    resumed_training,
    table,
    with_interval,
)
from scipy.stats import binomtest, linregress

from meta_rl.algorithms import find_algorithm
from meta_rl.cli.run_folder import RunFolder
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.files import write_atomically

AGENTS = {"rl2": "RL²", "maml_trpo": "MAML-TRPO", "pearl": "PEARL"}
NUM_TASKS = 50  # Meta-World's test goals
EVALUATION_SEED = 1000
NUM_VALIDATION = 40  # trials of the command line's validation: its ten goals, four times


@dataclass
class Args:
    """Settings of the run."""

    name: Annotated[str, tyro.conf.Positional] = "reach"
    """Name of Meta-World's environment: reach or push."""
    agents: tuple[str, ...] = tuple(AGENTS)
    """Agents: rl2, maml_trpo, pearl."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings; the evaluation has seed 1000."""
    timesteps: int | None = None
    """Number of environment steps of each training (default: the setting's)."""
    runs: Path = Path("runs/metaworld_curves")
    """Folder of the run folders."""
    out: Path = RESULTS
    """Folder of metaworld_NAME.json, .md and .png."""
    threads: int = 1
    """Number of PyTorch CPU threads; Meta-World's processes take all cores."""


def run(agent: str, seed: int, args: Args) -> dict[str, Any]:
    """Trains, or goes on with an earlier training, and evaluates on the test goals."""
    out = args.runs / f"{agent}-{args.name}-seed{seed}"
    folder = resumed_training(agent, f"MetaWorldML1-{args.name}", seed, out, args.timesteps)
    config = folder.config()
    model: Any = find_algorithm(agent).load(folder.checkpoint, device="cpu")
    # What a gradient step takes, for MAML; the others adapt in one sub-environment.
    result = evaluate_adaptation(
        model,
        config.env_id,
        NUM_TASKS,
        seed=EVALUATION_SEED,
        envs_per_task=max(4, model.envs_per_task),
        **config.env_kwargs,
    )
    summary = result.summary()
    return {
        "agent": agent,
        "seed": seed,
        "timesteps": model.num_timesteps,
        "seconds": folder.train_seconds(),
        "curve": validation_curve(folder),
        "success": summary["success"].tolist(),
        "success_interval": summary["success_interval"].tolist(),
        "return": summary["mean"].tolist(),
        "return_interval": summary["mean_interval"].tolist(),
        "values": result.success.tolist() if result.success is not None else None,
        "envs_per_task": result.envs_per_task,
        "validation_tasks": NUM_VALIDATION,
        "distinct_validation_tasks": 10,
    }


def validation_curve(folder: RunFolder) -> dict[str, list[float]]:
    """Steps, and success of the last episode and return of the trial on validation goals."""
    curve = folder.learning_curve()
    names = ["time/total_timesteps", "validation/success", "validation/trial_return"]
    rows = np.array([curve[name] for name in names])
    rows = rows[:, ~np.isnan(rows[1])]
    return dict(zip(("steps", "success", "return"), rows.round(4).tolist(), strict=True))


def rise(row: dict[str, Any]) -> str:
    """Success per million steps ± standard error, over the last third of the validation curve."""
    steps, success = (np.array(row["curve"][name]) for name in ("steps", "success"))
    last = steps >= 2 / 3 * row["timesteps"]
    if last.sum() < 3:
        return ""
    line = linregress(steps[last] / 1e6, 100 * success[last])
    return f"{line.slope:+.0f} ± {line.stderr:.0f}"


def as_markdown(name: str, rows: list[dict[str, Any]], notes: list[str]) -> str:
    """The committed page.

    Args:
        name: Name of Meta-World's environment.
        rows: Rows of the JSON file.
        notes: Lines that the table needs to be read with.
    """
    seeds = " ".join(map(str, sorted({row["seed"] for row in rows})))
    episodes = [f"episode {i + 1}" for i in range(len(rows[0]["success"]))]
    lines = [
        [
            AGENTS[row["agent"]],
            f"{row['seed']}",
            *(
                with_interval(100 * mean, [100 * bound for bound in interval])
                for mean, interval in zip(row["success"], row["success_interval"], strict=True)
            ),
            f"{row['envs_per_task']}",
            f"{row['timesteps'] / 1e6:.2f} M",
            f"{row['seconds'] / 60:.0f} min",
            rise(row),
        ]
        for row in rows
    ]
    heads = ["agent", "seed", *episodes, "episodes a goal", "steps", "wall time", "still rising"]
    return page(
        f"Meta-RL on Meta-World's ML1 {name}",
        f"`python benchmarks/metaworld_curves.py {name} --seeds {seeds}`, shipped settings.",
        [
            f"Success in each episode of a trial on the {NUM_TASKS} test goals, in %, with 95 %",
            "intervals over the goals of one training: the share of episodes in which the goal",
            "is reached. Actions are sampled. An episode has 200 steps, Meta-World's 500.",
        ],
        notes,
        table(heads, lines),
        [
            "Still rising: success in the last episode on the ten validation goals, in % per "
            "million",
            "steps ± standard error, by a line through the last third of the training; "
            "`--timesteps`",
            "goes on. RL² and PEARL adapt to their own episodes alone, MAML by a gradient step "
            "after",
            "every episode, on all those of the goal. The picture's learning curves are of 40 "
            "trials",
            f"on the validation goals, with Wilson's 95 % intervals {REPEATED}.",
        ],
        [
            f"{REPEATED} The 40 trials are on 10 distinct goals. A goal that counts several times",
            "makes the interval too narrow. To be trained again.",
        ],
    )


def wilson(rates: list[float]) -> np.ndarray:
    """95 % intervals of shares of the validation tasks, ``[2, points]``."""
    tests = [binomtest(round(rate * NUM_VALIDATION), NUM_VALIDATION) for rate in rates]
    return np.array([test.proportion_ci(method="wilson") for test in tests]).T


def plot(name: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Learning curves on validation goals, and success on test goals as agents adapt."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    learning, adaptation = figure.subplots(1, 2)
    for row in rows:
        colour = f"C{list(AGENTS).index(row['agent'])}"
        label = f"{AGENTS[row['agent']]}, seed {row['seed']}"
        steps = np.array(row["curve"]["steps"]) / 1e6
        success = row["curve"]["success"]
        learning.plot(steps, success, ".-", color=colour, label=label)
        learning.fill_between(steps, *wilson(success), color=colour, alpha=0.2, linewidth=0)
        at = np.arange(1, len(row["success"]) + 1)
        adaptation.plot(at, row["success"], "o-", color=colour, label=label)
        low, high = np.array(row["success_interval"]).T
        adaptation.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
    learning.set(xlabel="million environment steps", ylabel="success in the last episode")
    learning.set(xscale="log", ylim=(-0.02, 1.02), title=f"ML1 {name}: validation goals {REPEATED}")
    adaptation.set(xlabel="episode", ylabel="success", xticks=at, ylim=(-0.02, 1.02))
    adaptation.set_title(f"{NUM_TASKS} test goals")
    adaptation.legend()
    figure.savefig(path, dpi=120)


def main(args: Args) -> None:
    """Fills the table, agent by agent."""
    unknown = sorted(set(args.agents) - set(AGENTS))
    if unknown:
        raise SystemExit(f"unknown agents {unknown}: {', '.join(AGENTS)} exist")
    torch.set_num_threads(args.threads)
    file = args.out / f"metaworld_{args.name}.json"
    for agent in args.agents:
        for seed in args.seeds:
            row = run(agent, seed, args)
            rows = add_row(file, row, "agent", list(AGENTS))
            text = as_markdown(args.name, rows, notes(file))
            write_atomically(file.with_suffix(".md"), text)
            plot(args.name, rows, file.with_suffix(".png"))
            print(f"{AGENTS[agent]}, seed {seed}: success {row['success']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
