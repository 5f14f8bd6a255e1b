"""PyTorch's random generators, equal on CPU and GPU, its threads and its devices."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor


def weights_generator(generator: torch.Generator) -> torch.Generator:
    """Returns a CPU generator for initial weights, so that they are the same on every device.

    Args:
        generator: Generator that was just seeded. A CPU generator is returned itself; for a GPU
            generator, a new CPU generator with the same seed is returned.
    """
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(generator.initial_seed())


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Sets a saved state; the state of another kind of device becomes a seed that depends on it.

    Args:
        generator: Generator on any device.
        state: Result of ``get_state`` of a generator on any device.
    """
    state = state.cpu()
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))


@contextmanager
def torch_threads(num: int | None) -> Iterator[None]:
    """Sets the number of PyTorch CPU threads within the context, and restores it afterwards.

    Args:
        num: Number of threads; ``None`` does not change it.
    """
    before = torch.get_num_threads()
    if num is None or num == before:
        yield
        return
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def branch(generator: torch.Generator) -> Iterator[None]:
    """Draws other numbers within the context, which depend on the state before and keep it.

    Args:
        generator: Generator on any device.
    """
    before = generator.get_state()
    generator.manual_seed(zlib.crc32(before.cpu().numpy().tobytes()))
    try:
        yield
    finally:
        generator.set_state(before)


def find_device(device: torch.device | str) -> torch.device:
    """Returns a device as Stable-Baselines3 does: the CPU for ``"cuda"`` if there is no GPU.

    Raises:
        ValueError: There is no such device.
    """
    try:
        return get_device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is 'auto', 'cpu' or 'cuda', got {device!r}") from error
