"""No training goes beyond the wanted steps by more than an iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meta_rl.cli import main

from .every_agent import AGENTS, NUM_ENVS, OFF_POLICY, make_agent

FIRST = OFF_POLICY["num_train_tasks"] * OFF_POLICY["initial_steps"]


@pytest.mark.parametrize("name", AGENTS)
def test_at_most_one_iteration_more(name: str) -> None:
    agent = make_agent(name)
    before = FIRST if hasattr(agent, "initial_steps") else 0
    agent.learn(before + 1)
    iteration = agent.num_timesteps - before
    assert iteration > 1
    assert agent._num_iterations == 1
    wanted = before + 2 * iteration + 1
    agent = make_agent(name).learn(wanted)
    assert wanted <= agent.num_timesteps < wanted + iteration
    assert agent._num_iterations == 3


@pytest.mark.parametrize("name", ["pearl", "multi_task_sac", "oracle_sac"])
def test_first_steps_are_said_or_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    agent = make_agent(name, verbose=1)
    capsys.readouterr()
    with pytest.raises(ValueError, match=f"{FIRST - 1} steps are too few: {FIRST} steps .initial_"):
        agent.learn(FIRST - 1)
    assert agent.num_timesteps == 0
    agent.learn(FIRST)
    said = capsys.readouterr().out
    text = f"{FIRST} steps (initial_steps=6 on each of 6 training tasks, in batches of {NUM_ENVS})"
    assert said.index(text) < said.index("first steps: batch 1 of 1") < said.index("time/")
    agent.learn(1)  # its replay is full


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_the_command_line_says_and_refuses_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(steps: int, *more: str) -> Any:
        settings = ["meta_batch_size=80", "initial_steps=2", "prior_steps=2", "extra_steps=0"]
        settings += ["updates_per_iteration=1", "tasks_per_update=1", "batch_size=2"]
        command = ["train", "pearl", "PointRobot", "--out", str(tmp_path / "run"), *more]
        command += ["--total-timesteps", str(steps), "--eval-tasks", "0", "--device", "cpu"]
        return main([*command, "--param", *settings])

    assert train(100) == 2
    assert "100 steps are too few: 160 steps (initial_steps=2 on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train(200) == 0
    assert "160 steps (initial_steps=2 on each of 80" in capsys.readouterr().out
