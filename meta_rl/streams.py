"""Random numbers of a batch in which every sub-environment has a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

# Distributions that are drawn row by row: the place of `size` among their positional arguments.
_BY_ROW = {
    **{"exponential": 1, "standard_exponential": 0, "gamma": 2, "poisson": 1, "binomial": 2},
    **{"geometric": 1, "laplace": 2, "lognormal": 2, "chisquare": 1},
    **{"choice": 1, "dirichlet": 1, "multinomial": 2},
}
_SHARED = ("choice", "dirichlet", "multinomial")  # their parameters are vectors, the same for all


class TaskStreams:
    """Draws for ``N`` rows, each from a stream that depends on the row's seed alone.

    It stands in for a :class:`numpy.random.Generator` where a family draws: ``random``,
    ``uniform``, ``integers``, ``standard_normal``, ``normal`` and, one row at a time, the other
    usual distributions. Every draw has the leading axis ``N``. What a row gets does not depend on
    the other rows, on their number, or on when they draw.

    Rows draw by SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014, figure 16), all rows in one vectorised operation.

    Args:
        seeds: One seed for each row, integers in ``[0, 2**64)``.

    Raises:
        ValueError: No seeds, or seeds outside their range.
    """

    def __init__(self, seeds: Sequence[int] | np.ndarray) -> None:
        try:
            state = np.array(seeds, dtype=np.uint64)
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"seeds have to be integers in [0, 2**64), got {seeds!r}") from error
        if state.ndim != 1 or not len(state):
            raise ValueError(f"expected one seed for each row, got an array of {state.shape}")
        self._state = _mixed(state)  # so that neighbouring seeds begin far from each other
        self._rows: Any = slice(None)

    def __getitem__(self, rows: Any) -> TaskStreams:
        """The streams of some rows (a mask or indices), which go on as these do."""
        part = TaskStreams.__new__(TaskStreams)
        part._state = self._state
        part._rows = np.arange(len(self._state))[self._rows][rows]
        return part

    def __len__(self) -> int:
        """The number of rows, N."""
        return len(self._state[self._rows])

    def random(self, size: Any = None) -> np.ndarray:
        """Uniform numbers in [0, 1), float64 ``[N, ...]``."""
        return _unit(self._bits(size))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> np.ndarray:
        """Uniform numbers in [low, high), float64 ``[N, ...]``."""
        low, high = np.asarray(low), np.asarray(high)
        return low + (high - low) * self.random(_size(size, low, high))

    def integers(
        self,
        low: Any,
        high: Any = None,
        size: Any = None,
        dtype: Any = np.int64,
        endpoint: bool = False,
    ) -> np.ndarray:
        """Integers in [low, high), or [0, low) without ``high``; fewer than 2**53 of them."""
        low, high = (0, low) if high is None else (low, high)
        low, count = np.asarray(low), np.asarray(high) - np.asarray(low) + int(endpoint)
        if np.any(count < 1):
            raise ValueError(f"integers: there are none from {low} to {high}")
        drawn = self.random(_size(size, low, count))
        return (low + np.floor(drawn * count).astype(np.int64)).astype(dtype)

    def standard_normal(self, size: Any = None) -> np.ndarray:
        """Normal numbers of mean 0 and standard deviation 1, float64 ``[N, ...]``."""
        normal: np.ndarray = ndtri(self.random(size) + 2.0**-54)  # never at 0 or 1
        return normal

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> np.ndarray:
        """Normal numbers of the given mean and standard deviation, float64 ``[N, ...]``."""
        loc, scale = np.asarray(loc), np.asarray(scale)
        return loc + scale * self.standard_normal(_size(size, loc, scale))

    def standard_gamma(self, shape: Any, size: Any = None) -> np.ndarray:
        """Gamma numbers of scale 1 and the given shapes (above 0), float64 ``[N, ...]``.

        Marsaglia and Tsang, "A simple method for generating gamma variables" (2000). Each number
        has a stream of its own for the tries that are refused.
        """
        shape = np.broadcast_to(np.asarray(shape, dtype=np.float64), _size(size, shape))
        if not np.all(shape > 0):
            raise ValueError("standard_gamma: shapes have to be above 0")
        keys, wanted = self._bits(shape.shape).reshape(-1), shape.reshape(-1)
        small = wanted < 1
        drawn = _marsaglia_tsang(keys, np.where(small, wanted + 1, wanted))
        if small.any():
            drawn[small] *= _unit(_mixed(keys[small] ^ _MIX[0])) ** (1 / wanted[small])
        return drawn.reshape(shape.shape)

    def beta(self, a: Any, b: Any, size: Any = None) -> np.ndarray:
        """Beta numbers of the given parameters (above 0), float64 ``[N, ...]``."""
        shape = _size(size, a, b)
        of_a, of_b = self.standard_gamma(a, shape), self.standard_gamma(b, shape)
        return of_a / (of_a + of_b)

    def __getattr__(self, name: str) -> Callable[..., np.ndarray]:
        """Another distribution of :class:`numpy.random.Generator`, drawn row by row."""
        if name not in _BY_ROW:
            raise AttributeError(
                f"streams of tasks draw no {name!r}: they draw random, uniform, integers, "
                f"standard_normal, normal, {', '.join(_BY_ROW)}"
            )

        def draw(*args: Any, size: Any = None, **kwargs: Any) -> np.ndarray:
            place = _BY_ROW[name]
            if len(args) > place:
                args, size = args[:place], args[place]
            shape = _size(size, *args)
            keys = self._bits(shape[:1])
            if name not in _SHARED:
                args = tuple(np.broadcast_to(arg, shape) for arg in args)
            rows = []
            for row, key in enumerate(keys):
                own = args if name in _SHARED else (arg[row] for arg in args)
                rng = np.random.Generator(np.random.Philox(key=int(key)))
                rows.append(getattr(rng, name)(*own, size=shape[1:], **kwargs))
            return np.stack(rows)

        return draw

    def _bits(self, size: Any) -> np.ndarray:
        """The next 64 bits, uint64 of shape ``size``."""
        shape = () if size is None else tuple(int(n) for n in np.atleast_1d(size))
        state = self._state[self._rows]
        if not shape or shape[0] != len(state):
            raise ValueError(
                f"a draw for {len(state)} sub-environments needs them as its leading axis, "
                f"got size={size}"
            )
        steps = np.arange(1, int(np.prod(shape[1:])) + 1, dtype=np.uint64) * _GOLDEN
        following = state[:, None] + steps
        if following.size:
            self._state[self._rows] = following[:, -1]
        return _mixed(following).reshape(shape)


def _marsaglia_tsang(keys: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Gamma numbers of shapes from 1, one for each key."""
    d = shape - 1 / 3
    x = ndtri(_unit(_mixed(keys)) + 2.0**-54)
    v = 1 + x / np.sqrt(9 * d)
    v *= v * v
    drawn = d * v
    keys = _mixed(keys + _GOLDEN)
    u, squared = _unit(keys), x * x
    # The quick test holds for almost all; the exact one decides about the rest.
    left = np.flatnonzero(u >= 1 - 0.0331 * squared * squared)
    u, squared, v, d = u[left], squared[left], v[left], d[left]
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.log(u) < 0.5 * squared + d * (1 - v + np.log(v))  # False where v is below 0
    left = left[~kept]
    if len(left):
        drawn[left] = _marsaglia_tsang(keys[left], shape[left])
    return drawn


def _unit(bits: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) from the upper 53 bits."""
    unit: np.ndarray = (bits >> np.uint64(11)) * 2.0**-53
    return unit


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return z ^ (z >> np.uint64(31))


def _size(size: Any, *parameters: Any) -> tuple[int, ...]:
    """The shape of a draw: ``size``, or the common shape of its parameters."""
    if size is not None:
        return tuple(int(n) for n in np.atleast_1d(size))
    return np.broadcast_shapes(*(np.shape(parameter) for parameter in parameters))
