"""Numbers on the command line: one line names the flag and the word that is no number."""

from __future__ import annotations

import pytest

from meta_rl.cli import main
from meta_rl.cli.entry import parsed

TRAIN = ["train", "rl2", "BernoulliBandit"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--total-timesteps", "nan"], "--total-timesteps has to be a whole number, got 'nan'"),
        (["--total-timesteps=inf"], "--total-timesteps has to be a whole number, got 'inf'"),
        (["--total-timesteps", "1.5"], "--total-timesteps has to be a whole number, got '1.5'"),
        (["--seeds", "0", "1", "x"], "--seeds has to be a whole number, got 'x'"),
        (["--seed", "1", "--threads", "two"], "--threads has to be a whole number, got 'two'"),
        (["--checkpoint-interval", "no"], "--checkpoint-interval has to be a number, got 'no'"),
        (["--checkpoint-interval", "nan"], "--checkpoint-interval must be finite, got nan"),
    ],
)
def test_one_line_names_the_flag(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, *words]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"meta-rl: {message}\n"
    assert printed.out == ""


def test_whole_numbers_may_be_written_in_any_way() -> None:
    for word in ("1000000", "1_000_000", "1e6", "1000000.0"):
        assert parsed([*TRAIN, "--total-timesteps", word]).total_timesteps == 1_000_000
    assert parsed([*TRAIN, "--total-timesteps", "None"]).total_timesteps is None
    command = parsed([*TRAIN, "--seeds", "3", "4", "--checkpoint-interval", "2.5"])
    assert (command.seeds, command.checkpoint_interval) == ((3, 4), 2.5)
