"""The interface of few-shot learners to the command line; see :mod:`meta_rl.algorithms`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from meta_rl.algorithms import RunTasks, Settings
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.few_shot.data.datasets import (
    DATASETS,
    arguments_in,
    dataset_maker,
    find_dataset,
    open_dataset,
)
from meta_rl.few_shot.learner import FewShotLearner
from meta_rl.few_shot.networks.choice import centred, sizes_of
from meta_rl.few_shot.networks.feed_forward import RECIPES
from meta_rl.tasks import TaskSplit

if TYPE_CHECKING:
    _Learner = FewShotLearner
else:
    _Learner = object

EVALUATED_TASKS = 600
"""Default number of tasks in an evaluation, for tasks that are drawn from a distribution."""
VALIDATION_TASKS = 40


class LearnerCommands(_Learner):
    """The members of :class:`meta_rl.algorithms.TrainableAlgorithm` for few-shot learners.

    A subclass derives from a learner's class first, whose own members thus take precedence.

    Attributes:
        classifies: Whether the learner's network has an output for each class.
        met_parts: Parts of the split whose tasks the learner adapts to.
    """

    length_setting: ClassVar[str] = "num_iterations"
    default_length: ClassVar[int] = 10_000
    steps_column: ClassVar[str] = "time/iterations"
    validation_points: ClassVar[int] = 10
    classifies: ClassVar[bool] = False
    met_parts: ClassVar[tuple[str, ...]] = ("train", "test")

    @classmethod
    def find_tasks(cls, name: str) -> str:
        """Returns the data set in a name such as ``Omniglot-5w1s``."""
        return find_dataset(name)

    @classmethod
    def arguments_in(cls, name: str) -> dict[str, Any]:
        """Returns the numbers of ways and shots in a name such as ``Omniglot-5w1s``."""
        return arguments_in(name)

    @classmethod
    def setting_owners(
        cls, env_id: str, settings: Settings
    ) -> list[tuple[Any, str, dict[str, Any]]]:
        """Returns the callables that take the settings, each with a prefix and its settings.

        They are the learner's class, the maker of the data set, and the maker of the network.

        Raises:
            ValueError: The settings name a device for the tasks alone, no network is known for the
                data set, or a learner that makes its own network has settings of a network.
        """
        if "device" in settings.env:
            raise ValueError("env.device: tasks are drawn on the learner's device; give --device")
        own = {name: value for name, value in settings.algorithm.items() if name != "network"}
        network = cls._network_name(env_id, settings)
        if network is None and "network" in inspect.signature(cls).parameters:
            raise ValueError(f"{cls.__name__} needs a network, and none is known for {env_id}")
        if network is None and settings.policy:
            raise ValueError(f"{cls.__name__} makes its own network: no policy. settings")
        return [
            (cls, "", own),
            (dataset_maker(env_id), "env.", settings.env),
            (None if network is None else _network_maker(network), "policy.", settings.policy),
        ]

    @classmethod
    def run_arguments(
        cls, env_id: str, settings: Settings, options: frozenset[str]
    ) -> dict[str, Any]:
        """Returns the constructor's arguments, and the network's name and arguments."""
        network = cls._network_name(env_id, settings)
        return {**settings.algorithm, "network": network, "policy_kwargs": settings.policy}

    @classmethod
    def _network_name(cls, env_id: str, settings: Settings) -> Any:
        return settings.algorithm.get("network", DATASETS[env_id].network)

    @classmethod
    def has_option(cls, option: str) -> bool:
        """Returns whether the learner can record (or compile) its updates."""
        return {"cuda_graph": cls.can_record, "compile": cls.can_compile}.get(option, False)

    @classmethod
    def open_tasks(
        cls, env_id: str, env_kwargs: dict[str, Any], split: str = "test"
    ) -> tuple[Any, dict[str, Any]]:
        """Opens the data set's split, or another of its lists of tasks."""
        return open_dataset(env_id, env_kwargs, split), {}

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
        """Makes a learner whose network has the tasks' sizes, or loads it from a checkpoint."""
        if checkpoint is None:
            learner = cls.for_tasks(tasks, arguments, seed=seed, device=device)
        else:
            learner = cls.load(checkpoint, device=device)
        for part in cls.met_parts:
            batch = tasks.source[part].sample_tasks(1, np.random.default_rng(0))
            learner.check_batch(batch.to(learner.device))
        learner.faster("cuda_graph" in options, "compile" in options)  # refuses what it has not
        return learner

    @classmethod
    def for_tasks(
        cls, tasks: RunTasks, arguments: dict[str, Any], *, seed: int, device: str = "auto"
    ) -> Self:
        """Makes a learner; the weights of its network are drawn by the seed.

        Args:
            tasks: Tasks that tell the sizes of inputs and outputs.
            arguments: Arguments that :meth:`run_arguments` returned.
            seed: Seed of the weights and of the learner.
            device: Device of the learner.

        Raises:
            ValueError: A learner that makes its own network needs a size that the tasks do not
                have.
        """
        settings = dict(arguments)
        network, policy_kwargs = settings.pop("network"), settings.pop("policy_kwargs")
        sizes = sizes_of(tasks.source)
        takes = inspect.signature(cls).parameters
        if "network" not in takes:
            settings = {**{key: sizes[key] for key in sizes if key in takes}, **settings}
            _check_sizes(cls, tasks.name, settings)
            return cls(**settings, seed=seed, device=device)
        if not cls.classifies:
            sizes.pop("ways", None)
        maker = _network_maker(network)
        wanted = inspect.signature(maker).parameters
        known = {key: sizes[key] for key in sizes if key in wanted}
        generator = torch.Generator().manual_seed(seed)
        made = centred(
            maker(**{**known, **policy_kwargs}, generator=generator), network, tasks.source
        )
        return cls(made, **settings, seed=seed, device=device)

    def check_length(self, num_steps: int) -> str:
        """Refuses nothing: updates begin with the first iteration."""
        return ""

    @property
    def steps_done(self) -> int:
        """Number of iterations so far."""
        return self.num_iterations

    def train_until(
        self,
        length: int,
        tasks: RunTasks,
        callbacks: list[Any],
        *,
        progress_bar: bool = False,
        options: frozenset[str] = frozenset(),
    ) -> None:
        """Trains until ``length`` iterations are done; the log gets at least 20 lines."""
        self.learn(
            tasks.source,
            length - self.num_iterations,
            callback=callbacks,
            log_interval=max(1, min(100, length // 20)),
            reset_num_iterations=False,
            progress_bar=progress_bar,
            cuda_graph="cuda_graph" in options,
            compile="compile" in options,
        )

    def evaluation_size(self, tasks: RunTasks, *, brief: bool = False) -> int | None:
        """Returns the number of tasks to evaluate on; ``None`` stands for all tasks of a list.

        Args:
            tasks: Tasks of the run.
            brief: Whether this is a validation during training, which takes fewer tasks.
        """
        part = "validation" if brief else "test"
        found = tasks.source[part] if isinstance(tasks.source, TaskSplit) else tasks.source
        listed = len(found) if isinstance(found, Sized) else None
        if not brief:
            return EVALUATED_TASKS if listed is None else None
        return VALIDATION_TASKS if listed is None else min(VALIDATION_TASKS, listed)

    def validation_scores(self, result: EvaluationResult) -> dict[str, float]:
        """Returns the mean accuracy or loss at the last adaptation point."""
        name = "loss" if self.regression else "accuracy"
        return {name: float(result.values[:, -1].mean())}


def _check_sizes(learner: type, tasks: str, known: dict[str, Any]) -> None:
    """Raises an error for tasks without a size that a learner needs to make its network."""
    parameters = inspect.signature(learner).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and known.get(p.name) is None]
    if needed:
        raise ValueError(
            f"{learner.__name__} does not learn {tasks}, which has no {' and no '.join(needed)}"
        )


def _network_maker(name: Any) -> Callable[..., Any]:
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"network is one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]
