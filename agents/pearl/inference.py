"""PEARL's adaptation: infer a latent task variable, and act on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from meta_rl.arguments import check_finite_array
from meta_rl.compute.torch_state import branch
from meta_rl.rollout import Rollout, check_rollout

from .encoders import Belief
from .networks import LatentActorCritic
from .replay import as_rows


class LatentState(NamedTuple):
    """PEARL's knowledge of N tasks; every leaf has a leading task axis.

    Attributes:
        latent: Latent z that the agent acts on, float32 ``[N, L]``.
        episodes: Number of episodes that the agent adapted to, int64 ``[N]``.
        belief: Belief of the encoder: natural parameters of the posterior, or a memory.
    """

    latent: np.ndarray
    episodes: np.ndarray
    belief: tuple[np.ndarray, ...]


class LatentInference:
    """Mixin with ``adapt`` and ``predict`` of agents that act on a latent task variable.

    Attributes:
        policy: Networks of the agent.
        device: Device of the networks.
        exploration_episodes: Number of first episodes of a trial with z from the prior.
        test_latent: Latent to act on: a ``"sample"`` of the posterior, or its ``"mean"``.
    """

    policy: LatentActorCritic
    device: torch.device
    observation_space: Any
    exploration_episodes: int
    test_latent: str

    def initial_state(self, num: int) -> LatentState:
        """Returns the state before anything is known of ``num`` tasks, with z from the prior."""
        with torch.no_grad():
            belief = tuple(part.cpu().numpy() for part in self.policy.encoder.initial_belief(num))
        return self._with_new_latent(
            LatentState(np.empty(0), np.zeros(num, dtype=np.int64), belief)
        )

    @torch.no_grad()
    def _with_new_latent(self, state: LatentState) -> LatentState:
        """Returns the state with a new z, from the prior while exploring, then the posterior."""
        encoder = self.policy.encoder
        belief = self._as_belief(state)
        episodes = torch.as_tensor(state.episodes, device=self.device)
        exploring = ((episodes < self.exploration_episodes) | (belief[-1] == 0))[:, None]
        mean, variance = encoder.posterior(belief)
        if self.test_latent == "mean":
            variance = torch.zeros_like(variance)
        prior_mean, prior_variance = encoder.prior(belief)
        mean = torch.where(exploring, prior_mean, mean)
        variance = torch.where(exploring, prior_variance, variance)
        latents = mean + variance.sqrt() * self.policy.noise(*mean.shape)
        return state._replace(latent=latents.cpu().numpy())

    def _as_belief(self, state: LatentState) -> Belief:
        return tuple(torch.as_tensor(part, device=self.device) for part in state.belief)

    def posterior(self, state: LatentState) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance of z, ``[N, L]`` each, given all data that were adapted to."""
        with torch.no_grad():
            mean, variance = self.policy.encoder.posterior(self._as_belief(state))
        return mean.cpu().numpy(), variance.cpu().numpy()

    @torch.no_grad()
    def adapt(self, rollout: Rollout, state: LatentState | None = None) -> LatentState:
        """Updates the posterior with the transitions of a rollout, and draws z from it.

        The draw leaves the agent's generator as it was, so that a training goes on undisturbed.

        Args:
            rollout: Rollout of any number of steps on N tasks; steps outside its mask are ignored.
            state: State before these steps (default: nothing is known).

        Returns:
            The new state; ``state`` is not changed.

        Raises:
            ValueError: The state has another number of tasks.
        """
        check_rollout(rollout)
        with branch(self.policy.generator):
            return self._adapted(rollout, state)

    def _adapted(self, rollout: Rollout, state: LatentState | None) -> LatentState:
        num_steps, num = rollout.rewards.shape
        state = self.initial_state(num) if state is None else self._check_state(state, num)
        actions = np.asarray(self.policy.scale_action(rollout.actions), dtype=np.float32)
        rows = as_rows(rollout, actions, rollout.rewards, rollout.rewards).to(self.device)
        context = rows[..., : self.policy.context_size].transpose(0, 1)
        real = np.ones((num_steps, num), dtype=bool) if rollout.mask is None else rollout.mask
        mask = None if rollout.mask is None else torch.from_numpy(real.T).to(self.device)
        belief = self.policy.encoder.update(self._as_belief(state), context, mask)
        ended = ((rollout.terminated | rollout.truncated) & real).sum(axis=0)
        return self._with_new_latent(
            LatentState(
                state.latent,
                state.episodes + ended,
                tuple(part.cpu().numpy() for part in belief),
            )
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Acts with the state's z, which is drawn anew where an episode starts.

        Args:
            observation: Observations ``[N, ...]``, or a single one.
            state: :class:`LatentState` from :meth:`adapt` or from the previous call; ``None``
                before anything is known.
            episode_start: Tasks where an episode starts, bool ``[N]``; ``None`` keeps z.
            deterministic: Whether to take the mode of the action's normal distribution (z may still
                be a sample: see ``test_latent``).

        Returns:
            Actions in the action space, and the state with the z that was acted on.

        Raises:
            ValueError: The observations have another shape, or the state another number of tasks.
        """
        array = np.asarray(observation, dtype=np.float32)
        shape = self.observation_space.shape
        single = array.shape == shape
        batch = array[None] if single else array
        if batch.shape[1:] != shape:
            expected = f"(N, {', '.join(map(str, shape or ()))})"
            raise ValueError(f"observation: expected shape {expected}, got {array.shape}")
        check_finite_array("observation", array)
        if state is None:
            state = self.initial_state(len(batch))
        elif episode_start is not None and np.any(episode_start):
            state = self._check_state(state, len(batch))
            anew = np.reshape(episode_start, (-1, 1))
            drawn = self._with_new_latent(state).latent
            state = state._replace(latent=np.where(anew, drawn, state.latent))
        latents = torch.as_tensor(self._check_state(state, len(batch)).latent, device=self.device)
        actions = self.policy.unscaled(self.policy.act(batch, latents, deterministic))
        return (actions[0] if single else actions), state

    def _check_state(self, state: LatentState, num: int) -> LatentState:
        if not isinstance(state, LatentState) or len(state.episodes) != num:
            size = len(state.episodes) if isinstance(state, LatentState) else type(state).__name__
            raise ValueError(f"state: expected a LatentState of {num} tasks, got {size}")
        return state
