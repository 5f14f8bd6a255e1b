"""Speed of this version of the library beside that of an earlier one.

Both versions run in processes of their own, which take turns, so that other work on the machine
disturbs both alike. A turn of a contender is at least ``--seconds`` long. Steps of environments are
made with random actions; trainings count environment steps, those of PEARL are updates alone, and
few-shot learners' are meta-batches.

    git worktree add ../before COMMIT
    python benchmarks/versions_speed.py --against ../before
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from evaluation_speed import ROOT, linked
from result_files import RESULTS, add_to_table, page, ratios, span, table, take_turns
from stable_baselines3.common.logger import Logger

import meta_rl
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.rl2 import RL2
from meta_rl.few_shot import MAML, ClassPool, ClassTasks, ProtoNet, Sinusoid, conv4, sinusoid_mlp

STEPS = {
    "BernoulliBandit": 1_000,
    "TabularMDP": 500,
    "GridNavigation": 500,
    "PointNavigation": 500,
    "HalfCheetahVel": 64,
    "AntDir": 64,
}
"""Numbers of sub-environments that are stepped, by environment."""

AGENTS: dict[str, tuple[type[Any], str, dict[str, Any]]] = {
    "RL², bandits": (RL2, "BernoulliBandit", {"meta_batch_size": 500}),
    "RL², HalfCheetah": (RL2, "HalfCheetahVel", {"meta_batch_size": 8}),
    "MAML-TRPO, points": (MAMLTRPO, "PointNavigation", {"max_initial_kl": 1e9}),
    "MAML-TRPO, HalfCheetah": (MAMLTRPO, "HalfCheetahVel", {"meta_batch_size": 2}),
}
"""Agents that train, with environment and changed settings, as far as a version has them.

MAML-TRPO's bound on the divergence of the initial policy, a further forward pass in each try of the
line search, is switched off in one of its rows."""

PEARL_SIZES = {
    "num_train_tasks": 10,
    "initial_steps": 400,
    "prior_steps": 200,
    "posterior_steps": 0,
    "extra_steps": 200,
    "updates_per_iteration": 50,
    "tasks_per_update": 8,
}


@dataclass
class Args:
    """Settings of the run."""

    against: Path | None = None
    """Folder of another checkout of this repository, such as one of an earlier commit."""
    seconds: float = 1.0
    """Least number of seconds of a turn of a contender."""
    turns: int = 11
    """Number of turns of each contender in each version."""
    only: tuple[str, ...] = ()
    """Words that the names of contenders have to contain, one of them (default: all)."""
    serve: bool = False
    """Whether to measure what is asked for on standard input, as the two processes do."""
    out: Path = RESULTS
    """Folder of versions_speed.json and versions_speed.md."""


def stepping(env: str, num_envs: int) -> Callable[[], int]:
    """A step of a batch of environments; gives the number of steps."""
    batch = meta_rl.make_task_vec(env, num_envs)
    batch.reset(seed=0)
    batch.action_space.seed(0)
    actions = [batch.action_space.sample() for _ in range(32)]

    def steps() -> int:
        for action in actions:
            batch.step(action)
        return len(actions) * num_envs

    return steps


def training(agent: type[Any], env: str, settings: dict[str, Any]) -> Callable[[], int]:
    """An iteration of an agent's training; gives the number of environment steps."""
    known = signature(agent).parameters
    settings = {name: value for name, value in settings.items() if name in known}
    model = agent(env=f"meta_rl/{env}-v0", seed=0, device="cpu", **settings)
    model.set_logger(Logger(None, []))

    def iteration() -> int:
        done = model.num_timesteps
        model.learn(1, reset_num_timesteps=False)
        return model.num_timesteps - done

    return iteration


def updating() -> Callable[[], int]:
    """The updates of an iteration of PEARL; gives their number."""
    model = PEARL(env="meta_rl/PointRobot-v0", seed=0, device="cpu", **PEARL_SIZES)
    model.set_logger(Logger(None, []))
    model.learn(34_000)

    def updates() -> int:
        model.train()
        return PEARL_SIZES["updates_per_iteration"]

    return updates


def few_shot(learner: Any, tasks: Any, iterations: int) -> Callable[[], int]:
    """Meta-batches of a few-shot learner; gives their number."""

    def learning() -> int:
        learner.learn(tasks, iterations, log_interval=None, reset_num_iterations=True)
        return iterations

    return learning


