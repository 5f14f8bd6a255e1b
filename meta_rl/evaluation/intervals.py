"""Confidence intervals for the values of trainings on tasks: pure functions on arrays.

The letters of shapes are R trainings, T tasks, n independent rows and C columns. Every column is
treated by itself. Values are *crossed* if all R trainings were tested on the same T tasks. Both are
then taken to be random draws: the interval is for a new training on a new task.
``benchmarks/interval_coverage.py`` measures how often these intervals cover the truth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

QUARTER = 0.25
LEAST_COUNT = 5.0
"""Least number of failures, and of successes, for which the variance of a share is reliable."""


class Spread(NamedTuple):
    """The uncertainty of an estimate.

    Attributes:
        variance: Variance of the estimate, ``[C]``.
        freedom: Degrees of freedom of that variance, at least 1, ``[C]``.
    """

    variance: np.ndarray
    freedom: np.ndarray


def independent_spread(rows: np.ndarray) -> Spread:
    """Computes the spread of the mean of independent rows (Student, 1908).

    Args:
        rows: Values, ``[n, C]``, at least two rows.
    """
    num, columns = rows.shape
    variance = _without_rounding(rows.var(axis=0, ddof=1), rows) / num
    return Spread(variance, np.full(columns, num - 1.0))


def crossed_spread(values: np.ndarray) -> Spread:
    """Computes the spread of the mean of crossed values, by two-way random effects.

    A value is the sum of the mean, an effect of the training, an effect of the task and a remainder
    (both together, and chance). With the mean squares of trainings A, of tasks B and of remainders
    E, the variance of the mean is (max(A - E, 0) + max(B - E, 0) + E) / (R T), and its degrees of
    freedom are Satterthwaite's: the square of that sum over the sum of squares of the mean squares
    in it, each divided by its own degrees of freedom (Satterthwaite, "An approximate distribution
    of estimates of variance components", 1946; Searle, Casella and McCulloch, "Variance
    components", 1992; with readers as trainings and cases as tasks: Hillis, "A marginal-mean ANOVA
    approach for analyzing multireader multicase radiological imaging data", 2014).

    Args:
        values: Values, ``[R, T, C]``, at least two trainings and two tasks.
    """
    num_trainings, num_tasks, _ = values.shape
    mean = values.mean(axis=(0, 1))
    of_trainings = values.mean(axis=1) - mean
    of_tasks = values.mean(axis=0) - mean
    remainders = values - mean - of_trainings[:, None] - of_tasks
    freedoms = np.array([num_trainings - 1.0, num_tasks - 1.0, 0.0])
    freedoms[2] = freedoms[0] * freedoms[1]
    squares = np.stack(
        [
            num_tasks * np.square(of_trainings).sum(axis=0),
            num_trainings * np.square(of_tasks).sum(axis=0),
            np.square(remainders).sum(axis=(0, 1)),
        ]
    )
    squares = _without_rounding(squares / freedoms[:, None], values.reshape(-1, values.shape[-1]))
    trainings, tasks, rest = squares
    total = np.maximum(trainings - rest, 0) + np.maximum(tasks - rest, 0) + rest
    # The sum contains the remainder where both or none of the other two exceed it.
    counts = np.stack([trainings > rest, tasks > rest, (trainings > rest) == (tasks > rest)])
    below = np.sum(counts * np.square(squares) / freedoms[:, None], axis=0)
    varies = below > 0
    freedom = np.where(varies, np.square(total) / np.where(varies, below, 1.0), freedoms[1])
    return Spread(total / (num_trainings * num_tasks), np.maximum(freedom, 1.0))


def student_interval(estimate: np.ndarray, spread: Spread, confidence: float) -> np.ndarray:
    """Computes Student's interval about an estimate ``[C]``, as ``[C, 2]``."""
    quantile = stats.t.ppf((1 + confidence) / 2, spread.freedom)
    half = quantile * np.sqrt(spread.variance)
    return np.stack([estimate - half, estimate + half], axis=-1)


def share_interval(
    share: np.ndarray,
    spread: Spread,
    units: int,
    confidence: float,
    most_if_rare: int | None = None,
) -> np.ndarray:
    """Computes the interval of a share, which stays valid near 0 and 1, as ``[C, 2]``.

    This is Clopper and Pearson's interval for the effective number of independent outcomes
    (Clopper and Pearson, "The use of confidence or fiducial limits", 1934; Korn and Graubard,
    "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data", 1998): so many outcomes of 0 or 1 would have the variance in ``spread``,
    corrected for its degrees of freedom. For n outcomes of 0 or 1 that are independent, it is
    exactly Clopper and Pearson's interval.

    Where a unit's value is a fraction (several episodes of a task, several queries), the effective
    number is larger than the number of units. Near 0 or 1 the variance is then unreliable, as the
    rare units that fail may not be in the sample. With fewer than 5 units' worth of failures, or of
    successes, the effective number is therefore at most ``most_if_rare``.

    Args:
        share: Mean of values in [0, 1], ``[C]``.
        spread: Spread of the share.
        units: Number of independent units (tasks), at least 2.
        confidence: Coverage, between 0 and 1.
        most_if_rare: Largest effective number if failures or successes are rare (default:
            ``units``). With several trainings it is their number, as three trainings without a
            failure cannot exclude that one in five fails.
    """
    chance = share * (1 - share)
    varies = spread.variance > 0
    # For n outcomes of 0 or 1, the unbiased variance of the mean is chance / (n - 1).
    number = np.where(varies, chance / np.where(varies, spread.variance, 1.0) + 1, units)
    tail = (1 + confidence) / 2
    number = number * np.square(stats.t.ppf(tail, units - 1) / stats.t.ppf(tail, spread.freedom))
    rare = units * np.minimum(share, 1 - share) < LEAST_COUNT
    most = units if most_if_rare is None else most_if_rare
    number = np.clip(np.where(rare, np.minimum(number, most), number), 1, 1e8)
    return clopper_pearson(share * number, number, confidence)


def clopper_pearson(successes: np.ndarray, number: np.ndarray, confidence: float) -> np.ndarray:
    """Computes Clopper and Pearson's interval, ``[C, 2]``, also for counts that are not whole.

    Args:
        successes: Number of successes, ``[C]``, from 0 to ``number``.
        number: Number of outcomes, ``[C]``.
        confidence: Least coverage, between 0 and 1.
    """
    tail = (1 - confidence) / 2
    failures = np.maximum(number - successes, 0)
    none, all_of_them = successes <= 1e-9 * number, failures <= 1e-9 * number
    least = stats.beta.ppf(tail, np.where(none, 1, successes), failures + 1)
    most = stats.beta.ppf(1 - tail, successes + 1, np.where(all_of_them, 1, failures))
    return np.stack([np.where(none, 0.0, least), np.where(all_of_them, 1.0, most)], axis=-1)


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """Computes the mean of the middle half of the values."""
    return stats.trim_mean(values, QUARTER, axis=axis)


def interquartile_influence(rows: np.ndarray) -> np.ndarray:
    """Computes the contribution of each row to the interquartile mean, ``[n, C]``.

    These are the rows with the outer quarters moved to the ends of the middle half (winsorised),
    divided by the share of rows in that half: up to a constant, the empirical influence function
    of the trimmed mean (Huber, "Robust statistics", 1981), so that its variance is about that of
    the mean of these.

    Args:
        rows: Values, ``[n, C]``.
    """
    num = len(rows)
    cut = int(QUARTER * num)
    ends = np.partition(rows, (cut, num - 1 - cut), axis=0)[[cut, num - 1 - cut]]
    return np.clip(rows, *ends) / (1 - 2 * cut / num)


def trimmed_spread(rows: np.ndarray) -> Spread:
    """Computes the spread of the interquartile mean of independent rows.

    The squares of the winsorised rows about their mean are summed and divided by h (h - 1), h being
    the number of rows in the middle half; there are h - 1 degrees of freedom (Tukey and McLaughlin,
    "Less vulnerable confidence and significance procedures for location", 1963; Yuen, "The
    two-sample trimmed t for unequal population variances", 1974).

    Args:
        rows: Values, ``[n, C]``, at least two rows.
    """
    num, columns = rows.shape
    kept = num - 2 * int(QUARTER * num)
    variance = independent_spread(interquartile_influence(rows)).variance
    correction = kept * (num - 1) / (num * (kept - 1))
    return Spread(variance * correction, np.full(columns, kept - 1.0))


def interquartile_mean_of_share(share: np.ndarray) -> np.ndarray:
    """Computes the interquartile mean of outcomes of 0 and 1 of which ``share`` are 1.

    The lowest and the highest quarter are cut off. For a share p, the mean of the rest is
    (p - 1/4) / (1/2), limited to 0 and 1.
    """
    return np.clip((share - QUARTER) / (1 - 2 * QUARTER), 0, 1)


def _without_rounding(squares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sets to 0 the mean squares ``[..., C]`` that are only rounding errors of rows ``[n, C]``."""
    scale = np.abs(rows).max(axis=0)
    return np.where(squares > np.square(1e-14 * scale), squares, 0.0)
