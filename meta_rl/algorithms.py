"""Algorithms by name, and the interface that ``meta-rl train`` and ``evaluate`` need.

Importing this module imports no algorithm. A class that derives from
:class:`meta_rl.MetaAlgorithm` or :class:`meta_rl.few_shot.FewShotLearner` only needs a name: the
command line adds the members of :class:`TrainableAlgorithm` to it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from meta_rl.arguments import checked, did_you_mean

ENTRY_POINTS = "meta_rl.algorithms"
"""Entry-point group in which an installed package names its algorithms."""


class RegisteredAlgorithm(NamedTuple):
    """The place of an algorithm's class and of its settings.

    Attributes:
        home: Module and name of the class, ``"module:Class"``.
        kind: Heading of the algorithm in lists.
        settings: Name of the shipped settings (``meta_rl/settings/NAME.toml``), or path of a file
            of your own.
    """

    home: str
    kind: str
    settings: str | Path


_registered: dict[str, RegisteredAlgorithm] = {}


@checked
def register_algorithm(
    name: str, home: str, *, kind: str = "others", settings: str | Path | None = None
) -> None:
    """Registers an algorithm for ``meta-rl train`` and ``evaluate``.

    An installed package needs no call: it names its classes in the entry-point group
    ``meta_rl.algorithms``. A registered name takes precedence over an entry point of that name.

    Args:
        name: Name on the command line.
        home: Module and name of the class, ``"module:Class"``; imported when the algorithm is used.
            The class derives from :class:`meta_rl.MetaAlgorithm` or
            :class:`meta_rl.few_shot.FewShotLearner`, or has the members of
            :class:`TrainableAlgorithm`.
        kind: Heading of the algorithm in lists (default: ``"others"``).
        settings: Path of a TOML file of tuned settings, or name of another algorithm whose
            settings it shares (default: its own name).

    Raises:
        ValueError: The name is not one word, the home has another form, or the name is
            registered for another class.
    """
    module, _, attribute = home.partition(":")
    if not name.replace("-", "_").isidentifier():
        raise ValueError(f"the name of an algorithm is one word, got {name!r}")
    if not module or not attribute:
        raise ValueError(f"the home of {name!r} has to be 'module:Class', got {home!r}")
    known = _registered.get(name)
    if known is not None and known.home != home:
        raise ValueError(f"{name!r} is registered already, for {known.home}")
    _registered[name] = RegisteredAlgorithm(home, kind, name if settings is None else settings)


def registered_algorithms() -> dict[str, RegisteredAlgorithm]:
    """Returns all algorithms by name: the registered ones, then those of installed packages."""
    return _registered | {
        name: found for name, found in _installed_algorithms().items() if name not in _registered
    }


@functools.cache
def _installed_algorithms() -> dict[str, RegisteredAlgorithm]:
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {
        point.name: RegisteredAlgorithm(point.value, "installed packages", point.name)
        for point in points
    }


def algorithms_by_kind() -> dict[str, list[str]]:
    """Returns the names of all algorithms, grouped by their heading in lists."""
    kinds: dict[str, list[str]] = {}
    for name, found in registered_algorithms().items():
        kinds.setdefault(found.kind, []).append(name)
    return {kind: sorted(names) for kind, names in kinds.items()}


def find_algorithm(name: str) -> Any:
    """Imports the class of an algorithm.

    Raises:
        ValueError: The name is unknown; similar names are listed.
        ImportError: The module or class does not exist.
    """
    known = registered_algorithms()
    if name not in known:
        hint = did_you_mean(name.lower(), sorted(known))
        if not hint.endswith("?"):
            hint += "; one of your own has to be registered first: --import MODULE"
        raise ValueError(f"unknown algorithm {name!r}: {hint}")
    module, _, attribute = known[name].home.partition(":")
    found = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        raise ImportError(f"algorithm {name!r}: {module} has no {attribute}")
    return found


@dataclass
class Settings:
    """The settings of a training, by the object that takes them.

    Attributes:
        algorithm: Arguments of the algorithm's constructor.
        env: Arguments of the environment or data set (``env.k=v``).
        policy: Arguments of the networks (``policy.k=v``).
    """

    algorithm: dict[str, Any]
    env: dict[str, Any]
    policy: dict[str, Any]


class RunTasks(NamedTuple):
    """The tasks of a run, in the form for :func:`meta_rl.evaluate_adaptation`.

    Attributes:
        name: Environment id, or name of the data set.
        source: Environment id, or split of few-shot tasks.
        arguments: Arguments of the environment; empty for few-shot tasks.
    """

    name: str
    source: Any
    arguments: dict[str, Any]


class TrainableAlgorithm(Protocol):
    """The interface of an algorithm's class for ``meta-rl train`` and ``evaluate``.

    A training calls its members in this order. :meth:`find_tasks`, :meth:`arguments_in`,
    :meth:`setting_owners` and :meth:`run_arguments` make the configuration. :meth:`open_tasks` and
    :meth:`from_run` make the learner. :meth:`train_until` trains it, and :meth:`validation_scores`
    is called during the training. Then :func:`meta_rl.evaluate_adaptation` evaluates the learner
    on :meth:`evaluation_size` tasks.
    """

    length_setting: ClassVar[str]
    """Name of the training's length in files of settings, such as ``"total_timesteps"``."""
    default_length: ClassVar[int]
    """Length of a training if no setting gives it; 0 for an algorithm without training."""
    steps_column: ClassVar[str]
    """Column of the training log that counts up to the length."""

    validation_points: ClassVar[int]
    """Number of evaluations on validation tasks in a training."""

    @classmethod
    def find_tasks(cls, name: str) -> str:
        """Returns the id of the environment, or the name of the data set, that a name means.

        Raises:
            ValueError: The name is unknown; the error lists similar names.
        """
        ...

    @classmethod
    def arguments_in(cls, name: str) -> dict[str, Any]:
        """Returns the arguments that a data set's name states, such as ways and shots."""
        ...

    @classmethod
    def setting_owners(
        cls, env_id: str, settings: Settings
    ) -> list[tuple[Any, str, dict[str, Any]]]:
        """Returns the callables that take the settings, with their prefixes in messages.

        Each entry is a callable, its prefix, and its settings. ``None`` in place of a callable
        means that it is unknown and that its settings are not checked here.

        Raises:
            ValueError: The algorithm does not support such tasks, or such settings.
        """
        ...

    @classmethod
    def run_arguments(
        cls, env_id: str, settings: Settings, options: frozenset[str]
    ) -> dict[str, Any]:
        """Returns the arguments for :meth:`from_run` as plain data, for the run folder."""
        ...

    @classmethod
    def has_option(cls, option: str) -> bool:
        """Tells whether the algorithm has an option (``"cuda_graph"``, ``"compile"``)."""
        ...

    @classmethod
    def open_tasks(
        cls, env_id: str, env_kwargs: dict[str, Any], split: str = "test"
    ) -> tuple[Any, dict[str, Any]]:
        """Returns the source and the arguments of :class:`RunTasks`.

        Args:
            env_id: Environment id, or name of the data set.
            env_kwargs: Arguments of the environment or data set.
            split: Part of the task split for an evaluation (default: ``"test"``).
        """
        ...

    @classmethod
    def from_run(
        cls,
        tasks: RunTasks,
        arguments: dict[str, Any],
        *,
        seed: int,
        device: str,
        checkpoint: Path | None = None,
        options: frozenset[str] = frozenset(),
    ) -> Self:
        """Makes a learner for training on the tasks, or loads it from a checkpoint.

        Raises:
            ValueError: The tasks, arguments or options do not fit the algorithm.
        """
        ...

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> Self:
        """Loads the learner of a checkpoint for an evaluation."""
        ...

    @property
    def steps_done(self) -> int:
        """The part of the training's length that is done, in the same unit."""
        ...

    def train_until(
        self,
        length: int,
        tasks: RunTasks,
        callbacks: list[Any],
        *,
        progress_bar: bool = False,
        options: frozenset[str] = frozenset(),
    ) -> None:
        """Trains until :attr:`steps_done` reaches the length.

        Args:
            length: Length of the whole training.
            tasks: Tasks of the run.
            callbacks: Objects of :class:`meta_rl.cli.callbacks.BetweenIterations`: callbacks of
                Stable-Baselines3, which can be called with the learner after an iteration too.
            progress_bar: Whether a progress bar is shown (default: False).
            options: Names of options: ``"cuda_graph"``, ``"compile"`` (default: none).
        """
        ...

    def evaluation_size(self, tasks: RunTasks, *, brief: bool = False) -> int | None:
        """Returns the default number of tasks of an evaluation; ``None`` for all tasks of a list.

        Args:
            tasks: Tasks of the run.
            brief: Whether the evaluation is one on validation tasks during a training.
        """
        ...

    def validation_scores(self, result: Any) -> dict[str, float]:
        """Returns numbers for the training log, by name, from a validation result."""
        ...

    def save(self, path: Path) -> Any:
        """Writes a checkpoint atomically: the file is complete or absent."""
        ...

    def set_logger(self, logger: Any) -> None:
        """Sets the logger, an object of Stable-Baselines3."""
        ...


