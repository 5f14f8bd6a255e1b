"""Template of an on-policy agent of your own: a policy that remembers the mean of what it saw."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import meta_rl
from meta_rl.on_policy.actor_critic import ActorCritic
from meta_rl.on_policy.agent import OnPolicyAgent

State = tuple[Tensor, ...]


class MeanMemory(ActorCritic):
    """Network with a memory; its state is the sum ``[N, H]`` and the number ``[N, 1]`` of steps."""

    def __init__(self, observation_space: Any, action_space: Any, *, generator: Any) -> None:
        super().__init__(observation_space, action_space, generator)
        self.embed = nn.Sequential(nn.Linear(observation_space.shape[0] - 1, 64), nn.ReLU())
        self.make_heads(64)

    def initial_state(self, num: int) -> State:
        """Returns the memory before the first step."""
        return torch.zeros(num, 64), torch.zeros(num, 1)

    def step(self, obs: Tensor, state: State) -> tuple[Tensor, State]:
        """Returns features and memory after a step; the last column marks a new trial."""
        kept = (obs[:, -1:] <= 0).float()
        total, count = state[0] * kept + self.embed(obs[:, :-1]), state[1] * kept + 1
        return total / count, (total, count)

    def features(self, obs: Tensor, state: State) -> Tensor:
        """Returns the features ``[T, N, H]`` of whole trials, as :meth:`step` does one by one."""
        counts = torch.arange(1, len(obs) + 1)[:, None, None]
        return self.embed(obs[..., :-1]).cumsum(dim=0) / counts


class MeanMemoryAgent(OnPolicyAgent):  # PPO on whole trials; override loss() to change it
    """Agent with that network."""

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": MeanMemory}


meta_rl.register_algorithm("my-mean-memory", f"{__name__}:MeanMemoryAgent")
