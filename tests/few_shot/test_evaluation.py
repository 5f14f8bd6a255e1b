"""Evaluation of supervised learners: every number by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import meta_rl
from meta_rl import EvaluationResult
from meta_rl.few_shot import MAML, ProtoNet, Sinusoid
from meta_rl.few_shot.evaluation import final_scores, out_of_scope_auroc
from meta_rl.few_shot.networks.feed_forward import sinusoid_mlp
from meta_rl.few_shot.tasks import FrozenTasks

from .small_data import Linear1, blob_split, mlp


class Guess:
    """Predicts class 0 before adaptation, then the number of shots minus one."""

    unit = "shot"

    def adapt(self, support: Any, state: Any = None) -> int:
        return 1 if state is None else state + 1

    def predict(self, inputs: Tensor, state: int | None) -> Tensor:
        return torch.full(inputs.shape[:2], 0 if state is None else state - 1)


class Shots(Guess):
    def adaptation_points(self, support: Any) -> Iterator[tuple[int, int]]:
        yield from ((1, 1), (2, 2), (5, 9))


def test_columns_are_accuracies_before_and_after() -> None:
    result = meta_rl.evaluate_adaptation(Guess(), blob_split(ways=3), num_tasks=70)
    assert result.values.shape == (70, 2)
    assert result.values == pytest.approx(1 / 3)
    assert (result.unit, result.measure, result.points) == ("shot", "accuracy", [0, 1])
    assert (result.environment, result.split, result.learner) == ("Blobs-3w1s", "test", "Guess")
    points = meta_rl.evaluate_adaptation(Shots(), blob_split(ways=3), num_tasks=10)
    assert points.points == [0, 1, 2, 5]
    assert points.values[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert points.plot().get_lines()[0].get_xdata().tolist() == [0, 1, 2, 5]
    assert points.plot().get_ylabel() == "mean accuracy"
    assert "mean accuracy 0.333 before adaptation, 0.000" in str(points)
    assert "after 5 shots" in str(points)


def test_regression_is_scored_by_its_squared_error() -> None:
    learner = MAML(Linear1(0.0).float(), 1e-9, device="cpu")
    tasks = Sinusoid(num_test=30)
    result = meta_rl.evaluate_adaptation(learner, tasks, num_tasks=30)
    expected = sorted(tasks.test.tasks.query_y.square().mean(dim=(1, 2)).tolist())
    assert sorted(result.values[:, 0]) == pytest.approx(expected, rel=1e-5)
    assert result.measure == "mean squared error"


def test_a_list_is_met_without_repetition_however_long() -> None:
    tasks = Sinusoid(num_test=120)
    learner = MAML(Linear1(0.0).float(), 1e-9, device="cpu")
    values = meta_rl.evaluate_adaptation(learner, tasks, num_tasks=120).values[:, 0]
    assert len(set(values)) == 120


def test_the_seed_fixes_the_result_and_training_is_not_disturbed() -> None:
    learner = ProtoNet(mlp(None), seed=0, device="cpu")
    before = learner.rng.bit_generator.state, learner.generator.get_state()
    results = [
        meta_rl.evaluate_adaptation(learner, blob_split(), num_tasks=20, seed=seed).values
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert learner.rng.bit_generator.state == before[0]
    assert torch.equal(learner.generator.get_state(), before[1])
    assert np.allclose(final_scores(learner, blob_split().test, 20), results[0][:, -1])


def test_other_parts_and_distributions(tmp_path: Path) -> None:
    split = blob_split()
    results = [
        meta_rl.evaluate_adaptation(Guess(), tasks, num_tasks=5, **settings)
        for tasks, settings in ((split, {"split": "validation"}), (split.validation, {}))
    ]
    assert [result.split for result in results] == ["validation", "given"]
    loaded = EvaluationResult.load(results[0].save(tmp_path / "result.json"))
    assert loaded.points == [0, 1]
    assert loaded.measure == "accuracy"
    with pytest.raises(ValueError, match="no task split 'ood'"):
        meta_rl.evaluate_adaptation(Guess(), split, split="ood")
    with pytest.raises(ValueError, match="supervised tasks have no episodes"):
        meta_rl.evaluate_adaptation(Guess(), split, num_episodes=3)


def test_area_under_the_curve_by_hand() -> None:
    """Confidence is 0.9 inside; outside it is 0.9 for half of the inputs and 0.6 for the others.

    A query wins against one half and ties with the other: 0.5 + 0.5 / 2.
    """

    class Confident:
        device = "cpu"

        def adapt(self, support: Any) -> None:
            return None

        def scores(self, x: Tensor, state: None) -> Tensor:
            confidence = torch.where(x[..., 0] == -1000.0, 0.6, 0.9)
            return torch.stack([confidence, 1 - confidence], dim=-1).log()

    outside = torch.zeros(2, 4)
    outside[0] = -1000.0
    areas = out_of_scope_auroc(Confident(), blob_split(queries=19).test, outside, 100)
    assert areas.shape == (100,)
    assert areas.mean() == pytest.approx(0.75, abs=0.02)


def test_rows_tell_which_tasks_of_the_list_they_are() -> None:
    tasks = Sinusoid(shots=5).test
    listed = FrozenTasks(tasks.sample_tasks(7, np.random.default_rng(0)), tasks.space, "seven")
    learner = MAML(sinusoid_mlp(generator=torch.Generator().manual_seed(0)), seed=0)
    result = meta_rl.evaluate_adaptation(learner, listed, 5)
    assert result.listed
    for row, task in zip(result.values, result.tasks, strict=True):
        alone = FrozenTasks(listed.tasks.take(slice(task, task + 1)), tasks.space, "one")
        values = meta_rl.evaluate_adaptation(learner, alone).values[0]
        np.testing.assert_allclose(values, row, rtol=1e-4)
