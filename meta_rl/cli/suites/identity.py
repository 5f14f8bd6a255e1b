"""What makes two cells the same: settings, code and versions of packages."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import meta_rl
import meta_rl.agents
import meta_rl.envs

NOT_IN_RESULTS = ("cli/report", "cli/pretrained_runs.py", "pretrained.py")
"""Folders and files of the package that no result depends on."""


def digest(content: Any) -> str:
    """SHA-256 of plain data, as hexadecimal text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest(modules: Iterable[str] = ()) -> str:
    """Digest of the package's code: layout, comments and docstrings do not count.

    Args:
        modules: Further modules, which register algorithms or environments of the user's own.
    """
    parts = [_package_digest()]
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            parts.append(_bare(Path(spec.origin).read_text(encoding="utf-8")))
    return digest(parts)


@functools.cache
def _package_digest() -> str:
    parts = {}
    for package in (meta_rl, meta_rl.envs, meta_rl.agents):
        for folder in map(Path, package.__path__):
            for file in sorted(folder.rglob("*.py")):
                name = file.relative_to(folder).as_posix()
                if not name.startswith(NOT_IN_RESULTS):
                    parts[f"{package.__name__}/{name}"] = _bare(file.read_text(encoding="utf-8"))
    return digest(parts)


def _bare(source: str) -> str:
    """The digest of a module's statements without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [one for one in body if not _is_text(one)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return digest(ast.dump(tree))


def _is_text(node: Any) -> bool:
    """Whether a statement is only a text, such as a docstring."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return False
    return isinstance(node.value.value, str)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def processor() -> str:
    """Model of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
