"""Run folders: the log that is appended to, configurations, and a killed run that is resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import meta_rl
from meta_rl.agents.rl2 import RL2
from meta_rl.algorithms import algorithms_by_kind
from meta_rl.cli import main
from meta_rl.cli.callbacks import Checkpoints, Validation
from meta_rl.cli.run_folder import AppendingCSV, RunConfig, RunFolder
from meta_rl.cli.settings import find_settings, settings_for
from meta_rl.make import NAMESPACE, PYTHON_ENVIRONMENTS

STEPS = AppendingCSV.STEPS
AGENTS = algorithms_by_kind()["agents"]
SETTINGS = Path(meta_rl.__file__).parent / "settings"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_config(**changes: Any) -> RunConfig:
    asked: dict[str, Any] = {
        "algorithm": "rl2",
        "tasks": "BernoulliBandit",
        "env_id": "meta_rl/BernoulliBandit-v0",
        "env_kwargs": {"num_arms": 2, "horizon": 3},
        "algorithm_kwargs": {"meta_batch_size": 4},
        "total_timesteps": 48,
        "seed": 0,
        "versions": {"torch": "1"},
        "commit": None,
    }
    return RunConfig(**{**asked, **changes})


def make_model(**changes: Any) -> RL2:
    settings: dict[str, Any] = {
        "meta_batch_size": 4,
        "num_minibatches": 2,
        "num_epochs": 1,
        "policy_kwargs": {"hidden_size": 4},
        "env_kwargs": {"num_arms": 2, "horizon": 3},
        "seed": 0,
    }
    return RL2(env="BernoulliBandit", **{**settings, **changes})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestAppendingCSV:
    def write(self, log: AppendingCSV, **values: Any) -> None:
        values = {STEPS if name == "steps" else name: value for name, value in values.items()}
        log.write(values, {name: () for name in values})

    def test_lines_and_new_columns(self, tmp_path: Path) -> None:
        """A name that comes later becomes a column, empty in the lines without it."""
        log = AppendingCSV(tmp_path / "log.csv")
        self.write(log, steps=10, a=1.5)
        self.write(log, steps=20, a=2.5, b="x,y")
        self.write(log, steps=30, b="z")
        assert rows(tmp_path / "log.csv") == [
            {STEPS: "10", "a": "1.5", "b": ""},
            {STEPS: "20", "a": "2.5", "b": "x,y"},
            {STEPS: "30", "a": "", "b": "z"},
        ]

    def test_excluded_values_are_left_out(self, tmp_path: Path) -> None:
        """What the logger excludes from csv is not written."""
        log = AppendingCSV(tmp_path / "log.csv")
        log.write({STEPS: 1, "a": 2, "b": 3}, {STEPS: (), "a": ("csv",), "b": ("tensorboard",)})
        assert rows(tmp_path / "log.csv") == [{STEPS: "1", "b": "3"}]

    def test_lines_after_the_checkpoint_are_dropped(self, tmp_path: Path) -> None:
        """Going on after 20 steps keeps the lines up to 20, torn ones go, and new ones follow."""
        log = AppendingCSV(tmp_path / "log.csv")
        for steps in (10, 20, 30):
            self.write(log, steps=steps, a=steps)
        with (tmp_path / "log.csv").open("a") as file:
            file.write("40")  # killed while it wrote
        log = AppendingCSV(tmp_path / "log.csv", num_timesteps=20)
        assert [row[STEPS] for row in rows(tmp_path / "log.csv")] == ["10", "20"]
        self.write(log, steps=30, a=-1, c=0)
        assert [row["a"] for row in rows(tmp_path / "log.csv")] == ["10", "20", "-1"]
        assert [row["c"] for row in rows(tmp_path / "log.csv")] == ["", "", "0"]

    def test_a_new_run_begins_a_new_log(self, tmp_path: Path) -> None:
        """Without steps before, nothing is kept; and a missing file is no error."""
        self.write(AppendingCSV(tmp_path / "log.csv"), steps=10)
        AppendingCSV(tmp_path / "log.csv")
        assert rows(tmp_path / "log.csv") == []
        self.write(AppendingCSV(tmp_path / "other.csv", num_timesteps=5), steps=10)
        assert [row[STEPS] for row in rows(tmp_path / "other.csv")] == ["10"]


class TestRunFolder:
    def test_configuration_round_trip(self, tmp_path: Path) -> None:
        """What begin writes, config reads; the folder is made."""
        folder = RunFolder(tmp_path / "new" / "run")
        folder.begin(make_config(), resume=False)
        assert folder.config() == make_config()

    def test_an_existing_run_is_not_overwritten(self, tmp_path: Path) -> None:
        """Without resume it is refused, and the configuration stays."""
        folder = RunFolder(tmp_path)
        folder.begin(make_config(), resume=False)
        with pytest.raises(ValueError, match="holds a run: --resume goes on, --out goes elsewhere"):
            folder.begin(make_config(seed=1), resume=False)
        assert folder.config().seed == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 1},
            {"algorithm_kwargs": {"meta_batch_size": 8}},
            {"env_kwargs": {}},
            {"tasks": "GaussianBandit"},
        ],
        ids=str,
    )
    def test_other_settings_cannot_be_resumed(self, change: dict[str, Any], tmp_path: Path) -> None:
        """The message says which, there and asked."""
        folder = RunFolder(tmp_path)
        folder.begin(make_config(), resume=False)
        with pytest.raises(ValueError, match=rf"cannot be resumed: {next(iter(change))}: .*asked"):
            folder.begin(make_config(**change), resume=True)

    def test_a_longer_run_can_be_resumed(self, tmp_path: Path) -> None:
        """The length may differ; versions and commit stay those that the run began with."""
        folder = RunFolder(tmp_path)
        folder.begin(make_config(), resume=False)
        longer = make_config(total_timesteps=96, versions={"torch": "2"}, commit="abc")
        folder.begin(longer, resume=True)
        assert folder.config() == make_config(total_timesteps=96)

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"seed": 1}', '{"no": 1}'])
    def test_no_run(self, content: str | None, tmp_path: Path) -> None:
        """A folder without a configuration, or with something else in it."""
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"holds no run|is no run's configuration"):
            RunFolder(tmp_path).config()

    def test_learning_curve(self, tmp_path: Path) -> None:
        """Columns by name; what is missing is nan."""
        (tmp_path / "progress.csv").write_text(f"{STEPS},a\n10,1.5\n20,\n")
        curve = RunFolder(tmp_path).learning_curve()
        assert curve[STEPS] == [10.0, 20.0]
        np.testing.assert_array_equal(curve["a"], [1.5, np.nan])
        with pytest.raises(ValueError, match=r"has no progress\.csv yet"):
            RunFolder(tmp_path / "empty").learning_curve()

    def test_train_seconds(self, tmp_path: Path) -> None:
        """Three parts: of 12, 3 and 5 seconds."""
        rows = "\n".join(["time/time_elapsed", "5", "12", "3", "1", "5"])
        (tmp_path / "progress.csv").write_text(rows + "\n")
        assert RunFolder(tmp_path).train_seconds() == 20.0


class TestCallbacks:
    def test_checkpoints_between_iterations(self, tmp_path: Path) -> None:
        """Interval 0 saves before every iteration: the last is that before the last one."""
        make_model().learn(4 * 12, Checkpoints(tmp_path / "c.zip", 0.0))
        assert RL2.load(tmp_path / "c.zip").num_timesteps == 3 * 12

    def test_a_long_interval_saves_nothing(self, tmp_path: Path) -> None:
        make_model().learn(4 * 12, Checkpoints(tmp_path / "c.zip", 1000.0))
        assert not (tmp_path / "c.zip").exists()

    def test_validation_is_logged_evenly(self, tmp_path: Path) -> None:
        """5 points in 10 iterations of 12 steps: after every second. It changes nothing."""
        folder = RunFolder(tmp_path)
        config = make_config(total_timesteps=120)
        watched = make_model()
        watched.set_logger(folder.logger(0, verbose=0))
        watched.learn(120, Validation(config, num_tasks=4, num_points=5))
        watched.logger.close()
        curve = folder.learning_curve()
        logged = np.array(curve["validation/trial_return"])
        assert curve[STEPS] == [12.0 * k for k in range(1, 11)]
        assert (~np.isnan(logged)).tolist() == [False, True] * 5
        assert ((logged[1::2] >= 0) & (logged[1::2] <= 3)).all()
        alone = make_model().learn(120)
        for ours, theirs in zip(
            watched.policy.parameters(), alone.policy.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)

    def test_success_is_logged_where_it_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of the last episode, over tasks."""
        monkeypatch.setattr("meta_rl.cli.callbacks.evaluate_adaptation", told_success)
        folder = RunFolder(tmp_path)
        model = make_model()
        model.set_logger(folder.logger(0, verbose=0))
        model.learn(24, Validation(make_config(total_timesteps=24), num_tasks=4, num_points=2))
        model.logger.close()
        assert folder.learning_curve()["validation/success"] == [0.75, 0.75]


