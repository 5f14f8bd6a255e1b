"""PPO of Stable-Baselines3 on 16 robots, each with a goal velocity of its own.

python docs/examples/sb3_robots.py
"""

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import meta_rl

ROBOTS = "meta_rl/HalfCheetahVel-v0"
envs = meta_rl.sb3_env(ROBOTS, num_envs=16, append_task=True)  # the policy sees the goal
envs.seed(0)
model = PPO("MlpPolicy", envs, n_steps=100, batch_size=400, n_epochs=4, seed=0)
model.learn(3_200)  # a million for a good one

held_out = meta_rl.sb3_env(ROBOTS, num_envs=4, split="test", append_task=True)
held_out.seed(0)
mean, _ = evaluate_policy(model, held_out, n_eval_episodes=4, warn=False)
print(f"return on goals that are new: {mean:.0f}")
