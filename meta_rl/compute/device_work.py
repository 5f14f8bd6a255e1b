"""Updates of a few-shot learner that a CUDA graph replays, or that ``torch.compile`` compiles."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from meta_rl.compute.cuda_graph import CudaGraph, check_gpu, is_recording, recordable, recorded_step
from meta_rl.compute.finite_state import FiniteState, is_finite


class FasterUpdates(FiniteState):
    """The part of a learner that records its updates as a CUDA graph, or compiles them.

    It stands before :class:`meta_rl.few_shot.FewShotLearner` among the bases of a learner whose
    :meth:`update` does its work in :meth:`on_device`.

    Attributes:
        device: Device of the computation.
        generator: Generator of the draws on the device.
        optimizer: Optimiser; ``None`` before the first update.
    """

    device: torch.device
    generator: torch.Generator
    optimizer: torch.optim.Optimizer | None
    max_grad_norm: float | None
    _checks: Mapping[str, Tensor] = {}
    _work: Callable[..., dict[str, Tensor]]
    _graph: CudaGraph | None = None

    can_record: ClassVar[bool] = True
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
            self.check_can_record()
            return self._recording()
        if compile:
            self.check_can_compile()
            return self._compiling()
        return contextlib.nullcontext()

    def check_can_record(self) -> None:
        """Raises an error unless :meth:`learn` can take ``cuda_graph=True``.

        Raises:
            ValueError: The learner is not on a GPU.
        """
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
        self.compiling = True
        try:
            yield
        finally:
            self.compiling = False

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Records computations in :meth:`on_device` within the context, and replays them."""
        self._graph = CudaGraph(self._work_and_checks, [self.generator])
        steps = [self.optimizer] if isinstance(self.optimizer, torch.optim.Adam) else []
        try:
            with recordable(*steps):
                yield
        finally:
            self._graph = None

    def on_device(self, work: Callable[..., dict[str, Tensor]], *data: Tensor) -> dict[str, Tensor]:
        """Runs the part of an update that a CUDA graph can replay.

        Args:
            work: Function of ``data`` that changes parameters in place and returns numbers to log.
                Its operations do not depend on the values of tensors. It may call :meth:`step` or
                :meth:`guard`.
            *data: Tensors, which may differ between updates.

        Returns:
            The numbers that ``work`` returned.

        Raises:
            FloatingPointError: A loss, a gradient or a guarded value is not finite.
        """
        if self._graph is None:
            return work(*data)
        self._work = work
        report, checks = self._graph(*data)
        self._stop_unless(checks, report.get("loss"))
        return report

    def _work_and_checks(self, *data: Tensor) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        self._checks = {}
        return self._work(*data), self._checks

    def step(self, loss: Tensor, gradients: Sequence[Tensor] | None = None) -> None:
        """Takes a gradient step; in a recording, the device takes it if all is finite."""
        if not is_recording():
            super().step(loss, gradients)  # type: ignore[misc]  # of the learner
            return
        assert self.optimizer is not None
        finite = recorded_step(self.optimizer, loss, gradients, self.max_grad_norm)
        self._checks = {"loss": is_finite(loss), "gradient": finite}

    def guard(self, **values: Any) -> Tensor:
        """Checks values before parameters change otherwise than by :meth:`step`.

        While a graph is recorded or replayed, :meth:`on_device` raises the error afterwards.

        Args:
            **values: Tensors to be checked, by their names in the error message.

        Returns:
            Whether all are finite, a bool tensor on the device.

        Raises:
            FloatingPointError: A value is not finite.
        """
        self._checks = {name: is_finite(value) for name, value in values.items()}
        if not is_recording():
            self._stop_unless(self._checks, values.get("loss"))
        return torch.stack(list(self._checks.values())).all()

    def _stop_unless(self, checks: Mapping[str, Tensor], loss: Tensor | None) -> None:
        for what, finite in checks.items():
            if not finite:
                self.stop_before_step(what, loss)


def _add_one(x: Tensor) -> Tensor:
    """Adds one: a small function to test whether ``torch.compile`` works."""
    return x + 1
