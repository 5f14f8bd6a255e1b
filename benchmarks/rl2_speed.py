"""Training speed of RL² on HalfCheetahVel: the GRU's setting against one with a minimal GRU.

The two train in alternating turns of an iteration each, in one process, so that other work on the
machine disturbs both alike. Seconds of the processor are those of all threads together, that is, of
one core that does nothing else; seconds of the clock are those of ``--threads`` cores.

    python benchmarks/rl2_speed.py
    taskset -c 0,1 python benchmarks/rl2_speed.py --threads 2
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from result_files import RESULTS, notes, page, read, table, write

from meta_rl.agents.rl2 import RL2
from meta_rl.compute.freed_memory import keep_freed_memory

SHARED: dict[str, Any] = {
    "meta_batch_size": 256,
    "num_minibatches": 4,
    "discount": 0.97,
    "gae_lambda": 0.9,
    "learning_rate": 1e-3,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "GRU, 4 epochs": {"num_epochs": 4, "policy_kwargs": {"core": "gru", "hidden_size": 128}},
    "GRU, 2 epochs": {"num_epochs": 2, "policy_kwargs": {"core": "gru", "hidden_size": 128}},
    "minGRU, 4 epochs": {
        "num_epochs": 4,
        "policy_kwargs": {
            "core": "mingru",
            "hidden_size": 128,
            "embedding": [64],
            "hidden_sizes": [128],
        },
    },
    "minGRU, 2 epochs": {
        "num_epochs": 2,
        "policy_kwargs": {
            "core": "mingru",
            "hidden_size": 128,
            "embedding": [64],
            "hidden_sizes": [128],
        },
    },
}


@dataclass
class Args:
    """Settings of the run."""

    rounds: int = 5
    """Number of iterations of each setting, after one that does not count."""
    threads: int = 1
    """Number of cores: of PyTorch's threads; MuJoCo takes those that the process may use."""
    out: Path = RESULTS
    """Folder of rl2_speed.json and rl2_speed.md."""


@dataclass
class Watched:
    """An agent, and the seconds of its rollouts and updates, by clock and by processor."""

    agent: RL2
    spent: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("collect_rollouts", "train"):
            setattr(self.agent, part, self._timed(part, getattr(self.agent, part)))

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.perf_counter(), time.process_time()
            returned = method(*args)
            for name, then, now in zip(
                ("clock", "processor"),
                began,
                (time.perf_counter(), time.process_time()),
                strict=True,
            ):
                self.spent.setdefault(f"{part}, {name}", []).append(now - then)
            return returned

        return timed

    def medians(self) -> dict[str, float]:
        """Seconds of each part, without the first iteration."""
        return {part: statistics.median(each[1:]) for part, each in self.spent.items()}


def measured(args: Args) -> dict[str, dict[str, float]]:
    """Runs all settings in alternating turns; gives medians of seconds by setting."""
    watched = {
        name: Watched(
            RL2(env="meta_rl/HalfCheetahVel-v0", seed=0, device="cpu", **SHARED, **setting)
        )
        for name, setting in SETTINGS.items()
    }
    for turn in range(args.rounds + 1):
        for each in watched.values():
            steps = each.agent.n_envs * each.agent.whole_trial()
            each.agent.learn(steps, log_interval=None, reset_num_timesteps=False)
        print(f"turn {turn} of {args.rounds}", flush=True)
    return {name: each.medians() for name, each in watched.items()}


def markdown(runs: dict[str, Any], file: Path) -> str:
    """The page of all runs so far."""
    blocks: list[list[str]] = []
    for cores, run in sorted(runs.items()):
        kind = "processor" if cores == "1" else "clock"
        lines, steps = [], run["steps"]
        base = next(iter(run["seconds"].values()))
        for name, row in run["seconds"].items():
            rollout, update = (row[f"{part}, {kind}"] for part in ("collect_rollouts", "train"))
            total = sum(base[f"{part}, {kind}"] for part in ("collect_rollouts", "train"))
            rate = total / (rollout + update)
            cells = [f"{rollout:.2f}", f"{update:.2f}", f"{steps / (rollout + update):,.0f}"]
            lines.append([name, *cells, f"{rate:.2f}"])
        heads = ["setting", "rollouts, s", "update, s", "steps/s", "times the first"]
        title = f"## Cores: {cores} (seconds of the {kind})"
        blocks += [[title, "", *table(heads, lines)]]
    return page(
        "Training speed of RL² on HalfCheetahVel",
        [
            "`python benchmarks/rl2_speed.py`: 256 trials of 400 steps, 4 minibatches, 128 hidden",
            "units; medians over alternating turns of one iteration each. The machine was shared",
            "with other work: compare rows, not runs.",
        ],
        *blocks,
        notes(file),
    )


def main(args: Args) -> None:
    """Measures, and writes the table."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    file = args.out / "rl2_speed.json"
    runs = read(file, {"runs": {}})["runs"]
    runs[f"{args.threads}"] = {
        "rounds": args.rounds,
        "steps": SHARED["meta_batch_size"] * 400,
        "seconds": measured(args),
    }
    write(file, {"runs": runs}, markdown(runs, file))
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
