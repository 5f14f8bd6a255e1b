"""An agent that is told the task of a robot family: PPO of Stable-Baselines3.

It could do all that a learner can do after adaptation. It is an upper bound only if it is trained
well enough, and is called an oracle only where it earns what the best published learner earns.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from result_files import papers
from stable_baselines3 import PPO

import meta_rl
from meta_rl.agents.oracle import TaskConditionedOracle
from meta_rl.vector.task_batch import task_batch

TOLD = "agent that is told the task"

LOG, MAML = "a published log of PEARL", "MAML in its paper"
BEST_PUBLISHED: dict[str, tuple[str, float]] = {  # return of an episode: the log's best, 3 steps
    **{name: (MAML, row["maml"][-1]) for name, row in papers("MAML-TRPO")["rows"].items()},
    **{
        name: (LOG, max(earned for _, earned in points))
        for name, points in papers("PEARL log")["rows"].items()
    },
}


def told_name(tasks: str, earned: float) -> str:
    """The name that the agent may have: "oracle" only if no published learner earns more.

    Args:
        tasks: Name of the environment or of the setting.
        earned: Mean return of an episode.
    """
    published = BEST_PUBLISHED.get(tasks)
    return "oracle" if published is not None and earned >= published[1] else TOLD


def told_note(tasks: str, earned: float) -> str:
    """A sentence that says whether the agent bounds what a learner can earn."""
    name, published = told_name(tasks, earned), BEST_PUBLISHED.get(tasks)
    if published is None:
        return f"The {TOLD} is no upper bound: no published learner is known to compare it with."
    learner, best = published
    if name == TOLD:
        return f"The {TOLD} is no upper bound: {learner} has {best:g}, which is more."
    return f"The oracle is PPO that is told the task; the best published, {learner}, has {best:g}."


def trained_oracle(
    env_id: str, file: Path, timesteps: int, *, seed: int = 0, **env_kwargs: Any
) -> tuple[TaskConditionedOracle, int, float]:
    """Loads the agent or, where the file does not exist, trains and saves it.

    Returns:
        The agent, its environment steps, and the seconds that the training took: 0 if loaded.
    """
    env = meta_rl.sb3_env(env_id, 64, append_task=True, **env_kwargs)
    seconds = 0.0
    if file.exists():
        model = PPO.load(file)
    else:
        began = time.monotonic()
        model = PPO(
            "MlpPolicy",
            env,
            n_steps=200,
            batch_size=1600,
            n_epochs=8,
            gamma=0.97,
            gae_lambda=0.95,
            learning_rate=lambda remaining: 1e-3 * remaining,
            policy_kwargs={"net_arch": [128, 128]},
            seed=seed,
            device="cpu",
        ).learn(timesteps)
        seconds = time.monotonic() - began
        model.save(file)
    oracle = TaskConditionedOracle(model, task_batch(env.task_env).task_split.space)
    return oracle, model.num_timesteps, seconds
