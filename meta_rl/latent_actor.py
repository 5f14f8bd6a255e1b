"""Acting on latent task variables that are held through episodes, while data are collected."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from meta_rl.latent_policy import LatentActorCritic


class LatentActor:
    """Columns of sub-environments at work on training tasks.

    Letters: N columns, L latent, A action.

    Args:
        policy: The networks.
        tasks: Index of each column's task, ``[N]``.
        observations: The first, ``[N, ...]``.

    Attributes:
        latents: z of each column, ``[N, L]``.
        starts: Whose episode begins with the next step, bool ``[N]``.
    """

    def __init__(
        self, policy: LatentActorCritic, tasks: np.ndarray, observations: np.ndarray
    ) -> None:
        self.policy, self.tasks, self.observations = policy, tasks, observations
        num = len(tasks)
        self.latents = torch.zeros(num, policy.latent_size, device=policy.device)
        self.starts = np.ones(num, dtype=bool)
        self._held = torch.zeros(num, policy.action_size, device=policy.device)

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """Draw z from these Gaussians ``[N, L]`` where an episode begins from now on."""
        self.mean, self.deviation = mean, variance.sqrt()

    def act(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions of the policy, for :func:`meta_rl.rollout.collect_rollout`."""
        if self.starts.any():
            drawn = self.mean + self.deviation * self.policy.noise(*self.mean.shape)
            self.latents = torch.where(self._where(), drawn, self.latents)
        return self._taken(self.policy.act(observations, self.latents))

    def act_held(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Actions that are uniform in the action space, and held through an episode."""
        if self.starts.any():
            random = torch.rand(
                self._held.shape, generator=self.policy.generator, device=self._held.device
            )
            self._held = torch.where(self._where(), 2.0 * random - 1.0, self._held)
        shape = self.policy.action_space.shape or ()
        return self._taken(self._held.cpu().numpy().reshape(-1, *shape))

    def on_done(self, done: np.ndarray) -> None:
        """Note whose episode a step ended."""
        self.starts = done

    def _where(self) -> Tensor:
        return torch.from_numpy(self.starts)[:, None].to(self.latents.device)

    def _taken(self, scaled: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self.policy.unscaled(scaled), {"scaled_actions": scaled}
