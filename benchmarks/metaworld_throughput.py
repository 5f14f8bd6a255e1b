"""Throughput of Meta-World's reach: environment steps per second, all contenders in one run.

Our batch, Meta-World's own asynchronous vector environment (``make_ml_envs``) and, where it is
installed, EnvPool's ``MetaWorld/Reach-v3``; random actions, resets included, episodes of 500
steps. Contenders take turns, ``repeats`` times, after a warm-up; medians are reported. Then a
profile of one Python environment, which says where the time of a step goes.

    python benchmarks/metaworld_throughput.py
"""

from __future__ import annotations

import cProfile
import importlib
import importlib.util
import json
import os
import pstats
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from throughput import measure_steps, random_actions

import meta_rl
from meta_rl.envs.metaworld import MetaWorldTask
from meta_rl.provenance import package_versions, write_atomically

Measure = Callable[[float], float]
PROFILED = ("do_simulation", "_get_obs", "evaluate_state", "set_xyz_action", "step", "reset")


@dataclass
class Args:
    """Settings of the run."""

    num_envs: int = 16
    """Sub-environments: as many processes for ours and for Meta-World's."""
    nthread: int = 2
    """Threads of EnvPool."""
    seconds: float = 10.0
    """Of one measurement, at least."""
    repeats: int = 5
    """Turns of each contender."""
    out: Path = Path(__file__).parent / "results"
    """Folder of metaworld_throughput.json and metaworld_throughput.md."""


def stepping(env: Any, space: gym.Space, num_envs: int) -> Measure:
    """Steps per second of a batch that has been reset."""
    actions = random_actions(space, num_envs).astype(space.dtype)
    return lambda seconds: measure_steps(env.step, actions, seconds)


def contenders(args: Args) -> dict[str, Measure]:
    """All that are installed."""
    ours = meta_rl.make_task_vec("MetaWorldML1", args.num_envs)
    ours.reset(seed=0)
    theirs = importlib.import_module("metaworld").make_ml_envs(
        "reach-v3",
        seed=0,
        meta_batch_size=args.num_envs,
        total_tasks_per_cls=args.num_envs,
        vector_strategy="async",
        terminate_on_success=False,
    )
    theirs.reset(seed=0)
    found = {
        "meta_rl": stepping(ours, ours.single_action_space, args.num_envs),
        "Meta-World": stepping(theirs, theirs.single_action_space, args.num_envs),
    }
    if importlib.util.find_spec("envpool"):
        pool = importlib.import_module("envpool").make_gymnasium(
            "MetaWorld/Reach-v3", num_envs=args.num_envs, num_threads=args.nthread, seed=0
        )
        pool.reset()
        found["EnvPool"] = stepping(pool, pool.action_space, args.num_envs)
    return found


def compare(measures: dict[str, Measure], args: Args) -> dict[str, list[float]]:
    """Let the contenders take turns, after a warm-up."""
    for measure in measures.values():
        measure(0.0)
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(args.repeats):
        for name, measure in measures.items():
            figures[name].append(measure(args.seconds))
    return figures


def profile() -> dict[str, float]:
    """Share of an episode's time, with its reset, in functions and all that they call."""
    env = MetaWorldTask()
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(env.horizon)]
    with cProfile.Profile() as profiler:
        env.reset()
        for action in actions:
            env.step(action)
    found = pstats.Stats(profiler)
    total = found.total_tt  # type: ignore[attr-defined]
    shares: dict[str, float] = {}
    for (file, _, name), (*_, cumulative, _) in found.stats.items():  # type: ignore[attr-defined]
        owner = Path(file).stem
        if name in PROFILED and ("metaworld" in file or owner == "mujoco_env"):
            shares[f"{owner}.{name}"] = cumulative / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def report(figures: dict[str, list[float]], shares: dict[str, float], args: Args) -> str:
    """The tables."""
    ours = np.array(figures["meta_rl"])
    lines = [
        "# Throughput of Meta-World's reach",
        "",
        f"`python benchmarks/metaworld_throughput.py`: {args.num_envs} sub-environments on "
        f"{os.cpu_count()} cores, random actions, resets included; medians of {args.repeats} turns "
        f"of {args.seconds:g} s.",
        "",
        "| batch | steps/s | ours / it | range |",
        "|---|---|---|---|",
    ]
    for name, values in figures.items():
        ratio = ours / np.array(values)
        lines.append(
            f"| {name} | {np.median(values):,.0f} | {np.median(ratio):.2f} | "
            f"{ratio.min():.2f} to {ratio.max():.2f} |"
        )
    lines += ["", "| part of an episode in one process (profiled, with its calls) | share |"]
    lines += ["|---|---|", *(f"| `{name}` | {share:.0%} |" for name, share in shares.items())]
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return "\n".join([*lines, "", versions + ".", ""])


def main(args: Args) -> None:
    """Measure, and write the tables."""
    figures = compare(contenders(args), args)
    shares = profile()
    table = report(figures, shares, args)
    print(table)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    content = {"figures": figures, "profile": shares, "versions": package_versions()}
    content["settings"] = settings
    write_atomically(args.out / "metaworld_throughput.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / "metaworld_throughput.md", table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
