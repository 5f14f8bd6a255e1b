"""What a command imports: help, version and lists load none of the heavy packages.

Each command runs in a fresh interpreter, from a folder without the sources.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["torch", "stable_baselines3", "mujoco", "scipy", "matplotlib", "pydantic"]
PROGRAM = """
import json, sys
from meta_rl.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print("LOADED", json.dumps([code, sorted(name for name in sys.modules)]))
"""


def loaded_by(arguments: list[str], folder: Path) -> tuple[str, list[str]]:
    """What a command prints, and the modules that it has loaded."""
    command = [sys.executable, "-I", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    printed, _, loaded = done.stdout.rpartition("LOADED ")
    assert loaded, done.stderr
    code, modules = json.loads(loaded)
    assert code == 0, done.stderr
    return printed, modules


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--help"], "train"),
        (["--version"], "meta-rl 0."),
        (["train", "--help"], "--total-timesteps"),
        (["evaluate", "--help"], "--split"),
        (["plot", "--help"], "RUN"),
        (["compare", "--help"], "--by"),
        (["enjoy", "--help"], "--video"),
        (["tune", "--help"], "--search"),
        (["envs"], "meta_rl/HalfCheetahVel-v0"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(arguments: list[str], printed: str, tmp_path: Path) -> None:
    text, modules = loaded_by(arguments, tmp_path)
    assert printed in text
    assert [name for name in HEAVY if name in modules] == []
    assert "gymnasium" in modules  # the list of modules is that of the command


@pytest.mark.parametrize("module", ["meta_rl", "meta_rl.cli"])
def test_modules_that_are_the_command(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-m", module, "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.partition(" ")[0]) == (0, "meta-rl"), done.stderr
