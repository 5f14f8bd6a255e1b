"""Beliefs of learners about tabular Markov decision processes, and their updates.

Shapes: N tasks, S states, A actions, T steps in a rollout.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meta_rl.rollout import Rollout


class TabularPrior(NamedTuple):
    """Belief about a process before any data; the defaults are correct for ``TabularMDP``.

    Mean rewards and the noise around them are normal; transitions are Dirichlet.

    Attributes:
        reward_mean: Mean of the mean rewards.
        reward_precision: Inverse variance of the mean rewards, above 0.
        noise_precision: Inverse variance of the noise on a reward, above 0.
        transition_count: Pseudo-count of every next state, above 0.
    """

    reward_mean: float = 1.0
    reward_precision: float = 1.0
    noise_precision: float = 1.0
    transition_count: float = 1.0


TABULARL_PRIOR = TabularPrior(reward_mean=0.0)
"""Belief of the Bayesian learners in the RL² paper: mean rewards N(0, 1), not N(1, 1)."""

EMPIRICAL_PRIOR = TabularPrior(0.0, reward_precision=1e-4, transition_count=1e-4)
"""Nearly uninformative belief: empirical means, with reward 0 and uniform transitions for untried
actions."""


class BeliefState(NamedTuple):
    """Data that a learner has seen of each task, and its plan.

    Attributes:
        reward_counts: Number of rewards seen for each (state, action), ``[N, S, A]``.
        reward_sums: Sum of these rewards, ``[N, S, A]``.
        transition_counts: Number of transitions seen, ``[N, S, A, S]``.
        num_adaptations: Number of calls of ``adapt`` so far, int64 ``[N]``.
        q_values: Action values of the plan, ``[N, H, S, A]``.
        step: Number of steps taken in the current episode, int64 ``[N]``, in ``0 .. H``.
    """

    reward_counts: np.ndarray
    reward_sums: np.ndarray
    transition_counts: np.ndarray
    num_adaptations: np.ndarray
    q_values: np.ndarray
    step: np.ndarray


class Posterior(NamedTuple):
    """Belief after the data, conjugate to :class:`TabularPrior`.

    Attributes:
        reward_mean: Mean of the belief about each mean reward, ``[N, S, A]``.
        reward_precision: Inverse variance of that belief, ``[N, S, A]``.
        dirichlet: Parameters of the belief about transitions, ``[N, S, A, S]``.
    """

    reward_mean: np.ndarray
    reward_precision: np.ndarray
    dirichlet: np.ndarray


def posterior(prior: TabularPrior, state: BeliefState) -> Posterior:
    """Computes the normal posterior of mean rewards and the Dirichlet posterior of transitions.

    ``precision = tau_0 + n tau`` and ``mean = (tau_0 mu_0 + tau * sum of rewards) / precision``;
    Dirichlet parameters are the pseudo-count plus the transitions seen.

    Args:
        prior: Belief before the data.
        state: State that holds the data.
    """
    precision = prior.reward_precision + prior.noise_precision * state.reward_counts
    weighted = (
        prior.reward_precision * prior.reward_mean + prior.noise_precision * state.reward_sums
    )
    return Posterior(
        weighted / precision, precision, prior.transition_count + state.transition_counts
    )


def mean_transitions(belief: Posterior) -> np.ndarray:
    """Returns expected transition probabilities, ``[N, S, A, S]``."""
    mean: np.ndarray = belief.dirichlet / belief.dirichlet.sum(axis=-1, keepdims=True)
    return mean


class Steps(NamedTuple):
    """The steps of a rollout that its mask does not exclude, one entry for each."""

    task: np.ndarray
    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    continues: np.ndarray


def rollout_steps(rollout: Rollout, num_states: int, num_actions: int) -> Steps:
    """Returns the steps of a rollout that its mask does not exclude.

    Args:
        rollout: Rollout with arrays ``[T, N]``; steps whose ``mask`` is ``False`` are left out.
        num_states: Number of states, S.
        num_actions: Number of actions, A.

    Raises:
        ValueError: A shape, a state, an action or a reward is not possible.
    """
    shape = np.shape(rollout.rewards)
    if len(shape) != 2:
        raise ValueError(f"rewards must have shape [T, N], got {list(shape)}")
    names = ("observations", "actions", "next_observations", "terminated")
    for name in names:
        if np.shape(getattr(rollout, name)) != shape:
            raise ValueError(
                f"{name} must have shape {list(shape)} like rewards, got "
                f"{list(np.shape(getattr(rollout, name)))}"
            )
    mask = np.ones(shape, bool) if rollout.mask is None else np.asarray(rollout.mask, bool)
    if mask.shape != shape:
        raise ValueError(f"mask must have shape {list(shape)}, got {list(mask.shape)}")
    rewards = np.asarray(rollout.rewards, dtype=np.float64)[mask]
    if not np.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    cells, actions, successors = (
        check_indices(name, np.asarray(getattr(rollout, name))[mask], limit)
        for name, limit in zip(names, (num_states, num_actions, num_states), strict=False)
    )
    continues = ~np.asarray(rollout.terminated, dtype=bool)[mask]
    return Steps(np.nonzero(mask)[1], cells, actions, rewards, successors, continues)


def check_indices(name: str, indices: np.ndarray, limit: int) -> np.ndarray:
    """Returns ``indices`` if they are integers in ``0 .. limit - 1``; otherwise ValueError."""
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {indices.dtype}")
    if indices.size and (indices.min() < 0 or indices.max() >= limit):
        raise ValueError(
            f"{name} must lie in 0 .. {limit - 1}, got {indices.min()} to {indices.max()}"
        )
    return indices
