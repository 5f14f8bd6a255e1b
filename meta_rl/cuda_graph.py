"""Work of a GPU that is recorded once, as a CUDA graph, and then replayed without Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

WARM_UPS = 2
"""Calls before the recording, in which libraries and optimisers set themselves up."""


class CudaGraph:
    """A function on a GPU, recorded at its third call and replayed from then on.

    An update of small networks is some hundred kernels of a few microseconds each, less than Python
    takes to launch one; a graph launches all of them at once.

    The function has to do the same work in every call: what it reads of Python (numbers, branches,
    shapes) is fixed by the recording, it must not look at values of tensors (``item``), and what it
    changes, such as parameters and the state of an optimiser, it changes in place. Where
    the shapes or kinds of its inputs change, it is recorded anew.

    Args:
        function: Of tensors on the current GPU; gives a nest of tensors.
        generators: Generators of that GPU that it draws from. Every replay draws further numbers,
            as a call would.
        copies: Give copies; otherwise the next call overwrites what this one gave.

    Raises:
        RuntimeError: From torch, where the function does what cannot be recorded.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        generators: Sequence[torch.Generator] = (),
        copies: bool = True,
    ) -> None:
        self.function = function
        self.copies = copies
        self.generators = tuple(generators)
        self.stream = torch.cuda.Stream()
        self._kind: Any = None
        self._calls = 0

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function gives."""
        kind = [(part.shape, part.dtype) for part in inputs]
        if kind != self._kind:
            self._kind, self._calls = kind, 0
        self._calls += 1
        if self._calls <= WARM_UPS:
            return self._warm_up(inputs)
        if self._calls == WARM_UPS + 1:
            self._record(inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self.graph.replay()
        return tree_map(torch.clone, self._outputs) if self.copies else self._outputs

    def _warm_up(self, inputs: Sequence[Tensor]) -> Any:
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = self.function(*inputs)
        current.wait_stream(self.stream)
        return outputs

    def _record(self, inputs: Sequence[Tensor]) -> None:
        """Nothing is computed, nor a number drawn, while it is recorded."""
        self._inputs = [part.clone() for part in inputs]
        self.graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._outputs = self.function(*self._inputs)


def check_gpu(device: torch.device) -> None:
    """Graphs are work of a GPU.

    Raises:
        ValueError: Of another device.
    """
    if device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a GPU, but the device is {device}")


def is_recording() -> bool:
    """Whether a graph is being recorded, so that values of tensors cannot be looked at."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def step_where(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """A step of a fused optimiser, or none at all where ``finite`` is false; the device decides.

    Args:
        optimizer: With ``fused=True``.
        finite: A bool, without dimensions.
    """
    state: Any = optimizer  # where torch's own gradient scaler leaves the same wish
    state.found_inf = finite.logical_not().to(torch.float32)
    try:
        optimizer.step()
    finally:
        del state.found_inf


@contextlib.contextmanager
def recordable(*optimizers: torch.optim.Optimizer) -> Iterator[None]:
    """Have Adam keep its step size and its counts on the device, and step by a fused kernel.

    Raises:
        ValueError: An optimiser that has no such kernel.
    """
    before = []
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Adam):
            raise ValueError(f"only Adam can be recorded, not {type(optimizer).__name__}")
        before.append(options(optimizer))
        vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True  # warm-ups are meant
        for group in optimizer.param_groups:
            device = group["params"][0].device
            rate = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
            group.update(fused=True, foreach=False, capturable=True, lr=rate)
        for parameter, state in optimizer.state.items():
            step = torch.as_tensor(state["step"], dtype=torch.float32)
            state["step"] = step.to(parameter.device)
    try:
        yield
    finally:
        for optimizer, kept in zip(optimizers, before, strict=True):
            restore_options(optimizer, kept)


def options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """How it computes its steps, which :func:`recordable` changes, for each of its groups."""
    names = ("fused", "foreach", "capturable")
    return [{k: group[k] for k in names if k in group} for group in optimizer.param_groups]


def restore_options(optimizer: torch.optim.Optimizer, kept: list[dict[str, Any]]) -> None:
    """Take back :func:`options`, and have the step size as a number."""
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values, lr=float(group["lr"]))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Change the step size, in place where it is on the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
