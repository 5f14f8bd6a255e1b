"""Old names of modules that have moved; importing an old name imports the new module.

Saved agents name the classes of their networks by module, and users may have imported these
modules. A moved module needs an entry in :data:`MOVED`, and no other code.
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
"""The new name of each old name."""


class MovedModules(MetaPathFinder, Loader):
    """An importer that finds the modules of :data:`MOVED` by their old names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Returns the import specification of an old name; ``None`` for any other name."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Imports the module of the new name."""
        module = importlib.import_module(MOVED[spec.name])
        self._own_spec = module.__spec__  # the import system replaces it by `spec`
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restores the specification that the import system replaced; the module has run."""
        module.__spec__ = self._own_spec


def keep_old_names() -> None:
    """Makes the old names importable; a second call does nothing."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
