"""The ratios of all measurements of speed: those of the committed results, and worked numbers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "all_speed.py"))


def test_a_ratio_is_ours_over_the_peers_in_each_turn() -> None:
    """Speeds of 6 and 8 against 3 and 2; times the other way round."""
    (speed,) = SCRIPT["against_first"]("s", {"ours": [6.0, 8.0], "peer": [3.0, 2.0]})
    assert speed.what == "s: against peer"
    assert speed.turns == pytest.approx([2.0, 4.0])
    assert speed.median == 3.0
    (time,) = SCRIPT["against_first"]("t", {"ours": [6.0, 8.0], "peer": [3.0, 2.0]}, power=-1)
    assert time.turns == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("script", [name for name in SCRIPT["SHORT"] if name != "stages_speed"])
def test_committed_results_have_ratios(script: str) -> None:
    found = SCRIPT["committed"](script)
    assert found
    assert all(ratio > 0 for ratio in found.values())


def test_every_script_exists() -> None:
    assert SCRIPT["SHORT"].keys() == SCRIPT["RATIOS"].keys()
    for script in SCRIPT["SHORT"]:
        assert (ROOT / "benchmarks" / f"{script}.py").exists()
