"""Where a meta-iteration of MAML-TRPO spends its time.

40 tasks, 20 episodes of each before and after adaptation, 200 steps of HalfCheetahVel: 320,000
environment steps. MuJoCo's part is the time inside ``mujoco.rollout``. Freed memory is kept, as the
command line does it.

    python benchmarks/maml_profile.py
    python benchmarks/maml_profile.py --device cuda
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, notes, page, span, table, write

import meta_rl.agents.maml_trpo as maml_trpo
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.compute.freed_memory import keep_freed_memory
from meta_rl.vector.process_blocks import count_cores

PARTS = {  # what is timed, and where it is found
    "MuJoCo": ("batch", "_roll_out"),
    "steps of the environment": ("env", "step"),
    "episodes (steps and acting)": ("agent", "_run_episodes"),
    "advantages and old policies": ("agent", "as_batch"),
    "inner steps": ("agent", "_step_inner"),
    "meta-gradient": ("agent", "meta_gradients"),
    "trust-region step without it": ("module", "trust_region_step"),
}


@dataclass
class Args:
    """Settings of the run."""

    env: str = "HalfCheetahVel"
    """Name of the environment, which has to be a robot's."""
    iterations: int = 5
    """Number of iterations that are timed, after one that is not."""
    device: str = "cpu"
    """PyTorch device of policy and gradients; MuJoCo runs on the CPU."""
    out: Path = RESULTS
    """Folder of maml_profile.json and .md; on a GPU, of maml_profile_gpu."""


def main(args: Args) -> None:
    """Measures, and writes the table."""
    keep_freed_memory()
    model = MAMLTRPO(env=args.env, seed=0, device=args.device)
    env: Any = model.task_env
    owners = {
        "batch": env.unwrapped.definition.batch,
        "env": env,
        "agent": model,
        "module": maml_trpo,
    }
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            spent[name] += time.perf_counter() - began
            return result

        return call

    for name, (owner, attribute) in PARTS.items():
        setattr(owners[owner], attribute, timed(name, getattr(owners[owner], attribute)))
    model.learn(1)  # a whole iteration
    steps = model.num_timesteps
    rows = []
    for _ in range(args.iterations):
        spent.clear()
        began = time.perf_counter()
        model.learn(1, reset_num_timesteps=True)
        rows.append({**spent, "all": time.perf_counter() - began})
    medians = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    share = [row["MuJoCo"] / row["all"] for row in rows]
    gpu = "" if args.device == "cpu" else f", {torch.cuda.get_device_name(args.device)}"
    option = "" if args.device == "cpu" else f" --device {args.device}"
    name = "maml_profile" if args.device == "cpu" else "maml_profile_gpu"
    file = args.out / f"{name}.json"
    text = page(
        "A meta-iteration of MAML-TRPO",
        f"`python benchmarks/maml_profile.py{option}`: {args.env}, {steps:,} environment steps, "
        f"{count_cores()} cores{gpu}; medians of {args.iterations} iterations, in seconds.",
        table(["part", "seconds"], [[name, f"{medians[name]:.2f}"] for name in (*PARTS, "all")]),
        f"MuJoCo's share: **{np.median(share):.0%}** ({span(share, '.0%')}).",
        notes(file),
    )
    print(text)
    write(file, {"iterations": rows, "steps": steps}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
