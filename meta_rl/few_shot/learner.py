"""The base of the supervised few-shot learners: ``adapt`` to support data, ``predict`` queries."""

from __future__ import annotations

import inspect
import io
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import (
    check_count,
    check_flag,
    check_has,
    check_kind,
    check_names,
    check_rate,
    check_seed,
    keyword_names,
    plain,
)
from meta_rl.compute.cuda_graph import options, restore_options, set_rate
from meta_rl.compute.device_work import DeviceWork
from meta_rl.compute.finite_state import FiniteState
from meta_rl.compute.torch_state import set_generator_state
from meta_rl.few_shot.data.arrays import as_tensor
from meta_rl.few_shot.data.checked_inputs import CheckedInputs
from meta_rl.few_shot.networks.feed_forward import RECIPES, check_sizes_known
from meta_rl.few_shot.training_log import TrainingLog, progress
from meta_rl.provenance import whole_file

Callback = Callable[["FewShotLearner"], "bool | None"]
"""A function that is called after every iteration; if it returns ``False``, training stops."""

Rate = Annotated[float | Sequence[float], "a number or [first, last]"]
"""A number, or a pair: the rate then goes linearly from the first to the last over the training."""

TASKS_WANTED = "a split, or a distribution with sample_tasks(num_tasks, rng)"

FORMAT = 1


