"""Tasks as data.

Draws lie in their space and are fixed by the generator; integer ends are included; finite lists are
drawn without replacement, pass by pass; held-out lists are fixed, and disjoint for continuous
tasks; conversion keeps values and refuses every kind of misfit by a ValueError that names the
space; bad counts and unknown splits are refused; helpers for arrays and dicts of arrays neither
share memory where they promise a copy nor lose entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from meta_rl import FiniteTasks, SampledTasks, TaskDistribution, TaskSplit, UniformTasks
from meta_rl.tasks import (
    add_task_axis,
    as_task,
    as_tasks,
    check_count,
    copy_tasks,
    count_tasks,
    held_out_split,
    put_tasks,
    repeat_tasks,
    take_tasks,
)

UNIT = spaces.Box(0.0, 1.0, (2,), np.float64)
NESTED = spaces.Dict(
    {"goal": UNIT, "body": spaces.Dict({"legs": spaces.Discrete(3), "mass": UNIT})}
)
SPACES = {
    "box": spaces.Box(np.float32([-1.0, 2.0]), np.float32([0.0, 5.0])),
    "integer box": spaces.Box(-2, 2, (3,), np.int64),
    "discrete": spaces.Discrete(4, start=-1),
    "multi discrete": spaces.MultiDiscrete([2, 3], start=[5, 0]),
    "multi binary": spaces.MultiBinary(3),
    "dict": NESTED,
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    else:
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", SPACES)
def test_uniform_tasks_lie_in_their_space_and_follow_the_generator(name: str) -> None:
    tasks = UniformTasks(SPACES[name])
    assert isinstance(tasks, TaskDistribution)
    drawn = tasks.sample_tasks(200, rng())
    assert count_tasks(drawn) == 200
    assert all(SPACES[name].contains(take_tasks(drawn, i)) for i in range(200))
    assert_equal(drawn, tasks.sample_tasks(200, rng()))
    one, other = (tasks.sample_tasks(200, rng(seed)) for seed in (0, 1))
    with pytest.raises(AssertionError):
        assert_equal(one, other)


@pytest.mark.parametrize(
    ("name", "values"),
    [("integer box", [-2, -1, 0, 1, 2]), ("discrete", [-1, 0, 1, 2]), ("multi binary", [0, 1])],
)
def test_uniform_draws_reach_every_integer_equally(name: str, values: list[int]) -> None:
    drawn = UniformTasks(SPACES[name]).sample_tasks(6000, rng())
    found, counts = np.unique(drawn, return_counts=True)
    assert found.tolist() == values
    share = 1 / len(values)
    spread = np.sqrt(share * (1 - share) / drawn.size)
    assert np.all(np.abs(counts / drawn.size - share) < 4 * spread)


def test_uniform_draws_have_the_moments_of_each_coordinate() -> None:
    drawn = UniformTasks(SPACES["box"]).sample_tasks(20_000, rng())
    widths = np.array([1.0, 3.0])
    error = widths / np.sqrt(12 * 20_000)
    assert np.all(np.abs(drawn.mean(axis=0) - [-0.5, 3.5]) < 4 * error)
    np.testing.assert_allclose(drawn.std(axis=0), widths / np.sqrt(12), rtol=0.02)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, np.inf, (1,)), spaces.Text(3), spaces.Dict({"a": spaces.Text(2)})]
)
def test_spaces_that_cannot_be_drawn_from_are_refused(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="cannot draw uniformly"):
        UniformTasks(space)


def test_sampled_tasks_are_checked() -> None:
    tasks = SampledTasks(UNIT, lambda num, rng: rng.random((num, 2)))
    np.testing.assert_array_equal(tasks.sample_tasks(3, rng()), rng().random((3, 2)))
    with pytest.raises(ValueError, match=r"outside Box\(0.0, 1.0"):
        SampledTasks(UNIT, lambda num, rng: np.full((num, 2), 1.5)).sample_tasks(3, rng())
    with pytest.raises(ValueError, match=r"expected 3 tasks.*Box.*got 4"):
        SampledTasks(UNIT, lambda num, rng: np.zeros((num + 1, 2))).sample_tasks(3, rng())


def test_finite_tasks_are_drawn_without_replacement_pass_by_pass() -> None:
    tasks = FiniteTasks(spaces.Discrete(5), [0, 1, 2, 3, 4])
    assert len(tasks) == 5
    assert sorted(tasks.sample_tasks(5, rng())) == [0, 1, 2, 3, 4]
    assert len(set(tasks.sample_tasks(3, rng()))) == 3
    many = tasks.sample_tasks(12, rng())
    assert sorted(many[:5]) == sorted(many[5:10]) == [0, 1, 2, 3, 4]
    assert len(set(many[10:])) == 2
    first = [int(tasks.sample_tasks(1, rng(seed))[0]) for seed in range(40)]
    assert set(first) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(many, tasks.sample_tasks(12, rng()))


def test_finite_tasks_of_dicts_keep_the_parts_of_a_task_together() -> None:
    space = spaces.Dict({"a": spaces.Discrete(9), "b": spaces.Discrete(9)})
    drawn = FiniteTasks(space, {"a": [1, 2, 3], "b": [2, 4, 6]}).sample_tasks(7, rng())
    np.testing.assert_array_equal(2 * drawn["a"], drawn["b"])


def test_finite_tasks_refuse_nothing_and_outsiders() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FiniteTasks(UNIT, np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"task 1 is outside Discrete\(2\)"):
        FiniteTasks(spaces.Discrete(2), [0, 2])


def test_held_out_lists_are_fixed_and_disjoint() -> None:
    uniform = UniformTasks(UNIT)
    split, again = (held_out_split(uniform, num_test=30, seed=3) for _ in range(2))
    assert split.train is uniform
    assert split.space is UNIT
    assert split.ood is None
    validation, test = split["validation"].tasks, split["test"].tasks
    np.testing.assert_array_equal(test, again["test"].tasks)
    np.testing.assert_array_equal(validation, again["validation"].tasks)
    seen = {tuple(task) for part in (validation, test) for task in part}
    assert len(seen) == 60
    assert seen.isdisjoint(tuple(task) for task in uniform.sample_tasks(1000, rng(3)))
    other = held_out_split(uniform, num_test=30, num_validation=4, seed=4)
    assert len(other["validation"]) == 4
    assert not np.array_equal(other["test"].tasks, test)


def test_a_split_names_its_parts() -> None:
    uniform = UniformTasks(UNIT)
    split = TaskSplit(uniform, uniform, uniform)
    for name in ("ood", "tests", "space", ""):
        with pytest.raises(ValueError, match=f"no task split '{name}'.*train, validation, test$"):
            split[name]
    assert TaskSplit(uniform, uniform, uniform, ood=uniform)["ood"] is uniform


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_bad_counts_are_refused(count: Any) -> None:
    for tasks in (
        UniformTasks(UNIT),
        FiniteTasks(UNIT, np.zeros((2, 2))),
        SampledTasks(UNIT, lambda num, rng: rng.random((num, 2))),
    ):
        with pytest.raises(ValueError, match="num_tasks has to be a whole number of at least 1"):
            tasks.sample_tasks(count, rng())


def test_counts_come_back_whole() -> None:
    assert check_count("n", 3.0) == 3
    assert isinstance(check_count("n", np.float64(3)), int)
    assert check_count("n", 0, least=0) == 0


def test_conversion_keeps_values_and_takes_the_dtype_of_the_space() -> None:
    exact = np.array([[0.25, 0.5]])
    assert as_tasks(UNIT, exact) is exact
    assert as_tasks(UNIT, [[0, 1]]).dtype == np.float64
    assert as_tasks(spaces.Discrete(3), np.array([2, 0], np.int8)).dtype == np.int64
    assert as_tasks(SPACES["box"], [[-0.5, 2.5]]).dtype == np.float32
    task = as_task(NESTED, {"goal": [0, 1], "body": {"legs": 2, "mass": [0.5, 0.5]}})
    assert NESTED.contains(task)


@pytest.mark.parametrize(
    ("space", "tasks", "message"),
    [
        (UNIT, [[0.5, 1.5]], r"task 0 is outside Box\(0.0, 1.0, \(2,\), float64\)"),
        (UNIT, [[0.5, 0.5], [0.5, np.nan]], r"task 1 is outside Box"),
        (UNIT, [0.5, 0.5], r"expected shape \(num_tasks, 2\) of tasks in Box.*got \(2,\)"),
        (UNIT, [[0.5]], r"expected shape \(num_tasks, 2\).*got \(1, 1\)"),
        (UNIT, [["a", "b"]], r"not an array of tasks in Box"),
        (UNIT, [[0.5, 0.5], [0.5]], r"not an array of tasks in Box"),
        (UNIT, [[0.5j, 0.5j]], r"not an array of tasks in Box.*complex"),
        (UNIT, None, r"not an array of tasks in Box"),
        (spaces.Discrete(3), [0.5], r"not an array of tasks in Discrete\(3\).*float64"),
        (spaces.Discrete(3), [3], r"task 0 is outside Discrete\(3\)"),
        (spaces.Discrete(3), [0, -1], r"task 1 is outside Discrete\(3\)"),
        (spaces.Discrete(3), 1, r"expected shape \(num_tasks,\) of tasks in Discrete"),
        (spaces.MultiDiscrete([2, 3]), [[1, 3]], r"task 0 is outside MultiDiscrete"),
        (NESTED, {"goal": [[0.0, 0.0]]}, r"expected a dict with keys \['body', 'goal'\]"),
        (NESTED, [[0.0, 0.0]], r"expected a dict with keys .* got list"),
        (
            NESTED,
            {"goal": [[0, 0]], "body": {"legs": [3], "mass": [[0, 0]]}},
            r"tasks\['body'\]\['legs'\]: task 0 is outside Discrete\(3\)",
        ),
        (
            NESTED,
            {"goal": [[0, 0], [1, 1]], "body": {"legs": [2], "mass": [[0, 0]]}},
            r"different lengths",
        ),
    ],
)
def test_tasks_that_do_not_fit_are_refused(space: spaces.Space, tasks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_tasks(space, tasks)


def test_the_wrong_number_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 3 tasks \(each in Discrete\(2\)\), got 2"):
        as_tasks(spaces.Discrete(2), [0, 1], num_tasks=3)


def test_arrays_and_dicts_are_handled_alike() -> None:
    tasks = {"a": np.array([1, 2, 3]), "b": {"c": np.array([[1.0], [2.0], [3.0]])}}
    assert count_tasks(tasks) == 3
    assert_equal(take_tasks(tasks, 1), {"a": 2, "b": {"c": [2.0]}})
    assert_equal(take_tasks(tasks, [2, 0])["b"]["c"], [[3.0], [1.0]])
    assert repeat_tasks(tasks, 2)["a"].tolist() == [1, 1, 2, 2, 3, 3]
    assert_equal(add_task_axis(take_tasks(tasks, 1)), take_tasks(tasks, [1]))
    copied = copy_tasks(tasks)
    put_tasks(copied, np.array([True, False, False]), add_task_axis({"a": 9, "b": {"c": [9.0]}}))
    assert copied["a"].tolist() == [9, 2, 3]
    assert copied["b"]["c"].ravel().tolist() == [9.0, 2.0, 3.0]
    assert tasks["a"].tolist() == [1, 2, 3]
    assert tasks["b"]["c"].ravel().tolist() == [1.0, 2.0, 3.0]
