"""Several seeds, comparisons, checkpoints, settings from files, and progress."""

from __future__ import annotations

import csv
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main
from meta_rl.cli.progress import Lines
from meta_rl.cli.run_folder import LearningCurve, RunFolder
from meta_rl.cli.run_groups import aggregated, find_groups

from .test_cli import SHORT, TRAIN, refused


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of the same settings, and one run of others; not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    paths = [folder / name for name in ("seed0", "seed1", "other")]
    every = ["--checkpoint-every", "12"]
    assert main([*TRAIN, *SHORT, *every, "--out", str(paths[0])]) == 0
    assert main([*TRAIN, *SHORT, "--seed", "1", "--out", str(paths[1])]) == 0
    other = ["--param", "learning_rate=0.01"]
    assert main([*TRAIN, *SHORT, *other, "--out", str(paths[2])]) == 0
    return paths


def drawn_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    drawn: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *arguments: Any, **kwargs: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **kwargs)

    monkeypatch.setattr(Figure, "savefig", saved)
    return drawn


class TestGroups:
    def test_runs_that_differ_by_their_seed_alone(self, runs: list[Path]) -> None:
        one, other = find_groups(runs)
        assert [run.config.seed for run in one.runs] == [0, 1]
        assert "2 runs" in one.label
        assert "learning_rate=0.01" in other.label

    def test_by_algorithm(self, runs: list[Path]) -> None:
        (group,) = find_groups(runs, "algorithm")
        assert len(group.runs) == 3

    def test_the_same_seed_twice_is_no_group(self, runs: list[Path], tmp_path: Path) -> None:
        (tmp_path / "copy").mkdir()
        for file in runs[0].glob("*.json"):
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
        groups = find_groups([runs[0], tmp_path / "copy"])
        assert [len(group.runs) for group in groups] == [1, 1]
        assert groups[0].label != groups[1].label

    def test_means_and_intervals(self) -> None:
        """At the steps that all have reached; Student's interval of two is 12.7 standard errors."""
        curves = [
            LearningCurve([1.0, 2.0, 3.0], [0.0, 1.0, 9.0], None, "iterations", "accuracy"),
            LearningCurve([1.0, 2.0], [2.0, float("nan")], None, "iterations", "accuracy"),
            LearningCurve([0.0, 2.0], [2.0, 6.0], None, "iterations", "accuracy"),
        ]
        band = aggregated([curves[0], curves[2]]).trained
        assert band.steps.tolist() == [1.0, 2.0]
        np.testing.assert_allclose(band.mean, [2.0, 3.5])
        half = 12.7062 * np.array([2.0, 2.5])
        np.testing.assert_allclose(band.interval[:, 1] - band.mean, half, rtol=1e-4)
        assert aggregated(curves[:2]).trained.steps.tolist() == [1.0]