class FewShotLearner(CheckedInputs, DeviceWork, FiniteState, ABC):
    """The base class of few-shot learners.

    Meta-training is a loop of :meth:`draw` and :meth:`update`; adaptation does not change the
    learner. An iteration depends on the parameters, the optimiser and the two generators, all of
    which :meth:`save` keeps: a run that is killed and resumed ends like an undisturbed one. Draws
    come from :attr:`rng` and :attr:`generator`, never from global generators.

    Inputs and states have a leading task axis, on every leaf. Data of one task without it are
    accepted too; the state then has a task axis of one.

    Args:
        network: One of :mod:`.feed_forward`, or a module of your own from inputs
            ``[N, ...]`` to ``[N, outputs]``.
        meta_lr: Step size of Adam in the outer update: a number, or its first and last value.
        meta_batch_size: Number of tasks in an iteration, M.
        seed: Seed of both generators (default: from the system's entropy).
        device: Device of the parameters and of the tasks: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Attributes:
        num_iterations: Number of iterations so far.
        module: Module of all that is learned; the network is ``module["network"]``.

    Raises:
        ValueError: A count is below one, or a rate is not positive.
    """

    unit: ClassVar[str] = "step"
    """Unit of the adaptation points: ``"step"`` or ``"shot"``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Records the arguments, which checkpoints keep."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        if all(one.kind is not one.VAR_KEYWORD for one in signature.parameters.values()):
            check_names(kwargs, keyword_names(signature.parameters), cls.__name__)
        given = signature.bind_partial(self, *args, **kwargs).arguments
        no_settings = ("self", "network", "device")
        self.settings = {k: plain(value) for k, value in given.items() if k not in no_settings}
        return self

    settings: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Sets the constructor's signature, which ``__new__`` hides from ``inspect.signature``."""
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.__init__)
        cls.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])

    __signature__: ClassVar[inspect.Signature]

    def __init__(
        self,
        network: nn.Module,
        *,
        meta_lr: Rate = 1e-3,
        meta_batch_size: int = 32,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        check_kind("network", network, nn.Module, "a torch.nn.Module")
        check_sizes_known(network)
        self.device = _find_device(device)
        self.module = nn.ModuleDict({"network": network}).to(self.device)
        self.meta_lr = check_rate("meta_lr", meta_lr)
        self.meta_batch_size = check_count("meta_batch_size", meta_batch_size)
        self.ways: int | None = getattr(network, "ways", None)
        self.num_iterations = 0
        self.total_iterations = 0
        self._example_dims = _count_dims(getattr(network, "input_shape", None))
        sequence = np.random.SeedSequence(check_seed(seed))
        self.rng = np.random.default_rng(sequence)
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        self.logger = Logger(None, [])
        self.optimizer: torch.optim.Optimizer | None = None
        self._checks: dict[str, Tensor] = {}
        self.module.eval()  # training mode only within an update

    @property
    def network(self) -> nn.Module:
        """The network that was given to the constructor."""
        return self.module["network"]

    # ------------------------------------------------------------------ adapting and predicting

    @abstractmethod
    def adapt(self, support: Any, state: Any = None) -> Any:
        """Learns tasks from their support data.

        Args:
            support: Inputs and labels, ``(x [M, S, ...], y [M, S])``, or those of one task without
                the task axis.
            state: State of an earlier adaptation to go on from; ``None`` for a new task.

        Returns:
            The state, which :meth:`predict` takes.

        Raises:
            TypeError: The support data are no pair of inputs and labels, or hold no numbers.
            ValueError: The support set is empty, values are NaN, infinite or complex, labels are
                out of range or of another kind, or inputs have another shape than the network
                takes.
        """

    @abstractmethod
    def outputs(self, inputs: Tensor, state: Any) -> Tensor:
        """Returns logits of the classes ``[M, Q, W]``, or values ``[M, Q, D]``."""

    @property
    def regression(self) -> bool:
        """Whether targets are values rather than labels."""
        return False

    @torch.no_grad()
    def predict(self, inputs: Any, state: Any = None) -> Tensor:
        """Predicts labels, or values, of queries.

        Args:
            inputs: Queries ``[M, Q, ...]``, or ``[Q, ...]`` of one task.
            state: State from :meth:`adapt`; ``None`` predicts before adaptation.

        Returns:
            Labels ``[M, Q]`` or values ``[M, Q, D]``; without the task axis if the inputs have
            none.

        Raises:
            ValueError: The inputs have another shape, or another number of tasks than the state.
        """
        outputs = self.scores(inputs, state)
        return outputs if self.regression else outputs.argmax(dim=-1)

    @torch.no_grad()
    def scores(self, inputs: Any, state: Any = None) -> Tensor:
        """Returns the logits of all classes, whose softmax is the confidence, or the values.

        Arguments and errors are those of :meth:`predict`.
        """
        inputs = as_tensor(inputs, "inputs", self.device)
        single = self._example_dims is not None and inputs.dim() == self._example_dims + 1
        inputs = self.check_inputs(inputs[None] if single else inputs)
        self.check_state(state)
        with self.own_noise():
            outputs = self.outputs(inputs, state)
        return outputs[0] if single else outputs

    state_kind: ClassVar[type | tuple[type, ...]] = object
    """Class of the states of :meth:`adapt`."""

    def check_state(self, state: Any) -> None:
        """Raises an error unless ``state`` is ``None`` or a state of this kind of learner.

        Raises:
            TypeError: The state is something else.
        """
        if state is not None:
            wanted = f"None, or what adapt of {type(self).__name__} gives"
            check_kind("state", state, self.state_kind, wanted)

    def adaptation_points(self, support: Any) -> Iterator[tuple[int, Any]]:
        """Yields the states that an evaluation scores, each after its number of steps or shots.

        The default adapts once. Point 0, before adaptation, is not among them.
        """
        yield 1, self.adapt(support)

    # ------------------------------------------------------------------------------ meta-training

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
        train = getattr(tasks, "train", tasks)
        check_has("tasks", train, ["sample_tasks"], TASKS_WANTED)
        train = train.to(self.device) if hasattr(train, "to") else train
        if reset_num_iterations:
            self.num_iterations = 0
        end = self.num_iterations + num_iterations
        self.total_iterations = check_count(
            "total_iterations", end if total_iterations is None else total_iterations, least=end
        )
        self.prepare(train)
        self.optimizer = self.optimizer or self.make_optimizer()
        if verbose and not self.logger.output_formats:
            self.logger = Logger(None, [HumanOutputFormat(sys.stdout)])
        log = TrainingLog(self.logger, log_interval, self.num_iterations)
        with faster:
            for _ in progress(num_iterations, progress_bar, type(self).__name__, log):
                self._set_rates()
                log.add(self._update_in_training_mode(self.draw(train)))
                self.num_iterations += 1
                go_on = [one(self) for one in callbacks]
                log.write_if_due(self.num_iterations)
                if any(answer is False for answer in go_on):
                    break
        return self

    def _update_in_training_mode(self, batch: Any) -> dict[str, Tensor]:
        """Makes an update in training mode, which ends even if the update fails."""
        self.module.train()
        try:
            with self.own_noise(advance=True):
                report = self.update(batch)
        finally:
            self.module.eval()
        self.check_update(self.num_iterations + 1, report.get("loss"))
        return report

    def learned(self) -> dict[str, Any]:
        """What is learned, by name."""
        parts: dict[str, Any] = {"module": self.module}
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer
        return parts | {k: v for k, v in self.extra_state().items() if isinstance(v, dict)}

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0 to 1."""
        return self.num_iterations / max(1, self.total_iterations)

    def _set_rates(self) -> None:
        assert self.optimizer is not None
        set_rate(self.optimizer, rate_at(self.meta_lr, self.progress))

    def set_logger(self, logger: Logger) -> None:
        """Sets the Stable-Baselines3 logger that training writes to."""
        self.logger = logger

    # --------------------------------------------------------------------------------- checkpoints

    def extra_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps besides parameters, optimiser and generators."""
        return {}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restores what :meth:`extra_state` returned."""

    def save(self, path: str | Path) -> Path:
        """Writes everything that training needs to go on, atomically, and returns the path.

        Raises:
            FloatingPointError: Something that is learned is not finite; no file is touched.
        """
        self.check_saved(self.num_iterations)
        path = _with_suffix(Path(path))
        recipe = getattr(self.network, "recipe", None)
        content = {
            "format": FORMAT,
            "learner": type(self).__name__,
            "settings": self.settings,
            "network": recipe,
            "module": self.module.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "num_iterations": self.num_iterations,
            "total_iterations": self.total_iterations,
            "example_dims": self._example_dims,
            "extra": self.extra_state(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with whole_file(path) as file:
            file.write(buffer.getbuffer())
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        network: nn.Module | None = None,
        device: torch.device | str = "auto",
    ) -> Self:
        """Loads what :meth:`save` wrote; nothing in the file is executed.

        Args:
            path: Path of the file; ``.zip`` may be left out.
            network: Network of the same shape, if it is your own; the library's networks are made
                from the file.
            device: Device of the parameters.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The checkpoint is corrupt, or is of another learner or network.
        """
        path = _with_suffix(Path(path))
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint {path}")
        target = _find_device(device)
        try:
            content = torch.load(path, map_location=target, weights_only=True)
            made_by = content["learner"]
        except Exception as error:  # damaged files raise all kinds
            raise ValueError(
                f"{path} is a corrupt checkpoint, or no checkpoint of a few-shot learner: {error}"
            ) from error
        if made_by != cls.__name__:
            raise ValueError(f"{path} is a checkpoint of {made_by}, not of {cls.__name__}")
        learner = cls._make_from_checkpoint(content, network, target, path)
        try:
            learner._restore(content)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not fit this network: {error}") from error
        return learner

    @classmethod
    def _make_from_checkpoint(
        cls, content: dict[str, Any], network: nn.Module | None, device: torch.device, path: Path
    ) -> Self:
        settings = content["settings"]
        if "network" not in inspect.signature(cls.__init__).parameters:
            return cls(device=device, **settings)
        if network is None:
            if content["network"] is None:
                raise ValueError(f"{path} has a network of your own: load(path, network=...)")
            name, kwargs = content["network"]
            network = RECIPES[name](**kwargs).to(_saved_dtype(content["module"]))
        return cls(network, device=device, **settings)

    def _restore(self, content: dict[str, Any]) -> None:
        self.load_extra_state(content["extra"])
        self.module.load_state_dict(content["module"])
        self.module.eval()
        if content["optimizer"] is not None:
            self.optimizer = self.make_optimizer()
            kept = options(self.optimizer)
            self.optimizer.load_state_dict(content["optimizer"])
            restore_options(self.optimizer, kept)  # options may depend on the device
        self.rng.bit_generator.state = content["rng"]
        set_generator_state(self.generator, content["generator"])
        self.num_iterations = content["num_iterations"]
        self.total_iterations = content["total_iterations"]
        self._example_dims = content.get("example_dims", self._example_dims)


def task_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Returns the cross-entropy of logits ``[..., W]``, or the mean squared error of values."""
    if y.is_floating_point():
        if outputs.shape != y.shape:
            raise ValueError(
                f"targets of shape {tuple(y.shape)}, but the network gives {tuple(outputs.shape)}"
            )
        return functional.mse_loss(outputs, y)
    return functional.cross_entropy(outputs.flatten(0, -2), y.flatten())


def count_classes(labels: Tensor) -> int:
    """Returns the number of classes: the largest label plus one."""
    return int(labels.max()) + 1


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """Returns the fraction of correct labels."""
    return (outputs.argmax(-1) == y).to(torch.float32).mean()


def rate_at(rate: Any, progress: float) -> float:
    """Returns the value of a rate after a fraction ``progress`` of the training."""
    if isinstance(rate, int | float):
        return float(rate)
    return float(rate[0] + (rate[-1] - rate[0]) * progress)


def _saved_dtype(parameters: dict[str, Tensor]) -> torch.dtype:
    """Returns the type of saved floats, so that ``.double()`` networks are loaded as such."""
    return next((p.dtype for p in parameters.values() if p.is_floating_point()), torch.float32)


def _find_device(device: torch.device | str) -> torch.device:
    """Returns a device as Stable-Baselines3 does: the CPU for ``"cuda"`` if there is no GPU."""
    try:
        return get_device(device)
    except RuntimeError as error:
        raise ValueError(f"device is 'auto', 'cpu' or 'cuda', got {device!r}") from error


def _as_list(callback: Any) -> list[Any]:
    several = isinstance(callback, Iterable) and not callable(callback)
    callbacks = list(callback) if several else [] if callback is None else [callback]
    for one in callbacks:
        if not callable(one):
            raise TypeError(f"a callback is a function of the learner, got {type(one).__name__}")
    return callbacks


def _count_dims(shape: tuple[Any, ...] | None) -> int | None:
    return None if shape is None else len(shape)


def _with_suffix(path: Path) -> Path:
    return path if path.suffix else path.with_suffix(".zip")
