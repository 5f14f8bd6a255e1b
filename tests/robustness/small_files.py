"""Small agents and learners, their files, and files with other contents and a valid checksum."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from meta_rl.agents.rl2 import RL2
from meta_rl.few_shot import MAML

from .every_learner import CASES

QUICK = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def small_agent(**changes: Any) -> RL2:
    arguments = {"env_kwargs": {"num_arms": 2, "horizon": 3}, "policy_kwargs": {"hidden_size": 2}}
    sizes = {"meta_batch_size": 4, "num_minibatches": 2, "num_epochs": 1, "seed": 0}
    given = {"env": "BernoulliBandit", "device": "cpu", **arguments, **sizes, **changes}
    return RL2(**given)


def small_learner() -> MAML:
    learner = CASES["regression"].make()
    return learner.learn(CASES["regression"].tasks(), 2)


class Kept:
    """What can be saved and loaded: an agent or a learner."""

    def __init__(self, kind: str) -> None:
        self.one: Any = small_agent().learn(12) if kind == "agent" else small_learner()

    def save(self, path: Path) -> Path:
        self.one.save(path)
        return path

    def load(self, path: Path, **kwargs: Any) -> Any:
        return type(self.one).load(path, device="cpu", **kwargs)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(path: Path, parts: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    """A file with a valid checksum."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        with warnings.catch_warnings(action="ignore"):
            for name, part in parts.items():
                archive.writestr(name, part)
        archive.comment = b"sha256:" + b"0" * 64
    body = path.read_bytes()[:-71]
    path.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())
    return path
