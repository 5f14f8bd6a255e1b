"""The base of the supervised few-shot learners: ``adapt`` to support data, ``predict`` queries."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import (
    PassedOnArguments,
    check_count,
    check_kind,
    check_rate,
    check_seed,
    plain,
)
from meta_rl.compute import ranks
from meta_rl.compute.torch_state import (
    find_device,
    options,
    own_noise,
    restore_options,
    set_generator_state,
)
from meta_rl.few_shot.data.arrays import as_tensor
from meta_rl.few_shot.data.checked_inputs import CheckedInputs
from meta_rl.few_shot.networks.feed_forward import RECIPES, check_sizes_known
from meta_rl.few_shot.training import MetaTraining, TrainingLog
from meta_rl.files.sealed import WRONG_CONTENT, Saved, read_file, with_suffix, write_file

Rate = Annotated[float | Sequence[float], "a number or [first, last]"]
"""A number, or a pair: the rate then goes linearly from the first to the last over the training."""


class FewShotLearner(PassedOnArguments, MetaTraining, CheckedInputs, ABC):
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
        self = super().__new__(cls, *args, **kwargs)
        given = inspect.signature(cls).bind_partial(*args, **kwargs).arguments
        no_settings = ("network", "device")
        self.settings = {k: plain(value) for k, value in given.items() if k not in no_settings}
        return self

    settings: dict[str, Any]

    def __init__(
        self,
        network: nn.Module,
        *,
        meta_lr: Rate = 1e-3,
        meta_batch_size: int = 32,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        ranks.check_divisible(self)
        check_kind("network", network, nn.Module, "a torch.nn.Module")
        check_sizes_known(network)
        self.device = find_device(device)
        self.module = nn.ModuleDict({"network": network}).to(self.device)
        self.meta_lr = check_rate("meta_lr", meta_lr)
        self.meta_batch_size = check_count("meta_batch_size", meta_batch_size)
        self.ways: int | None = getattr(network, "ways", None)
        self.num_iterations = 0
        self.total_iterations = 0
        shape = getattr(network, "input_shape", None)
        self._example_dims = None if shape is None else len(shape)
        sequence = np.random.SeedSequence(ranks.same_seed(check_seed(seed)))
        self.rng = np.random.default_rng(sequence)
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        self.logger = Logger(None, [])
        self._log = TrainingLog(self.logger)
        self._pending: dict[str, Any] | None = None  # of the former log
        self.optimizer: torch.optim.Optimizer | None = None
        self.module.eval()  # training mode only within an update

    def __repr__(self) -> str:
        network = (getattr(self.network, "recipe", None) or [type(self.network).__name__])[0]
        done = self.num_iterations
        return f"{type(self).__name__}({network}, {done} iteration{'' if done == 1 else 's'})"

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
        with own_noise(self.generator):
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

    def set_logger(self, logger: Logger) -> None:
        """Sets the Stable-Baselines3 logger that training writes to."""
        self.logger = logger

    # --------------------------------------------------------------------------------- checkpoints

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restores what :meth:`extra_state` returned."""

    def save(self, path: str | Path) -> Path:
        """Writes everything that training needs to go on, atomically, and returns the path.

        Raises:
            FloatingPointError: Something that is learned is not finite; no file is touched.
            ValueError: An argument cannot be saved; the error names it, and no file is touched.
        """
        self.check_saved(self.num_iterations)
        content = {
            "settings": self.settings,
            "network": getattr(self.network, "recipe", None),
            "module": self.module.state_dict(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "num_iterations": self.num_iterations,
            "log": self._pending or self._log.pending(self.num_iterations),
            "total_iterations": self.total_iterations,
            "example_dims": self._example_dims,
            "extra": self.extra_state(),
        }
        write_file(path, Saved(type(self).__name__, content))
        return with_suffix(path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        network: nn.Module | None = None,
        device: torch.device | str = "auto",
        trust_pickle: bool = False,
    ) -> Self:
        """Loads what :meth:`save` wrote; nothing in the file is run.

        Args:
            path: Path of the file; ``.zip`` may be left out.
            network: Network of the same shape, if it is your own; the library's networks are made
                from the file.
            device: Device of the parameters.
            trust_pickle: Whether a file of the former format is loaded, which has no checksum.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, has the former format, or is of another learner or
                network.
        """
        if network is not None:
            check_kind("network", network, nn.Module, "a torch.nn.Module")
        target = find_device(device)
        content = read_file(path, cls.__name__, device=target, trust_pickle=trust_pickle).content
        try:
            learner = cls._make_from_checkpoint(content, network, target)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except WRONG_CONTENT as error:
            raise ValueError(f"{path} is a corrupt checkpoint: {error}") from error
        try:
            learner._restore(content)
        except (ValueError, *WRONG_CONTENT) as error:
            raise ValueError(f"{path} does not fit this network: {error}") from error
        return learner

    @classmethod
    def _make_from_checkpoint(
        cls,
        content: dict[str, Any],
        network: nn.Module | None,
        device: torch.device,
    ) -> Self:
        settings = content["settings"]
        if "network" not in inspect.signature(cls.__init__).parameters:
            return cls(device=device, **settings)
        if network is None:
            if content["network"] is None:
                raise ValueError("it has a network of your own: load(path, network=...)")
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
        self._pending = content.get("log")
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


def _saved_dtype(parameters: dict[str, Tensor]) -> torch.dtype:
    """Returns the type of saved floats, so that ``.double()`` networks are loaded as such."""
    return next((p.dtype for p in parameters.values() if p.is_floating_point()), torch.float32)
