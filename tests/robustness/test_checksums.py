"""Text files of a run folder: a single changed bit never gives other content."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meta_rl.cli import main
from meta_rl.cli.run_folder import AppendingCSV, RunConfig, RunFolder
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.few_shot.data.vector_cache import VectorCache
from meta_rl.files.checksums import CheckedLog

TRAIN = [
    *("train", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu", "--eval-tasks", "3"),
    *("--param", "meta_batch_size=8", "num_minibatches=2", "policy.hidden_size=4", "num_epochs=1"),
    *("env.horizon=5", "--checkpoint-interval", "0", "--total-timesteps"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main([*TRAIN, "120", "--out", str(out)]) == 0
    return out


READ: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: RunFolder(path.parent).config(),
    "evaluation.json": lambda path: EvaluationResult.load(path).to_json(),
    "progress.csv": lambda path: str(RunFolder(path.parent).learning_curve()),
}


@pytest.mark.parametrize("name", READ)
def test_every_changed_bit_is_refused_or_changes_nothing(
    name: str, run: Path, tmp_path: Path
) -> None:
    """One error, of one line. Bits of spaces change nothing in JSON; nearly all are refused."""
    original = (run / name).read_bytes()
    for file in run.glob("*.sha256"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / name
    path.write_bytes(original)
    content, refused = READ[name](path), 0
    draws = np.random.default_rng(0).permutation(8 * len(original))[:1500]
    for bit in draws:
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert READ[name](path) == content
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
    assert refused > 0.9 * len(draws)


@pytest.mark.parametrize("command", ["evaluate", "plot", "resume"])
def test_an_edited_configuration(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what to do, and doing it helps."""
    words = {"resume": [*TRAIN, "120", "--resume", "--out", str(run)]}
    words |= {
        "evaluate": ["evaluate", str(run), "--num-tasks", "3"],
        "plot": ["plot", str(run)],
    }
    file = run / "config.json"
    original = file.read_text()
    edited = original.replace('"threads": ', '"threads": 1')
    file.write_text(edited)
    assert main(words[command]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert 'delete the entry "checksum"' in error
    lines = edited.splitlines(keepends=True)
    assert '"checksum"' in lines[1]
    file.write_text("".join([lines[0], *lines[2:]]))
    assert main(words[command]) == 0
    file.write_text(original)


def test_a_changed_log(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not resumed and not drawn, until its checksums are deleted."""
    log, checksums = run / "progress.csv", run / "progress.csv.sha256"
    original, known = log.read_text(), checksums.read_text()
    lines = original.splitlines(keepends=True)
    log.write_text(lines[0] + lines[2])
    for words in ([*TRAIN, "160", "--resume", "--out", str(run)], ["plot", str(run)]):
        assert main(words) == 2
        assert f"delete {checksums}" in capsys.readouterr().err
    checksums.unlink()
    assert main(["plot", str(run)]) == 0
    log.write_text(original)
    checksums.write_text(known)


def test_files_of_earlier_versions_have_no_checksums(tmp_path: Path) -> None:
    config = RunConfig("rl2", "B", "B-v0", {}, {}, 10, 0, {}, None)
    (tmp_path / "config.json").write_text(json.dumps(vars(config)))
    (tmp_path / "progress.csv").write_text("time/total_timesteps,a\n10,1.5\n")
    assert RunFolder(tmp_path).config() == config
    assert RunFolder(tmp_path).learning_curve()["a"] == [1.5]
    AppendingCSV(tmp_path / "progress.csv", 10)
    assert (tmp_path / "progress.csv.sha256").exists()


@pytest.mark.parametrize("written", ["nothing", "a part", "all"])
def test_a_log_whose_process_was_killed(written: str, tmp_path: Path) -> None:
    """Between the checksums and the line, within the line, and after it."""
    log = CheckedLog(tmp_path / "progress.csv")
    log.replace("a,b\n")
    log.append("1,2\n")
    log.append("3,4\n")
    kept = {"nothing": "a,b\n1,2\n", "a part": "a,b\n1,2\n3,", "all": "a,b\n1,2\n3,4\n"}[written]
    log.path.write_text(kept)
    assert CheckedLog(log.path).read() == (kept, "")
    log.path.write_text("a,b\n3,4\n")
    assert "checksum differs" in CheckedLog(log.path).read()[1]


def test_vectors_of_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged vector is not there: it is computed again, and replaced."""
    monkeypatch.setenv("META_RL_CACHE", str(tmp_path))
    vectors = {bytes([i]) * 4: np.full(3, float(i), np.float32) for i in range(4)}
    with VectorCache("name") as cache:
        cache.write(vectors)
        assert cache.file is not None
        file = cache.file
    with sqlite3.connect(file) as table:
        rows = table.execute("SELECT key, value FROM checked").fetchall()
        flipped = bytearray(rows[1][1])
        flipped[-1] ^= 1
        for key, value in ((rows[1][0], bytes(flipped)), (rows[2][0], rows[0][1]), (rows[3][0], 5)):
            table.execute("UPDATE checked SET value = ? WHERE key = ?", (value, key))
    table.close()
    with VectorCache("name") as cache:
        found = cache.read(list(vectors))
        assert list(found) == [rows[0][0]]
        cache.write(vectors)
        assert {key: value.tolist() for key, value in cache.read(list(vectors)).items()} == {
            key: value.tolist() for key, value in vectors.items()
        }
