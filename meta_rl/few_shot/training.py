"""The meta-training of a few-shot learner: its loop, its gradient steps and its log."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from torch import Tensor, nn

from meta_rl.arguments import check_count, check_flag, check_has, checked, plain
from meta_rl.compute import ranks
from meta_rl.compute.finite_state import FiniteState, guarded_step
from meta_rl.compute.torch_state import own_noise, set_rate

Callback = Callable[[Any], "bool | None"]
"""A function that is called after every iteration; if it returns ``False``, training stops."""

TASKS_WANTED = "a split, or a distribution with sample_tasks(num_tasks, rng)"


class MetaTraining(FiniteState):
    """The part of a learner that trains it: a loop of :meth:`draw` and :meth:`update`.

    Attributes:
        module: Module of all that is learned.
        optimizer: Optimiser; ``None`` before the first update.
        meta_lr: Step size of the outer update: a number, or its first and last value.
        meta_batch_size: Number of tasks in an iteration, M.
        num_iterations: Number of iterations so far.
        total_iterations: Number of iterations of the whole training.
        rng: NumPy's generator of the draws.
        generator: PyTorch's generator of the draws on the device.
        logger: Logger that training writes to.
    """

    module: nn.ModuleDict
    optimizer: torch.optim.Optimizer | None
    device: torch.device
    meta_lr: Any
    meta_batch_size: int
    num_iterations: int
    total_iterations: int
    rng: np.random.Generator
    generator: torch.Generator
    logger: Logger
    _log: TrainingLog
    _pending: dict[str, Any] | None

    max_grad_norm: float | None = None
    """Maximum norm of the gradient; longer gradients are scaled to it (default: none)."""

    can_record: ClassVar[bool] = False
    can_compile: ClassVar[bool] = False

    def draw(self, tasks: Any) -> Any:
        """Draws the data of an iteration with :attr:`rng`; :meth:`update` checks them."""
        return tasks.sample_tasks(self.meta_batch_size, self.rng)

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Tensor]:
        """Makes one outer update and returns numbers to log, such as ``loss`` and ``accuracy``.

        It begins with ``batch = self.check_batch(batch)``, which converts training data like those
        of :meth:`adapt` and :meth:`predict`.
        """

    def prepare(self, tasks: Any) -> None:
        """Sets up what depends on the training tasks before the first iteration."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Makes the optimiser of all parameters of :attr:`module`."""
        return torch.optim.Adam(self.module.parameters(), lr=rate_at(self.meta_lr, 0.0))

    @checked
    def learn(
        self,
        tasks: Any,
        num_iterations: int,
        *,
        callback: Callback | Sequence[Callback] | None = None,
        log_interval: int | None = 100,
        reset_num_iterations: bool = True,
        total_iterations: int | None = None,
        progress_bar: bool = False,
        verbose: int = 0,
        cuda_graph: bool = False,
        compile: bool = False,
    ) -> Self:
        """Meta-trains the learner.

        Args:
            tasks: Split, whose training tasks are used, or distribution of tasks.
            num_iterations: Number of outer updates.
            callback: One or several functions that are called with the learner after each
                iteration; if one returns ``False``, training stops.
            log_interval: Number of iterations between two lines of the log; ``None`` for no log.
            reset_num_iterations: Whether counting starts from zero; ``False`` continues the count
                and falling rates.
            total_iterations: Number of iterations of the whole training, over which rates fall
                (default: training ends with this call). If every call gets it, a training in
                several parts equals one in a single call, bit for bit.
            progress_bar: Whether a progress bar is shown.
            verbose: 1 prints the log if no logger was set, 0 prints nothing.
            cuda_graph: Whether an update is recorded as a CUDA graph and replayed, which is several
                times as fast for small networks on a GPU.
            compile: Whether updates are compiled with ``torch.compile``, which takes a minute and,
                on a CPU, a C++ compiler. Results differ by rounding.

        Raises:
            FloatingPointError: The loss, a gradient or a parameter is no longer finite; nothing of
                that is saved.
            TypeError: A callback is no function, or tasks cannot be drawn.
            ValueError: The number of iterations is negative, the total ends before this call, the
                network does not take the tasks, or updates cannot be recorded or compiled.
        """
        faster = self.faster(check_flag("cuda_graph", cuda_graph), check_flag("compile", compile))
        check_flag("reset_num_iterations", reset_num_iterations)
        check_flag("progress_bar", progress_bar)
        verbose = check_count("verbose", verbose, least=0)
        num_iterations = check_count("num_iterations", num_iterations, least=0)
        log_interval = None if log_interval is None else check_count("log_interval", log_interval)
        callbacks = _as_list(callback)
        if ranks.together():
            ranks.share("meta_batch_size", self.meta_batch_size)
            self._check_layers()
        train = getattr(tasks, "train", tasks)
        check_has("tasks", train, ["sample_tasks"], TASKS_WANTED)
        train = train.to(self.device) if hasattr(train, "to") else train
        if reset_num_iterations:
            self.num_iterations, self._pending = 0, None
        end = self.num_iterations + num_iterations
        self.total_iterations = check_count(
            "total_iterations", end if total_iterations is None else total_iterations, least=end
        )
        self.prepare(train)
        self.optimizer = self.optimizer or self.make_optimizer()
        if verbose and not self.logger.output_formats and ranks.is_first():
            self.logger = Logger(None, [HumanOutputFormat(sys.stdout)])
        log = TrainingLog(self.logger, log_interval, self.num_iterations, self._pending)
        self._log, self._pending = log, None
        with faster:
            shown = progress_bar and ranks.is_first()
            for _ in progress(num_iterations, shown, type(self).__name__, log):
                self._set_rates()
                log.add(self._update_in_training_mode(ranks.own(self.draw(train))))
                self.num_iterations += 1
                go_on = [one(self) for one in callbacks]
                log.write_if_due(self.num_iterations)
                if any(answer is False for answer in go_on):
                    break
        self._pending = log.pending(self.num_iterations)
        return self

    def _check_layers(self) -> None:
        """Refuses layers whose noise would depend on how the tasks are divided over ranks.

        Raises:
            ValueError: There is such a layer.
        """
        for name, layer in self.module.named_modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd | nn.RReLU):
                raise ValueError(
                    f"{name} ({type(layer).__name__}) draws noise for a whole batch, which several "
                    "ranks do not share: start the training without torchrun"
                )

    def _update_in_training_mode(self, batch: Any) -> dict[str, Tensor]:
        """Makes an update in training mode, which ends even if the update fails."""
        self.module.train()
        try:
            with own_noise(self.generator, advance=True):
                report = ranks.mean(self.update(batch))
        finally:
            self.module.eval()
        self.check_update(self.current_iteration, report.get("loss"))
        return report

    def faster(self, cuda_graph: bool, compile: bool) -> AbstractContextManager[None]:
        """Returns a context in which updates are recorded, or compiled; see :class:`FasterUpdates`.

        Raises:
            ValueError: One of them is asked for, and the learner is no :class:`FasterUpdates`.
        """
        for what, asked in (("a CUDA graph", cuda_graph), ("compile", compile)):
            if asked:
                raise ValueError(f"{what} is not for {type(self).__name__}, whose updates vary")
        return nullcontext()

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
        guarded_step(self.optimizer, loss, self.stop_before_step, gradients, self.max_grad_norm)

    @property
    def current_iteration(self) -> int:
        """Number of the iteration that is being trained, from 1."""
        return self.num_iterations + 1

    def learned(self) -> dict[str, Any]:
        """What is learned, by name."""
        parts: dict[str, Any] = {"module": self.module}
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer
        return parts | {k: v for k, v in self.extra_state().items() if isinstance(v, dict)}

    def extra_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps besides parameters, optimiser and generators."""
        return {}

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0 to 1."""
        return self.num_iterations / max(1, self.total_iterations)

    def _set_rates(self) -> None:
        assert self.optimizer is not None
        set_rate(self.optimizer, rate_at(self.meta_lr, self.progress))


