"""Throughput of Meta-World: environment steps per second, all contenders in one run.

* ML1 reach: our native batch, our processes over Meta-World's own environments
  (``native=False``), Meta-World's asynchronous vector environment (``make_ml_envs``) and, where it
  is installed, EnvPool's ``MetaWorld/Reach-v3``; random actions, resets included, episodes of 500
  steps. Our first states are simulated once for each goal, and then kept; theirs at every reset.
* The least that a native batch can take: MuJoCo's own threads with the same compiled model, the
  same actions and six calls of ``mj_step`` for a step, and nothing else.
* ML10 and ML45: our native batch, and our processes. EnvPool steps one environment at a time.
* What many sub-environments take to begin, in time and in memory.

Contenders take turns, ``repeats`` times, after a warm-up; medians are reported. Where a contender
runs in this process, so is the processor time of a step, which other work on the machine changes
less than the time on the clock.

    python benchmarks/metaworld_throughput.py
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import tyro
from mujoco.rollout import Rollout
from result_files import RESULTS, page, ratios, span, table, write
from throughput import compare, measure_steps, random_actions

import meta_rl
from meta_rl.envs.metaworld_goals import benchmark_goals, observation_space
from meta_rl.envs.metaworld_models import CONTROLS, FRAME_SKIP
from meta_rl.envs.metaworld_native import ACTION_SCALE, NativeArm
from meta_rl.physics.shared_rollout import SharedRollout

Measure = Callable[[float], float]
HORIZON = 500
OURS, BARE = "meta_rl, native", "bare MuJoCo"
HERE = (OURS, "EnvPool", BARE)  # contenders in this process


@dataclass
class Args:
    """Settings of the run."""

    num_envs: tuple[int, ...] = (16, 64)
    """Numbers of sub-environments of reach. Meta-World has a process for each."""
    ml10: int = 100
    """Number of sub-environments of ML10; 0 leaves it out."""
    ml45: int = 450
    """Number of sub-environments of ML45, whose start is measured, too; 0 leaves it out."""
    most_processes: int = 16
    """Largest number of processes that Meta-World's vector environment is given, one for each
    sub-environment; it is left out of larger comparisons."""
    nthread: int = 2
    """Number of threads of EnvPool, of our batch and of bare MuJoCo, and of our processes."""
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


def ours(name: str, num_envs: int, **kwargs: Any) -> Measure:
    """Steps per second of one of our batches."""
    env = meta_rl.make_task_vec(name, num_envs, **kwargs)
    env.reset(seed=0)
    return stepping(env, env.single_action_space, num_envs)


def both_of_ours(name: str, num_envs: int, args: Args) -> dict[str, Measure]:
    """Our native batch, and our processes."""
    return {
        OURS: ours(name, num_envs, nthread=args.nthread),
        "meta_rl, processes": ours(name, num_envs, native=False, num_processes=args.nthread),
    }


def contenders(num_envs: int, args: Args) -> dict[str, Measure]:
    """The contenders of reach that are installed, by name."""
    found = both_of_ours("MetaWorldML1", num_envs, args)
    if num_envs <= args.most_processes:
        theirs = importlib.import_module("metaworld").make_ml_envs(
            "reach-v3",
            seed=0,
            meta_batch_size=num_envs,
            total_tasks_per_cls=num_envs,
            vector_strategy="async",
            terminate_on_success=False,
        )
        theirs.reset(seed=0)
        found["Meta-World"] = stepping(theirs, theirs.single_action_space, num_envs)
    if importlib.util.find_spec("envpool"):
        pool = importlib.import_module("envpool").make_gymnasium(
            "MetaWorld/Reach-v3", num_envs=num_envs, num_threads=args.nthread, seed=0
        )
        pool.reset()
        found["EnvPool"] = stepping(pool, pool.action_space, num_envs)
    found[BARE] = bare_steps(num_envs, args.nthread)
    return found


def bare_steps(num_envs: int, nthread: int) -> Measure:
    """Environment steps per second of MuJoCo's threads with the same model, from first states."""
    native = NativeArm("reach-v3", observation_space())
    goal = benchmark_goals("ML1", "reach-v3", 0).train[0][1]
    first = native.begin(SharedRollout(1), goal[None])
    hand, calls = first.hand.repeat(num_envs, axis=0), FRAME_SKIP + 1
    actions = np.random.default_rng(0).uniform(-1, 1, (HORIZON, num_envs, 4))
    inputs = []
    for action in actions:
        hand = (hand + action[:, :3] * ACTION_SCALE).clip((-0.5, 0.4, 0.05), (0.5, 1.0, 0.5))
        inputs.append(native.arm.controls(action[:, 3], hand, hand))
    controls = np.repeat(np.array(inputs), calls, axis=0).transpose(1, 0, 2).copy()
    initial = np.tile(first.physics[:, : native.arm.size], (num_envs, 1))
    pool = Rollout(nthread=nthread)
    datas = [mujoco.MjData(native.arm.model) for _ in range(nthread)]

    def measure(seconds: float) -> float:
        began, num_steps = time.perf_counter(), 0
        while num_steps == 0 or time.perf_counter() - began < seconds:
            pool.rollout(native.arm.model, datas, initial, controls, control_spec=CONTROLS)
            num_steps += num_envs * HORIZON
        return num_steps / (time.perf_counter() - began)

    return measure


