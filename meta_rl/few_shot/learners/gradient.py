"""The base of learners that adapt by gradient steps; fast weights are batched over tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from meta_rl.arguments import check_count, check_number
from meta_rl.compute.torch_state import own_noise
from meta_rl.few_shot.learner import FewShotLearner, count_classes, task_loss
from meta_rl.few_shot.networks.feed_forward import has_convolutions
from meta_rl.inner_loop import Params, StepSize, adapt_tasks, count_support, detached


class GradientLearner(FewShotLearner):
    """A learner that adapts by gradient steps on the support set.

    Its state is the adapted parameters.

    Args:
        network: A classifier with ``ways``, or a network for regression (``ways=None``).
        lr: Step size of the adaptation.
        eval_steps: Number of gradient steps in :meth:`adapt`.
        chunk_size: Number of tasks computed at a time (default: one for convolutions on a CPU,
            where a batch over tasks is no faster and often slower; all tasks otherwise).
        **settings: Further arguments of :class:`.FewShotLearner`.
    """

    classifies = True
    divides_over_ranks = True
    state_kind: ClassVar[type | tuple[type, ...]] = dict

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        *,
        eval_steps: int,
        chunk_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(network, **settings)
        check_adaptable(network)
        self.lr = check_number("lr", lr, above=0.0)
        self.eval_steps = check_count("eval_steps", eval_steps)
        if chunk_size is None and self.device.type == "cpu" and has_convolutions(network):
            chunk_size = 1
        self.chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)

    @property
    def regression(self) -> bool:
        """Whether targets are values: the network has ``ways=None``."""
        return getattr(self.network, "ways", 0) is None

    @property
    def params(self) -> Params:
        """The parameters that adaptation starts from, by name."""
        return dict(self.network.named_parameters())

    def check_support(self, support: Any) -> tuple[Tensor, Tensor]:
        """Returns support data with a task axis; see :meth:`CheckedInputs.check_support`.

        A network without ``ways`` is called once to find its number of classes.

        Raises:
            ValueError: The data do not fit; see :meth:`adapt`.
        """
        x, y = super().check_support(support)
        if not hasattr(self.network, "ways") and self.ways is None:
            self.ways = self._count_outputs(x[0])
            self._check_labels(y)
        return x, y

    @torch.no_grad()
    def _count_outputs(self, x: Tensor) -> int:
        """Returns the number of outputs that the network gives for the inputs of a task."""
        training = {module: module.training for module in self.network.modules()}
        self.network.eval()
        try:
            outputs = self.network(x)
        finally:
            for module, mode in training.items():
                module.training = mode
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(x):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"the network gives {shape} for {len(x)} inputs; [{len(x)}, classes] is wanted"
            )
        return int(outputs.shape[-1])

    def step_sizes(self) -> StepSize:
        """Returns the step size of the adaptation, or one for each parameter by its name."""
        return self.lr

    head_only = False
    """Whether a task adapts the module ``head`` only, so that features are computed once."""

    def features(self, params: Params, x: Tensor) -> Tensor:
        """Returns the inputs of the head (features) for one task's inputs."""
        body = self.network.body
        assert isinstance(body, nn.Module)
        return functional_call(body, within("body", params), (x,))

    def forward(self, params: Params, x: Tensor) -> Tensor:
        """Returns the outputs for one task's inputs, or for features if only the head adapts."""
        if not self.head_only:
            return functional_call(self.network, params, (x,))
        head = self.network.head
        assert isinstance(head, nn.Module)
        return functional_call(head, within("head", params), (x,))

    def loss(self, params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the loss on one task's data ``(x, y)``."""
        return task_loss(functional_call(self.network, params, (data[0],)), data[1])

    def inner_loss(self, params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the loss that adaptation minimises; ``data[0]`` is as for :meth:`forward`."""
        return task_loss(self.forward(params, data[0]), data[1])

    zero_head = False
    """Whether a task starts with a head of zeros."""

    def start(self, ways: int | None = None, params: Params | None = None) -> Params:
        """Returns the parameters that a task starts from.

        Args:
            ways: Number of classes of a head of zeros (default: as in ``params``).
            params: Parameters (default: the meta-learned ones).
        """
        params = self.params if params is None else params
        if self.zero_head:
            for name in head_names(self.network):
                value = params[name]
                params[name] = value.new_zeros((ways or len(value), *value.shape[1:]))
        return params

    def initial_state(self, num_tasks: int, ways: int | None = None) -> Params:
        """Returns each task's parameters before any step; ``ways`` is as for :meth:`start`."""
        return {
            name: value.detach().expand(num_tasks, *value.shape)
            for name, value in self.start(ways).items()
        }

    @torch.no_grad()
    def gradient_steps(self, support: Any, state: Params, num_steps: int) -> Params:
        """Takes gradient steps from given parameters, without a graph for second derivatives."""
        x, y = support
        adapting = state
        if self.head_only:
            x = self.over_tasks(self.features)(state, x)
            adapting = {name: state[name] for name in head_names(self.network)}
        adapted = adapt_tasks(
            self.inner_loss,
            adapting,
            (x, y),
            stacked=True,
            chunk_size=self.chunk_size,
            lr=self.step_sizes(),
            num_steps=num_steps,
            first_order=True,
        )
        return state | detached(adapted)

    def adapt(self, support: Any, state: Any = None, num_steps: int | None = None) -> Any:
        """Takes gradient steps on the support data.

        Args:
            support: Support data ``(x [M, S, ...], y [M, S])``, or those of one task without the
                task axis.
            state: Parameters to go on from (default: the meta-learned ones).
            num_steps: Number of gradient steps (default: ``eval_steps``).

        Returns:
            Adapted parameters by name, each with a leading task axis.

        Raises:
            ValueError: The data do not fit; see :meth:`FewShotLearner.adapt`.
        """
        x, y = self.check_support(support)
        self.check_state(state)
        if state is None:
            any_number = self.zero_head and self.ways is None
            state = self.initial_state(len(y), count_classes(y) if any_number else None)
        steps = self.eval_steps if num_steps is None else check_count("num_steps", num_steps)
        with own_noise(self.generator):
            return self.gradient_steps((x, y), state, steps)

    @torch.no_grad()
    def outputs(self, inputs: Tensor, state: Any) -> Tensor:
        """Returns the network's outputs for each task with its own parameters."""
        state = self.initial_state(len(inputs)) if state is None else state
        if count_support(state) != len(inputs):
            raise ValueError(
                f"inputs of {len(inputs)} tasks, but a state of {count_support(state)}"
            )

        def forward(params: Params, x: Tensor) -> Tensor:
            return functional_call(self.network, params, (x,))

        return self.over_tasks(forward)(state, inputs)

    def over_tasks(self, function: Any) -> Any:
        """Maps a function of one task over tasks; noise such as dropout differs between them."""
        return vmap(function, chunk_size=self.chunk_size, randomness="different")

    def scored_steps(self) -> list[int]:
        """Returns the numbers of steps after which an evaluation scores (default: every one)."""
        return list(range(1, self.eval_steps + 1))

    def adaptation_points(self, support: Any) -> Iterator[tuple[int, Any]]:
        """Yields the states after each number of steps in :meth:`scored_steps`."""
        state, before = None, 0
        for steps in self.scored_steps():
            state = self.adapt(support, state, num_steps=steps - before)
            before = steps
            yield steps, state


def head_names(network: nn.Module) -> list[str]:
    """Returns the names of the parameters of the module ``head``.

    Raises:
        ValueError: The network has no parameters in such a module.
    """
    names = [name for name, _ in network.named_parameters() if name.startswith("head.")]
    if not names:
        raise ValueError("the network has no parameters in a module named 'head'")
    return names


def check_adaptable(network: nn.Module) -> None:
    """Raises an error for layers that cannot be adapted to many tasks side by side.

    Raises:
        ValueError: A layer keeps running statistics, changes its buffers in every call, has no
            second derivatives, or is recurrent.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        if getattr(module, "track_running_stats", False):
            raise ValueError(
                "adapting by gradient steps needs batch normalisation by the batch at hand: "
                f"norm='task', or track_running_stats=False ({name} is {kind})"
            )
        if kind in _NOT_ADAPTABLE:
            raise ValueError(
                f"adapting by gradient steps does not go through {kind} ({name}): "
                f"{_NOT_ADAPTABLE[kind]}"
            )


_NOT_BATCHED = "torch.func.vmap does not batch it; write it out in steps"
_NOT_ADAPTABLE = {
    "CrossMapLRN2d": "it has no second derivatives; nn.LocalResponseNorm is the same",
    "SpectralNorm": "it changes its buffers in every call in training",
    "_SpectralNorm": "it changes its buffers in every call in training",
    "GRU": _NOT_BATCHED,
    "RReLU": "torch.func.vmap does not batch it; nn.LeakyReLU is the same without noise",
    "LSTM": _NOT_BATCHED,
    "RNN": _NOT_BATCHED,
}


def within(module: str, params: Params) -> Params:
    """Returns the parameters of a submodule, by their names within it."""
    prefix = module + "."
    return {
        name.removeprefix(prefix): value
        for name, value in params.items()
        if name.startswith(prefix)
    }
