"""Finite-horizon planning in tabular Markov decision processes, batched over tasks.

Shapes: N tasks, S states, A actions, H steps in an episode (the horizon). All functions are pure.
"""

from __future__ import annotations

import numpy as np


def check_model(rewards: np.ndarray, transitions: np.ndarray, horizon: int) -> None:
    """Refuses models whose shapes do not fit together.

    Args:
        rewards: Mean rewards, which have to be ``[N, S, A]``.
        transitions: Transition probabilities, which have to be ``[N, S, A, S]``.
        horizon: Number of steps in an episode, at least 1.

    Raises:
        ValueError: A shape or the horizon is wrong; the message says which is expected.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if rewards.ndim != 3:
        raise ValueError(f"rewards must have shape [N, S, A], got {list(rewards.shape)}")
    expected = (*rewards.shape, rewards.shape[1])
    if transitions.shape != expected:
        raise ValueError(
            f"transitions must have shape {list(expected)} to go with rewards of shape "
            f"{list(rewards.shape)}, got {list(transitions.shape)}"
        )


def finite_horizon_q_values(
    rewards: np.ndarray,
    transitions: np.ndarray,
    horizon: int,
    bonus_per_step_to_go: np.ndarray | None = None,
) -> np.ndarray:
    """Computes the optimal action values of every step of an episode, by backward induction.

    ``Q_h(s, a) = r(s, a) + b(s, a) (H - 1 - h) + sum_s' p(s' | s, a) max_a' Q_{h+1}(s', a')``
    with ``Q_H = 0``: value iteration for a finite horizon, undiscounted (Bellman, 1957).

    Args:
        rewards: Mean rewards, ``[N, S, A]``.
        transitions: Probabilities of the next state, ``[N, S, A, S]``.
        horizon: Number of steps in an episode, H.
        bonus_per_step_to_go: Bonus b, ``[N, S, A]``, counted once for each step that follows;
            ``None`` for no bonus.

    Returns:
        Action values, ``[N, H, S, A]``.

    Raises:
        ValueError: The shapes do not fit, or the horizon is below 1.
    """
    check_model(rewards, transitions, horizon)
    num_tasks, num_states, num_actions = rewards.shape
    rows = transitions.reshape(num_tasks, num_states * num_actions, num_states)
    q_values = np.empty((num_tasks, horizon, num_states, num_actions))
    values = np.zeros((num_tasks, num_states))
    for steps_to_go in range(horizon):
        q = rewards + np.matmul(rows, values[:, :, None]).reshape(rewards.shape)
        if bonus_per_step_to_go is not None:
            q += steps_to_go * bonus_per_step_to_go
        q_values[:, horizon - 1 - steps_to_go] = q
        values = q.max(axis=-1)
    return q_values


def optimistic_expectation(
    transitions: np.ndarray, values: np.ndarray, slack: np.ndarray
) -> np.ndarray:
    """Computes the largest expected value over all distributions near the given ones.

    The maximum of ``sum_s' p(s') v(s')`` over distributions p with ``|p - p_hat|_1 <= slack``: half
    the slack is added to the best state, and taken from the worst ones (Jaksch et al., 2010,
    figure 2). With the states sorted by falling value, the cumulative probabilities of that
    maximum are ``min(1, cumulative(p_hat) + slack / 2)``, and summing by parts gives the value.

    Args:
        transitions: Centres p_hat of the sets, ``[N, S, A, S]``.
        values: Values of the next states, ``[N, S]``.
        slack: Radius of the confidence set in the 1-norm, from 0 on, ``[N, S, A]``.

    Returns:
        Expected values, ``[N, S, A]``.
    """
    shape = transitions.shape[:-1]
    rows = transitions.reshape(len(values), -1, values.shape[1])
    falling = -np.sort(-values, axis=1)
    drops = np.append(-np.diff(falling, axis=1), falling[:, -1:], axis=1)
    at_least = (values[:, :, None] >= falling[:, None, :]).astype(rows.dtype)
    cumulative = np.matmul(rows, at_least) + slack.reshape(len(values), -1, 1) / 2.0
    np.minimum(cumulative, 1.0, out=cumulative)
    cumulative[..., -1] = 1.0
    best: np.ndarray = np.matmul(cumulative, drops[:, :, None])
    return best.reshape(shape)


def optimistic_q_values(
    rewards: np.ndarray, transitions: np.ndarray, slack: np.ndarray, horizon: int
) -> np.ndarray:
    """Computes action values of the best process in a confidence set (extended value iteration).

    Like :func:`finite_horizon_q_values`, with the expectation of :func:`optimistic_expectation` in
    every backup (Jaksch et al., 2010, section 3.1, for a finite horizon).

    Args:
        rewards: Upper confidence bounds of the mean rewards, ``[N, S, A]``.
        transitions: Centres of the confidence sets, ``[N, S, A, S]``.
        slack: Radius of these sets in the 1-norm, from 0 on, ``[N, S, A]``.
        horizon: Number of steps in an episode, H.

    Returns:
        Action values, ``[N, H, S, A]``.

    Raises:
        ValueError: The shapes do not fit, the horizon is below 1, or a slack is negative.
    """
    check_model(rewards, transitions, horizon)
    if slack.shape != rewards.shape or (slack < 0).any():
        raise ValueError(
            f"slack must have shape {list(rewards.shape)} and no negative entry, got shape "
            f"{list(slack.shape)}"
        )
    q_values = np.empty((rewards.shape[0], horizon, *rewards.shape[1:]))
    values = np.zeros(rewards.shape[:2])
    for step in reversed(range(horizon)):
        q_values[:, step] = rewards + optimistic_expectation(transitions, values, slack)
        values = q_values[:, step].max(axis=-1)
    return q_values
