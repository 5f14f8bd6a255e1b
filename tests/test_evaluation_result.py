"""Results of evaluations.

Summaries equal hand-worked numbers; the interval of several trainings contains how they differ,
and trainings stay apart however often they are merged; tasks are the same where their numbers and
their lists or seeds are; few tasks give a mean and no interval; texts and plots count trainings and
tasks apart and say what an interval is over; results survive saving, as tables too, and what was
saved before is read; bad input is refused.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from meta_rl import EvaluationResult
from meta_rl.evaluation.result import interquartile_mean

INTERVALS = ("mean_interval", "iqm_interval", "total_mean_interval", "total_iqm_interval")


def make_result(values: Any, **changes: Any) -> EvaluationResult:
    fields: dict[str, Any] = {
        "values": np.asarray(values, dtype=float),
        "unit": "episode",
        "learner": "Scripted",
        "environment": "module:Family",
        "split": "test",
        "seed": 3,
        "envs_per_task": 1,
        "deterministic": False,
    }
    return EvaluationResult(**{**fields, **changes})


FOUR = [[0, 1], [2, 3], [4, 5], [10, 15]]
THREE_TRAININGS = [make_result(np.array(FOUR) + shift) for shift in (0, 1, 5)]


def test_summaries_are_worked_by_hand() -> None:
    """The first column has mean 4 and variance 56 / 3; Student's quantile for 3 is 3.1824."""
    summary = make_result(FOUR).summary()
    assert summary["mean"].tolist() == [4, 6]
    assert summary["iqm"].tolist() == [3, 4]
    assert summary["total_mean"] == 10
    assert summary["total_iqm"] == 7
    half = 3.182446 * np.sqrt(56 / 3 / 4)
    np.testing.assert_allclose(summary["mean_interval"][0], [4 - half, 4 + half], rtol=1e-6)
    # Winsorised 2, 2, 4, 4: squares about 3 sum to 4; h = 2 rows remain, so the variance is 4 / 2.
    half = 12.7062 * np.sqrt(4 / 2)
    np.testing.assert_allclose(summary["iqm_interval"][0], [3 - half, 3 + half], rtol=1e-5)
    assert summary["iqm_interval"].shape == (2, 2)
    low, high = summary["total_mean_interval"]
    assert low < 10 < high
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == 3.5


def test_intervals_are_wider_for_more_confidence() -> None:
    values = np.random.default_rng(0).normal([0.0, 5.0], [1.0, 3.0], (400, 2))
    result = make_result(values)
    widths = np.diff(result.summary()["mean_interval"])[:, 0]
    np.testing.assert_allclose(widths, 2 * 1.966 * values.std(axis=0, ddof=1) / 20, rtol=1e-3)
    assert (np.diff(result.summary(0.5)["mean_interval"])[:, 0] < 0.5 * widths).all()


def test_the_interval_of_several_trainings_contains_how_they_differ() -> None:
    rng = np.random.default_rng(0)
    runs = [make_result(rng.normal(mean, 0.1, (500, 2))) for mean in (0.0, 10.0, 2.0, 20.0)]
    for seeds in ((3, 3, 3, 3), (0, 1, 2, 3)):  # the same tasks, and drawn anew
        merged = EvaluationResult.merged(
            [replace(run, seed=seed) for run, seed in zip(runs, seeds, strict=True)]
        )
        half = stats.t.ppf(0.975, 3) * np.std([0, 10, 2, 20], ddof=1) / 2
        low, high = merged.summary()["mean_interval"].T
        np.testing.assert_allclose(low, 8 - half, atol=0.2)
        np.testing.assert_allclose(high, 8 + half, atol=0.2)


