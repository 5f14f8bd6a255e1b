"""Meta-World's environments as a native batch, beside Meta-World's own.

* First states: the largest deviation of first observations.
* Single steps: from the same state and the same warm start of the solver, one native step is
  compared with one of Meta-World's, along random actions and along Meta-World's scripted policies.
* Episodes: success of the scripted policies over 50 goals, in native batches and in Meta-World's
  own environments. A rollout begins each step without a warm start, so that courses may differ.

Rows are kept as they are made; a rerun makes those that are missing.

    python benchmarks/metaworld_parity.py
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import tyro
from result_files import RESULTS, page, read, table, write
from scipy import stats

from meta_rl.envs.metaworld_arms import Arm, Episode
from meta_rl.envs.metaworld_goals import benchmark_goals, observation_space
from meta_rl.envs.metaworld_native import ArmState, NativeArm
from meta_rl.envs.metaworld_rewards import Outcome
from meta_rl.envs.metaworld_table import ENVIRONMENTS
from meta_rl.physics.batch import FULL_PHYSICS
from meta_rl.physics.shared_rollout import SharedRollout

BOUNDS = {"observation": 1e-6, "reward": 1e-5, "infos": 1e-5}
SPACE = observation_space()
COUNTED = ("success", "grasp_success")  # infos of 0 and 1 whose differences are counted
KINDS = ("own", "native")
HORIZON = 500
Act = Callable[[np.ndarray], np.ndarray]


@dataclass
class Args:
    """Settings of the run."""

    goals: int = 5
    """Number of goals whose steps are compared."""
    steps: int = 200
    """Number of steps of each goal, with random actions and with the scripted policy each."""
    episodes: int = 50
    """Number of goals that the scripted policy's success is counted over."""
    names: tuple[str, ...] = tuple(ENVIRONMENTS)
    """Environments (default: all)."""
    out: Path = RESULTS
    """Folder of metaworld_parity.json and metaworld_parity.md."""


def scripted(name: str, target: np.ndarray) -> Act:
    """Meta-World's scripted policy, which is told the target; takes 36 numbers."""
    policy = importlib.import_module("metaworld.policies").ENV_POLICY_MAP[name]()

    def act(seen: np.ndarray) -> np.ndarray:
        action = policy.get_action(np.concatenate([seen, target]))
        return np.asarray(action, dtype=np.float64)

    return act


def random_actions(seed: int) -> Act:
    """Actions that go beyond their bounds, which both have to clip."""
    rng = np.random.default_rng(seed)
    return lambda seen: rng.uniform(-1.5, 1.5, 4)


def same_states(arm: Arm, episodes: list[Episode], states: ArmState) -> tuple[ArmState, np.ndarray]:
    """The states of episodes in Meta-World's simulator, and the warm starts of its solver."""
    physics, hands, seen = states.physics.copy(), states.hand.copy(), states.seen.copy()
    warmstarts = np.empty((len(episodes), arm.model.nv))
    size = mujoco.mj_stateSize(arm.model, FULL_PHYSICS)
    for row, episode in enumerate(episodes):
        arm._activate(episode)
        now = np.empty(size)
        mujoco.mj_getState(arm.model, arm.data, now, FULL_PHYSICS)
        physics[row, :size], hands[row] = now, arm.data.mocap_pos[0]
        seen[row], warmstarts[row] = episode.env._prev_obs, arm.data.qacc_warmstart
    return states._replace(physics=physics, hand=hands, seen=seen), warmstarts


def deviations(states: ArmState, row: int, result: tuple[Any, ...]) -> dict[str, float]:
    """The deviations of a native step from what Meta-World's step returned."""
    observation, reward, _, _, info = result
    ours = np.concatenate([states.seen[row], states.before[row]]).clip(SPACE.low, SPACE.high)
    theirs = np.array([reward, *(float(info[name]) for name in Outcome._fields[1:])])
    away = dict(zip(Outcome._fields, np.abs(states.outcome[row] - theirs), strict=True))
    return {
        "observation": float(np.abs(ours - observation[:36]).max()),
        "reward": float(away.pop("unscaled_reward")),
        **{name: float(away.pop(name) > 0) for name in COUNTED},
        "infos": float(max(away.values())),
    }


def compared_steps(name: str, args: Args) -> dict[str, Any]:
    """First states and single steps of an environment, all episodes side by side."""
    native, arm, roll_out = NativeArm(name, SPACE), Arm(name, None), SharedRollout(1)
    goals = np.array([goal for _, goal in benchmark_goals("ML1", name, 0).train[: args.goals]])
    states = native.begin(roll_out, np.repeat(goals, 2, axis=0))
    episodes = [arm.begin(goal) for goal in goals for _ in range(2)]
    acts = [
        random_actions(row) if row % 2 else scripted(name, states.target[row])
        for row in range(len(episodes))
    ]
    first = np.array([episode.observation[:18] for episode in episodes])
    first_away = float(np.abs(states.seen - first).max())
    seen = [episode.observation[:36].clip(SPACE.low, SPACE.high) for episode in episodes]
    found = []
    for _ in range(args.steps):
        states, warmstarts = same_states(arm, episodes, states)
        actions = np.array([act(own) for act, own in zip(acts, seen, strict=True)])
        states = native.step(roll_out, states, actions, warmstarts)
        for row, episode in enumerate(episodes):
            result = arm.step(episode, actions[row])
            seen[row] = result[0][:36]
            found.append(deviations(states, row, result))
    worst = {key: max(row[key] for row in found) for key in BOUNDS}
    differing = {name: int(sum(row[name] for row in found)) for name in COUNTED}
    return {"steps": len(found), "first": first_away, **worst, "differing": differing}


