"""Resume means resume: a run goes on as it began, has one owner, and a signal saves and ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meta_rl.algorithms import find_algorithm
from meta_rl.cli import main
from meta_rl.cli.interruption import Interruption
from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.trainable import trainable
from meta_rl.cli.training import Checkpoints

SHORT = ["--quiet", "--device", "cpu", "--eval-tasks", "3", "--checkpoint-interval", "1000"]
RUNS: dict[str, list[str]] = {
    "rl2": [
        *("train", "rl2", "BernoulliBandit", *SHORT, "--param", "meta_batch_size=8"),
        *("num_minibatches=2", "policy.hidden_size=8", "num_epochs=2", "env.horizon=5"),
    ],
    "maml_trpo": [
        *("train", "maml_trpo", "PointNavigation", *SHORT, "--param", "meta_batch_size=2"),
        *("envs_per_task=2", "env.horizon=10", "policy.hidden_sizes=(4,)"),
    ],
    "pearl": [
        *("train", "pearl", "PointRobot", *SHORT, "--param", "meta_batch_size=4"),
        *("num_train_tasks=4", "initial_steps=20", "prior_steps=20", "posterior_steps=20"),
        *("extra_steps=0", "updates_per_iteration=4", "tasks_per_update=2", "batch_size=8"),
        *("context_size=8", "buffer_size=80000", "policy.hidden_sizes=(8,8)", "save_replay=True"),
    ],
    "maml": [
        *("train", "maml", "Sinusoid-5s", *SHORT, "--param", "policy.hidden=[4]"),
        *("env.num_test=12", "meta_batch_size=2"),
    ],
}
ENDLESS = {"rl2": 4_000_000, "maml_trpo": 4_000_000, "pearl": 4_000_000, "maml": 2_000_000}
"""Steps of runs that a signal has to end."""

BRIEF = {"rl2": 400, "maml_trpo": 320, "pearl": 800, "maml": 40}


def command(name: str, steps: int, out: Path, *more: str) -> list[str]:
    return [*RUNS[name], "--total-timesteps", str(steps), "--out", str(out), *more]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that a command ends with, and exit code 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "meta_rl.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(run: subprocess.Popen[str], found: Any) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        if found():
            return
        time.sleep(0.01)
    run.kill()
    raise AssertionError(run.communicate()[1])


class TestNothingToResume:
    @pytest.mark.parametrize("kind", ["no folder", "empty folder", "checkpoint alone"])
    @pytest.mark.parametrize("name", ["rl2", "maml"])
    def test_it_is_refused(
        self, name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "typo"
        if kind != "no folder":
            out.mkdir()
        if kind == "checkpoint alone":
            (out / "checkpoint.zip").write_bytes(b"")
        before = sorted(tmp_path.rglob("*"))
        error = refused(capsys, command(name, BRIEF[name], out, "--resume"))
        assert "holds no run to go on with" in error
        assert sorted(tmp_path.rglob("*")) == before


class TestOtherSettings:
    @pytest.mark.parametrize(
        ("name", "change", "named"),
        [
            ("rl2", ["num_epochs=3"], "algorithm_kwargs: num_epochs: 2 there, 3 asked"),
            ("rl2", ["discount=0.5"], "algorithm_kwargs: discount: "),
            ("rl2", ["env.horizon=4"], "env_kwargs: horizon: 5 there, 4 asked"),
            (
                "rl2",
                ["policy.hidden_size=9"],
                "algorithm_kwargs: policy_kwargs: hidden_size: 8 there, 9 asked",
            ),
            ("maml", ["meta_batch_size=3"], "algorithm_kwargs: meta_batch_size: 2 there, 3 asked"),
            ("maml", ["env.num_test=9"], "env_kwargs: num_test: 12 there, 9 asked"),
        ],
    )
    def test_they_are_refused_by_name(
        self,
        name: str,
        change: list[str],
        named: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Only what differs is named."""
        out = tmp_path / "run"
        assert main(command(name, 1, out)) == 0
        error = refused(capsys, command(name, 1, out, "--resume", "--param", *change))
        assert named in error
        assert error.count(" asked") == 1

    @pytest.mark.parametrize("name", ["rl2", "maml"])
    def test_fewer_steps_than_were_done(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """They are refused; the same number is not, though iterations are whole."""
        out = tmp_path / "run"
        assert main(command(name, BRIEF[name] - 1, out)) == 0
        before = (out / "config.json").read_text()
        error = refused(capsys, command(name, 3, out, "--resume"))
        assert f"{steps_done(name, out)} steps were done" in error
        assert "3 that is asked" in error
        assert (out / "config.json").read_text() == before
        assert main(command(name, BRIEF[name] - 1, out, "--resume")) == 0

    @pytest.mark.parametrize("flag", ["--compile", "--cuda-graph"])
    def test_updates_that_round_otherwise(
        self, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        assert main(command("maml", 1, out)) == 0
        option = flag.removeprefix("--").replace("-", "_")
        error = refused(capsys, command("maml", 2, out, "--resume", flag))
        assert f"options: [] there, ['{option}'] asked" in error

    def test_another_number_of_threads(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It is said to change the last bits."""
        out, threads = tmp_path / "run", torch.get_num_threads()
        assert main(command("rl2", 1, out, "--threads", "1")) == 0
        assert main(command("rl2", 1, out, "--threads", "1", "--resume")) == 0
        assert "last bits" not in capsys.readouterr().err
        assert main(command("rl2", 1, out, "--threads", "2", "--resume")) == 0
        assert "began with --threads 1 and goes on with 2" in capsys.readouterr().err
        assert torch.get_num_threads() == threads


def steps_done(name: str, out: Path) -> int:
    model = trainable(name).load(out / "checkpoint.zip", device="cpu")
    return model.steps_done


class TestSignals:
    @pytest.mark.parametrize(
        ("name", "number"), [*((name, signal.SIGTERM) for name in ENDLESS), ("rl2", signal.SIGINT)]
    )
    def test_the_last_finished_iteration_is_saved(
        self, name: str, number: int, tmp_path: Path
    ) -> None:
        """Nothing else saves: the interval between checkpoints is long."""
        out = tmp_path / "run"
        run = start(command(name, ENDLESS[name], out))
        folder = RunFolder(out)
        wait_until(run, lambda: folder.progress.exists() and logged(folder, name) >= 2)
        assert not folder.checkpoint.exists()
        run.send_signal(number)
        _, error = run.communicate(timeout=120)
        assert run.returncode == 130, error
        assert "Traceback" not in error
        assert "which is saved; --resume goes on from the last checkpoint" in error
        done = steps_done(name, out)
        column = "time/iterations" if name == "maml" else "time/total_timesteps"
        assert 0 < folder.learning_curve()[column][-1] <= done
        assert not (out / "run.lock").exists()
        assert not folder.evaluation.exists()

    @pytest.mark.parametrize("name", ["rl2", "maml_trpo"])
    def test_resumed_is_undisturbed(self, name: str, tmp_path: Path) -> None:
        """Parameters and log of a run that SIGTERM ended are those of a whole one."""
        outs = [tmp_path / "whole", tmp_path / "ended"]
        steps = BRIEF[name] * 4
        assert main(command(name, steps, outs[0], "--threads", "1")) == 0
        folder = RunFolder(outs[1])
        run = start(command(name, steps, outs[1], "--threads", "1"))
        wait_until(run, lambda: folder.progress.exists() and logged(folder, name) >= 1)
        run.send_signal(signal.SIGTERM)
        _, error = run.communicate(timeout=120)
        assert run.returncode in (130, 0), error
        assert main(command(name, steps, outs[1], "--threads", "1", "--resume")) == 0
        ended, whole = (
            find_algorithm(name).load(out / "checkpoint.zip", device="cpu") for out in outs[::-1]
        )
        states = [model.policy.state_dict() for model in (ended, whole)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
        curves = [RunFolder(out).learning_curve() for out in outs]
        for key in curves[0].keys() - {"time/fps", "time/time_elapsed"}:
            assert str(curves[0][key]) == str(curves[1][key]), key

    def test_a_second_signal_ends_at_once(self) -> None:
        interruption = Interruption()
        before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        with interruption.handled(), pytest.raises(KeyboardInterrupt):
            self.interrupt_twice(interruption)
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before

    @staticmethod
    def interrupt_twice(interruption: Interruption) -> None:
        with interruption.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.requested
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the second signal did nothing")

    def test_outside_a_training_the_first_one_does(self) -> None:
        with Interruption().handled(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)

    def test_in_another_thread_nothing_changes(self) -> None:
        seen = []

        def look() -> None:
            with Interruption().handled():
                seen.append(signal.getsignal(signal.SIGTERM))

        before, thread = signal.getsignal(signal.SIGTERM), threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [before]


def logged(folder: RunFolder, name: str) -> int:
    return max(0, folder.progress.read_text().count("\n") - 1)


class TestLock:
    @pytest.mark.parametrize(("name", "resume"), [("rl2", False), ("maml", True)])
    def test_a_second_process_is_refused(
        self, name: str, resume: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The first one is named and goes on; when it is killed, its lock is no obstacle."""
        out = tmp_path / "run"
        run = start(command(name, ENDLESS[name], out))
        folder = RunFolder(out)
        try:
            wait_until(run, lambda: folder.config_file.exists() and (out / "run.lock").exists())
            config = json.loads(folder.config_file.read_text())
            del config["checksum"]
            if not resume:
                folder.config_file.unlink()  # as if the first one had not come so far
            more = ["--resume"] if resume else []
            error = refused(capsys, command(name, ENDLESS[name], out, *more))
            assert "another process trains in" in error
            assert f"process {run.pid} on" in error
            assert run.poll() is None
        finally:
            run.kill()
            run.communicate()
        assert (out / "run.lock").exists()
        folder.config_file.write_text(json.dumps({**config, "total_timesteps": 1}))
        assert main(command(name, 1, out, "--resume")) == 0
        assert not (out / "run.lock").exists()


class KilledError(Exception):
    """In place of a signal that nothing can catch."""


@pytest.mark.parametrize("stop", [80, 86, 200])
def test_a_few_shot_log_is_undisturbed(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two lines or just before one, with a validation since the last one."""
    outs = [tmp_path / "whole", tmp_path / "killed"]
    assert main(command("maml", 210, outs[0])) == 0

    def save_and_die(self: Checkpoints, learner: Any) -> None:
        if learner.num_iterations == stop:
            learner.save(self.path)
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "__call__", save_and_die)
        with pytest.raises(KilledError):
            main(command("maml", 210, outs[1]))
    assert main(command("maml", 210, outs[1], "--resume")) == 0
    whole, killed = (RunFolder(out).learning_curve() for out in outs)
    assert whole["time/iterations"] == list(range(10, 211, 10))
    assert np.isfinite(whole["validation/loss"]).sum() == 10
    for key in whole.keys() - {"time/iterations_per_second", "time/time_elapsed"}:
        assert str(whole[key]) == str(killed[key]), key
