"""A sequence model from the trial so far to the next action, for agents that learn in context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from meta_rl.arguments import check_count, check_counts, check_number
from meta_rl.memory import make_memory_core
from meta_rl.on_policy.actor_critic import ActorCritic, ActorState


class SequencePolicy(ActorCritic):
    """A causal sequence model from the trial so far to the next action.

    Each step is one input: the last transition (previous observation, action, reward and done
    flag), the observation that asks for an action, and a clock, the step t as ``t / span`` and
    ``log(1 + t) / log(1 + span)``. The critic of the base class is not trained.

    Args:
        observation_space: Flat ``Box`` of :class:`.AppendPreviousStep`.
        action_space: ``Discrete`` or ``Box`` space of actions.
        core: Name in :data:`meta_rl.memory.MEMORY_CORES`.
        hidden_size: Size of the core.
        digits: Numbers of values of the digits that a discrete observation is split into, whose
            product is the number of observations: ``(9, 9)`` for row and column of a cell ``9 y +
            x`` (default: no split).
        temperature: Divisor, above 0, of the logits that actions are drawn by (for a ``Box``:
            factor of the standard deviation). Below 1, likely actions become more likely.
        least_chance: Probability, in [0, 1), below which a discrete action is never drawn. A small
            one spares long trials the errors of the model.
        generator: Generator that draws the first weights and, later, the actions.
        memory_span: Number of steps of the longest history: the unit of the clock, and the core's
            longest time scale.
        log_std_init: Initial logarithm of the standard deviation, for ``Box`` actions.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        *,
        core: str = "attention",
        hidden_size: int = 64,
        digits: Sequence[int] | None = None,
        temperature: float = 1.0,
        least_chance: float = 0.0,
        generator: torch.Generator,
        memory_span: int | None = None,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, generator, log_std_init)
        self.temperature = check_number("temperature", temperature, above=0.0)
        self.least_chance = check_number("least_chance", least_chance, least=0.0, below=1.0)
        self.seen = seen = observation_space.shape[0] - self.num_outputs - 3
        split = torch.eye(seen) if digits is None else digit_codes(seen, digits)
        self.split: Tensor
        self.register_buffer("split", split)
        self.span: Tensor
        self.register_buffer("span", torch.tensor(float(memory_span or 1)))
        inputs = 2 * split.shape[1] + self.num_outputs + 2 + 2
        self.core = make_memory_core(core, inputs, check_count("hidden_size", hidden_size))
        self.core.set_time_scales(memory_span or 1, self.make_heads(self.core.output_size))

    def initial_state(self, num: int) -> ActorState:
        """Returns the core's first state, the clock, and no previous observation."""
        zeros = self.split.new_zeros(num, 1 + self.split.shape[1])
        return (*self.core.initial_state(num), zeros[:, :1], zeros[:, 1:])

    def step(self, obs: Tensor, state: ActorState) -> tuple[Tensor, ActorState]:
        """Takes one step; the trial is forgotten where a new one begins."""
        begins = obs[:, -1] > 0
        clock, before = (part.masked_fill(begins[:, None], 0.0) for part in state[-2:])
        now = obs[:, : self.seen] @ self.split
        inputs = self._inputs(obs, now, before, clock)
        outputs, after = self.core.step(inputs, self.core.reset(state[:-2], begins))
        return outputs, (*after, clock + 1.0, now)

    def features(self, obs: Tensor, state: ActorState) -> Tensor:
        """Runs over whole trials ``[T, N, O]``, from their first step on."""
        now = obs[..., : self.seen] @ self.split
        before = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
        steps = torch.arange(len(obs), device=obs.device, dtype=obs.dtype)
        clock = steps[:, None, None].expand(-1, obs.shape[1], 1)
        return self.core(self._inputs(obs, now, before, clock), state[:-2])[0]

    def _inputs(self, obs: Tensor, now: Tensor, before: Tensor, clock: Tensor) -> Tensor:
        times = [clock / self.span, clock.log1p() / self.span.log1p()]
        return torch.cat([now, before, obs[..., self.seen : -1], *times], dim=-1)

    def distribution(self, hidden: Tensor) -> Distribution:
        """Returns the distribution that actions are drawn by, with the temperature."""
        policy = super().distribution(hidden)
        if isinstance(policy, Categorical):
            chances = (policy.logits / self.temperature).softmax(dim=-1)
            least = chances.max(dim=-1, keepdim=True).values.clamp(max=self.least_chance)
            return Categorical(probs=chances.where(chances >= least, 0.0), validate_args=False)
        spread = policy.stddev * self.temperature
        return Independent(
            Normal(policy.mean, spread, validate_args=False), len(self.action_space.shape or ())
        )

    def surprise(self, obs: Tensor, labels: Tensor) -> Tensor:
        """Returns minus the log-probabilities of actions ``[T, N, ...]``: ``[T, N]``."""
        hidden = self.features(obs, self.initial_state(obs.shape[1]))
        return -super().distribution(hidden).log_prob(labels)


def digit_codes(size: int, digits: Sequence[int]) -> Tensor:
    """Returns the digits of the numbers below ``size``, one-hot: ``[size, sum of digits]``.

    Raises:
        ValueError: The product of the numbers of values is not ``size``.
    """
    values = check_counts("digits", digits)
    if np.prod(values) != size:
        raise ValueError(f"digits: {values} have {np.prod(values)} values, but there are {size}")
    parts = np.unravel_index(np.arange(size), values)
    return torch.cat(
        [torch.eye(n)[torch.as_tensor(part)] for n, part in zip(values, parts, strict=True)], dim=1
    )