def register_own() -> None:
    """Registers the algorithms of this package; a second call does nothing."""
    for kind, homes in OWN.items():
        for name, home in homes.items():
            register_algorithm(name, home, kind=kind, settings=SHARED_SETTINGS.get(name))


OWN: dict[str, dict[str, str]] = {
    "agents": {
        "algorithm_distillation": "meta_rl.agents.algorithm_distillation:AlgorithmDistillation",
        "dpt": "meta_rl.agents.dpt:DPT",
        "maml_trpo": "meta_rl.agents.maml_trpo:MAMLTRPO",
        "multi_task_sac": "meta_rl.agents.multi_task_sac:MultiTaskSAC",
        "oracle_sac": "meta_rl.agents.multi_task_sac:OracleSAC",
        "pearl": "meta_rl.agents.pearl:PEARL",
        "ppo": "meta_rl.agents.ppo:PPO",
        "promp": "meta_rl.agents.promp:ProMP",
        "rl2": "meta_rl.agents.rl2:RL2",
        "varibad": "meta_rl.agents.varibad:VariBAD",
    },
    "few-shot learners": {
        "finetune": "meta_rl.few_shot.learners.baselines:FineTune",
        "lstm": "meta_rl.few_shot.learners.sequence_learner:LSTMLearner",
        "maml": "meta_rl.few_shot.learners.maml:MAML",
        "mann": "meta_rl.few_shot.learners.mann:MANN",
        "matching": "meta_rl.few_shot.learners.matching:MatchingNet",
        "memory-network": "meta_rl.few_shot.learners.memory_network:MemoryNetworkLearner",
        "nearest": "meta_rl.few_shot.learners.baselines:NearestNeighbour",
        "ntm": "meta_rl.few_shot.learners.sequence_learner:NTMLearner",
        "protonet": "meta_rl.few_shot.learners.protonet:ProtoNet",
        "nearest-mean": "meta_rl.few_shot.learners.frozen:NearestMean",
        "logistic": "meta_rl.few_shot.learners.frozen:LogisticRegressionLearner",
        "plda": "meta_rl.few_shot.learners.plda:PLDA",
        "ridge": "meta_rl.few_shot.learners.ridge:Ridge",
        "reptile": "meta_rl.few_shot.learners.reptile:Reptile",
        "scratch": "meta_rl.few_shot.learners.baselines:FromScratch",
        "siamese": "meta_rl.few_shot.learners.siamese:Siamese",
    },
}
"""The algorithms of the package, by kind: one line for each."""

SHARED_SETTINGS = {"multi_task_sac": "pearl", "oracle_sac": "pearl"}
"""Baselines that use the settings of the algorithm that they are compared with."""

register_own()
