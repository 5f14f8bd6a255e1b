"""VariBAD on grid navigation, beside the Bayes-optimal policy and the exact posterior.

Trains with the shipped settings, and evaluates on every goal. The training keeps its checkpoint in
the run folder: the same command goes on where it was cut off. The picture shows one search: the
chance that each cell is the goal, as the decoder tells it from the agent's belief, above the exact
posterior, which is uniform over the cells that were not visited.

    python benchmarks/varibad_grid.py
    python benchmarks/varibad_grid.py --seeds 0 1 2
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from result_files import resumed_training

from meta_rl import TaskVectorEnv
from meta_rl.agents.grid_search import BayesOptimalSearch
from meta_rl.agents.varibad import VariBAD
from meta_rl.envs.grid_navigation import GridNavigation, all_cells
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.provenance import package_versions, versions_text, write_atomically

TASKS = "GridNavigation"
SHOWN = (0, 4, 8, 12, 16, 19, 24, 30)
"""Steps of the trial in the picture."""


@dataclass
class Args:
    """Settings of the run."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings; the evaluation has seed 1000."""
    goal: tuple[int, int] = (4, 3)
    """Goal of the search in the picture, x and y."""
    envs_per_task: int = 48
    """Sub-environments of each goal."""
    runs: Path = Path("runs/varibad_grid")
    """Folder of the run folders."""
    out: Path = Path(__file__).parent / "results"
    """Folder of varibad_GridNavigation.json, .md and .png."""
    threads: int = 1
    """Number of PyTorch CPU threads."""


def main(args: Args) -> None:
    """Train, evaluate, and write the table and the picture."""
    torch.set_num_threads(args.threads)
    rows = [as_row("Bayes-optimal", evaluated(BayesOptimalSearch(), args, False), "exact search")]
    models = []
    for seed in args.seeds:
        folder = resumed_training("varibad", TASKS, seed, args.runs / f"{TASKS}-seed{seed}")
        models.append(VariBAD.load(folder.checkpoint))
        minutes = folder.train_seconds() / 60
        about = f"{models[-1].num_timesteps / 1e6:.0f} M steps, {minutes:.0f} min"
        for name, likeliest in (("drawn actions", False), ("likeliest actions", True)):
            result = evaluated(models[-1], args, likeliest)
            rows.append(as_row(f"VariBAD, seed {seed}, {name}", result, about))
    shown, error = draw_search(models[0], np.array(args.goal))
    shown.savefig(args.out / f"varibad_{TASKS}.png", dpi=100)
    content = {"rows": rows, "belief_error": error, "versions": package_versions()}
    write_atomically(args.out / f"varibad_{TASKS}.json", json.dumps(content, indent=1) + "\n")
    table = as_markdown(rows, error, args)
    write_atomically(args.out / f"varibad_{TASKS}.md", table)
    print(table)


def evaluated(learner: Any, args: Args, deterministic: bool) -> EvaluationResult:
    """Return of every episode on each of the test goals."""
    return evaluate_adaptation(
        learner, TASKS, seed=1000, envs_per_task=args.envs_per_task, deterministic=deterministic
    )


def as_row(name: str, result: EvaluationResult, about: str) -> dict[str, Any]:
    """Mean return of every episode and of a trial over all goals, which are the population."""
    return {
        "learner": name,
        "episodes": result.values.mean(axis=0).tolist(),
        "trial": float(result.total.mean()),
        "num_tasks": result.num_tasks,
        "envs_per_task": result.envs_per_task,
        "training": about,
    }


