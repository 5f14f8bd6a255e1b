"""The origin of results: versions of packages, and the commit of the source tree."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

from meta_rl.files import UNFINISHED as UNFINISHED
from meta_rl.files import whole_file as whole_file
from meta_rl.files import write_atomically as write_atomically

PACKAGES = ("meta-rl", "torch", "gymnasium", "numpy", "mujoco", "stable-baselines3", "scipy")


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    return dict(_package_versions())


@cache
def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def versions_text() -> str:
    """Returns these versions in one line, for a note below a table."""
    return ", ".join(f"{name} {version}" for name, version in package_versions().items())


def git_commit() -> str | None:
    """Returns the commit of the source tree that runs, with ``-dirty`` if it was edited.

    For an installed package, or without git, it is ``None``.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(root), *describe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
