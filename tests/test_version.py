"""One version, in three places."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import meta_rl

ROOT = Path(__file__).resolve().parent.parent


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert project["version"] == meta_rl.__version__
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [meta_rl.__version__]
