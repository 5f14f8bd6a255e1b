"""Divergence on the command line, for every registered algorithm that is trained.

The exit code is 1; one line names the iteration and the loss, or the task; the checkpoint holds the
last good state, from which ``--resume`` goes on.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from PIL import Image

from meta_rl import register_task_env
from meta_rl.algorithms import registered_algorithms
from meta_rl.cli import main
from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.trainable import trainable
from meta_rl.compute.finite_state import broken_part
from meta_rl.few_shot import MAML, FewShotTasks, Sinusoid
from meta_rl.few_shot.data.babi import ARCHIVES
from meta_rl.few_shot.data.datasets import DATASETS, DataSet
from meta_rl.tasks import TaskSplit

from .every_agent import EXPERTS, IN_CONTEXT, OFF_POLICY, Signs

ENV = "test/SignsThatBreak-v0"
SMALL_OFF_POLICY = [f"{k}={v}" for k, v in OFF_POLICY.items() if k != "policy_kwargs"]
SMALL_OFF_POLICY += ["policy.hidden_sizes=[8,8]"]
GRADIENT = ["meta_batch_size=3", "envs_per_task=2", "policy.hidden_sizes=[4]"]
RECURRENT = ["meta_batch_size=6", "num_minibatches=2", "num_epochs=2", "policy.hidden_size=6"]
EXPERTS["Breaking"] = EXPERTS["Signs"]
LEARNED = [
    "meta_batch_size=6",
    *(f"{k}={v}" for k, v in IN_CONTEXT.items() if k != "policy_kwargs"),
]
LEARNED += [f"policy.{k}={v}" for k, v in IN_CONTEXT.get("policy_kwargs", {}).items()]
AGENTS: dict[str, list[str]] = {
    "rl2": RECURRENT,
    "varibad": [*RECURRENT, "policy.decoder_size=8"],
    "ppo": RECURRENT[:3],
    "maml_trpo": [*GRADIENT, "cg_iterations=3"],
    "promp": GRADIENT,
    "pearl": SMALL_OFF_POLICY,
    "multi_task_sac": SMALL_OFF_POLICY,
    "oracle_sac": SMALL_OFF_POLICY,
    "dpt": LEARNED,
    "algorithm_distillation": [*LEARNED, "source_name=noised-oracle"],
}
"""Agents, with settings for the family :class:`Signs`."""


class Learner(NamedTuple):
    tasks: str
    rate: float = 1e30


LEARNERS: dict[str, Learner] = {
    "maml": Learner("Sinusoid-5s"),
    "reptile": Learner("Sinusoid-5s"),
    "finetune": Learner("Sinusoid-5s"),
    "ntm": Learner("Copy", 1e37),
    "lstm": Learner("Copy", 1e37),
    "mann": Learner("ImageFolder-3w1s", 1e37),
    "siamese": Learner("ImageFolder-3w1s"),
    "protonet": Learner("Csv-3w1s"),
    "matching": Learner("Csv-3w1s"),
    "ridge": Learner("Csv-3w1s"),
    "memory-network": Learner("Babi"),
}
"""Learners, with tasks and a step size that breaks them."""

LARGE = ("maml_trpo", "promp")


class Breaking(Signs):
    """Signs whose rewards or observations are not finite from a step on.

    Args:
        what: What breaks: ``"reward"``, ``"observation"`` or ``"nothing"``.
        value: Text of the value in its place.
        after: Number of steps of the environment before.
    """

    def __init__(self, what: str = "nothing", value: str = "nan", after: int = 0) -> None:
        super().__init__()
        self.what, self.value, self.after, self.steps = what, float(value), after, 0

    def transition(self, state: np.ndarray, *arguments: Any) -> np.ndarray:
        self.steps += len(state)
        if self.steps > self.after and self.what != "nothing":
            self.broken = (self.what, self.value)
        return super().transition(state, *arguments)


@pytest.fixture(scope="module", autouse=True)
def family() -> Any:
    register_task_env(ENV, lambda **kwargs: Breaking(**kwargs))
    yield
    gymnasium.registry.pop(ENV)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Settings of the tasks: small ones of texts and of pictures."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for label in range(12):
        (folder / str(label)).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 255, (20, 20), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{i}.png")
            lines.append(f"word{label} word{rng.integers(99)},c{label}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    question = 20 * "1 Mary went home.\n2 Where is Mary? \thome\t1\n"
    root = tmp_path_factory.mktemp("questions")
    (root / "babi").mkdir()
    with tarfile.open(root / "babi" / ARCHIVES["en"][0], "w:gz") as archive:
        for part in ("train", "test"):
            inside = tarfile.TarInfo(f"tasks_1-20_v1-2/en/qa1_one_{part}.txt")
            inside.size = len(question)
            archive.addfile(inside, io.BytesIO(question.encode()))
    own = ["env.queries=1", "env.fractions=[0.4,0.3,0.3]"]
    return {
        "ImageFolder-3w1s": [f"env.path={folder}", *own],
        "Csv-3w1s": [f"env.path={folder / 'texts.csv'}", *own],
        "Babi": ["env.task=1", f"env.root={root}"],
    }


def stopped(
    capsys: pytest.CaptureFixture[str], out: Path, name: str, tasks: str, length: int, *params: str
) -> str:
    """The line of a training that diverges, after its file was looked at and resumed."""
    command = ["train", name, tasks, "--quiet", "--device", "cpu", "--eval-tasks", "0"]
    command += ["--total-timesteps", str(length), "--checkpoint-interval", "0", "--out", str(out)]
    capsys.readouterr()
    assert main([*command, "--param", *params]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"iteration \d", error)
    folder = RunFolder(out)
    model = trainable(name).load(folder.checkpoint, device="cpu")
    assert broken_part(model.learned()) is None
    rows = folder.learning_curve() if folder.progress.read_text() else {}
    steps = rows.get(model.steps_column, [])
    assert all(step <= model.steps_done for step in steps)
    return error


class TestAgents:
    def test_all_are_here(self) -> None:
        kinds = registered_algorithms().items()
        assert {name for name, one in kinds if one.kind == "agents"} == set(AGENTS)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("what", ["reward", "observation"])
    @pytest.mark.parametrize("name", AGENTS)
    def test_numbers_of_the_environment(
        self,
        name: str,
        what: str,
        value: float,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        broken = [f"env.what={what}", f"env.value={value}", "env.after=150"]
        error = stopped(capsys, tmp_path / "run", name, ENV, 1200, *AGENTS[name], *broken)
        assert f"{what} is not finite" in error or f"{what} of" in error
        assert "task" in error
        assert trainable(name).load(tmp_path / "run" / "checkpoint.zip").steps_done > 0

    @pytest.mark.parametrize("name", AGENTS)
    def test_steps_that_are_too_long(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rate = "max_kl=1e30" if name == "maml_trpo" else "learning_rate=1e30"
        rates = [rate, "inner_lr=1e30"] if name in LARGE else [rate]
        error = stopped(capsys, tmp_path / "run", name, ENV, 1200, *AGENTS[name], *rates)
        assert "finite" in error


class BrokenTasks:
    """Sinusoids of which an example is not finite from a batch on."""

    def __init__(self, tasks: Any, part: str, value: float) -> None:
        self.tasks, self.part, self.value, self.batches = tasks, part, value, 0

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        batch = self.tasks.sample_tasks(num_tasks, rng)
        self.batches += 1
        if self.batches > 6:
            getattr(batch, self.part)[1, 2] = self.value
        return batch


def broken_sinusoid(part: str = "query_x", value: str = "nan", shots: int = 5) -> TaskSplit:
    split = Sinusoid(shots, num_test=20)
    train = BrokenTasks(split.train, part, float(value))
    return TaskSplit(train, split.validation, split.test)


class TestLearners:
    @pytest.mark.parametrize("part", FewShotTasks._fields)
    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_numbers_of_the_data(
        self,
        value: str,
        part: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        broken = DataSet(f"{__name__}:broken_sinusoid", "sinusoid_mlp")
        monkeypatch.setitem(DATASETS, "Broken", broken)
        params = [f"env.part={part}", f"env.value={value}", "policy.hidden=[4]"]
        error = stopped(capsys, tmp_path / "run", "maml", "Broken", 60, *params)
        assert re.search(rf"iteration \d+: .*: example 2 of task 1 holds {value}", error)
        assert MAML.load(tmp_path / "run" / "checkpoint.zip", device="cpu").num_iterations > 0

    def test_all_are_here(self) -> None:
        kinds = registered_algorithms().items()
        learners = [name for name, one in kinds if one.kind == "few-shot learners"]
        trained = {name for name in learners if trainable(name).default_length}
        assert trained - {"plda"} == set(LEARNERS)  # plda is a closed form, without step sizes

    @pytest.mark.parametrize("name", LEARNERS)
    def test_steps_that_are_too_long(
        self,
        name: str,
        data: dict[str, list[str]],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        tasks, rate = LEARNERS[name]
        params = [*data.get(tasks, []), f"meta_lr={rate}"]
        error = stopped(capsys, tmp_path / "run", name, tasks, 60, *params)
        assert "loss" in error
