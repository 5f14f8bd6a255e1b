"""A new on-policy agent: its network, one class, and one line that registers it.

python docs/examples/my_algorithm.py
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

import meta_rl
from meta_rl.on_policy.actor_critic import ActorCritic
from meta_rl.on_policy.agent import OnPolicyAgent

State = tuple[Tensor, ...]


class MeanMemory(ActorCritic):
    """A network that remembers the mean of all steps of its trial so far."""

    def __init__(
        self, observation_space: spaces.Box, action_space: Any, *, generator: torch.Generator
    ) -> None:
        super().__init__(observation_space, action_space, generator)
        self.embed = nn.Sequential(nn.Linear(observation_space.shape[0] - 1, 64), nn.ReLU())
        self.read = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
        self.make_heads(64)

    def initial_state(self, num: int) -> State:
        """Returns the sum of the embedded steps ``[N, H]`` and their number ``[N, 1]``."""
        return torch.zeros(num, 64), torch.zeros(num, 1)

    def step(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        """Adds a step; the last column of an observation marks a new trial."""
        kept = (obs[:, -1:] <= 0).float()
        total, count = state[0] * kept + self.embed(obs[:, :-1]), state[1] * kept + 1
        return self.read(total / count), (total, count)

    def features(self, obs: Tensor, state: State) -> Tensor:
        """Returns the features ``[T, N, H]`` of whole trials, which begin with the first step."""
        counts = torch.arange(1, len(obs) + 1)[:, None, None]
        return self.read(self.embed(obs[..., :-1]).cumsum(dim=0) / counts)


class MeanMemoryAgent(OnPolicyAgent):
    """Agent that learns by PPO and remembers a trial by a mean."""

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": MeanMemory}


meta_rl.register_algorithm("mean-memory", f"{__name__}:MeanMemoryAgent")


def main() -> float:
    """Train on bandits, and return the mean reward of ten pulls on new bandits (chance: 5)."""
    bandits = {"num_arms": 5, "horizon": 10}
    model = MeanMemoryAgent(
        env="meta_rl/BernoulliBandit-v0", env_kwargs=bandits, meta_batch_size=512, seed=0
    )
    model.learn(300_000)
    result = meta_rl.evaluate_adaptation(model, "meta_rl/BernoulliBandit-v0", **bandits)
    return float(result.total.mean())


if __name__ == "__main__":
    print(f"the agent earns {main():.2f} in ten pulls")
