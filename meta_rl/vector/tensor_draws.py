"""Random tensors, by the methods of a numpy generator that families use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class TensorDraws:
    """A source of random tensors, all drawn on their device by one PyTorch generator.

    Args:
        device: Device of the tensors.
        seed: Seed of the generator (default: from the system's entropy).
    """

    def __init__(self, device: torch.device, seed: int | None = None) -> None:
        self.generator = torch.Generator(device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def __getitem__(self, rows: Any) -> TensorDraws:
        """Returns the draws for some rows: the same generator."""
        return self

    def random(self, size: Any = ()) -> Tensor:
        """Draws uniform numbers in [0, 1), float64."""
        return torch.rand(size, **self._options)

    def standard_normal(self, size: Any = ()) -> Tensor:
        """Draws normal numbers of mean 0 and standard deviation 1, float64."""
        return torch.randn(size, **self._options)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = ()) -> Tensor:
        """Draws uniform numbers in [low, high), float64."""
        return low + (high - low) * self.random(size)

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Any = ()) -> Tensor:
        """Draws normal numbers of the given mean and standard deviation, float64."""
        return loc + scale * self.standard_normal(size)

    def integers(self, low: int, high: int | None = None, size: Any = ()) -> Tensor:
        """Draws integers in [low, high), or [0, low) without ``high``, int64."""
        low, high = (0, low) if high is None else (low, high)
        options = {**self._options, "dtype": torch.int64}
        return torch.randint(low, high, tuple(np.atleast_1d(size).astype(int)), **options)

    @property
    def _options(self) -> dict[str, Any]:
        device = self.generator.device
        return {"generator": self.generator, "device": device, "dtype": torch.float64}


class CopiedDraws:
    """A numpy source of random numbers, whose draws are copied to tensors on a device.

    The numbers are those of the source, so that a batch of tensors repeats a batch of numpy arrays.

    Args:
        source: numpy's generator, or :class:`meta_rl.vector.streams.TaskStreams`.
        device: Device of the tensors.
    """

    def __init__(self, source: Any, device: torch.device) -> None:
        self._source, self._device = source, device

    def __getitem__(self, rows: Any) -> CopiedDraws:
        """Returns the draws for some rows, by a mask ``[N]``."""
        return CopiedDraws(self._source[rows.tolist()], self._device)

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        """Returns a method of the source that draws tensors."""
        if name.startswith("_"):  # before the attributes are there, while it is copied
            raise AttributeError(name)
        draw = getattr(self._source, name)
        return lambda *args, **kwargs: torch.as_tensor(draw(*args, **kwargs), device=self._device)


def standard_normal(like: Tensor, generator: torch.Generator, draws: CopiedDraws | None) -> Tensor:
    """Draws unit normal numbers of the shape, type and device of a tensor.

    Args:
        like: Tensor, ``[N, ...]``.
        generator: Generator that draws for all rows together, if there are no streams.
        draws: A stream for each of the N rows; ``None`` for none.
    """
    if draws is not None:
        return draws.standard_normal(like.shape).to(like.dtype)
    return torch.randn(like.shape, generator=generator, device=like.device)


def choices(chances: Tensor, generator: torch.Generator, draws: CopiedDraws | None) -> Tensor:
    """Draws one of A choices in each row, int64 ``[N]``.

    Args:
        chances: Probabilities, ``[N, A]``.
        generator: Generator that draws for all rows together, if there are no streams.
        draws: A stream for each of the N rows; ``None`` for none.
    """
    if draws is None:
        return torch.multinomial(chances, 1, generator=generator)[:, 0]
    sums = chances.double().cumsum(dim=1)
    numbers = draws.random(len(chances))[:, None] * sums[:, -1:]
    return (numbers >= sums).sum(dim=1).clamp(max=chances.shape[1] - 1)
