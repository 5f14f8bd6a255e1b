"""Videos of a trained agent before and after adaptation, and searches for settings."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from meta_rl.cli import main
from meta_rl.cli.tuning import Dimension, toml_value

from .test_cli import PARAMS, SHORT, TRAIN, refused

SMALL = ["--quiet", "--device", "cpu", "--eval-tasks", "0", "--total-timesteps", "0"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def on_a_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained agent on a map of four episodes; not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "map"
    params = ["--param", "meta_batch_size=4", "num_minibatches=2", "policy.hidden_size=4"]
    assert main(["train", "rl2", "GridNavigation", *SMALL, *params, "--out", str(out)]) == 0
    return out


class TestEnjoy:
    def test_a_map(
        self, on_a_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two tasks below each other, two episodes beside each other, and frames that move."""
        video = tmp_path / "map.gif"
        assert main(["enjoy", str(on_a_map), "--video", str(video)]) == 0
        printed = capsys.readouterr().out
        assert printed.count("returns") == 2
        with Image.open(video) as image:
            frames = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(image)]
        assert len(frames) > 5
        height, width = frames[0].shape[:2]
        assert width % 2 == 0
        assert any(not np.array_equal(frames[0], one) for one in frames)
        tasks = frames[0][: height // 2], frames[0][height // 2 :]
        assert not np.array_equal(*tasks)

    def test_one_task_as_mp4(
        self, on_a_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With the default file in the run folder, and the task as text."""
        words = ["enjoy", str(on_a_map), "--task", "[4, 3]", "--num-episodes", "2"]
        assert main([*words, "--video", str(tmp_path / "a.mp4")]) == 0
        assert capsys.readouterr().out.startswith("task [4 3]: returns ")
        assert b"ftyp" in (tmp_path / "a.mp4").read_bytes()[:16]

    @pytest.mark.parametrize("algorithm", ["pearl", "maml_trpo"])
    def test_a_robot_without_a_screen(self, algorithm: str, tmp_path: Path) -> None:
        """Also for an agent that adapts to several episodes at a time."""
        out = tmp_path / "robot"
        params = {
            "pearl": ["num_train_tasks=3", "meta_batch_size=2", "policy.hidden_sizes=[8]"],
            "maml_trpo": ["envs_per_task=2", "meta_batch_size=2", "policy.hidden_sizes=[8]"],
        }
        words = ["train", algorithm, "ReacherGoal", *SMALL, "--out", str(out), "--param"]
        assert main([*words, *params[algorithm]]) == 0
        assert main(["enjoy", str(out), "--num-tasks", "1", "--num-episodes", "2"]) == 0
        with Image.open(out / "enjoy.gif") as image:
            assert getattr(image, "n_frames", 1) > 5

    def test_refused(
        self, on_a_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "ends with .gif" in refused(capsys, "enjoy", on_a_map, "--video", "a.avi")
        assert "outside" in refused(capsys, "enjoy", on_a_map, "--task", "[40, 3]")
        bandit = tmp_path / "bandit"
        assert main([*TRAIN, *SMALL, "--out", str(bandit)]) == 0
        assert "has no pictures to show: no render_mode" in refused(capsys, "enjoy", bandit)
        scratch = ["train", "scratch", "Sinusoid-5s", *SMALL, "--out", str(tmp_path / "scratch")]
        assert main(scratch) == 0
        assert "agents in environments" in refused(capsys, "enjoy", tmp_path / "scratch")


class TestTune:
    COMMAND = (
        *("tune", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu"),
        *("--total-timesteps", "120", "--param", *PARAMS),
    )

    def test_search_resumes_and_prints_toml(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The lines are a file for ``train --config``; a second call adds the missing trials."""
        file = tmp_path / "study.sqlite3"
        search = ["--search", "learning_rate=1e-4..1e-2", "num_epochs=1..3", "policy.core=gru,lstm"]
        words = [*self.COMMAND, "--out", str(file), *search]
        assert main([*words, "--num-trials", "2"]) == 0
        assert "(2 trials" in capsys.readouterr().out
        assert main([*words, "--num-trials", "3"]) == 0
        printed = capsys.readouterr().out
        assert "(3 trials" in printed
        (tmp_path / "best.toml").write_text(printed.partition("\n")[2])
        best = tomllib.loads((tmp_path / "best.toml").read_text())
        assert 1e-4 <= best["learning_rate"] <= 1e-2
        assert best["num_epochs"] in (1, 2, 3)
        assert best["policy"]["core"] in ("gru", "lstm")
        assert best["env"] == {"num_arms": 2, "horizon": 3}
        train = ["train", "--config", str(tmp_path / "best.toml"), *SHORT, "--quiet"]
        assert main([*train, "--out", str(tmp_path / "run")]) == 0
        other = [*words, "--num-trials", "4", "--param", "env.horizon=4"]
        assert "a study with other environment" in refused(capsys, *other)

    def test_never_the_test_tasks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every evaluation of a search is on validation tasks."""
        splits: list[str] = []
        from meta_rl.cli import callbacks

        evaluate = callbacks.evaluate_adaptation

        def seen(*args: object, split: str = "test", **kwargs: object) -> object:
            splits.append(split)
            return evaluate(*args, split=split, **kwargs)

        monkeypatch.setattr(callbacks, "evaluate_adaptation", seen)
        words = [*self.COMMAND, "--num-trials", "1", "--out", str(tmp_path / "a.sqlite3")]
        assert main(words) == 0
        assert len(splits) == 10
        assert set(splits) == {"validation"}

    def test_a_few_shot_loss_is_minimised(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import optuna

        file = tmp_path / "maml.sqlite3"
        words = ["tune", "maml", "Sinusoid-5s", "--quiet", "--device", "cpu", "--out", str(file)]
        small = ["--param", "policy.hidden=[4]", "meta_batch_size=2", "--total-timesteps", "20"]
        search = ["--search", "lr=0.001..0.1", "--num-trials", "1"]
        assert main([*words, *small, *search]) == 0
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{file}")
        assert study.direction.name == "MINIMIZE"

    @pytest.mark.parametrize(
        ("search", "named"),
        [
            ("learning_rte=1..2", "did you mean learning_rate"),
            ("num_epochs", "--search takes k=low..high"),
            ("num_epochs=3..1", "a range has two numbers"),
            ("num_epochs=a..b", "a range has two numbers"),
            ("num_epochs=3", "--search takes"),
        ],
    )
    def test_bad_searches(
        self, search: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "study.sqlite3"
        assert named in refused(capsys, *self.COMMAND, "--search", search, "--out", out)
        assert not out.exists()

    def test_without_optuna(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        assert 'pip install "meta-rl[tune]"' in refused(capsys, *self.COMMAND)

    def test_values_as_toml(self) -> None:
        values = {"a": 1e-05, "b": True, "c": [1, 2.5], "d": 'say "x" \\', "e": 3}
        text = "\n".join(f"{name} = {toml_value(value)}" for name, value in values.items())
        assert tomllib.loads(text) == values
        assert Dimension.of("a=1,2,x").values == [1, 2, "x"]
