"""Recurrent actor-critic networks with the Stable-Baselines3 policy interface."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from meta_rl.memory import MemoryState, make_memory_core
from meta_rl.torch_generator import weights_generator

State: TypeAlias = tuple[np.ndarray, ...]
"""A memory state outside torch: every leaf ``[N, ...]``."""


class RecurrentActorCritic(BasePolicy):
    """A policy and a value function that read one memory.

    Observations are those of :class:`meta_rl.previous_step.AppendPreviousStep`: flat, with the
    previous action, reward and done flag, and in the last column the mark of a new trial. The
    memory is reset where that mark is set, and nowhere else.

    Args:
        observation_space: Flat ``Box`` of that wrapper.
        action_space: ``Discrete`` or ``Box``.
        core: Name in :data:`meta_rl.memory.MEMORY_CORES`.
        hidden_size: Of the memory.
        embedding: Sizes of the ReLU layers before the memory.
        generator: Draws the first weights and, later, the actions.
        memory_span: Steps over which the memory should be able to learn from the start (see
            :meth:`meta_rl.memory.MemoryCore.set_time_scales`); ``None`` for zero biases.
        log_std_init: First logarithm of the standard deviation, for ``Box`` actions.

    Attributes:
        return_scale: What the critic's output is multiplied by: returns of long trials are large,
            and an error that large would drown the policy's gradient in the shared memory.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        *,
        core: str = "gru",
        hidden_size: int = 128,
        embedding: Sequence[int] = (),
        generator: torch.Generator,
        memory_span: int | None = None,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.action_space: spaces.Discrete | spaces.Box
        self.observation_space: spaces.Box
        sizes = [observation_space.shape[0] - 1, *embedding]
        layers = [
            layer
            for before, after in itertools.pairwise(sizes)
            for layer in (nn.Linear(before, after), nn.ReLU())
        ]
        self.embedding = nn.Sequential(*layers)
        if isinstance(action_space, spaces.Discrete):
            num_outputs = int(action_space.n)
        else:
            num_outputs = math.prod(action_space.shape)
            self.log_std = nn.Parameter(torch.full((num_outputs,), log_std_init))
        place = None if embedding else sizes[0] - num_outputs - 2  # before action, reward, done
        self.core = make_memory_core(core, sizes[-1], hidden_size, place)
        self.actor = nn.Linear(self.core.output_size, num_outputs)
        self.critic = nn.Linear(self.core.output_size, 1)
        self.return_scale: Tensor
        self.register_buffer("return_scale", torch.ones(()))
        self.generator = generator
        drawn_by = weights_generator(generator)
        self._initialise(drawn_by)
        if memory_span is not None:
            self.core.set_time_scales(memory_span, drawn_by)

    def _initialise(self, generator: torch.Generator) -> None:
        """Orthogonal weights, zero biases; a nearly uniform first policy."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "log_std":
                    continue
                if parameter.dim() < 2:
                    nn.init.zeros_(parameter)
                    continue
                part, _, layer = name.removesuffix(".weight").partition(".")
                gain = 0.01 if part == "actor" else self.core.gains.get(layer, 1.0)
                height = self.core.output_size if name.startswith("core") else len(parameter)
                for block in parameter.split(height):  # a memory's gates lie on top of each other
                    nn.init.orthogonal_(block, gain, generator=generator)

    def initial_state(self, num: int) -> MemoryState:
        """The memory before the first step of ``num`` trials."""
        return self.core.initial_state(num)

    def forward(
        self, obs: Tensor, state: MemoryState, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, MemoryState]:
        """One step.

        Args:
            obs: ``[N, O]``.
            state: The memory before it.
            deterministic: Take the most likely action instead of a draw.

        Returns:
            Actions ``[N, ...]``, values ``[N]``, log-probabilities ``[N]``, and the next state.
        """
        state = self.core.reset(state, obs[:, -1] > 0)  # once per trial
        hidden, state = self.core.step(self.embedding(obs[:, :-1]), state)
        policy = self.distribution(hidden)
        actions = policy.mode if deterministic else self._draw(policy)
        return actions, self.values(hidden), policy.log_prob(actions), state

    def evaluate_actions(
        self, obs: Tensor, actions: Tensor, state: MemoryState
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run whole trials, from their first step on.

        Args:
            obs: ``[T, N, O]``.
            actions: ``[T, N, ...]``.
            state: The memory before the first step.

        Returns:
            Values, log-probabilities of the actions, and entropies, ``[T, N]`` each.
        """
        hidden, _ = self.core(self.embedding(obs[..., :-1]), state)
        policy = self.distribution(hidden)
        return self.values(hidden), policy.log_prob(actions), policy.entropy()

    def values(self, hidden: Tensor) -> Tensor:
        """Expected returns, for features ``[..., H]``."""
        return self.critic(hidden)[..., 0] * self.return_scale

    @torch.no_grad()
    def rescale_returns(self, scale: Tensor) -> None:
        """Set ``return_scale`` and keep the critic's values (PopArt: van Hasselt et al., 2016)."""
        change = self.return_scale / scale
        self.critic.weight.mul_(change)
        self.critic.bias.mul_(change)
        self.return_scale.copy_(scale)

    def distribution(self, hidden: Tensor) -> Distribution:
        """The policy, for features ``[..., H]``."""
        outputs = self.actor(hidden)
        if isinstance(self.action_space, spaces.Discrete):
            return Categorical(logits=outputs, validate_args=False)
        means = outputs.unflatten(-1, self.action_space.shape)
        spread = self.log_std.exp().view(self.action_space.shape).expand_as(means)
        return Independent(Normal(means, spread, validate_args=False), len(self.action_space.shape))

    def _draw(self, policy: Distribution) -> Tensor:
        """Draw with our own generator, which torch.distributions cannot take."""
        if isinstance(policy, Categorical):
            return torch.multinomial(policy.probs, 1, generator=self.generator)[:, 0]
        noise = torch.randn(policy.mean.shape, generator=self.generator, device=self.device)
        return policy.mean + policy.stddev * noise

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Actions for the first step of trials; :meth:`predict` carries the memory on."""
        return self(observation, self.initial_state(len(observation)), deterministic)[0]

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Act, and carry the memory on.

        Args:
            observation: ``[N, O]``, or ``[O]`` for a single environment.
            state: The memory, leaves ``[N, H]``; ``None`` before the first step.
            episode_start: Not used: the memory has to outlive the episodes of a trial, and where a
                trial begins is marked in the observation.
            deterministic: Take the most likely action.

        Returns:
            Actions (numbers of ``action_space.dtype``; clipped to a ``Box``) and the next state.

        Raises:
            ValueError: Observations of another shape, or a state for another number of them.
        """
        array = np.asarray(observation, dtype=np.float32)
        size = self.observation_space.shape[0]
        single = array.shape == (size,)
        batch = array[None] if single else array
        if batch.ndim != 2 or batch.shape[1] != size:
            raise ValueError(
                f"observation: expected shape (N, {size}) with the previous step appended (as by "
                f"meta_rl.sb3_env(..., previous_step=True)), got {array.shape}"
            )
        memory = (
            self.initial_state(len(batch)) if state is None else self._as_memory(state, len(batch))
        )
        with torch.inference_mode():
            obs = torch.as_tensor(batch, device=self.device)
            actions, _, _, memory = self(obs, memory, deterministic)
        taken = self.clip(actions.cpu().numpy())
        return (taken[0] if single else taken), tuple(leaf.cpu().numpy() for leaf in memory)

    def clip(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them."""
        if isinstance(self.action_space, spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions.astype(self.action_space.dtype, copy=False)

    def _as_memory(self, state: Any, num: int) -> MemoryState:
        like = self.initial_state(num)
        expected, got = [tuple(leaf.shape) for leaf in like], [np.shape(leaf) for leaf in state]
        if got != expected:
            raise ValueError(f"state: expected leaves of shapes {expected}, got {got}")
        return tuple(torch.as_tensor(leaf).to(part) for leaf, part in zip(state, like, strict=True))
