"""The examples of the documentation run: the ways of three users, and the templates."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

import meta_rl
from meta_rl import algorithms
from meta_rl.cli import main
from meta_rl.cli.run_folder import RunFolder

from .test_cli import refused

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
WAYS = {"researcher": 2_560, "robot_user": 1_024, "text_user": 60}
"""Users, and lengths of short trainings."""


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """In an empty folder, with names that are forgotten afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(algorithms, "_registered", dict(algorithms._registered))
    known = set(gym.registry)
    yield
    for name in set(gym.registry) - known:
        del gym.registry[name]
    for name in [name for name in sys.modules if name.startswith(("template_", "way_of_a_"))]:
        del sys.modules[name]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("user", sorted(WAYS))
def test_the_way_of_a_user(user: str) -> None:
    file = EXAMPLES / f"way_of_a_{user}.py"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 25
    value = importlib.import_module(f"way_of_a_{user}").main(WAYS[user])
    assert np.isfinite(value)
    if user == "text_user":
        assert value == 1.0


@pytest.mark.parametrize("name", ["environment", "agent", "few_shot_learner"])
def test_templates_are_short(name: str) -> None:
    text = (EXAMPLES / f"template_{name}.py").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= 40


def test_the_template_of_an_environment() -> None:
    importlib.import_module("template_environment")
    meta_rl.check_task_env("my/ReachPoint-v0")
    small = ["meta_batch_size=4", "num_minibatches=2", "policy.hidden_size=4"]
    words = ["train", "rl2", "template_environment:my/ReachPoint-v0", "--quiet", "--param", *small]
    assert main([*words, "--total-timesteps", "160", "--eval-tasks", "3", "--out", "run"]) == 0
    assert RunFolder("run").learning_curve()["time/total_timesteps"] == [160.0]


def test_the_template_of_an_agent() -> None:
    """Its two ways through a trial agree, and the command line trains it."""
    template = importlib.import_module("template_agent")
    model = template.MeanMemoryAgent(env="BernoulliBandit", meta_batch_size=4, num_minibatches=2)
    obs = torch.rand(5, 4, model.observation_space.shape[0])
    obs[..., -1] = 0.0
    obs[0, :, -1] = 1.0
    state, seen = model.policy.initial_state(4), []
    for step in obs:
        features, state = model.policy.step(step, state)
        seen.append(features)
    whole = model.policy.features(obs, model.policy.initial_state(4))
    torch.testing.assert_close(torch.stack(seen), whole)
    small = ["--param", "meta_batch_size=4", "num_minibatches=2", "--total-timesteps", "400"]
    words = ["train", "my-mean-memory", "BernoulliBandit", "--quiet", "--eval-tasks", "3", *small]
    assert main([*words, "--out", "run"]) == 0


def pictures(folder: Path) -> None:
    """Ten classes of pictures with one brightness each, and a little noise."""
    rng = np.random.default_rng(0)
    for label in range(15):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(6):
            noisy = np.clip(16 * label + rng.integers(0, 6, (28, 28)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class{label}" / f"{i}.png")


def test_the_template_of_a_learner_and_folders_of_pictures(tmp_path: Path) -> None:
    """``ImageFolder`` with nothing but its path: five ways and one shot."""
    importlib.import_module("template_few_shot_learner")
    pictures(tmp_path / "pictures")
    params = ["env.path=pictures", "env.queries=3", "env.fractions=[0.34,0.33,0.33]"]
    for name in ("protonet", "my-cosine"):
        words = ["train", name, "ImageFolder", "--quiet", "--device", "cpu", "--eval-tasks", "4"]
        assert main([*words, "--param", *params, "--total-timesteps", "2", "--out", name]) == 0
        config = RunFolder(name).config()
        assert (config.env_kwargs["ways"], config.env_kwargs["shots"]) == (5, 1)
    assert main(["evaluate", "protonet", "--num-tasks", "3"]) == 0


def test_a_csv_file_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"please {i} do thing{label} now,thing{label}" for label in range(15) for i in range(6)]
    (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words: list[Any] = ["train", "protonet", "Csv", "--quiet", "--device", "cpu"]
    params = ["env.path=texts.csv", "env.queries=3", "env.fractions=[0.34,0.33,0.33]"]
    small = ["--total-timesteps", "2", "--eval-tasks", "4", "--out", "run"]
    assert main([*words, *small, "--param", *params]) == 0
    assert main(["evaluate", "run", "--num-tasks", "3"]) == 0
    assert "path" in refused(capsys, *words, "--out", "other")
    assert "no file" in refused(capsys, *words, "--param", "env.path=nowhere.csv", "--out", "x")