class TrainingLog:
    """A log of the means of the updates' numbers.

    Args:
        logger: Logger that the lines are written to.
        interval: Number of iterations between two lines; ``None`` for no lines.
        done: Number of iterations before the training begins.
        pending: Result of :meth:`pending` of a former log, for the next line (default: nothing).
    """

    def __init__(
        self,
        logger: Logger,
        interval: int | None = None,
        done: int = 0,
        pending: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.logger = logger
        self.interval = interval
        self.numbers: dict[str, list[Tensor]] = {}
        if pending is not None:
            self.numbers = {name: list(values) for name, values in pending["updates"].items()}
            for name, value in pending["others"].items():
                logger.record(name, value)
        self.last: dict[str, Tensor] = {}
        self.began = time.monotonic()
        self.begin = done

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Adds the numbers of an update."""
        self.last = {name: value.detach() for name, value in numbers.items()}
        if self.interval is None:
            return
        for name, value in self.last.items():
            self.numbers.setdefault(name, []).append(value)

    def write_if_due(self, done: int) -> None:
        """Writes the means since the last line if the interval is over and nothing is written yet.

        Args:
            done: Number of iterations so far.
        """
        if self.interval is None or done % self.interval or not self.numbers:
            return
        for name, values in self.numbers.items():
            self.logger.record(f"train/{name}", float(torch.stack(values).mean()))
        seconds = max(time.monotonic() - self.began, sys.float_info.epsilon)
        self.logger.record("time/iterations", done)
        self.logger.record("time/time_elapsed", seconds)
        self.logger.record("time/iterations_per_second", (done - self.begin) / seconds)
        self.logger.dump(step=done)
        self.numbers = {}

    def pending(self, done: int) -> dict[str, dict[str, Any]]:
        """Returns what the next line has so far, for a checkpoint; a line that is due is written.

        Args:
            done: Number of iterations so far.
        """
        self.write_if_due(done)
        updates = {name: torch.stack(values) for name, values in self.numbers.items()}
        others = plain(dict(self.logger.name_to_value))
        return {
            "updates": updates,
            "others": {k: v for k, v in others.items() if isinstance(v, int | float | str)},
        }


def progress(num: int, show: bool, title: str, log: TrainingLog) -> Iterator[int]:
    """Yields the numbers of iterations, with a progress bar on request.

    Args:
        num: Number of iterations.
        show: Whether the bar is shown.
        title: Text before the bar.
        log: Log whose latest numbers are shown after the bar.
    """
    if not show:
        yield from range(num)
        return
    from tqdm.auto import tqdm

    with tqdm(total=num, desc=title, unit="it", mininterval=0.5) as bar:
        for iteration in range(num):
            yield iteration
            if bar.update(1) and log.last:
                bar.set_postfix({k: f"{float(v):.3f}" for k, v in log.last.items()}, refresh=False)


def rate_at(rate: Any, progress: float) -> float:
    """Returns the value of a rate after a fraction ``progress`` of the training."""
    if isinstance(rate, int | float):
        return float(rate)
    return float(rate[0] + (rate[-1] - rate[0]) * progress)


def _as_list(callback: Any) -> list[Any]:
    several = isinstance(callback, Iterable) and not callable(callback)
    callbacks = list(callback) if several else [] if callback is None else [callback]
    for one in callbacks:
        if not callable(one):
            raise TypeError(f"a callback is a function of the learner, got {type(one).__name__}")
    return callbacks
