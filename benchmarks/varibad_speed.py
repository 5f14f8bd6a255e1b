"""Training speed of VariBAD on GridNavigation, beside its authors' code.

``--theirs PATH`` names a checkout of https://github.com/lmzintgraf/varibad, which runs as it is,
with its settings for the grid world, on stand-ins for the few parts of the old gym that it imports
here. Ours runs with its shipped settings, and with the authors' sizes: 16 trials at a time, 60
steps in an iteration, and as many updates of as large batches. Contenders take turns in one
process, each turn anew and from its first updates on. Speeds are by the clock: pin the process to
the cores that all may use, since the authors' environments are 16 processes.

    taskset -c 0 python benchmarks/varibad_speed.py --theirs ~/varibad
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from result_files import RESULTS, notes, page, ratios, span, table, take_turns, write
from stable_baselines3.common.callbacks import BaseCallback

from meta_rl.agents.varibad import VariBAD
from meta_rl.cli.settings import find_settings, with_schedules
from meta_rl.compute.freed_memory import keep_freed_memory

ENVIRONMENT = "meta_rl/GridNavigation-v0"
THEIRS, SHIPPED, THEIR_SIZES = "the authors' code", "meta_rl", "meta_rl, the authors' sizes"
SIZES: dict[str, Any] = {  # config/gridworld/args_grid_varibad.py
    "meta_batch_size": 16,
    "num_minibatches": 4,
    "num_epochs": 2,
    "discount": 0.95,
    "gae_lambda": 0.95,
    "clip_range": 0.05,
    "learning_rate": 7e-4,
    "entropy_coefficient": 0.01,
    "inference_updates": 3,
    "inference_trials": 25,
    "inference_learning_rate": 1e-3,
    "buffer_trials": 10_000,
    "kl_weight": 0.01,
    "policy_kwargs": {
        "hidden_size": 64,
        "embedding": [16],
        "hidden_sizes": [32],
        "latent_size": 5,
        "decoder_size": 32,
        "reward_values": [-0.1, 1.0],
        "reward_of_state": True,
    },
}
PER_ITERATION = 16 * 60
"""Steps of an iteration of the authors' code, and of ours with its sizes."""


@dataclass
class Args:
    """Settings of the run."""

    theirs: Path | None = None
    """Folder of a checkout of https://github.com/lmzintgraf/varibad (default: none)."""
    repeats: int = 5
    """Number of turns of each contender."""
    seconds: float = 20.0
    """Seconds of a turn, after the first iteration of ours, or the 5,000 steps that the authors'
    code collects before its first update."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    out: Path = RESULTS
    """Folder of varibad_speed.json and varibad_speed.md."""


class Rate:
    """Steps per second since the first call, which also says when the time is over.

    Args:
        seconds: Seconds of the measurement.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.points: list[tuple[float, int]] = []

    def over(self, steps: int) -> bool:
        """Notes how many steps are done after an iteration; returns whether the time is over."""
        self.points.append((time.perf_counter(), steps))
        return len(self.points) > 1 and self.points[-1][0] - self.points[0][0] >= self.seconds

    @property
    def value(self) -> float:
        """Steps per second."""
        (began, before), (ended, after) = self.points[0], self.points[-1]
        return (after - before) / (ended - began)


class Until(BaseCallback):
    """Ends a training when the time is over; looks at the beginning of each iteration."""

    def __init__(self, rate: Rate) -> None:
        super().__init__()
        self.rate, self.goes_on = rate, True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps > 0:
            self.goes_on = not self.rate.over(self.num_timesteps)

    def _on_step(self) -> bool:
        return self.goes_on


def ours(settings: dict[str, Any], seconds: float) -> float:
    """Steps per second of a training with these settings."""
    rate = Rate(seconds)
    model = VariBAD(env=ENVIRONMENT, seed=0, device="cpu", **settings)
    model.learn(10**9, callback=Until(rate), log_interval=None)
    return rate.value


