"""Algorithms by name, and what ``meta-rl train`` and ``evaluate`` ask of one.

Importing this module imports no algorithm. A class that derives from
:class:`meta_rl.MetaAlgorithm` or :class:`meta_rl.few_shot.FewShotLearner` has all that
:class:`TrainableAlgorithm` asks; it only needs a name.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from meta_rl.algorithm import MetaAlgorithm
    from meta_rl.few_shot.learner import FewShotLearner

ENTRY_POINTS = "meta_rl.algorithms"
"""Entry-point group in which an installed package names its algorithms."""


class RegisteredAlgorithm(NamedTuple):
    """Where an algorithm is found.

    Attributes:
        home: ``"module:Class"``.
        kind: Heading in lists.
        settings: Name of the shipped settings (``meta_rl/settings/NAME.toml``), or path of a file
            of your own.
    """

    home: str
    kind: str
    settings: str | Path


_registered: dict[str, RegisteredAlgorithm] = {}


def register_algorithm(
    name: str, home: str, *, kind: str = "others", settings: str | Path | None = None
) -> None:
    """Make an algorithm known to ``meta-rl train`` and ``evaluate``.

    An installed package needs no call: it names its classes in the entry-point group
    ``meta_rl.algorithms``. A registered name goes before an entry point of the same name.

    Args:
        name: Name on the command line.
        home: ``"module:Class"``, imported when the algorithm is used. The class derives from
            :class:`meta_rl.MetaAlgorithm` or :class:`meta_rl.few_shot.FewShotLearner`, or has the
            members of :class:`TrainableAlgorithm`.
        kind: Heading in lists (default: ``"others"``).
        settings: Tuned settings by tasks: path of a TOML file, or the name of another algorithm
            whose settings it shares (default: its own name).

    Raises:
        ValueError: A name that is no word, a home of another form, or a name that stands for
            another class already.
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
    """All algorithms by name: those registered here, then those of installed packages."""
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
    """Names of all algorithms, by the heading that they have in lists."""
    kinds: dict[str, list[str]] = {}
    for name, found in registered_algorithms().items():
        kinds.setdefault(found.kind, []).append(name)
    return {kind: sorted(names) for kind, names in kinds.items()}


def find_algorithm(name: str) -> type[TrainableAlgorithm]:
    """Import the class of an algorithm.

    Raises:
        ValueError: The name is unknown (near names are listed), or the class lacks members of
            :class:`TrainableAlgorithm`.
        ImportError: There is no such module or class.
    """
    known = registered_algorithms()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"{', '.join(sorted(known))} exist"
        raise ValueError(f"unknown algorithm {name!r}: {hint}")
    module, _, attribute = known[name].home.partition(":")
    found = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        raise ImportError(f"algorithm {name!r}: {module} has no {attribute}")
    missing = sorted(part for part in _asked_of_a_class() if not hasattr(found, part))
    if missing:
        raise ValueError(
            f"algorithm {name!r}: {known[name].home} lacks {', '.join(missing)}; derive it from "
            "meta_rl.MetaAlgorithm or meta_rl.few_shot.FewShotLearner"
        )
    return found


def _asked_of_a_class() -> set[str]:
    """Members of the protocol but for properties, which an object may have as attributes."""
    members = vars(TrainableAlgorithm).items()
    functions = {name for name, member in members if not isinstance(member, property)}
    return {name for name in functions | set(TrainableAlgorithm.__annotations__) if name[0] != "_"}


def algorithms_with(option: str, kind: str) -> dict[str, type[TrainableAlgorithm]]:
    """Algorithms with an option, by name; without those that inherit it from another of them.

    Args:
        option: ``"cuda_graph"`` or ``"compile"``.
        kind: Kind of algorithms; if none of them has the option, all kinds are searched.
    """
    found: dict[str, type[TrainableAlgorithm]] = {}
    for name in sorted(registered_algorithms()):
        with contextlib.suppress(ImportError, ValueError):  # a package with missing parts
            algorithm = find_algorithm(name)
            if algorithm.has_option(option):
                found[name] = algorithm
    alike = {name: found[name] for name in found if registered_algorithms()[name].kind == kind}
    found = alike or found
    return {
        name: algorithm
        for name, algorithm in found.items()
        if not any(parent in found.values() for parent in algorithm.__mro__[1:])
    }


@dataclass
class Settings:
    """Settings of a training, by what takes them: as in files of settings and in ``--param``.

    Attributes:
        algorithm: Arguments of the algorithm's constructor.
        env: Arguments of the environment or data set (``env.k=v``).
        policy: Arguments of the networks (``policy.k=v``).
    """

    algorithm: dict[str, Any]
    env: dict[str, Any]
    policy: dict[str, Any]


class RunTasks(NamedTuple):
    """Tasks of a run, as :func:`meta_rl.evaluate_adaptation` takes them.

    Attributes:
        name: Environment id, or name of the data set.
        source: The id, or a split of few-shot tasks.
        arguments: Arguments of the environment, where the source is its id.
    """

    name: str
    source: Any
    arguments: dict[str, Any]