def test_merged_trainings_are_kept_apart() -> None:
    merged = EvaluationResult.merged(THREE_TRAININGS)
    assert merged.trainings.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert merged.tasks.tolist() == [0, 1, 2, 3] * 3
    assert (merged.num_trainings, merged.num_tasks, merged.design.kind) == (3, 4, "crossed")
    assert merged.summary()["mean"].tolist() == [6, 8]
    pairs = EvaluationResult.merged(THREE_TRAININGS[:2])
    again = EvaluationResult.merged([pairs, THREE_TRAININGS[2]])
    assert again.trainings.tolist() == merged.trainings.tolist()
    np.testing.assert_array_equal(
        again.summary()["mean_interval"], merged.summary()["mean_interval"]
    )
    alone = EvaluationResult.merged(THREE_TRAININGS[:1])
    np.testing.assert_array_equal(
        alone.summary()["iqm_interval"], THREE_TRAININGS[0].summary()["iqm_interval"]
    )


def test_results_of_other_kinds_are_not_merged() -> None:
    one = make_result(FOUR)
    for others in (
        [],
        [one, make_result([[1.0, 2, 3]])],
        [one, replace(one, learner="Other")],
        [one, replace(one, environment="Other")],
        [one, replace(one, measure="accuracy")],
        [one, replace(one, points=[0, 5])],
        [one, replace(one, listed=True)],
        [one, replace(one, whole_distribution=True)],
        [one, replace(one, env_kwargs={"num_arms": "5"})],
        [one, replace(one, deterministic=True)],
        [one, replace(one, envs_per_task=20)],
    ):
        with pytest.raises(ValueError, match="of one kind"):
            EvaluationResult.merged(others)


def test_tasks_are_the_same_by_list_or_by_seed() -> None:
    first, second, third = (replace(THREE_TRAININGS[i], seed=i) for i in range(3))
    drawn = EvaluationResult.merged([first, second, third])
    assert drawn.distinct_tasks.tolist() == list(range(12))
    assert drawn.tasks.tolist() == [0, 1, 2, 3] * 3
    assert drawn.task_seeds.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (drawn.design.kind, drawn.num_tasks) == ("nested", 12)
    more = EvaluationResult.merged([drawn, replace(third, seed=0)])
    assert (more.num_trainings, more.num_tasks, more.design.kind) == (4, 12, "none")
    orders = ([0, 1, 2, 3], [3, 1, 2, 0], [2, 3, 0, 1])
    listed = EvaluationResult.merged(
        [
            replace(run, listed=True, tasks=np.array(order), values=run.values[order])
            for run, order in zip((first, second, third), orders, strict=True)
        ]
    )
    assert (listed.design.kind, listed.num_tasks) == ("crossed", 4)
    straight = EvaluationResult.merged(THREE_TRAININGS)
    np.testing.assert_allclose(
        listed.summary()["mean_interval"], straight.summary()["mean_interval"]
    )
    mixed = EvaluationResult.merged([first, second, replace(third, seed=0)])
    assert mixed.distinct_tasks.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert mixed.design.reason == "trainings share some of their tasks, not all"


def test_the_order_of_merging_makes_no_difference(tmp_path: Path) -> None:
    """Two trainings on tasks of seed 0 and one on tasks of seed 1, in every order, also by file."""
    runs = [replace(run, seed=seed) for run, seed in zip(THREE_TRAININGS, (0, 1, 0), strict=True)]
    designs = set()
    for first, second, third in itertools.permutations(runs):
        pair = EvaluationResult.load(
            EvaluationResult.merged([first, second]).save(tmp_path / "pair.json")
        )
        for results in ([pair, third], [third, pair]):
            design = EvaluationResult.merged(results).design
            designs.add((design.kind, design.reason, design.num_tasks))
    assert designs == {("none", "trainings share some of their tasks, not all", 8)}


