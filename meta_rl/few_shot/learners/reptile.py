"""Reptile: it moves the initialisation towards the parameters that the tasks adapt to.

Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018 (arXiv:1803.02999).
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from meta_rl.arguments import check_count, check_flag
from meta_rl.compute import ranks
from meta_rl.compute.device_work import FasterUpdates
from meta_rl.compute.torch_state import own_noise
from meta_rl.few_shot.learner import Rate
from meta_rl.few_shot.learners.gradient import GradientLearner
from meta_rl.few_shot.networks.strided_conv4 import StridedConv4
from meta_rl.few_shot.tasks import FewShotTasks, draw_distinct
from meta_rl.few_shot.training import rate_at
from meta_rl.inner_loop import Params, detached

DECAY = 0.999
EPSILON = 1e-8

AdamStep = Callable[[Params, Params, Tensor, Tensor, Tensor], tuple[Params, Params, Tensor]]


class ReptileState(NamedTuple):
    """The state of Reptile's adaptation.

    Attributes:
        params: Adapted parameters by name, ``[M, ...]``.
        moments: Running squares of the gradients by name, ``[M, ...]``.
        step: Number of steps that the moments have seen, ``[M]``.
        support_x: Support inputs, which join each query in predictions that are not transductive.
    """

    params: Params
    moments: Params
    step: Tensor
    support_x: Tensor


class Reptile(FasterUpdates, GradientLearner):
    """Meta-learner that adapts with Adam and moves the initialisation towards the result.

    The inner Adam has β₁ = 0, as in the paper. Training tasks need more support data than test
    tasks: the paper's 5-way 1-shot results come from 10 shots in training (``train_shots`` of the
    data set). Query data of training tasks are not used. As in the authors' code, Adam's running
    squares continue from task to task. Tasks of a meta-batch are learned side by side here, and
    start from the mean over the last meta-batch.

    Args:
        network: A classifier with ``ways``, or a network for regression.
        lr: Step size of the inner Adam.
        num_steps: Number of inner steps in training.
        inner_batch_size: Number of support examples in an inner step in training.
        eval_steps: Number of inner steps in :meth:`adapt`.
        eval_batch_size: Number of support examples in an inner step of :meth:`adapt`.
        transductive: Whether all queries are predicted together and share batch statistics.
            Otherwise each query is predicted in a batch of the support inputs and itself.
        meta_lr: Step size ε of the outer update, a fraction of the way to the learned parameters: a
            number, or its first and last value.
        meta_batch_size: Number of tasks in an outer update.
        **settings: Further arguments of :class:`.GradientLearner` and :class:`.FewShotLearner`.

    Raises:
        ValueError: A count is below one, or a step size is not positive.
    """

    state_kind: ClassVar[type | tuple[type, ...]] = ReptileState
    can_compile = True

    def __init__(
        self,
        network: nn.Module,
        lr: float = 1e-3,
        *,
        num_steps: int = 5,
        inner_batch_size: int = 10,
        eval_steps: int = 50,
        eval_batch_size: int = 5,
        transductive: bool = False,
        meta_lr: Rate = (1.0, 0.0),
        meta_batch_size: int = 5,
        **settings: Any,
    ) -> None:
        super().__init__(
            network,
            lr,
            eval_steps=eval_steps,
            meta_lr=meta_lr,
            meta_batch_size=meta_batch_size,
            **settings,
        )
        self.num_steps = check_count("num_steps", num_steps)
        self.inner_batch_size = check_count("inner_batch_size", inner_batch_size)
        self.eval_batch_size = check_count("eval_batch_size", eval_batch_size)
        self.transductive = check_flag("transductive", transductive)
        self.moments = {name: torch.zeros_like(value) for name, value in self.params.items()}
        self.moment_steps = 0
        self._compiled: AdamStep | None = None
        fits = self.device.type == "cpu" and StridedConv4.fits(network)
        self._strided_conv4 = StridedConv4(network) if fits else None

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Learns the tasks, and sets φ ← φ + ε (mean of the learned parameters − φ)."""
        x, y = self.check_batch(batch).support
        sizes = (self.num_steps, self.inner_batch_size)
        all_tasks = len(y) * ranks.size()
        drawn = shuffled_passes(all_tasks, y.shape[1], *sizes, self.rng)  # [M, steps, batch]
        chosen = torch.from_numpy(ranks.own(drawn)).to(self.device)
        fraction = torch.tensor(rate_at(self.meta_lr, self.progress), device=self.device)
        report = self.on_device(self._meta_step, x, y, chosen, self._steps_before(len(y)), fraction)
        self.moment_steps += self.num_steps
        return report

    @torch.no_grad()
    def _meta_step(
        self, x: Tensor, y: Tensor, chosen: Tensor, count: Tensor, fraction: Tensor
    ) -> dict[str, Tensor]:
        packing = self._strided_conv4 if self.compiling else None
        step = self._compiled_step() if self.compiling else None
        state, loss = self._take_steps(x, y, chosen, self._make_state(x, count, packing), step)
        means, squares = _mean_over_tasks(state.params), _mean_over_tasks(state.moments)
        if packing is not None:
            means, squares = packing.unpack(means), packing.unpack(squares)
        loss, means, squares = ranks.mean((loss, means, squares))
        finite = self.guard(loss=loss, parameters=means)
        for name, value in self.params.items():
            moved = value + (means[name] - value) * fraction
            value.copy_(torch.where(finite, moved, value))
        for name, value in squares.items():
            before = self.moments[name]
            before.copy_(torch.where(finite, value, before))
        return {"loss": loss}

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Makes an optimiser that is not used: :meth:`update` itself changes the parameters."""
        return torch.optim.SGD(self.module.parameters(), lr=1.0)

    def adapt(
        self, support: Any, state: ReptileState | None = None, num_steps: int | None = None
    ) -> ReptileState:
        """Learns from the support data with Adam, in minibatches of ``eval_batch_size``.

        Args:
            support: Support data ``(x [M, S, ...], y [M, S])``, or those of one task without the
                task axis.
            state: State to go on from (default: the meta-learned parameters).
            num_steps: Number of steps (default: ``eval_steps``).
        """
        x, y = self.check_support(support)
        self.check_state(state)
        if state is None:
            state = self._make_state(x, self._steps_before(len(y)))
        steps = self.eval_steps if num_steps is None else check_count("num_steps", num_steps)
        chosen = self._minibatches_by_content(x, y, state.step, steps)
        with own_noise(self.generator):
            return self._take_steps(x, y, chosen, state._replace(support_x=x))[0]

    def _steps_before(self, num_tasks: int) -> Tensor:
        """Returns Adam's steps before these tasks ``[M]``; a tensor, as graphs fix numbers."""
        return torch.full((num_tasks,), self.moment_steps, device=self.device)

    def _make_state(
        self, x: Tensor, count: Tensor, packing: StridedConv4 | None = None
    ) -> ReptileState:
        params, moments = detached(self.params), self.moments
        if packing is not None:
            params, moments = packing.pack(params), packing.pack(moments)
        return ReptileState(
            _repeat_for_tasks(params, len(x)), _repeat_for_tasks(moments, len(x)), count, x
        )

    def _compiled_step(self) -> AdamStep:
        """Returns a compiled step for all tasks, which has few kernels beside the products."""
        if self._compiled is None:
            batched = vmap(self._adam_step, randomness="different")
            step = batched if self._strided_conv4 is None else self._packed_step
            self._compiled = torch.compile(step, dynamic=False)
        return self._compiled

    @torch.no_grad()
    def _take_steps(
        self,
        x: Tensor,
        y: Tensor,
        minibatches: Tensor,
        state: ReptileState,
        step: AdamStep | None = None,
    ) -> tuple[ReptileState, Tensor]:
        """Takes steps of Adam on minibatches ``[M, steps, batch]`` of the support data."""
        if step is None:
            step = self.over_tasks(self._adam_step)
        params, moments = state.params, state.moments
        rows = torch.arange(len(y), device=self.device)[:, None]
        loss = torch.zeros(len(y), device=self.device)
        count = state.step
        for chosen in minibatches.unbind(dim=1):
            count = count + 1
            data = (x[rows, chosen], y[rows, chosen])
            params, moments, loss = step(params, moments, count, *data)
        return ReptileState(params, moments, count, state.support_x), loss.mean()

    def _minibatches_by_content(
        self, x: Tensor, y: Tensor, taken: Tensor, num_steps: int
    ) -> Tensor:
        """Draws every step's examples by :attr:`rng` (unchanged), support data and steps so far."""
        common = int(copy.deepcopy(self.rng).integers(2**63))
        chosen = []
        for task_x, task_y, step in zip(x, y, taken.tolist(), strict=True):
            rng = np.random.default_rng([common, _checksum(task_x, task_y), step])
            size = self.eval_batch_size
            chosen.append(shuffled_passes(1, len(task_y), num_steps, size, rng))
        return torch.from_numpy(np.concatenate(chosen)).to(self.device)

    def _adam_step(
        self, params: Params, moments: Params, count: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Params, Params, Tensor]:
        """Takes a step of Adam with β₁ = 0 for one task."""
        gradients, loss = grad_and_value(self.loss)(params, (x, y))
        return *self._adam(params, moments, count, gradients), loss

    def _packed_step(
        self, params: Params, moments: Params, count: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Params, Params, Tensor]:
        """Takes a step of Adam for all tasks, with packed parameters and equal step counts."""
        assert self._strided_conv4 is not None
        gradients, losses = self._strided_conv4.gradient(params, x, y)
        return *self._adam(params, moments, count[0], gradients), losses

    def _adam(
        self, params: Params, moments: Params, count: Tensor, gradients: Params
    ) -> tuple[Params, Params]:
        moments = {
            name: DECAY * moments[name] + (1 - DECAY) * gradient**2
            for name, gradient in gradients.items()
        }
        correction = 1 - DECAY ** count.to(torch.float64)  # 1 - 0.999 is inexact in float32
        scale = correction.rsqrt()
        params = {
            name: value
            - self.lr * gradients[name] / (scale.to(value.dtype) * moments[name].sqrt() + EPSILON)
            for name, value in params.items()
        }
        return params, moments

    @torch.no_grad()
    def outputs(self, inputs: Tensor, state: ReptileState | None) -> Tensor:
        """Returns outputs for all queries together, or for each one with the support inputs."""
        if state is None or self.transductive:
            return super().outputs(inputs, None if state is None else state.params)
        if len(state.support_x) != len(inputs):
            raise ValueError(
                f"inputs of {len(inputs)} tasks, but a state of {len(state.support_x)}"
            )

        def alone(params: Params, support_x: Tensor, query: Tensor) -> Tensor:
            batch = torch.cat([support_x, query[None]])
            return functional_call(self.network, params, (batch,))[-1]

        each = vmap(alone, (None, None, 0), randomness="different")
        return self.over_tasks(each)(state.params, state.support_x, inputs)

    def scored_steps(self) -> list[int]:
        """Returns a few numbers of steps, since predictions take as long as many steps."""
        return sorted({k for k in (1, 2, 5, 10, 20) if k < self.eval_steps} | {self.eval_steps})

    def extra_state(self) -> dict[str, Any]:
        """Returns Adam's running squares and their number of steps."""
        return {"moments": self.moments, "moment_steps": self.moment_steps}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restores Adam's running squares and their number of steps."""
        self.moments, self.moment_steps = extra["moments"], extra["moment_steps"]


def shuffled_passes(
    num_tasks: int, num: int, num_steps: int, batch_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws the examples of each step in shuffled passes over all examples of a task.

    Args:
        num_tasks: Number of tasks, M.
        num: Number of examples of a task.
        num_steps: Number of steps.
        batch_size: Number of examples in a step; at most ``num`` are used.
        rng: Generator of the draws.

    Returns:
        Indices of the examples, ``[M, num_steps, batch_size]``.
    """
    size = min(batch_size, num)
    passes = -(-num_steps * size // num)
    order = draw_distinct(num, num, num_tasks * passes, rng).reshape(num_tasks, -1)
    return order[:, : num_steps * size].reshape(num_tasks, num_steps, size)


def _checksum(*parts: Tensor) -> int:
    checksum = 0
    for part in parts:
        content = part.detach().cpu().contiguous().view(torch.uint8)
        checksum = zlib.crc32(content.numpy().tobytes(), checksum)
    return checksum


def _repeat_for_tasks(values: Params, num: int) -> Params:
    return {name: value.expand(num, *value.shape) for name, value in values.items()}


def _mean_over_tasks(values: Params) -> Params:
    return {name: value.mean(dim=0) for name, value in values.items()}
