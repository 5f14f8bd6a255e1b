"""Algorithms by name: registered ones, those of installed packages, what is asked of a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import meta_rl
from meta_rl import algorithms
from meta_rl.agents.multi_task_sac import OracleSAC
from meta_rl.agents.rl2 import RL2
from meta_rl.algorithms import (
    OWN,
    RunTasks,
    algorithms_by_kind,
    find_algorithm,
    register_algorithm,
    registered_algorithms,
)
from meta_rl.cli import main
from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.settings import settings_for
from meta_rl.cli.trainable import algorithms_with, trainable, with_members

MODULE = '''
from meta_rl.agents.rl2 import RL2

class Mine(RL2):
    """A recurrent learner of one's own."""

class Other:
    """No algorithm."""
'''

# A class that derives from none of ours: it pulls one arm for ever, and has all that is asked.
ONE_ARM = """
import json
import numpy as np

class OneArm:
    length_setting, default_length, steps_column = "pulls", 7, "time/pulls"
    validation_points = 1

    def __init__(self, arm: int = 0):
        self.arm, self.steps_done = arm, 0

    @classmethod
    def find_tasks(cls, name): return "meta_rl/" + name + "-v0"
    @classmethod
    def arguments_in(cls, name): return {}
    @classmethod
    def setting_owners(cls, env_id, settings): return [(cls, "", settings.algorithm)]
    @classmethod
    def run_arguments(cls, env_id, settings, options): return settings.algorithm
    @classmethod
    def has_option(cls, option): return False
    @classmethod
    def open_tasks(cls, env_id, env_kwargs, split="test"): return env_id, env_kwargs
    @classmethod
    def from_run(cls, tasks, arguments, *, seed, device, checkpoint=None, options=()):
        return cls(**arguments) if checkpoint is None else cls.load(checkpoint)
    @classmethod
    def load(cls, path, *, device="auto"):
        made = cls()
        made.arm, made.steps_done = json.loads(path.read_text())
        return made
    def save(self, path): path.write_text(json.dumps([self.arm, self.steps_done]))
    def set_logger(self, logger): self.logger = logger
    def train_until(self, length, tasks, callbacks, *, progress_bar=False, options=()):
        while self.steps_done < length:
            self.steps_done += 1
            [callback(self) for callback in callbacks]
            self.logger.record("time/pulls", self.steps_done)
            self.logger.dump(self.steps_done)
    def check_length(self, num_steps): return ""
    def evaluation_size(self, tasks, *, brief=False): return 3 if brief else 5
    def validation_scores(self, result): return {"trial_return": float(result.total.mean())}
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full(len(observation), self.arm), state
"""

SMALL = [
    *("--quiet", "--device", "cpu", "--total-timesteps", "24", "--eval-tasks", "4", "--param"),
    *("meta_batch_size=4", "num_minibatches=2", "num_epochs=1", "policy.hidden_size=4"),
    *("env.num_arms=2", "env.horizon=3"),
]


@pytest.fixture(autouse=True)
def _own_algorithms_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(algorithms, "_registered", dict(algorithms._registered))
    algorithms._installed_algorithms.cache_clear()
    yield
    algorithms._installed_algorithms.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, with a module of algorithms."""
    (tmp_path / "algorithms_of_mine.py").write_text(MODULE)
    (tmp_path / "one_arm.py").write_text(ONE_ARM)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def help_of_train(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_every_algorithm_of_ours_is_found() -> None:
    """The class that its home names, which has all that is asked."""
    names = [name for homes in OWN.values() for name in homes]
    assert len(names) == len(set(names)) >= 18
    for name in names:
        found: Any = find_algorithm(name)
        assert f"{found.__module__}:{found.__name__}" == registered_algorithms()[name].home


def test_a_registered_algorithm_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is in the help, has its name in the run folder, and is evaluated by it."""
    assert "mine" not in help_of_train(capsys)
    meta_rl.register_algorithm("mine", "algorithms_of_mine:Mine")
    assert "Others: mine." in help_of_train(capsys)
    out = str(folder / "run")
    assert main(["train", "mine", "BernoulliBandit", *SMALL, "--out", out]) == 0
    assert "Mine, 1 training x 4 test tasks" in capsys.readouterr().out
    assert RunFolder(out).config().algorithm == "mine"
    assert main(["evaluate", out, "--num-tasks", "3"]) == 0
    assert "Mine, 1 training x 3 test tasks" in capsys.readouterr().out


def test_own_members_take_precedence_over_those_of_the_command_line() -> None:
    """The class itself stays as it is, and the class that is used has its name and its place."""

    class Own(RL2):
        validation_points = 3

        def evaluation_size(self, tasks: Any, *, brief: bool = False) -> Any:
            return brief or super().evaluation_size(tasks)  # type: ignore[misc]

    found: Any = with_members(Own)
    assert found.validation_points == 3
    assert found.default_length == trainable("rl2").default_length == 1_000_000
    assert not hasattr(Own, "default_length")
    assert (found.__name__, found.__module__) == ("Own", Own.__module__)
    agent = found(env="BernoulliBandit", meta_batch_size=1, num_minibatches=1, seed=0)
    tasks = RunTasks("BernoulliBandit", "BernoulliBandit", {})
    assert agent.evaluation_size(tasks, brief=True) is True
    assert agent.evaluation_size(tasks) is None


def test_an_algorithm_of_an_installed_package(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its entry point; it cannot take the name of one of ours."""
    about = folder / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[meta_rl.algorithms]\nmine = algorithms_of_mine:Mine\nrl2 = algorithms_of_mine:Mine\n"
    )
    assert "Installed packages: mine." in help_of_train(capsys)
    assert find_algorithm("mine").__name__ == "Mine"
    assert find_algorithm("rl2") is RL2
    assert "did you mean mine?" in refused(capsys, "train", "mime", "BernoulliBandit")


def test_a_class_of_another_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that has the members of the protocol is trained, validated, resumed and evaluated."""
    register_algorithm("one-arm", "one_arm:OneArm")
    command = ["train", "one-arm", "BernoulliBandit", "--quiet", "--out", str(folder / "run")]
    assert main([*command, "--param", "arm=1"]) == 0
    assert "OneArm, 1 training x 5 test tasks" in capsys.readouterr().out
    assert main([*command, "--param", "arm=1", "--resume", "--total-timesteps", "9"]) == 0
    run = RunFolder(folder / "run")
    assert run.checkpoint.read_text() == "[1, 9]"
    curve = run.learning_curve()
    assert curve["time/pulls"] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert 0 < curve["validation/trial_return"][6] < 10
    assert "OneArm has no setting 'arms': did you mean arm" in refused(
        capsys, *command, "--resume", "--param", "arms=1"
    )


def test_tuned_settings_of_ones_own(folder: Path) -> None:
    """From a file, or those of another algorithm."""
    (folder / "mine.toml").write_text("[BernoulliBandit-mine]\nmeta_batch_size = 8\n")
    register_algorithm("mine", "algorithms_of_mine:Mine", settings=folder / "mine.toml")
    register_algorithm("like-rl2", "algorithms_of_mine:Mine", settings="rl2")
    assert settings_for("mine") == {"BernoulliBandit-mine": {"meta_batch_size": 8}}
    assert settings_for("like-rl2") == settings_for("rl2") != {}
    assert settings_for("oracle_sac") == settings_for("pearl") != {}
    register_algorithm("lost", "algorithms_of_mine:Mine", settings="nowhere/lost.toml")
    with pytest.raises(FileNotFoundError, match=r"lost\.toml"):
        settings_for("lost")


@pytest.mark.parametrize(
    ("name", "home", "message"),
    [
        ("two words", "module:Class", "the name of an algorithm is one word, got 'two words'"),
        ("", "module:Class", "one word"),
        ("mine", "module.Class", "the home of 'mine' has to be 'module:Class', got 'module.Class'"),
        ("mine", ":Class", "has to be 'module:Class'"),
        ("rl2", "module:Class", "'rl2' is registered already, for meta_rl.agents.rl2:RL2"),
    ],
)
def test_bad_registrations(name: str, home: str, message: str) -> None:
    before = dict(registered_algorithms())
    with pytest.raises(ValueError, match=message):
        register_algorithm(name, home)
    assert registered_algorithms() == before


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("algorithms_of_mine:Other", "algorithms_of_mine:Other lacks arguments_in, .*train_until"),
        ("algorithms_of_mine:Nothing", "algorithm 'mine': algorithms_of_mine has no Nothing"),
        ("no_such_module:Mine", "No module named 'no_such_module'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_classes_that_cannot_be_used(
    home: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register_algorithm("mine", home)
    with pytest.raises((ValueError, ImportError), match=message):
        trainable("mine")
    assert refused(capsys, "train", "mine", "BernoulliBandit").startswith("meta-rl: ")


def test_registering_again_is_no_error() -> None:
    before = dict(registered_algorithms())
    algorithms.register_own()
    assert registered_algorithms() == before


def test_kinds_keep_their_order() -> None:
    assert list(algorithms_by_kind()) == ["agents", "few-shot learners"]
    assert algorithms_by_kind()["agents"] == sorted(OWN["agents"])


def test_algorithms_with_an_option() -> None:
    """Of the same kind where one has it; classes that inherit it are not listed again."""
    assert issubclass(trainable("oracle_sac"), OracleSAC)
    assert trainable("oracle_sac").has_option("cuda_graph")
    assert list(algorithms_with("cuda_graph", "agents")) == ["pearl"]
    assert list(algorithms_with("cuda_graph", "few-shot learners")) == ["maml", "mann", "reptile"]
    assert list(algorithms_with("compile", "agents")) == ["maml", "reptile"]
    assert algorithms_with("no_such_option", "agents") == {}
