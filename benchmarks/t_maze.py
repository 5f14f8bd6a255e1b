"""Which memory core solves the T-maze, by the length of its corridor.

RL² acts in passive T-mazes (Ni et al., 2023): the cue is seen in the first step alone, all cells of
the corridor look alike, and the goal's side has to be known at its end. A penalty for lagging
behind teaches the way there, so that memory alone is left to learn. A cell is solved where the
likeliest actions reach the goal on both sides, twice in a row.

Cells run one by one, and each result is written as soon as it is there. Run the same command again:
cells that are there are not run again.

    python benchmarks/t_maze.py
    python benchmarks/t_maze.py --cores gru mingru --lengths 100 250
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from result_files import RESULTS, add_to_table, notes, page, read, table
from stable_baselines3.common.callbacks import BaseCallback

from meta_rl.agents.rl2 import RL2
from meta_rl.compute.freed_memory import keep_freed_memory
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.memory import MEMORY_CORES

SETTINGS: dict[str, Any] = {
    "meta_batch_size": 64,
    "num_minibatches": 4,
    "num_epochs": 4,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.2,  # with less, some cores only learn the way to the junction
    "learning_rate": 1e-3,
}
HIDDEN = 64
EVERY = 5
"""Number of iterations between tries of the likeliest actions."""


@dataclass
class Args:
    """Settings of the run."""

    lengths: tuple[int, ...] = (10, 50, 100, 250)
    """Lengths of the corridor, in cells."""
    cores: tuple[str, ...] = tuple(MEMORY_CORES)
    """Names of cores."""
    seed: int = 0
    """Seed of the training."""
    trials: int = 20_000
    """Number of trials after which a training ends."""
    max_minutes: float = 4.0
    """Minutes of the processor after which a training ends."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    out: Path = RESULTS
    """Folder of t_maze.json and t_maze.md."""


class UntilSolved(BaseCallback):
    """Ends a training where the maze is solved, or its time is over."""

    def __init__(self, env: dict[str, Any], max_minutes: float) -> None:
        super().__init__()
        self.env, self.end = env, time.process_time() + 60 * max_minutes
        self.scores: list[float] = []
        self.iterations = 0

    @property
    def solved(self) -> bool:
        """Whether the last two tries reached the goal on both sides."""
        return len(self.scores) > 1 and min(self.scores[-2:]) >= 1.0

    def _on_step(self) -> bool:
        return time.process_time() < self.end and not self.solved

    def _on_rollout_end(self) -> None:
        self.iterations += 1
        if self.iterations % EVERY == 0:
            self.evaluate()

    def evaluate(self) -> None:
        """Tries the likeliest actions on both sides."""
        result = evaluate_adaptation(
            self.model, "meta_rl/TMaze-v0", deterministic=True, seed=1000, **self.env
        )
        self.scores.append(float(result.values.mean()))


def run(core: str, length: int, args: Args) -> dict[str, Any]:
    """Trains a core on mazes of a length."""
    env = {"corridor_length": length, "ambiguous_position": True, "penalty": -1.0 / length}
    model = RL2(
        env="meta_rl/TMaze-v0",
        env_kwargs=env,
        policy_kwargs={"core": core, "hidden_size": HIDDEN, "hidden_sizes": (HIDDEN,)},
        seed=args.seed,
        device="cpu",
        **SETTINGS,
    )
    watch, began = UntilSolved(env, args.max_minutes), time.process_time()
    model.learn(args.trials * model.whole_trial(), callback=watch, log_interval=None)
    spent = time.process_time() - began
    if not watch.solved:
        watch.evaluate()
    return {
        "core": core,
        "length": length,
        "seed": args.seed,
        "score": watch.scores[-1],
        "solved": watch.solved,
        "trials": model.num_timesteps // model.whole_trial(),
        "trials_wanted": args.trials,
        "minutes": spent / 60,
        "max_minutes": args.max_minutes,
    }


def markdown(rows: dict[str, dict[str, Any]], file: Path) -> str:
    """The page of all cells so far."""
    lengths = sorted({*Args.lengths, *(row["length"] for row in rows.values())})

    def cell(core: str, length: int) -> str:
        found = [r for r in rows.values() if (r["core"], r["length"]) == (core, length)]
        return (
            "; ".join(told(row) for row in sorted(found, key=lambda row: row["seed"])) or "not run"
        )

    lines = [[core, *(cell(core, length) for length in lengths)] for core in MEMORY_CORES]
    return page(
        "Which memory core solves which T-maze",
        [
            "`python benchmarks/t_maze.py`: RL² with 64 hidden units and the same settings for",
            "all cores, on passive T-mazes whose cells look alike, by the length of the corridor.",
            "Solved: the likeliest actions reach the goal on both sides, twice in a row, five",
            "iterations apart; with the trials and the minutes of one core until then. Otherwise",
            "the mean return of both sides when the training ended: 0.5 is a guess. One training",
            "each. A minimal GRU's gates cannot read its memory; layers after it do.",
        ],
        table(["core", *(f"length {length}" for length in lengths)], lines),
        notes(file),
    )


def told(row: dict[str, Any]) -> str:
    """A cell of the table."""
    effort = f"{row['trials']:,} trials, {row['minutes']:.1f} min"
    if row["solved"]:
        return f"**solved** ({effort})"
    end = "time" if row["trials"] < row["trials_wanted"] else "trials"
    return f"{row['score']:.2f} (end of {end}: {effort})"


def main(args: Args) -> None:
    """Fills the table, shortest mazes first."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    file = args.out / "t_maze.json"
    for length in args.lengths:
        for core in args.cores:
            name = f"{core}-{length}-seed{args.seed}"
            if name in read(file, {"rows": {}})["rows"]:
                continue
            row = run(core, length, args)
            add_to_table(file, {name: row}, lambda rows: markdown(rows, file))
            print(f"{name}: {told(row)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