class TrainableAlgorithm(Protocol):
    """What ``meta-rl train`` and ``evaluate`` ask of an algorithm's class.

    A training asks in this order. :meth:`find_tasks`, :meth:`arguments_in`, :meth:`setting_owners`
    and :meth:`run_arguments` make the configuration; :meth:`open_tasks` and :meth:`from_run` make
    the learner; :meth:`train_until` trains it, with :meth:`validation_scores` on the way; then
    :func:`meta_rl.evaluate_adaptation` evaluates it on :meth:`evaluation_size` tasks.
    """

    length_setting: ClassVar[str]
    """Name of the training's length in files of settings, such as ``"total_timesteps"``."""
    default_length: ClassVar[int]
    """Length of a training where no setting says another; 0 for an algorithm without training."""
    steps_column: ClassVar[str]
    """Column of the training log that counts up to the length."""

    validation_points: ClassVar[int]
    """Number of evaluations on validation tasks in a training."""

    @classmethod
    def find_tasks(cls, name: str) -> str:
        """The id of the environment, or the data set, of a name.

        Raises:
            ValueError: Unknown; lists the near matches.
        """
        ...

    @classmethod
    def arguments_in(cls, name: str) -> dict[str, Any]:
        """Arguments of the data set that its name tells, such as ways and shots."""
        ...

    @classmethod
    def setting_owners(
        cls, env_id: str, settings: Settings
    ) -> list[tuple[Any, str, dict[str, Any]]]:
        """The callables that take the settings; each with its prefix in messages, and its settings.

        ``None`` stands for a callable that is not known; its settings are not checked here.

        Raises:
            ValueError: The algorithm does not learn such tasks, or not with such settings.
        """
        ...

    @classmethod
    def run_arguments(
        cls, env_id: str, settings: Settings, options: frozenset[str]
    ) -> dict[str, Any]:
        """Arguments for :meth:`from_run`, as the run folder keeps them: plain data."""
        ...

    @classmethod
    def has_option(cls, option: str) -> bool:
        """Whether the algorithm has an option (``"cuda_graph"``, ``"compile"``)."""
        ...

    @classmethod
    def open_tasks(
        cls, env_id: str, env_kwargs: dict[str, Any], split: str = "test"
    ) -> tuple[Any, dict[str, Any]]:
        """Source and arguments of :class:`RunTasks`.

        Args:
            env_id: Environment id, or name of the data set.
            env_kwargs: Arguments of the environment or data set.
            split: Part of the split that is to be evaluated.
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
        """A learner that is ready to train on the tasks: a new one, or that of a checkpoint.

        Raises:
            ValueError: The tasks, arguments or options do not fit.
        """
        ...

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> Self:
        """The learner of a checkpoint, to be evaluated."""
        ...

    @property
    def steps_done(self) -> int:
        """How much of the training's length is done."""
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
        """Train until :attr:`steps_done` reaches the length.

        Args:
            length: Length of the whole training.
            tasks: Tasks of the run.
            callbacks: Objects of :class:`meta_rl.cli.training.BetweenIterations`: callbacks of
                Stable-Baselines3, which can be called with the learner after an iteration too.
            progress_bar: Show one.
            options: ``"cuda_graph"``, ``"compile"``.
        """
        ...

    def evaluation_size(self, tasks: RunTasks, *, brief: bool = False) -> int | None:
        """Default number of tasks of an evaluation; ``None`` for all tasks of a list.

        Args:
            tasks: Tasks of the run.
            brief: In the middle of a training.
        """
        ...

    def validation_scores(self, result: Any) -> dict[str, float]:
        """Numbers for the training log, by name, from an evaluation on validation tasks."""
        ...

    def save(self, path: Path) -> Any:
        """Write a checkpoint, whole or not at all."""
        ...

    def set_logger(self, logger: Any) -> None:
        """Log to a logger of Stable-Baselines3."""
        ...


if TYPE_CHECKING:

    def _have_all_members(
        agent: MetaAlgorithm, learner: FewShotLearner
    ) -> tuple[TrainableAlgorithm, TrainableAlgorithm]:
        return agent, learner  # the type checker compares signatures


def register_own() -> None:
    """Register the algorithms of the package; repeating it does nothing."""
    for kind, homes in OWN.items():
        for name, home in homes.items():
            register_algorithm(name, home, kind=kind, settings=SHARED_SETTINGS.get(name))


OWN: dict[str, dict[str, str]] = {
    "agents": {
        "maml_trpo": "meta_rl.agents.maml_trpo:MAMLTRPO",
        "multi_task_sac": "meta_rl.agents.multi_task_sac:MultiTaskSAC",
        "oracle_sac": "meta_rl.agents.multi_task_sac:OracleSAC",
        "pearl": "meta_rl.agents.pearl:PEARL",
        "ppo": "meta_rl.agents.ppo:PPO",
        "promp": "meta_rl.agents.promp:ProMP",
        "rl2": "meta_rl.agents.rl2:RL2",
    },
    "few-shot learners": {
        "finetune": "meta_rl.few_shot.baselines:FineTune",
        "lstm": "meta_rl.few_shot.sequence_learner:LSTMLearner",
        "maml": "meta_rl.few_shot.maml:MAML",
        "mann": "meta_rl.few_shot.mann:MANN",
        "matching": "meta_rl.few_shot.matching:MatchingNet",
        "memory-network": "meta_rl.few_shot.memory_network:MemoryNetworkLearner",
        "nearest": "meta_rl.few_shot.baselines:NearestNeighbour",
        "ntm": "meta_rl.few_shot.sequence_learner:NTMLearner",
        "protonet": "meta_rl.few_shot.protonet:ProtoNet",
        "reptile": "meta_rl.few_shot.reptile:Reptile",
        "scratch": "meta_rl.few_shot.baselines:FromScratch",
        "siamese": "meta_rl.few_shot.siamese:Siamese",
    },
}
"""The algorithms of the package, by kind: one line for each."""

SHARED_SETTINGS = {"multi_task_sac": "pearl", "oracle_sac": "pearl"}
"""Baselines that take the settings of the algorithm that they are compared with."""

register_own()
