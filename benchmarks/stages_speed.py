"""Speed of an agent's parts: steps, steps with acting, and steps with acting and training.

An agent is measured three times in each turn, with its own batch of environments:

* steps: the batch alone, with random actions;
* acting: ``learn`` with an outer update that does nothing, so that the agent collects its rollouts
  (and adapts to them) as it does in a training;
* training: ``learn`` as it is.

    python benchmarks/stages_speed.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, page, ratios, span, table, take_turns, write
from stable_baselines3.common.logger import Logger
from throughput import measure_steps, random_actions

from meta_rl.algorithms import find_algorithm
from meta_rl.vector.task_batch import task_batch

AGENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "RL², bandits of 10 arms": ("rl2", "BernoulliBandit", {"meta_batch_size": 512}),
    "RL², HalfCheetah's velocity": ("rl2", "HalfCheetahVel", {"meta_batch_size": 64}),
    "MAML-TRPO, point navigation": ("maml_trpo", "PointNavigation", {}),
    "MAML-TRPO, HalfCheetah's velocity": ("maml_trpo", "HalfCheetahVel", {}),
}
STAGES = ("steps", "acting", "training")


@dataclass
class Args:
    """Settings of the run."""

    agents: tuple[str, ...] = tuple(AGENTS)
    """Names of the agents."""
    seconds: float = 5.0
    """Least number of seconds of one measurement; iterations are whole."""
    repeats: int = 3
    """Number of turns of each stage."""
    threads: int = 1
    """Number of PyTorch CPU threads; MuJoCo takes all cores of the process."""
    out: Path = RESULTS
    """Folder of stages_speed.json and stages_speed.md."""


def stages(name: str, seconds: float) -> dict[str, Callable[[], float]]:
    """Functions that measure environment steps per second, by stage."""
    algorithm, env, arguments = AGENTS[name]
    model = find_algorithm(algorithm)(env=env, seed=0, device="cpu", **arguments)
    model.set_logger(Logger(None, []))
    batch = task_batch(model.task_env)
    actions = random_actions(batch.single_action_space, batch.num_envs)
    train = model.train

    def learning(update: Callable[[], None]) -> float:
        model.train = update
        began, done = time.perf_counter(), model.num_timesteps
        while time.perf_counter() - began < seconds:
            model.learn(1, reset_num_timesteps=False)
        return (model.num_timesteps - done) / (time.perf_counter() - began)

    def stepping() -> float:
        batch.reset(seed=0)
        return measure_steps(batch.step, actions, seconds)

    learning(train)  # warms up
    return {
        "steps": stepping,
        "acting": lambda: learning(lambda: None),
        "training": lambda: learning(train),
    }


def as_markdown(figures: dict[str, dict[str, list[float]]], args: Args) -> str:
    """The page."""
    lines = []
    for name, measured in figures.items():
        cells = [f"{np.median(measured[stage]):,.0f}" for stage in STAGES]
        parts = [ratios(measured[stage], measured["steps"]) for stage in STAGES[1:]]
        cells += [f"{np.median(part):.2g} ({span(part, '.2g')})" for part in parts]
        lines.append([name, *cells])
    heads = ["agent", "steps", "steps + acting", "steps + acting + training"]
    return page(
        "Speed of an agent's parts",
        f"`python benchmarks/stages_speed.py`, {args.threads} PyTorch thread, {args.repeats} turns "
        f"of at least {args.seconds:g} seconds: environment steps per second (medians), and how "
        "much of the speed of the steps alone remains (median and range of the ratios of a turn).",
        table([*heads, "acting / steps", "training / steps"], lines),
    )


def main(args: Args) -> None:
    """Measures, and writes the table."""
    torch.set_num_threads(args.threads)
    figures = {name: take_turns(stages(name, args.seconds), args.repeats) for name in args.agents}
    text = as_markdown(figures, args)
    print(text)
    content = {"figures": figures, "settings": {"seconds": args.seconds, "repeats": args.repeats}}
    write(args.out / "stages_speed.json", content, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