def test_all_tasks_that_there_are_leave_nothing_to_chance_but_trainings() -> None:
    """Two directions: Student's interval over the means 7.5, 3.5 and 4.5 of three trainings."""
    runs = [[[15, 5.0], [0, 5]], [[7, 5], [0, 5]], [[9, 5], [0, 5]]]
    results = [make_result(run, whole_distribution=True, listed=True) for run in runs]
    merged = EvaluationResult.merged(results)
    expected = stats.ttest_1samp([7.5, 3.5, 4.5], 0).confidence_interval()
    np.testing.assert_allclose(merged.summary()["mean_interval"], [expected, [5, 5]])
    assert "over trainings on these tasks" in str(merged)
    assert "no interval: one training, on all tasks that there are" in str(results[0])


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([make_result([[1.0, 2.0]])], "one task"),
        ([make_result([[1.0, 2.0]]), make_result([[3.0, 4.0]])], "one task"),
        ([make_result(FOUR), make_result([[1.0, 2.0]])], "one task in a training"),
        ([make_result(FOUR), make_result([[1.0, 2.0]], seed=4)], "one task in a training"),
        ([make_result([[0.0, 1.0]], success=np.ones((1, 2)))], "one task"),
    ],
)
def test_few_tasks_give_a_mean_and_no_interval(
    results: list[EvaluationResult], reason: str, tmp_path: Path
) -> None:
    merged = EvaluationResult.merged(results)
    summary = merged.summary()
    means = [result.values.mean(axis=0) for result in results]
    np.testing.assert_allclose(summary["mean"], np.mean(means, axis=0))
    assert not any(np.isnan(value).any() for value in summary.values())
    ends = [0.0, 1.0] if merged.shares else [-np.inf, np.inf]
    assert summary["mean_interval"].tolist() == summary["iqm_interval"].tolist() == [ends] * 2
    total = [0.0, 2.0] if merged.shares else [-np.inf, np.inf]  # a total of two shares
    assert summary["total_mean_interval"].tolist() == total
    assert f"(no interval: {reason})" in str(merged)
    assert "nan" not in str(merged)
    assert "inf" not in str(merged)
    (legend,) = merged.plot().figure.axes[0].get_legend().get_texts()[1:]
    assert legend.get_text() == f"no interval: {reason}"
    merged.plot().figure.savefig(tmp_path / "plot.png")
    assert EvaluationResult.load(merged.save(tmp_path / "one.json")).design.reason == reason


