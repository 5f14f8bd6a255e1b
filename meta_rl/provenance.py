"""Where results come from: versions and commit, and files that are written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedRandom
from pathlib import Path

PACKAGES = ("meta-rl", "torch", "gymnasium", "numpy", "mujoco", "stable-baselines3", "scipy")

UNFINISHED = ".{name}.{process}.part"
"""Name of a file that is being written."""


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
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
    """The same in a line, for below a table."""
    return ", ".join(f"{name} {version}" for name, version in package_versions().items())


def git_commit() -> str | None:
    """The commit of the source tree that this package runs from, ``-dirty`` where it was edited.

    ``None`` for an installed package, or without git.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_atomically(path: str | Path, text: str, synced: bool = True) -> Path:
    """Write a text file so that a reader, or a crash, meets the old one or the new one.

    Args:
        path: Path of the file; its folder is made where it is missing.
        text: Content of the file.
        synced: Whether the file is also whole after a loss of power, which takes some 10 ms.

    Returns:
        The path.
    """
    with whole_file(path, synced) as file:
        file.write(text.encode())
    return Path(path)


@contextmanager
def whole_file(path: str | Path, synced: bool = True) -> Iterator[BufferedRandom]:
    """Open a file that takes its place when it is whole, so that a crash leaves the earlier one.

    Args:
        path: Path of the file; its folder is made where it is missing.
        synced: Whether the file is also whole after a loss of power, which takes some 10 ms.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(UNFINISHED.format(name=path.name, process=os.getpid()))
    try:
        with unfinished.open("w+b") as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:  # a full disk tells no name
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
