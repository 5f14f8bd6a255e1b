"""Meta-World's native batch with another version of MuJoCo, beside the pinned one.

``--record`` writes states along episodes of random actions of all environments, with the steps that
this version of MuJoCo takes from them. ``--against`` reads them with another version, takes the
same steps from the same states, and writes the deviations. So single steps are compared: courses of
whole episodes part sooner or later, as contacts are chaotic.

    metaworld/bin/python benchmarks/metaworld_versions.py --record states.npz
    newest/bin/python benchmarks/metaworld_versions.py --against states.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import tyro
from result_files import RESULTS, page, table, write

from meta_rl.envs.metaworld_goals import benchmark_goals, observation_space
from meta_rl.envs.metaworld_native import ArmState, NativeArm
from meta_rl.envs.metaworld_table import ENVIRONMENTS
from meta_rl.physics.shared_rollout import SharedRollout

SPACE = observation_space()


@dataclass
class Args:
    """Settings of the run."""

    record: Path | None = None
    """File that states and steps are written to."""
    against: Path | None = None
    """File with the states and steps of another version of MuJoCo."""
    goals: int = 5
    """Number of goals of each environment."""
    steps: int = 100
    """Number of steps of each goal."""
    names: tuple[str, ...] = tuple(ENVIRONMENTS)
    """Environments (default: all)."""
    out: Path = RESULTS
    """Folder of metaworld_versions.json and metaworld_versions.md."""


def record(args: Args, file: Path) -> None:
    """Writes the states before and after each step, and the actions."""
    found: dict[str, Any] = {"mujoco": np.array(mujoco.__version__)}
    roll_out, rng = SharedRollout(1), np.random.default_rng(0)
    for name in args.names:
        arm = NativeArm(name, SPACE)
        goals = np.array([goal for _, goal in benchmark_goals("ML1", name, 0).train[: args.goals]])
        states = [arm.begin(roll_out, goals)]
        actions = rng.uniform(-1.0, 1.0, (args.steps, len(goals), 4))
        for action in actions:
            states.append(arm.step(roll_out, states[-1], action))
        found[f"{name}/action"] = actions
        for field in ArmState._fields:
            found[f"{name}/{field}"] = np.array([getattr(state, field) for state in states])
        print(name, flush=True)
    np.savez_compressed(file, **found)


def compared(name: str, recorded: Any) -> dict[str, Any]:
    """The deviations of an environment's single steps, and of its first states."""
    leaves = [recorded[f"{name}/{field}"] for field in ArmState._fields]
    actions = recorded[f"{name}/action"]
    before = ArmState(*(leaf[:-1].reshape(-1, *leaf.shape[2:]) for leaf in leaves))
    after = ArmState(*(leaf[1:].reshape(-1, *leaf.shape[2:]) for leaf in leaves))
    arm, roll_out = NativeArm(name, SPACE), SharedRollout(1)
    goals = np.array([goal for _, goal in benchmark_goals("ML1", name, 0).train])
    begun = arm.begin(roll_out, goals[: actions.shape[1]])
    now = arm.step(roll_out, before, actions.reshape(-1, 4))
    away = np.abs(now.seen - after.seen).max(axis=1)
    reward = np.abs(now.outcome[:, 0] - after.outcome[:, 0])
    return {
        "steps": len(away),
        "first": float(np.abs(begun.seen - recorded[f"{name}/seen"][0]).max()),
        "observation": [float(value) for value in np.quantile(away, [0.5, 0.99, 1.0])],
        "reward": [float(value) for value in np.quantile(reward, [0.5, 0.99, 1.0])],
        "success": int((now.outcome[:, 1] != after.outcome[:, 1]).sum()),
    }


def markdown(rows: dict[str, dict[str, Any]], versions: tuple[str, str]) -> str:
    """The page."""
    heads = ["environment", "first states", "observation", "", "", "reward", "", "", "success"]
    second = ["", "largest", *["median", "99 %", "largest"] * 2, "mismatches"]
    lines = [second]
    for name, row in rows.items():
        numbers = [row["first"], *row["observation"], *row["reward"]]
        lines.append([name, *(f"{number:.0e}" for number in numbers), str(row["success"])])
    steps = sum(row["steps"] for row in rows.values())
    differing = sum(row["success"] for row in rows.values())
    near = sum(row["observation"][1] < 1e-4 for row in rows.values())
    largest = max(row["observation"][2] for row in rows.values())
    return page(
        "Meta-World with two versions of MuJoCo",
        f"Single steps from the same states with MuJoCo {versions[1]} beside {versions[0]}, along "
        f"random actions: {steps:,} steps. In {near} of {len(rows)} environments, 99 % of the "
        f"steps deviate by less than 1e-4 in every entry of the observation, the largest deviation "
        f"of all is {largest:.2g}; success differs in {differing} steps.",
        table(heads, lines),
    )


def main(args: Args) -> None:
    """Records, or compares."""
    if (args.record is None) == (args.against is None):
        raise SystemExit("one of --record and --against is needed")
    if args.record is not None:
        record(args, args.record)
        return
    with np.load(str(args.against), allow_pickle=False) as recorded:
        rows = {name: compared(name, recorded) for name in args.names}
        versions = (str(recorded["mujoco"]), mujoco.__version__)
    text = markdown(rows, versions)
    print(text)
    write(args.out / "metaworld_versions.json", {"mujoco": versions, "rows": rows}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
