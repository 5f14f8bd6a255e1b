"""Targets of the sequence tasks, by construction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from meta_rl.few_shot.data.sequences import (
    AssociativeRecallTasks,
    CopyTasks,
    RepeatCopyTasks,
    SequenceTasks,
    copy_split,
    recall_split,
    repeat_copy_split,
)

ALL = [CopyTasks((2, 4), 3), RepeatCopyTasks((1, 3), (1, 3), 3), AssociativeRecallTasks((2, 4))]


@pytest.mark.parametrize("tasks", ALL, ids=lambda tasks: tasks.name)
def test_shapes_seeds_and_space(tasks: SequenceTasks) -> None:
    a, b, c = (tasks.sample_tasks(5, np.random.default_rng(seed)) for seed in (0, 0, 9))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a.support_x.shape != c.support_x.shape or not torch.equal(a.support_x, c.support_x)
    assert a.support_x.shape[2] == tasks.input_size
    assert a.query_y.shape[2] == tasks.output_size
    assert not a.query_x.any()
    assert a.support_y.shape[2] == 0
    rng = np.random.default_rng(1)
    lengths = [tasks.sample_tasks(1, rng) for _ in range(60)]
    longest = max(batch.support_x.shape[1] for batch in lengths)
    assert longest == tasks.longest[0] == tasks.space["support_x"].shape[0]
    assert max(batch.query_y.shape[1] for batch in lengths) == tasks.longest[1]


def test_copy() -> None:
    batch = CopyTasks((4, 4), 3).sample_tasks(6, np.random.default_rng(0))
    assert torch.equal(batch.support_x[:, :4, :3], batch.query_y)
    assert batch.support_x[..., 3].tolist() == [[0, 0, 0, 0, 1]] * 6
    assert not batch.support_x[:, 4, :3].any()
    assert set(batch.query_y.unique().tolist()) == {0.0, 1.0}


def test_repeat_copy() -> None:
    tasks = RepeatCopyTasks((2, 2), (3, 3), 3)
    batch = tasks.sample_tasks(6, np.random.default_rng(0))
    once = batch.support_x[:, :2, :3]
    assert torch.equal(batch.query_y[:, :6, :3], torch.cat([once] * 3, dim=1))
    assert batch.query_y[..., 3].tolist() == [[0, 0, 0, 0, 0, 0, 1]] * 6
    assert not batch.query_y[:, 6, :3].any()
    assert batch.support_x[:, 2, 3].tolist() == [1] * 6


def test_the_number_of_repeats_is_scaled() -> None:
    tasks = RepeatCopyTasks((1, 1), (1, 10), 1)
    told = np.array([tasks.scaled(repeats) for repeats in range(1, 11)])
    assert told.mean() == pytest.approx(0.0)
    assert told.var() == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        batch = tasks.sample_tasks(1, rng)
        repeats = batch.query_y.shape[1] - 1
        assert float(batch.support_x[0, 1, 2]) == pytest.approx(tasks.scaled(repeats))


def test_associative_recall() -> None:
    batch = AssociativeRecallTasks((4, 4), 2, 8).sample_tasks(40, np.random.default_rng(0))
    steps = batch.support_x.reshape(40, -1, 10)[:, :-1].reshape(40, 5, 3, 10)
    listed, asked = steps[:, :4, 1:, :8], steps[:, 4, 1:, :8]
    places = set()
    for items, item, target in zip(listed, asked, batch.query_y, strict=True):
        place = next(i for i, one in enumerate(items) if torch.equal(one, item))
        assert torch.equal(items[place + 1], target)
        places.add(place)
    assert places == {0, 1, 2}
    assert steps[0, :, 0, 8:].tolist() == [[1, 0]] * 4 + [[0, 1]]
    assert batch.support_x[0, -1].tolist() == [0] * 8 + [0, 1]


def test_copy_split() -> None:
    split = copy_split((1, 3), test_length=7)
    assert split.name == "Copy-7"
    assert split.test.sample_tasks(1, np.random.default_rng(0)).query_y.shape == (1, 7, 8)


def test_repeat_copy_split() -> None:
    """More repeats than in training are told on the scale of training."""
    split = repeat_copy_split((1, 3), (1, 5), test_length=4, test_repeats=9, bits=2)
    batch = split.test.sample_tasks(2, np.random.default_rng(0))
    assert batch.query_y.shape == (2, 4 * 9 + 1, 3)
    # Mean 3 and variance 2 of 1 to 5.
    assert batch.support_x[0, 4].tolist() == pytest.approx([0, 0, 1, 6 / 2**0.5])
    assert split.train.sample_tasks(1, np.random.default_rng(0)).query_y.shape[1] <= 16


def test_recall_split() -> None:
    split = recall_split((2, 3), test_items=5)
    assert split.name == "AssociativeRecall-5"
    assert split.test.sample_tasks(1, np.random.default_rng(0)).support_x.shape[1] == 6 * 4 + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CopyTasks((3, 2)), "minimum 3 is above the maximum 2"),
        (lambda: CopyTasks((0, 2)), "lengths"),
        (lambda: CopyTasks(4), "a minimum and a maximum"),
        (lambda: CopyTasks((1, 2), bits=0), "bits"),
        (lambda: RepeatCopyTasks(repeats=(2, 1)), "repeats"),
        (lambda: RepeatCopyTasks(scale=(0, 1)), "scale"),
        (lambda: AssociativeRecallTasks((1, 3)), "items"),
    ],
)
def test_bad_ranges(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
