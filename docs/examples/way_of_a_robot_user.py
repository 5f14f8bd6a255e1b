"""Somebody who wants fast robots with goals that vary, for Stable-Baselines3 or CleanRL."""

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import meta_rl


def main(steps: int = 20_000) -> float:
    """Returns the reward of 100 steps of Stable-Baselines3's PPO."""
    env = meta_rl.sb3_env("meta_rl/HalfCheetahVel-v0", num_envs=16, resample_tasks=True)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=0, device="cpu").learn(steps)
    model.save("ppo.zip")
    # CleanRL and others: Gymnasium's own vector interface, stepped as one native batch.
    envs = gym.make_vec("meta_rl/HalfCheetahVel-v0", num_envs=16, resample_tasks=True)
    observations, infos = envs.reset(seed=0)
    print(f"goal velocities: {np.unique(infos['task']).round(2)} m/s")
    total = np.zeros(16)
    for _ in range(100):
        observations, rewards, *_ = envs.step(model.predict(observations)[0])
        total += rewards
    return float(total.mean())


if __name__ == "__main__":
    print(f"reward of 100 steps: {main():.2f}")
