"""Old names of modules import, and give the modules of today."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from meta_rl.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_is_the_new_module(old: str, new: str) -> None:
    """The very same module, which keeps its own name and spec."""
    module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert module.__name__ == new
    assert module.__spec__ is not None
    assert module.__spec__.name == new


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("meta_rl.policies", "RecurrentActorCritic"),
        ("meta_rl.latent_policy", "LatentActorCritic"),
        ("meta_rl.context", "ProductEncoder"),
        ("meta_rl.latent_losses", "LatentLosses"),
        ("meta_rl.latent_state", "LatentState"),
        ("meta_rl.latent_actor", "LatentActor"),
        ("meta_rl.task_replay", "TaskReplay"),
    ],
)
def test_what_was_pickled_by_an_old_name_is_found(module: str, name: str) -> None:
    """A class is pickled by its module and name: protocol 0 writes both as text."""
    found = pickle.loads(f"c{module}\n{name}\n.".encode())
    assert found.__name__ == name
    assert found.__module__.startswith("meta_rl.agents.")


def test_nothing_is_imported_before_it_is_asked_for(tmp_path: Path) -> None:
    """In a fresh interpreter: ``import meta_rl`` and finding an old name load no agent."""
    program = (
        "import sys, importlib.util, meta_rl\n"
        "assert importlib.util.find_spec('meta_rl.policies') is not None\n"
        "assert importlib.util.find_spec('meta_rl.no_such_module') is None\n"
        "assert not [name for name in sys.modules if name.startswith('meta_rl.agents')]\n"
        "from meta_rl.policies import RecurrentActorCritic\n"
        "import meta_rl.agents.rl2, meta_rl.policies\n"
        "assert meta_rl.policies is meta_rl.agents.rl2\n"
        "print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