def theirs(checkout: Path, seconds: float) -> float:
    """Steps per second of the authors' training; its log, once an iteration, is the clock."""
    stand_in_for_gym()
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    config = import_module("config.gridworld.args_grid_varibad")
    learner_class = import_module("metalearner").MetaLearner
    with tempfile.TemporaryDirectory() as folder:
        options = ["--results_log_dir", folder]
        args: argparse.Namespace = config.get_args(options)
        args.seed, args.action_space = 0, None
        learner, rate = learner_class(args), Rate(seconds)

        def log(run_stats: Any, train_stats: Any, start_time: float) -> None:
            if train_stats is not None and rate.over(learner.frames):
                learner.envs.close()
                raise StopIteration

        learner.log = log
        try:
            learner.train()
        except StopIteration:
            return rate.value
    raise RuntimeError("the authors' training ended before the time was over")


class GymEnv:
    """Stands in for ``gym.Env``."""

    def seed(self, seed: int | None = None) -> None:
        """Does nothing: the grid world draws from the global generators."""

    def close(self) -> None:
        """Does nothing."""

    @property
    def unwrapped(self) -> Any:
        """The environment below all wrappers."""
        return self


class GymWrapper(GymEnv):
    """Stands in for ``gym.Wrapper``."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space

    @property
    def unwrapped(self) -> Any:
        """The environment below all wrappers."""
        return self.env.unwrapped


@dataclass
class GymRegistry:
    """Stands in for the registry of gym."""

    known: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def register(self, id: str, entry_point: str, kwargs: Any = None, **_: Any) -> None:
        """Notes the class of an environment and its arguments."""
        self.known[id] = entry_point, kwargs or {}

    def make(self, id: str) -> Any:
        """Makes an environment, without a wrapper."""
        import_module("environments")  # registers the authors' own
        place, kwargs = self.known[id]
        return resolve_name(place)(**kwargs)


def stand_in_for_gym() -> None:
    """Puts modules in place of the parts of gym 0.17 that the authors' grid world imports."""
    if "gym" in sys.modules:
        return
    registry, logger = GymRegistry(), types.SimpleNamespace(set_level=lambda level: None)
    common = {"make": registry.make, "logger": logger, "spaces": gymnasium.spaces}
    parts: dict[str, dict[str, Any]] = {
        "gym": {"Env": GymEnv, "Wrapper": GymWrapper, **common},
        "gym.envs": {},
        "gym.envs.registration": {"register": registry.register, "load": resolve_name},
        "environments.mujoco.rand_param_envs": {},  # an older gym within the checkout
    }
    for name, content in parts.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    sys.modules["gym.spaces"] = gymnasium.spaces


def contenders(args: Args) -> dict[str, Callable[[], float]]:
    """The trainings to measure, by name."""
    settings = find_settings("varibad", "GridNavigation")[2]
    del settings["total_timesteps"]
    policy = settings.pop("policy")
    shipped = {**with_schedules(VariBAD, settings), "policy_kwargs": policy}
    found: dict[str, Callable[[], float]] = {
        SHIPPED: partial(ours, shipped, args.seconds),
        THEIR_SIZES: partial(ours, SIZES, args.seconds),
    }
    if args.theirs is not None:
        found[THEIRS] = partial(theirs, args.theirs.expanduser(), args.seconds)
    return found


def main(args: Args) -> None:
    """Measures, and writes the table."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    figures = take_turns(contenders(args), args.repeats)
    peer = figures.get(THEIRS, figures[THEIR_SIZES])
    rows = []
    for name, rates in figures.items():
        gains = ratios(rates, peer)
        rows.append(
            [name, f"{np.median(rates):,.0f}", f"**{np.median(gains):.1f}**", span(gains, ".1f")]
        )
    beside = THEIRS if THEIRS in figures else THEIR_SIZES
    file = args.out / "varibad_speed.json"
    text = page(
        "Training speed of VariBAD on GridNavigation",
        "`python benchmarks/varibad_speed.py --theirs PATH`: whole trainings by the clock, medians "
        f"of {args.repeats} turns of {args.seconds:g} s, with {args.threads} PyTorch thread(s). "
        f"An iteration of the authors' code, and of ours with its sizes, has {PER_ITERATION} "
        "steps, 8 updates of the policy and 3 of the encoder; one of ours with the shipped "
        "settings has 30,720 steps, 32 updates of the policy and 12 of the encoder, on larger "
        "batches.",
        table(["training", "steps/s", f"times {beside}", "range"], rows),
        notes(file),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    write(file, {"figures": figures, "threads": args.threads, "seconds": args.seconds}, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
