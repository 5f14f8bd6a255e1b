"""MAML: an initialisation from which a few gradient steps learn a task.

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

from meta_rl.few_shot.gradient import GradientLearner, head_names, within
from meta_rl.few_shot.learner import Rate, accuracy, count_classes, task_loss
from meta_rl.few_shot.networks import FewShotNetwork
from meta_rl.few_shot.tasks import FewShotTasks
from meta_rl.inner_loop import Params, StepSize, detached, meta_loss
from meta_rl.tasks import check_count


class MAML(GradientLearner):
    """Meta-learn the parameters by the loss on query data after steps on support data.

    Args:
        network: A classifier with ``ways``, or a network for regression.
        lr: Step size α of the inner loop; with ``learn_lr``, its first value.
        num_steps: Inner steps in training.
        eval_steps: Inner steps of :meth:`adapt`; ``num_steps`` by default.
        first_order: Ignore second derivatives (FOMAML).
        anil: Adapt the module ``head`` only; the body is meta-learned, and fixed within a task.
        zero_head: Start each task with a head of zeros, as the zeroing trick and, in effect,
            UNICORN-MAML do (Ye and Chao, 2022, arXiv:2106.16245: the same first head for every
            class). Which class has which number then makes no difference, and training tasks may
            have more classes than test tasks. The inner loss is summed over the classes (the mean
            of each), so that a step does not depend on how many there are.
        learn_lr: Meta-learn a step size for every single parameter (Meta-SGD).
        meta_lr: Of Adam, β in the paper; or first and last value.
        meta_batch_size: Tasks of an outer update.
        chunk_size: As in :class:`GradientLearner`.
        seed: As in :class:`FewShotLearner`.
        device: Likewise.

    Raises:
        ValueError: Counts below one, step sizes that are not positive, ``anil`` without a head, or
            ``zero_head`` with ``learn_lr`` or without a linear head of the classes.
    """

    can_record = True
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
        meta_lr: Rate = 1e-3,
        meta_batch_size: int = 32,
        chunk_size: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        self.num_steps = check_count("num_steps", num_steps)
        super().__init__(
            network,
            lr,
            eval_steps=self.num_steps if eval_steps is None else eval_steps,
            chunk_size=chunk_size,
            meta_lr=meta_lr,
            meta_batch_size=meta_batch_size,
            seed=seed,
            device=device,
        )
        self.first_order = first_order
        self.adapted = head_names(network) if anil else list(self.params)
        self.head_only = anil and isinstance(network, FewShotNetwork)  # which is head(body(x))
        self.zero_head = zero_head
        if zero_head:
            if learn_lr or self.ways is None or not isinstance(network.head, nn.Linear):
                raise ValueError(
                    "zero_head=True needs a classifier with a linear module 'head' and ways, and "
                    "no step sizes for single parameters (learn_lr)"
                )
            self.ways = None  # any number of classes
        self._compiled: Any = None
        self.learn_lr = learn_lr
        if learn_lr:  # names of a ParameterList are numbers: those of parameters have dots
            sizes = [torch.full_like(self.params[name], self.lr) for name in self.adapted]
            self.module["step_sizes"] = nn.ParameterList(sizes)

    def step_sizes(self, learned: Params | None = None) -> StepSize:
        """By the name of the adapted parameters: the module's own, or these in their place."""
        if not self.learn_lr:
            return dict.fromkeys(self.adapted, self.lr)
        sizes = within("step_sizes", self._learned() if learned is None else learned)
        return dict(zip(self.adapted, sizes.values(), strict=True))

    def inner_loss(self, params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        """As :meth:`GradientLearner.inner_loss`; with an empty head, the sum over the classes."""
        mean = super().inner_loss(params, data)
        return mean * len(params["head.weight"]) if self.zero_head else mean

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """An outer step on the mean query loss after adaptation."""
        support = self.check_support(batch.support)
        ways = count_classes(support[1]) if self.zero_head else None
        return self.on_device(partial(self._meta_step, ways), *support, *batch.query)

    def _meta_step(self, ways: int | None, *data: Tensor) -> dict[str, Tensor]:
        if self.compiling:
            loss, right, gradients = self._compiled_gradients(ways, data)
            self.step(loss, gradients)
        else:
            loss, right = self.loss_after_adaptation(self._learned(), ways, *data)
            self.step(loss)
        return {"loss": loss.detach()} | ({} if self.regression else {"accuracy": right})

    def _learned(self) -> Params:
        return dict(self.module.named_parameters())

    def loss_after_adaptation(
        self, learned: Params, ways: int | None, *data: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean over tasks of the loss on their queries, and of the fraction of right labels.

        Args:
            learned: Parameters of :attr:`module`, by name.
            ways: Classes, where a task starts with a head of zeros.
            *data: Support inputs and labels, query inputs and labels, ``[M, S, ...]`` each.
        """
        x, y, query_x, query_y = data
        params = self.start(ways, within("network", learned))
        if self.head_only:
            features = vmap(partial(self.features, params), chunk_size=self.chunk_size)
            x, query_x = features(x), features(query_x)
            params = {name: params[name] for name in self.adapted}

        def outer(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
            x, y = data
            outputs = self.forward(params, x)
            loss = task_loss(outputs, y)
            right = loss.detach() if self.regression else accuracy(outputs, y)
            return torch.stack([loss, right])

        loss, right = meta_loss(
            self.inner_loss,
            outer,
            params,
            (x, y),
            (query_x, query_y),
            chunk_size=self.chunk_size,
            lr=self.step_sizes(learned),
            num_steps=self.num_steps,
            first_order=self.first_order,
        ).mean(dim=0)
        return loss, right.detach()

    def _compiled_gradients(
        self, ways: int | None, data: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The same, and the gradients of the loss, a chunk of tasks at a time."""
        if self._compiled is None:
            function = grad_and_value(self.loss_after_adaptation, has_aux=True)
            self._compiled = torch.compile(function, dynamic=False)
        learned, parts = detached(self._learned()), []
        num_tasks = len(data[0])
        for chunk in zip(*(part.split(self.chunk_size or num_tasks) for part in data), strict=True):
            gradients, values = self._compiled(learned, ways, *chunk)
            share = len(chunk[0]) / num_tasks
            parts.append([share * part for part in (*values, *gradients.values())])
        loss, right, *gradients = (sum(of_chunks) for of_chunks in zip(*parts, strict=True))
        return loss, right, gradients
