"""README.md is short, and its snippets run; the first examples in docs/examples run too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EXAMPLES = ("first_agent", "sb3_robots", "own_texts")

# What makes each snippet small enough for a test.
SMALLER = [
    {"meta_batch_size=512": "meta_batch_size=8", "2_000_000": "100"},
    {"num_envs=64": "num_envs=4", "n_steps=200": "n_steps=8", "1600": "32", "1_000_000": "32"},
    {'"all-MiniLM-L6-v2"': '"tfidf"'},
]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150
    assert len(SNIPPETS) == len(SMALLER)
    assert max(len(snippet.splitlines()) for snippet in SNIPPETS) <= 12


def test_it_has_the_two_commands_and_the_cpu_build() -> None:
    for command in ("make demo", "make test", "pip install torch --index-url https://"):
        assert f"\n{command}" in README


@pytest.mark.parametrize("number", range(len(SMALLER)))
def test_a_snippet_runs(number: int, tmp_path: Path) -> None:
    """As it stands there, but with fewer steps, and an encoder that needs no download."""
    program = SNIPPETS[number]
    for text, smaller in SMALLER[number].items():
        assert text in program
        program = program.replace(text, smaller)
    run([sys.executable, "-c", program], tmp_path)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_at_most_25_lines_runs(name: str, tmp_path: Path) -> None:
    path = ROOT / "docs" / "examples" / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 25
    assert run([sys.executable, str(path)], tmp_path).strip()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
