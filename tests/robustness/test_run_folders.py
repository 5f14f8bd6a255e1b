"""Run folders: no evaluation is replaced, and a file that cannot be written or read is named."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main
from meta_rl.cli.run_folder import AppendingCSV

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


def test_a_full_disk_while_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second checkpoint cannot be written: the first one is whole, and the run goes on."""
    out, sync = tmp_path / "run", os.fsync

    def full(file: int) -> None:
        if (out / "checkpoint.zip").exists() and "checkpoint" in os.readlink(
            f"/proc/self/fd/{file}"
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    error = one_line(capsys, 1, *TRAIN, "--out", out)
    assert "No space left on device" in error
    assert "checkpoint.zip" in error
    monkeypatch.undo()
    done = RL2.load(out / "checkpoint.zip").num_timesteps
    assert done < 120
    assert not list(out.glob(".*.part"))
    assert main([*TRAIN, "--out", str(out), "--resume"]) == 0
    assert RL2.load(out / "checkpoint.zip").num_timesteps == 120


def test_a_line_of_which_a_part_was_written(tmp_path: Path) -> None:
    """It does not count as a line of fewer steps."""
    path = tmp_path / "progress.csv"
    path.write_text("time/total_timesteps,loss,a\n12,1,1\n24,1,1\n3")
    AppendingCSV(path, 24)
    assert path.read_text().split() == ["time/total_timesteps,loss,a", "12,1,1", "24,1,1"]
