"""PPO without memory: a baseline that cannot tell tasks apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from meta_rl.arguments import check_counts, checked
from meta_rl.on_policy.actor_critic import ActorCritic, ActorState
from meta_rl.on_policy.agent import OnPolicyAgent
from meta_rl.rollout import Rollout


class MemorylessActorCritic(ActorCritic):
    """A policy and a value function that read only the present observation.

    The previous action, reward and done flag, and the mark of a new trial, are cut off, since they
    carry information about the task.

    Args:
        observation_space: Flat ``Box`` of :class:`.AppendPreviousStep`.
        action_space: ``Discrete`` or ``Box`` space of actions.
        hidden_sizes: Sizes of the tanh layers, which policy and value function share.
        generator: Generator that draws the first weights and, later, the actions.
        log_std_init: Initial logarithm of the standard deviation, for ``Box`` actions.
    """

    @checked
    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        generator: torch.Generator,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, generator, log_std_init)
        self.observation_size = observation_space.shape[0] - spaces.flatdim(action_space) - 3
        sizes = [self.observation_size, *check_counts("hidden_sizes", hidden_sizes)]
        pairs = itertools.pairwise(sizes)
        self.layers = nn.Sequential(
            *(part for a, b in pairs for part in (nn.Linear(a, b), nn.Tanh()))
        )
        self.make_heads(sizes[-1])

    def initial_state(self, num: int) -> ActorState:
        """Returns an empty state: nothing is carried from step to step."""
        return ()

    def step(self, obs: Tensor, state: ActorState) -> tuple[Tensor, ActorState]:
        """Returns features ``[N, H]`` of the observations themselves."""
        return self.features(obs, state), state

    def features(self, obs: Tensor, state: ActorState) -> Tensor:
        """Returns features ``[T, N, H]`` of the observations themselves."""
        return self.layers(obs[..., : self.observation_size])


class PPO(OnPolicyAgent):
    """Agent that trains one policy for all tasks by PPO (Schulman et al., 2017).

    The policy has no memory and does not see rewards, so that it cannot adapt. It approximates the
    best single behaviour for all tasks: the difference to a meta-learner is the gain by adaptation.

    The agent maximises the return of an episode. Where a time limit or the end of a trial cuts an
    episode, the value of its last observation replaces the rewards that would have followed.

    The arguments are those of :class:`meta_rl.on_policy.agent.OnPolicyAgent`; ``"MlpPolicy"`` is
    :class:`MemorylessActorCritic`, whose ``policy_kwargs`` are ``hidden_sizes`` and
    ``log_std_init``.

    Example:
        >>> from meta_rl.agents.ppo import PPO
        >>> model = PPO(env="meta_rl/PointRobot-v0", seed=0).learn(100_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/PointRobot-v0", num_tasks=100)
    """

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": MemorylessActorCritic}

    @torch.no_grad()
    def what_follows(self, rollout: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns values of the true next states (0 if terminal), and the ends of episodes."""
        obs = self._as_tensor(rollout.next_observations)
        following = self.policy.values(self.policy.features(obs, ()))
        terminated = self._as_tensor(rollout.terminated)
        ends = terminated | self._as_tensor(rollout.truncated)
        ends[-1] = True
        return torch.where(terminated, 0.0, following), ends
