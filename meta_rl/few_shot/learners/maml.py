"""MAML: it meta-learns an initialisation from which a few gradient steps learn a task.

Finn et al., "Model-agnostic meta-learning for fast adaptation of deep networks", 2017
(arXiv:1703.03400); ANIL: Raghu et al., "Rapid learning or feature reuse?", 2020 (arXiv:1909.09157);
Meta-SGD: Li et al., "Meta-SGD: learning to learn quickly for few-shot learning", 2017
(arXiv:1707.09835); the zeroing trick: Kao, Chiu and Chen, "MAML is a
noisy contrastive learner in classification", 2022 (arXiv:2106.15367).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from meta_rl.arguments import check_count, check_flag
from meta_rl.compute.device_work import FasterUpdates
from meta_rl.few_shot.learner import accuracy, count_classes, task_loss
from meta_rl.few_shot.learners.gradient import GradientLearner, head_names, within
from meta_rl.few_shot.networks.feed_forward import FewShotNetwork
from meta_rl.few_shot.tasks import FewShotTasks
from meta_rl.inner_loop import Params, StepSize, adapt, detached


class MAML(FasterUpdates, GradientLearner):
    """Meta-learner of an initialisation, by the query loss after gradient steps on support data.

    Args:
        network: A classifier with ``ways``, or a network for regression.
        lr: Step size α of the inner loop; with ``learn_lr``, its first value.
        num_steps: Number of inner steps in training.
        eval_steps: Number of inner steps in :meth:`adapt` (default: ``num_steps``).
        first_order: Whether second derivatives are ignored (FOMAML).
        anil: Whether only the module ``head`` adapts; the body is then fixed within a task.
        zero_head: Whether each task starts with a head of zeros, as the zeroing trick and, in
            effect, UNICORN-MAML do (Ye and Chao, 2022, arXiv:2106.16245: the same first head for
            every class). The numbering of the classes then makes no difference, and training tasks
            may have more classes than test tasks. The inner loss is summed over the classes (the
            mean of each), so that a step does not depend on their number.
        learn_lr: Whether a step size is meta-learned for every single parameter (Meta-SGD).
        **settings: Further arguments of :class:`.GradientLearner` and :class:`.FewShotLearner`.

    Raises:
        ValueError: A count is below one, a step size is not positive, ``anil`` is given without a
            head, or ``zero_head`` with ``learn_lr`` or without a linear head of the classes.
    """

    can_compile = True

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.01,
        *,
        num_steps: int = 1,
        eval_steps: int | None = None,
        first_order: bool = False,
        anil: bool = False,
        zero_head: bool = False,
        learn_lr: bool = False,
        **settings: Any,
    ) -> None:
        self.num_steps = check_count("num_steps", num_steps)
        flags = {"anil": anil, "first_order": first_order, "learn_lr": learn_lr}
        for name, flag in (flags | {"zero_head": zero_head}).items():
            check_flag(name, flag)
        eval_steps = self.num_steps if eval_steps is None else eval_steps
        super().__init__(network, lr, eval_steps=eval_steps, **settings)
        self.first_order = first_order
        self.adapted = head_names(network) if anil else list(self.params)
        self.head_only = anil and isinstance(network, FewShotNetwork)  # it computes head(body(x))
        self.zero_head = zero_head
        if zero_head:
            if learn_lr or self.ways is None or not isinstance(network.head, nn.Linear):
                raise ValueError(
                    "zero_head=True needs a classifier with a linear module 'head' and ways, and "
                    "no step sizes for single parameters (learn_lr)"
                )
            self.ways = None  # any number of classes
        self._has_exact_layers = getattr(network, "recipe", None) is not None
        self._compiled: dict[int | None, Any] = {}  # keys: number of classes of a head of zeros
        self.learn_lr = learn_lr
        if learn_lr:  # a ParameterList, since names with dots cannot be keys of a ParameterDict
            sizes = [torch.full_like(self.params[name], self.lr) for name in self.adapted]
            self.module["step_sizes"] = nn.ParameterList(sizes)

    def step_sizes(self, learned: Params | None = None) -> StepSize:
        """Returns the step size of each adapted parameter, by its name.

        Args:
            learned: Parameters to take meta-learned step sizes from (default: :attr:`module`'s).
        """
        if not self.learn_lr:
            return dict.fromkeys(self.adapted, self.lr)
        sizes = within("step_sizes", self._named_parameters() if learned is None else learned)
        return dict(zip(self.adapted, sizes.values(), strict=True))

    def inner_loss(self, params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the loss that adaptation minimises; with ``zero_head`` a sum over the classes."""
        mean = super().inner_loss(params, data)
        return mean * len(params["head.weight"]) if self.zero_head else mean

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Takes an outer step on the mean query loss after adaptation."""
        batch = self.check_batch(batch)
        ways = count_classes(batch.support_y) if self.zero_head else None
        return self.on_device(partial(self._meta_step, ways), *batch)

    def _meta_step(self, ways: int | None, *data: Tensor) -> dict[str, Tensor]:
        if self.compiling or not self._has_exact_layers:
            loss, right, gradients = self._mean_gradient(ways, data)
            self.step(loss, gradients)
        else:  # faster, and exact for the layers of the library's networks
            of_tasks = self.over_tasks(
                partial(self.loss_after_adaptation, self._named_parameters(), ways)
            )
            loss, right = (part.mean() for part in of_tasks(*data))
            self.step(loss)
        return {"loss": loss.detach()} | ({} if self.regression else {"accuracy": right.detach()})

    def _named_parameters(self) -> Params:
        return dict(self.module.named_parameters())

    def loss_after_adaptation(
        self, learned: Params, ways: int | None, *data: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns one task's query loss after adaptation, and its fraction of correct labels.

        Args:
            learned: Parameters of :attr:`module`, by name.
            ways: Number of classes, if a task starts with a head of zeros.
            *data: Support inputs and labels ``[S, ...]``, query inputs and labels ``[Q, ...]``.
        """
        x, y, query_x, query_y = data
        params = self.start(ways, within("network", learned))
        if self.head_only:
            x, query_x = self.features(params, x), self.features(params, query_x)
            params = {name: params[name] for name in self.adapted}
        adapted = adapt(
            self.inner_loss,
            params,
            (x, y),
            lr=self.step_sizes(learned),
            num_steps=self.num_steps,
            first_order=self.first_order,
        )
        outputs = self.forward(adapted, query_x)
        loss = task_loss(outputs, query_y)
        return loss, loss.detach() if self.regression else accuracy(outputs, query_y)

    def _mean_gradient(
        self, ways: int | None, data: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns the mean loss, fraction of correct labels and gradients, chunk by chunk.

        Each task is differentiated within ``vmap``, which is exact for every layer. Second
        derivatives that are taken outside of ``vmap`` are wrong in torch 2.13 for its layer, batch
        and instance normalisation with a scale.
        """
        learned, parts = detached(self._named_parameters()), []
        num_tasks = len(data[0])
        of_chunk = self._make_gradient_function(ways)
        for chunk in zip(*(part.split(self.chunk_size or num_tasks) for part in data), strict=True):
            gradients, (loss, right) = of_chunk(learned, *chunk)
            parts.append([part.sum(dim=0) for part in (loss, right, *gradients.values())])
        means = (sum(of_chunks) / num_tasks for of_chunks in zip(*parts, strict=True))
        loss, right, *found = means
        return loss, right, found

    def _make_gradient_function(self, ways: int | None) -> Any:
        """Returns a function that maps a chunk of tasks to gradients, losses and accuracies."""

        def one_task(learned: Params, *data: Tensor) -> tuple[Tensor, Tensor]:
            return self.loss_after_adaptation(learned, ways, *data)

        def of_chunk(learned: Params, *data: Tensor) -> tuple[Params, tuple[Tensor, Tensor]]:
            gradient = grad_and_value(one_task, has_aux=True)
            return vmap(gradient, (None, 0, 0, 0, 0), randomness="different")(learned, *data)

        if not self.compiling:  # other kernels of attention have no second derivatives
            return sdpa_kernel(SDPBackend.MATH)(of_chunk)
        if ways not in self._compiled:
            self._compiled[ways] = torch.compile(of_chunk, dynamic=False)
        return self._compiled[ways]
