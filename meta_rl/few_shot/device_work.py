"""Work of an update on the device: checked for what is not finite, recorded or compiled."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from meta_rl.cuda_graph import CudaGraph, check_gpu, is_recording, recordable, step_where
from meta_rl.inner_loop import is_finite


class DeviceWork:
    """What a learner's update computes by :meth:`on_device`, with its checks by :meth:`guard`.

    Attributes:
        device: Of the work.
        generator: That the work draws from.
        optimizer: That it steps with; ``None`` before the first update.
        num_iterations: Updates that are done.
        module: Whose parameters are learned.
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
    """Whether :meth:`update` computes by :meth:`on_device`, so that it can be a CUDA graph."""

    can_compile: ClassVar[bool] = False
    """Whether :meth:`update` looks at :attr:`compiling`."""

    compiling = False
    """Whether the work of an update is to be compiled."""

    def faster(self, cuda_graph: bool, compile: bool) -> contextlib.AbstractContextManager[None]:
        """Within it, what is computed by :meth:`on_device` is recorded, or may be compiled.

        Raises:
            ValueError: Both at a time, or what the learner or its device does not have.
        """
        if cuda_graph and compile:
            raise ValueError("cuda_graph and compile exclude each other")
        if cuda_graph:
            return self._recording()
        return self._compiling() if compile else contextlib.nullcontext()

    def check_can_record(self) -> None:
        """Whether :meth:`learn` can have ``cuda_graph=True``.

        Raises:
            ValueError: Not on a GPU, or not this learner.
        """
        if not self.can_record:
            raise ValueError(f"a CUDA graph is not for {type(self).__name__}, whose updates vary")
        check_gpu(self.device)

    def check_can_compile(self) -> None:
        """Whether :meth:`learn` can have ``compile=True``.

        Raises:
            ValueError: Not this learner, or ``torch.compile`` does not work here.
        """
        if not self.can_compile:
            from meta_rl.algorithms import algorithms_with

            others = algorithms_with("compile", "few-shot learners").values()
            names = " and ".join(other.__name__ for other in others)
            raise ValueError(f"compile is not for {type(self).__name__}: {names} have it")
        try:
            torch.compile(_next, dynamic=False)(torch.zeros(2, device=self.device))
        except Exception as error:  # of many kinds: no compiler, no headers of Python, ...
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
        """What is computed by :meth:`on_device` is recorded, and replayed."""
        self.check_can_record()
        self._graph = CudaGraph(self._checked_later, [self.generator])
        steps = [self.optimizer] if isinstance(self.optimizer, torch.optim.Adam) else []
        try:
            with recordable(*steps):
                yield
        finally:
            self._graph = None

    @contextlib.contextmanager
    def own_noise(self, advance: bool = False) -> Iterator[None]:
        """Within it, layers such as dropout draw by :attr:`generator`.

        They draw from PyTorch's global generators, which are seeded from :attr:`generator` and put
        back afterwards.

        Args:
            advance: Have :attr:`generator` move on where something was drawn, so that the next
                draws are others. Otherwise it stays as it is.
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
        """The part of an update that a CUDA graph can replay.

        Args:
            work: Gives numbers to log. It does the same with every data: it looks at no value of a
                tensor, and changes parameters in place. In it, :meth:`guard` may be called.
            *data: Tensors, which may differ from update to update.

        Raises:
            FloatingPointError: As :meth:`guard`.
        """
        if self._graph is None:
            return work(*data)
        self._work = work
        report, checks = self._graph(*data)
        for what, finite in checks.items():
            self._stop_unless(finite, what)
        return report

    def _checked_later(self, *data: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self._checks = {}
        return self._work(*data), self._checks

    def step(self, loss: Tensor, gradients: Sequence[Tensor] | None = None) -> None:
        """A gradient step on a loss.

        Args:
            loss: A scalar.
            gradients: Of it, by all parameters of the module; by ``loss.backward()`` if not given.

        Raises:
            FloatingPointError: The loss or a gradient is not finite; nothing is changed.
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
        """Change the gradients before a step is made, such as where they are too long."""

    def guard(self, what: str, values: Any) -> None:
        """Stop where values are not finite; while a graph is recorded, :meth:`on_device` does.

        Raises:
            FloatingPointError: They are not.
        """
        self._checks[what] = is_finite(values)
        if not is_recording():
            self._stop_unless(self._checks[what], what)

    @property
    def all_finite(self) -> Tensor:
        """Whether all that was given to :meth:`guard` in this update is finite, on the device."""
        return torch.stack(list(self._checks.values())).all()

    def _stop_unless(self, finite: Tensor, what: str) -> None:
        if not finite:
            raise FloatingPointError(
                f"{type(self).__name__}: the {what} of iteration {self.num_iterations + 1} is not "
                "finite; the parameters are those before. Lower the step sizes"
            )


def _next(x: Tensor) -> Tensor:
    """What is compiled as a trial."""
    return x + 1
