"""The command line: what it prints and writes, and how it refuses bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from meta_rl import EvaluationResult
from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main
from meta_rl.cli.pictures import COLOURS
from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.settings import find_settings, parsed

PARAMS = [
    *("meta_batch_size=4", "num_minibatches=2", "num_epochs=1"),
    *("policy.hidden_size=4", "env.num_arms=2", "env.horizon=3"),
]
TRAIN = ["train", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu", "--param", *PARAMS]
SHORT = ["--total-timesteps", "36", "--eval-tasks", "8"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as the terminal."""
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; not to be written to."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert main([*TRAIN, *SHORT, "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("meta-rl: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header; it has to be more than a blank sheet."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    assert len(content) > 5_000
    width, height = struct.unpack(">II", content[16:24])
    return width, height


class TestEnvs:
    def test_all_environments_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every registered id, with actions and lengths."""
        assert main(["envs"]) == 0
        printed = capsys.readouterr().out
        ours = [env_id for env_id in gym.registry if env_id.startswith("meta_rl/")]
        assert len(ours) >= 3
        for env_id in ours:
            assert env_id in printed
        assert "Discrete(10)" in printed

    @pytest.mark.parametrize("columns", ["80", "40"])
    def test_ids_are_whole(
        self, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also long ones in narrow terminals, so that they can be copied and searched for."""
        monkeypatch.setenv("COLUMNS", columns)
        long = "meta_rl/ABanditWithAVeryLongNameThatFillsMuchOfTheTerminal-v0"
        spec = gym.spec("meta_rl/BernoulliBandit-v0")
        monkeypatch.setitem(gym.registry, long, dataclasses.replace(spec, id=long))
        assert main(["envs"]) == 0
        printed = capsys.readouterr().out
        for env_id in (long, "meta_rl/BernoulliBandit-v0", "meta_rl/TabularMDP-v0"):
            assert printed.count(env_id) == 1


class TestTrain:
    def test_files_of_a_run(self, finished: Path) -> None:
        """Configuration, checkpoint, log, events, evaluation and picture."""
        folder = RunFolder(finished)
        config = folder.config()
        assert (config.algorithm, config.tasks) == ("rl2", "BernoulliBandit")
        assert config.env_id == "meta_rl/BernoulliBandit-v0"
        assert config.total_timesteps == 36
        assert config.versions["torch"] == torch.__version__
        assert RL2.load(folder.checkpoint).num_timesteps == 36
        assert folder.learning_curve()["time/total_timesteps"] == [12.0, 24.0, 36.0]
        assert list(folder.tensorboard.iterdir())
        result = EvaluationResult.load(folder.evaluation)
        assert result.values.shape == (8, 3)
        assert (result.learner, result.split) == ("RL2", "test")
        assert picture_size(folder.path / "evaluation.png") == (900, 600)

    def test_settings_reach_their_owners(self, run: Path) -> None:
        """Of the algorithm, of the networks and of the environment."""
        config = RunFolder(run).config()
        assert config.env_kwargs == {"num_arms": 2, "horizon": 3}
        assert config.algorithm_kwargs["num_epochs"] == 1
        assert config.algorithm_kwargs["policy_kwargs"] == {"hidden_size": 4}
        model = RL2.load(RunFolder(run).checkpoint)
        assert (model.meta_batch_size, model.num_minibatches, model.num_epochs) == (4, 2, 1)
        assert model.policy.core.output_size == 4
        assert model.action_space.n == 2

    def test_params_add_up(self, tmp_path: Path) -> None:
        """Several per flag, several flags, the last of a name wins; all kinds of values."""
        more = [
            *("--param", "num_epochs=2", "learning_rate=[1e-3,1e-4]"),
            *("--param", "num_epochs=3", "target_kl=None", "normalize_advantages=False"),
            *("--param", "policy.core=lstm", "policy.embedding=[8]", "env.horizon=2"),
        ]
        out = tmp_path / "run"
        command = [*TRAIN, *more, "--total-timesteps", "0", "--eval-tasks", "0"]
        assert main([*command, "--out", str(out)]) == 0
        config = RunFolder(out).config()
        assert config.algorithm_kwargs["num_epochs"] == 3
        assert config.algorithm_kwargs["learning_rate"] == [1e-3, 1e-4]
        assert config.algorithm_kwargs["target_kl"] is None
        assert config.algorithm_kwargs["normalize_advantages"] is False
        policy = {"hidden_size": 4, "core": "lstm", "embedding": [8]}
        assert config.algorithm_kwargs["policy_kwargs"] == policy
        assert config.env_kwargs == {"num_arms": 2, "horizon": 2}

    @pytest.mark.parametrize(
        ("text", "value"), [("true", True), ("false", False), ("truth", "truth")]
    )
    def test_truth_as_in_the_settings_files(self, text: str, value: object) -> None:
        assert parsed(text) == value
        assert type(parsed(text)) is type(value)

    def test_shipped_settings_are_the_default(self, tmp_path: Path) -> None:
        """What is not given comes from the settings that ship for these tasks."""
        out = tmp_path / "run"
        command = ["train", "rl2", "BernoulliBandit", "--total-timesteps", "0", "--eval-tasks", "0"]
        assert main([*command, "--out", str(out)]) == 0
        shipped = find_settings("rl2", "BernoulliBandit")[2]
        kwargs = RunFolder(out).config().algorithm_kwargs
        assert kwargs["meta_batch_size"] == shipped["meta_batch_size"]

    def test_names_of_environments(self, tmp_path: Path) -> None:
        """The full id, or the name without namespace and version, are the same tasks."""
        for i, name in enumerate(("meta_rl/BernoulliBandit-v0", "BernoulliBandit")):
            command = ["train", "rl2", name, "--total-timesteps", "0", "--eval-tasks", "0"]
            assert main([*command, "--out", str(tmp_path / str(i))]) == 0
        assert RunFolder(tmp_path / "0").config() == RunFolder(tmp_path / "1").config()

    def test_default_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """runs/ALGO-TASKS-seedN, in the current folder."""
        monkeypatch.chdir(tmp_path)
        assert main([*TRAIN, "--total-timesteps", "0", "--eval-tasks", "0", "--seed", "7"]) == 0
        assert (tmp_path / "runs" / "rl2-BernoulliBandit-seed7" / "config.json").exists()

    @pytest.mark.filterwarnings("ignore:rich is experimental")
    def test_progress_bar(self, tmp_path: Path) -> None:
        """Shown without --quiet; it changes nothing."""
        loud = [argument for argument in TRAIN if argument != "--quiet"]
        for name, command in (("loud", loud), ("quiet", TRAIN)):
            assert main([*command, *SHORT, "--out", str(tmp_path / name)]) == 0
        results = [
            json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("loud", "quiet")
        ]
        assert results[0] == results[1]


class TestResume:
    def test_an_existing_folder_is_refused(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without --resume; nothing in it changes."""
        before = (run / "checkpoint.zip").read_bytes()
        error = refused(capsys, *TRAIN, *SHORT, "--out", run)
        assert "holds a run: --resume goes on, --out goes elsewhere" in error
        assert (run / "checkpoint.zip").read_bytes() == before

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (["--seed", "1"], "seed: 0 there, 1 asked"),
            (["--param", "num_epochs=2"], "algorithm_kwargs"),
            (["--param", "env.horizon=4"], "env_kwargs"),
        ],
        ids=str,
    )
    def test_other_settings_are_refused(
        self, change: list[str], named: str, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With --resume, the settings have to be the same."""
        error = refused(capsys, *TRAIN, *SHORT, *change, "--resume", "--out", run)
        assert "cannot be resumed" in error
        assert named in error

    def test_more_timesteps_go_on(self, run: Path) -> None:
        """A finished run is extended: the log goes on, and the agent with it."""
        before = RL2.load(run / "checkpoint.zip").policy.state_dict()
        more = ["--total-timesteps", "60", "--eval-tasks", "8", "--resume", "--out", str(run)]
        assert main([*TRAIN, *more]) == 0
        folder = RunFolder(run)
        assert folder.config().total_timesteps == 60
        assert folder.learning_curve()["time/total_timesteps"] == [12.0, 24.0, 36.0, 48.0, 60.0]
        model = RL2.load(folder.checkpoint)
        assert model.num_timesteps == 60
        assert not torch.equal(model.policy.state_dict()["actor.weight"], before["actor.weight"])

    def test_a_finished_run_is_only_evaluated(self, run: Path) -> None:
        """Nothing is trained, and the evaluation is the same."""
        before = [(run / name).read_bytes() for name in ("checkpoint.zip", "progress.csv")]
        evaluation = (run / "evaluation.json").read_text()
        (run / "evaluation.json").unlink()
        assert main([*TRAIN, *SHORT, "--resume", "--out", str(run)]) == 0
        after = [(run / name).read_bytes() for name in ("checkpoint.zip", "progress.csv")]
        assert after == before
        assert (run / "evaluation.json").read_text() == evaluation

    def test_resume_begins_again_before_the_first_checkpoint(self, tmp_path: Path) -> None:
        """A run that was killed before it ends as an undisturbed one."""
        out = tmp_path / "run"
        assert main([*TRAIN, *SHORT, "--out", str(out)]) == 0
        evaluation = (out / "evaluation.json").read_text()
        (out / "checkpoint.zip").unlink()
        assert main([*TRAIN, *SHORT, "--resume", "--out", str(out)]) == 0
        assert (out / "evaluation.json").read_text() == evaluation
        assert len(RunFolder(out).learning_curve()["time/total_timesteps"]) == 3

    def test_corrupt_checkpoint(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Is named; for resuming and for evaluating."""
        content = (run / "checkpoint.zip").read_bytes()
        (run / "checkpoint.zip").write_bytes(content[: len(content) // 2])
        error = refused(capsys, *TRAIN, *SHORT, "--resume", "--out", run)
        assert "checkpoint.zip is a corrupt checkpoint" in error
        assert "corrupt checkpoint" in refused(capsys, "evaluate", run)


class TestEvaluate:
    def test_evaluation_is_written_and_reported(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Tasks, episodes, split and seed are those that were asked for."""
        options = ["--num-tasks", "20", "--num-episodes", "2", "--split", "validation"]
        assert main(["evaluate", str(run), *options, "--seed", "3", "--deterministic"]) == 0
        result = EvaluationResult.load(run / "evaluation-validation-20.json")
        assert result.values.shape == (20, 6)  # two episodes of three pulls
        assert (result.split, result.seed, result.deterministic) == ("validation", 3, True)
        assert picture_size(run / "evaluation-validation-20.png") == (900, 600)
        printed = capsys.readouterr().out
        assert f"total {result.total.mean():.2f}" in printed
        assert "20 validation tasks" in printed
        assert f"pull 1: {result.values[:, 0].mean():.3f}" in printed

    def test_the_same_evaluation_again(self, run: Path) -> None:
        """It depends on the checkpoint and the seed alone: that of the training's end repeats."""
        at_the_end = (run / "evaluation.json").read_text()
        for _ in range(2):
            assert main(["evaluate", str(run), "--num-tasks", "8"]) == 0
        assert (run / "evaluation-test-8.json").read_text() == at_the_end
        assert not (run / "evaluation-test-8-2.json").exists()
        assert main(["evaluate", str(run), "--num-tasks", "8", "--seed", "1"]) == 0
        assert (run / "evaluation-test-8-2.json").read_text() != at_the_end
        for name in ("evaluation.json", "evaluation-test-8.json"):
            assert (run / name).read_text() == at_the_end

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            (["--split", "tst"], "no task split 'tst': these tasks have train, validation, test"),
            (["--split", "ood"], "no task split 'ood'"),
            (["--num-tasks", "0"], "num_tasks"),
            (["--device", "gpu"], "--device gpu: auto, cpu or cuda"),
            (["--num-episodes", "-1"], "num_episodes"),
            (["--threads", "-2"], "--threads must be from 1 to"),
        ],
        ids=str,
    )
    def test_bad_options(
        self, options: list[str], named: str, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Unknown splits and counts below one; the evaluation that is there stays."""
        before = (finished / "evaluation.json").read_bytes()
        assert named in refused(capsys, "evaluate", finished, *options)
        assert (finished / "evaluation.json").read_bytes() == before

    def test_missing_runs(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """No folder, and a folder without a checkpoint yet."""
        assert "holds no run" in refused(capsys, "evaluate", tmp_path / "nowhere")
        assert "holds no run" in refused(capsys, "plot", tmp_path / "nowhere")
        out = tmp_path / "run"
        assert main([*TRAIN, *SHORT, "--out", str(out)]) == 0
        (out / "checkpoint.zip").unlink()
        assert "no checkpoint" in refused(capsys, "evaluate", out)


class TestPlot:
    def test_several_runs_in_one_picture(self, run: Path, tmp_path: Path) -> None:
        """plot.png in the first folder, or where --out says; another run draws another picture."""
        other = tmp_path / "other"
        assert main([*TRAIN, *SHORT, "--seed", "1", "--out", str(other)]) == 0
        assert main(["plot", str(run), str(other)]) == 0
        assert picture_size(run / "plot.png") == (1650, 600)
        assert main(["plot", str(run), "--out", str(tmp_path / "one.png")]) == 0
        assert picture_size(tmp_path / "one.png") == (1650, 600)
        assert (tmp_path / "one.png").read_bytes() != (run / "plot.png").read_bytes()

    def test_evaluations_have_colours_of_their_own(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each line of adaptation, and none has the colour of the training's own evaluation."""
        for checkpoint in ("last", "best"):
            words = ["evaluate", str(run), "--num-tasks", "2", "--checkpoint", checkpoint]
            assert main(words) == 0
        drawn: list[Any] = []
        monkeypatch.setattr("meta_rl.cli.pictures._save", lambda figure, out: drawn.append(figure))
        assert main(["plot", str(run)]) == 0
        colours = [line.get_color() for line in drawn[0].axes[1].lines]
        assert set(colours) <= set(COLOURS)
        assert len(set(colours)) == len(colours) == 3

    def test_what_is_drawn(self, run: Path) -> None:
        """Learning curve, validation and evaluation each: without one the picture is another."""

        def drawn() -> bytes:
            assert main(["plot", str(run)]) == 0
            assert picture_size(run / "plot.png") == (1650, 600)
            return (run / "plot.png").read_bytes()

        pictures = [drawn(), drawn()]
        assert pictures[0] == pictures[1]  # so that another picture means something
        log = (run / "progress.csv").read_text()
        (run / "progress.csv.sha256").unlink()  # it would refuse another log
        for column in ("rollout/trial_return", "validation/trial_return"):
            rows = [line.split(",") for line in log.splitlines()]
            rows[-1][rows[0].index(column)] = "2.9"
            (run / "progress.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
            pictures.append(drawn())
        (run / "progress.csv").write_text(log)
        (run / "evaluation.json").unlink()
        pictures.append(drawn())
        assert len(set(pictures)) == 4

    def test_nothing_to_draw(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """No run, one without a log, a picture of an unknown kind."""
        assert "plot needs a run folder" in refused(capsys, "plot")
        assert "Format 'foo' is not supported" in refused(
            capsys, "plot", run, "--out", run / "p.foo"
        )
        (run / "progress.csv").unlink()
        assert "has no progress.csv yet" in refused(capsys, "plot", run)


class TestBadInput:
    @pytest.mark.parametrize(
        ("param", "named"),
        [
            ("learning_rte=3", "RL2 has no setting 'learning_rte': did you mean learning_rate?"),
            ("xyz=3", "RL2 has no setting 'xyz': clip_range, discount"),
            ("seed=3", "RL2 has no setting 'seed'"),  # --seed sets it
            ("polcy.core=gru", "settings are k, env.k or policy.k"),
            ("num_epochs", "--param takes k=v, got 'num_epochs'"),
            ("num_epochs=0", "num_epochs has to be a whole number"),
            ("num_minibatches=5", "num_minibatches=5, but only 4 trials"),
            ("learning_rate=[1,2,3]", "one number, or [first, last]"),
            ("policy.core=gur", "did you mean 'gru'"),
            ("env.horizon=0", "horizon"),
            ("meta_batch_size=-1", "meta_batch_size"),
        ],
    )
    def test_params(
        self, param: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Unknown names with near matches, and values that the constructors refuse."""
        command = [*TRAIN, "--param", param, *SHORT, "--out", tmp_path / "run"]
        assert named in refused(capsys, *command)
        assert not (tmp_path / "run" / "checkpoint.zip").exists()

    @pytest.mark.parametrize(
        ("param", "named"),
        [
            ("policy.hiden_size=3", "no setting 'policy.hiden_size': did you mean hidden_size"),
            ("policy.xyz=3", "no setting 'policy.xyz': core, embedding, hidden_size"),
            ("policy.generator=3", "no setting 'policy.generator'"),
            ("env.horizn=3", "BernoulliBandit has no setting 'env.horizn': did you mean horizon?"),
            ("env.xyz=3", "no setting 'env.xyz': horizon, num_arms exist"),
            ("learning_rate=abc", "learning_rate takes float or [first, last], got 'abc'"),
            ("discount=abc", "discount takes float, got 'abc'"),
            ("target_kl=abc", "target_kl takes float or None, got 'abc'"),
            ("normalize_advantages=3", "normalize_advantages takes bool, got 3"),
            ("meta_batch_size=[1]", "meta_batch_size takes int, got [1]"),
            ("policy.hidden_size=abc", "policy.hidden_size takes int, got 'abc'"),
            ("policy.embedding=abc", "a setting of the wrong name or kind"),
            ("policy=[1]", "a setting of the wrong name or kind"),
            ("env.horizon=abc", "env.horizon takes int, got 'abc'"),
            ("discount=1.5", "discount has to be in [0, 1], got 1.5"),
        ],
    )
    def test_params_of_wrong_names_and_kinds(
        self, param: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Say what is allowed, for the algorithm, its networks and the environment; no folder."""
        out = tmp_path / "run"
        assert named in refused(capsys, *TRAIN, "--param", param, *SHORT, "--out", out)
        assert not out.exists()

    def test_a_file_is_no_run_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "run"
        file.write_text("mine")
        for out in (file, file / "below" / "it"):
            assert f"{file} is a file" in refused(capsys, *TRAIN, *SHORT, "--out", out)
        assert file.read_text() == "mine"

    def test_a_typing_error_does_not_take_the_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """After a refused setting the corrected command goes through."""
        out = ["--out", str(tmp_path / "run")]
        refused(capsys, *TRAIN, "--param", "num_epochs=0", *SHORT, *out)
        assert main([*TRAIN, *SHORT, *out]) == 0

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["train", "rl3", "BernoulliBandit"], "unknown algorithm 'rl3': did you mean rl2?"),
            (["train", "xyz", "BernoulliBandit"], "unknown algorithm 'xyz': "),
            (["train", "rl2", "BernouliBandit"], "did you mean meta_rl/BernoulliBandit-v0"),
            (["train", "rl2", "Xyz"], "unknown environment 'Xyz'"),
            (["train", "rl2", "my/Xyz-v0"], "no imported module registers it. The module"),
            ([*TRAIN, "--config", "nowhere.toml"], "meta-rl: no file nowhere.toml"),
            (["train", "mine-own", "Xyz"], "has to be registered first: --import MODULE"),
            (["train", "rl2", "Csv-3w1s"], "is a data set of few-shot tasks"),
            (["train", "protonet", "Csv-3w1s"], "Csv-3w1s needs --param env.path=..."),
            ([*TRAIN, "--total-timesteps", "-1"], "--total-timesteps must not be negative, got -1"),
            (
                [*TRAIN, "--total-timesteps", "0", "--eval-tasks", "-1"],
                "--eval-tasks must not be negative, got -1",
            ),
            (
                [*TRAIN, "--total-timesteps", "0", "--device", "gpu"],
                "--device gpu: auto, cpu or cuda",
            ),
            ([*TRAIN, "--threads", "0"], "--threads must be from 1 to"),
            ([*TRAIN, "--cuda-graph"], "--cuda-graph is not for rl2: pearl has it"),
            ([*TRAIN, "--compile"], "--compile is not for rl2: maml and reptile have it"),
            (
                ["train", "pearl", "PointRobot", "--device", "cpu", "--cuda-graph"],
                "a CUDA graph needs a GPU, but the device is cpu",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_names_and_numbers(
        self,
        arguments: list[str],
        named: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Near matches where there are any; no folder is made."""
        monkeypatch.chdir(tmp_path)
        assert named in refused(capsys, *arguments)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [[], ["trian"], [*TRAIN, "--nope"]],
        ids=["none", "unknown command", "unknown flag"],
    )
    def test_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """The parser's own refusals end with exit code 2, and point to --help."""
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 2
        assert re.search(r"--help", capsys.readouterr().err)

    @pytest.mark.parametrize(
        ("command", "named"),
        [("train", "ALGO TASKS"), ("evaluate", "RUN"), ("plot", "RUN [RUN ...]")],
    )
    def test_help(self, command: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
        """The usage names what stands where."""
        with pytest.raises(SystemExit) as exit_info:
            main([command, "--help"])
        assert exit_info.value.code == 0
        assert f" {named}" in capsys.readouterr().out.partition("\n\n")[0]

    @pytest.mark.parametrize("threads", [1, 3])
    def test_threads(self, threads: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """PyTorch has as many as the command says, while it runs."""
        before, during = torch.get_num_threads(), []
        load = RL2.load

        def loaded(*args: Any, **kwargs: Any) -> Any:
            during.append(torch.get_num_threads())
            return load(*args, **kwargs)

        monkeypatch.setattr(RL2, "load", loaded)
        assert main(["evaluate", str(run), "--num-tasks", "2", "--threads", str(threads)]) == 0
        assert during == [threads]
        assert torch.get_num_threads() == before

    def test_interrupt(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Ctrl-C ends with exit code 130 and says how to go on; going on ends as if undisturbed."""
        command = [*TRAIN, *SHORT, "--checkpoint-interval", "0"]
        assert main([*command, "--out", str(tmp_path / "whole")]) == 0
        update, calls = RL2.train, []

        def interrupted(model: RL2) -> None:
            calls.append(model.num_timesteps)
            if len(calls) == 3:
                raise KeyboardInterrupt
            update(model)

        with monkeypatch.context() as patched:
            patched.setattr(RL2, "train", interrupted)
            assert main([*command, "--out", str(tmp_path / "run")]) == 130
        assert "--resume goes on from the last checkpoint" in capsys.readouterr().err
        assert calls == [12, 24, 36]
        assert RL2.load(tmp_path / "run" / "checkpoint.zip").num_timesteps == 24
        assert main([*command, "--resume", "--out", str(tmp_path / "run")]) == 0
        values = [
            EvaluationResult.load(tmp_path / name / "evaluation.json").values
            for name in ("whole", "run")
        ]
        np.testing.assert_array_equal(values[0], values[1])
