"""Probabilistic LDA: its predictions are those of the joint normal distribution, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from meta_rl.evaluation import evaluate_adaptation
from meta_rl.few_shot import PLDA, NearestMean, Sinusoid
from meta_rl.few_shot.tasks import FewShotSplit, class_split

from .small_data import blobs


def cigars(ways: int = 3, shots: int = 2) -> FewShotSplit:
    """Vectors of 6 features: classes differ along three of them, and examples along the others."""
    pools = {p: blobs(12, dim=6, seed=s) for s, p in enumerate(("train", "validation", "test"))}
    return class_split(pools, ways, shots, 5, name="Cigars")


def scaled(x: np.ndarray, centre: np.ndarray | float = 0.0) -> np.ndarray:
    x = x / np.linalg.norm(x, axis=-1, keepdims=True) - centre
    return x / np.linalg.norm(x, axis=-1, keepdims=True) if np.ndim(centre) else x


def covariances(split: FewShotSplit, a: float, b: float) -> tuple[np.ndarray, ...]:
    """Centre, mean, W and B, from loops over the training classes."""
    pool = split.train.pool
    classes = pool.examples.double().numpy().reshape(pool.num_classes, -1, 6)
    centre = np.mean([scaled(one).mean(axis=0) for one in classes], axis=0)
    classes = scaled(classes, centre)
    means = classes.mean(axis=1)
    residuals = (classes - means[:, None]).reshape(-1, 6)
    within = residuals.T @ residuals / (len(residuals) - len(classes))
    between = np.cov(means.T) - within / classes.shape[1]
    eye = np.eye(6) / 6
    return (
        centre,
        means.mean(axis=0),
        (1 - a) * within + a * np.trace(within) * eye,
        (1 - b) * between + b * np.trace(between) * eye,
    )


def log_density(query: np.ndarray, support: np.ndarray, W: np.ndarray, B: np.ndarray) -> float:
    """Log density of a query, given support examples of its class: both are jointly normal."""
    n = len(support)
    joint = np.kron(np.eye(n + 1), W) + np.kron(np.ones((n + 1, n + 1)), B)
    cross, own = joint[-6:, :-6], joint[-6:, -6:]
    weights = cross @ np.linalg.inv(joint[:-6, :-6])
    residual = query - weights @ support.ravel()
    covariance = own - weights @ cross.T
    return float(
        -(residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(covariance)[1]) / 2
    )


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 2, 2]])
def test_logits_are_conditional_densities(labels: list[int]) -> None:
    split = cigars()
    learner = PLDA(within_shrinkage=0.3, between_shrinkage=0.6, device="cpu").learn(split)
    centre, mean, W, B = covariances(split, 0.3, 0.6)
    assert np.linalg.eigvalsh(B).min() > 0
    scale = float(learner.model.log_scale.exp())
    batch = split.test.sample_tasks(2, np.random.default_rng(0))
    y = torch.tensor(labels).expand(2, -1)
    scores = learner.scores(batch.query_x, learner.adapt((batch.support_x, y)))
    for task in range(2):
        support, queries = (
            scaled(part[task].double().numpy(), centre) - mean
            for part in (batch.support_x, batch.query_x)
        )
        for query, row in zip(queries[:3], scores[task], strict=False):
            expected = np.array(
                [log_density(query, support[np.array(labels) == k], W, B) for k in range(3)]
            )
            found = row.double().numpy()
            assert found - found.mean() == pytest.approx(
                scale * (expected - expected.mean()), abs=1e-3
            )


def test_it_learns_which_features_tell_classes_apart(tmp_path: Path) -> None:
    split = cigars(shots=1)
    learner = PLDA(device="cpu").learn(split)
    values = [
        evaluate_adaptation(one, split, 100).values[:, -1].mean()
        for one in (learner, NearestMean(device="cpu"))
    ]
    assert values[0] > values[1] + 0.05
    again = PLDA.load(learner.save(tmp_path / "plda"), device="cpu")
    batch = split.test.sample_tasks(4, np.random.default_rng(0))
    states = [one.adapt(batch.support) for one in (learner, again)]
    assert torch.equal(
        *(o.scores(batch.query_x, s) for o, s in zip((learner, again), states, strict=True))
    )
    batch = split.train.sample_tasks(200, np.random.default_rng(1))
    scores = learner.scores(batch.query_x, learner.adapt(batch.support))
    confidence, predicted = scores.softmax(dim=-1).max(dim=-1)
    right = (predicted == batch.query_y).double().mean()
    assert float(confidence.mean()) == pytest.approx(float(right), abs=0.05)  # calibrated
    assert learner.num_iterations == again.num_iterations == 1


def test_what_it_cannot_learn_is_refused() -> None:
    split = cigars()
    batch = split.test.sample_tasks(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="has to learn the training classes first"):
        PLDA(device="cpu").adapt(batch.support)
    with pytest.raises(ValueError, match="PLDA needs tasks made of classes"):
        PLDA(device="cpu").learn(Sinusoid(num_test=2))
    for name, value in (("within_shrinkage", 0.0), ("between_shrinkage", 1.5)):
        with pytest.raises(ValueError, match=name):
            PLDA(**{name: value})
