"""A first agent: RL² learns to explore bandits, in less than two minutes on one core.

python docs/examples/first_agent.py
"""

import meta_rl
from meta_rl.agents.rl2 import RL2

TASKS = "meta_rl/BernoulliBandit-v0"
model = RL2(env=TASKS, meta_batch_size=512, seed=0)
model.learn(200_000)

result = meta_rl.evaluate_adaptation(model, TASKS, num_tasks=500)  # bandits that are new to it
print(result)
print(result.values.mean(axis=0).round(2))  # reward of the first, second, ... pull
