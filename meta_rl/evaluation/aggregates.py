"""Numbers over many tasks at once: performance profiles and the probability of improvement.

A learner has, for each kind of tasks, a score for each of its trainings. The definitions, and the
stratified bootstrap of the intervals, are those of Agarwal et al., "Deep Reinforcement Learning at
the Edge of the Statistical Precipice" (2021). With few trainings the bootstrap's intervals are too
narrow: they never see a training that is worse than all that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

RESAMPLES = 2000
"""Number of bootstrap samples."""
Scores = Mapping[str, Sequence[float]]
"""Scores of a learner's trainings ``[R]``, by the name of the tasks."""


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Computes the share of trainings whose score is above each threshold, ``[len(thresholds)]``.

    Every kind of tasks counts the same.

    Args:
        scores: Normalised scores, 0 for random actions and 1 for the optimum.
        thresholds: Thresholds.
    """
    shares = [np.mean(np.array(own)[:, None] > thresholds, axis=0) for own in scores.values()]
    return np.asarray(np.mean(shares, axis=0))


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """Computes the probability that a training of ours beats one of theirs on the same tasks.

    Ties count half. Tasks that only one of the two was trained on are left out.

    Raises:
        ValueError: The two have no tasks in common.
    """
    shared = [tasks for tasks in ours if tasks in theirs]
    if not shared:
        raise ValueError("no tasks in common")
    chances = []
    for tasks in shared:
        differences = np.array(ours[tasks])[:, None] - np.array(theirs[tasks])
        chances.append(np.mean((np.sign(differences) + 1) / 2))
    return float(np.mean(chances))


def bootstrap_interval(
    statistic: Callable[..., float | np.ndarray],
    learners: Sequence[Scores],
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> np.ndarray:
    """Computes the interval of a statistic over resampled trainings, ``[..., 2]``.

    Trainings are drawn with replacement within each kind of tasks.

    Args:
        statistic: Function of the learners' scores.
        learners: Scores of each learner.
        rng: Generator of the samples.
        confidence: Coverage, between 0 and 1 (default: 0.95).
    """
    samples = []
    for _ in range(RESAMPLES):
        drawn = [
            {tasks: rng.choice(np.array(own), len(own)) for tasks, own in scores.items()}
            for scores in learners
        ]
        samples.append(statistic(*drawn))
    tail = (1 - confidence) / 2
    return np.moveaxis(np.quantile(np.array(samples), [tail, 1 - tail], axis=0), 0, -1)