def own_successes(name: str, goals: np.ndarray, targets: np.ndarray) -> int:
    """Number of goals that the scripted policy reaches in Meta-World's own environment."""
    arm, found = Arm(name, None), 0
    for goal, target in zip(goals, targets, strict=True):
        episode, act = arm.begin(goal), scripted(name, target)
        seen = episode.observation[:36].clip(SPACE.low, SPACE.high)
        for _ in range(HORIZON):
            observation, *_, info = arm.step(episode, act(seen))
            seen = observation[:36]
            if info["success"]:
                found += 1
                break
    return found


def native_successes(native: NativeArm, goals: np.ndarray) -> int:
    """Number of goals that it reaches in a native batch."""
    roll_out = SharedRollout(1)
    state = native.begin(roll_out, goals)
    acts = [scripted(native.name, target) for target in state.target]
    left = np.arange(len(goals))
    for _ in range(HORIZON):
        seen = np.concatenate([state.seen, state.before], axis=1).clip(SPACE.low, SPACE.high)
        actions = np.array([acts[i](own) for i, own in zip(left, seen, strict=True)])
        state = native.step(roll_out, state, actions)
        going_on = state.outcome[:, 1] == 0
        state, left = state.rows(going_on), left[going_on]
        if len(left) == 0:
            break
    return len(goals) - len(left)


def compared_episodes(name: str, args: Args) -> dict[str, Any]:
    """Successes of the scripted policy over goals."""
    native = NativeArm(name, SPACE)
    goals = np.array([goal for _, goal in benchmark_goals("ML1", name, 0).train[: args.episodes]])
    targets = native.begin(SharedRollout(1), goals).target
    found = own_successes(name, goals, targets), native_successes(native, goals)
    test = stats.fisher_exact([[hits, len(goals) - hits] for hits in found])
    return {
        "episodes": len(goals),
        "own": found[0],
        "native": found[1],
        "p": float(test.pvalue),
    }


def is_exact(row: dict[str, Any]) -> bool:
    """Whether all deviations are within the bounds, and no success differs."""
    within = all(row[key] <= bound for key, bound in {**BOUNDS, "first": 1e-6}.items())
    return within and row["differing"]["success"] == 0


def share(hits: int, num: int) -> str:
    """A success rate with its 95 % interval (Wilson)."""
    interval = stats.binomtest(hits, num).proportion_ci(0.95, "wilson")
    return f"{hits / num:.0%} ({interval.low:.0%} to {interval.high:.0%})"


def report(rows: dict[str, dict[str, Any]], args: Args) -> str:
    """The page of the table."""
    steps = {name: row for name, row in rows.items() if "first" in row}
    episodes = [row for row in rows.values() if "own" in row]
    cells = [
        [
            name,
            f"{row['first']:.0e}",
            *(f"{row[key]:.0e}" for key in BOUNDS),
            *(str(row["differing"][key]) for key in COUNTED),
            *(share(row[kind], row["episodes"]) if kind in row else "" for kind in KINDS),
        ]
        for name, row in sorted(steps.items())
    ]
    exact = sum(map(is_exact, steps.values()))
    alike = sum(row["p"] > 0.05 for row in episodes)
    touched = sum(row["differing"]["grasp_success"] for row in steps.values())
    num_steps = sum(row["steps"] for row in steps.values())
    return page(
        "Meta-World as a native batch, beside Meta-World's own",
        f"`python benchmarks/metaworld_parity.py`: {exact} of {len(steps)} environments are equal "
        f"in single steps (observation within {BOUNDS['observation']:.0e}, reward and infos within "
        f"{BOUNDS['reward']:.0e}, no success differs), from the same state and warm start of the "
        f"solver. {args.goals} goals, {args.steps} steps each with random actions and with "
        "Meta-World's scripted policy. All 50 step natively; none goes through the process "
        "adapter.",
        f"`grasp_success` differs in {touched} of {num_steps:,} steps: Meta-World asks for the "
        "forces of contacts, and the batch for a force on a pad and a distance.",
        f"Success of the scripted policies is that within {HORIZON} steps over {args.episodes} "
        f"goals, with 95 % intervals. It is alike in {alike} of {len(episodes)} environments "
        "(Fisher's exact test, p > 0.05, which two or three of 50 would fail by chance at most).",
        table(
            [
                *("environment", "first observation", "observation", "reward", "infos"),
                *("successes that differ", "grasps that differ"),
                *("policy in Meta-World", "policy in the batch"),
            ],
            cells,
        ),
    )


def main(args: Args) -> None:
    """Compares steps of all environments, then episodes; writes after each."""
    warnings.filterwarnings("ignore", message="Constant")  # policies ask for more than is allowed
    settings = {"goals": args.goals, "steps": args.steps, "episodes": args.episodes}
    file = args.out / "metaworld_parity.json"
    content = read(file, {"settings": settings, "rows": {}})
    rows = content["rows"] if content["settings"] == settings else {}
    for part, compare in (("first", compared_steps), ("own", compared_episodes)):
        for name in args.names:
            if part not in rows.setdefault(name, {}):
                rows[name] |= compare(name, args)
                print(name, rows[name], flush=True)
                write(file, {"settings": settings, "rows": rows}, report(rows, args))
    write(file, {"settings": settings, "rows": rows}, report(rows, args))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
