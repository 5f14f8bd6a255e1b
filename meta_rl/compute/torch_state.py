"""PyTorch's random generators, its threads and devices, and the options of its optimisers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
def own_noise(generator: torch.Generator, advance: bool = False) -> Iterator[None]:
    """Seeds the draws of layers such as dropout from a generator within the context.

    These layers draw from PyTorch's global generators, whose states are restored afterwards.

    Args:
        generator: Generator, whose state gives the seed.
        advance: Whether the generator advances if something was drawn, so that the next draws
            differ. Otherwise its state does not change.
    """
    seed = zlib.crc32(generator.get_state().cpu().numpy().tobytes())
    on_gpu = generator.device.type == "cuda"
    with torch.random.fork_rng(devices=[generator.device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        before = _global_states(generator.device)
        yield
        drawn = before != _global_states(generator.device)
    if advance and drawn:
        torch.rand((), generator=generator, device=generator.device)


def _global_states(device: torch.device) -> list[bytes]:
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [state.numpy().tobytes() for state in states]


def options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Returns, for each parameter group, the options that a recording changes."""
    names = ("fused", "foreach", "capturable")
    return [{k: group[k] for k in names if k in group} for group in optimizer.param_groups]


def restore_options(optimizer: torch.optim.Optimizer, kept: list[dict[str, Any]]) -> None:
    """Restores the result of :func:`options`, and the step size as a Python number."""
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values, lr=float(group["lr"]))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the step size, in place where it is a tensor on the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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
