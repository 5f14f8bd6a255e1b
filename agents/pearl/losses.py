"""Losses of soft actor-critic on a latent task variable, without a loop over tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .encoders import Belief
from .networks import LatentActorCritic

POLICY_REGULARIZATION = 1e-3
"""Weight of the squared means and log standard deviations of actions before squashing."""


@dataclass(frozen=True)
class LatentLosses:
    """The two losses of PEARL's update: one of critics and encoder, one of policy and value.

    They are pure functions of the networks' parameters and of the noise that is passed in.

    Letters: M tasks, B transitions of each, C transitions of context, D numbers in a row, L latent,
    A action.

    Attributes:
        policy: Networks of the agent.
        columns: Columns of a row of :class:`meta_rl.agents.pearl.replay.TaskReplay`.
        reward_scale: Factor of the rewards that the critics learn from.
        discount: Discount of the rewards, 0 to 1.
        learn_temperature: Whether to learn the temperature, for an entropy of minus the number of
            action dimensions.
    """

    policy: LatentActorCritic
    columns: list[slice]
    reward_scale: float
    discount: float
    learn_temperature: bool

    def critic_loss(
        self, rows: Tensor, context: Tensor, belief: Belief, noise: Tensor, action_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the critics' summed squared errors (Rakelly et al., 2019, equation 2).

        The target is ``reward_scale * r + discount * (1 - terminal) * V(s', z)`` with the target
        value network; without a value network, V is the smaller target critic minus the scaled
        log-probability, at an action that is drawn in s'. The encoder gets the gradient of the
        critics' predictions, not of the target.

        Args:
            rows: Rows of the replay, ``[M, B, D]``.
            context: Transitions that the encoder reads, ``[M, C, D]``.
            belief: Belief before the context.
            noise: Unit normal draws for z, ``[M, L]``.
            action_noise: Unit normal draws for the next actions, ``[M * B, A]``.

        Returns:
            Losses ``[M]``, z ``[M, L]``, and its posterior's divergence from the prior, ``[M]``.
        """
        policy, columns = self.policy, self.columns
        mean, variance = policy.encoder.posterior(policy.encoder.update(belief, context))
        latents = mean + variance.sqrt() * noise
        with torch.no_grad():
            following = with_latents(rows[..., columns[3]], latents)
            reward, terminal = rows[..., columns[4].start :].flatten(0, 1).unbind(dim=1)
            values = self._next_values(following, action_noise)
            targets = self.reward_scale * reward + self.discount * (1.0 - terminal) * values
        inputs = with_latents(rows[..., : columns[1].stop], latents)
        errors = policy.critics(inputs)[..., 0] - targets
        losses = errors.square().sum(dim=0).view(rows.shape[:2]).mean(dim=1)
        return losses, latents, policy.encoder.divergence(mean, variance)

    def _next_values(self, following: Tensor, noise: Tensor) -> Tensor:
        policy = self.policy
        if policy.value is not None:
            return policy.target(following)[:, 0]
        actions, log_probs, _, _ = policy.actions(following, noise)
        smaller = policy.target(self._with_actions(following, actions)).amin(dim=0)[:, 0]
        return smaller - policy.temperature * log_probs

    def _with_actions(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Puts actions between observation and z ``[N, O + L]``, as the critics read them."""
        split = self.policy.observation_size
        return torch.cat([inputs[:, :split], actions, inputs[:, split:]], dim=1)

    def actor_loss(
        self, rows: Tensor, latents: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the losses of policy, value and temperature (Rakelly et al., 2019, equation 3).

        The policy's loss is ``temperature * log pi - min Q`` at newly drawn actions, plus the
        regularisation of means and log standard deviations. The value network's is ``(V - (min Q -
        temperature * log pi))²``. A learned temperature's is ``-log temperature * (log pi - A)``.
        Critics and latents get no gradient.

        Args:
            rows: Rows of the replay, ``[M, B, D]``.
            latents: Latents z, ``[M, L]``.
            noise: Unit normal draws for the actions, ``[M * B, A]``.

        Returns:
            Summed losses ``[M]``, and means to report.
        """
        policy = self.policy
        inputs = with_latents(rows[..., self.columns[0]], latents)
        actions, log_probs, mean, log_std = policy.actions(inputs, noise)
        smaller = policy.critics(self._with_actions(inputs, actions), frozen=True)[..., 0].amin(0)
        entropy_cost = policy.temperature * log_probs
        size = mean.square().mean(dim=1) + log_std.square().mean(dim=1)
        losses = entropy_cost - smaller + POLICY_REGULARIZATION * size
        report = {"policy_loss": losses.detach().mean(), "entropy": -log_probs.detach().mean()}
        if policy.value is not None:
            errors = policy.value(inputs)[:, 0] - (smaller - entropy_cost).detach()
            report["value_loss"] = errors.detach().square().mean()
            losses = losses + errors.square()
        if self.learn_temperature:
            surplus = (log_probs - policy.action_size).detach()  # the target is -A
            losses = losses - policy.log_temperature * surplus
            report["temperature"] = policy.temperature
        return losses.view(rows.shape[:2]).mean(dim=1), report


def with_latents(rows: Tensor, latents: Tensor) -> Tensor:
    """Appends its task's z ``[M, L]`` to each of the rows ``[M, B, X]``: ``[M * B, X + L]``."""
    repeated = latents[:, None].expand(-1, rows.shape[1], -1)
    return torch.cat([rows, repeated], dim=-1).flatten(0, 1)
