"""Equality of the robots' physics with Gymnasium's: one step, and whole trajectories.

* One step: from states that Gymnasium's environment visits under random actions, the largest
  relative deviation of our next state from Gymnasium's, ``‖ours - theirs‖ / ‖theirs‖`` over time,
  positions and velocities.
* Trajectories: the same deviation over the steps of an episode, from one first state with the same
  actions. Our solver starts each step anew, and answers within its tolerance; contacts amplify
  the difference, by a factor of ten in about ten steps where the motion is chaotic (HalfCheetah,
  Ant), and not where it falls and rests or has no contacts.

    python benchmarks/physics_equality.py
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import tyro
from matplotlib import pyplot as plt
from result_files import RESULTS, page, table, write

from meta_rl.physics.batch import FULL_PHYSICS, MujocoBatch

ROBOTS = {
    "HalfCheetah-v5": "half_cheetah.xml",
    "Ant-v5": "ant.xml",
    "Walker2d-v5": "walker2d_v5.xml",
    "Hopper-v5": "hopper.xml",
    "Humanoid-v5": "humanoid.xml",
    "Reacher-v5": "reacher.xml",
}


@dataclass
class Args:
    """Settings of the run."""

    num_states: int = 1000
    """Number of states from which one step is compared."""
    num_steps: int = 200
    """Number of steps of a trajectory."""
    num_trajectories: int = 20
    """Number of trajectories, whose median is reported."""
    out: Path = RESULTS
    """Folder of physics_equality.json, .md and .png."""


def read_state(env: Any) -> np.ndarray:
    """The physics state of one of Gymnasium's environments."""
    state = np.empty(mujoco.mj_stateSize(env.model, FULL_PHYSICS))
    mujoco.mj_getState(env.model, env.data, state, FULL_PHYSICS)
    return state


def deviation(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Deviations relative to the length of the state, ``[N]``."""
    return np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)


def one_step(env: Any, batch: MujocoBatch, args: Args) -> float:
    """Largest deviation after one step, over the states of an environment's random episodes."""
    env.reset(seed=0)
    env.action_space.seed(0)
    states, actions, after = [], [], []
    for step in range(1, args.num_states + 1):
        states.append(read_state(env))
        actions.append(env.action_space.sample())
        terminated = env.step(actions[-1])[2]
        after.append(read_state(env))
        if terminated or step % args.num_steps == 0:
            env.reset()
    return float(deviation(batch.step(np.array(states), np.array(actions)), np.array(after)).max())


def trajectory(env: Any, batch: MujocoBatch, args: Args, seed: int) -> list[float]:
    """Deviation after every step of one episode; falling does not end it."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    ours = read_state(env)[None]
    deviations = []
    for _ in range(args.num_steps):
        action = env.action_space.sample()
        env.step(action)
        ours = batch.step(ours, action[None])
        deviations.append(float(deviation(ours[0], read_state(env))))
    return deviations


def main(args: Args) -> None:
    """Measures, and writes the table and the plot."""
    results: dict[str, Any] = {}
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, xml_file in ROBOTS.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deprecated")
            env = gym.make(name).unwrapped
        batch = MujocoBatch(xml_file, env.frame_skip, nthread=1)
        runs = [trajectory(env, batch, args, seed) for seed in range(args.num_trajectories)]
        median = np.median(runs, axis=0)
        results[name] = {"one_step": one_step(env, batch, args), "median": median.tolist()}
        # Equal to the last bit is drawn at the bottom.
        axes.semilogy(np.arange(1, args.num_steps + 1), np.maximum(median, 1e-17), label=name)
    axes.set(xlabel="step", ylabel="relative deviation (median)")
    axes.legend()
    marks = [step for step in (1, 10, 50, 100, 200) if step <= args.num_steps]
    text = page(
        "Equality with Gymnasium's physics",
        "`python benchmarks/physics_equality.py`: largest relative deviation after one step "
        f"from {args.num_states:,} states; medians over {args.num_trajectories} trajectories.",
        table(
            ["robot", "one step", *(f"after {step}" for step in marks)],
            [
                [
                    name,
                    f"{result['one_step']:.1e}",
                    *(f"{result['median'][step - 1]:.1e}" for step in marks),
                ]
                for name, result in results.items()
            ],
        ),
    )
    print(text)
    write(args.out / "physics_equality.json", {"results": results}, text)
    figure.savefig(args.out / "physics_equality.png", dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
