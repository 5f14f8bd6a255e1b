"""The base of learners that compare embeddings of queries with those of the support set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from meta_rl.compute.torch_state import own_noise
from meta_rl.few_shot.learner import FewShotLearner, accuracy, count_classes, task_loss
from meta_rl.few_shot.networks.batch_norm import (
    BatchNorm,
    RunningBatchNorm1d,
    RunningBatchNorm2d,
)
from meta_rl.few_shot.tasks import FewShotTasks


class Memory(NamedTuple):
    """An embedded support set.

    Attributes:
        keys: Embeddings, ``[M, S, D]``.
        labels: Labels, ``[M, S]``.
    """

    keys: Tensor
    labels: Tensor

    @property
    def ways(self) -> int:
        """Number of classes: the largest label plus one."""
        return count_classes(self.labels)

    def one_hot(self) -> Tensor:
        """Returns the labels one-hot, ``[M, S, W]``."""
        classes = torch.arange(self.ways, device=self.labels.device)
        return (self.labels[..., None] == classes).to(self.keys.dtype)


class EmbeddingLearner(FewShotLearner):
    """A learner that embeds the support set and compares queries with it.

    Its state is a :class:`Memory`; adapting a state further adds examples. Before adaptation it
    predicts class 0.
    """

    divides_over_ranks = True
    unit: ClassVar[str] = "shot"
    state_kind: ClassVar[type | tuple[type, ...]] = Memory

    def check_batch(self, batch: Any) -> FewShotTasks:
        """Returns training tasks as the network takes them; see :meth:`CheckedInputs.check_batch`.

        Raises:
            TypeError: The batch is no :class:`FewShotTasks`.
            ValueError: The data do not fit, support and query inputs have different shapes, or the
                class of a query has no support example.
        """
        checked = super().check_batch(batch)
        one, other = checked.support_x.shape[2:], checked.query_x.shape[2:]
        if one != other:
            raise ValueError(f"support examples of shape {tuple(one)}, queries of {tuple(other)}")
        known = (checked.query_y[:, :, None] == checked.support_y[:, None, :]).any(dim=-1)
        if not bool(known.all()):
            task, query = (~known).nonzero()[0].tolist()
            label = int(checked.query_y[task, query])
            raise ValueError(
                f"query {query} of task {task} is of class {label}, which has no support example"
            )
        return checked

    def _check_layers(self) -> None:
        """Refuses statistics of a batch of all tasks that layers do not share over ranks, too."""
        super()._check_layers()
        shared = RunningBatchNorm1d | RunningBatchNorm2d
        for name, layer in self.module.named_modules():
            if isinstance(layer, BatchNorm | _BatchNorm) and not isinstance(layer, shared):
                raise ValueError(
                    f"{name} ({type(layer).__name__}) normalises over the tasks of one rank: take "
                    "a network of the library with norm='running'"
                )

    @abstractmethod
    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the logits ``[M, Q, W]`` of embedded queries ``[M, Q, D]``."""

    def embed(self, x: Tensor) -> Tensor:
        """Returns embeddings ``[M, N, D]`` of inputs ``[M, N, ...]``, computed in one batch."""
        return self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    @torch.no_grad()
    def adapt(self, support: Any, state: Memory | None = None) -> Memory:
        """Embeds the support data, and adds them to the state."""
        x, y = self.check_support(support)
        self.check_state(state)
        with own_noise(self.generator):
            memory = Memory(self.embed(x), y)
        if state is None:
            return memory
        if len(state.labels) != len(y):
            raise ValueError(f"support data of {len(y)} tasks, but a state of {len(state.labels)}")
        return Memory(*(torch.cat(parts, dim=1) for parts in zip(state, memory, strict=True)))

    def outputs(self, inputs: Tensor, state: Memory | None) -> Tensor:
        """Returns logits ``[M, Q, W]``; without a state they are zeros, for one class."""
        if state is None:
            return inputs.new_zeros((*inputs.shape[:2], 1), dtype=self.dtype)
        if len(state.labels) != len(inputs):
            raise ValueError(f"inputs of {len(inputs)} tasks, but a state of {len(state.labels)}")
        embedded = self.embed(inputs)
        if embedded.shape[-1] != state.keys.shape[-1]:
            raise ValueError(
                f"queries give {embedded.shape[-1]} features, the support data of this state gave "
                f"{state.keys.shape[-1]}: their inputs have another size"
            )
        return self.compare(embedded, state)

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Takes a gradient step on the loss of the queries.

        Queries and support set are embedded in one batch.
        """
        batch = self.check_batch(batch)
        x, y = batch.support
        both = self.embed(torch.cat([x, batch.query_x], dim=1))
        split = y.shape[1]
        logits = self.compare(both[:, split:], Memory(both[:, :split], y))
        loss = task_loss(logits, batch.query_y)
        self.step(loss)
        return {"loss": loss, "accuracy": accuracy(logits, batch.query_y)}

    def adaptation_points(self, support: Any) -> Iterator[tuple[int, Memory]]:
        """Yields the states after one example of each class, after two examples, and so on."""
        x, y = self.check_support(support)
        state = None
        for shot, index in enumerate(shots_of(y)):
            rows = torch.arange(len(y), device=y.device)[:, None]
            state = self.adapt((x[rows, index], y[rows, index]), state)
            yield shot + 1, state

    @torch.no_grad()
    def predictions(self, support: Any, inputs: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields the predicted labels at each adaptation point; queries are embedded only once.

        Args:
            support: Support data, as for :meth:`adapt`.
            inputs: Queries, with a task axis.

        Yields:
            A point of :meth:`adaptation_points`, and labels ``[M, Q]``.
        """
        with own_noise(self.generator):
            queries = self.embed(self.check_inputs(inputs))
        for point, memory in self.adaptation_points(support):
            yield point, self.compare(queries, memory).argmax(dim=-1)


def shots_of(labels: Tensor) -> list[Tensor]:
    """Returns the indices of the first, the second, ... example of each class.

    Args:
        labels: Labels, ``[M, S]``.

    Returns:
        For each shot the indices ``[M, W]`` of one example of each class. If classes have different
        numbers of examples, there is one entry with all examples, ``[M, S]``.
    """
    ways = count_classes(labels)
    member = labels[..., None] == torch.arange(ways, device=labels.device)
    counts = member.sum(dim=1)
    shots = int(counts.max())
    if int(counts.min()) != shots:
        return [torch.arange(labels.shape[1], device=labels.device).expand_as(labels)]
    # Examples are sorted by class and, within a class, in the order of the support set.
    order = torch.argsort(labels, dim=1, stable=True).unflatten(1, (ways, shots))
    return list(order.unbind(dim=2))
