"""Evaluation of supervised few-shot learners on held-out tasks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from meta_rl.arguments import check_count
from meta_rl.evaluation.randomness import LearnerRandomness
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.evaluation.tasks import DRAWN_TASKS, order_of_list
from meta_rl.few_shot.data.checked_inputs import CheckedInputs
from meta_rl.few_shot.tasks import FewShotTasks, FrozenTasks
from meta_rl.tasks import TaskSplit

DRAWN_AT_ONCE = 50
TASKS_AT_ONCE = 25
NUMBERS_AT_ONCE = 4_000_000
"""Maximum size of the inputs of the tasks that are evaluated together, in numbers."""

_DRAWS, _LEARNER, _OUT_OF_SCOPE = range(3)  # first parts of the spawn keys


def evaluate_few_shot(
    learner: Any, tasks: Any, num_tasks: int | None = None, *, seed: int = 0, split: str = "test"
) -> EvaluationResult:
    """Scores predictions on query data before adaptation and at each adaptation point.

    The scores of a task depend on the learner, the task and ``seed`` alone, not on the number of
    other tasks: tasks are drawn in blocks, each with a seed of its own, and the learner always gets
    the same number of tasks at a time.

    Args:
        learner: Learner with ``adapt(support, state)`` and ``predict(inputs, state)``. It may have
            ``adaptation_points(support)``, which yields states during adaptation, or
            ``predictions(support, inputs)``, which yields the predictions of these states.
        tasks: Split, or distribution of tasks.
        num_tasks: Number of tasks (default: all tasks of a list, 100 draws otherwise).
        seed: Seed of the draws and of the learner, whose generators are restored afterwards.
        split: Name of the part of the split.

    Returns:
        Values ``[num_tasks, points]``, accuracies or mean squared errors: column 0 is before
        adaptation, the others are after the steps or shots in ``points``.

    Raises:
        ValueError: A count is below one, a list has fewer tasks, or the split is unknown.
    """
    if isinstance(tasks, TaskSplit):
        distribution = tasks[split]
    else:
        distribution, split = tasks, "given"
    values, points = [], [0]
    measure = "accuracy"
    for batch, num, _ in _batches(learner, distribution, num_tasks, seed):
        columns, points = _score_points(learner, batch)
        values.append(columns[:num])
        if batch.query_y.is_floating_point():
            measure = "mean squared error"
    scores = np.concatenate(values)
    index = np.arange(len(scores))
    if isinstance(distribution, FrozenTasks):
        index = order_of_list(len(distribution))[: len(scores)]
    return EvaluationResult(
        values=scores,
        unit=getattr(learner, "unit", "step"),
        learner=type(learner).__name__,
        environment=getattr(distribution, "name", type(distribution).__name__),
        split=split,
        seed=seed,
        envs_per_task=1,
        deterministic=True,
        measure=measure,
        points=points,
        tasks=index,
        listed=isinstance(distribution, FrozenTasks),
    )


def final_scores(
    learner: Any, tasks: Any, num_tasks: int | None = None, *, seed: int = 0
) -> np.ndarray:
    """Scores predictions after complete adaptation only.

    Args:
        learner: Learner with ``adapt(support)`` and ``predict(inputs, state)``.
        tasks: Distribution of tasks.
        num_tasks: Number of tasks (default: all tasks of a list, 100 draws otherwise).
        seed: Seed of the draws and of the learner.

    Returns:
        Scores ``[num_tasks]``, of the same tasks as :func:`evaluate_few_shot` with this seed.
    """
    scores = []
    for batch, num, _ in _batches(learner, tasks, num_tasks, seed):
        state = learner.adapt(batch.support)
        scores.append(_score(learner.predict(batch.query_x, state), batch.query_y)[:num])
    return torch.cat(scores).cpu().numpy().astype(np.float64)


def _batches(
    learner: Any, distribution: Any, num_tasks: int | None, seed: int
) -> Iterator[tuple[FewShotTasks, int, np.random.Generator]]:
    """Yields tasks, the number of them that count, and a generator; seeds the learner."""
    num_tasks = _count_tasks(distribution, num_tasks)
    randomness = LearnerRandomness(learner)
    with randomness.kept():
        for first, drawn in _draw_blocks(distribution, num_tasks, seed):
            size = _tasks_per_batch(drawn)
            for start in range(0, min(drawn.num_tasks, num_tasks - first), size):
                key = (first, start)
                randomness.seed(np.random.SeedSequence(seed, spawn_key=(_LEARNER, *key)))
                other = np.random.SeedSequence(seed, spawn_key=(_OUT_OF_SCOPE, *key))
                index = torch.arange(start, start + size) % drawn.num_tasks
                batch = drawn.take(index.to(drawn.support_x.device))
                num = min(size, drawn.num_tasks - start, num_tasks - first - start)
                batch = batch.to(getattr(learner, "device", "cpu"))
                if isinstance(learner, CheckedInputs):  # as in training
                    batch = learner.check_batch(batch)
                yield batch, num, np.random.default_rng(other)


def _count_tasks(distribution: Any, num_tasks: int | None) -> int:
    listed = len(distribution) if isinstance(distribution, FrozenTasks) else None
    if num_tasks is None:
        return DRAWN_TASKS if listed is None else listed
    num_tasks = check_count("num_tasks", num_tasks)
    if listed is not None and num_tasks > listed:
        raise ValueError(
            f"num_tasks={num_tasks}: {distribution.name} is a list of {listed} tasks, and each "
            f"counts once; ask for at most {listed}"
        )
    return num_tasks


def _draw_blocks(
    distribution: Any, num_tasks: int, seed: int
) -> Iterator[tuple[int, FewShotTasks]]:
    """Yields the tasks of a list in a fixed order, or blocks of drawn tasks."""
    if isinstance(distribution, FrozenTasks):
        order = torch.from_numpy(order_of_list(len(distribution)))
        yield 0, distribution.tasks.take(order.to(distribution.tasks.support_x.device))
        return
    for first in range(0, num_tasks, DRAWN_AT_ONCE):
        stream = np.random.SeedSequence(seed, spawn_key=(_DRAWS, first))
        drawn = distribution.sample_tasks(DRAWN_AT_ONCE, np.random.default_rng(stream))
        yield first, FewShotTasks(*drawn).to()  # arrays and lists are taken too


def _tasks_per_batch(drawn: FewShotTasks) -> int:
    """Returns the number of tasks in a batch, which bounds the memory of large inputs."""
    each = (drawn.support_x.numel() + drawn.query_x.numel()) // drawn.num_tasks
    return max(1, min(TASKS_AT_ONCE, NUMBERS_AT_ONCE // max(1, each)))


def _score_points(learner: Any, batch: FewShotTasks) -> tuple[np.ndarray, list[int]]:
    """Returns the scores ``[M, points]`` of a batch of tasks, and the points."""
    columns, points = [_score(learner.predict(batch.query_x, None), batch.query_y)], [0]
    predictions = getattr(learner, "predictions", partial(_predict_points, learner))
    for point, predicted in predictions(batch.support, batch.query_x):
        columns.append(_score(predicted, batch.query_y))
        points.append(point)
    return torch.stack(columns, dim=1).cpu().numpy().astype(np.float64), points


def _predict_points(learner: Any, support: Any, inputs: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields predictions at each adaptation point, at point 1 alone if the learner has none."""
    states = getattr(learner, "adaptation_points", None)
    for point, state in states(support) if states else [(1, learner.adapt(support))]:
        yield point, learner.predict(inputs, state)


