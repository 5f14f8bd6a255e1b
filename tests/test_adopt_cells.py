"""Cells that are taken into the repository: what is checked, written, and made of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meta_rl
from meta_rl import pretrained
from meta_rl.cli.report.packed import packed, unpacked
from meta_rl.cli.report.results import read_results
from meta_rl.cli.suites.identity import digest, file_digest
from meta_rl.cli.suites.jobs import Cell
from meta_rl.cli.suites.tables import Row, read_suite
from meta_rl.files.checksums import read_json
from meta_rl.pretrained import load_pretrained, pretrained_card

from .suites import TABLE, evaluation, result, write_folder

ROOT = Path(__file__).resolve().parent.parent
ADOPTED = ROOT / "benchmarks" / "results" / "suites"
RESULTS = sorted((ADOPTED / "results").glob("*.json"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("adopt_cells")


def finished(tmp_path: Path, *cells: dict[str, Any]) -> Path:
    """A folder of a suite with results and checkpoints."""
    cells = cells or tuple(result("alpha", seed, 4.0 + seed) for seed in (0, 1))
    folder = tmp_path / "suite"
    for cell in cells:
        cell["config"] = {**cell["config"], "algorithm": "alpha", "tasks": "PointNavigation"}
        cell["device"] = "cpu"
        run = folder / "runs" / f"{cell['name']}-{digest(cell['identity'])[:8]}"
        run.mkdir(parents=True)
        (run / "checkpoint.zip").write_text(cell["name"])
        cell["checkpoint_sha256"] = file_digest(run / "checkpoint.zip")
    return write_folder(folder, list(cells))


def adopt(script: Any, tmp_path: Path, folder: Path, *pretrained: str, **changed: Any) -> int:
    args = script.Args(
        (folder,),
        pretrained=pretrained,
        out=tmp_path / "adopted",
        agents=tmp_path / "agents",
        **changed,
    )
    return int(script.main(args))


class TestPacking:
    @pytest.mark.parametrize(
        "values", [[[0.0, 1.0]], [[-0.0, 0.5]], [[1 / 3, 1e300]], [[128.0, 70_000.0]]]
    )
    def test_nothing_is_lost(self, values: list[list[float]]) -> None:
        content = {"kind": "cell", "evaluations": {"test": evaluation(values)}}
        content["evaluations"]["test"]["tasks"] = [2**40]
        again = unpacked(json.loads(json.dumps(packed(content))))
        assert json.dumps(again) == json.dumps(content)

    def test_a_reference_is_packed_too(self) -> None:
        content = {"random": 0.25, "best": evaluation([[1.0] * 50] * 50), "about": "x"}
        small = packed(content)
        assert len(json.dumps(small)) < len(json.dumps(content)) / 5
        assert unpacked(small) == content

    def test_damage_is_noticed(self) -> None:
        content = packed({"evaluations": {"test": evaluation([[1.0, 2.0]])}})
        content["evaluations"]["test"]["values"]["zlib_base64"] = "eJw="
        with pytest.raises(ValueError, match="an array is damaged"):
            unpacked(content)


class TestAdoption:
    def test_results_and_references_keep_their_numbers(
        self, script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two trainings of two minutes and an evaluation of one, on two cores: 0.2 core-hours."""
        folder = finished(tmp_path)
        assert adopt(script, tmp_path, folder) == 0
        assert "alpha-PointNavigation: 2 trainings, 0.20 core-hours" in capsys.readouterr().out
        theirs, ours = read_results(folder).groups[0], read_results(tmp_path / "adopted").groups[0]
        assert np.array_equal(ours.scores, theirs.scores)
        assert ours.score() == theirs.score()
        assert ours.reference_score("best") == theirs.reference_score("best") == 10.0
        file = tmp_path / "adopted" / "results" / "alpha-PointNavigation-seed1.json"
        assert read_json(file)[0]["scores"] == {"test": 5.0, "ood": 1.0}
        assert read_json(file)[1] == ""

    @pytest.mark.parametrize(
        ("part", "value"), [("code", "other"), ("versions", {"numpy": "0"}), ("settings", None)]
    )
    def test_trainings_that_differ_are_refused(
        self,
        part: str,
        value: Any,
        script: Any,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        cells = [result("alpha", seed, 4.0) for seed in (0, 1)]
        if part == "settings":
            cells[1]["config"] = {**cells[1]["config"], "total_timesteps": 7}
        else:
            cells[1]["identity"] = {**cells[1]["identity"], part: value}
        folder = finished(tmp_path, *cells)
        assert adopt(script, tmp_path, folder) == 2
        assert f"trainings have different {part}: seeds [0] against [1]" in capsys.readouterr().err
        assert not (tmp_path / "adopted" / "results").exists()
        expected = 2 if part == "settings" else 0
        assert adopt(script, tmp_path, folder, different_code=True) == expected

    def test_changed_files_are_refused(
        self, script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = finished(tmp_path)
        file = folder / "results" / "alpha-PointNavigation-seed0.json"
        text = file.read_text()
        file.write_text(text.replace("[0.0, 5.0]", "[0.0, 6.0]"))
        assert adopt(script, tmp_path, folder) == 2
        assert "the evaluation on test tasks was changed" in capsys.readouterr().err
        file.write_text(text)
        (checkpoint,) = (folder / "runs").glob("alpha-PointNavigation-seed0-*/checkpoint.zip")
        checkpoint.write_text("another")
        assert adopt(script, tmp_path, folder) == 2
        assert "is not the one that" in capsys.readouterr().err
        checkpoint.unlink()
        assert adopt(script, tmp_path, folder) == 2
        assert "has no checkpoint" in capsys.readouterr().err

    def test_further_seeds_join_and_other_code_replaces(
        self, script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert adopt(script, tmp_path, finished(tmp_path / "a", result("alpha", 0, 4.0))) == 0
        assert adopt(script, tmp_path, finished(tmp_path / "b", result("alpha", 1, 6.0))) == 0
        assert "2 trainings" in capsys.readouterr().out
        newer = result("alpha", 2, 8.0, identity={"settings": "s", "code": "new", "versions": {}})
        assert adopt(script, tmp_path, finished(tmp_path / "c", newer)) == 0
        printed = capsys.readouterr().out
        assert "alpha-PointNavigation-seed0 is dropped" in printed
        assert "alpha-PointNavigation: 1 trainings" in printed

    def test_chosen_rows(self, script: Any, tmp_path: Path) -> None:
        folder = finished(tmp_path, result("alpha", 0, 4.0), result("beta", 0, 5.0))
        assert adopt(script, tmp_path, folder, rows=("beta-PointNavigation",)) == 0
        files = (tmp_path / "adopted" / "results").iterdir()
        assert [file.name for file in files] == ["beta-PointNavigation-seed0.json"]

    def test_an_agent_without_a_row_is_refused(
        self, script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert adopt(script, tmp_path, finished(tmp_path), "alpha-PointNavigation:7") == 2
        assert "there is no such training" in capsys.readouterr().err


def test_a_cell_becomes_a_pretrained_agent(
    script: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is trained, adopted, loaded by its name, and earns what its card says."""
    (row, _), *_ = read_suite("small", TABLE).cells()
    folder = tmp_path / "suite"
    for seed in (0, 1):
        Cell(row, seed).run(folder)
    assert adopt(script, tmp_path, folder, "rl2-BernoulliBandit:1") == 0
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "agents")
    card, model = pretrained_card("rl2/BernoulliBandit"), load_pretrained("rl2/BernoulliBandit")
    assert card.config["seed"] == model.seed == 1
    assert (card.num_trainings, card.num_tasks, card.totals) == (2, 8, True)
    found = meta_rl.evaluate_adaptation(model, model.env_id, 8, **card.config["env_kwargs"])
    assert found.total.mean() == card.own_mean
    assert found.total.std(ddof=1) == card.own_deviation
    cells = [json.loads(file.read_text()) for file in sorted((folder / "results").glob("*.json"))]
    totals = [np.sum(cell["evaluations"]["test"]["values"], axis=1).mean() for cell in cells]
    assert card.mean == pytest.approx(np.mean(totals))
    assert card.commit == cells[0]["code"]["commit"]
    assert card.sha256 == card.result_sha256 == cells[card.config["seed"]]["checkpoint_sha256"]
    monkeypatch.setattr(script, "MOST_BYTES", 3)
    assert adopt(script, tmp_path, folder, "rl2-BernoulliBandit") == 2
    assert "too much for the package" in capsys.readouterr().err
    assert pretrained_card("rl2/BernoulliBandit") == card


def test_trials_that_varibad_keeps_are_left_out(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It acts as before, and goes on learning from new trials."""
    settings = {"meta_batch_size": 4, "num_minibatches": 1, "num_epochs": 1, "inference_trials": 2}
    policy = {"hidden_size": 4, "hidden_sizes": [4], "latent_size": 2}
    row = Row("varibad", "GridNavigation", 0.1, budget=480, settings={**settings, "policy": policy})
    folder = tmp_path / "suite"
    Cell(row, 0).run(folder)
    assert adopt(script, tmp_path, folder, "varibad-GridNavigation") == 0
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "agents")
    card = pretrained_card("varibad/GridNavigation")
    assert card.sha256 != card.result_sha256
    model = load_pretrained(card.name, env="meta_rl/GridNavigation-v0")
    assert model.recent.numel() == 0
    found = meta_rl.evaluate_adaptation(model, model.env_id)
    assert found.values[:, -1].mean() == card.own_mean
    model.learn(240, log_interval=None)
    assert model.recent.shape[1] == 4


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_committed_results_are_undamaged(file: Path) -> None:
    content, damage = read_json(file)
    assert damage == ""
    assert content["name"] == file.stem
    assert file.stat().st_size < 200_000


def test_the_rows_of_committed_results_are_of_one_kind(script: Any) -> None:
    """A row is one group: its trainings have the same settings, code and versions."""
    groups = read_results(ADOPTED).groups
    assert len({group.name for group in groups}) == len(groups) > 0
    for group in groups:
        script.check_row(group.name, group.trainings, different_code=False)
    plan = json.loads((ADOPTED / "suite.json").read_text(encoding="utf-8"))
    assert sorted(plan["jobs"]) == [file.stem for file in RESULTS]
