"""Margins of the tests of learning: over seeds, processors' instructions and threads.

Every test that is marked ``learning`` runs with five seeds on two of PyTorch's instruction sets,
once with two threads, and with five seeds without learning, where it has to fail. The table has
the worst score of each beside its bound. The exit status is 1 where the rule is broken.

    python -m tests.seeds                              # all of them: what make test-seeds does
    python -m tests.seeds tests/few_shot/test_ntm.py   # these; the others keep their rows
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from meta_rl.provenance import package_versions, versions_text, write_atomically

from .learning import bound_of, holds

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks" / "results" / "test_seeds.json"
SEEDS = range(5)
PART = 0.03  # of the distance between the worst score and the best without learning
RULE = (
    "The rule: the bound is at least as far beyond the worst score as the worst is from the best, "
    f"and at least {PART:.0%} of the distance between the worst score and the best one without "
    "learning. Without learning, every test fails with every seed."
)


@dataclass(frozen=True)
class Run:
    """One run of the tests."""

    seed: int
    capability: str = "default"
    threads: int = 1
    learning: bool = True

    @property
    def name(self) -> str:
        """Unique, and as the table has it."""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        kind = self.capability if self.learning else "without learning"
        return f"{kind}, seed {self.seed}{threads}"


RUNS = [
    *(Run(seed) for seed in SEEDS),
    *(Run(seed, learning=False) for seed in SEEDS),
    *(Run(seed, capability="avx2") for seed in SEEDS),
    Run(0, threads=2),
]


@dataclass
class Args:
    """Settings of the run."""

    tests: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files or ids of tests, whose rows are written in place of earlier ones (default: all)."""
    only: tuple[str, ...] = ()
    """Names of runs, such as "avx2, seed 3", that are added to earlier rows (default: all)."""
    processes: str = "auto"
    """Tests that run at the same time: a number, or as many as there are cores."""


def played(run: Run, tests: tuple[str, ...], processes: str) -> dict[str, Any]:
    """What each test reports in one run: its outcome and its scores.

    Raises:
        RuntimeError: The tests did not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "learned.json"
        options = ["-q", "-m", "learning and not slow", "-n", processes, "--learned", str(file)]
        options += ["--seed", str(run.seed), "--threads", str(run.threads)]
        options += [] if run.learning else ["--no-learning"]
        environment = os.environ | {
            "ATEN_CPU_CAPABILITY": run.capability,
            "OMP_NUM_THREADS": str(run.threads),
            "OMP_WAIT_POLICY": "passive",  # threads that wait leave the cores to others
        }
        command = [sys.executable, "-m", "pytest", *options, *tests]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{run.name}: pytest failed\n{done.stdout}\n{done.stderr}")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found


def add(rows: dict[str, Any], run: Run, found: dict[str, Any]) -> None:
    """Write what was found in a run into the rows."""
    for test, told in found.items():
        row = rows.setdefault(test, {"outcomes": {}, "scores": {}})
        row["outcomes"][run.name] = told["outcome"]
        for score in told["scores"]:
            kept = row["scores"].setdefault(score["what"], {"runs": {}})
            kept |= {"at_least": score["at_least"], "at_most": score["at_most"]}
            kept["runs"][run.name] = score["score"]


@dataclass(frozen=True)
class Margin:
    """The worst of a score, and what the rule asks for."""

    worst: float
    best: float
    without: float  # the best without learning
    margin: float  # from the bound to the worst score
    needed: float

    @property
    def holds(self) -> bool:
        """Whether the rule is kept."""
        return self.margin >= self.needed


def margin_of(score: dict[str, Any]) -> Margin:
    """The margin of one score, which has one bound."""
    sign, bound = (1, score["at_least"]) if score["at_most"] is None else (-1, score["at_most"])
    values = [
        [sign * value for name, value in score["runs"].items() if ("without" in name) is untrained]
        for untrained in (False, True)
    ]
    worst, best, without = min(values[0]), max(values[0]), max(values[1], default=-math.inf)
    return Margin(
        sign * worst,
        sign * best,
        sign * without,
        margin=worst - sign * bound,
        needed=max(best - worst, PART * (worst - without)),
    )


def complaints(rows: dict[str, Any]) -> list[str]:
    """Where the rule is broken, one line each; also where a run is missing."""
    found = []
    for test, row in rows.items():
        missing = [run.name for run in RUNS if run.name not in row["outcomes"]]
        if missing:
            found.append(f"{test}: was not run with {'; '.join(missing)}")
            continue
        found += [f"{test}: {told}" for run in RUNS for told in wrong_in(run, row)]
        for what, score in row["scores"].items():
            margin = margin_of(score)
            if not margin.holds:
                found.append(
                    f"{test}: {what}: {bound_of(score)} is {margin.margin:.3g} from the worst "
                    f"score {margin.worst:.4g}, which has to be {margin.needed:.3g}"
                )
    return found


def wrong_in(run: Run, row: dict[str, Any]) -> list[str]:
    """What is wrong with a test in one run."""
    wanted = "passed" if run.learning else "failed"
    if row["outcomes"][run.name] != wanted:
        return [f"has not {wanted}: {run.name}"]
    missed = [
        name
        for name, score in row["scores"].items()
        if run.name in score["runs"] and not holds(score | {"score": score["runs"][run.name]})
    ]
    # A test that fails without learning by something else than its scores proves nothing.
    return [] if run.learning or missed else [f"no score misses its bound: {run.name}"]


def table(rows: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [
        "# Tests of learning: the worst of each beside its bound",
        "",
        f"`make test-seeds`: seeds {SEEDS[0]} to {SEEDS[-1]} with `ATEN_CPU_CAPABILITY` `default` "
        "and `avx2`, and seed 0 with two threads. Without learning, the same seeds with updates "
        "that change nothing.",
        "",
        RULE,
        "",
        "| test | score | bound | worst | best | worst in | best without learning |",
        "|---|---|---|---|---|---|---|",
    ]
    for test, row in sorted(rows.items()):
        name = test.removeprefix("tests/").replace("::", " ").replace("|", "/")
        for what, score in row["scores"].items():
            margin = margin_of(score)
            where = next(run for run, value in score["runs"].items() if value == margin.worst)
            lines.append(
                f"| {name} | {what} | {bound_of(score)} | **{margin.worst:.3g}** "
                f"| {margin.best:.3g} | {where} | {margin.without:.3g} |"
            )
            name = ""
    return "\n".join([*lines, "", f"{versions_text()}.", ""])


def main(args: Args) -> int:
    """Run, write the table after every run, and say where the rule is broken."""
    content = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"rows": {}}
    rows, begun = content["rows"], time.perf_counter()
    fresh: set[str] = set()
    for run in RUNS:
        if args.only and run.name not in args.only:
            continue
        found = played(run, args.tests, args.processes)
        if not args.only:  # rows of another time go
            gone = set(found) if args.tests else set(rows) | set(found)
            for test in gone - fresh:
                rows.pop(test, None)
            fresh |= gone
        add(rows, run, found)
        content["versions"] = package_versions()
        write_atomically(TABLE, json.dumps(content, indent=1) + "\n")
        print(f"{run.name}: {len(found)} tests, {time.perf_counter() - begun:.0f} s", flush=True)
    broken = complaints(rows)
    if not any("was not run" in line for line in broken):
        write_atomically(TABLE.with_suffix(".md"), table(rows))
        print(table(rows))
    print("\n".join(broken) or "Every bound keeps the rule.")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
