"""PPO without memory: a baseline that cannot tell tasks apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Distribution

from meta_rl.arguments import check_count, check_counts, checked
from meta_rl.on_policy.actor_critic import ActorCritic, ActorState, clock_after, clock_of
from meta_rl.on_policy.agent import OnPolicyAgent
from meta_rl.rollout import Rollout
from meta_rl.vector.task_batch import task_batch


class MemorylessActorCritic(ActorCritic):
    """A policy that reads only the present observation, and a value function that knows the time.

    The previous action, reward and done flag, and the mark of a new trial, are cut off, since they
    carry information about the task. The value function has a layer of its own, which also reads
    the time that is left in the episode. Without it, each value is a mean over all times, and
    advantages that are estimated with ``gae_lambda`` below 1 are biased.

    Args:
        observation_space: Flat ``Box`` of :class:`.AppendPreviousStep`.
        action_space: ``Discrete`` or ``Box`` space of actions.
        hidden_sizes: Sizes of the tanh layers, which policy and value function share.
        horizon: Number of steps of an episode, the unit of the time.
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
        horizon: int = 1,
        generator: torch.Generator,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, generator, log_std_init)
        self.observation_size = observation_space.shape[0] - spaces.flatdim(action_space) - 3
        sizes = [self.observation_size, *check_counts("hidden_sizes", hidden_sizes)]
        self.layers = nn.Sequential(
            *(part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh()))
        )
        self.timed = nn.Sequential(nn.Linear(sizes[-1] + 1, sizes[-1]), nn.Tanh())
        self.horizon = nn.Buffer(torch.tensor(float(check_count("horizon", horizon))))
        self.make_heads(sizes[-1])

    def initial_state(self, num: int) -> ActorState:
        """Returns the clock, which only the value function reads."""
        return (self.horizon.new_full((num, 2), -1.0),)

    def step(self, obs: Tensor, state: ActorState) -> tuple[Tensor, ActorState]:
        """Returns features ``[N, 2 H]`` of the observations, and the next clock."""
        clock = clock_after(state[0], obs)
        return self.read(obs, clock), (clock,)

    def features(self, obs: Tensor, state: ActorState) -> Tensor:
        """Returns features ``[T, N, 2 H]`` of the observations of whole trials."""
        return self.read(obs, clock_of(obs))

    def read(self, obs: Tensor, clock: Tensor) -> Tensor:
        """Returns H features of the observations alone, and H of observations and time."""
        seen = self.layers(obs[..., : self.observation_size])
        seen_at = torch.cat([seen, 1.0 - clock[..., 1:] / self.horizon], dim=-1)
        return torch.cat([seen, self.timed(seen_at)], dim=-1)

    def distribution(self, hidden: Tensor) -> Distribution:
        """Returns the distribution of actions, which does not depend on the time."""
        return super().distribution(hidden.chunk(2, dim=-1)[0])

    def values(self, hidden: Tensor) -> Tensor:
        """Returns the expected rest of the episode's return."""
        return super().values(hidden.chunk(2, dim=-1)[1])


class PPO(OnPolicyAgent):
    """Agent that trains one policy for all tasks by PPO (Schulman et al., 2017).

    The policy has no memory and does not see rewards: it cannot adapt. It approximates the best
    behaviour for all tasks together; what a meta-learner earns beyond it is gained by adaptation.

    The agent maximises the return of an episode up to its time limit. Where the end of a trial cuts
    an episode, the value of its last observation replaces the rewards that would have followed.

    The arguments are those of :class:`meta_rl.on_policy.agent.OnPolicyAgent`; ``"MlpPolicy"`` is
    :class:`MemorylessActorCritic`, whose ``policy_kwargs`` are ``hidden_sizes`` and
    ``log_std_init``.

    Example:
        >>> from meta_rl.agents.ppo import PPO
        >>> model = PPO(env="meta_rl/PointRobot-v0", seed=0).learn(100_000)
    """

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": MemorylessActorCritic}
    policy: MemorylessActorCritic

    def _policy_defaults(self) -> dict[str, Any]:
        return {} if self.env is None else {"horizon": task_batch(self.task_env).horizon}

    @torch.no_grad()
    def what_follows(self, rollout: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns values of the next states, 0 at the ends of episodes, and the ends of sums."""
        last = self._as_tensor(rollout.next_observations[-1])
        clock = clock_of(self._as_tensor(rollout.observations))[-1] + 1
        following = torch.cat([values[1:], self.policy.values(self.policy.read(last, clock))[None]])
        ends = self._as_tensor(rollout.terminated) | self._as_tensor(rollout.truncated)
        following = following.masked_fill(ends, 0.0)
        ends[-1] = True
        return following, ends
