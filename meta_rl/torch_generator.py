"""Generators of random numbers of PyTorch, on a CPU and on a GPU."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def weights_generator(generator: torch.Generator) -> torch.Generator:
    """What draws first weights, which are on the CPU: the same of a seed on every device.

    Args:
        generator: Freshly seeded. One of a CPU is given back; of a GPU's, one with the same seed.
    """
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(generator.initial_seed())


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Take over a saved state; that of another kind of device gives a seed, always the same.

    Args:
        generator: On any device.
        state: By ``get_state``, of any device.
    """
    state = state.cpu()
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
