"""Computation of updates on the device: finiteness checks, CUDA graphs and compilation."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meta_rl.compute.cuda_graph import CudaGraph, check_gpu, is_recording, recordable, step_where
from meta_rl.inner_loop import is_finite


class DeviceWork:
    """The part of a learner that runs an update on the device and checks that it is finite.

    Attributes:
        device: Device of the computation.
        generator: Generator of the draws on the device.
        optimizer: Optimiser; ``None`` before the first update.
        num_iterations: Number of updates so far.
        module: Module with the parameters that are learned.
    """

    device: torch.device
    generator: torch.Generator
    optimizer: torch.optim.Optimizer | None
    num_iterations: int
    module: nn.ModuleDict
    _checks: dict[str, Tensor]
    _work: Callable[..., dict[str, Tensor]]
    _graph: CudaGraph | None = None

    can_record: ClassVar[bool] = False
    """Whether :meth:`update` runs in :meth:`on_device`, so that it can be a CUDA graph."""

    can_compile: ClassVar[bool] = False
    """Whether :meth:`update` can be compiled: it then reads :attr:`compiling`."""

    compiling = False
    """Whether updates are compiled at present."""

    def faster(self, cuda_graph: bool, compile: bool) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which updates are recorded as a CUDA graph, or compiled.

        Args:
            cuda_graph: Whether they are recorded.
            compile: Whether they are compiled.

        Raises:
            ValueError: Both are asked for, or the learner or its device cannot do it.
        """
        if cuda_graph and compile:
            raise ValueError("cuda_graph and compile exclude each other")
        if cuda_graph:
            return self._recording()
        return self._compiling() if compile else contextlib.nullcontext()

    def check_can_record(self) -> None:
        """Raises an error unless :meth:`learn` can take ``cuda_graph=True``.

        Raises:
            ValueError: The learner cannot record its updates, or is not on a GPU.
        """
        if not self.can_record:
            raise ValueError(f"a CUDA graph is not for {type(self).__name__}, whose updates vary")
        check_gpu(self.device)

    def check_can_compile(self) -> None:
        """Raises an error unless :meth:`learn` can take ``compile=True``.

        Raises:
            ValueError: The learner cannot be compiled, or ``torch.compile`` does not work here.
        """
        if not self.can_compile:
            raise ValueError(f"compile is not for {type(self).__name__}, whose updates vary")
        try:
            torch.compile(_add_one, dynamic=False)(torch.zeros(2, device=self.device))
        except Exception as error:  # there are many kinds: no compiler, no headers of Python, ...
            raise ValueError(
                "compile: torch.compile does not work here; on a CPU it needs a C++ compiler, such "
                f"as g++ (its error: {str(error).strip().partition(chr(10))[0]})"
            ) from error

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        self.check_can_compile()
        self.compiling = True
        try:
            yield
        finally:
            self.compiling = False

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Records computations in :meth:`on_device` within the context, and replays them."""
        self.check_can_record()
        self._graph = CudaGraph(self._work_and_checks, [self.generator])
        steps = [self.optimizer] if isinstance(self.optimizer, torch.optim.Adam) else []
        try:
            with recordable(*steps):
                yield
        finally:
            self._graph = None

    @contextlib.contextmanager
    def own_noise(self, advance: bool = False) -> Iterator[None]:
        """Seeds the draws of layers such as dropout from :attr:`generator` within the context.

        These layers draw from PyTorch's global generators, whose states are restored afterwards.

        Args:
            advance: Whether :attr:`generator` advances if something was drawn, so that the next
                draws differ. Otherwise its state does not change.
        """
        seed = zlib.crc32(self.generator.get_state().cpu().numpy().tobytes())
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.manual_seed(seed)
            before = self._global_states()
            yield
            drawn = before != self._global_states()
        if advance and drawn:
            torch.rand((), generator=self.generator, device=self.device)

    def _global_states(self) -> list[bytes]:
        states = [torch.default_generator.get_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return [state.numpy().tobytes() for state in states]

    def on_device(self, work: Callable[..., dict[str, Tensor]], *data: Tensor) -> dict[str, Tensor]:
        """Runs the part of an update that a CUDA graph can replay.

        Args:
            work: Function of ``data`` that changes parameters in place and returns numbers to log.
                Its operations do not depend on the values of tensors. It may call :meth:`guard`.
            *data: Tensors, which may differ between updates.

        Returns:
            The numbers that ``work`` returned.

        Raises:
            FloatingPointError: Values given to :meth:`guard` are not finite.
        """
        if self._graph is None:
            return work(*data)
        self._work = work
        report, checks = self._graph(*data)
        for what, finite in checks.items():
            self._stop_unless(finite, what)
        return report

    def _work_and_checks(self, *data: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self._checks = {}
        return self._work(*data), self._checks

    def step(self, loss: Tensor, gradients: Sequence[Tensor] | None = None) -> None:
        """Takes a gradient step on a loss.

        Args:
            loss: Loss, a scalar.
            gradients: Gradients of the loss with respect to all parameters of the module (default:
                computed by ``loss.backward()``).

        Raises:
            FloatingPointError: The loss or a gradient is not finite; no parameter has changed.
        """
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        self.guard("loss", loss)
        if gradients is None:
            loss.backward()
        else:
            for parameter, gradient in zip(self.module.parameters(), gradients, strict=True):
                parameter.grad = gradient
        self.guard("gradient", [p.grad for p in self.module.parameters() if p.grad is not None])
        self.limit_gradient()
        if is_recording():
            step_where(self.optimizer, self.all_finite)
        else:
            self.optimizer.step()

    def limit_gradient(self) -> None:
        """Changes gradients before a step, such as clipping; the default does nothing."""

    def guard(self, what: str, values: Any) -> None:
        """Stops the training where values are not finite.

        While a graph is recorded or replayed, :meth:`on_device` raises the error afterwards.

        Args:
            what: Name of the values in the error message.
            values: Tensors to be checked.

        Raises:
            FloatingPointError: A value is not finite.
        """
        self._checks[what] = is_finite(values)
        if not is_recording():
            self._stop_unless(self._checks[what], what)

    @property
    def all_finite(self) -> Tensor:
        """Whether all values given to :meth:`guard` in this update are finite, on the device."""
        return torch.stack(list(self._checks.values())).all()

    def _stop_unless(self, finite: Tensor, what: str) -> None:
        if not finite:
            raise FloatingPointError(
                f"{type(self).__name__}: the {what} of iteration {self.num_iterations + 1} is not "
                "finite; the parameters are those before this iteration. Lower the step sizes"
            )


def _add_one(x: Tensor) -> Tensor:
    """Adds one: a small function to test whether ``torch.compile`` works."""
    return x + 1
