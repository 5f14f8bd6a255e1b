"""Siamese networks: they tell whether two images show the same character.

Koch, Zemel and Salakhutdinov, "Siamese neural networks for one-shot image recognition", 2015.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_rl.arguments import check_count, check_flag, check_has, check_number
from meta_rl.few_shot.learners.embedding import EmbeddingLearner, Memory
from meta_rl.few_shot.tasks import FewShotTasks, check_rng
from meta_rl.few_shot.training import TASKS_WANTED


class Siamese(EmbeddingLearner):
    """Siamese network: it verifies pairs, ``P(same) = σ(Σ_j α_j |h_j(x) - h_j(x')| + b)``.

    This is section 3.1 of the paper. Training uses pairs from tasks: each query is paired with a
    support example of its class, and with one of another class, which is random, as in the paper,
    or the one that looks most similar. On a new task, each class has the probability of its most
    similar support example.

    Args:
        network: An embedding, such as ``koch_network()`` or ``conv4()``. A sigmoid is applied to
            embeddings other than Koch's, whose last layer has one.
        augment: Whether random affine maps distort the images of training pairs (see
            :func:`distort_images`). It is for images only.
        hard_negatives: Fraction of the queries, in [0, 1], that are paired with the example of
            another class that looks most similar at present. Random examples are soon told apart,
            but a prediction has to be right against all classes of a task.
        weight_decay: L2 penalty on all parameters.
        meta_batch_size: Number of tasks in an update.
        **settings: Further arguments of :class:`.FewShotLearner`.

    Raises:
        ValueError: The network has no attribute ``num_features``, or a fraction lies outside
            [0, 1].
    """

    divides_over_ranks = False  # pairs and distortions are drawn for the whole meta-batch

    def __init__(
        self,
        network: nn.Module,
        *,
        augment: bool = True,
        hard_negatives: float = 0.0,
        weight_decay: float = 0.0,
        meta_batch_size: int = 8,
        **settings: Any,
    ) -> None:
        super().__init__(network, meta_batch_size=meta_batch_size, **settings)
        features = getattr(network, "num_features", None)
        if features is None:
            raise ValueError("Siamese needs a network with an attribute num_features")
        self.augment = check_flag("augment", augment)
        self.hard_negatives = check_number("hard_negatives", hard_negatives, least=0.0, most=1.0)
        self.weight_decay = check_number("weight_decay", weight_decay, least=0.0)
        self.squash = (getattr(network, "recipe", None) or [""])[0] != "koch_network"
        self.module["similarity"] = _Similarity(features).to(self.device, self.dtype)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Makes Adam with the L2 penalty."""
        optimizer = super().make_optimizer()
        for group in optimizer.param_groups:
            group["weight_decay"] = self.weight_decay
        return optimizer

    def embed(self, x: Tensor) -> Tensor:
        """Returns embeddings in [0, 1], ``[M, N, D]``."""
        embedded = super().embed(x)
        return torch.sigmoid(embedded) if self.squash else embedded

    def compare(self, queries: Tensor, memory: Memory) -> Tensor:
        """Returns the logit of "the same" with the most similar example of each class."""
        pairs = self.module["similarity"](queries[:, :, None], memory.keys[:, None])  # [M, Q, S]
        member = memory.one_hot()[:, None] > 0  # [M, 1, S, W]
        return pairs[..., None].masked_fill(~member, -torch.inf).amax(dim=2)

    def update(self, batch: FewShotTasks) -> dict[str, Tensor]:
        """Takes a gradient step on the cross-entropy of pairs, half of which are the same."""
        batch = self.check_batch(batch)
        support = batch.support
        if self.augment:
            flat = [part.flatten(0, 1) for part in (support[0], batch.query_x)]
            distorted = [distort_images(part, self.rng) for part in flat]
            support = (distorted[0].view_as(support[0]), support[1])
            batch = batch._replace(query_x=distorted[1].view_as(batch.query_x))
        logits, same = self._pairs(support, batch.query, self.hard_negatives)
        loss = functional.binary_cross_entropy_with_logits(logits, same)
        self.step(loss)
        right = ((logits > 0) == (same > 0)).to(torch.float32).mean()
        return {"loss": loss, "accuracy": right}

    def _pairs(
        self, support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor], hard: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Returns logits ``[2, M, Q]`` of pairs, and whether they are the same (0 or 1)."""
        x, y = support
        split = y.shape[1]
        both = self.embed(torch.cat([x, query[0]], dim=1))
        keys, queries = both[:, :split], both[:, split:]
        similarity = self.module["similarity"]
        matches = query[1][:, :, None] == y[:, None, :]  # [M, Q, S]
        noise = self._draw_uniform(matches.shape)
        likeness = noise
        if hard:
            is_hard = self._draw_uniform(matches.shape[:2]) < hard
            with torch.no_grad():
                every = similarity(queries[:, :, None], keys[:, None])
            likeness = torch.where(is_hard[..., None], every.double(), noise)
        same = noise.masked_fill(~matches, -torch.inf)
        other = likeness.masked_fill(matches, -torch.inf)
        chosen = torch.stack([same, other]).argmax(dim=-1)  # [2, M, Q]
        rows = torch.arange(len(y), device=self.device)[None, :, None]
        logits = similarity(queries[None], keys[rows, chosen])
        target = torch.zeros_like(logits)
        target[0] = 1.0
        return logits, target

    def _draw_uniform(self, shape: torch.Size) -> Tensor:
        """Draws uniform numbers in [0, 1) with :attr:`rng`."""
        return torch.from_numpy(self.rng.random(tuple(shape))).to(self.device)

    @torch.no_grad()
    def verify(self, tasks: Any, num_tasks: int, rng: np.random.Generator) -> float:
        """Measures the accuracy on pairs from tasks, half of which are the same.

        Args:
            tasks: Distribution of tasks, or split, whose test tasks are used.
            num_tasks: Number of tasks; each gives two pairs for each query.
            rng: Generator of the tasks and pairs.
        """
        tasks = getattr(tasks, "test", tasks)
        check_has("tasks", tasks, ["sample_tasks"], TASKS_WANTED)
        check_rng(rng)
        own, self.rng = self.rng, rng
        right = []
        try:
            for _ in range(check_count("num_tasks", num_tasks)):
                batch = self.check_batch(tasks.sample_tasks(1, rng))
                logits, same = self._pairs(batch.support, batch.query)
                right.append(((logits > 0) == (same > 0)).to(torch.float32).mean())
        finally:
            self.rng = own
        return float(torch.stack(right).mean())


class _Similarity(nn.Module):
    """A weighted L1 distance of embeddings as a logit; at first, it decreases with distance."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), -4.0 / features**0.5))
        self.bias = nn.Parameter(torch.ones(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs() @ self.weight + self.bias


def distort_images(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Distorts images by random affine maps, as in section 3.2 of Koch et al.

    A map has a rotation by up to ±10 degrees, a shear of up to ±0.3 in x and in y, a scale of 0.8
    to 1.2 in x and in y, and a translation by up to 2 of 105 pixels in x and in y, each with
    probability one half.

    Args:
        images: Images with background 0, ``[N, C, H, W]``.
        rng: Generator of the maps.

    Returns:
        Distorted images ``[N, C, H, W]``, by bilinear interpolation.

    Raises:
        ValueError: ``images`` have other dimensions.
    """
    if images.dim() != 4:
        raise ValueError(f"expected images [N, C, H, W], got {tuple(images.shape)}")
    num = len(images)

    def sometimes(low: float, high: float, neutral: float, count: int) -> np.ndarray:
        take = rng.random((num, 1)) < 0.5
        return np.where(take, rng.uniform(low, high, (num, count)), neutral)

    angle = sometimes(-math.pi / 18, math.pi / 18, 0.0, 1)[:, 0]
    shear = sometimes(-0.3, 0.3, 0.0, 2)
    scale = sometimes(0.8, 1.2, 1.0, 2)
    shift = sometimes(-4 / 105, 4 / 105, 0.0, 2)  # in units of the grid: half images
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1)
    turn = turn.reshape(num, 2, 2)
    skew = np.stack([np.ones(num), shear[:, 0], shear[:, 1], np.ones(num)], -1).reshape(num, 2, 2)
    matrix = turn @ skew / scale[:, None, :]
    theta = torch.from_numpy(np.concatenate([matrix, shift[..., None]], axis=-1))
    grid = functional.affine_grid(
        theta.to(images.device, images.dtype), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False)
