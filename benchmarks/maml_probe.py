"""MAML-TRPO on its probe, with and without a bound on the policy before adaptation.

One of two actions pays 1; which one is the task, and nothing is seen. Every agent is trained for 60
iterations with ten seeds, on each of PyTorch's sets of instructions that the processor has. A
training that is in the table is not run again.

    python -m benchmarks.maml_probe
    python -m benchmarks.maml_probe --agents "likelihood_ratio, 0.01" --capabilities avx2
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from benchmarks.result_files import RESULTS, add_to_table, page, read, table
from tests.agents.maml_probe import earned, probe_agent, trained

TABLE = RESULTS / "maml_probe.json"
ITERATIONS = 60
ENOUGH = 0.95
CAPABILITIES = ("default", "avx2", "avx512")
AGENTS: dict[str, dict[str, Any]] = {
    f"{loss}, {bound:g}": {"inner_loss": loss, "max_initial_kl": bound}
    for bound in (0.01, math.inf, 0.05)
    for loss in ("log_likelihood", "likelihood_ratio")
}


@dataclass
class Args:
    """Settings of the run."""

    agents: tuple[str, ...] = tuple(AGENTS)
    """Agents, each by its inner loss and the bound on the policy before adaptation."""
    capabilities: tuple[str, ...] = CAPABILITIES
    """Values of ATEN_CPU_CAPABILITY; those that the processor lacks are left out."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Seeds of the trainings, which are those of the evaluations too."""


def reward_after_training(agent: str, seed: int) -> float:
    """The mean reward of held-out tasks after one step of adaptation."""
    return earned(trained(probe_agent(seed, **AGENTS[agent]), ITERATIONS), seed)


def found_in_process(agent: str, capability: str, seeds: list[int]) -> dict[str, float] | None:
    """Rewards by seed, of a process with these instructions; ``None`` where there are none."""
    code = (
        "import json, sys, torch\n"
        "from benchmarks.maml_probe import reward_after_training\n"
        "torch.set_num_threads(1)\n"
        "agent, seeds = json.loads(sys.argv[1])\n"
        "rewards = {seed: reward_after_training(agent, seed) for seed in seeds}\n"
        "print(json.dumps([torch.backends.cpu.get_cpu_capability(), rewards]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps([agent, seeds])],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        check=True,
        capture_output=True,
        text=True,
    )
    used, rewards = json.loads(process.stdout.splitlines()[-1])
    return rewards if used.lower() == capability else None


def as_markdown(rows: dict[str, Any]) -> str:
    """The committed page."""
    lines = []
    for agent in (agent for agent in AGENTS if agent in rows):
        cells = []
        for capability in CAPABILITIES:
            rewards = list(rows[agent].get(capability, {}).values())
            good = sum(reward >= ENOUGH for reward in rewards)
            cells.append(f"{good} of {len(rewards)}, {min(rewards):.3f}" if rewards else "")
        loss, bound = agent.split(", ")
        lines.append([f"`{loss}`", "none" if bound == "inf" else bound, *cells])
    return page(
        "MAML-TRPO on its probe",
        "`python -m benchmarks.maml_probe`",
        [
            f"Reward of 64 held-out tasks after one gradient step, at the end of {ITERATIONS}",
            "iterations; the best is 1, and an agent without training earns 0.6. `max_kl` is 0.05.",
            f"Trainings that earn {ENOUGH} or more, and the lowest reward.",
        ],
        table(["inner loss", "`max_initial_kl`", *CAPABILITIES], lines),
    )


def main(args: Args) -> None:
    """Fills the table."""
    torch.set_num_threads(1)
    rows = read(TABLE, {"rows": {}})["rows"]
    for agent in args.agents:
        if agent not in AGENTS:
            raise SystemExit(f"unknown agent {agent!r}: {'; '.join(AGENTS)} exist")
        for capability in args.capabilities:
            row = rows.setdefault(agent, {}).setdefault(capability, {})
            missing = [seed for seed in args.seeds if str(seed) not in row]
            found = found_in_process(agent, capability, missing) if missing else {}
            if found is None:
                print(f"this processor has no {capability}")
                continue
            row.update(found)
            add_to_table(TABLE, {agent: rows[agent]}, as_markdown)
            print(f"{agent}, {capability}: {row}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
