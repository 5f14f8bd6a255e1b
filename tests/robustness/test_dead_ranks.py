"""Ranks that die, freeze or are stopped: the training ends with one line, and goes on later.

A killed rank ends the others at once, a signal ends all of them after the same iteration, and the
checkpoint goes on with any number of ranks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from meta_rl.cli import main
from meta_rl.cli.trainable import trainable
from meta_rl.compute import rank_watch, ranks
from meta_rl.files.sealed import read_file

from ..test_torchrun import ROOT, environment, free_port, start_ranks

TRIALS = 8
TRAINING = [
    *("train", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu", "--eval-tasks", "0"),
    *("--checkpoint-interval", "0", "--param", f"meta_batch_size={TRIALS}", "num_minibatches=2"),
    *("policy.hidden_size=8", "num_epochs=2", "env.horizon=5", "learning_rate=0.002"),
]
ITERATION = TRIALS * 5


def command(out: Path, steps: int, *more: str) -> list[str]:
    return [*TRAINING, "--total-timesteps", str(steps), "--out", str(out), *more]


@contextmanager
def as_only_rank() -> Iterator[None]:
    """Within it, this process is what torchrun starts with one rank."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(0, 1, free_port()).items():
            patch.setenv(name, value)
        yield


def steps_done(folder: Path) -> int:
    found: int = read_file(folder / "checkpoint.zip", "RL2").content["attributes"]["num_timesteps"]
    return found


def wait_for_checkpoint(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not (folder / "checkpoint.zip").exists():
        running = all(process.poll() is None for process in processes)
        if not running or time.monotonic() > deadline:
            raise AssertionError([process.communicate() for process in processes])
        time.sleep(0.02)


def test_the_others_end_with_one_line_when_a_rank_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was saved goes on with another number of ranks."""
    out = tmp_path / "run"
    first, second = start_ranks(2, "-m", "meta_rl", *command(out, 10**9))
    wait_for_checkpoint(out, [first, second])
    second.kill()
    output, errors = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 1
    assert output == ""
    assert errors.count("meta-rl:") == 1
    assert f"rank 1 (process {second.pid} on " in errors
    assert "no longer answers; the last checkpoint is as it was" in errors
    steps = steps_done(out) + ITERATION
    with as_only_rank():
        assert main(command(out, steps, "--resume")) == 0
    assert "run folder" in capsys.readouterr().out
    assert steps_done(out) == steps


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    """Two iterations on two ranks and two on one equal four on one."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    two = start_ranks(2, "-m", "meta_rl", *command(out, 2 * ITERATION))
    with as_only_rank():
        assert main(command(whole, 4 * ITERATION)) == 0
    ended = [process.communicate(timeout=300) for process in two]
    assert [process.returncode for process in two] == [0, 0], ended
    assert ended[1] == ("", "")  # one rank writes, the others are silent
    assert "run folder" in ended[0][0]
    with as_only_rank():
        assert main(command(out, 4 * ITERATION, "--resume")) == 0
    one, other = (
        trainable("rl2").load(folder / "checkpoint.zip", device="cpu") for folder in (out, whole)
    )
    assert one.steps_done == other.steps_done == 4 * ITERATION
    for (name, value), wanted in zip(
        one.policy.named_parameters(), other.policy.parameters(), strict=True
    ):
        np.testing.assert_allclose(value.detach(), wanted.detach(), rtol=0, atol=1e-5, err_msg=name)


def test_torchrun_ends_all_ranks_after_the_same_iteration(tmp_path: Path) -> None:
    """By SIGTERM to torchrun, as a scheduler sends it."""
    out = tmp_path / "run"
    launcher = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")]
    process = subprocess.Popen(
        [sys.executable, *launcher, "-m", "meta_rl", *command(out, 10**9)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(out, [process])
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    ours = [line for line in errors.splitlines() if line.startswith("meta-rl:")]
    assert ours == [
        "meta-rl: interrupted after a whole iteration, which is saved; --resume goes on from the "
        "last checkpoint"
    ], errors
    assert not (out / "run.lock").exists()
    assert steps_done(out) % ITERATION == 0


class TestWatch:
    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A store like that of torchrun, and short times."""
        port = free_port()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        monkeypatch.setattr(rank_watch, "BEAT", 0.05)
        monkeypatch.setattr(rank_watch, "PATIENCE", 0.6)
        return dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)

    def test_it_finds_a_frozen_rank_and_tells_the_others(self, store: Any) -> None:
        lines: list[list[str]] = [[], [], []]
        watches = [rank_watch.Watch(rank, 3, lines[rank].append) for rank in range(3)]
        time.sleep(1.0)
        assert lines == [[], [], []]  # while all are alive
        watches[1]._ended.set()  # it freezes
        time.sleep(1.5)
        for watch in watches:
            watch._ended.set()
        said = [line for each in lines for line in set(each) if line]
        assert len(said) == 1
        assert said[0].startswith(f"rank 1 (process {os.getpid()} on ")
        assert lines[0]
        assert lines[2]

    def test_a_rank_that_has_left_is_not_missed(self, store: Any) -> None:
        lines: list[str] = []
        watch, other = (rank_watch.Watch(rank, 2, lines.append) for rank in range(2))
        other.stop()
        time.sleep(1.0)
        watch.stop()
        assert lines == []


class TestRefused:
    def refused(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        with as_only_rank():
            assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    def test_agents_that_ranks_do_not_share(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = ["--out", str(tmp_path / "run")]
        error = self.refused(["train", "varibad", "GridNavigation", *out], capsys)
        assert "VariBAD does not train on several ranks: start it without torchrun" in error
        assert not (tmp_path / "run").exists()

    def test_other_commands(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        error = self.refused(["evaluate", str(tmp_path)], capsys)
        assert "torchrun is for `train` without --seeds" in error

    def test_shares_that_are_not_equal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ranks, "_now", ranks._Ranks(0, 3))
        with pytest.raises(ValueError, match="meta_batch_size=8 is no multiple of the 3 ranks"):
            trainable("rl2")(env="BernoulliBandit", meta_batch_size=8, num_minibatches=1)
        monkeypatch.setattr(ranks, "_now", ranks._Ranks(0, 2))
        with pytest.raises(ValueError, match="4 trials of each rank are no multiple"):
            trainable("rl2")(env="BernoulliBandit", meta_batch_size=8, num_minibatches=3)