def images() -> Any:
    """Tasks of five classes of random pictures, of Omniglot's size."""
    pictures = torch.rand(800, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return ClassTasks(ClassPool(pictures, [20] * 40), ways=5, shots=1)


def contenders() -> dict[str, Callable[[], Callable[[], int]]]:
    """Functions that prepare what is timed, by name."""
    found: dict[str, Callable[[], Callable[[], int]]] = {
        f"steps of {num_envs} x {env}": partial(stepping, env, num_envs)
        for env, num_envs in STEPS.items()
    }
    found |= {f"training of {name}": partial(training, *each) for name, each in AGENTS.items()}
    found["updates of PEARL, points"] = updating
    sinusoids = {"inner_lr": 0.01, "meta_batch_size": 25, "seed": 0, "device": "cpu"}
    found["MAML, sinusoids"] = lambda: few_shot(
        MAML(sinusoid_mlp(), **sinusoids), Sinusoid(shots=10), 20
    )
    found["ProtoNet, conv4"] = lambda: few_shot(
        ProtoNet(conv4(), seed=0, device="cpu"), images(), 10
    )
    return found


def serve(seconds: float) -> None:
    """Measures what standard input names, one name a line, and prints units per second."""
    torch.set_num_threads(1)
    print(json.dumps([meta_rl.__path__[0], list(contenders())]), flush=True)
    prepared: dict[str, Callable[[], int]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in prepared:
            prepared[name] = contenders()[name]()
            prepared[name]()  # warms up
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            done += prepared[name]()
        print(done / (time.perf_counter() - began), flush=True)


@contextmanager
def version(path: Path, seconds: float) -> Iterator[tuple[list[str], Callable[[str], float]]]:
    """A process that imports from ``path``: its contenders' names, and a way to measure one."""
    command = [sys.executable, str(Path(__file__).resolve())]
    command += ["--serve", "--seconds", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        place, names = json.loads(process.stdout.readline())
        if not Path(place).is_relative_to(path):
            raise RuntimeError(f"meta_rl was imported from {place} and not from {path}")

        def measured(name: str) -> float:
            print(name, file=process.stdin, flush=True)
            return float(process.stdout.readline())  # type: ignore[union-attr]

        yield names, measured
        process.stdin.close()


def compared(args: Args, against: Path) -> dict[str, dict[str, list[float]]]:
    """Units per second in each turn, by contender and version."""
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        processes = {
            name: stack.enter_context(version(linked(checkout, folder / name), args.seconds))
            for name, checkout in {"now": ROOT, "before": against}.items()
        }
        for what in processes["now"][0]:
            if args.only and not any(word in what for word in args.only):
                continue
            turns = {name: partial(each[1], what) for name, each in processes.items()}
            found[what] = take_turns(turns, 1 + args.turns)
            found[what] = {name: rates[1:] for name, rates in found[what].items()}
            median = np.median(ratios(found[what]["now"], found[what]["before"]))
            print(f"{what}: {median:.3f}", flush=True)
    return found


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The page of all rows."""
    lines = []
    commits = sorted({row["before"] for row in rows.values()})
    for what, row in rows.items():
        rates = row["rates"]
        pairs = ratios(rates["now"], rates["before"])
        cells = [f"{np.median(rates[name]):,.0f}" for name in ("now", "before")]
        lines.append([what, *cells, f"**{np.median(pairs):.3f}**", span(pairs, ".2f")])
    return page(
        "Speed beside an earlier version",
        "`python benchmarks/versions_speed.py --against CHECKOUT`: environment steps, updates or "
        "meta-batches per second on one PyTorch thread; medians of turns that alternate between "
        f"this version and commit {', '.join(commits)}, and the median ratio with its range.",
        table(["what", "now", "before", "ratio", "range"], lines),
    )


def main(args: Args) -> None:
    """Measures, and writes the table."""
    if args.serve:
        serve(args.seconds)
        return
    if args.against is None or not (args.against / "meta_rl").is_dir():
        raise SystemExit("--against names another checkout of this repository")
    commit = subprocess.run(
        ["git", "-C", str(args.against), "rev-parse", "--short", "HEAD"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    rows = {
        what: {"before": commit, "rates": rates}
        for what, rates in compared(args, args.against).items()
    }
    print(markdown(rows))
    add_to_table(args.out / "versions_speed.json", rows, markdown)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
