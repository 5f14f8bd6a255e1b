"""Exact planning in Bernoulli bandits whose arms start from the belief Beta(1, 1).

There are two planners. :func:`finite_horizon_gittins` computes an index of each arm: the Gittins
index for a finite number of pulls without discounting (Bradt, Johnson and Karlin, 1956; Kaufmann,
"On Bayesian index policies for sequential resource allocation", 2018, section 2). Pulling the arm
of highest index is nearly optimal. :func:`bayes_optimal_plan` computes the optimum itself, by
dynamic programming over the joint beliefs about all arms, for sizes where they can be listed.

Both are exact up to rounding; neither is random. Shapes: A arms, H pulls in a trial, m pulls left.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from meta_rl.arguments import check_count

MAX_HORIZON = 500
"""Longest trial with a table of Gittins indices, in pulls: 84 MB and about 10 seconds."""
MAX_JOINT_STATES = 150_000
"""Largest number of joint beliefs that :func:`bayes_optimal_plan` lists: a few seconds."""

_HASH_SEED = 1956


class GittinsTable:
    """Table of the Gittins indices of all beliefs that a trial can reach.

    Args:
        horizon: Number of pulls in the trial, H.
        by_remaining: Indices, for each m in ``0 .. H``, of the beliefs with at most ``H - m``
            pulls, in the order of :func:`triangle_position`.
    """

    def __init__(self, horizon: int, by_remaining: list[np.ndarray]) -> None:
        self.horizon = horizon
        self._starts = np.cumsum([0, *map(len, by_remaining)])[:-1]
        self._indices = np.concatenate(by_remaining)

    def index(self, successes: Any, failures: Any, remaining: Any) -> np.ndarray:
        """Returns the Gittins index of the belief Beta(1 + successes, 1 + failures).

        The index is the reward per pull of a sure arm at which two choices are equally good: to
        spend all remaining pulls on the sure arm, or to pull this arm for as long as it looks
        better.

        Args:
            successes: Number of pulls that paid, integers.
            failures: Number of pulls that did not pay, integers; the three are broadcast.
            remaining: Number of remaining pulls, m, in ``1 .. H - successes - failures``.

        Returns:
            Indices in (0, 1), float64, of the broadcast shape.

        Raises:
            ValueError: A count is negative, or the trial is too short for such a belief.
        """
        s, f, m = np.broadcast_arrays(successes, failures, remaining)
        if s.size and (
            min(s.min(), f.min()) < 0 or m.min() < 1 or (s + f + m).max() > self.horizon
        ):
            raise ValueError(
                "successes and failures must not be negative, remaining must be at least 1 and "
                f"their sum at most the horizon, {self.horizon}"
            )
        return self._indices[self._starts[m] + triangle_position(s, f)].astype(np.float64)


def triangle_position(successes: Any, failures: Any) -> Any:
    """Returns a belief's position, from 0 on, in the order of pulls and then of successes."""
    pulls = successes + failures
    return pulls * (pulls + 1) // 2 + successes


