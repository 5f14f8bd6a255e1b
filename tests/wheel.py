"""Installs the wheel in dist/ into a fresh virtual environment, and runs wheel_smoke.py there.

    python tests/wheel.py                        # with the versions of constraints.txt
    python tests/wheel.py --dependencies oldest  # with the lowest versions of pyproject.toml
    python tests/wheel.py --dependencies newest  # with the newest ones

PyTorch is taken from the index that ``TORCH_INDEX`` names, if it is set. ``--torch`` names another
version of it, where the index lacks the one that is wanted.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED_TORCH = "2.13.0"
LOWEST = re.compile(r"([A-Za-z0-9-]+)(?:\[[^\]]*\])?>=([0-9.]+)")


def lowest_versions(requirements: list[str]) -> list[str]:
    """The constraints that hold requirements of the form ``name>=version`` at that version."""
    pairs = [LOWEST.fullmatch(text) for text in requirements]
    if None in pairs:
        raise SystemExit(f"no lower bound: {requirements[pairs.index(None)]}")
    return [f"{match[1]}=={match[2]}" for match in pairs if match is not None]


def constraints(dependencies: str, torch: str | None) -> list[str]:
    """The lines of a constraints file for pip."""
    if dependencies == "pinned":
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        torch = torch or PINNED_TORCH
    elif dependencies == "oldest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extra = project["optional-dependencies"]["text"]
        lines = lowest_versions([*project["dependencies"], *extra])
    else:
        lines = []
    if torch is None:
        return lines
    return [*(line for line in lines if not line.startswith("torch==")), f"torch=={torch}"]


def main() -> None:
    """Makes the environment, installs the wheel, and tests it from an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dependencies", choices=("pinned", "oldest", "newest"), default="pinned")
    parser.add_argument("--torch", help="version of PyTorch")
    args = parser.parse_args()
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"one wheel is needed in dist/, found {len(wheels)}; run make build")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "constraints.txt").write_text(
            "\n".join(constraints(args.dependencies, args.torch)) + "\n", encoding="utf-8"
        )
        venv.create(work / "venv", with_pip=True)
        binaries = work / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        python = str(binaries / ("python.exe" if sys.platform == "win32" else "python"))
        index = os.environ.get("TORCH_INDEX")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install += ["-c", str(work / "constraints.txt")]
        install += ["--extra-index-url", index] if index else []
        subprocess.run([*install, "torch", str(wheels[0]), "scikit-learn"], check=True)
        empty = work / "empty"
        empty.mkdir()
        # -I: neither the folder of the script nor PYTHONPATH is searched for modules.
        smoke = [python, "-I", str(ROOT / "tests" / "wheel_smoke.py")]
        raise SystemExit(subprocess.run(smoke, cwd=empty, check=False).returncode)


if __name__ == "__main__":
    main()
