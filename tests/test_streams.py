"""Streams of tasks: the published numbers of SplitMix64, the distributions, and independence.

A row gets the same numbers whatever other rows there are and whenever they draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from meta_rl.vector.streams import TaskStreams

NUM = 20_000
SEEDS = np.random.default_rng(0).integers(2**63, size=NUM)

DRAWS: dict[str, tuple[Callable[[TaskStreams, int], np.ndarray], Any]] = {
    "random": (lambda streams, n: streams.random(n), stats.uniform()),
    "uniform": (lambda streams, n: streams.uniform(-2.0, 3.0, n), stats.uniform(-2, 5)),
    "standard_normal": (lambda streams, n: streams.standard_normal(n), stats.norm()),
    "normal": (lambda streams, n: streams.normal(1.0, 2.0, n), stats.norm(1, 2)),
    "small gamma": (lambda streams, n: streams.standard_gamma(0.3, n), stats.gamma(0.3)),
    "gamma of shape 1": (lambda streams, n: streams.standard_gamma(1.0, n), stats.expon()),
    "large gamma": (lambda streams, n: streams.standard_gamma(40.0, n), stats.gamma(40)),
    "beta": (lambda streams, n: streams.beta(2.0, 5.0, n), stats.beta(2, 5)),
    "exponential": (lambda streams, n: streams.exponential(2.0, n), stats.expon(scale=2)),
}


def test_splitmix64_has_its_published_numbers() -> None:
    """Seed 1234567; the numbers of the reference implementation."""
    streams = TaskStreams([0])
    streams._state[:] = 1234567  # the reference does not scramble its seed
    assert streams._bits((1, 5)).tolist() == [
        [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ]
    ]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seeds", [SEEDS, np.arange(NUM)], ids=["random seeds", "0, 1, 2, ..."])
def test_distributions(name: str, seeds: np.ndarray) -> None:
    """Over rows and along a row alike; a wrong distribution would have p near 0."""
    draw, distribution = DRAWS[name]
    over_rows = draw(TaskStreams(seeds), NUM)
    assert stats.kstest(over_rows, distribution.cdf).pvalue > 1e-3
    if name != "exponential":
        streams = TaskStreams(seeds[:1])
        along = np.concatenate([draw(streams, 1) for _ in range(2000)])
        assert stats.kstest(along, distribution.cdf).pvalue > 1e-3


def test_integers_are_uniform() -> None:
    drawn = TaskStreams(SEEDS).integers(-2, 5, NUM)
    assert drawn.dtype == np.int64
    counts = np.bincount(drawn + 2, minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3
    assert set(TaskStreams(SEEDS).integers(1, 2, NUM, endpoint=True).tolist()) == {1, 2}
    assert TaskStreams(SEEDS).integers(3, size=NUM, dtype=np.int32).max() == 2


def test_rows_and_draws_are_uncorrelated() -> None:
    drawn = TaskStreams(np.arange(60)).standard_normal((60, 4000))
    for table in (drawn, drawn[:, :60].T):
        correlations = np.corrcoef(table)[np.triu_indices(60, 1)]
        assert np.abs(correlations).max() < 5 / np.sqrt(table.shape[1])


@pytest.mark.parametrize("name", DRAWS)
def test_a_row_does_not_depend_on_the_others(name: str) -> None:
    draw, _ = DRAWS[name]
    whole, part = TaskStreams(SEEDS[:50]), TaskStreams(SEEDS[10:13])
    for _ in range(3):
        np.testing.assert_array_equal(draw(whole, 50)[10:13], draw(part, 3))


def test_a_row_does_not_depend_on_when_the_others_draw() -> None:
    alone, among = TaskStreams([7]), TaskStreams([5, 6, 7])
    first = among.random(3)[2]
    among[np.array([True, True, False])].standard_gamma(np.array([0.1, 9.0]), (2,))
    np.testing.assert_array_equal([first, among.random(3)[2]], [alone.random(1)[0] for _ in "ab"])
    assert len(among[[2]]) == 1
    np.testing.assert_array_equal(among[[2]].random(1), alone.random(1))
    np.testing.assert_array_equal(among.random(3)[2:], alone.random(1))


def test_shapes_and_parameters_by_row() -> None:
    streams = TaskStreams([1, 2, 3])
    assert streams.random((3, 2, 4)).shape == (3, 2, 4)
    assert streams.random((3, 0)).shape == (3, 0)
    low = np.array([[0.0], [10.0], [20.0]])
    drawn = streams.uniform(low, low + 1, (3, 5))
    assert np.all((drawn >= low) & (drawn < low + 1))
    assert np.all(np.diff(streams.normal(np.array([0.0, 1e6, 2e6]), 1.0)) > 0)
    assert streams.dirichlet([1.0, 2.0, 3.0], (3,)).shape == (3, 3)
    np.testing.assert_allclose(streams.dirichlet([1.0, 2.0, 3.0], size=3).sum(axis=1), 1.0)
    counts = streams.poisson(np.array([0.0, 1e3, 1e6]))
    assert counts[0] == 0
    assert np.all(np.diff(counts) > 0)
    assert set(streams.choice([-1.0, 1.0], (3, 50)).reshape(-1).tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda s: s.random(), "leading axis"),
        (lambda s: s.random(3), "needs them as its leading axis"),
        (lambda s: s.random((3, 2)), "leading axis"),
        (lambda s: s.integers(0, size=2), "there are none"),
        (lambda s: s.standard_gamma(0.0, 2), "above 0"),
    ],
)
def test_wrong_draws(draw: Callable[[TaskStreams], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(TaskStreams([1, 2]))


@pytest.mark.parametrize("seeds", [[], [[1, 2]], [-1], ["a"], None])
def test_wrong_seeds(seeds: Any) -> None:
    with pytest.raises(ValueError, match="seed"):
        TaskStreams(seeds)


def test_unknown_distributions_are_named() -> None:
    with pytest.raises(AttributeError, match=r"draw no .wald.: .*standard_normal"):
        TaskStreams([1]).wald(1.0, 1.0)