@lru_cache(maxsize=4)
def finite_horizon_gittins(horizon: int) -> GittinsTable:
    """Computes the Gittins indices of a trial of ``horizon`` pulls, once for each horizon.

    For a sure reward of lambda per pull, continuing with m pulls left is worth

        C_m(s, f) = p - lambda + p V_{m-1}(s + 1, f) + (1 - p) V_{m-1}(s, f + 1)

    more than retiring, with ``p = (s + 1) / (s + f + 2)``, ``V_m = max(0, C_m)`` and ``V_0 = 0``.
    The index is the lambda at which ``C_m = 0``. C is computed by backward induction for all
    lambdas of a grid, and interpolated between the two where its sign changes. C is convex in
    lambda: except for rounding to float32, the interpolated index is never too low. It is too high
    by less than 1e-4 for ``horizon <= 100``, and from 200 on by less than 3e-3, by 1e-4 on average.

    Args:
        horizon: Number of pulls in the trial, 1 to :data:`MAX_HORIZON`.

    Raises:
        ValueError: The horizon is out of range.
    """
    horizon = check_count("horizon", horizon, most=MAX_HORIZON)
    grid = _retirement_rewards(horizon)
    counts = np.arange(horizon + 1)
    # V by successes, failures and lambda; each m overwrites the values of m - 1 that it has read.
    values = np.zeros((horizon + 1, horizon + 1, len(grid)), dtype=np.float32)
    above = np.ones((horizon + 1, horizon + 1), dtype=np.int64)  # first grid point with C <= 0
    by_remaining = [np.empty(0, dtype=np.float32)]
    for remaining in range(1, horizon + 1):
        most = horizon - remaining
        indices = np.empty((most + 1) * (most + 2) // 2, dtype=np.float32)
        for s in range(most + 1):
            f = counts[: most + 1 - s]
            p = ((s + 1) / (s + f + 2)).astype(np.float32)[:, None]
            continuing = values[s + 1, : len(f)] - values[s, 1 : len(f) + 1]
            continuing *= p
            continuing += values[s, 1 : len(f) + 1]
            continuing += p
            continuing -= grid
            indices[triangle_position(s, f)] = _roots(continuing, grid, above[s, : len(f)])
            np.maximum(continuing, 0.0, out=values[s, : len(f)])
        by_remaining.append(indices)
    return GittinsTable(horizon, by_remaining)


def _retirement_rewards(horizon: int) -> np.ndarray:
    """Returns the grid of lambdas, finest near 1, as the best of many arms pay nearly 1."""
    num = int(np.clip(2.1e9 / horizon**3, 192, 2048))
    grid: np.ndarray = np.sin(0.5 * np.pi * np.linspace(0.0, 1.0, num)).astype(np.float32)
    return grid


def _roots(continuing: np.ndarray, grid: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Returns where each falling row ``[F, L]`` crosses 0; searches from ``above`` on, in place."""
    rows = np.arange(len(continuing))
    while (short := continuing[rows, above] > 0.0).any():
        above += short
    left, right = continuing[rows, above - 1], continuing[rows, above]
    roots: np.ndarray = grid[above - 1] + (grid[above] - grid[above - 1]) * left / (left - right)
    return roots


@lru_cache(maxsize=64)
def num_joint_states(num_arms: int, horizon: int) -> int:
    """Counts the joint beliefs that call for a decision, up to the order of the arms.

    A joint belief after n pulls is a multiset of at most A arms, each with m >= 1 pulls and 0 to m
    successes, where the m sum to n; decisions are made at ``n = 0 .. H - 1``.
    """
    ways = np.zeros((min(num_arms, horizon) + 1, horizon))  # exact below 2 ** 53
    ways[0, 0] = 1
    for pulls in range(1, horizon):
        for _ in range(pulls + 1):  # each number of successes is a kind of arm
            for arms in range(1, len(ways)):
                ways[arms, pulls:] += ways[arms - 1, : horizon - pulls]
    return int(ways.sum())


class BayesOptimalPlan:
    """Plan that holds the value of every joint belief of a Bernoulli bandit under optimal pulls.

    The key of a joint belief is the sum of 64-bit random numbers, one for each belief about an arm
    that was pulled. It does not depend on the order of the arms (Zobrist, 1970).

    Args:
        num_arms: Number of arms, A.
        horizon: Number of pulls in a trial, H.

    Attributes:
        value: Expected total reward of a trial.
        num_states: Number of joint beliefs in the list.

    Raises:
        ValueError: There are more than :data:`MAX_JOINT_STATES` joint beliefs.
    """

    def __init__(self, num_arms: int, horizon: int) -> None:
        self.num_arms = check_count("num_arms", num_arms)
        self.horizon = check_count("horizon", horizon)
        if not can_be_planned(num_arms, horizon):
            raise ValueError(
                f"the optimum for {num_arms} arms and {horizon} pulls needs more than "
                f"{MAX_JOINT_STATES:,} joint beliefs: use the Gittins index"
            )
        beliefs = (self.horizon + 1) * (self.horizon + 2) // 2
        full = np.iinfo(np.uint64).max
        self._hashes = np.random.default_rng(_HASH_SEED).integers(
            full, size=beliefs, dtype=np.uint64, endpoint=True
        )
        self._hashes[0] = 0  # arms that were not pulled do not count
        self._keys, self._values = np.empty(0, dtype=np.uint64), np.empty(0)
        for counts in reversed(self._joint_beliefs()):
            values = self.action_values(counts[..., 0], counts[..., 1]).max(axis=1)
            keys = np.append(self._keys, self._key(counts).sum(axis=1))
            order = np.argsort(keys)
            self._keys, self._values = keys[order], np.append(self._values, values)[order]
        self.num_states = len(np.unique(self._keys))
        if self.num_states != num_joint_states(self.num_arms, self.horizon):
            raise ArithmeticError("two joint beliefs have the same key: change the hash seed")
        start = np.zeros((1, self.num_arms), dtype=np.int64)
        self.value = float(self.action_values(start, start).max())

    def action_values(self, successes: np.ndarray, failures: np.ndarray) -> np.ndarray:
        """Returns the expected further reward of pulling each arm and acting optimally afterwards.

        After the last pull of the trial nothing follows: the values are the posterior means.

        Args:
            successes: Number of pulls that paid, integers ``[N, A]``.
            failures: Number of pulls that did not pay, integers ``[N, A]``.

        Returns:
            Action values, ``[N, A]``.
        """
        p = (successes + 1) / (successes + failures + 2)
        own = self._key(np.stack([successes, failures], axis=-1))
        rest = own.sum(axis=1, keepdims=True) - own
        paid = rest + self._key(np.stack([successes + 1, failures], axis=-1))
        unpaid = rest + self._key(np.stack([successes, failures + 1], axis=-1))
        values: np.ndarray = p * (1.0 + self._lookup(paid)) + (1.0 - p) * self._lookup(unpaid)
        return values

    def _key(self, counts: np.ndarray) -> np.ndarray:
        position = triangle_position(counts[..., 0], counts[..., 1])
        # Beliefs beyond the horizon have no number of their own, and their key is not used.
        keys: np.ndarray = self._hashes[np.minimum(position, len(self._hashes) - 1)]
        return keys

    def _lookup(self, keys: np.ndarray) -> np.ndarray:
        """Returns values of joint beliefs; 0 after the last pull, where no belief is listed."""
        if not len(self._keys):
            return np.zeros(keys.shape)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._values[place], 0.0)

    def _joint_beliefs(self) -> list[np.ndarray]:
        """Lists successes and failures ``[S, W, 2]`` of the joint beliefs after 0 .. H - 1 pulls.

        W = min(A, H) arms are enough, since arms that were never pulled are interchangeable.
        """
        width = min(self.num_arms, self.horizon)
        levels = [np.zeros((1, width, 2), dtype=np.int64)]
        outcomes = np.eye(2 * width, dtype=np.int64).reshape(-1, width, 2)
        for _ in range(self.horizon - 1):
            counts = levels[-1]
            own = self._key(counts)[..., None]
            changed = self._key(counts[:, :, None] + np.eye(2, dtype=np.int64))
            keys = own.sum(axis=1, keepdims=True) - own + changed  # by arm and outcome
            _, first = np.unique(keys, return_index=True)
            parent, outcome = np.divmod(first, 2 * width)
            levels.append(counts[parent] + outcomes[outcome])
        return levels


def can_be_planned(num_arms: int, horizon: int) -> bool:
    """Returns whether :class:`BayesOptimalPlan` has few enough joint beliefs."""
    # Two arms have the fewest beliefs, about H^4 / 48: the count is skipped where it is too large.
    if num_arms == 1:
        return horizon <= MAX_HORIZON
    return horizon <= 64 and num_joint_states(num_arms, horizon) <= MAX_JOINT_STATES


@lru_cache(maxsize=8)
def bayes_optimal_plan(num_arms: int, horizon: int) -> BayesOptimalPlan:
    """Returns the plan for a number of arms and pulls, which is computed once for each."""
    return BayesOptimalPlan(num_arms, horizon)
