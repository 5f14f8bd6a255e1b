"""A researcher in meta-RL: train, evaluate on held-out tasks, adapt to one task of mine."""

import meta_rl
from meta_rl.agents.rl2 import RL2

STEPS = 200_000
BANDITS = {"num_arms": 5, "horizon": 20}


def main(steps: int = STEPS) -> float:
    """Returns the reward of the last pull on held-out bandits; chance is 0.5."""
    model = RL2(env="BernoulliBandit", env_kwargs=BANDITS, meta_batch_size=128, seed=0)
    model.learn(steps)
    result = meta_rl.evaluate_adaptation(model, "BernoulliBandit", **BANDITS)
    print(result)
    _, returns = model.adapt_to([0.1, 0.1, 0.9, 0.1, 0.1], seed=0)
    print(f"on my bandit it earns {returns[0]:.0f} in 20 pulls")
    model.save("rl2.zip")
    return float(result.values[:, -1].mean())


if __name__ == "__main__":
    main()
