"""Functions on a GPU that are recorded once, as a CUDA graph, and then replayed without Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_rl.compute import ranks
from meta_rl.compute.finite_state import finite_gradients
from meta_rl.compute.torch_state import options, restore_options

WARM_UPS = 2
"""Number of calls before the recording, in which libraries and optimisers initialise."""


class CudaGraph:
    """A function on a GPU, recorded at its third call and replayed from then on.

    An update of small networks is some hundred kernels. Each runs for a few microseconds, less time
    than Python needs to launch it. A graph launches all of them at once.

    The function has to do the same work in every call. The recording fixes all Python values that
    it uses (numbers, branches, shapes). The function must not read values of tensors (``item``),
    and has to change parameters and optimiser states in place. It is recorded again when the shapes
    or dtypes of its inputs change.

    Args:
        function: Function that takes tensors on the current GPU, and returns a nest of tensors.
        generators: Generators on that GPU that the function draws from (default: none). Every
            replay draws new numbers, like a call.
        copies: Whether copies of the outputs are returned (default: True). Otherwise the next call
            overwrites the outputs of this one.

    Raises:
        RuntimeError: The function does something that torch cannot record.
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
        """Returns the outputs of the function."""
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
        """Records the function; the recording computes nothing and draws no number."""
        self._inputs = [part.clone() for part in inputs]
        self.graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._outputs = self.function(*self._inputs)


def check_gpu(device: torch.device) -> None:
    """Refuses a device that is not a GPU, and several ranks.

    Raises:
        ValueError: The device is another one, or the training is divided over ranks.
    """
    if device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a GPU, but the device is {device}")
    if ranks.together():
        raise ValueError("a CUDA graph does not record the messages of several ranks")


def is_recording() -> bool:
    """Tells whether a graph is being recorded, so that values of tensors cannot be read."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def step_where(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Makes a step of a fused optimiser where ``finite`` is true; the device decides, not Python.

    Args:
        optimizer: Optimiser with ``fused=True``.
        finite: Boolean tensor without dimensions.
    """
    state: Any = optimizer  # torch's own gradient scaler uses the same attribute
    state.found_inf = finite.logical_not().to(torch.float32)
    try:
        optimizer.step()
    finally:
        del state.found_inf


def recorded_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    gradients: Sequence[Tensor] | None = None,
    max_norm: float | None = None,
) -> Tensor:
    """Takes a step as :func:`meta_rl.compute.finite_state.guarded_step` does, within a recording.

    Returns:
        Whether loss and gradients are finite, to be read after the replay; if not, the device has
        not taken the step.
    """
    finite = finite_gradients(optimizer, loss, gradients, max_norm)
    step_where(optimizer, finite)
    return finite


@contextlib.contextmanager
def recordable(*optimizers: torch.optim.Optimizer) -> Iterator[None]:
    """Makes Adam recordable within the context.

    Adam then keeps its step size and its step counts on the device, and uses a fused kernel.

    Raises:
        ValueError: An optimiser is not Adam.
    """
    before = []
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Adam):
            raise ValueError(f"only Adam can be recorded, not {type(optimizer).__name__}")
        before.append(options(optimizer))
        vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True  # warm-ups are intended
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
