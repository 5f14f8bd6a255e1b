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
from meta_rl.cuda_graph import options, restore_options, set_rate
from meta_rl.few_shot.arrays import as_tensor
from meta_rl.few_shot.checked_inputs import CheckedInputs
from meta_rl.few_shot.command_line import OnCommandLine
from meta_rl.few_shot.device_work import DeviceWork
from meta_rl.few_shot.networks import RECIPES, check_sizes_known
from meta_rl.few_shot.training_log import TrainingLog, progress
from meta_rl.finite_state import FiniteState
from meta_rl.provenance import whole_file
from meta_rl.torch_generator import set_generator_state

Callback = Callable[["FewShotLearner"], "bool | None"]
"""Called after every iteration; ``False`` stops the training."""

Rate = Annotated[float | Sequence[float], "a number or [first, last]"]
"""A number, or two: from the first to the second, falling linearly over the training."""

TASKS_WANTED = "a split, or a distribution with sample_tasks(num_tasks, rng)"

FORMAT = 1


class FewShotLearner(CheckedInputs, DeviceWork, OnCommandLine, FiniteState, ABC):
    """Meta-training by a loop of :meth:`draw` and :meth:`update`; adaptation as a function.

    What an iteration does depends on the parameters, the optimiser and the two generators, all of
    which :meth:`save` keeps: a run that was killed and resumed ends as an undisturbed one.
    Randomness comes from :attr:`rng` and :attr:`generator`; global generators are never used.

    Inputs and states have a leading task axis, on every leaf. Data of one task without it are taken
    too; the state then has a task axis of one.

    Args:
        network: One of :mod:`meta_rl.few_shot.networks`, or a module of your own from inputs
            ``[N, ...]`` to ``[N, outputs]``.
        meta_lr: Of Adam, for the outer update; or first and last value.
        meta_batch_size: Tasks of an iteration, M.
        seed: Of both generators; from the system's entropy by default.
        device: Of the parameters and of the tasks: ``"auto"``, ``"cpu"``, ``"cuda"``.

    Attributes:
        num_iterations: Done so far.
        module: All that is learned; the network is ``module["network"]``.

    Raises:
        ValueError: Counts below one, or rates that are not positive.
    """

    unit: ClassVar[str] = "step"
    """What lies between two points of adaptation: ``"step"`` or ``"shot"``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments: checkpoints keep them."""
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
        """What the constructor takes: ``__new__`` would hide it from ``inspect.signature``."""
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
        self.device = _found_device(device)
        self.module = nn.ModuleDict({"network": network}).to(self.device)
        self.meta_lr = check_rate("meta_lr", meta_lr)
        self.meta_batch_size = check_count("meta_batch_size", meta_batch_size)
        self.ways: int | None = getattr(network, "ways", None)
        self.num_iterations = 0
        self.total_iterations = 0
        self._example_dims = _dims(getattr(network, "input_shape", None))
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
        """What was given to the constructor."""
        return self.module["network"]

    # ------------------------------------------------------------------ adapting and predicting

    @abstractmethod
    def adapt(self, support: Any, state: Any = None) -> Any:
        """Learn tasks from their support data.

        Args:
            support: Inputs and labels, ``(x [M, S, ...], y [M, S])``; or those of one task, without
                the task axis.
            state: Of an earlier adaptation, to go on from; ``None`` for a new task.

        Returns:
            The state, to be given to :meth:`predict`.

        Raises:
            TypeError: No pair of inputs and labels, or no numbers in them.
            ValueError: An empty support set, NaN, infinity or complex numbers, labels out of range
                or of another kind, or inputs of another shape than the network takes.
        """

    @abstractmethod
    def outputs(self, inputs: Tensor, state: Any) -> Tensor:
        """Logits of the classes ``[M, Q, W]``, or values ``[M, Q, D]``, with a task axis."""

    @property
    def regression(self) -> bool:
        """Whether targets are values rather than labels."""
        return False

    @torch.no_grad()
    def predict(self, inputs: Any, state: Any = None) -> Tensor:
        """Labels, or values, of queries.

        Args:
            inputs: ``[M, Q, ...]``, or ``[Q, ...]`` of one task.
            state: From :meth:`adapt`; ``None`` predicts without having learned the task.

        Returns:
            Labels ``[M, Q]`` or values ``[M, Q, D]``; without the task axis where the inputs had
            none.

        Raises:
            ValueError: Inputs of another shape, or of another number of tasks than the state.
        """
        outputs = self.scores(inputs, state)
        return outputs if self.regression else outputs.argmax(dim=-1)

    @torch.no_grad()
    def scores(self, inputs: Any, state: Any = None) -> Tensor:
        """As :meth:`predict`, but the logits of all classes: their softmax is the confidence."""
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
        """Refuses what is neither ``None`` nor a state of this kind of learner.

        Raises:
            TypeError: It is something else.
        """
        if state is not None:
            wanted = f"None, or what adapt of {type(self).__name__} gives"
            check_kind("state", state, self.state_kind, wanted)

    def adaptation_points(self, support: Any) -> Iterator[tuple[int, Any]]:
        """States to be scored in an evaluation, each with the number of steps or shots so far.

        The default adapts once; point 0, before adaptation, is not among them.
        """
        yield 1, self.adapt(support)

    # ------------------------------------------------------------------------------ meta-training

    def draw(self, tasks: Any) -> Any:
        """The data of an iteration, drawn with :attr:`rng`; :meth:`update` checks them."""
        return tasks.sample_tasks(self.meta_batch_size, self.rng)

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Tensor]:
        """One outer update; gives numbers to log, such as ``loss`` and ``accuracy``.

        It begins with ``batch = self.check_batch(batch)``, so that training data are converted as
        those of :meth:`adapt` and :meth:`predict` are.
        """

    def prepare(self, tasks: Any) -> None:
        """What has to be known of the training tasks before the first iteration."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of all that is learned."""
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
        """Meta-train.

        Args:
            tasks: A split, whose training tasks are used, or a distribution of tasks.
            num_iterations: Outer updates.
            callback: Called with the learner after each iteration; ``False`` stops.
            log_interval: Iterations between two lines of the log; ``None`` for none.
            reset_num_iterations: ``False`` goes on counting, and on with falling rates.
            total_iterations: Over which falling rates fall, where this call is a part of the
                training; by default it ends with this call. Give it to every call, and the parts
                are as one, bit for bit.
            progress_bar: Show one.
            verbose: 1 prints the log, where no logger was set.
            cuda_graph: Record an update as a CUDA graph and replay it, which is several times as
                fast for small networks on a GPU.
            compile: Compile an update with ``torch.compile``, which takes a minute and, on a CPU, a
                C++ compiler. Results differ by rounding.

        Raises:
            FloatingPointError: The loss or a gradient is no longer finite, and the parameters are
                those before; or parameters are no longer finite, and cannot be saved.
            TypeError: A callback that is no function, or tasks that cannot be drawn from.
            ValueError: A negative number of iterations, a total below what is done then, tasks
                that the network does not take, a graph where there is no GPU, or a learner that
                cannot be compiled.
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
                log.add(self._updated(self.draw(train)))
                self.num_iterations += 1
                go_on = [one(self) for one in callbacks]
                log.write_if_due(self.num_iterations)
                if any(answer is False for answer in go_on):
                    break
        return self

    def _updated(self, batch: Any) -> dict[str, Tensor]:
        """An update in training mode; it is left again when the update fails, too."""
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
        """How much of the training is done, 0 to 1."""
        return self.num_iterations / max(1, self.total_iterations)

    def _set_rates(self) -> None:
        assert self.optimizer is not None
        set_rate(self.optimizer, rate_at(self.meta_lr, self.progress))

    def set_logger(self, logger: Logger) -> None:
        """Log to this Stable-Baselines3 logger."""
        self.logger = logger

    # --------------------------------------------------------------------------------- checkpoints

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint has to keep besides parameters, optimiser and generators."""
        return {}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Take back what :meth:`extra_state` gave."""

    def save(self, path: str | Path) -> Path:
        """Write everything that training needs to go on, atomically; gives the path.

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
        """Load what :meth:`save` wrote; nothing in the file is executed.

        Args:
            path: Of the file; ``.zip`` may be left out.
            network: Of the same shape, where it is one of your own; ours are made anew.
            device: Of the parameters.

        Raises:
            FileNotFoundError: No such file.
            ValueError: A corrupt checkpoint, or of another learner or network.
        """
        path = _with_suffix(Path(path))
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint {path}")
        target = _found_device(device)
        try:
            content = torch.load(path, map_location=target, weights_only=True)
            made_by = content["learner"]
        except Exception as error:  # damaged files raise all kinds
            raise ValueError(f"{path} is a corrupt checkpoint, or none of ours: {error}") from error
        if made_by != cls.__name__:
            raise ValueError(f"{path} is a checkpoint of {made_by}, not of {cls.__name__}")
        learner = cls._made_from(content, network, target, path)
        try:
            learner._restore(content)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not fit this network: {error}") from error
        return learner

    @classmethod
    def _made_from(
        cls, content: dict[str, Any], network: nn.Module | None, device: torch.device, path: Path
    ) -> Self:
        settings = content["settings"]
        if "network" not in inspect.signature(cls.__init__).parameters:
            return cls(device=device, **settings)
        if network is None:
            if content["network"] is None:
                raise ValueError(f"{path} has a network of your own: load(path, network=...)")
            name, kwargs = content["network"]
            network = RECIPES[name](**kwargs).to(_saved_type(content["module"]))
        return cls(network, device=device, **settings)

    def _restore(self, content: dict[str, Any]) -> None:
        self.load_extra_state(content["extra"])
        self.module.load_state_dict(content["module"])
        self.module.eval()
        if content["optimizer"] is not None:
            self.optimizer = self.make_optimizer()
            kept = options(self.optimizer)
            self.optimizer.load_state_dict(content["optimizer"])
            restore_options(self.optimizer, kept)  # another device may have other ones
        self.rng.bit_generator.state = content["rng"]
        set_generator_state(self.generator, content["generator"])
        self.num_iterations = content["num_iterations"]
        self.total_iterations = content["total_iterations"]
        self._example_dims = content.get("example_dims", self._example_dims)


