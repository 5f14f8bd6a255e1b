"""The tutorials in docs/tutorials run, and are committed with the outputs of all their cells.

Two of them run in ``make test``, all in ``make test-slow``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
SHORT = {"add_environment", "few_shot"}


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in SHORT else pytest.mark.slow, id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_a_tutorial_runs(path: Path) -> None:
    """As a program of its own, in the folder of the tutorials; warnings are errors."""
    program = "\n".join("".join(cell["source"]) for cell in code_cells(path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=TUTORIALS,
        env={**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_short_ones_exist() -> None:
    assert {path.stem for path in NOTEBOOKS} > SHORT


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_committed_executed(path: Path) -> None:
    """Otherwise run ``make notebooks``. No output is an error or a warning."""
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