def _score(predicted: Tensor, y: Tensor) -> Tensor:
    """Returns the accuracy, or the mean squared error, of each task, ``[M]``."""
    if y.is_floating_point():
        return functional.mse_loss(predicted, y, reduction="none").flatten(1).mean(dim=1)
    return (predicted == y).to(torch.float64).mean(dim=1)


def out_of_scope_auroc(
    learner: Any, tasks: Any, out_of_scope: Tensor, num_tasks: int, *, seed: int = 0
) -> np.ndarray:
    """Measures how well confidence separates queries of a task from inputs of no class.

    Confidence is the largest class probability. The area under the ROC curve is the probability
    that a query of the task has a higher confidence than an input out of scope (ties count half);
    chance is 0.5.

    Args:
        learner: Learner with ``adapt(support)`` and ``scores(inputs, state)``.
        tasks: Distribution of tasks.
        out_of_scope: Inputs of no class, ``[N, ...]``; each task draws as many as it has queries.
        num_tasks: Number of tasks.
        seed: Seed of the draws.

    Returns:
        Areas under the ROC curve, ``[num_tasks]``.
    """
    areas = []
    for batch, num, rng in _batches(learner, tasks, num_tasks, seed):
        index = rng.integers(len(out_of_scope), size=batch.query_y.shape)
        outside = out_of_scope[torch.from_numpy(index)].to(learner.device)
        state = learner.adapt(batch.support)
        inside, beyond = (
            torch.softmax(learner.scores(x, state), dim=-1).amax(dim=-1)
            for x in (batch.query_x, outside)
        )
        difference = inside[:, :, None] - beyond[:, None, :]
        wins = (difference > 0).to(torch.float32) + 0.5 * (difference == 0)
        areas.append(wins.flatten(1).mean(dim=1)[:num])
    return torch.cat(areas).cpu().numpy().astype(np.float64)
