"""Somebody who wants fast robots with goals that vary, for Stable-Baselines3 or CleanRL."""

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import meta_rl


def main(steps: int = 20_000) -> float:
    """Returns the mean reward of a step of Stable-Baselines3's PPO at the end."""
    env = meta_rl.sb3_env("meta_rl/HalfCheetahVel-v0", num_envs=16, resample_tasks=True)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=0, device="cpu").learn(steps)
    model.save("ppo.zip")
    # CleanRL and others: Gymnasium's own vector interface, stepped as one native batch.
    envs = gym.make_vec("meta_rl/HalfCheetahVel-v0", num_envs=16, resample_tasks=True)
    observations, infos = envs.reset(seed=0)
    rewards = []
    for _ in range(100):
        actions, _ = model.predict(observations)
        observations, reward, _, _, infos = envs.step(actions)
        rewards.append(reward)
    print(f"goal velocities: {np.unique(infos['task']).round(2)} m/s")
    return float(np.mean(rewards))


if __name__ == "__main__":
    print(f"mean reward of a step: {main():.2f}")
