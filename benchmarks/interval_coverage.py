"""How often the 95 % intervals of :class:`meta_rl.EvaluationResult` hold what they estimate.

Values are simulated: the sum of an effect of the training, an effect of the task, and a remainder
(both together, and chance). Shares are simulated by logistic regression: the log-odds of success
are such a sum. Coverage is measured through the code that makes the intervals of results. Beside
it stand three intervals that were not chosen: Student's over the means of trainings, the bootstrap
over tasks within trainings, and for shares Wilson's.

    python benchmarks/interval_coverage.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from result_files import RESULTS, page, span, table, write
from scipy import optimize, special, stats

from meta_rl.evaluation.intervals import independent_spread, interquartile_mean, student_interval
from meta_rl.evaluation.task_design import Design

TRAININGS = (3, 5, 10)
TASKS = (10, 30, 100)
RATIOS = (0.0, 0.2, 0.5, 1.0)
SHARES = (0.5, 0.8, 0.95, 0.99)
WORKING = (0.8, 0.9, 0.95)
"""Shares of trainings that work at all."""
INTERVALS = {
    "mean": "mean",
    "iqm": "IQM",
    "over_trainings": "Student's over trainings",
    "bootstrap": "bootstrap over tasks",
}
"""Intervals of means, and how the table names them."""
CONFIDENCE = 0.95
AT_ONCE = 1_000
"""Replicates at a time, as columns."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential draws of mean 0 and standard deviation 1."""
    return rng.exponential(size=shape) - 1


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with 3 degrees of freedom, of standard deviation 1."""
    return rng.standard_t(3, size=shape) / np.sqrt(3)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal draws."""
    return rng.standard_normal(shape)


KINDS: dict[str, tuple[Draw, float]] = {
    "normal, no remainder": (normal, 0.0),
    "normal, remainder 0.5": (normal, 0.5),
    "normal, remainder 1": (normal, 1.0),
    "skewed, remainder 0.5": (skewed, 0.5),
    "heavy tails, remainder 0.5": (heavy_tailed, 0.5),
}
"""How effects are drawn, and the remainder's standard deviation; that of tasks is 1."""

MIXTURES = {
    "0 or 1": (1, 0.0, 0.0),
    "0 or 1, three trainings alike": (1, 1.0, 0.0),
    "0 or 1, three trainings that differ half as much as tasks": (1, 1.0, 0.5),
    "0 or 1, three trainings that differ as tasks do": (1, 1.0, 1.0),
    "4 episodes, tasks alike": (4, 0.0, 0.0),
    "4 episodes, tasks differ": (4, 1.0, 0.0),
    "4 episodes, tasks differ much": (4, 3.0, 0.0),
    "20 episodes, tasks differ": (20, 1.0, 0.0),
    "20 episodes, tasks differ much": (20, 3.0, 0.0),
}
"""Episodes of a task, and standard deviations of log-odds between tasks and between trainings."""


@dataclass
class Args:
    """Settings of the run."""

    replicates: int = 10_000
    """Number of simulated results in each cell; 10,000 give a standard error of 0.002."""
    seed: int = 0
    """Seed of the simulation."""
    out: Path = RESULTS
    """Folder of interval_coverage.json and interval_coverage.md."""


def covered(intervals: np.ndarray, truth: float) -> int:
    """Number of intervals ``[C, 2]`` that hold the truth."""
    return int(np.sum((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])))


def crossed_design(num_trainings: int, num_tasks: int) -> Design:
    """All trainings on the same tasks."""
    trainings = np.repeat(np.arange(num_trainings), num_tasks)
    return Design.of(trainings, np.tile(np.arange(num_tasks), num_trainings), False)


def bootstrap(columns: np.ndarray, num_trainings: int, rng: np.random.Generator) -> np.ndarray:
    """Percentile intervals of the mean, with tasks resampled within each training, ``[C, 2]``."""
    num_tasks = len(columns) // num_trainings
    even = np.full(num_tasks, 1 / num_tasks)
    weights = np.hstack([rng.multinomial(num_tasks, even, size=500) for _ in range(num_trainings)])
    return np.quantile(weights @ columns / len(columns), [0.025, 0.975], axis=0).T


def over_trainings(columns: np.ndarray, num_trainings: int) -> np.ndarray:
    """Student's interval over the means of trainings, ``[C, 2]``."""
    means = columns.reshape(num_trainings, -1, columns.shape[1]).mean(axis=1)
    return student_interval(means.mean(axis=0), independent_spread(means), CONFIDENCE)


def effects(
    draw: Draw, remainder: float, ratio: float, shape: tuple[int, int, int], rng: Any
) -> np.ndarray:
    """Simulated values ``[R, T, C]`` of mean 0."""
    num_trainings, num_tasks, num = shape
    values = draw(rng, (1, num_tasks, num)) + remainder * draw(rng, shape)
    return values + ratio * draw(rng, (num_trainings, 1, num))


