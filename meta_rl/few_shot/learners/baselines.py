"""Baselines: training from scratch, fine-tuning after pre-training, and the nearest neighbour."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from meta_rl.arguments import check_count, check_flag
from meta_rl.few_shot.data.arrays import as_tensor
from meta_rl.few_shot.learner import FewShotLearner, Rate, accuracy, task_loss
from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory
from meta_rl.few_shot.learners.gradient import GradientLearner, head_names
from meta_rl.few_shot.learners.protonet import squared_distances


class Untrained(FewShotLearner):
    """A learner without meta-training: :meth:`learn` and :meth:`update` do nothing."""

    default_length = 0
    met_parts = ("test",)

    def learn(self, tasks: Any, num_iterations: int = 0, **settings: Any) -> Self:
        """Does nothing."""
        return self

    def update(self, batch: Any) -> dict[str, Tensor]:
        """Does nothing."""
        return {}


class FromScratch(Untrained, GradientLearner):
    """A baseline that trains on the support set of each task from the network's first weights.

    Nothing is meta-learned: :meth:`learn` does nothing.

    Args:
        network: A classifier with ``ways``, or a network for regression.
        lr: Step size on the support set.
        eval_steps: Number of gradient steps on the whole support set.
        chunk_size: Number of tasks computed at a time; see :class:`GradientLearner`.
        seed: Seed of all draws (default: from the system's entropy).
        device: Device to learn on: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.1,
        *,
        eval_steps: int = 50,
        chunk_size: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        super().__init__(
            network, lr, eval_steps=eval_steps, chunk_size=chunk_size, seed=seed, device=device
        )

    def scored_steps(self) -> list[int]:
        """Returns the powers of two up to ``eval_steps``, and ``eval_steps``."""
        return powers_of_two(self.eval_steps)


class FineTune(GradientLearner):
    """A baseline that pre-trains on all training classes and fine-tunes on each task.

    Pre-training is ordinary supervised learning, on all classes of the training pool (a rotated
    class counts as a class of its own), or on all points of all regression tasks. A new task
    fine-tunes a head that starts from zero, or the whole network.

    Args:
        network: A classifier with ``ways`` and modules ``body`` and ``head``, or a network for
            regression with ``head``.
        lr: Step size on the support set.
        eval_steps: Number of gradient steps on the whole support set.
        body: Whether the body is fine-tuned too.
        batch_size: Number of examples in a step of pre-training.
        chunk_size: Number of tasks computed at a time; see :class:`GradientLearner`.
        meta_lr: Step size of Adam in pre-training: a number, or its first and last value.
        seed: Seed of all draws (default: from the system's entropy).
        device: Device to learn on: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: The network lacks these modules, or the training tasks have no pool of classes.
    """

    met_parts = ("test",)  # training is on classes, not on tasks
    divides_over_ranks = False

    def __init__(
        self,
        network: nn.Module,
        lr: float = 0.1,
        *,
        eval_steps: int = 50,
        body: bool = False,
        batch_size: int = 128,
        chunk_size: int | None = None,
        meta_lr: Rate = 1e-3,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        super().__init__(
            network,
            lr,
            eval_steps=eval_steps,
            chunk_size=chunk_size,
            meta_lr=meta_lr,
            meta_batch_size=check_count("batch_size", batch_size),
            seed=seed,
            device=device,
        )
        head_names(network)  # refuses a network without a head
        self.zero_head = not self.regression
        self.head_only = not check_flag("body", body) and not self.regression
        if not self.regression and not isinstance(getattr(network, "body", None), nn.Module):
            raise ValueError("FineTune needs a classifier with modules 'body' and 'head'")

    def prepare(self, tasks: Any) -> None:
        """Makes the head for the training classes."""
        if self.regression or "classes" in self.module:
            return
        if not hasattr(tasks, "sample_labelled"):
            raise ValueError("pre-training needs tasks made of classes (ClassTasks)")
        self._make_classes(tasks.num_labels)

    def _make_classes(self, num_labels: int) -> None:
        head = self.network.head
        assert isinstance(head, nn.Linear)
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(head.in_features, num_labels)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        self.module["classes"] = layer.to(self.device, self.dtype)

    def draw(self, tasks: Any) -> Any:
        """Draws single examples with their class, or the support data of regression tasks."""
        if self.regression:
            return tasks.sample_tasks(self.meta_batch_size, self.rng).support
        return tasks.sample_labelled(self.meta_batch_size, self.rng)

    def update(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Takes a step of supervised learning."""
        if self.regression:
            x, y = self.check_support(batch)
            loss = task_loss(self.network(x), y)
            self.step(loss)
            return {"loss": loss}
        body = self.network.body
        assert isinstance(body, nn.Module)
        x, y = self.check_inputs(as_tensor(batch[0], "inputs")[None])[0], batch[1]
        y = as_tensor(y, "labels", self.device).to(torch.int64)
        outputs = self.module["classes"](body(x))
        loss = task_loss(outputs, y)
        self.step(loss)
        return {"loss": loss, "accuracy": accuracy(outputs, y)}

    def scored_steps(self) -> list[int]:
        """Returns the powers of two up to ``eval_steps``, and ``eval_steps``."""
        return powers_of_two(self.eval_steps)

    def extra_state(self) -> dict[str, Any]:
        """Returns the number of training classes."""
        if "classes" not in self.module:
            return {"num_labels": None}
        return {"num_labels": self.module["classes"].out_features}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Makes a head for the saved number of training classes."""
        if extra["num_labels"] is not None:
            self._make_classes(extra["num_labels"])


class NearestNeighbour(Untrained, EmbeddingLearner):
    """A baseline that predicts the label of the nearest support example. Nothing is learned.

    Args:
        vocabulary_size: Number of words, for inputs that are texts of word numbers: they are
            compared by the cosine of their word counts. ``None`` (default) compares inputs by
            squared distance.
        seed: Seed, which is not used.
        device: Device of the examples: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    unit: ClassVar[str] = "shot"

    def __init__(
        self,
        vocabulary_size: int | None = None,
        *,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        if vocabulary_size is not None:
            vocabulary_size = check_count("vocabulary_size", vocabulary_size, least=2)
        network = _FlatInputs() if vocabulary_size is None else _WordCounts(vocabulary_size)
        super().__init__(network, seed=seed, device=device)

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the negative squared distance to the nearest example of each class."""
        nearness = -squared_distances(queries, memory.keys)
        member = memory.one_hot()[:, None] > 0
        return nearness[..., None].masked_fill(~member, -torch.inf).amax(dim=2)


class _FlatInputs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class _WordCounts(nn.Module):
    """Counts of each word, scaled to a vector of length 1."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size

    def forward(self, tokens: Tensor) -> Tensor:
        counts = torch.zeros(len(tokens), self.vocabulary_size, device=tokens.device)
        counts.scatter_add_(1, tokens, (tokens != 0).to(counts.dtype))
        return nn.functional.normalize(counts, dim=1)


def powers_of_two(last: int) -> list[int]:
    """Returns 1, 2, 4, ... below ``last``, and ``last``."""
    return sorted({2**k for k in range(last.bit_length()) if 2**k < last} | {last})