def as_markdown(rows: list[dict[str, Any]], error: dict[str, float], args: Args) -> str:
    """The committed table."""
    best = rows[0]
    command = f"python benchmarks/varibad_grid.py --seeds {' '.join(map(str, args.seeds))}"
    lines = [
        f"# VariBAD on {TASKS}",
        "",
        f"`{command}`, shipped settings, one core: mean return over all {best['num_tasks']} goals, "
        f"{best['envs_per_task']} trials each. Train, validation and test are the same goals. Wall "
        "times are those of a core that was shared with other work.",
        "",
        "| learner | episode 1 | episode 2 | episode 3 | episode 4 | trial | of the optimum "
        "| training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        episodes = " | ".join(f"{value:.2f}" for value in row["episodes"])
        share = f"{row['trial'] / best['trial']:.1%}"
        lines.append(
            f"| {row['learner']} | {episodes} | {row['trial']:.2f} | {share} | {row['training']} |"
        )
    lines += [
        "",
        f"![Belief and exact posterior in one search](varibad_{TASKS}.png)",
        "",
        "The picture shows the chance of each cell to be the goal, by the decoder from the belief "
        f"of seed {args.seeds[0]} (above) and exactly (below). The decoder's chances are divided "
        "by their sum: before the goal is found they add up to more than 1, since a trained agent "
        "spends most of its steps on the goal, and the decoder learns from the cells that a trial "
        "visits. Half the sum of the absolute differences, the total variation, is "
        f"{error['searching']:.2f} on average while the goal is unknown (a belief that "
        f"stays uniform over the goals: {error['uniform']:.2f}) and {error['known']:.2f} "
        "afterwards: where a goal was found early, cells that no such trial visits are never "
        "decoded in training.",
    ]
    return "\n".join([*lines, "", f"{versions_text()}.", ""])


def search(model: VariBAD, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs one trial of likeliest actions for each goal.

    Returns:
        The agent's cell before each step, int64 ``[T, N, 2]``, and the chances of all cells by the
        decoder and exactly, ``[T, N, cells]`` each.
    """
    env = VariBAD.wrap_env(TaskVectorEnv(GridNavigation, len(goals)))
    env.unwrapped.set_tasks(goals)
    observations, _ = env.reset(seed=0)
    cells = all_cells(GridNavigation().size)
    possible = np.tile((cells > 1).any(axis=1), (len(goals), 1))
    state, places, decoded, exact = None, [], [], []
    for _ in range(GridNavigation().horizon * GridNavigation().episodes_per_trial):
        places.append(observations[:, :2].astype(np.int64))
        actions, state = model.predict(observations, state, deterministic=True)
        decoded.append(chances(model, state, cells))
        exact.append(possible / possible.sum(axis=1, keepdims=True))
        observations, rewards, terminated, truncated, infos = env.step(actions)
        ended = (terminated | truncated)[:, None]
        reached = np.where(ended, infos.get("final_obs", observations), observations)[:, :2]
        here = (reached[:, None] == cells).all(axis=-1)
        possible &= here == (rewards > 0)[:, None]
    return np.stack(places), np.stack(decoded), np.stack(exact)


@torch.no_grad()
def chances(model: VariBAD, state: Any, cells: np.ndarray, num_draws: int = 100) -> np.ndarray:
    """Returns the chance of each cell to be the goal, ``[N, cells]``.

    It is the decoder's chance that the cell pays, a mean over draws of the belief, divided by its
    sum over the cells.
    """
    mean, variance = (torch.from_numpy(part) for part in model.belief(state))
    noise = torch.randn((num_draws, *mean.shape), generator=torch.Generator().manual_seed(0))
    steps = torch.from_numpy(cells).float()[:, None].expand(-1, len(mean), -1)
    logits = model.policy.rewards(steps, mean + variance.sqrt() * noise)
    pays = logits.softmax(dim=-1)[..., 1].mean(dim=0).T
    return (pays / pays.sum(dim=1, keepdim=True)).numpy()


def draw_search(model: VariBAD, goal: np.ndarray) -> tuple[Figure, dict[str, float]]:
    """Draws the search for one goal, and returns the errors of the chances over all goals."""
    goals = GridNavigation().task_split.test.tasks
    places, decoded, exact = search(model, goals)
    index = int((goals == goal).all(axis=1).argmax())
    size = GridNavigation().size
    figure = Figure(figsize=(1.6 * len(SHOWN), 4.0), layout="constrained")
    axes = figure.subplots(2, len(SHOWN))
    for row, (name, belief) in enumerate((("belief", decoded), ("exact", exact))):
        for ax, step in zip(axes[row], SHOWN, strict=True):
            shown = ax.imshow(
                belief[step, index].reshape(size, size), origin="lower", vmin=0, vmax=1 / 4
            )
            ax.add_patch(Circle(places[step, index], 0.3, color="tab:red"))
            ax.plot(*goal, "*", color="white", markersize=9, markeredgecolor="black")
            ax.set(xticks=[], yticks=[])
            if row == 0:
                ax.set_title(f"step {step}", fontsize=10)
        axes[row, 0].set_ylabel(name)
    bar = figure.colorbar(shown, ax=axes, extend="max", shrink=0.8)
    bar.set_label("chance to be the goal")
    figure.suptitle("VariBAD's search for the goal (star); a new episode begins every 15 steps")
    return figure, belief_errors(decoded, exact)


def belief_errors(decoded: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Mean total variation from the exact posterior, before and after the goal is found."""
    known = exact.max(axis=-1) == 1.0
    uniform = np.broadcast_to(exact[:1], exact.shape)
    away, blind = (0.5 * np.abs(one - exact).sum(axis=-1) for one in (decoded, uniform))
    return {
        "searching": float(away[~known].mean()),
        "known": float(away[known].mean()),
        "uniform": float(blind[~known].mean()),
    }


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