def task_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits ``[..., W]`` for labels, mean squared error of values for targets."""
    if y.is_floating_point():
        if outputs.shape != y.shape:
            raise ValueError(
                f"targets of shape {tuple(y.shape)}, but the network gives {tuple(outputs.shape)}"
            )
        return functional.mse_loss(outputs, y)
    return functional.cross_entropy(outputs.flatten(0, -2), y.flatten())


def count_classes(labels: Tensor) -> int:
    """The largest label and one."""
    return int(labels.max()) + 1


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """Fraction of right labels."""
    return (outputs.argmax(-1) == y).to(torch.float32).mean()


def rate_at(rate: Any, progress: float) -> float:
    """The value of a rate when so much of the training is done, 0 to 1."""
    if isinstance(rate, int | float):
        return float(rate)
    return float(rate[0] + (rate[-1] - rate[0]) * progress)


def _saved_type(parameters: dict[str, Tensor]) -> torch.dtype:
    """Of the floats among saved parameters: ``.double()`` networks are loaded as such."""
    return next((p.dtype for p in parameters.values() if p.is_floating_point()), torch.float32)


def _found_device(device: torch.device | str) -> torch.device:
    """As Stable-Baselines3: ``"cuda"`` where there is none is the CPU."""
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


def _dims(shape: tuple[Any, ...] | None) -> int | None:
    return None if shape is None else len(shape)


def _with_suffix(path: Path) -> Path:
    return path if path.suffix else path.with_suffix(".zip")
