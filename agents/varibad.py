"""VariBAD: Bayes-adaptive reinforcement learning on a variational belief about the task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional
from torch.optim import Adam, Optimizer

from meta_rl.arguments import check_count, check_number
from meta_rl.compute.finite_state import guarded_step
from meta_rl.memory import make_memory_core
from meta_rl.on_policy.actor_critic import ActorCritic, ActorState, clock_after, clock_of
from meta_rl.on_policy.agent import OnPolicyAgent
from meta_rl.rollout import Rollout


def layers(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Makes linear layers, each followed by the activation."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(part for a, b in pairs for part in (nn.Linear(a, b), activation())))


class Decoder(nn.Module):
    """A decoder of all steps of a trial from all latents; both pass through a network once.

    Output j for the step x and the latent m is ``<φ(x), ψ_j(m)> / √K``, with K features.
    """

    def __init__(self, step_size: int, latent_size: int, num_outputs: int, size: int) -> None:
        super().__init__()
        self.step = nn.Sequential(*layers(step_size, size), nn.Linear(size, size))
        self.latent = nn.Sequential(*layers(latent_size, size), nn.Linear(size, num_outputs * size))
        self.size = size

    def forward(self, steps: Tensor, latents: Tensor) -> Tensor:
        """Maps T steps ``[T, N, X]`` and E latents ``[E, N, L]`` to outputs ``[E, T, N, J]``."""
        heads = self.latent(latents).unflatten(-1, (-1, self.size)) / math.sqrt(self.size)
        return torch.einsum("tnk,enjk->etnj", self.step(steps), heads)


class BeliefActorCritic(ActorCritic):
    """A recurrent belief about the task, a decoder of trials, and a policy that reads the belief.

    The policy also reads a clock, the steps in the trial and in the episode. The state holds the
    encoder's memory, the clock, and mean and log-variance of the belief.

    Args:
        observation_space: Flat ``Box`` of :class:`.AppendPreviousStep`.
        action_space: ``Discrete`` or ``Box`` space of actions.
        latent_size: Number of latent variables, L.
        core: Name of the encoder's memory in :data:`meta_rl.memory.MEMORY_CORES`.
        hidden_size: Size of the encoder's memory.
        embedding: Sizes of the ReLU layers before the memory.
        hidden_sizes: Sizes of the tanh layers that policy and value function share.
        decoder_size: Size of the decoder's layers.
        reward_values: Values that a reward can take, which are decoded as classes (two values:
            Bernoulli); ``None`` decodes a normal distribution of unit variance.
        reward_of_state: Whether rewards are decoded from the next observations alone.
        decode_states: Whether next observations are decoded too, where dynamics vary.
        generator: Generator that draws the first weights and, later, the actions.
        memory_span: Number of steps, for :meth:`meta_rl.memory.MemoryCore.set_time_scales`, and the
            unit of the clock; ``None`` for zero biases.
        log_std_init: Initial logarithm of the standard deviation, for ``Box`` actions.
    """

    inference_optimizer: Optimizer

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete | spaces.Box,
        *,
        latent_size: int = 5,
        core: str = "gru",
        hidden_size: int = 128,
        embedding: Sequence[int] = (64,),
        hidden_sizes: Sequence[int] = (64, 64),
        decoder_size: int = 64,
        reward_values: Sequence[float] | None = None,
        reward_of_state: bool = False,
        decode_states: bool = False,
        generator: torch.Generator,
        memory_span: int | None = None,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space, generator, log_std_init)
        self.latent_size = check_count("latent_size", latent_size)
        size = observation_space.shape[0] - 1  # without the mark of a new trial
        seen = self.observation_size = size - self.num_outputs - 2
        self.embedding = layers(size, *embedding)
        self.core = make_memory_core(core, [size, *embedding][-1], hidden_size)
        self.posterior = nn.Linear(self.core.output_size, 2 * latent_size)
        self.reward_values: Tensor
        self.register_buffer("reward_values", torch.tensor(list(reward_values or [])))
        moved = seen + self.num_outputs
        self.reward_of_state = reward_of_state
        step_size = seen if reward_of_state else moved + seen
        self.rewards = Decoder(step_size, latent_size, len(reward_values or [0]), decoder_size)
        self.states = Decoder(moved, latent_size, seen, decoder_size) if decode_states else None
        self.span: Tensor
        self.register_buffer("span", torch.tensor(float(memory_span or 1)))
        self.acting = layers(seen + 2 + 2 * latent_size, *hidden_sizes, activation=nn.Tanh)
        self.core.set_time_scales(memory_span or 1, self.make_heads(hidden_sizes[-1]))

    def inference_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of encoder and decoders, which only the ELBO trains."""
        parts = (self.embedding, self.core, self.posterior, self.rewards, self.states)
        return [p for part in parts if part is not None for p in part.parameters()]

    def initial_state(self, num: int) -> ActorState:
        """Returns the memory before the first step, and the prior: the unit normal."""
        prior = self.posterior.weight.new_zeros(num, self.latent_size)
        return (*self.core.initial_state(num), prior.new_full((num, 2), -1.0), prior, prior)

    @torch.no_grad()
    def step(self, obs: Tensor, state: ActorState) -> tuple[Tensor, ActorState]:
        """Updates the belief by one step; it is the prior again where a trial begins."""
        begins = obs[:, -1] > 0
        first = self.core.reset(state[:-3], begins)
        outputs, after = self.core.step(self.embedding(obs[:, :-1]), first)
        belief = self.posterior(outputs).chunk(2, dim=-1)
        clock = clock_after(state[-3], obs)
        return self._read(obs, clock, belief), (*after, clock, *belief)

    def features(self, obs: Tensor, state: ActorState) -> Tensor:
        """Returns features of whole trials; the policy's loss does not reach the encoder."""
        with torch.no_grad():
            belief = self.beliefs(obs)
        return self._read(obs, clock_of(obs), belief)

    def beliefs(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and log-variances after each step of whole trials, ``[T, N, L]`` each."""
        inputs, first = self.embedding(obs[..., :-1]), self.core.initial_state(obs.shape[1])
        means, log_variances = self.posterior(self.core(inputs, first)[0]).chunk(2, dim=-1)
        return means, log_variances

    def _read(self, obs: Tensor, clock: Tensor, belief: Sequence[Tensor]) -> Tensor:
        parts = [obs[..., : self.observation_size], clock / self.span, *belief]
        return self.acting(torch.cat(parts, dim=-1))

    def surprise(self, obs: Tensor, following: Tensor, latents: Tensor) -> Tensor:
        """Returns minus the log-likelihood of whole trials, ``[E, N]``, up to a constant.

        Args:
            obs: Observations, ``[T, N, O]``.
            following: Observations that follow them, with their action and reward, ``[T, N, O]``.
            latents: Latents m, ``[E, N, L]``.
        """
        seen = self.observation_size
        before, after, action = obs[..., :seen], following[..., :seen], following[..., seen:-3]
        moved, reward = torch.cat([before, action], dim=-1), following[..., -3]
        parts = [after] if self.reward_of_state else [moved, after]
        decoded = self.rewards(torch.cat(parts, dim=-1), latents)
        if len(self.reward_values) == 0:
            losses = 0.5 * (decoded[..., 0] - reward).square()
        else:
            away, classes = (reward[..., None] - self.reward_values).abs().min(dim=-1)
            if away.max() > 1e-4:
                other, known = reward.flatten()[away.argmax()], self.reward_values.tolist()
                raise ValueError(f"reward_values are {known}, but a reward is {other:g}")
            wanted = classes.expand(decoded.shape[:-1])
            losses = functional.cross_entropy(decoded.movedim(-1, 1), wanted, reduction="none")
        if self.states is not None:
            change = self.states(moved, latents) - (after - before)
            losses = losses + 0.5 * change.square().sum(dim=-1)
        return losses.sum(dim=1)


class VariBAD(OnPolicyAgent):
    """Agent that runs VariBAD (Zintgraf et al., 2020) with PPO.

    A recurrent encoder maps the trial so far to a belief about the task, a normal distribution q
    of latents m, from which a decoder predicts the rewards of the whole trial, past and future.
    Both maximise the evidence lower bound, summed over all steps t of a trial:

        ``ELBO_t = E_q(m|τ:t) [log p(τ | m)] - w KL(q(m|τ:t) || q(m|τ:t-1))``

    whose first prior is the unit normal. The policy reads the observation and the belief, and
    maximises the return of the whole trial. ``docs/agents/varibad.md`` lists differences.

    The arguments are those of :class:`meta_rl.on_policy.agent.OnPolicyAgent`, and those below;
    ``"MlpPolicy"`` is :class:`BeliefActorCritic`, whose arguments are ``policy_kwargs``.

    Args:
        inference_learning_rate: Step size of encoder and decoder, in the form of ``learning_rate``.
        kl_weight: Weight w of the KL divergence, from 0 on.
        inference_updates: Number of updates of encoder and decoder in an iteration.
        inference_trials: Number of recent trials in such an update.
        elbo_terms: Number of beliefs of a trial, drawn anew in each update; ``None`` for all.
        buffer_trials: Number of recent trials that are kept to draw from.
        **settings: Further arguments of the base classes.

    Example:
        >>> from meta_rl.agents.varibad import VariBAD
        >>> model = VariBAD(env="meta_rl/GridNavigation-v0", seed=0).learn(100_000)
        >>> meta_rl.evaluate_adaptation(model, "meta_rl/GridNavigation-v0")
    """

    policy_aliases: ClassVar[dict[str, type[Any]]] = {"MlpPolicy": BeliefActorCritic}
    policy: BeliefActorCritic
    divides_over_ranks = False

    def __init__(
        self,
        policy: str | type[BeliefActorCritic] = "MlpPolicy",
        env: GymEnv | VectorEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        *,
        inference_learning_rate: float | Schedule = 1e-3,
        kl_weight: float = 0.1,
        inference_updates: int = 10,
        inference_trials: int = 64,
        elbo_terms: int | None = None,
        buffer_trials: int = 1000,
        num_epochs: int = 4,
        gae_lambda: float = 0.95,
        **settings: Any,
    ) -> None:
        self.inference_schedule = FloatSchedule(inference_learning_rate)
        self.kl_weight = check_number("kl_weight", kl_weight, least=0.0)
        self.inference_updates = check_count("inference_updates", inference_updates)
        self.inference_trials = check_count("inference_trials", inference_trials)
        self.elbo_terms = check_count("elbo_terms", elbo_terms) if elbo_terms is not None else None
        self.buffer_trials = check_count("buffer_trials", buffer_trials)
        settings |= {"num_epochs": num_epochs, "gae_lambda": gae_lambda}
        super().__init__(policy, env, learning_rate, **settings)

    def _make_networks(self) -> None:
        super()._make_networks()
        inference = self.policy.inference_parameters()
        acting = [p for p in self.policy.parameters() if all(p is not other for other in inference)]
        adam = partial(Adam, eps=1e-5, fused=True)
        self.policy.optimizer = adam(acting, self.lr_schedule(1.0))
        self.policy.inference_optimizer = adam(inference, self.inference_schedule(1.0))
        self.recent = torch.zeros(0, 0, 0, device=self.device)  # trials, [T, trials, 2 O]

    def _policy_defaults(self) -> dict[str, Any]:
        return {"memory_span": None if self.env is None else self.whole_trial()}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, _ = super()._get_torch_save_params()
        return [*names, "policy.inference_optimizer"], ["recent"]

    def _as_batch(self, rollouts: list[Rollout]) -> dict[str, Tensor]:
        """Keeps the trials for the ELBO, and joins them for PPO."""
        for rollout in rollouts:
            parts = (rollout.observations, rollout.next_observations)
            trials = torch.cat([torch.as_tensor(p, device=self.device) for p in parts], dim=-1)
            kept = self.recent if len(self.recent) == len(trials) else trials[:, :0]  # they grow
            self.recent = torch.cat([kept, trials], dim=1)[:, -self.buffer_trials :]
        return super()._as_batch(rollouts)

    def train(self) -> None:
        """Trains the policy on the beliefs that it acted on, then encoder and decoder."""
        super().train()
        optimizer = self.policy.inference_optimizer
        update_learning_rate(optimizer, self.inference_schedule(self._current_progress_remaining))
        for _ in range(self.inference_updates):
            drawn = self.rng.integers(self.recent.shape[1], size=self.inference_trials)
            loss, report = self.inference_loss(self.recent[:, drawn])
            guarded_step(optimizer, loss, self.stop_before_step, max_norm=self.max_grad_norm)
        for name, value in report.items():
            self.logger.record(f"train/{name}", value.item())

    def inference_loss(self, trials: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes minus the ELBO, averaged over beliefs and trials, and its parts for the log.

        Args:
            trials: Observations and those that follow them, ``[T, N, 2 O]``.
        """
        obs, following = trials.chunk(2, dim=-1)
        means, log_variances = self.policy.beliefs(obs)
        spreads = (0.5 * log_variances).exp()
        drawn = self.rng.permutation(len(obs))[: self.elbo_terms]
        noise = torch.empty_like(means[drawn]).normal_(generator=self.generator)
        latents = means[drawn] + spreads[drawn] * noise
        surprise = self.policy.surprise(obs, following, latents).mean()
        change = belief_changes(means, spreads).mean()
        return surprise + self.kl_weight * change, {"surprise": surprise, "belief_change": change}

    def belief(self, state: ActorState) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance of the belief in a state of :meth:`predict`, ``[N, L]``."""
        return np.asarray(state[-2]), np.exp(np.asarray(state[-1]))


def belief_changes(means: Tensor, spreads: Tensor) -> Tensor:
    """Computes the KL divergence of each belief, ``[T, N, L]``, from the one before: ``[T, N]``."""
    first = torch.zeros_like(means[:1])
    before = torch.cat([first, means[:-1]]), torch.cat([first + 1.0, spreads[:-1]])
    beliefs = (Normal(*parts, validate_args=False) for parts in ((means, spreads), before))
    return kl_divergence(*beliefs).sum(dim=-1)
