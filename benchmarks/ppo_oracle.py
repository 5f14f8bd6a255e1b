"""The oracle of a robot family: PPO of Stable-Baselines3 that sees the task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO

import meta_rl
from meta_rl.agents.oracle import TaskConditionedOracle
from meta_rl.task_batch import task_batch


def trained_oracle(
    env_id: str, file: Path, timesteps: int, *, seed: int = 0, **env_kwargs: Any
) -> tuple[TaskConditionedOracle, int, float]:
    """Load it or, where the file does not exist, train and save it.

    Returns:
        The oracle, its environment steps, and the seconds that the training took: 0 if loaded.
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
