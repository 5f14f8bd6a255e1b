"""Supervised few-shot learners: tasks, networks, and learners on the same core as the RL side.

The names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meta_rl.few_shot.babi import Babi as Babi
    from meta_rl.few_shot.baselines import FineTune as FineTune
    from meta_rl.few_shot.baselines import FromScratch as FromScratch
    from meta_rl.few_shot.baselines import NearestNeighbour as NearestNeighbour
    from meta_rl.few_shot.clinc150 import Clinc150 as Clinc150
    from meta_rl.few_shot.learner import FewShotLearner as FewShotLearner
    from meta_rl.few_shot.maml import MAML as MAML
    from meta_rl.few_shot.mann import MANN as MANN
    from meta_rl.few_shot.matching import MatchingNet as MatchingNet
    from meta_rl.few_shot.memory_network import MemoryNetworkLearner as MemoryNetworkLearner
    from meta_rl.few_shot.networks import FewShotNetwork as FewShotNetwork
    from meta_rl.few_shot.networks import conv4 as conv4
    from meta_rl.few_shot.networks import koch_network as koch_network
    from meta_rl.few_shot.networks import omniglot_mlp as omniglot_mlp
    from meta_rl.few_shot.networks import sinusoid_mlp as sinusoid_mlp
    from meta_rl.few_shot.networks import text_encoder as text_encoder
    from meta_rl.few_shot.ntm import NTM as NTM
    from meta_rl.few_shot.omniglot import Omniglot as Omniglot
    from meta_rl.few_shot.omniglot import lake_runs as lake_runs
    from meta_rl.few_shot.protonet import ProtoNet as ProtoNet
    from meta_rl.few_shot.reptile import Reptile as Reptile
    from meta_rl.few_shot.sequence_learner import LSTMLearner as LSTMLearner
    from meta_rl.few_shot.sequence_learner import NTMLearner as NTMLearner
    from meta_rl.few_shot.sequences import AssociativeRecallTasks as AssociativeRecallTasks
    from meta_rl.few_shot.sequences import CopyTasks as CopyTasks
    from meta_rl.few_shot.sequences import RepeatCopyTasks as RepeatCopyTasks
    from meta_rl.few_shot.siamese import Siamese as Siamese
    from meta_rl.few_shot.sinusoid import Sinusoid as Sinusoid
    from meta_rl.few_shot.tasks import ClassPool as ClassPool
    from meta_rl.few_shot.tasks import ClassTasks as ClassTasks
    from meta_rl.few_shot.tasks import FewShotSplit as FewShotSplit
    from meta_rl.few_shot.tasks import FewShotTasks as FewShotTasks
    from meta_rl.few_shot.tasks import FrozenTasks as FrozenTasks

_HOME = {
    "AssociativeRecallTasks": "sequences",
    "Babi": "babi",
    "ClassPool": "tasks",
    "ClassTasks": "tasks",
    "Clinc150": "clinc150",
    "CopyTasks": "sequences",
    "FewShotLearner": "learner",
    "FewShotNetwork": "networks",
    "FewShotSplit": "tasks",
    "FewShotTasks": "tasks",
    "FineTune": "baselines",
    "FromScratch": "baselines",
    "FrozenTasks": "tasks",
    "LSTMLearner": "sequence_learner",
    "MAML": "maml",
    "MANN": "mann",
    "MatchingNet": "matching",
    "MemoryNetworkLearner": "memory_network",
    "NTM": "ntm",
    "NTMLearner": "sequence_learner",
    "NearestNeighbour": "baselines",
    "Omniglot": "omniglot",
    "ProtoNet": "protonet",
    "RepeatCopyTasks": "sequences",
    "Reptile": "reptile",
    "Siamese": "siamese",
    "Sinusoid": "sinusoid",
    "conv4": "networks",
    "koch_network": "networks",
    "lake_runs": "omniglot",
    "omniglot_mlp": "networks",
    "sinusoid_mlp": "networks",
    "text_encoder": "networks",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
