"""Exact planning in Bernoulli bandits.

Gittins indices equal hand-worked numbers, the definition by stopping rules and known tables; they
grow with the pulls left and with successes. The Bayes optimum equals closed forms and a recursion
that knows nothing of symmetry; the joint beliefs are as many as are counted by hand.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from meta_rl.agents.gittins import (
    BayesOptimalPlan,
    bayes_optimal_plan,
    can_be_planned,
    finite_horizon_gittins,
    num_joint_states,
    triangle_position,
)


def advantage(s: int, f: int, m: int, sure: float) -> float:
    """What one more pull of an arm is worth beyond a sure reward, m pulls left: the definition."""
    p = (s + 1) / (s + f + 2)
    if m == 1:
        return p - sure
    paid, unpaid = (advantage(s + a, f + 1 - a, m - 1, sure) for a in (1, 0))
    return p - sure + p * max(0.0, paid) + (1 - p) * max(0.0, unpaid)


@cache
def optimum(arms: tuple[tuple[int, int], ...], remaining: int) -> Fraction:
    """Bayes-optimal value of ordered arms, in fractions, without any symmetry."""
    if remaining == 0:
        return Fraction(0)
    values = []
    for i, (s, f) in enumerate(arms):
        p = Fraction(s + 1, s + f + 2)
        paid, unpaid = (
            optimum((*arms[:i], (s + a, f + 1 - a), *arms[i + 1 :]), remaining - 1) for a in (1, 0)
        )
        values.append(p * (1 + paid) + (1 - p) * unpaid)
    return max(values)


# Gittins indices


def test_last_pull_is_worth_the_posterior_mean() -> None:
    """With one pull left there is nothing to learn for."""
    table = finite_horizon_gittins(30)
    s, f = np.mgrid[:30, :30]
    s, f = s[s + f < 30], f[s + f < 30]
    np.testing.assert_allclose(table.index(s, f, 1), (s + 1) / (s + f + 2), atol=2e-6)


@pytest.mark.parametrize(
    ("belief", "remaining", "index"),
    [
        # 1/2 - x + 1/2 (2/3 - x) = 0: go on after a success only.
        ((0, 0), 2, 5 / 9),
        # 2/3 - x + 2/3 (3/4 - x) = 0, and 1/3 - x + 1/3 (1/2 - x) = 0.
        ((1, 0), 2, 7 / 10),
        ((0, 1), 2, 3 / 8),
        # 1/2 - x + 1/2 (2/3 - x + 2/3 (3/4 - x)) = 0: stop at the first failure.
        ((0, 0), 3, 13 / 22),
    ],
)
def test_indices_by_hand(belief: tuple[int, int], remaining: int, index: float) -> None:
    """Optimal stopping with two and three pulls left."""
    found = finite_horizon_gittins(5).index(*belief, remaining)
    np.testing.assert_allclose(found, index, atol=1e-5)


def test_indices_equal_the_definition() -> None:
    """The root of the recursion in one variable, for every belief of a trial of 8 pulls."""
    table = finite_horizon_gittins(8)
    for remaining in range(2, 9):
        for s in range(9 - remaining):
            for f in range(9 - remaining - s):
                root = brentq(lambda x, at=(s, f, remaining): advantage(*at, x), 0.0, 1.0)
                np.testing.assert_allclose(table.index(s, f, remaining), root, atol=2e-5)


def test_coarse_grid_of_long_trials_is_accurate() -> None:
    """The same beliefs in trials of 16 and 225 pulls: never too low, too high by a little."""
    fine, coarse = finite_horizon_gittins(16), finite_horizon_gittins(225)
    s, f, m = (axis.ravel() for axis in np.mgrid[:16, :16, 1:17])
    inside = s + f + m <= 16
    s, f, m = s[inside], f[inside], m[inside]
    excess = coarse.index(s, f, m) - fine.index(s, f, m)
    assert excess.max() < 3e-3
    assert excess.mean() < 4e-4
    assert excess.min() > -5e-5


def test_indices_grow_with_the_pulls_left_and_with_successes() -> None:
    """More time to use what is learned; one failure replaced by a success; between p and 1."""
    table = finite_horizon_gittins(40)
    s, f, m = (axis.ravel() for axis in np.mgrid[:20, :20, 1:40])
    inside = s + f + m < 40
    s, f, m = s[inside], f[inside], m[inside]
    here = table.index(s, f, m)
    assert (table.index(s, f, m + 1) >= here - 1e-6).all()
    failed = f > 0
    better = table.index(s[failed] + 1, f[failed] - 1, m[failed])
    assert (better > here[failed]).all()
    assert (here >= (s + 1) / (s + f + 2) - 1e-6).all()
    assert here.max() < 1.0


def test_long_horizon_index_prefers_the_unknown() -> None:
    """Same mean, fewer pulls: the index is higher, and by more the longer the trial."""
    table = finite_horizon_gittins(60)
    short = table.index(0, 0, 5) - table.index(4, 4, 5)
    long = table.index(0, 0, 50) - table.index(4, 4, 50)
    assert 0 < short < long


def test_index_broadcasts_and_refuses_what_cannot_be() -> None:
    """Shapes of all three inputs; counts outside the trial."""
    table = finite_horizon_gittins(6)
    assert table.index(np.zeros((4, 3), dtype=int), 0, np.arange(1, 5)[:, None]).shape == (4, 3)
    for counts in ((-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 7), (3, 3, 1)):
        with pytest.raises(ValueError, match="at most the horizon, 6"):
            table.index(*counts)


@pytest.mark.parametrize("horizon", [0, 1.5, 501])
def test_bad_horizons_are_refused(horizon: Any) -> None:
    """The message names the horizon."""
    with pytest.raises(ValueError, match="horizon"):
        finite_horizon_gittins(horizon)


def test_beliefs_are_numbered_without_gaps() -> None:
    """Every belief of at most 6 pulls has a number of its own."""
    numbers = [triangle_position(s, n - s) for n in range(7) for s in range(n + 1)]
    assert numbers == list(range(28))


# The Bayes optimum


@pytest.mark.parametrize(
    ("num_arms", "horizon", "value"),
    [
        (1, 1, 1 / 2),
        (1, 9, 9 / 2),
        (4, 1, 1 / 2),
        # 1/2, then 2/3 after a success and another arm, 1/2, after a failure.
        (2, 2, 13 / 12),
        (7, 2, 13 / 12),
    ],
)
def test_optimum_in_closed_form(num_arms: int, horizon: int, value: float) -> None:
    """One arm pays half of the pulls, whatever is learned."""
    np.testing.assert_allclose(BayesOptimalPlan(num_arms, horizon).value, value)


@pytest.mark.parametrize("size", [(2, 3), (2, 4), (2, 5), (2, 8), (3, 3), (3, 5), (5, 4)])
def test_optimum_equals_brute_force(size: tuple[int, int]) -> None:
    """Exactly, up to rounding."""
    expected = optimum(((0, 0),) * size[0], size[1])
    np.testing.assert_allclose(BayesOptimalPlan(*size).value, float(expected), rtol=1e-13)


def test_action_values_equal_brute_force_inside_a_trial() -> None:
    """Three arms with 3 of 6 pulls made; the order of the arms only permutes the values."""
    plan = BayesOptimalPlan(3, 6)
    arms = ((1, 0), (0, 2), (0, 0))
    expected = []
    for i, (s, f) in enumerate(arms):
        p = Fraction(s + 1, s + f + 2)
        paid, unpaid = (optimum((*arms[:i], (s + a, f + 1 - a), *arms[i + 1 :]), 2) for a in (1, 0))
        expected.append(float(p * (1 + paid) + (1 - p) * unpaid))
    counts = np.array([arms, arms[::-1]])
    values = plan.action_values(counts[..., 0], counts[..., 1])
    np.testing.assert_allclose(values, [expected, expected[::-1]])


def test_more_arms_and_more_pulls_are_worth_more() -> None:
    """Up to as many arms as pulls; the rest is never pulled."""
    values = [bayes_optimal_plan(arms, 6).value for arms in (1, 2, 3, 4, 5, 6, 50)]
    assert values[0] < values[1] < values[2] < values[3] < values[4]
    assert values[4] <= values[5] == values[6]
    gains = np.diff([bayes_optimal_plan(3, pulls).value for pulls in range(1, 9)])
    assert (np.diff(gains) > 0).all()


def test_joint_beliefs_are_counted() -> None:
    """Two arms, three pulls: 1, then 2, then {2 pulls: 3 ways} and {1 + 1: 3 ways}."""
    assert num_joint_states(2, 3) == 1 + 2 + 6
    assert num_joint_states(1, 3) == 1 + 2 + 3
    assert num_joint_states(9, 4) == num_joint_states(3, 4) == 9 + 4 + 6 + 4
    assert BayesOptimalPlan(2, 3).num_states == 9


@pytest.mark.parametrize("size", [(2, 200), (5, 100), (10, 30)])
def test_what_is_too_large_is_refused(size: tuple[int, int]) -> None:
    """At once, with the way out."""
    assert not can_be_planned(*size)
    with pytest.raises(ValueError, match="use the Gittins index"):
        BayesOptimalPlan(*size)
