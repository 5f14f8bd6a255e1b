"""Evaluation of supervised few-shot learners on held-out tasks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from meta_rl.evaluation import EvaluationResult, seeded
from meta_rl.few_shot.tasks import FewShotTasks, FrozenTasks
from meta_rl.tasks import TaskSplit, check_count

TASKS_AT_ONCE = 50
NUMBERS_AT_ONCE = 4_000_000
"""In the inputs of these tasks, at most."""


def evaluate_few_shot(
    learner: Any, tasks: Any, num_tasks: int, *, seed: int = 0, split: str = "test"
) -> EvaluationResult:
    """Score predictions on query data before adaptation, and after more and more of it.

    Args:
        learner: With ``adapt(support, state)`` and ``predict(inputs, state)``; the points of its
            adaptation come from ``adaptation_points(support)`` where it has it, or at once with
            what is predicted there from ``predictions(support, inputs)``.
        tasks: A split, or a distribution of tasks.
        num_tasks: Tasks. Lists hold a finite number; more are met repeatedly.
        seed: Of the tasks and of the learner, whose generators are put back afterwards.
        split: Part of the split.

    Returns:
        Values ``[num_tasks, points]``: accuracy, or mean squared error, in column 0 before
        adaptation, then after the steps or shots in ``points``.

    Raises:
        ValueError: Counts below one, or an unknown split.
    """
    num_tasks = check_count("num_tasks", num_tasks)
    if isinstance(tasks, TaskSplit):
        distribution = tasks[split]
    else:
        distribution, split = tasks, "given"
    streams = np.random.SeedSequence(seed).spawn(2)
    values, points = [], [0]
    measure = "accuracy"
    with seeded(learner, streams[1]):
        for batch in _batches(distribution, num_tasks, np.random.default_rng(streams[0])):
            batch = batch.to(getattr(learner, "device", "cpu"))
            columns, points = _columns(learner, batch)
            values.append(columns)
            if batch.query_y.is_floating_point():
                measure = "mean squared error"
    return EvaluationResult(
        values=np.concatenate(values),
        unit=getattr(learner, "unit", "step"),
        learner=type(learner).__name__,
        environment=getattr(distribution, "name", type(distribution).__name__),
        split=split,
        seed=seed,
        envs_per_task=1,
        deterministic=True,
        strata=np.zeros(num_tasks, dtype=np.int64),
        measure=measure,
        points=points,
    )


def final_scores(learner: Any, tasks: Any, num_tasks: int, *, seed: int = 0) -> np.ndarray:
    """Scores after all of the adaptation only, ``[num_tasks]``; the tasks are those of ``seed``.

    Args:
        learner: As for :func:`evaluate_few_shot`.
        tasks: A distribution of tasks.
        num_tasks: Tasks.
        seed: Of the tasks and of the learner.
    """
    streams = np.random.SeedSequence(seed).spawn(2)
    scores = []
    with seeded(learner, streams[1]):
        for batch in _batches(tasks, num_tasks, np.random.default_rng(streams[0])):
            batch = batch.to(getattr(learner, "device", "cpu"))
            state = learner.adapt(batch.support)
            scores.append(_score(learner.predict(batch.query_x, state), batch.query_y))
    return torch.cat(scores).cpu().numpy().astype(np.float64)


def _batches(distribution: Any, num: int, rng: np.random.Generator) -> Iterator[FewShotTasks]:
    """Tasks in batches; a list is drawn at once, as its draws are without replacement."""
    if isinstance(distribution, FrozenTasks):
        yield from _parts(distribution.sample_tasks(num, rng))
        return
    for start in range(0, num, TASKS_AT_ONCE):
        yield from _parts(distribution.sample_tasks(min(TASKS_AT_ONCE, num - start), rng))


def _parts(drawn: FewShotTasks) -> Iterator[FewShotTasks]:
    """So few tasks at a time that large images have room in memory, once they are features."""
    drawn = FewShotTasks(*drawn).to()  # arrays and lists are taken too
    num = len(drawn.query_y)
    each = (drawn.support_x.numel() + drawn.query_x.numel()) // num
    size = max(1, min(TASKS_AT_ONCE, NUMBERS_AT_ONCE // max(1, each)))
    for start in range(0, num, size):
        yield drawn.take(slice(start, start + size))


def _columns(learner: Any, batch: FewShotTasks) -> tuple[np.ndarray, list[int]]:
    """Scores ``[M, points]`` of a batch of tasks, and the points."""
    columns, points = [_score(learner.predict(batch.query_x, None), batch.query_y)], [0]
    predictions = getattr(learner, "predictions", partial(_predictions, learner))
    for point, predicted in predictions(batch.support, batch.query_x):
        columns.append(_score(predicted, batch.query_y))
        points.append(point)
    return torch.stack(columns, dim=1).cpu().numpy().astype(np.float64), points


def _predictions(learner: Any, support: Any, inputs: Tensor) -> Iterator[tuple[int, Tensor]]:
    """What is predicted at each point of adaptation; at 1 where the learner tells of none."""
    states = getattr(learner, "adaptation_points", None)
    for point, state in states(support) if states else [(1, learner.adapt(support))]:
        yield point, learner.predict(inputs, state)


def _score(predicted: Tensor, y: Tensor) -> Tensor:
    """Accuracy, or mean squared error, of each task, ``[M]``."""
    if y.is_floating_point():
        return functional.mse_loss(predicted, y, reduction="none").flatten(1).mean(dim=1)
    return (predicted == y).to(torch.float64).mean(dim=1)


def out_of_scope_auroc(
    learner: Any,
    tasks: Any,
    out_of_scope: Tensor,
    num_tasks: int,
    *,
    seed: int = 0,
) -> np.ndarray:
    """How well confidence tells queries of a task's classes from inputs of no class.

    Confidence is the largest class probability; the area under the ROC curve is the probability
    that a query of the task has more of it than an input out of scope (ties count half): 0.5 is
    chance.

    Args:
        learner: With ``scores(inputs, state)``.
        tasks: A distribution of tasks.
        out_of_scope: Inputs of no class, ``[N, ...]``; as many as queries are drawn for each task.
        num_tasks: Tasks.
        seed: Of the draws.

    Returns:
        ``[num_tasks]``.
    """
    streams = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(streams[0])
    areas = []
    with seeded(learner, streams[1]):
        for batch in _batches(tasks, check_count("num_tasks", num_tasks), rng):
            batch = batch.to(learner.device)
            index = rng.integers(len(out_of_scope), size=batch.query_y.shape)
            outside = out_of_scope[torch.from_numpy(index)].to(learner.device)
            state = learner.adapt(batch.support)
            inside, beyond = (
                torch.softmax(learner.scores(x, state), dim=-1).amax(dim=-1)
                for x in (batch.query_x, outside)
            )
            difference = inside[:, :, None] - beyond[:, None, :]
            wins = (difference > 0).to(torch.float32) + 0.5 * (difference == 0)
            areas.append(wins.flatten(1).mean(dim=1))
    return torch.cat(areas).cpu().numpy().astype(np.float64)
