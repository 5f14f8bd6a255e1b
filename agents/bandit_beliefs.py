"""Beliefs of bandit learners about the arms: counts of pulls and rewards, and conjugate priors.

Shapes: N tasks, A arms, T pulls in a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from meta_rl.rollout import Rollout
from meta_rl.vector.streams import TaskStreams


class BanditState(NamedTuple):
    """Data that a learner has seen of each task.

    Attributes:
        pulls: Number of pulls of each arm, int64 ``[N, A]``.
        reward_sums: Sum of the rewards of each arm, float64 ``[N, A]``.
    """

    pulls: np.ndarray
    reward_sums: np.ndarray


class ArmBelief(Protocol):
    """Interface of a belief about the mean reward of each arm, with independent arms."""

    @property
    def reward_scale(self) -> float:
        """The standard deviation of a reward around its mean, which scales confidence bounds."""

    def check_rewards(self, rewards: np.ndarray) -> None:
        """Refuses rewards ``[...]`` that are not possible.

        Raises:
            ValueError: A reward is not possible; the message says which are.
        """

    def observations(self, state: BanditState) -> np.ndarray:
        """Returns the number of rewards that the belief is worth, ``[N, A]``, with the prior's."""

    def mean(self, state: BanditState) -> np.ndarray:
        """Returns the expected mean reward of each arm, ``[N, A]``."""

    def sample(
        self, state: BanditState, rng: np.random.Generator, num_samples: int = 1
    ) -> np.ndarray:
        """Draws the mean rewards independently, ``[num_samples, N, A]``."""

    def log_density(self, means: np.ndarray, state: BanditState) -> np.ndarray:
        """Returns the log-density of means ``[..., N, A]``, up to a constant for each arm."""


@dataclass(frozen=True)
class BetaBelief:
    """Belief about Bernoulli arms: Beta(successes + wins, failures + losses).

    The default is correct for probabilities that are drawn uniformly from [0, 1].

    Attributes:
        successes: Pseudo-count of pulls that paid, above 0.
        failures: Pseudo-count of pulls that did not pay, above 0.
    """

    successes: float = 1.0
    failures: float = 1.0

    def __post_init__(self) -> None:
        if not (self.successes > 0 and self.failures > 0):
            raise ValueError(
                f"successes and failures must be above 0, got {self.successes}, {self.failures}"
            )

    @property
    def reward_scale(self) -> float:
        """The scale 1: the paper's UCB1 does not scale rewards in [0, 1]."""
        return 1.0

    def check_rewards(self, rewards: np.ndarray) -> None:
        """Refuses rewards other than 0 and 1.

        Raises:
            ValueError: A reward is not possible.
        """
        if not np.isin(rewards, (0.0, 1.0)).all():
            raise ValueError("rewards of a Bernoulli bandit must be 0 or 1")

    def observations(self, state: BanditState) -> np.ndarray:
        """Returns the pulls with the prior's pseudo-counts, ``[N, A]``."""
        return self.successes + self.failures + state.pulls

    def mean(self, state: BanditState) -> np.ndarray:
        """Returns ``(successes + wins) / observations``, ``[N, A]``."""
        means: np.ndarray = (self.successes + state.reward_sums) / self.observations(state)
        return means

    def sample(
        self, state: BanditState, rng: np.random.Generator, num_samples: int = 1
    ) -> np.ndarray:
        """Draws the probabilities, ``[num_samples, N, A]``."""
        wins, losses = self._parameters(state)
        # A task's draws must not depend on the rejected draws of the tasks before it.
        streams = TaskStreams(rng.integers(2**63, size=len(wins)))
        size = (len(wins), num_samples, wins.shape[1])
        return streams.beta(wins[:, None], losses[:, None], size).swapaxes(0, 1)

    def log_density(self, means: np.ndarray, state: BanditState) -> np.ndarray:
        """Returns the log-density of a Beta distribution, up to a constant, ``[..., N, A]``."""
        wins, losses = self._parameters(state)
        smallest = np.finfo(np.float64).tiny  # draws may round to 0 or 1
        log_density: np.ndarray = (wins - 1.0) * np.log(np.maximum(means, smallest))
        log_density += (losses - 1.0) * np.log(np.maximum(1.0 - means, smallest))
        return log_density

    def _parameters(self, state: BanditState) -> tuple[np.ndarray, np.ndarray]:
        wins = self.successes + state.reward_sums
        return wins, self.observations(state) - wins