def told_success(*_: Any, **__: Any) -> Any:
    success = np.array([[0.0, 1.0], [1.0, 0.5]])
    return SimpleNamespace(total=np.zeros(2), success=success)


class TestShippedSettings:
    SHIPPED = sorted(
        (file.stem, tasks)
        for file in SETTINGS.glob("*.toml")
        if file.stem in AGENTS  # few-shot learners have tests of their own
        for tasks in settings_for(file.stem)
    )

    def test_there_are_some(self) -> None:
        assert ("rl2", "BernoulliBandit") in self.SHIPPED

    def test_sections_that_are_like_another(self) -> None:
        """Tables are joined, from one to the next."""
        found = settings_for("reptile")
        both = found["Omniglot-5w5s-random-transductive"]
        assert "like" not in both
        assert both.pop("transductive") is True
        env = {"train_shots": 10, "train_queries": 1, "train_on_validation": True}
        assert both.pop("env") == {**env, "split": "random", "queries": 1}
        first = found["Omniglot-5w1s"]
        assert first.pop("env") == env
        assert both == first
        push = settings_for("pearl")["MetaWorldML1-push"]
        assert push["env_id"] == "MetaWorldML1"
        assert push["env"] == {"env_name": "push-v3", "horizon": 200, "episodes_per_trial": 3}

    @pytest.mark.parametrize(("algorithm", "tasks"), SHIPPED)
    def test_settings_build_their_agent(
        self, algorithm: str, tasks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment exists, and the agent takes every key: a run of no steps goes through."""
        monkeypatch.setenv("COLUMNS", "200")
        name, env_id, settings = find_settings(algorithm, tasks)
        assert name == tasks
        assert settings
        if env_id.removeprefix(NAMESPACE) in PYTHON_ENVIRONMENTS:
            pytest.importorskip("metaworld")
        command = ["train", algorithm, tasks, "--total-timesteps", "0", "--eval-tasks", "0"]
        assert main([*command, "--quiet", "--out", str(tmp_path / "run")]) == 0
        config = RunFolder(tmp_path / "run").config()
        assert config.env_id == env_id
        kept = set(settings) - {"env", "policy", "total_timesteps"}
        assert kept <= set(config.algorithm_kwargs)


TRAIN = [
    *("train", "rl2", "BernoulliBandit", "--param", "meta_batch_size=16", "num_minibatches=2"),
    *("policy.hidden_size=16", "num_epochs=4", "env.num_arms=3", "env.horizon=5"),
    *("learning_rate=[1e-2,1e-4]", "trial_growth=0.5", "--checkpoint-interval", "0"),
    *("--total-timesteps", "4800", "--eval-tasks", "40", "--quiet", "--device", "cpu", "--out"),
]
VARIES = ("time/fps", "time/time_elapsed")


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "meta_rl.cli", *TRAIN, str(out), *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_lines(run: subprocess.Popen[str], path: Path, num: int) -> int:
    """Until the log has so many lines; gives how many it has."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and run.poll() is None:
        lines = path.read_text().count("\n") if path.exists() else 0
        if lines >= num:
            return lines
        time.sleep(0.01)
    raise AssertionError(f"no {num} lines in {path}; exit code {run.poll()}")


def test_killed_run_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run killed twice by SIGKILL ends with the parameters, log and evaluation of a whole one.

    The kills land in the middle: each leaves a checkpoint behind the end of the run before.
    """
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    reached = []
    for lines, more in ((12, []), (28, ["--resume"])):
        run = start(killed.path, *more)
        try:
            wait_for_lines(run, killed.progress, lines)
        finally:
            os.kill(run.pid, signal.SIGKILL)
            run.communicate()
        assert run.returncode == -signal.SIGKILL
        assert not killed.evaluation.exists()  # killed before the end
        reached.append(RL2.load(killed.checkpoint).num_timesteps)
    assert 0 < reached[0] < reached[1] < 4800
    run = start(killed.path, "--resume")
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert main([*TRAIN, str(whole.path)]) == 0
    capsys.readouterr()

    ours, theirs = RL2.load(killed.checkpoint), RL2.load(whole.checkpoint)
    assert ours.num_timesteps == theirs.num_timesteps >= 4800
    for name, part in theirs.policy.state_dict().items():
        assert torch.equal(ours.policy.state_dict()[name], part), name
    assert ours.rng.bit_generator.state == theirs.rng.bit_generator.state
    assert torch.equal(ours.generator.get_state(), theirs.generator.get_state())

    our_rows, their_rows = rows(killed.progress), rows(whole.progress)
    assert len(our_rows) == len(their_rows) > 55
    for our_row, their_row in zip(our_rows, their_rows, strict=True):
        assert our_row.keys() == their_row.keys()
        for name in our_row.keys() - set(VARIES):
            assert our_row[name] == their_row[name], (our_row[STEPS], name)
    steps = [int(row[STEPS]) for row in our_rows]
    assert steps == sorted(set(steps))
    assert sum(bool(row["validation/trial_return"]) for row in our_rows) >= 15

    evaluations = [json.loads(folder.evaluation.read_text()) for folder in (killed, whole)]
    assert evaluations[0] == evaluations[1]
    assert np.shape(evaluations[0]["values"]) == (40, 5)