def test_shares_have_honest_intervals() -> None:
    """Nine of ten and ten of ten tasks: Clopper and Pearson's intervals, in texts as well."""
    success = np.ones((10, 2))
    success[0, 0] = 0
    returns = make_result(np.random.default_rng(0).normal(size=(10, 2)), success=success)
    expected = [stats.binomtest(k, 10).proportion_ci(method="exact") for k in (9, 10)]
    np.testing.assert_allclose(returns.summary()["success_interval"], expected, rtol=1e-6)
    told = "success 0.900 before adaptation, 1.000 (95 % interval 0.692 to 1.000 over tasks of one"
    assert told in str(returns)
    for other in (make_result(success), make_result(success, measure="accuracy")):
        summary = other.summary()
        np.testing.assert_allclose(summary["mean_interval"], expected, rtol=1e-6)
        np.testing.assert_allclose(summary["iqm_interval"][1], [2 * (0.025**0.1 - 0.25), 1])
    fractions = make_result(0.5 * success, measure="accuracy").summary()["mean_interval"]
    assert fractions[1, 0] < 0.5 < fractions[1, 1]
    assert not returns.shares
    assert not make_result(100 * success, measure="accuracy").shares


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95])
def test_bad_confidences_are_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_result(FOUR).summary(confidence)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.zeros(3)}, r"\[rows, points\], got shape \(3,\)"),
        ({"values": np.zeros((0, 2))}, r"got shape \(0, 2\)"),
        ({"trainings": [0, 0]}, r"trainings have to be 4 whole numbers.*got int64 \(2,\)"),
        ({"tasks": [0.0, 1, 2, 3]}, "tasks have to be 4 whole numbers.*got float64"),
        ({"tasks": [5, 6, 7, 6]}, "training 0 has task 6 2 times"),
        ({"success": np.zeros((4, 3))}, r"success \(4, 3\) beside values \(4, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_result(**{"values": FOUR, **changes})


def test_texts_count_trainings_and_tasks_apart() -> None:
    one, merged = make_result(FOUR), EvaluationResult.merged(THREE_TRAININGS)
    low, high = one.summary()["mean_interval"][-1]
    assert str(one) == (
        "Scripted, 1 training x 4 test tasks of Family: mean return 4.000 before "
        f"adaptation, 6.000 (95 % interval {low:.3f} to {high:.3f} over tasks of one training) "
        "after 1 episode"
    )
    assert str(merged).startswith("Scripted, 3 trainings x 4 test tasks of Family: mean")
    assert "over trainings and tasks)" in str(merged)
    assert one.interval_text(np.array([1, 2]), 1) == (
        "95 % interval 1.0 to 2.0 over tasks of one training"
    )
    many = make_result(np.random.default_rng(0).normal(size=(1000, 2)))
    assert many.counts_text() == "1 training x 1,000 test tasks"


def test_plots_show_the_summary_and_say_what_it_is_over() -> None:
    result = make_result(FOUR)
    axes = result.plot()
    assert isinstance(axes, Axes)
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [0, 1]
    assert line.get_ydata().tolist() == [4, 6]
    assert axes.get_xlabel() == "episodes of adaptation"
    assert axes.get_ylabel() == "mean return"
    assert axes.get_title() == "Family, 1 training x 4 test tasks"
    shown = axes.collections[0].get_paths()[0].vertices
    low, high = result.summary()["mean_interval"].T
    assert {*low, *high} <= set(shown[:, 1])
    mine = Figure().add_subplot()
    pulls = make_result(FOUR, unit="pull")
    assert result.plot(mine) is pulls.plot(mine, label="more") is mine
    merged = EvaluationResult.merged(THREE_TRAININGS)
    assert mine.get_title() == "Family, 1 training x 4 test tasks"
    merged.plot(mine, label="all")
    assert merged.plot(mine).get_title() == "Family, test tasks"
    assert merged.plot().get_title() == "Family, 3 trainings x 4 test tasks"
    assert [text.get_text() for text in mine.get_legend().get_texts()] == [
        "Scripted (1 training x 4 tasks)",
        "95 % interval over tasks of one training",
        "more (1 training x 4 tasks)",
        "all (3 trainings x 4 tasks)",
        "95 % interval over trainings and tasks",
        "Scripted (3 trainings x 4 tasks)",
    ]
    assert pulls.plot().get_ylabel() == "mean reward"


def test_results_survive_saving(tmp_path: Path) -> None:
    result = EvaluationResult.merged(
        [replace(run, listed=True, tasks=np.array([4, 0, 9, 2])) for run in THREE_TRAININGS]
    )
    path = result.save(tmp_path / "deep" / "result.json")
    content = json.loads(path.read_text())
    assert (content["num_trainings"], content["num_tasks"]) == (3, 4)
    loaded = EvaluationResult.load(path)
    for name in ("values", "trainings", "tasks"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
    assert loaded.trainings.dtype == loaded.tasks.dtype == np.int64
    names = ("unit", "learner", "environment", "split", "seed", "envs_per_task", "versions")
    for name in (*names, "listed", "whole_distribution", "points", "success"):
        assert getattr(loaded, name) == getattr(result, name)
    assert loaded.deterministic is False
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_what_was_saved_before_trainings_and_tasks_is_read(tmp_path: Path) -> None:
    """Former files have strata; rows of strata of the same size are the same tasks in order."""

    def read(values: list[list[float]], strata: list[int]) -> EvaluationResult:
        content = {
            "num_tasks": len(values),
            **{"values": values, "unit": "episode", "learner": "A", "environment": "B"},
            **{"split": "test", "seed": 0, "envs_per_task": 1, "deterministic": False},
            **{"strata": strata, "versions": {"numpy": "2"}, "measure": "return", "points": None},
        }
        (tmp_path / "old.json").write_text(json.dumps(content))
        return EvaluationResult.load(tmp_path / "old.json")

    one = read([[1, 2], [3, 4], [5, 6]], [0, 0, 0])
    assert (one.design.kind, one.num_tasks, one.success) == ("single", 3, None)
    assert one.versions == {"numpy": "2"}
    equal = read([[1, 2], [3, 4], [5, 6], [7, 9]], [0, 1, 0, 1])
    assert (equal.trainings.tolist(), equal.tasks.tolist()) == ([0, 1, 0, 1], [0, 0, 1, 1])
    assert equal.design.kind == "crossed"
    unequal = read([[1, 2], [3, 4], [5, 6], [7, 9], [8, 8]], [0, 0, 1, 1, 1])
    assert (unequal.design.kind, unequal.num_tasks) == ("nested", 5)


def test_strata_are_the_trainings_former_name() -> None:
    fields = {"learner": "A", "environment": "B", "split": "test", "seed": 0, "envs_per_task": 1}
    result = EvaluationResult(
        values=np.array(FOUR), unit="episode", deterministic=False, strata=[0, 0, 1, 1], **fields
    )
    assert result.trainings.tolist() == [0, 0, 1, 1]
    assert replace(result, seed=1).trainings.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("change", ["", "[1]", "{}", "3", "half", "unknown", "ragged", "\x00"])
def test_other_files_are_refused(tmp_path: Path, change: str) -> None:
    path = make_result(FOUR).save(tmp_path / "result.json")
    text = path.read_text()
    content = json.loads(text)
    changed = {
        "half": text[: len(text) // 2],
        "unknown": json.dumps({**content, "colour": "red"}),
        "ragged": json.dumps({**content, "values": [[1, 2], [3]]}),
    }
    path.write_text(changed.get(change, change))
    with pytest.raises(ValueError, match=r"result.json is no saved evaluation"):
        EvaluationResult.load(path)


def test_tables_have_a_row_for_each_training_task_and_column(tmp_path: Path) -> None:
    run = make_result([[1 / 3, 2], [3, 4]], tasks=[7, 5], points=[0, 5], listed=True)
    merged = EvaluationResult.merged([run, replace(run, values=run.values + 10)])
    path = merged.to_csv(tmp_path / "deep" / "result.csv")
    assert [file.name for file in path.parent.iterdir()] == ["result.csv"]
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["training", "task", "point", "value"]
    assert [[float(cell) for cell in row] for row in rows] == [
        [training, task, point, value + 10 * training]
        for training in (0, 1)
        for task, point, value in ((7, 0, 1 / 3), (7, 5, 2), (5, 0, 3), (5, 5, 4))
    ]
    pandas = pytest.importorskip("pandas")
    frame = merged.to_frame()
    pandas.testing.assert_frame_equal(frame, pandas.read_csv(path), check_exact=True)
    means = frame.groupby("point")["value"].mean()
    np.testing.assert_allclose(means, merged.summary()["mean"])
    told = replace(merged, success=np.array([[0, 1.0], [0, 0], [1, 1], [0.5, 0]]))
    assert told.to_frame()["success"].tolist() == [0, 1, 0, 0, 1, 1, 0.5, 0]
    assert "success" in told.to_csv(path).read_text()


def test_without_pandas_a_frame_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "meta-rl\[pandas\]"'):
        make_result(FOUR).to_frame()


def test_summaries_of_many_tasks_are_fast() -> None:
    """0.06 s on one core for 20,000 x 10; resampling took minutes."""
    result = make_result(np.random.default_rng(0).normal(size=(20_000, 10)))
    began = time.perf_counter()
    result.summary()
    assert time.perf_counter() - began < 2


def test_trainings_that_never_fail_do_not_exclude_that_some_do() -> None:
    """Three of three: Clopper and Pearson's interval of three outcomes, however many tasks."""
    merged = EvaluationResult.merged([make_result(np.ones((100, 1)), seed=3) for _ in range(3)])
    low, high = merged.summary()["mean_interval"][0]
    assert (low, high) == (pytest.approx(0.025 ** (1 / 3)), 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="row 1 at point 0"):
        make_result([[1.0, 2.0], [value, 3.0]])


def test_large_values_keep_their_spread() -> None:
    noise = np.random.default_rng(0).normal(size=(10_000, 1))
    low, high = make_result(1e11 + noise).summary()["mean_interval"][0]
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.05)


def test_a_single_point_has_a_visible_interval() -> None:
    result = make_result([row[:1] for row in FOUR])
    axes = result.plot()
    shown = axes.collections[0].get_segments()[0][:, 1]
    assert shown.tolist() == result.summary()["mean_interval"][0].tolist()
    assert [tick for tick in axes.get_xticks() if tick % 1] == []