@dataclass(frozen=True)
class NormalBelief:
    """Belief about arms with normal rewards of known spread, and normal mean rewards.

    The defaults are correct for ``GaussianBandit`` with its own defaults.

    Attributes:
        prior_mean: Mean of the mean rewards.
        prior_std: Standard deviation of the mean rewards, above 0.
        reward_std: Standard deviation of a reward around its arm's mean, above 0.
    """

    prior_mean: float = 0.0
    prior_std: float = 1.0
    reward_std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.prior_std > 0 and self.reward_std > 0):
            raise ValueError(
                f"prior_std and reward_std must be above 0, got {self.prior_std}, {self.reward_std}"
            )

    @property
    def reward_scale(self) -> float:
        """The standard deviation of a reward, ``reward_std``."""
        return self.reward_std

    def check_rewards(self, rewards: np.ndarray) -> None:
        """Refuses rewards that are not finite.

        Raises:
            ValueError: A reward is not possible.
        """
        if not np.isfinite(rewards).all():
            raise ValueError("rewards must be finite")

    def observations(self, state: BanditState) -> np.ndarray:
        """Returns the pulls plus ``(reward_std / prior_std) ** 2`` for the prior, ``[N, A]``."""
        return (self.reward_std / self.prior_std) ** 2 + state.pulls

    def mean(self, state: BanditState) -> np.ndarray:
        """Returns the posterior mean of each arm, ``[N, A]``."""
        worth = (self.reward_std / self.prior_std) ** 2
        means: np.ndarray = (worth * self.prior_mean + state.reward_sums) / (worth + state.pulls)
        return means

    def sample(
        self, state: BanditState, rng: np.random.Generator, num_samples: int = 1
    ) -> np.ndarray:
        """Draws the mean rewards, ``[num_samples, N, A]``."""
        noise = rng.standard_normal((num_samples, *state.pulls.shape))
        return self.mean(state) + noise * self._std(state)

    def log_density(self, means: np.ndarray, state: BanditState) -> np.ndarray:
        """Returns the log-density of a normal distribution, up to a constant, ``[..., N, A]``."""
        log_density: np.ndarray = -0.5 * ((means - self.mean(state)) / self._std(state)) ** 2
        return log_density

    def _std(self, state: BanditState) -> np.ndarray:
        std: np.ndarray = self.reward_std / np.sqrt(self.observations(state))
        return std


def initial_state(num_tasks: int, num_arms: int) -> BanditState:
    """Returns the state of a learner that has seen no pull."""
    shape = (num_tasks, num_arms)
    return BanditState(np.zeros(shape, dtype=np.int64), np.zeros(shape))


def updated(state: BanditState, rollout: Rollout, belief: ArmBelief) -> BanditState:
    """Returns the state after the pulls of a rollout; the given state is not changed.

    Args:
        state: State before the rollout.
        rollout: Rollout with ``actions`` and ``rewards`` ``[T, N]``. Pulls whose ``mask`` is
            ``False`` are ignored, whatever they hold.
        belief: Belief that checks which rewards are possible.

    Raises:
        ValueError: A shape, an action or a reward is not possible.
    """
    rewards, actions = np.asarray(rollout.rewards), np.asarray(rollout.actions)
    if rewards.ndim != 2 or actions.shape != rewards.shape:
        raise ValueError(
            f"rewards and actions must have one shape [T, N], got {list(rewards.shape)} and "
            f"{list(actions.shape)}"
        )
    num_tasks, num_arms = state.pulls.shape
    if rewards.shape[1] != num_tasks:
        raise ValueError(f"state holds {num_tasks} tasks, but the rollout {rewards.shape[1]}")
    tasks = np.broadcast_to(np.arange(num_tasks), rewards.shape)
    if rollout.mask is not None:
        mask = np.asarray(rollout.mask, dtype=bool)
        if mask.shape != rewards.shape:
            raise ValueError(f"mask must have shape {list(rewards.shape)}, got {list(mask.shape)}")
        tasks, actions, rewards = tasks[mask], actions[mask], rewards[mask]
    if not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(f"actions must be integers, got {actions.dtype}")
    if actions.size and (actions.min() < 0 or actions.max() >= num_arms):
        raise ValueError(f"actions must lie in 0 .. {num_arms - 1}")
    belief.check_rewards(rewards)
    pulls, sums = state.pulls.copy(), state.reward_sums.copy()
    np.add.at(pulls, (tasks, actions), 1)
    np.add.at(sums, (tasks, actions), rewards)
    return BanditState(pulls, sums)
