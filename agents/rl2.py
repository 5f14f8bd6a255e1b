"""RL²: fast reinforcement learning via slow reinforcement learning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from meta_rl.arguments import check_count, check_counts, checked
from meta_rl.memory import MemoryState, make_memory_core
from meta_rl.on_policy.actor_critic import ActorCritic
from meta_rl.on_policy.agent import OnPolicyAgent


class RecurrentActorCritic(ActorCritic):
    """A policy and a value function that read the same memory.

    The memory is reset where the observation marks a new trial, and nowhere else.

    Args:
        observation_space: Flat ``Box`` of :class:`.AppendPreviousStep`.
        action_space: ``Discrete`` or ``Box`` space of actions.
        core: Name in :data:`meta_rl.memory.MEMORY_CORES`.
        hidden_size: Size of the memory.
        embedding: Sizes of the ReLU layers before the memory (default: no layers).
        hidden_sizes: Sizes of the tanh layers after the memory, which read its output and its input
            and are shared by policy and value function (default: no layers). A minimal GRU needs
            them, since it combines its input with its memory by interpolation alone.
        generator: Generator that draws the first weights and, later, the actions.
        memory_span: Number of steps over which the memory should be able to learn from the start
            (see :meth:`meta_rl.memory.MemoryCore.set_time_scales`); ``None`` for zero biases.
        log_std_init: Initial logarithm of the standard deviation, for ``Box`` actions.
    """

    @checked
    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        *,
        core: str = "gru",
        hidden_size: int = 128,
        embedding: Sequence[int] = (),
        hidden_sizes: Sequence[int] = (),
        generator: torch.Generator,
        memory_span: int | None = None,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, generator, log_std_init)
        sizes = [observation_space.shape[0] - 1, *check_counts("embedding", embedding)]
        check_count("hidden_size", hidden_size)
        self.embedding = _layers(sizes, nn.ReLU)
        # The first features, before action, reward and done flag, are the observation itself.
        place = None if embedding else (sizes[0] - self.num_outputs - 2) or None
        self.core = make_memory_core(core, sizes[-1], hidden_size, place)
        after = check_counts("hidden_sizes", hidden_sizes)
        read = [self.core.output_size + (sizes[-1] if after else 0), *after]
        self.reading = _layers(read, nn.Tanh)
        drawn_by = self.make_heads(read[-1])
        if memory_span is not None:
            check_count("memory_span", memory_span)
            self.core.set_time_scales(memory_span, drawn_by)

    def initial_state(self, num: int) -> MemoryState:
        """Returns the memory before the first step of ``num`` trials."""
        return self.core.initial_state(num)

    def step(self, obs: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        """Reads and writes the memory, ``[N, H]``, which is reset where a trial begins."""
        state = self.core.reset(state, obs[:, -1] > 0)
        inputs = self.embedding(obs[:, :-1])
        outputs, state = self.core.step(inputs, state)
        return self._read(outputs, inputs), state

    def features(self, obs: Tensor, state: MemoryState) -> Tensor:
        """Reads and writes the memory at each step of whole trials, ``[T, N, H]``."""
        inputs = self.embedding(obs[..., :-1])
        return self._read(self.core(inputs, state)[0], inputs)

    def _read(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Returns features of the memory's outputs and inputs, ``[..., H]``."""
        if len(self.reading) == 0:
            return outputs
        return self.reading(torch.cat([outputs, inputs], dim=-1))


def _layers(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Makes linear layers, each followed by the activation."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(part for a, b in pairs for part in (nn.Linear(a, b), activation())))


class RL2(OnPolicyAgent):
    """Agent that runs RL² (Duan et al., 2016; Wang et al., 2016) with PPO.

    A recurrent policy sees the previous action, reward and done flag together with the observation,
    and keeps its memory over all episodes of a trial, that is, of one task. Ordinary reinforcement
    learning of such a policy on a distribution of tasks makes the recurrence itself a learning
    algorithm. The agent adapts by acting, and :meth:`adapt` is the identity.

    The agent maximises the return of the whole trial: the advantage estimate continues across the
    ends of episodes and stops at the end of the trial, whose last step is not bootstrapped.

    Differences from the paper: PPO with a clipped objective (Schulman et al., 2017) in place of
    TRPO (as in most later work), and one memory for policy and value function.

    The arguments are those of :class:`meta_rl.on_policy.agent.OnPolicyAgent`; ``"MlpPolicy"`` is
    :class:`RecurrentActorCritic`, whose ``policy_kwargs`` are ``core`` (``"gru"``, ``"lstm"``,
    ``"mingru"``, ``"attention"``, ``"associative"``, ``"ntm"``), ``hidden_size``,
    ``embedding``, ``hidden_sizes``, ``memory_span`` (by default a whole trial) and
    ``log_std_init``.

    Example:
        >>> from meta_rl.agents.rl2 import RL2
        >>> model = RL2(env="meta_rl/BernoulliBandit-v0", seed=0).learn(100_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/BernoulliBandit-v0", num_tasks=1000)
    """

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": RecurrentActorCritic}

    def _policy_defaults(self) -> dict[str, Any]:
        """Returns the memory's span; an agent that is loaded without an environment needs none."""
        return {"memory_span": None if self.env is None else self.whole_trial()}