def population_iqm(draw: Draw, remainder: float, ratio: float, rng: np.random.Generator) -> float:
    """Interquartile mean of single values of new trainings on new tasks."""
    return float(
        interquartile_mean(effects(draw, remainder, ratio, (1, 1, 4_000_000), rng).ravel())
    )


def coverage_of_means(args: Args, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row for each kind of values, number of trainings (or 1) and of tasks, and ratio."""
    rows = []
    for (kind, (draw, remainder)), ratio in product(KINDS.items(), RATIOS):
        truth = population_iqm(draw, remainder, ratio, rng) if draw is skewed else 0.0
        for num_trainings, num_tasks in product((1, *TRAININGS), TASKS):
            if num_trainings == 1 and ratio:
                continue  # an interval over tasks of one training is about that training
            design = crossed_design(num_trainings, num_tasks)
            hits = dict.fromkeys(("mean", "iqm", "over_trainings", "bootstrap"), 0)
            for _ in range(args.replicates // AT_ONCE):
                values = effects(draw, remainder, ratio, (num_trainings, num_tasks, AT_ONCE), rng)
                columns = values.reshape(-1, AT_ONCE)
                hits["mean"] += covered(design.mean_interval(columns, CONFIDENCE), 0.0)
                hits["iqm"] += covered(design.iqm_interval(columns, CONFIDENCE), truth)
                hits["bootstrap"] += covered(bootstrap(columns, num_trainings, rng), 0.0)
                if num_trainings > 1:
                    hits["over_trainings"] += covered(over_trainings(columns, num_trainings), 0.0)
            about = {"values": kind, "trainings": num_trainings, "tasks": num_tasks, "ratio": ratio}
            rates = {name: hit / args.replicates for name, hit in hits.items()}
            rows.append(about | rates)
    return rows


def centre(share: float, deviation: float) -> float:
    """Mean of normal log-odds whose mean share is ``share``."""
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()

    def excess(mean: float) -> float:
        return float(weights @ special.expit(mean + deviation * points)) - share

    return float(optimize.brentq(excess, -60, 60))


def wilson(columns: np.ndarray) -> np.ndarray:
    """Wilson's intervals of outcomes of 0 or 1, ``[C, 2]``."""
    found = [
        stats.binomtest(int(k), len(columns)).proportion_ci(CONFIDENCE, "wilson")
        for k in range(len(columns) + 1)
    ]
    return np.array(found)[columns.sum(axis=0).astype(int)]


def coverage_of_shares(args: Args, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row for each way that outcomes come about, share and number of tasks."""
    rows = []
    for (kind, (episodes, of_tasks, of_trainings)), share in product(MIXTURES.items(), SHARES):
        num_trainings = 3 if "three" in kind else 1
        mean = centre(share, float(np.hypot(of_tasks, of_trainings * of_tasks)))
        for num_tasks in TASKS:
            design = crossed_design(num_trainings, num_tasks)
            hits = dict.fromkeys(("chosen", "student", "bootstrap", "wilson"), 0)
            for _ in range(args.replicates // AT_ONCE):
                shape = (num_trainings, num_tasks, AT_ONCE)
                odds = mean + of_tasks * effects(normal, 0.0, of_trainings, shape, rng)
                values = rng.binomial(episodes, special.expit(odds)) / episodes
                columns = values.reshape(-1, AT_ONCE)
                chosen = design.mean_interval(columns, CONFIDENCE, shares=True)
                hits["chosen"] += covered(chosen, share)
                hits["student"] += covered(design.mean_interval(columns, CONFIDENCE), share)
                hits["bootstrap"] += covered(bootstrap(columns, num_trainings, rng), share)
                if episodes == num_trainings == 1:
                    hits["wilson"] += covered(wilson(columns), share)
            rates = {name: hit / args.replicates for name, hit in hits.items()}
            rows.append({"outcomes": kind, "share": share, "tasks": num_tasks} | rates)
    return rows


def coverage_of_failures(args: Args, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row for each share of trainings that fail altogether, and number of trainings.

    A training that works succeeds on every task, or on 98 % of them.
    """
    rows = []
    for working, within, num_trainings in product(WORKING, (1.0, 0.98), TRAININGS):
        design = crossed_design(num_trainings, TASKS[-1])
        hits = 0
        for _ in range(args.replicates // AT_ONCE):
            works = rng.random((num_trainings, 1, AT_ONCE)) < working
            outcomes = rng.random((num_trainings, TASKS[-1], AT_ONCE)) < within
            columns = (works & outcomes).astype(float).reshape(-1, AT_ONCE)
            chosen = design.mean_interval(columns, CONFIDENCE, shares=True)
            hits += covered(chosen, working * within)
        about = {"working": working, "success": within, "trainings": num_trainings}
        rows.append(about | {"chosen": hits / args.replicates})
    return rows


def failures_table(rows: list[dict[str, Any]]) -> list[str]:
    """Coverage by trainings that work (down) and number of trainings (across)."""
    lines = []
    for working, within in product(WORKING, (1.0, 0.98)):
        cells = [
            f"{row['chosen']:.3f}"
            for row in rows
            if (row["working"], row["success"]) == (working, within)
        ]
        lines.append([f"{working:.0%}", f"{within:.0%}", *cells])
    return table(["trainings that work", "their success", *map(str, TRAININGS)], lines)


def means_table(rows: list[dict[str, Any]], kind: str, name: str) -> list[str]:
    """Coverage by trainings and tasks (down) and ratio (across)."""
    lines = []
    for num_trainings, num_tasks in product(TRAININGS, TASKS):
        size = (kind, num_trainings, num_tasks)
        cells = [
            f"{r[name]:.3f}" for r in rows if (r["values"], r["trainings"], r["tasks"]) == size
        ]
        lines.append([f"{num_trainings}", f"{num_tasks}", *cells])
    return table(["trainings", "tasks", *(f"{ratio:g}" for ratio in RATIOS)], lines)


def ranges_table(rows: list[dict[str, Any]]) -> list[str]:
    """Least and largest coverage over all cells, by kind of values and by interval."""
    lines = []
    for kind in KINDS:
        of_kind = [row for row in rows if row["values"] == kind and row["trainings"] > 1]
        lines.append([kind, *(span(row[name] for row in of_kind) for name in INTERVALS)])
    return table(["values", *INTERVALS.values()], lines)


def single_table(rows: list[dict[str, Any]]) -> list[str]:
    """Coverage of intervals over tasks of one training."""
    return table(
        ["values", "tasks", "mean", "IQM", "bootstrap"],
        [
            [
                row["values"],
                f"{row['tasks']}",
                *(f"{row[n]:.3f}" for n in ("mean", "iqm", "bootstrap")),
            ]
            for row in rows
            if row["trainings"] == 1
        ],
    )


def shares_table(rows: list[dict[str, Any]]) -> list[str]:
    """Coverage by way of outcomes and tasks (down) and share (across), and the others' least."""
    lines = []
    for kind, num_tasks in product(MIXTURES, TASKS):
        cells = [row for row in rows if (row["outcomes"], row["tasks"]) == (kind, num_tasks)]
        least = [f"{min(row[name] for row in cells):.2f}" for name in ("student", "bootstrap")]
        least.append(f"{min(row['wilson'] for row in cells):.2f}" if kind == "0 or 1" else "")
        chosen = [f"{row['chosen']:.3f}" for row in cells]
        lines.append([kind, f"{num_tasks}", *chosen, *least])
    shares = [f"{share:g}" for share in SHARES]
    return table(["outcomes", "tasks", *shares, "Student's", "bootstrap", "Wilson's"], lines)


def markdown(
    means: list[dict[str, Any]],
    shares: list[dict[str, Any]],
    failures: list[dict[str, Any]],
    args: Args,
) -> str:
    """The page of all tables."""
    of_means = [
        part
        for name, title in (("mean", "Mean"), ("iqm", "Interquartile mean"))
        for kind in KINDS
        for part in (f"### {title}: {kind}", means_table(means, kind, name))
    ]
    return page(
        "Coverage of the 95 % intervals",
        f"`python benchmarks/interval_coverage.py`: share of {args.replicates:,} simulated results "
        "whose interval holds the truth. Ratios are those of the trainings' to the tasks' standard "
        "deviation; a remainder's standard deviation is given as a multiple of the tasks'.",
        "## Several trainings on the same tasks",
        "Least and largest coverage over 3, 5 and 10 trainings, 10, 30 and 100 tasks, and ratios "
        "of 0, 0.2, 0.5 and 1, for the two intervals of a result and for two that were not chosen.",
        ranges_table(means),
        *of_means,
        "## One training",
        single_table(means),
        "## Shares of successes",
        "Coverage for shares of 0.5, 0.8, 0.95 and 0.99, then the least coverage over these shares "
        "of three intervals that were not chosen. Log-odds of tasks have a standard deviation of 1 "
        "where tasks differ or there are three trainings, and of 3 where tasks differ much.",
        shares_table(shares),
        "## Trainings that fail altogether",
        f"Coverage for {TASKS[-1]} tasks, by the number of trainings. A training works or has no "
        "success at all.",
        failures_table(failures),
    )


def main(args: Args) -> None:
    """Simulates, and writes the tables."""
    began = time.perf_counter()
    rng = np.random.default_rng(args.seed)
    means, shares = coverage_of_means(args, rng), coverage_of_shares(args, rng)
    failures = coverage_of_failures(args, rng)
    text = markdown(means, shares, failures, args)
    print(text)
    print(f"{time.perf_counter() - began:.0f} s")
    content = {"means": means, "shares": shares, "failures": failures}
    write(args.out / "interval_coverage.json", content, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
