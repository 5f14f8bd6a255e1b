"""Throughput of Meta-World's reach: environment steps per second, all contenders in one run.

* Our batch, Meta-World's own asynchronous vector environment (``make_ml_envs``) and, where it is
  installed, EnvPool's ``MetaWorld/Reach-v3``; random actions, resets included, episodes of 500
  steps. Our first states are simulated once for each goal, and then kept; theirs at every reset.
* Where the time of a step goes: MuJoCo, Meta-World's Python, ours, and the way between processes.
* What a native batch would take at the least: MuJoCo's own threads, with the same model, actions
  and frame skip, and nothing else.
* What many sub-environments take to begin, in time and in memory.

Contenders, and the parts of a step, take turns, ``repeats`` times, after a warm-up; medians are
reported.

    python benchmarks/metaworld_throughput.py
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import mujoco
import numpy as np
import tyro
from mujoco.rollout import Rollout
from result_files import RESULTS, page, ratios, span, table, write
from throughput import compare, measure_steps, random_actions

import meta_rl
from meta_rl.envs.metaworld_arms import Arm

Measure = Callable[[float], float]
IN_MUJOCO = ("mj_step", "mj_rnePostConstraint", "mj_forward")  # what a step of Meta-World's calls
GOAL = np.array([0.0, 0.6, 0.02, 0.1, 0.85, 0.2])
HORIZON = 500
NATIVE = "bare MuJoCo"
FULL_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
CONTROLS = mujoco.mjtState.mjSTATE_CTRL.value | mujoco.mjtState.mjSTATE_MOCAP_POS.value


@dataclass
class Args:
    """Settings of the run."""

    num_envs: int = 16
    """Number of sub-environments. Meta-World has a process for each; ours has one for each core."""
    nthread: int = 2
    """Number of threads of EnvPool and of the native batch."""
    crowd: int = 800
    """Number of sub-environments whose start is measured (default: those of MAML's iteration)."""
    seconds: float = 10.0
    """Least number of seconds of one measurement."""
    repeats: int = 5
    """Number of turns of each contender."""
    out: Path = RESULTS
    """Folder of metaworld_throughput.json and metaworld_throughput.md."""


def stepping(env: Any, space: gym.Space, num_envs: int) -> Measure:
    """Steps per second of a batch that has been reset."""
    actions = random_actions(space, num_envs).astype(space.dtype)
    return lambda seconds: measure_steps(env.step, actions, seconds)


def contenders(args: Args) -> dict[str, Measure]:
    """The contenders that are installed, by name."""
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


def parts_of_a_step(args: Args) -> dict[str, list[float]]:
    """Microseconds of a step of one sub-environment, in one process, and what they are spent on.

    Each part is the difference of two measurements that follow each other.
    """
    arm = Arm("reach-v3", None)
    batches = {
        name: meta_rl.make_task_vec("MetaWorldML1", args.num_envs, **kwargs)
        for name, kwargs in (
            ("here", {"asynchronous": False}),
            ("there", {"num_processes": 1}),
        )
    }
    steps = {
        name: stepping(env, env.single_action_space, env.num_envs) for name, env in batches.items()
    }
    for name, env in batches.items():
        env.reset(seed=0)
        steps[name](0.1)
    found: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        theirs, inside = of_meta_world(arm, args.seconds)
        here, there = (1e6 / steps[name](args.seconds) for name in ("here", "there"))
        for name, value in (
            ("MuJoCo", inside),
            ("Meta-World's Python", theirs - inside),
            ("ours: tasks, turns on the simulator, batching, resets", here - theirs),
            ("between processes", there - here),
            ("all", there),
        ):
            found.setdefault(name, []).append(value)
    for env in batches.values():
        env.close()
    return found


def of_meta_world(arm: Arm, seconds: float) -> tuple[float, float]:
    """Microseconds of a step of Meta-World's, and those of them that are spent in MuJoCo."""
    actions = np.random.default_rng(0).uniform(-1, 1, (HORIZON, 4)).astype(np.float32)
    total, inside, num_steps = 0.0, [0.0], 0
    with clock_in_mujoco(inside):
        while total < seconds:
            episode = arm.begin(GOAL)
            inside[0] = 0.0 if num_steps == 0 else inside[0]  # the first one simulates its reset
            began = time.perf_counter()
            for action in actions:
                arm.step(episode, action)
            total += time.perf_counter() - began
            num_steps += HORIZON
    return 1e6 * total / num_steps, 1e6 * inside[0] / num_steps


@contextmanager
def clock_in_mujoco(inside: list[float]) -> Iterator[None]:
    """Adds up the seconds that are spent in MuJoCo."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **keywords)
            inside[0] += time.perf_counter() - began
            return result

        return call

    with mock.patch.multiple(mujoco, **{name: timed(getattr(mujoco, name)) for name in IN_MUJOCO}):
        yield


def native_steps(args: Args) -> Measure:
    """Environment steps per second of bare MuJoCo on its own threads, with random actions."""
    arm = Arm("reach-v3", None)
    env = arm.begin(GOAL).env
    model, data = arm.model, arm.data
    state, spec = np.empty(mujoco.mj_stateSize(model, FULL_PHYSICS)), int(CONTROLS)
    mujoco.mj_getState(model, data, state, FULL_PHYSICS)
    actions = np.random.default_rng(0).uniform(-1, 1, (args.num_envs, HORIZON, 4))
    hands = np.repeat(data.mocap_pos[None], args.num_envs, axis=0)
    controls = np.empty((args.num_envs, HORIZON, env.frame_skip, 2 + 3))
    for step in range(HORIZON):  # as in Meta-World's set_xyz_action
        hands = (hands + actions[:, step, None, :3] * env.action_scale).clip(
            env.mocap_low, env.mocap_high
        )
        grip = np.stack([actions[:, step, 3], -actions[:, step, 3]], axis=1)
        controls[:, step] = np.concatenate([grip, hands[:, 0]], axis=1)[:, None]
    controls = controls.reshape(args.num_envs, -1, 5)
    pool = Rollout(nthread=args.nthread)
    datas = [mujoco.MjData(model) for _ in range(args.nthread)]
    for each in datas:
        each.mocap_quat[:] = data.mocap_quat

    def measure(seconds: float) -> float:
        began, num_steps = time.perf_counter(), 0
        while num_steps == 0 or time.perf_counter() - began < seconds:
            initial = np.tile(state, (args.num_envs, 1))
            pool.rollout(model, datas, initial, controls, control_spec=spec)
            num_steps += args.num_envs * HORIZON
        return num_steps / (time.perf_counter() - began)

    return measure


def start_of_a_crowd(num_envs: int) -> dict[str, float]:
    """Seconds until the first observations, and MiB of all processes together."""
    began = time.perf_counter()
    env = meta_rl.make_task_vec("MetaWorldML1", num_envs)
    env.reset(seed=0)
    seconds = time.perf_counter() - began
    env.step(env.action_space.sample())
    processes = [os.getpid(), *(child.pid for child in active_children() if child.pid)]
    taken = sum(map(proportional_memory, processes))
    env.close()
    return {"num_envs": num_envs, "seconds": seconds, "mib": taken}


def proportional_memory(process: int) -> float:
    """MiB of a process, with its share of what it shares; nan where the system does not tell."""
    file = Path(f"/proc/{process}/smaps_rollup")
    if not file.is_file():
        return float("nan")
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return next(int(words[1]) / 1024 for words in lines if words[0] == "Pss:")


def report(content: dict[str, Any], args: Args) -> str:
    """The page of the tables."""
    figures, parts, crowd = content["figures"], content["parts"], content["crowd"]
    batches = []
    for name, values in figures.items():
        gains = ratios(figures["meta_rl"], values)
        cells = [name, f"{np.median(values):,.0f}", f"{np.median(gains):.2f}", span(gains)]
        batches.append(cells)
    whole = np.median(parts["all"])
    return page(
        "Throughput of Meta-World's reach",
        f"`python benchmarks/metaworld_throughput.py`: {args.num_envs} sub-environments on "
        f"{os.cpu_count()} cores, random actions, resets included; medians of {args.repeats} turns "
        f"of {args.seconds:g} s. Our first states are simulated once for each goal, and then kept.",
        table(["batch", "steps/s", "ours / it", "range"], batches),
        f"`{NATIVE}` is what a native batch would take at the least: {args.nthread} threads, no "
        "resets, no observations, no rewards.",
        table(
            ["part of a step in one process", "µs", "range", "share"],
            [
                [
                    name,
                    f"{np.median(values):.0f}",
                    span(values, ".0f"),
                    f"{np.median(values) / whole:.0%}",
                ]
                for name, values in parts.items()
            ],
        ),
        f"{crowd['num_envs']} sub-environments have their first observations after "
        f"{crowd['seconds']:.1f} s, and take {crowd['mib']:,.0f} MiB in all processes together.",
    )


def main(args: Args) -> None:
    """Measures, and writes the tables."""
    crowd = start_of_a_crowd(args.crowd)
    measures = contenders(args)
    measures[NATIVE] = native_steps(args)
    figures = compare(measures, repeats=args.repeats, seconds=args.seconds)
    content = {"figures": figures, "parts": parts_of_a_step(args), "crowd": crowd}
    text = report(content, args)
    print(text)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    write(args.out / "metaworld_throughput.json", {**content, "settings": settings}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
