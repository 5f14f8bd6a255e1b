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
    "meta_rl.agent_file": "meta_rl.files.sealed",
    "meta_rl.append_task": "meta_rl.wrappers.append_task",
    "meta_rl.batch_norm": "meta_rl.few_shot.networks.batch_norm",
    "meta_rl.clipped_gaussian": "meta_rl.policy_gradient.policy",
    "meta_rl.contact_pairs": "meta_rl.physics.contacts",
    "meta_rl.context": "meta_rl.agents.pearl.encoders",
    "meta_rl.cuda_graph": "meta_rl.compute.cuda_graph",
    "meta_rl.envs.map_picture": "meta_rl.rendering.map_picture",
    "meta_rl.evaluation_result": "meta_rl.evaluation.result",
    "meta_rl.few_shot.arrays": "meta_rl.few_shot.data.arrays",
    "meta_rl.few_shot.babi": "meta_rl.few_shot.data.babi",
    "meta_rl.few_shot.baselines": "meta_rl.few_shot.learners.baselines",
    "meta_rl.few_shot.checked_inputs": "meta_rl.few_shot.data.checked_inputs",
    "meta_rl.few_shot.clinc150": "meta_rl.few_shot.data.clinc150",
    "meta_rl.few_shot.datasets": "meta_rl.few_shot.data.datasets",
    "meta_rl.few_shot.device_work": "meta_rl.compute.device_work",
    "meta_rl.few_shot.embedding": "meta_rl.few_shot.learners.embedding",
    "meta_rl.few_shot.gradient": "meta_rl.few_shot.learners.gradient",
    "meta_rl.few_shot.images": "meta_rl.few_shot.data.images",
    "meta_rl.few_shot.maml": "meta_rl.few_shot.learners.maml",
    "meta_rl.few_shot.mann": "meta_rl.few_shot.learners.mann",
    "meta_rl.few_shot.matching": "meta_rl.few_shot.learners.matching",
    "meta_rl.few_shot.memory_network": "meta_rl.few_shot.learners.memory_network",
    "meta_rl.few_shot.ntm": "meta_rl.memory.ntm",
    "meta_rl.few_shot.omniglot": "meta_rl.few_shot.data.omniglot",
    "meta_rl.few_shot.own_data": "meta_rl.few_shot.data.own_data",
    "meta_rl.few_shot.protonet": "meta_rl.few_shot.learners.protonet",
    "meta_rl.few_shot.reptile": "meta_rl.few_shot.learners.reptile",
    "meta_rl.few_shot.sequence_learner": "meta_rl.few_shot.learners.sequence_learner",
    "meta_rl.few_shot.sequences": "meta_rl.few_shot.data.sequences",
    "meta_rl.few_shot.siamese": "meta_rl.few_shot.learners.siamese",
    "meta_rl.few_shot.sinusoid": "meta_rl.few_shot.data.sinusoid",
    "meta_rl.few_shot.sources": "meta_rl.few_shot.data.sources",
    "meta_rl.few_shot.strided_conv4": "meta_rl.few_shot.networks.strided_conv4",
    "meta_rl.few_shot.training_log": "meta_rl.few_shot.training",
    "meta_rl.few_shot.texts": "meta_rl.few_shot.data.texts",
    "meta_rl.files.former": "meta_rl.files.sealed",
    "meta_rl.finite_state": "meta_rl.compute.finite_state",
    "meta_rl.freed_memory": "meta_rl.compute.freed_memory",
    "meta_rl.intervals": "meta_rl.evaluation.intervals",
    "meta_rl.latent_actor": "meta_rl.agents.pearl.collection",
    "meta_rl.latent_losses": "meta_rl.agents.pearl.losses",
    "meta_rl.latent_policy": "meta_rl.agents.pearl.networks",
    "meta_rl.latent_state": "meta_rl.agents.pearl.inference",
    "meta_rl.making": "meta_rl.make",
    "meta_rl.mujoco_batch": "meta_rl.physics.batch",
    "meta_rl.mujoco_picture": "meta_rl.rendering.mujoco_picture",
    "meta_rl.options": "meta_rl.cli.settings",
    "meta_rl.perceptron": "meta_rl.policy_gradient.perceptron",
    "meta_rl.policies": "meta_rl.agents.rl2",
    "meta_rl.previous_step": "meta_rl.wrappers.previous_step",
    "meta_rl.process_blocks": "meta_rl.vector.process_blocks",
    "meta_rl.randomness": "meta_rl.evaluation.randomness",
    "meta_rl.registration": "meta_rl.make",
    "meta_rl.returns": "meta_rl.policy_gradient.returns",
    "meta_rl.shared_rollout": "meta_rl.physics.shared_rollout",
    "meta_rl.streams": "meta_rl.vector.streams",
    "meta_rl.task_assignment": "meta_rl.vector.task_assignment",
    "meta_rl.task_batch": "meta_rl.vector.task_batch",
    "meta_rl.task_design": "meta_rl.evaluation.task_design",
    "meta_rl.task_policy": "meta_rl.policy_gradient.policy",
    "meta_rl.task_replay": "meta_rl.agents.pearl.replay",
    "meta_rl.task_steps": "meta_rl.policy_gradient.batch",
    "meta_rl.torch_generator": "meta_rl.compute.torch_state",
    "meta_rl.torch_threads": "meta_rl.compute.torch_state",
    "meta_rl.training_steps": "meta_rl.vector.sb3_view",
    "meta_rl.trials": "meta_rl.evaluation.trials",
    "meta_rl.trust_region": "meta_rl.policy_gradient.trust_region",
    "meta_rl.tuned": "meta_rl.cli.settings",
    "meta_rl.vector.numpy_view": "meta_rl.vector.task_batch",
    "meta_rl.vector.task_arrays": "meta_rl.tasks",
    "meta_rl.vector.training_steps": "meta_rl.vector.sb3_view",
    "meta_rl.window": "meta_rl.rendering.window",
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
