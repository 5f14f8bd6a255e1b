"""``meta-rl envs``: one line for each environment at any width, with the settings that ship."""

from __future__ import annotations

import os
import sys

import gymnasium as gym
import pytest

from meta_rl.cli import main
from meta_rl.cli.listing import environment_facts, shipped_settings, table_lines
from meta_rl.cli.settings import settings_for
from meta_rl.few_shot.data.datasets import DATASETS

OURS = sorted(env_id for env_id in gym.registry if env_id.startswith("meta_rl/"))


def printed_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["envs"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", ["30", "80", "300"])
def test_piped_lines_are_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do not depend on the width; every environment and data set has one."""
    monkeypatch.setenv("COLUMNS", columns)
    lines = printed_lines(capsys)
    first_words = [line.partition(" ")[0] for line in lines]
    for name in (*OURS, *DATASETS):
        assert first_words.count(name) == 1, name
    line = lines[first_words.index("meta_rl/HalfCheetahVel-v0")]
    assert line.rpartition("  ")[2].strip() == (
        "maml_trpo (also -pretrained); multi_task_sac, oracle_sac, pearl (also -paper); "
        "rl2, varibad"
    )
    for part in ("2 × 200", "Box(-1.0, 1.0, (6,), float32)", "run at a goal velocity."):
        assert part in line


def test_a_reader_that_has_seen_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``meta-rl envs | head`` ends without an error."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["envs"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [30, 45, 80, 130, 400])
def test_lines_of_a_terminal_fit(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, cut to the width, but for names, which are whole."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = [line for line in printed_lines(capsys) if line.startswith("meta_rl/")]
    assert [line.partition(" ")[0] for line in lines] == OURS
    longest = max(map(len, OURS))
    assert max(map(len, lines)) <= max(columns, longest + 3)
    if columns >= 80:
        by_id = {line.partition(" ")[0]: line for line in lines}
        assert by_id["meta_rl/AntVel-v0"].endswith("  maml_trpo")
    assert any("2 × 200" in line for line in lines) == (columns == 400)


def test_every_shipped_setting_is_listed() -> None:
    listed = shipped_settings()
    for algorithm in ("rl2", "pearl", "maml", "protonet"):
        for section, settings in settings_for(algorithm).items():
            name = settings.get("env_id", section.partition("-")[0])
            assert algorithm in listed[name]
            assert section.removeprefix(name) in listed[name]
    assert listed["MetaWorldML1"].endswith("rl2 (only -reach, -push)")
    assert listed["Copy"] == "lstm, ntm"


def test_columns_are_left_out_in_order() -> None:
    rows = [{"name": "abc", "size": "12", "what": "a thing", "settings": "x, y"}]
    leave_out = ("size", "what")
    assert table_lines(rows, None, leave_out) == [
        "name  size  what     settings",
        "abc   12    a thing  x, y",
    ]
    assert table_lines(rows, 31, leave_out) == table_lines(rows, None, leave_out)
    assert table_lines(rows, 30, leave_out)[1] == "abc   a thing  x, y"
    assert table_lines(rows, 20, leave_out)[1] == "abc   x, y"
    assert table_lines(rows, 8, leave_out) == ["name  s…", "abc   x…"]


def test_an_environment_that_is_not_in_the_file_is_made() -> None:
    facts = environment_facts("meta_rl/BernoulliBandit-v0")
    assert facts == ("Bernoulli multi-armed bandit.", "Discrete(10)", "1 × 10")
