"""Confidence intervals.

Variances and degrees of freedom equal hand-worked ones and those of an independent formula; shares
have exactly the intervals of Clopper and Pearson where outcomes are 0 or 1; the interquartile
mean's variance is that of Yuen's test; intervals cover what they estimate, in small simulations
with stated bounds and, for shares, exactly; designs are told apart.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from meta_rl.evaluation.intervals import (
    Spread,
    clopper_pearson,
    crossed_spread,
    independent_spread,
    interquartile_influence,
    interquartile_mean,
    interquartile_mean_of_share,
    share_interval,
    student_interval,
    trimmed_spread,
)
from meta_rl.evaluation.task_design import Design


def crossed(num_trainings: int, num_tasks: int, whole_distribution: bool = False) -> Design:
    trainings = np.repeat(np.arange(num_trainings), num_tasks)
    return Design.of(trainings, np.tile(np.arange(num_tasks), num_trainings), whole_distribution)


def coverage(intervals: np.ndarray, truth: float) -> float:
    return float(np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])))


def test_crossed_spreads_are_worked_by_hand() -> None:
    """Mean squares of trainings, tasks, remainder: first 6, 2 and 2, then 6, 42 and 2.

    In the first, tasks are not above the remainder: the variance is 6 / 6, of one degree of
    freedom. In the second it is (4 + 40 + 2) / 6, with 46^2 / (6^2 / 1 + 42^2 / 2 + 2^2 / 2).
    """
    values = np.array([[[1, 2, 3], [3, 6, 3]], [[0, 4, 8], [2, 4, 12]]], dtype=float)
    variance, freedom = crossed_spread(np.moveaxis(values, 0, -1))
    np.testing.assert_allclose(variance, [1, 46 / 6])
    np.testing.assert_allclose(freedom, [1, 46**2 / 920])
    interval = student_interval(np.array([3.0, 5.0]), Spread(variance, freedom), 0.95)
    np.testing.assert_allclose(interval[0], [3 - 12.7062, 3 + 12.7062], rtol=1e-5)


def test_crossed_variance_is_that_of_products_of_pairs() -> None:
    """Components estimated without sums of squares: by means of products of values that share a
    training, a task, both or none."""
    rng = np.random.default_rng(0)
    num_trainings, num_tasks = 4, 5
    values = rng.normal(size=(num_trainings, num_tasks)) + 2 * rng.normal(size=(num_trainings, 1))
    values += 3 * rng.normal(size=num_tasks)
    sums: dict[tuple[bool, bool], list[float]] = {}
    cells = list(product(range(num_trainings), range(num_tasks)))
    for (i, j), (k, m) in product(cells, cells):
        sums.setdefault((i == k, j == m), []).append(values[i, j] * values[k, m])
    both, training, task, none = (
        np.mean(sums[key]) for key in ((True, True), (True, False), (False, True), (False, False))
    )
    of_training, of_task = training - none, task - none
    rest = both - training - task + none
    expected = of_training / 4 + of_task / 5 + rest / 20
    assert min(of_training, of_task) > 0
    np.testing.assert_allclose(crossed_spread(values[:, :, None]).variance, expected)


def test_where_trainings_are_alike_the_interval_is_that_over_tasks() -> None:
    tasks = np.random.default_rng(0).normal(size=(7, 3))
    one = crossed(1, 7).mean_interval(tasks, 0.9)
    three = crossed(3, 7).mean_interval(np.tile(tasks, (3, 1)), 0.9)
    np.testing.assert_allclose(one, three)
    for column in range(3):
        expected = stats.ttest_1samp(tasks[:, column], 0).confidence_interval(0.9)
        np.testing.assert_allclose(one[column], expected)


@pytest.mark.parametrize(
    ("num_trainings", "num_tasks", "ratio"), [(3, 10, 0.0), (3, 100, 0.5), (5, 30, 0.2), (3, 30, 1)]
)
def test_crossed_intervals_cover_a_new_training_on_a_new_task(
    num_trainings: int, num_tasks: int, ratio: float
) -> None:
    """4,000 results: coverages of 0.92 to 0.96 are estimated to within 0.004; bounds lie outside.

    An interval that takes tasks as given covers less where trainings are alike, and one that takes
    all rows as independent covers less everywhere.
    """
    rng = np.random.default_rng(0)
    shape = (num_trainings, num_tasks, 4000)
    values = rng.normal(size=(1, *shape[1:])) + ratio * rng.normal(size=(num_trainings, 1, 4000))
    columns = (values + 0.5 * rng.normal(size=shape)).reshape(-1, 4000)
    design = crossed(num_trainings, num_tasks)
    assert 0.91 < coverage(design.mean_interval(columns, 0.95), 0) < 0.97
    assert 0.91 < coverage(design.iqm_interval(columns, 0.95), 0) < 0.97
    fixed = crossed(num_trainings, num_tasks, whole_distribution=True).mean_interval(columns, 0.95)
    assert coverage(fixed, 0) < (0.96 if ratio else 0.7)
    single = crossed(1, num_trainings * num_tasks).mean_interval(columns, 0.95)
    assert coverage(single, 0) < 0.9


def test_intervals_over_trainings_cover_a_new_training() -> None:
    """On tasks of its own, or on all the tasks that there are: exactly, for normal values."""
    rng = np.random.default_rng(1)
    own = 0.5 * rng.normal(size=(4, 1, 4000)) + rng.normal(size=(4, 10, 4000))
    nested = Design.of(np.repeat(np.arange(4), 10), np.arange(40), False)
    assert nested.kind == "nested"
    assert coverage(nested.mean_interval(own.reshape(40, -1), 0.95), 0) == pytest.approx(
        0.95, abs=0.012
    )
    assert 0.92 < coverage(nested.iqm_interval(own.reshape(40, -1), 0.95), 0) < 0.98
    same = 0.5 * rng.normal(size=(4, 2, 4000)) + np.array([5.0, -3.0])[:, None]
    fixed = crossed(4, 2, whole_distribution=True)
    assert fixed.kind == "fixed"
    assert coverage(fixed.mean_interval(same.reshape(8, -1), 0.95), 1) == pytest.approx(
        0.95, abs=0.012
    )


@pytest.mark.parametrize("number", [2, 10, 37])
def test_outcomes_of_0_and_1_have_the_intervals_of_clopper_and_pearson(number: int) -> None:
    outcomes = (np.arange(number)[:, None] < np.arange(number + 1)).astype(float)
    intervals = crossed(1, number).mean_interval(outcomes, 0.95, shares=True)
    for successes, interval in enumerate(intervals):
        exact = stats.binomtest(successes, number).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(interval, exact, rtol=1e-6, atol=1e-12)
    counts = np.arange(number + 1.0)
    plain = clopper_pearson(counts, np.full(number + 1, float(number)), 0.95)
    np.testing.assert_allclose(plain, intervals, rtol=1e-6)


@pytest.mark.parametrize(("share", "number"), list(product((0.5, 0.8, 0.95, 0.99), (10, 30, 100))))
def test_shares_are_covered_exactly_as_often_as_the_binomial_says(
    share: float, number: int
) -> None:
    outcomes = (np.arange(number)[:, None] < np.arange(number + 1)).astype(float)
    low, high = crossed(1, number).mean_interval(outcomes, 0.95, shares=True).T
    holds = (low <= share) & (share <= high)
    rate = stats.binom.pmf(np.arange(number + 1), number, share) @ holds
    assert rate >= 0.95
    low, high = crossed(1, number).mean_interval(outcomes, 0.95).T  # Student's
    rate = stats.binom.pmf(np.arange(number + 1), number, share) @ (
        (low <= share) & (share <= high)
    )
    assert rate < 0.95 or share == 0.5


def test_fractions_have_more_outcomes_than_tasks_but_near_0_and_1() -> None:
    """Of 40 tasks with 20 episodes each; far from 0 and 1, intervals are about Student's."""
    rng = np.random.default_rng(0)
    middle = rng.binomial(20, 0.5, (40, 1)) / 20
    design = crossed(1, 40)
    student = np.ptp(design.mean_interval(middle, 0.95))
    assert np.ptp(design.mean_interval(middle, 0.95, shares=True)) == pytest.approx(
        student, rel=0.05
    )
    near = np.ones((40, 1))
    near[0] = 0.5  # half of a failure: less than 5 of them
    (interval,) = design.mean_interval(near, 0.95, shares=True)
    expected = clopper_pearson(np.array([39.5]), np.array([40.0]), 0.95)[0]
    np.testing.assert_allclose(interval, expected)
    alike = design.mean_interval(np.full((40, 1), 1 / 3), 0.95, shares=True)[0]
    np.testing.assert_allclose(alike, clopper_pearson(np.array([40 / 3]), np.array([40]), 0.95)[0])


