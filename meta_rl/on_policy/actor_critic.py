"""A policy and a value function that read the same features, for on-policy agents."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from meta_rl.arguments import check_finite_array
from meta_rl.compute.finite_state import check_chances
from meta_rl.compute.torch_state import weights_generator
from meta_rl.memory import MemoryCore
from meta_rl.vector.tensor_draws import CopiedDraws, choices, standard_normal

ActorState: TypeAlias = tuple[Tensor, ...]
"""The state that the network carries from step to step; every leaf is ``[N, ...]``."""


class ActorCritic(BasePolicy):
    """Base class of networks for :class:`meta_rl.on_policy.agent.OnPolicyAgent`.

    A subclass makes its own layers and calls :meth:`make_heads` at the end of its constructor. It
    computes the heads' input: :meth:`step` for a single step, :meth:`features` for whole trials.

    Observations are those of :class:`.AppendPreviousStep`: flat, with the
    previous action, reward and done flag, and in the last column the mark of a new trial.

    Letters: N trials, T steps, O numbers in an observation, H features.

    Args:
        observation_space: Flat ``Box`` of that wrapper.
        action_space: ``Discrete`` or ``Box`` space of actions.
        generator: Generator that draws the first weights and, later, the actions.
        log_std_init: Initial logarithm of the standard deviation, for ``Box`` actions.

    Attributes:
        num_outputs: Number of the actor's outputs: logits, or means of a ``Box``.
        uses_up_states: Whether :meth:`predict` may write into the state that it is given; by
            default, it copies the state. A copy of a long cache takes longer than a step.
        return_scale: Factor of the critic's output. Returns of long trials are large, and so large
            an error would dominate the policy's gradient in shared layers.
    """

    num_outputs: int
    uses_up_states: bool = False
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        generator: torch.Generator,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.action_space: spaces.Discrete | spaces.Box
        self.observation_space: spaces.Box
        if isinstance(action_space, spaces.Discrete):
            self.num_outputs = int(action_space.n)
        else:
            self.num_outputs = math.prod(action_space.shape)
            self.log_std = nn.Parameter(torch.full((self.num_outputs,), log_std_init))
        self._action_dtype = torch.as_tensor(np.empty(0, action_space.dtype)).dtype
        self.generator = generator

    def make_heads(self, num_features: int) -> torch.Generator:
        """Makes actor and critic on ``num_features`` features, and draws all first weights.

        Weights are orthogonal, biases are zero, and the first policy is nearly uniform.

        Returns:
            The generator of the weights, for parameters that the subclass draws itself.
        """
        self.actor = nn.Linear(num_features, self.num_outputs)
        self.critic = nn.Linear(num_features, 1)
        self.return_scale: Tensor
        self.register_buffer("return_scale", torch.ones(()))
        generator = weights_generator(self.generator)
        self._initialise(self, generator)
        return generator

    @torch.no_grad()
    def _initialise(self, module: nn.Module, generator: torch.Generator) -> None:
        """Draws the first weights of a module; memory cores draw their own.

        One-dimensional weights, such as the scales of a ``LayerNorm``, keep their first values.
        """
        if isinstance(module, MemoryCore):
            module.initialise(generator)
            return
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                gain = 0.01 if module is self.actor else 1.0
                nn.init.orthogonal_(parameter, gain, generator=generator)
            elif name not in ("weight", "log_std"):
                nn.init.zeros_(parameter)
        for child in module.children():
            self._initialise(child, generator)

    @abstractmethod
    def initial_state(self, num: int) -> ActorState:
        """Returns the state before the first step of ``num`` trials."""

    @abstractmethod
    def step(self, obs: Tensor, state: ActorState) -> tuple[Tensor, ActorState]:
        """Returns features ``[N, H]`` of one step's observations ``[N, O]``, and the next state."""

    @abstractmethod
    def features(self, obs: Tensor, state: ActorState) -> Tensor:
        """Returns features ``[T, N, H]`` of whole trials ``[T, N, O]``, from the first step on."""

    def forward(
        self,
        obs: Tensor,
        state: ActorState,
        deterministic: bool = False,
        draws: CopiedDraws | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, ActorState]:
        """Acts for one step.

        Args:
            obs: Observations of the step, ``[N, O]``.
            state: State before the step.
            deterministic: Whether to take the most likely action instead of a draw.
            draws: Streams of the random numbers of each of N rows (default: the generator).

        Returns:
            Actions ``[N, ...]``, values ``[N]``, log-probabilities ``[N]``, and the next state.
        """
        hidden, state = self.step(obs, state)
        policy = self.distribution(hidden)
        actions = policy.mode if deterministic else self._draw(policy, draws)
        return actions, self.values(hidden), policy.log_prob(actions), state

    def evaluate_actions(
        self, obs: Tensor, actions: Tensor, state: ActorState
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs whole trials, from their first step on.

        Args:
            obs: Observations, ``[T, N, O]``.
            actions: Actions that were taken, ``[T, N, ...]``.
            state: State before the first step.

        Returns:
            Values, log-probabilities of the actions, and entropies, ``[T, N]`` each.
        """
        hidden = self.features(obs, state)
        policy = self.distribution(hidden)
        return self.values(hidden), policy.log_prob(actions), policy.entropy()

    def values(self, hidden: Tensor) -> Tensor:
        """Returns expected returns, for features ``[..., H]``."""
        return self.critic(hidden)[..., 0] * self.return_scale

    @torch.no_grad()
    def rescale_returns(self, scale: Tensor) -> None:
        """Sets ``return_scale``, keeping the critic's values (PopArt: van Hasselt et al., 2016)."""
        change = self.return_scale / scale
        self.critic.weight.mul_(change)
        self.critic.bias.mul_(change)
        self.return_scale.copy_(scale)

    def distribution(self, hidden: Tensor) -> Distribution:
        """Returns the distribution of actions, for features ``[..., H]``."""
        outputs = self.actor(hidden)
        if isinstance(self.action_space, spaces.Discrete):
            return Categorical(logits=outputs, validate_args=False)
        means = outputs.unflatten(-1, self.action_space.shape)
        spread = self.log_std.exp().view(self.action_space.shape).expand_as(means)
        return Independent(Normal(means, spread, validate_args=False), len(self.action_space.shape))

    def _draw(self, policy: Distribution, draws: CopiedDraws | None = None) -> Tensor:
        """Draws with the agent's own generator, which torch.distributions cannot take."""
        if isinstance(policy, Categorical):
            return choices(check_chances(policy.probs), self.generator, draws)
        noise = standard_normal(policy.mean, self.generator, draws)
        return policy.mean + policy.stddev * noise

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Acts in the first step of trials; :meth:`predict` carries the state on."""
        return self(observation, self.initial_state(len(observation)), deterministic)[0]

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Acts, and carries the state on.

        Args:
            observation: Observations ``[N, O]``, or ``[O]`` for a single environment.
            state: State that the previous call returned, leaves ``[N, ...]``; ``None`` before the
                first step.
            episode_start: Not used: the state is kept over the episodes of a trial, and the
                observation marks where a trial begins.
            deterministic: Whether to take the most likely action instead of a draw.

        Returns:
            Actions of ``action_space.dtype``, clipped to a ``Box``, and the next state.

        Raises:
            ValueError: The observations have another shape, or the state another number of trials.
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
        check_finite_array("observation", batch)
        num = len(batch)
        before = self.initial_state(num) if state is None else self._as_state(state, num)
        with torch.inference_mode():
            obs = torch.as_tensor(batch, device=self.device)
            actions, _, _, after = self(obs, before, deterministic)
        taken = self.clip(actions).cpu().numpy()
        return (taken[0] if single else taken), tuple(leaf.cpu().numpy() for leaf in after)

    def clip(self, actions: Tensor) -> Tensor:
        """Clips actions to the bounds, and gives them the type, of the action space."""
        if isinstance(self.action_space, spaces.Box):
            edges = (self.action_space.low, self.action_space.high)
            actions = actions.clip(*(torch.as_tensor(edge, device=self.device) for edge in edges))
        return actions.to(self._action_dtype)

    def _as_state(self, state: Any, num: int) -> ActorState:
        like = self.initial_state(1)  # a cache of attention is large
        expected, got = (
            [(num, *leaf.shape[1:]) for leaf in like],
            [np.shape(leaf) for leaf in state],
        )
        if got != expected:
            raise ValueError(f"state: expected leaves of shapes {expected}, got {got}")
        # Copies: a core may write into the state that it is given, and this one is the user's.
        copy, pairs = not self.uses_up_states, zip(state, like, strict=True)
        return tuple(torch.as_tensor(leaf).to(part, copy=copy) for leaf, part in pairs)


def clock_after(clock: Tensor, obs: Tensor) -> Tensor:
    """Returns the steps since the trial and since the episode began, ``[N, 2]``.

    Args:
        clock: The same numbers one step before, -1 before the first step.
        obs: Observations of the step, ``[N, O]``.
    """
    begins = obs[:, -1] > 0
    starts = torch.stack([begins, begins | (obs[:, -2] > 0)], dim=-1)
    return torch.where(starts, 0.0, clock + 1.0)


def clock_of(obs: Tensor) -> Tensor:
    """Returns the clock at each step of whole trials ``[T, N, O]``: ``[T, N, 2]``."""
    steps = torch.arange(len(obs), device=obs.device)[:, None].expand(obs.shape[:2])
    began = torch.where(obs[..., -2] > 0, steps, 0).cummax(dim=0).values
    return torch.stack([steps, steps - began], dim=-1)
