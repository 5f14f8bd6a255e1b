"""Run folders: no evaluation is replaced, and a file that cannot be written or read is named.

A command ends with one line; nothing is lost. The exit code is 1 while training, and 2 elsewhere.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from tensorboard.summary.writer.record_writer import RecordWriter

from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main
from meta_rl.cli.run_folder import AppendingCSV, RunFolder

TRAIN = [
    *("train", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu", "--eval-tasks", "3"),
    *("--checkpoint-interval", "0", "--total-timesteps", "120", "--param", "meta_batch_size=8"),
    *("num_minibatches=2", "policy.hidden_size=4", "num_epochs=1", "env.horizon=5"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main([*TRAIN, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def one_line(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """The error of a command that ends with this exit code."""
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith("meta-rl: ")
    assert error.count("\n") == 1
    return error


def test_out_names_a_new_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is there, or that is no JSON file, is refused before the evaluation."""
    out = run / "mine.json"
    assert main(["evaluate", str(run), "--num-tasks", "2", "--out", str(out)]) == 0
    assert out.exists()
    assert out.with_suffix(".png").exists()
    for name in (out, run / "mine.png"):
        assert "--out" in one_line(capsys, 2, "evaluate", run, "--out", name)


def test_splits_have_their_own_axes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Axes and legends say what is shown; runs of one name are told apart by their folders."""
    other = shutil.copytree(run, tmp_path / "other")
    for split, number in (("validation", "2"), ("test", "4")):
        words = ["evaluate", str(run), "--split", split, "--num-tasks", number]
        assert main(words) == 0
    drawn: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *arguments: Any, **kwargs: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **kwargs)

    monkeypatch.setattr(Figure, "savefig", saved)
    assert main(["plot", str(run), str(other)]) == 0
    learning, test, validation = drawn[0].axes
    texts = [[t.get_text() for t in ax.get_legend().get_texts()] for ax in drawn[0].axes]
    assert all(len(set(one)) == len(one) for one in texts)
    assert learning.get_title() == "Meta-training, BernoulliBandit"
    assert "test tasks" in test.get_title()
    assert "2 validation tasks" in validation.get_title()
    assert any("evaluation-test-4" in text and "4 tasks" in text for text in texts[1])
    assert not any("validation" in text for text in texts[1])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda lines: [*lines, "1,2"], "line 5: 2 entries"),
        (lambda lines: [lines[0], lines[1].replace("4", "x").replace("0", "x")], "no number"),
        (lambda lines: [*lines, lines[1]], "does not increase"),
    ],
    ids=["ragged", "words", "backwards"],
)
def test_a_damaged_log(
    damage: Callable[[list[str]], list[str]],
    named: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = run / "progress.csv"
    log.write_text("\n".join(damage(log.read_text().splitlines())) + "\n")
    assert named in one_line(capsys, 2, "plot", run)


@pytest.mark.parametrize("name", ["config.json", "evaluation.json", "progress.csv"])
def test_a_folder_in_place_of_a_file(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).unlink()
    (run / name).mkdir()
    assert name in one_line(capsys, 2, "plot", run)


def test_too_long_a_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "too long" in one_line(capsys, 2, "plot", run, "--out", run / ("a" * 300 + ".png"))


def full_after(writes: int) -> Callable[[int], None]:
    """A disk that is full after so many files."""
    left = [writes]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fsync


@pytest.mark.parametrize("writes", [7, 8])
def test_a_disk_that_fills_up_in_a_training(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file; the checkpoint before is whole, and the run goes on from it."""
    out = tmp_path / "run"
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_after(writes))
        error = one_line(capsys, 1, *TRAIN, "--out", out)
    assert f"No space left on device: '{out}" in error
    assert "the last checkpoint is as it was" in error
    assert not list(out.glob(".*.part"))
    assert 0 < RL2.load(out / "checkpoint.zip").num_timesteps < 120
    assert main([*TRAIN, "--out", str(out), "--resume"]) == 0
    assert RL2.load(out / "checkpoint.zip").num_timesteps == 120


@pytest.mark.parametrize("records", [0, 20])
def test_a_disk_that_tensorboard_fills_up(
    records: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It writes in a thread of its own, whose traceback is not shown."""
    out, written, write = tmp_path / "run", [0], RecordWriter.write

    def full(self: RecordWriter, data: bytes) -> None:
        written[0] += 1
        if written[0] > records:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    hook = threading.excepthook
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        error = one_line(capsys, 1, *TRAIN, "--out", out)
    assert f"No space left on device: '{out / 'tensorboard'}'" in error
    assert written[0] > records
    assert threading.excepthook is hook
    assert main([*TRAIN, "--out", str(out), "--resume"]) == 0
    assert RunFolder(out).learning_curve()["time/total_timesteps"] == [40.0, 80.0, 120.0]


def test_a_full_disk_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "fsync", full_after(0))
    assert "No space left" in one_line(capsys, 2, *TRAIN, "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\udcff"])
def test_names_that_no_file_can_have(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_line(capsys, 2, *TRAIN, "--out", tmp_path / name)


@pytest.mark.parametrize("name", ["checkpoint.zip", "progress.csv"])
def test_folders_where_a_training_writes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    assert name in one_line(capsys, 1, *TRAIN, "--out", tmp_path / "run")
    assert (tmp_path / "run" / name).is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "Permission" in one_line(capsys, 2, *TRAIN, "--out", tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_unfinished_files_of_a_killed_process(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed training removes them."""
    (run / ".checkpoint.zip.1.part").write_bytes(b"half")
    assert main([*TRAIN, "--out", str(run), "--resume"]) == 0
    assert not list(run.glob(".*"))


def test_a_line_of_which_a_part_was_written(tmp_path: Path) -> None:
    """It does not count as a line of fewer steps."""
    path = tmp_path / "progress.csv"
    path.write_text("time/total_timesteps,loss,a\n12,1,1\n24,1,1\n3")
    AppendingCSV(path, 24)
    assert path.read_text().split() == ["time/total_timesteps,loss,a", "12,1,1", "24,1,1"]