def test_shares_of_few_trainings_are_less_certain() -> None:
    """The effective number is divided by the squared ratio of the quantiles of Student's t."""
    spread = Spread(np.array([0.0025]), np.array([2.0]))
    (interval,) = share_interval(np.array([0.5]), spread, 100, 0.95)
    number = 101 * (stats.t.ppf(0.975, 99) / stats.t.ppf(0.975, 2)) ** 2
    expected = clopper_pearson(np.array([0.5 * number]), np.array([number]), 0.95)[0]
    np.testing.assert_allclose(interval, expected)


@pytest.mark.parametrize("number", [2, 5, 10, 33])
def test_the_variance_of_the_interquartile_mean_is_that_of_yuens_test(number: int) -> None:
    """Of a sample and the same sample moved by 1: Yuen's statistic is -1 / sqrt(2 variance)."""
    rows = np.random.default_rng(number).exponential(size=(number, 1))
    found = stats.ttest_ind(rows[:, 0], rows[:, 0] + 1, equal_var=False, trim=0.25)
    variance, freedom = trimmed_spread(rows)
    np.testing.assert_allclose(variance, 0.5 / found.statistic**2)
    assert freedom == number - 2 * (number // 4) - 1


def test_influences_have_the_interquartile_means_slope() -> None:
    """By hand: of 8 rows the outer two on each side are moved in, and all are divided by 1/2."""
    rows = np.array([100.0, 1, 2, 3, 4, 5, 6, -50])[:, None]
    assert interquartile_mean(rows[:, 0]) == 3.5
    assert interquartile_influence(rows)[:, 0].tolist() == [10, 4, 4, 6, 8, 10, 10, 4]
    moved = rows.copy()
    moved[3] += 1e-3
    assert interquartile_mean(moved[:, 0]) - 3.5 == pytest.approx(2e-3 / 8)


def test_interquartile_means_of_outcomes_follow_their_share() -> None:
    shares = np.array([0.0, 0.25, 0.5, 0.7, 0.75, 1.0])
    np.testing.assert_allclose(interquartile_mean_of_share(shares), [0, 0, 0.5, 0.9, 1, 1])
    outcomes = (np.arange(1000)[:, None] < 1000 * shares).astype(float)
    np.testing.assert_allclose(interquartile_mean(outcomes), [0, 0, 0.5, 0.9, 1, 1])
    design = crossed(1, 1000)
    means = design.mean_interval(outcomes, 0.95, shares=True)
    found = design.iqm_interval(outcomes, 0.95, shares=True)
    np.testing.assert_allclose(found, interquartile_mean_of_share(means))


def test_an_unknown_variance_of_the_interquartile_mean_is_not_taken_for_none() -> None:
    rows = np.array([[0.0, 5], [0, 5], [0, 5], [0, 5], [9, 5]])
    intervals = crossed(1, 5).iqm_interval(rows, 0.95)
    assert intervals.tolist() == [[-np.inf, np.inf], [5, 5]]
    fractions = crossed(1, 5).iqm_interval(rows / 10, 0.95, shares=True)
    assert fractions.tolist() == [[0, 1], [0.5, 0.5]]


def test_rounding_errors_are_no_variance() -> None:
    values = np.full((3, 7, 2), 0.1)
    assert crossed_spread(values).variance.tolist() == [0, 0]
    assert independent_spread(values[0] + 1e6).variance.tolist() == [0, 0]
    assert independent_spread(np.array([[1e6], [1e6 + 1e-3]])).variance[0] > 0


@pytest.mark.parametrize(
    ("trainings", "tasks", "whole", "kind", "counts"),
    [
        ([0, 0], [4, 7], False, "single", "1 training x 2 tasks"),
        ([0, 0, 3, 3], [4, 7, 7, 4], False, "crossed", "2 trainings x 2 tasks"),
        ([0, 0, 3, 3], [4, 7, 7, 4], True, "fixed", "2 trainings x 2 tasks"),
        ([0, 3], [4, 4], True, "fixed", "2 trainings x 1 task"),
        ([0, 0, 3, 3], [4, 7, 6, 5], False, "nested", "2 trainings x 2 tasks (4 distinct)"),
        ([0, 0, 3, 3, 3], [4, 7, 6, 5, 1], False, "nested", "2 trainings, 5 tasks"),
        ([0], [4], False, "one task", "1 training x 1 task"),
        ([0, 3], [4, 4], False, "one task", "2 trainings x 1 task"),
        ([0, 0, 3], [4, 7, 5], False, "one task in a training", "2 trainings, 3 tasks"),
        ([0, 0, 3, 3], [4, 7, 5, 7], False, "trainings share some", "2 trainings, 3 tasks"),
        ([0, 0], [4, 7], True, "one training, on all", "1 training x 2 tasks"),
    ],
)
def test_designs_are_told_apart(
    trainings: list[int], tasks: list[int], whole: bool, kind: str, counts: str
) -> None:
    design = Design.of(np.array(trainings), np.array(tasks), whole)
    if design.kind == "none":
        assert design.reason.startswith(kind)
        everything = design.mean_interval(np.zeros((len(tasks), 2)), 0.95)
        assert everything.tolist() == [[-np.inf, np.inf]] * 2
        assert design.iqm_interval(np.zeros((len(tasks), 1)), 0.95, True).tolist() == [[0, 1]]
    else:
        assert (design.kind, design.reason) == (kind, "")
        assert np.isfinite(design.mean_interval(np.arange(len(tasks))[:, None], 0.95)).all()
    assert design.counts() == counts
    assert design.counts("test").endswith(
        counts.split(" ", 3)[-1].replace("task", "test task")
    ) or ("test task" in design.counts("test"))


def test_rows_may_come_in_any_order() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 2)) + np.repeat([0, 3, 5], 4)[:, None]
    order = rng.permutation(12)
    trainings, tasks = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    shuffled = Design.of(trainings[order], tasks[order], False)
    np.testing.assert_allclose(
        shuffled.mean_interval(values[order], 0.95), crossed(3, 4).mean_interval(values, 0.95)
    )
    np.testing.assert_allclose(shuffled.mean(values[order]), values.mean(axis=0))


def test_every_training_counts_alike() -> None:
    design = Design.of(np.array([0, 0, 0, 1]), np.arange(4), False)
    assert design.mean(np.array([[1.0], [2], [3], [10]])).tolist() == [6]
