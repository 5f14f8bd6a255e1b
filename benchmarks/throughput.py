"""Throughput of the robots: environment steps per second, all contenders in one run.

* HalfCheetah and Ant in the same number of sub-environments, with random actions, resets included:
  our native batch, EnvPool (where it is installed), and Gymnasium's ``SyncVectorEnv`` and
  ``AsyncVectorEnv``. Episodes have Gymnasium's 1,000 steps, and Ant has no contact forces, for all.
* Our native batch on one thread against bare ``mj_step``: the same model and the same actions.
* Our native batch of 1 to 1,024 sub-environments.
* Every family that we ship.

Contenders take turns, ``repeats`` times, after a warm-up; medians are reported.

    python benchmarks/throughput.py
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import tyro
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from matplotlib import pyplot as plt
from result_files import RESULTS, page, ratios, span, table, take_turns, write

import meta_rl
from meta_rl.envs.robot import Robot
from meta_rl.make import ENVIRONMENTS

NUM_ACTIONS = 64  # batches of random actions, drawn before the clock runs
HORIZON = 1000  # of Gymnasium's robots

# Ours, and what the peers call it.
ROBOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "HalfCheetahVel": ("HalfCheetah-v5", {}),
    "AntForwardBackward": ("Ant-v5", {"include_cfrc_ext_in_observation": False}),
}


@dataclass
class Args:
    """Settings of the run."""

    num_envs: int = 64
    """Number of sub-environments in the comparison with the peers."""
    nthread: int = 2
    """Number of threads of our batch and of EnvPool; AsyncVectorEnv has a process for each."""
    seconds: float = 3.0
    """Least number of seconds of one measurement."""
    repeats: int = 5
    """Number of turns of each contender."""
    scaling: tuple[int, ...] = (1, 16, 64, 256, 1024)
    """Numbers of sub-environments in the comparison of batch sizes."""
    out: Path = RESULTS
    """Folder of throughput.json, throughput.md and throughput.png."""


Measure = Callable[[float], float]
"""Measures environment steps per second for a number of seconds."""


def random_actions(space: gym.Space, num_envs: int) -> np.ndarray:
    """Batches of actions, ``[NUM_ACTIONS, num_envs, ...]``."""
    space.seed(0)
    return np.array([[space.sample() for _ in range(num_envs)] for _ in range(NUM_ACTIONS)])


def measure_steps(step: Callable[[Any], Any], actions: np.ndarray, seconds: float) -> float:
    """Sub-environment steps per second of ``step``; the clock is read once in NUM_ACTIONS."""
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for action in actions:
            step(action)
        batches += len(actions)
    return batches * actions.shape[1] / (time.perf_counter() - began)


def native(name: str, num_envs: int, nthread: int, **kwargs: Any) -> Measure:
    """Our native batch."""
    env = meta_rl.make_task_vec(name, num_envs, nthread=nthread, **kwargs)
    env.reset(seed=0)
    actions = random_actions(env.single_action_space, num_envs)
    return lambda seconds: measure_steps(env.step, actions, seconds)


def gymnasium_vector(kind: Any, name: str, num_envs: int, **kwargs: Any) -> Measure:
    """One of Gymnasium's vector environments of its own robot."""
    make = [lambda: gym.make(name, **kwargs)] * num_envs
    env = kind(make, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = random_actions(env.single_action_space, num_envs)
    return lambda seconds: measure_steps(env.step, actions, seconds)


def envpool_vector(name: str, num_envs: int, nthread: int) -> Measure:
    """EnvPool's robot of that name, of the newest version that it has (v5, or v4)."""
    envpool = importlib.import_module("envpool")
    known = envpool.list_all_envs()
    family = name.partition("-")[0]
    found = next(f"{family}-{v}" for v in ("v5", "v4") if f"{family}-{v}" in known)
    env = envpool.make_gymnasium(
        found, num_envs=num_envs, num_threads=nthread, seed=0, max_episode_steps=HORIZON
    )
    env.reset()
    actions = random_actions(env.action_space, num_envs).astype(np.float64)
    return lambda seconds: measure_steps(env.step, actions, seconds)


def bare_mujoco(name: str, num_envs: int) -> Measure:
    """``mj_step`` in a loop over as many ``MjData``; a reset is a copy of the first state."""
    env = meta_rl.make_task_vec(name, num_envs, nthread=1)
    batch = env.definition.batch
    actions = random_actions(env.single_action_space, num_envs)
    robots = [mujoco.MjData(batch.model) for _ in range(num_envs)]
    steps = 0

    def step(action: np.ndarray) -> None:
        nonlocal steps
        steps += 1
        for data, control in zip(robots, action, strict=True):
            data.ctrl[:] = control
            mujoco.mj_step(batch.model, data, batch.frame_skip)
            if steps % HORIZON == 0:
                mujoco.mj_resetData(batch.model, data)

    return lambda seconds: measure_steps(step, actions, seconds)


def compare(
    contenders: dict[str, Measure], *, repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Lets the contenders take turns, after a warm-up."""
    for measure in contenders.values():
        measure(0.2)
    return take_turns(
        {name: partial(measure, seconds) for name, measure in contenders.items()}, repeats
    )


def compare_peers(name: str, args: Args) -> dict[str, list[float]]:
    """Steps per second of ours and of every peer that is installed."""
    theirs, kwargs = ROBOTS[name]
    contenders = {"meta_rl": native(name, args.num_envs, args.nthread, horizon=HORIZON)}
    if importlib.util.find_spec("envpool"):
        contenders["EnvPool"] = envpool_vector(theirs, args.num_envs, args.nthread)
    for kind in (SyncVectorEnv, AsyncVectorEnv):
        contenders[kind.__name__] = gymnasium_vector(kind, theirs, args.num_envs, **kwargs)
    return compare(contenders, repeats=args.repeats, seconds=args.seconds)


def compare_bare(name: str, args: Args) -> dict[str, list[float]]:
    """Steps per second of ours on one thread, and of bare MuJoCo."""
    contenders = {
        "meta_rl, 1 thread": native(name, args.num_envs, 1, horizon=HORIZON),
        "bare mj_step": bare_mujoco(name, args.num_envs),
    }
    return compare(contenders, repeats=args.repeats, seconds=args.seconds)


def robot_names() -> list[str]:
    """The registered families that are stepped by MuJoCo."""
    families = {name: meta_rl.make_task_vec(name, 1).definition for name in ENVIRONMENTS}
    return [name for name, family in families.items() if isinstance(family, Robot)]


def against_each(name: str, figures: dict[str, list[float]]) -> list[list[str]]:
    """The rows of a robot: the first contender against each of the others."""
    (ours, mine), *others = figures.items()
    rows = []
    for theirs, values in others:
        gains, speed = ratios(mine, values), f"{np.median(values):,.0f}"
        gain = [f"**{np.median(gains):.2f}**", span(gains)]
        rows.append([name, ours, f"{np.median(mine):,.0f}", theirs, speed, *gain])
    return rows


def plot(scaling: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Steps per second over the number of sub-environments."""
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name, figures in scaling.items():
        axes.plot(list(figures), [np.median(f) for f in figures.values()], "o-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="sub-environments", ylabel="steps per second")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(results: dict[str, Any], args: Args) -> str:
    """The page of the tables."""
    return page(
        "Throughput",
        f"`python benchmarks/throughput.py`: {args.num_envs} sub-environments, {args.nthread} "
        f"threads on {os.cpu_count()} cores, random actions, resets included; medians of "
        f"{args.repeats} turns of {args.seconds:g} s.",
        table(
            ["robot", "ours", "steps/s", "peer", "steps/s", "ratio", "range"],
            [
                row
                for part in ("peers", "bare")
                for name, figures in results[part].items()
                for row in against_each(name, figures)
            ],
        ),
        [
            "Bare `mj_step` has the same model and flags, but lets MuJoCo's profiler read the "
            "clock, as it",
            "does by default; ours takes it away. AsyncVectorEnv has a process for every "
            "sub-environment.",
        ],
        table(
            ["robot", *(f"{n:,}" for n in args.scaling)],
            [
                [name, *(f"{np.median(f):,.0f}" for f in figures.values())]
                for name, figures in results["scaling"].items()
            ],
        ),
        table(
            ["family", f"steps/s of {args.num_envs}"],
            [[name, f"{np.median(f):,.0f}"] for name, f in results["families"].items()],
        ),
    )


def main(args: Args) -> None:
    """Measures, and writes the tables and the plot."""
    compared = partial(compare, repeats=args.repeats, seconds=args.seconds)
    results: dict[str, Any] = {
        "peers": {name: compare_peers(name, args) for name in ROBOTS},
        "bare": {name: compare_bare(name, args) for name in ROBOTS},
        "scaling": {},
    }
    for name in ROBOTS:
        batches = {str(n): native(name, n, args.nthread) for n in args.scaling}
        results["scaling"][name] = {int(n): f for n, f in compared(batches).items()}
    families = {name: native(name, args.num_envs, args.nthread) for name in robot_names()}
    results["families"] = compared(families)
    text = report(results, args)
    print(text)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    write(args.out / "throughput.json", {**results, "settings": settings}, text)
    plot(results["scaling"], args.out / "throughput.png")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
