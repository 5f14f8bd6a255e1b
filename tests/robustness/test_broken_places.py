"""Full disks, and places where nothing can be written: one line, and nothing is lost.

Training ends with exit code 1, everything else with 2. The earlier checkpoint stays whole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meta_rl import files
from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main

TRAIN = ["train", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu", "--eval-tasks", "4"]
SMALL = ["--param", "meta_batch_size=4", "num_minibatches=2", "policy.hidden_size=4"]


def ends_with(code: int, capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line on stderr of a command that ends with this exit code."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr().err
    assert printed.startswith("meta-rl: ")
    assert printed.count("\n") == 1
    return printed


def full_after(writes: int) -> Callable[[int], None]:
    """A disk that is full after so many files."""
    left = [writes]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fsync


def test_a_disk_that_fills_up_in_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file; the checkpoint before it can be resumed."""
    run = tmp_path / "run"
    length = ["--total-timesteps", "400", "--checkpoint-interval", "0", "--out", run]
    with monkeypatch.context() as full:
        full.setattr(files.os, "fsync", full_after(8))
        printed = ends_with(1, capsys, *TRAIN, *SMALL, *length)
    assert f"No space left on device: '{run}" in printed
    assert "the last checkpoint is as it was" in printed
    assert not list(run.glob(".*.part"))
    assert RL2.load(run / "checkpoint.zip", device="cpu").num_timesteps >= 40
    assert main([str(word) for word in [*TRAIN, *SMALL, *length, "--resume"]]) == 0


def test_a_full_disk_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files.os, "fsync", full_after(0))
    assert "No space left" in ends_with(2, capsys, *TRAIN, *SMALL, "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_can_have(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_with(2, capsys, *TRAIN, *SMALL, "--out", tmp_path / name)


@pytest.mark.parametrize("name", ["checkpoint.zip", "progress.csv"])
def test_folders_where_files_should_be(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    capsys.readouterr()
    code = main([*TRAIN, *SMALL, "--total-timesteps", "80", "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().err
    assert code in (1, 2)
    assert name in printed
    assert printed.count("\n") == 1
    assert (tmp_path / "run" / name).is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "Permission" in ends_with(2, capsys, *TRAIN, *SMALL, "--out", tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)
