"""Random numbers for a batch, with an independent stream for every sub-environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.special import ndtri

from meta_rl.vector.arrays import Arrays

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

# Distributions that are drawn row by row: the index of `size` among their positional arguments.
_BY_ROW = {
    **{"exponential": 1, "standard_exponential": 0, "gamma": 2, "poisson": 1, "binomial": 2},
    **{"geometric": 1, "laplace": 2, "lognormal": 2, "chisquare": 1},
    **{"choice": 1, "dirichlet": 1, "multinomial": 2},
}
_SHARED = ("choice", "dirichlet", "multinomial")  # all rows share their vectors of parameters


class TaskStreams:
    """Random streams for ``N`` rows, each of which depends only on the row's seed.

    A family uses it like a :class:`numpy.random.Generator`: it has ``random``, ``uniform``,
    ``integers``, ``standard_normal``, ``normal`` and, one row at a time, the other usual
    distributions. Every draw has the leading axis ``N``. The numbers of a row do not depend on the
    other rows, on their number, or on when they draw.

    The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014, figure 16), in one vectorised operation for all rows.

    Args:
        seeds: Seeds, one for each row, integers from 0 to ``2**64 - 1``.

    Raises:
        ValueError: There are no seeds, or a seed is outside its range.
    """

    def __init__(self, seeds: Sequence[int] | np.ndarray) -> None:
        try:
            state = np.array(seeds, dtype=np.uint64)
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"seeds have to be integers in [0, 2**64), got {seeds!r}") from error
        if state.ndim != 1 or not len(state):
            raise ValueError(f"expected one seed for each row, got an array of {state.shape}")
        self._state = _mix(state)  # neighbouring seeds then start far from each other
        self._rows: Any = slice(None)

    def __getitem__(self, rows: Any) -> TaskStreams:
        """Returns the streams of some rows (a mask or indices); both objects share them."""
        part = TaskStreams.__new__(TaskStreams)
        part._state = self._state
        part._rows = np.arange(len(self._state))[self._rows][rows]
        return part

    def __len__(self) -> int:
        """Returns the number of rows, N."""
        return len(self._state[self._rows])

    def random(self, size: Any = None) -> np.ndarray:
        """Draws uniform numbers in [0, 1), float64 ``[N, ...]``."""
        return _unit_interval(self._bits(size))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> np.ndarray:
        """Draws uniform numbers in [low, high), float64 ``[N, ...]``."""
        low, high = np.asarray(low), np.asarray(high)
        return low + (high - low) * self.random(_draw_shape(size, low, high))

    def integers(
        self,
        low: Any,
        high: Any = None,
        size: Any = None,
        dtype: Any = np.int64,
        endpoint: bool = False,
    ) -> np.ndarray:
        """Draws integers in [low, high), or [0, low) without ``high``, a range below 2**53."""
        low, high = (0, low) if high is None else (low, high)
        low, count = np.asarray(low), np.asarray(high) - np.asarray(low) + int(endpoint)
        if np.any(count < 1):
            raise ValueError(f"integers: there are none from {low} to {high}")
        drawn = self.random(_draw_shape(size, low, count))
        return (low + np.floor(drawn * count).astype(np.int64)).astype(dtype)

    def standard_normal(self, size: Any = None) -> np.ndarray:
        """Draws normal numbers of mean 0 and standard deviation 1, float64 ``[N, ...]``."""
        normal: np.ndarray = ndtri(self.random(size) + 2.0**-54)  # never at 0 or 1
        return normal

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> np.ndarray:
        """Draws normal numbers of the given mean and standard deviation, float64 ``[N, ...]``."""
        loc, scale = np.asarray(loc), np.asarray(scale)
        return loc + scale * self.standard_normal(_draw_shape(size, loc, scale))

    def standard_gamma(self, shape: Any, size: Any = None) -> np.ndarray:
        """Draws gamma numbers of scale 1 and the given shapes (above 0), float64 ``[N, ...]``.

        The method is that of Marsaglia and Tsang, "A simple method for generating gamma variables"
        (2000). Each number has a stream of its own for repeated draws after a rejection.
        """
        shape = np.broadcast_to(np.asarray(shape, dtype=np.float64), _draw_shape(size, shape))
        if not np.all(shape > 0):
            raise ValueError("standard_gamma: shapes have to be above 0")
        keys, wanted = self._bits(shape.shape).reshape(-1), shape.reshape(-1)
        small = wanted < 1
        drawn = _marsaglia_tsang(keys, np.where(small, wanted + 1, wanted))
        if small.any():
            drawn[small] *= _unit_interval(_mix(keys[small] ^ _MIX[0])) ** (1 / wanted[small])
        return drawn.reshape(shape.shape)

    def beta(self, a: Any, b: Any, size: Any = None) -> np.ndarray:
        """Draws beta numbers of the given parameters (above 0), float64 ``[N, ...]``."""
        shape = _draw_shape(size, a, b)
        first, second = self.standard_gamma(a, shape), self.standard_gamma(b, shape)
        return first / (first + second)

    def __getattr__(self, name: str) -> Callable[..., np.ndarray]:
        """Returns another method of :class:`numpy.random.Generator`, which draws row by row."""
        if name not in _BY_ROW:
            raise AttributeError(
                f"streams of tasks draw no {name!r}: they draw random, uniform, integers, "
                f"standard_normal, normal, {', '.join(_BY_ROW)}"
            )

        def draw(*args: Any, size: Any = None, **kwargs: Any) -> np.ndarray:
            place = _BY_ROW[name]
            if len(args) > place:
                args, size = args[:place], args[place]
            shape = _draw_shape(size, *args)
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
        """Draws the next 64 bits, uint64 of shape ``size``."""
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
        return _mix(following).reshape(shape)


Draws: TypeAlias = Any
"""A source of random numbers with the methods of :class:`numpy.random.Generator`, for arrays or
tensors: one generator for the whole batch, or a stream for each row."""


def draws_of(arrays: Arrays, seed: int | list[int] | None) -> Any:
    """Makes the source of a batch's random numbers.

    Args:
        arrays: Kind of the batch's arrays.
        seed: Seed of the whole batch, or a list with one for each sub-environment; ``None`` for the
            system's entropy.

    Returns:
        The source; ``None`` if Gymnasium's generator, ``np_random``, draws the numbers.
    """
    if arrays.xp is np:
        return TaskStreams(seed) if isinstance(seed, list) else None
    from meta_rl.vector.tensor_draws import CopiedDraws, TensorDraws  # PyTorch loads slowly

    if isinstance(seed, list):
        return CopiedDraws(TaskStreams(seed), arrays.device)
    return TensorDraws(arrays.device, seed)


def _marsaglia_tsang(keys: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Draws gamma numbers of shapes of at least 1, one for each key."""
    d = shape - 1 / 3
    x = ndtri(_unit_interval(_mix(keys)) + 2.0**-54)
    v = 1 + x / np.sqrt(9 * d)
    v *= v * v
    drawn = d * v
    keys = _mix(keys + _GOLDEN)
    u, squared = _unit_interval(keys), x * x
    # The quick test accepts almost all; the exact test decides about the rest.
    left = np.flatnonzero(u >= 1 - 0.0331 * squared * squared)
    u, squared, v, d = u[left], squared[left], v[left], d[left]
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.log(u) < 0.5 * squared + d * (1 - v + np.log(v))  # False where v is below 0
    left = left[~kept]
    if len(left):
        drawn[left] = _marsaglia_tsang(keys[left], shape[left])
    return drawn


def _unit_interval(bits: np.ndarray) -> np.ndarray:
    """Converts the upper 53 bits to uniform numbers in [0, 1)."""
    unit: np.ndarray = (bits >> np.uint64(11)) * 2.0**-53
    return unit


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return z ^ (z >> np.uint64(31))


def _draw_shape(size: Any, *parameters: Any) -> tuple[int, ...]:
    """Returns the shape of a draw: ``size``, or the common shape of its parameters."""
    if size is not None:
        return tuple(int(n) for n in np.atleast_1d(size))
    return np.broadcast_shapes(*(np.shape(parameter) for parameter in parameters))
