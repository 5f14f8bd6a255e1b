"""What bandit learners believe about the arms: counts of pulls and rewards, and conjugate priors.

Shapes: N tasks, A arms, T pulls in a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from meta_rl.rollout import Rollout
from meta_rl.streams import TaskStreams


class BanditState(NamedTuple):
    """What a learner has seen of each task.

    Attributes:
        pulls: Pulls of each arm, int64 ``[N, A]``.
        reward_sums: Sum of their rewards, float64 ``[N, A]``.
    """

    pulls: np.ndarray
    reward_sums: np.ndarray


class ArmBelief(Protocol):
    """A belief about the mean reward of each arm, arms independent of each other."""

    @property
    def reward_scale(self) -> float:
        """Spread of a reward around its mean, in rewards: what confidence bounds scale with."""

    def check_rewards(self, rewards: np.ndarray) -> None:
        """Refuse rewards ``[...]`` that cannot be.

        Raises:
            ValueError: Says which are possible.
        """

    def observations(self, state: BanditState) -> np.ndarray:
        """How many rewards the belief is worth, the prior's included, ``[N, A]``, above 0."""

    def mean(self, state: BanditState) -> np.ndarray:
        """Expected mean reward, ``[N, A]``."""

    def sample(
        self, state: BanditState, rng: np.random.Generator, num_samples: int = 1
    ) -> np.ndarray:
        """Independent draws of the mean rewards, ``[num_samples, N, A]``."""

    def log_density(self, means: np.ndarray, state: BanditState) -> np.ndarray:
        """Log-density of mean rewards ``[..., N, A]``, up to a constant for each arm."""


@dataclass(frozen=True)
class BetaBelief:
    """Bernoulli arms: Beta(successes + wins, failures + losses).

    The default is the truth for probabilities drawn uniformly from [0, 1].

    Attributes:
        successes: Pulls that paid, counted before the first one; above 0.
        failures: Pulls that did not; above 0.
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
        """1: the paper's UCB1 takes rewards in [0, 1] as they are."""
        return 1.0

    def check_rewards(self, rewards: np.ndarray) -> None:
        """Rewards are 0 or 1.

        Raises:
            ValueError: Others.
        """
        if not np.isin(rewards, (0.0, 1.0)).all():
            raise ValueError("rewards of a Bernoulli bandit must be 0 or 1")

    def observations(self, state: BanditState) -> np.ndarray:
        """Pulls, with those counted before the first one, ``[N, A]``."""
        return self.successes + self.failures + state.pulls

    def mean(self, state: BanditState) -> np.ndarray:
        """``(successes + wins) / observations``, ``[N, A]``."""
        means: np.ndarray = (self.successes + state.reward_sums) / self.observations(state)
        return means

    def sample(
        self, state: BanditState, rng: np.random.Generator, num_samples: int = 1
    ) -> np.ndarray:
        """Draws of the probabilities, ``[num_samples, N, A]``."""
        wins, losses = self._parameters(state)
        # A task's numbers must not depend on the refused tries of the tasks before it.
        streams = TaskStreams(rng.integers(2**63, size=len(wins)))
        size = (len(wins), num_samples, wins.shape[1])
        return streams.beta(wins[:, None], losses[:, None], size).swapaxes(0, 1)

    def log_density(self, means: np.ndarray, state: BanditState) -> np.ndarray:
        """Of a Beta distribution, without its normaliser, ``[..., N, A]``."""
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
    """Arms with normal rewards of known spread, and normal mean rewards.

    The defaults are the truth for ``GaussianBandit`` with its own defaults.

    Attributes:
        prior_mean: Mean of the mean rewards.
        prior_std: Their standard deviation, above 0.
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
        """``reward_std``."""
        return self.reward_std

    def check_rewards(self, rewards: np.ndarray) -> None:
        """Rewards are finite.

        Raises:
            ValueError: Others.
        """
        if not np.isfinite(rewards).all():
            raise ValueError("rewards must be finite")

    def observations(self, state: BanditState) -> np.ndarray:
        """Pulls, and ``(reward_std / prior_std) ** 2`` for the prior, ``[N, A]``."""
        return (self.reward_std / self.prior_std) ** 2 + state.pulls

    def mean(self, state: BanditState) -> np.ndarray:
        """Posterior mean, ``[N, A]``."""
        worth = (self.reward_std / self.prior_std) ** 2
        means: np.ndarray = (worth * self.prior_mean + state.reward_sums) / (worth + state.pulls)
        return means

    def sample(
        self, state: BanditState, rng: np.random.Generator, num_samples: int = 1
    ) -> np.ndarray:
        """Draws of the mean rewards, ``[num_samples, N, A]``."""
        noise = rng.standard_normal((num_samples, *state.pulls.shape))
        return self.mean(state) + noise * self._std(state)

    def log_density(self, means: np.ndarray, state: BanditState) -> np.ndarray:
        """Of a normal distribution, without its normaliser, ``[..., N, A]``."""
        log_density: np.ndarray = -0.5 * ((means - self.mean(state)) / self._std(state)) ** 2
        return log_density

    def _std(self, state: BanditState) -> np.ndarray:
        std: np.ndarray = self.reward_std / np.sqrt(self.observations(state))
        return std


def initial_state(num_tasks: int, num_arms: int) -> BanditState:
    """Nothing seen."""
    shape = (num_tasks, num_arms)
    return BanditState(np.zeros(shape, dtype=np.int64), np.zeros(shape))


def updated(state: BanditState, rollout: Rollout, belief: ArmBelief) -> BanditState:
    """The state after the pulls of a rollout; the one given is left as it is.

    Args:
        state: Seen before.
        rollout: ``actions`` and ``rewards`` ``[T, N]``. Pulls whose ``mask`` is ``False`` are left
            out, whatever they hold.
        belief: Knows which rewards are possible.

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