def start_of_a_crowd(num_envs: int) -> dict[str, float]:
    """Seconds until the first observations, and MiB of all processes together."""
    meta_rl.make_task_vec("MetaWorldML45", 1).close()  # draws the lists of goals
    env = meta_rl.make_task_vec("MetaWorldML45", num_envs)
    began = time.perf_counter()
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


def measured(contenders: dict[str, Measure], args: Args) -> dict[str, Any]:
    """Steps per second of the contenders, and microseconds of the processor for a step."""
    times: dict[str, list[float]] = {name: [] for name in contenders if name in HERE}
    timed = {
        name: processor_timed(measure, times[name]) if name in HERE else measure
        for name, measure in contenders.items()
    }
    rates = compare(timed, repeats=args.repeats, seconds=args.seconds)
    return {"rates": rates, "processor": {name: found[1:] for name, found in times.items()}}


def processor_timed(measure: Measure, times: list[float]) -> Measure:
    """The same measurement, which also appends the microseconds of the processor for a step."""

    def timed(seconds: float) -> float:
        began, worked = time.perf_counter(), time.process_time()
        rate = measure(seconds)
        num_steps = rate * (time.perf_counter() - began)
        times.append(1e6 * (time.process_time() - worked) / num_steps)
        return rate

    return timed


def rows(found: dict[str, Any]) -> list[list[str]]:
    """The rows of a table of contenders."""
    rates, times = found["rates"], found["processor"]
    cells = []
    for name, values in rates.items():
        gains = ratios(rates[OURS], values)
        row = [name, f"{np.median(values):,.0f}", f"{np.median(gains):.2f}", span(gains)]
        if name in times:
            saved = ratios(times[name], times[OURS])
            row += [f"{np.median(times[name]):.0f}", f"{np.median(saved):.2f}", span(saved)]
        cells.append(row + [""] * (7 - len(row)))
    return cells


def report(content: dict[str, Any], args: Args) -> str:
    """The page of the tables."""
    crowd, load = content["crowd"], content["load"]
    blocks: list[str | list[str]] = []
    begun = ""
    if crowd:
        begun = (
            f"{crowd['num_envs']} sub-environments of ML45 have their first observations "
            f"{crowd['seconds']:.1f} s after the lists of goals are drawn, and take "
            f"{crowd['mib']:,.0f} MiB."
        )
    heads = ["batch", "steps/s", "ours / it", "range", "processor µs a step", "it / ours", "range"]
    for title, found in content["figures"].items():
        blocks += [f"## {title}", table(heads, rows(found))]
    return page(
        "Throughput of Meta-World",
        f"`python benchmarks/metaworld_throughput.py`: {os.cpu_count()} cores, {args.nthread} "
        f"threads or processes, random actions, resets included; medians of {args.repeats} turns "
        f"of {args.seconds:g} s. Our first states are simulated once for each goal, and then kept. "
        f"The machine had a load of {load[0]:.1f} before, and of {load[1]:.1f} after it.",
        *blocks,
        f"`{BARE}` is what a native batch of the same model would take at the least: no resets, no "
        "observations, no rewards.",
        begun,
    )


def main(args: Args) -> None:
    """Measures, and writes the tables."""
    load = [os.getloadavg()[0]]
    crowd = start_of_a_crowd(args.ml45) if args.ml45 else None
    figures = {
        f"ML1 reach, {num_envs} sub-environments": measured(contenders(num_envs, args), args)
        for num_envs in args.num_envs
    }
    for name, num_envs in (("ML10", args.ml10), ("ML45", args.ml45)):
        if num_envs:
            batches = both_of_ours(f"MetaWorld{name}", num_envs, args)
            figures[f"{name}, {num_envs} sub-environments"] = measured(batches, args)
    load.append(os.getloadavg()[0])
    content = {"figures": figures, "crowd": crowd, "load": load}
    text = report(content, args)
    print(text)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    write(args.out / "metaworld_throughput.json", {**content, "settings": settings}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
