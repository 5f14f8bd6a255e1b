"""Probabilistic linear discriminant analysis: Gaussian classes with Gaussian means.

Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006; in the form with two covariances of
Brümmer and de Villiers, "The speaker partitioning problem", Odyssey 2010.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_count, check_has, check_number
from meta_rl.few_shot.learner import task_loss
from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory
from meta_rl.few_shot.tasks import FewShotTasks
from meta_rl.few_shot.training import TASKS_WANTED

SCALING_TASKS = 20
"""Number of training tasks that the logits are scaled by."""
LOG_SCALES = (-10.0, 2.0)
"""Range of the logarithm of the scale."""


class PLDA(EmbeddingLearner):
    """A Bayesian classifier of vectors, whose covariances are learned from the training classes.

    A class has a mean ``m ~ N(μ, B)``, and its examples are ``x ~ N(m, W)``. With n support
    examples of mean ``x̄``, the posterior of ``m`` and the distribution of a further example are
    normal, and a query gets the class that predicts it best. In the basis in which W is the
    identity and B is diagonal, with ``ψ`` on the diagonal and ``μ = 0``, a further example has the
    mean ``n ψ / (n ψ + 1) x̄`` and the variance ``1 + ψ / (n ψ + 1)``.

    Vectors are scaled to length 1, centred by the mean of the training classes, and scaled again.
    W is the mean covariance within the training classes, and B the covariance of their means less
    the part of it that W explains. Both are shrunk towards multiples of the identity, since there
    are fewer classes than features. :meth:`learn` computes them in closed form, at once.

    Args:
        within_shrinkage: Weight of the identity in W, in (0, 1].
        between_shrinkage: Weight of the identity in B, in [0, 1].
        seed: Seed of the tasks that the logits are scaled by.
        device: Device of the vectors: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    default_length: ClassVar[int] = 1
    met_parts: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(
        self,
        *,
        within_shrinkage: float = 0.85,
        between_shrinkage: float = 0.3,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        super().__init__(nn.Flatten(), seed=seed, device=device)
        self.within_shrinkage = check_number(
            "within_shrinkage", within_shrinkage, above=0.0, most=1.0
        )
        self.between_shrinkage = check_number(
            "between_shrinkage", between_shrinkage, least=0.0, most=1.0
        )

    def learn(self, tasks: Any, num_iterations: int = 1, **settings: Any) -> Self:
        """Computes the covariances from all examples of the training classes.

        Args:
            tasks: Split, whose training tasks are used, or tasks made of classes.
            num_iterations: Number of times that this is done; more than once changes nothing.
            **settings: Further arguments of other learners' ``learn``, which are not used.

        Raises:
            ValueError: The tasks are not made of classes, or there are fewer than two of them.
        """
        if check_count("num_iterations", num_iterations, least=0):
            train = getattr(tasks, "train", tasks)
            check_has("tasks", train, ["sample_tasks"], TASKS_WANTED)
            pool = getattr(train, "pool", None)
            if pool is None:
                raise ValueError("PLDA needs tasks made of classes (ClassTasks)")
            x = self.check_inputs(pool.examples[None])[0].flatten(1)
            labels = torch.arange(pool.num_classes).repeat_interleave(
                torch.tensor(pool.class_sizes)
            )
            self._fit(x, labels.to(self.device))
            self._scale_logits(self.check_batch(train.sample_tasks(SCALING_TASKS, self.rng)))
            self.num_iterations = self.total_iterations = 1
        return self

    @torch.no_grad()
    def _fit(self, x: Tensor, labels: Tensor) -> None:
        classes = int(labels.max()) + 1
        if classes < 2:
            raise ValueError("PLDA needs at least two training classes")
        model = self._make_model(x.shape[1])
        member = functional.one_hot(labels).to(torch.float64)  # [N, K]
        counts = member.sum(dim=0)
        scaled = functional.normalize(x.to(torch.float64), dim=-1)
        centre = (member.T @ scaled / counts[:, None]).mean(dim=0)
        scaled = functional.normalize(scaled - centre, dim=-1)
        means = member.T @ scaled / counts[:, None]
        within = _covariance(scaled - means[labels], len(x) - classes)
        between = _covariance(means - means.mean(dim=0), classes - 1) - within * (1 / counts).mean()
        factor = torch.linalg.cholesky(_shrunk(within, self.within_shrinkage))
        left = torch.linalg.solve_triangular(
            factor, _shrunk(between, self.between_shrinkage), upper=False
        )
        ratio, axes = torch.linalg.eigh(torch.linalg.solve_triangular(factor, left.T, upper=False))
        basis = torch.linalg.solve_triangular(factor.T, axes, upper=True)
        model.set(centre, basis, means.mean(dim=0) @ basis, ratio.clamp(min=0.0))

    @torch.no_grad()
    def _scale_logits(self, tasks: FewShotTasks) -> None:
        """Chooses the scale of the logits that minimises the cross-entropy of tasks' queries."""
        memory = Memory(self.embed(tasks.support_x), tasks.support_y)
        logits = self.compare(self.embed(tasks.query_x), memory)

        def loss(logarithm: float) -> float:
            return float(task_loss(math.exp(logarithm) * logits, tasks.query_y))

        found = minimize_scalar(loss, bounds=LOG_SCALES, method="bounded")
        self.model.log_scale.fill_(found.x)

    def _make_model(self, size: int) -> _Model:
        self.module["model"] = model = _Model(size).to(self.device)
        return model

    @property
    def model(self) -> _Model:
        """The covariances.

        Raises:
            ValueError: They were not learned yet.
        """
        if "model" not in self.module:
            raise ValueError("PLDA has to learn the training classes first: learn(tasks)")
        model = self.module["model"]
        assert isinstance(model, _Model)
        return model

    def embed(self, x: Tensor) -> Tensor:
        """Returns vectors in the basis of both covariances, ``[M, N, D]``."""
        return self.model(super().embed(x))

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the scaled logarithm of a query's density, given the examples of each class."""
        ratio = self.model.ratio
        member = memory.one_hot()
        counts = member.sum(dim=1)[..., None]  # [M, W, 1]
        means = member.transpose(1, 2) @ memory.keys / counts.clamp(min=1.0)
        share = counts * ratio / (counts * ratio + 1)
        variance = 1 + ratio * (1 - share)  # ψ / (n ψ + 1) = ψ (1 - share)
        centres = share * means / variance  # as products of matrices, queries x classes
        distance = queries.square() @ (1 / variance).transpose(1, 2)
        distance = distance - 2 * queries @ centres.transpose(1, 2)
        constant = (share * means * centres + variance.log()).sum(dim=-1)
        logits = -(distance + constant[:, None]) / 2 * self.model.log_scale.exp()
        return logits.masked_fill(counts[..., 0][:, None] == 0, -torch.inf)

    def extra_state(self) -> dict[str, Any]:
        """Returns the number of features."""
        return {"size": len(self.model.ratio) if "model" in self.module else None}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Makes room for covariances of the saved number of features."""
        if extra["size"] is not None:
            self._make_model(extra["size"])


class _Model(nn.Module):
    """The scaling of vectors, and the basis in which W is the identity and B is diagonal."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, shape in (("centre", size), ("mean", size), ("ratio", size)):
            setattr(self, name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self.basis = nn.Parameter(torch.zeros(size, size), requires_grad=False)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=False)

    centre: nn.Parameter
    mean: nn.Parameter
    ratio: nn.Parameter

    def set(self, centre: Tensor, basis: Tensor, mean: Tensor, ratio: Tensor) -> None:
        for name, value in (("centre", centre), ("basis", basis), ("mean", mean), ("ratio", ratio)):
            getattr(self, name).copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(functional.normalize(x, dim=-1) - self.centre, dim=-1)
        return x @ self.basis - self.mean


def _covariance(centred: Tensor, degrees: int) -> Tensor:
    return centred.T @ centred / max(1, degrees)


def _shrunk(covariance: Tensor, weight: float) -> Tensor:
    """Returns the covariance, with a weight on the identity of the same trace."""
    size = len(covariance)
    identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return (1 - weight) * covariance + weight * covariance.trace() / size * identity