class TestCompare:
    def test_files_and_table(
        self, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "comparison"
        assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert "2 x 8 test" in printed
        assert "1 x 8 test" in printed
        with (out / "evaluations.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["num_trainings"] for row in rows] == ["2", "1"]
        pair = [json.loads((run / "evaluation.json").read_text())["values"] for run in runs[:2]]
        np.testing.assert_allclose(float(rows[0]["before"]), np.mean(pair, axis=(0, 1))[0])
        with (out / "curves.csv").open() as file:
            curves = list(csv.DictReader(file))
        assert {row["num_runs"] for row in curves} == {"1", "2"}
        assert (out / "comparison.png").stat().st_size > 5_000

    def test_the_picture(
        self, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One line for each group, with a look of its own; titles count runs and tasks."""
        drawn = drawn_figures(monkeypatch)
        assert main(["plot", *map(str, runs[:2]), "--out", str(tmp_path / "p.png")]) == 0
        learning, adaptation = drawn[0].axes
        assert learning.get_title() == "Meta-training, BernoulliBandit, 2 runs each"
        assert "2 trainings x 8 test tasks" in adaptation.get_title()
        assert len(learning.collections) == 1  # the band
        assert main(["plot", *map(str, runs), "--out", str(tmp_path / "q.png")]) == 0
        looks = [(line.get_color(), line.get_marker()) for line in drawn[1].axes[1].lines]
        assert len(set(looks)) == 2

    def test_refused(self, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert "needs run folders" in refused(capsys, "compare")
        assert "twice" in refused(capsys, "compare", runs[0], runs[0])


class TestSeeds:
    def test_processes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Each has a folder and its own seed; the result is that of a single training."""
        out = tmp_path / "runs"
        command = [*TRAIN, *SHORT, "--seeds", "0", "1", "--out", str(out)]
        assert main(command) == 0
        assert f"meta-rl compare {out / 'seed0'} {out / 'seed1'}" in capsys.readouterr().out
        assert main([*TRAIN, *SHORT, "--seed", "1", "--out", str(tmp_path / "alone")]) == 0
        results = [
            json.loads((path / "evaluation.json").read_text())["values"]
            for path in (out / "seed1", tmp_path / "alone")
        ]
        assert results[0] == results[1]
        assert "--resume goes on" in refused(capsys, *command)

    @pytest.mark.slow
    def test_one_fails_alone(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """And the same command with --resume goes on, where it failed too."""
        out = tmp_path / "runs"
        (out / "seed0" / "checkpoint.zip").mkdir(parents=True)  # no file can take its place
        command = [*TRAIN, *SHORT, "--seeds", "0", "1", "--out", str(out)]
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "1 of 2 seeds failed: seed 0:" in error
        assert (out / "seed1" / "evaluation.json").exists()
        (out / "seed0" / "checkpoint.zip").rmdir()
        assert main([*command, "--resume"]) == 0
        assert (out / "seed0" / "evaluation.json").exists()

    def test_bad_input(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Before any process begins."""
        out = ["--out", tmp_path / "runs"]
        assert "each seed once" in refused(capsys, *TRAIN, "--seeds", "1", "1", *out)
        both = ["--seeds", "1", "2", "--seed", "0"]
        assert "exclude each other" in refused(capsys, *TRAIN, *both, *out)
        wrong = ["--seeds", "1", "2", "--param", "num_epochs=x"]
        assert "num_epochs takes int" in refused(capsys, *TRAIN, *wrong, *out)
        assert not (tmp_path / "runs").exists()


class TestCheckpoints:
    def test_best_and_kept(self, runs: list[Path]) -> None:
        """The best has the highest score in the log; each kept one has its number of steps."""
        folder = RunFolder(runs[0])
        curve = folder.learning_curve()
        scores = curve["validation/trial_return"]
        best = folder.best_score()
        assert best is not None
        assert best["score"] == pytest.approx(max(scores), abs=1e-9)
        steps = curve["time/total_timesteps"][int(np.argmax(scores))]
        assert best["steps"] == steps == RL2.load(folder.best).num_timesteps
        kept = sorted(runs[0].glob("checkpoint-*.zip"))
        assert [file.name for file in kept] == [
            "checkpoint-12.zip",
            "checkpoint-24.zip",
            "checkpoint-36.zip",
        ]
        assert RL2.load(kept[0]).num_timesteps == 12

    def test_evaluate_one_of_them(
        self, runs: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("best", "12"):
            words = ["evaluate", str(runs[2 if name == "best" else 0]), "--num-tasks", "2"]
            assert main([*words, "--checkpoint", name]) == 0
            assert f"evaluation-test-2-{name}.json" in capsys.readouterr().out
        assert "--checkpoint 13: " in refused(capsys, "evaluate", runs[0], "--checkpoint", "13")

    def test_says_where_everything_is(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*TRAIN, *SHORT, "--out", str(tmp_path / "run")]) == 0
        printed = capsys.readouterr().out
        for name in ("run folder: ", "checkpoint.zip", "best.zip", "progress.csv", "evaluation."):
            assert name in printed


class TestConfigFile:
    def test_a_run_again(self, runs: list[Path], tmp_path: Path) -> None:
        """The config.json of a run gives the same run; flags take precedence."""
        again = ["train", "--config", str(runs[2] / "config.json"), "--quiet", "--device", "cpu"]
        none = ["--eval-tasks", "0"]
        assert main([*again, *none, "--out", str(tmp_path / "again")]) == 0
        config = RunFolder(tmp_path / "again").config()
        assert config.differences(RunFolder(runs[2]).config()) == []
        assert config.total_timesteps == 36
        other = ["--seed", "5", "--total-timesteps", "0", "--param", "num_epochs=2"]
        assert main([*again, *none, *other, "--out", str(tmp_path / "other")]) == 0
        config = RunFolder(tmp_path / "other").config()
        assert (config.seed, config.total_timesteps) == (5, 0)
        assert config.algorithm_kwargs["num_epochs"] == 2

    def test_toml(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(
            'algo = "rl2"\ntasks = "BernoulliBandit"\nseed = 3\ntotal_timesteps = 0\n'
            "meta_batch_size = 4\nnum_minibatches = 2\n[env]\nhorizon = 3\n"
            "[policy]\nhidden_size = 4\n"
        )
        words = ["train", "--config", str(file), "--eval-tasks", "0", "--out", str(tmp_path / "r")]
        assert main(words) == 0
        config = RunFolder(tmp_path / "r").config()
        assert (config.seed, config.env_kwargs) == (3, {"horizon": 3})
        assert config.algorithm_kwargs["policy_kwargs"] == {"hidden_size": 4}
        for text, named in (
            (
                "[environment]\nhorizon = 3",
                "environment is no table of settings; env, policy exist",
            ),
            ("seed = 'x'", "seed has to be of type int"),
            ("seed = ", "--config"),
            ("seed = 1", "train needs ALGO and TASKS"),
        ):
            file.write_text(text)
            assert named in refused(capsys, "train", "--config", file)
        assert "train needs ALGO and TASKS" in refused(capsys, "train", "rl2")


class TestTracking:
    def test_not_installed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        assert "pip install wandb" in refused(capsys, *TRAIN, "--track")

    def test_its_callback_is_called(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the run's configuration and name; the record is finished."""
        from stable_baselines3.common.callbacks import BaseCallback

        seen: list[Any] = []

        class WandbCallback(BaseCallback):
            def _on_step(self) -> bool:
                seen.append("step")
                return True

        wandb: Any = types.ModuleType("wandb")
        wandb.init = lambda **kwargs: (
            seen.append(kwargs) or types.SimpleNamespace(finish=lambda: seen.append("finished"))
        )
        sb3: Any = types.ModuleType("wandb.integration.sb3")
        sb3.WandbCallback = WandbCallback
        for name, module in (("wandb", wandb), ("wandb.integration.sb3", sb3)):
            monkeypatch.setitem(sys.modules, name, module)
        assert main([*TRAIN, *SHORT, "--track", "--out", str(tmp_path / "run")]) == 0
        assert (seen[0]["name"], seen[0]["config"]["algorithm"]) == ("run", "rl2")
        assert seen[1] == "step"
        assert seen[-1] == "finished"


class TestProgress:
    def test_a_line_now_and_then(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = Lines(seconds=0.0)
        lines.update("seed 0", 0.25, "training")
        lines.update("seed 0", 1.0, "done")
        assert capsys.readouterr().out.splitlines() == [
            "seed 0 25%",
            "seed 0: done",
            "seed 0 100%",
        ]

    def test_a_training_without_a_terminal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Tells the share; with --quiet it tells nothing."""
        monkeypatch.setattr("meta_rl.cli.callbacks.ProgressLines.__init__.__defaults__", (0.0,))
        loud = [word for word in TRAIN if word != "--quiet"]
        assert main([*loud, *SHORT, "--out", str(tmp_path / "loud")]) == 0
        assert "33%: 12 of 36 environment steps" in capsys.readouterr().out
        assert main([*TRAIN, *SHORT, "--out", str(tmp_path / "quiet")]) == 0
        assert "%" not in capsys.readouterr().out.replace("95 %", "")


def test_a_module_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``my_module:My/Task-v0`` is imported, and the run folder's name is legal everywhere."""
    (tmp_path / "module_of_mine.py").write_text(
        "import meta_rl\n"
        "meta_rl.register_task_env('mine/Arms-v0', 'meta_rl.envs.bandits:BernoulliBandit')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    words = [*TRAIN, "--total-timesteps", "0", "--eval-tasks", "0"]
    words[2] = "module_of_mine:mine/Arms-v0"
    assert main(words) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "rl2-module_of_mine-mine-Arms-seed0"
    assert main(["evaluate", str(folder), "--num-tasks", "2", "--import", "module_of_mine"]) == 0
