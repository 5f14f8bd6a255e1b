"""The main job, in minutes: an agent learns to adapt to goals that it has never seen.

Meta-trains RL² to move a point to a goal that it does not see, and trains PPO without memory on the
same goals, which cannot adapt. Both then get two episodes on each of 40 held-out goals. Prints a
table, and draws their ways in the first and in the second episode beside the optimum.

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
from stable_baselines3.common.utils import LinearSchedule

import meta_rl
from meta_rl.agents.navigation import navigation_oracles
from meta_rl.agents.ppo import PPO
from meta_rl.agents.rl2 import RL2
from meta_rl.evaluation import EvaluationResult
from meta_rl.rollout import true_successors
from meta_rl.wrappers.previous_step import AppendPreviousStep

TASKS = "meta_rl/PointNavigation-v0"
ENV = {"horizon": 10, "episodes_per_trial": 2, "goal_tolerance": 1e-6}  # no early ends
SETTINGS = {
    "meta_batch_size": 256,
    "num_minibatches": 4,
    "num_epochs": 6,
    "gae_lambda": 0.9,
    "learning_rate": LinearSchedule(2e-3, 2e-4, 1.0),
}
META, PLAIN, OPTIMUM = "RL²: meta-learned", "PPO: no meta-learning", "optimum (is told the goal)"
COLOURS = {META: "C0", PLAIN: "C1", OPTIMUM: "black"}
NUM_SHOWN = 10  # goals on the maps
EVALUATION_SEED = 1000


@dataclass
class Args:
    """Settings of the demo."""

    seed: int = 0
    """Seed of the trainings."""
    meta_timesteps: int = 1_500_000
    """Number of environment steps of meta-training."""
    plain_timesteps: int = 1_500_000
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
    """Trains both agents, lets both play held-out goals, and compares them."""
    began, processor = time.monotonic(), time.process_time()
    torch.set_num_threads(1)  # the batches are small: a second thread would mostly wait
    args.out.mkdir(parents=True, exist_ok=True)
    small = {"log_std_init": -0.7}
    rl2 = RL2(
        env=TASKS,
        env_kwargs=ENV,
        policy_kwargs={"hidden_size": 64, **small},
        seed=args.seed,
        **SETTINGS,
    )
    # Returns as they were earned (lambda 1): a baseline that no error of its critic can make worse.
    plain = {**SETTINGS, "gae_lambda": 1.0}
    ppo = PPO(env=TASKS, env_kwargs=ENV, policy_kwargs=small, seed=args.seed, **plain)
    for name, agent, steps in (
        (META, rl2, args.meta_timesteps),
        (PLAIN, ppo, args.plain_timesteps),
    ):
        print(f"training {name}", flush=True)
        agent.learn(steps, callback=ProgressLines(name))
        agent.save(args.out / f"{type(agent).__name__.lower()}.zip")
    print("two episodes of each on 40 held-out goals", flush=True)
    oracle = navigation_oracles()["PointNavigation"]
    learners = {META: rl2, PLAIN: ppo, OPTIMUM: oracle}
    print_table({name: evaluated(learner) for name, learner in learners.items()})
    print(f"picture: {draw({META: rl2, PLAIN: ppo}, args.out / 'demo.png')}")
    took, used = time.monotonic() - began, time.process_time() - processor
    print(f"took {took:.0f} s, {used:.0f} s of processor time")


def evaluated(learner: Any) -> EvaluationResult:
    """Evaluates a learner on all held-out goals."""
    return meta_rl.evaluate_adaptation(
        learner, TASKS, num_episodes=2, envs_per_task=20, seed=EVALUATION_SEED, **ENV
    )


def print_table(results: dict[str, EvaluationResult]) -> None:
    """Mean return of both episodes with 95 % intervals."""
    title = f"Return of an episode on {results[META].num_tasks} held-out goals"
    table = Table(title=title, caption="95 % intervals over goals; one training each.")
    for column in ("learner", "first episode", "second episode"):
        table.add_column(column, justify="left" if column == "learner" else "right")
    for name, result in results.items():
        summary = result.summary()
        cells = [
            f"{mean:.2f} ± {(high - low) / 2:.2f}"
            for mean, (low, high) in zip(summary["mean"], summary["mean_interval"], strict=True)
        ]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 80).print(table)


def held_out_goals() -> np.ndarray:
    """The goals of the test split, ``[goals, 2]``."""
    return np.asarray(meta_rl.make_task_vec(TASKS, 1, **ENV).unwrapped.task_split.test.tasks)


def tracks(agent: RL2 | PPO, goals: np.ndarray) -> np.ndarray:
    """Positions before and after each step of both episodes, ``[2, T + 1, goals, 2]``."""
    batch = meta_rl.make_task_vec(TASKS, num_tasks=len(goals), **ENV)
    batch.set_tasks(goals)
    env = AppendPreviousStep(batch)
    observation, _ = env.reset(seed=EVALUATION_SEED)
    state, start = None, np.ones(len(goals), dtype=bool)
    episodes = []
    for _ in range(ENV["episodes_per_trial"]):
        way = [observation[:, :2]]
        for _ in range(ENV["horizon"]):
            action, state = agent.predict(observation, state, start, deterministic=True)
            observation, _, terminated, truncated, infos = env.step(action)
            done = terminated | truncated
            way.append(true_successors(observation, done, infos)[:, :2])
            start = done
        episodes.append(way)
    env.close()
    return np.array(episodes)


def draw(agents: dict[str, RL2 | PPO], path: Path) -> Path:
    """Maps of the ways to held-out goals, and the distance to the goal over both episodes."""
    goals = held_out_goals()
    figure = Figure(figsize=(11.0, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    curves = figure.add_subplot(grid[:, 2:])
    for row, (name, agent) in enumerate(agents.items()):
        ways = tracks(agent, goals)
        for column, title in enumerate(("first episode", "second episode: after adaptation")):
            ax = figure.add_subplot(grid[row, column])
            draw_map(ax, goals[:NUM_SHOWN], ways[column])
            ax.set_title(title, fontsize=10)
            if column == 0:
                ax.set_ylabel(name, color=COLOURS[name], fontsize=12)
        draw_distance(curves, name, np.linalg.norm(ways - goals, axis=-1))
    steps = np.arange(ENV["horizon"] + 1)[:, None, None]
    shortest = np.linalg.norm(np.maximum(abs(goals) - 0.1 * steps, 0.0), axis=-1)
    draw_distance(curves, OPTIMUM, np.array([shortest, shortest]))
    curves.set(xlabel="steps of the trial", ylabel="distance to the goal", ylim=(0, None))
    curves.set_xticks(range(0, 2 * ENV["horizon"] + 1, 5))
    curves.set_title(f"mean over {len(goals)} held-out goals, with 95 % intervals", fontsize=10)
    curves.legend(loc="upper right")
    figure.suptitle("Go to a goal that you do not see: the reward tells how far it is")
    figure.savefig(path, dpi=130)
    return path


def draw_map(ax: Axes, goals: np.ndarray, way: np.ndarray) -> None:
    """Goals as stars, and a way to each in its colour."""
    for index, goal in enumerate(goals):
        ax.plot(*way[:, index].T, ".-", color=f"C{index}", linewidth=1.4, markersize=4)
        ax.plot(*goal, "*", color=f"C{index}", markersize=12, markeredgecolor="black")
    ax.plot(0, 0, "ko", markersize=5)
    ax.set(xlim=(-0.65, 0.65), ylim=(-0.65, 0.65), aspect="equal", xticks=[], yticks=[])


def draw_distance(ax: Axes, name: str, distances: np.ndarray) -> None:
    """Mean distance ``[2, T + 1, goals]`` over the steps of both episodes."""
    style = "--" if name == OPTIMUM else "-"
    for episode, part in enumerate(distances):
        steps = np.arange(len(part)) + episode * (len(part) - 1)
        mean, error = part.mean(axis=1), 2.0 * part.std(axis=1) / np.sqrt(part.shape[1])
        label = name if episode == 0 else None
        ax.plot(steps, mean, style, color=COLOURS[name], label=label, linewidth=2.5)
        if name != OPTIMUM:
            ax.fill_between(steps, mean - error, mean + error, color=COLOURS[name], alpha=0.2)
        ax.axvline(steps[0], color="grey", linewidth=0.8)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
