"""Committed results say what they count.

A table is the one that its numbers give, and a result that counts a task several times is marked.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meta_rl
from meta_rl.cli.settings import find_settings

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULTS = BENCHMARKS / "results"
MAML = [
    path
    for path in sorted(RESULTS.glob("maml_*.json"))
    if path.stem.split("_")[1] not in ("profile", "probe")
]
OTHERS = ("rl2_table", "rl2_speed")
RL2 = [path for path in sorted(RESULTS.glob("rl2_*.json")) if path.stem not in OTHERS]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the folder benchmarks, as if it were called there."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*.py")), ids=lambda file: file.stem)
def test_scripts_import_modules_that_exist(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that no test runs would break unseen where a module moves."""
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    monkeypatch.syspath_prepend(BENCHMARKS)
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
            module = importlib.import_module(str(statement.module))
            for alias in statement.names:
                place = f"{statement.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(place), place


def num_test_tasks(env_id: str, **env_kwargs: Any) -> int:
    return len(meta_rl.make_task_vec(env_id, 1, **env_kwargs).unwrapped.task_split.test)


def same_table(file: Path, table: str) -> None:
    """The last line tells the versions, which are those of the evaluation."""
    written = file.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert written[:-1] == table.splitlines()[:-1]


@pytest.mark.parametrize("file", MAML, ids=lambda file: file.stem)
def test_tables_of_maml(file: Path, script: Any) -> None:
    name, rows = file.stem.removeprefix("maml_"), json.loads(file.read_text(encoding="utf-8"))
    notes = script("result_files").notes(file)
    same_table(file, script("maml_curves").as_markdown(name, rows, notes))
    _, env_id, settings = find_settings("maml_trpo", name)
    known = num_test_tasks(env_id, **settings.pop("env", {}))
    for row in rows:
        figures = row["evaluation"]
        assert figures.get("distinct_tasks", figures["num_tasks"]) == known
        assert len(figures["values"]) == figures["num_tasks"]


@pytest.mark.parametrize("file", RL2, ids=lambda file: file.stem)
def test_tables_of_rl2(file: Path, script: Any) -> None:
    name, rows = (
        file.stem.removeprefix("rl2_"),
        json.loads(file.read_text(encoding="utf-8"))["rows"],
    )
    same_table(file, script("rl2_adaptation").as_markdown(name, (0,), rows))
    known = num_test_tasks(name)
    assert [row.get("distinct_tasks", row["num_tasks"]) for row in rows] == [known] * len(rows)


def test_tables_of_classical_learners(script: Any) -> None:
    for name in ("classical_bandits", "classical_mdps"):
        file = RESULTS / f"{name}.json"
        table = script(name).markdown(script("result_files").read(file), file)
        assert file.with_suffix(".md").read_text(encoding="utf-8") == table


def test_tables_of_memory_and_rl2(script: Any) -> None:
    result = script("result_files").result
    memory, rl2 = RESULTS / "memory_tables.json", RESULTS / "rl2_table.json"
    pages = script("memory_tables").markdown(result("memory_tables")["rows"], memory)
    assert memory.with_suffix(".md").read_text(encoding="utf-8") == pages
    same_table(rl2, script("rl2_table").as_markdown(result("rl2_table")))


def test_summaries_of_pearl_are_those_of_its_values(script: Any) -> None:
    """The rows, which the documentation's tables show, tell the means of the tasks' returns."""
    files = [path for path in RESULTS.glob("pearl_*.json") if "updates" not in path.stem]
    assert len(files) >= 6
    for file in files:
        content = script("result_files").read(file)
        assert content["rows"].keys() == content["values"].keys()
        for learner, row in content["rows"].items():
            values = np.array(content["values"][learner])
            np.testing.assert_allclose(row["mean"], values.mean(axis=0))
            last = content["curves"][f"{learner}-seed0"][-1]
            assert (row["steps"], row["updates"]) == (last["steps"], last["updates"])


def test_a_training_begins_and_goes_on(script: Any, tmp_path: Path) -> None:
    """The same call begins where there is no run, does nothing at its end, and goes on further."""
    training = script("result_files").resumed_training
    found = []
    for timesteps in (1, 1, 30_000):
        folder = training("rl2", "BernoulliBandit", 0, tmp_path / "run", timesteps)
        found.append(folder.learning_curve()["time/total_timesteps"])
    first, again, further = found
    assert first == again == further[:1]
    assert len(further) == 2


def test_there_are_results_to_look_at() -> None:
    assert len(MAML) >= 7
    assert len(RL2) >= 2


def test_marks(script: Any) -> None:
    """Only where fewer tasks are distinct than were counted."""
    module = script("result_files")
    assert module.marked("RL²", 30, 30) == "RL²"
    assert module.marked("RL²", 40, 30) == "RL² †"
    assert module.repeated_note(30, 30) == []
    assert "40 tasks, of which only 30" in module.repeated_note(40, 30)[0]


def test_only_an_agent_that_no_published_learner_beats_is_an_oracle(script: Any) -> None:
    module = script("ppo_oracle")
    assert module.told_name("HalfCheetahVel", -37.3) == "oracle"
    assert module.told_name("HalfCheetahVel", -37.4) == module.TOLD
    assert module.told_name("NotPublished", 1e6) == module.TOLD
    assert "no upper bound: a published log of PEARL has 1674" in module.told_note(
        "HalfCheetahDir", 802.0
    )
    assert "no upper bound" not in module.told_note("HalfCheetahDirMAML", 519.7)
