"""Modules that have moved: their old names still import, and give the modules of today.

Saved agents name the classes of their networks by module, and users may have imported these. A new
entry needs no code: importing the old name imports the new module, whenever that happens.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "meta_rl.context": "meta_rl.agents.pearl.encoders",
    "meta_rl.latent_actor": "meta_rl.agents.pearl.collection",
    "meta_rl.latent_losses": "meta_rl.agents.pearl.losses",
    "meta_rl.latent_policy": "meta_rl.agents.pearl.networks",
    "meta_rl.latent_state": "meta_rl.agents.pearl.inference",
    "meta_rl.options": "meta_rl.cli.settings",
    "meta_rl.policies": "meta_rl.agents.rl2",
    "meta_rl.task_replay": "meta_rl.agents.pearl.replay",
    "meta_rl.tuned": "meta_rl.cli.settings",
}
"""New names by old ones."""


class MovedModules(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED` by their old names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """How to import an old name; ``None`` for any other."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of the new name."""
        module = importlib.import_module(MOVED[spec.name])
        self._own_spec = module.__spec__  # which the import system replaces by `spec`
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing but restore what the import system replaced: the module has run already."""
        module.__spec__ = self._own_spec


def keep_old_names() -> None:
    """Make the old names importable; repeating it does nothing."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
