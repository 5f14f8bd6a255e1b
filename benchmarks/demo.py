"""The main job, in minutes: a network learns to adapt to goals that it has never seen.

Meta-trains MAML-TRPO to move a point to a goal that it does not see, and trains the same network on
all goals without meta-learning. Both then get 20 episodes for each gradient step on 40 held-out
goals. Prints a table and draws their ways before and after adaptation.

    python benchmarks/demo.py
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback

import meta_rl
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.navigation import navigation_oracles
from meta_rl.evaluation import EvaluationResult
from meta_rl.rollout import collect_episodes

TASKS = "meta_rl/PointNavigation-v0"
META, PLAIN, OPTIMUM = "meta-learned", "same network, no meta-learning", "optimum"
COLOURS = {META: "C0", PLAIN: "C1"}
NUM_STEPS = 3  # gradient steps on each held-out goal
SHOWN_STEPS = (0, 1, 3)
NUM_SHOWN = 8  # goals on the maps
EVALUATION_SEED = 1000


@dataclass
class Args:
    """Settings of the demo."""

    seed: int = 0
    """Seed of the trainings."""
    meta_timesteps: int = 3_000_000
    """Number of environment steps of meta-training."""
    plain_timesteps: int = 1_000_000
    """Number of environment steps of the training without meta-learning."""
    out: Path = Path("runs/demo")
    """Folder of the two agents and of the picture, whose files are replaced."""


class ProgressLines(BaseCallback):
    """Prints a line every few seconds, for terminals and pipes alike."""

    def __init__(self, name: str, seconds: float = 5.0) -> None:
        super().__init__()
        self.name = name
        self.seconds = seconds
        self.began = self.printed = time.monotonic()

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self.printed >= self.seconds:
            self.printed = now
            share = self.model.num_timesteps / self.model._total_timesteps
            print(f"  {self.name}: {share:4.0%} after {now - self.began:3.0f} s", flush=True)
        return True


def main(args: Args) -> None:
    """Trains both networks, lets both adapt to held-out goals, and compares them."""
    began = time.monotonic()
    torch.set_num_threads(1)  # the batches are small: a second thread would mostly wait
    args.out.mkdir(parents=True, exist_ok=True)
    agents = {
        META: trained(META, args, args.meta_timesteps, num_inner_steps=1),
        PLAIN: trained(PLAIN, args, args.plain_timesteps, num_inner_steps=0),
    }
    print("adapting both to 40 held-out goals", flush=True)
    results = {name: evaluated(agent, NUM_STEPS + 1) for name, agent in agents.items()}
    results[OPTIMUM] = evaluated(navigation_oracles()["PointNavigation"], 1)
    print_table(results)
    print(f"picture: {draw(agents, results, args.out / 'demo.png')}")
    print(f"took {time.monotonic() - began:.0f} s")


def trained(name: str, args: Args, timesteps: int, num_inner_steps: int) -> MAMLTRPO:
    """Trains an agent by the return after gradient steps, or before (0 steps), and saves it."""
    print(f"training: {name}", flush=True)
    agent = MAMLTRPO(
        env=TASKS,
        inner_lr=0.4,
        later_inner_lr=0.1,
        num_inner_steps=num_inner_steps,
        seed=args.seed,
    )
    agent.learn(timesteps, callback=ProgressLines(name))
    agent.save(args.out / f"{'maml' if num_inner_steps else 'plain'}.zip")
    return agent


def evaluated(learner: Any, num_episodes: int) -> EvaluationResult:
    """Evaluates a learner on all held-out goals, 20 episodes for each gradient step."""
    return meta_rl.evaluate_adaptation(
        learner, TASKS, num_episodes=num_episodes, envs_per_task=20, seed=EVALUATION_SEED
    )


def print_table(results: dict[str, EvaluationResult]) -> None:
    """Mean return with its 95 % interval after each number of gradient steps."""
    title = f"Return of an episode on {results[META].num_tasks} held-out goals"
    table = Table(title=title, caption="95 % intervals over goals; one training each.")
    table.add_column("learner")
    for column in ("before", "1 gradient step", "2 steps", "3 steps"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        summary = result.summary()
        cells = [
            f"{mean:.1f} ± {(high - low) / 2:.1f}"
            for mean, (low, high) in zip(summary["mean"], summary["mean_interval"], strict=True)
        ]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def tracks(agent: MAMLTRPO, goals: np.ndarray) -> list[np.ndarray]:
    """Most likely ways to the goals, ``[T, goals, 2]``, after 0, 1, ... gradient steps."""
    envs = 20  # episodes of each goal, on which a gradient step is made
    env = meta_rl.make_task_vec(TASKS, num_tasks=len(goals), envs_per_task=envs)
    env.set_tasks(goals)
    first = np.ones(env.num_envs, dtype=bool)
    state, ways = None, []
    for step in range(NUM_STEPS + 1):
        for deterministic in (True, False):

            def act(
                observations: Any, state: Any = state, likeliest: bool = deterministic
            ) -> tuple[Any, dict[str, Any]]:
                return agent.predict(observations, state, first, deterministic=likeliest)[0], {}

            rollout = collect_episodes(env, act, env.reset(seed=EVALUATION_SEED + step)[0])
            rollout.envs_per_task = envs
            if deterministic:
                way = rollout.observations[:, ::envs]
                real = np.True_ if rollout.mask is None else rollout.mask[:, ::envs, None]
                ways.append(np.where(real, way, np.nan))
        state = agent.adapt(rollout, state)
    env.close()
    return ways


def draw(agents: dict[str, MAMLTRPO], results: dict[str, EvaluationResult], path: Path) -> Path:
    """Maps of the ways to held-out goals, and the return over gradient steps."""
    split = meta_rl.make_task_vec(TASKS, num_tasks=1).unwrapped.task_split
    goals = split.test.tasks[:NUM_SHOWN]
    figure = Figure(figsize=(11.5, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, len(SHOWN_STEPS) + 2)
    for row, (name, agent) in enumerate(agents.items()):
        ways = tracks(agent, goals)
        for column, step in enumerate(SHOWN_STEPS):
            ax = figure.add_subplot(grid[row, column])
            draw_map(ax, goals, ways[step])
            title = ("before adaptation", "after 1 gradient step")[step] if step < 2 else "after 3"
            ax.set_title(title, fontsize=10)
            if column == 0:
                ax.set_ylabel(name.replace(", ", ",\n"), color=COLOURS[name], fontsize=12)
    draw_curves(figure.add_subplot(grid[:, -2:]), results)
    figure.suptitle("A point goes to goals that it does not see and was not trained on")
    figure.savefig(path, dpi=130)
    return path


def draw_map(ax: Axes, goals: np.ndarray, way: np.ndarray) -> None:
    """Goals as stars, and a way to each in its colour."""
    for index, goal in enumerate(goals):
        ax.plot(*way[:, index].T, color=f"C{index}", linewidth=1.6)
        ax.plot(*goal, "*", color=f"C{index}", markersize=12, markeredgecolor="black")
    ax.plot(0, 0, "ko", markersize=4)
    ax.set(xlim=(-0.65, 0.65), ylim=(-0.65, 0.65), aspect="equal", xticks=[], yticks=[])


def draw_curves(ax: Axes, results: dict[str, EvaluationResult]) -> None:
    """Mean return with 95 % intervals over goals, and the optimum as a line."""
    for name, colour in COLOURS.items():
        summary = results[name].summary()
        mean, (low, high) = summary["mean"], np.transpose(summary["mean_interval"])
        steps = range(len(mean))
        ax.plot(steps, mean, "o-", color=colour, label=name, linewidth=2.5)
        ax.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.axhline(results[OPTIMUM].values.mean(), color="black", linestyle="--", label=OPTIMUM)
    ax.set(xlabel="gradient steps (20 episodes each)", xticks=range(NUM_STEPS + 1))
    ax.set_title(f"mean return on {results[META].num_tasks} held-out goals", fontsize=10)
    ax.legend(loc="lower right")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
