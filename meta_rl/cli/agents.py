"""The interface of agents to the command line; see :mod:`meta_rl.algorithms`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.algorithms import RunTasks, Settings
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.evaluation.tasks import distinct_tasks
from meta_rl.few_shot.data.datasets import DATASETS
from meta_rl.make import env_constructor, find_env_id, is_python
from meta_rl.vector.task_batch import task_batch

if TYPE_CHECKING:
    _Agent = MetaAlgorithm
else:
    _Agent = object


class AgentCommands(_Agent):
    """The members of :class:`meta_rl.algorithms.TrainableAlgorithm` for agents.

    A subclass derives from an agent's class first, whose own members thus take precedence.
    """

    length_setting: ClassVar[str] = "total_timesteps"
    default_length: ClassVar[int] = 1_000_000
    steps_column: ClassVar[str] = "time/total_timesteps"
    validation_points: ClassVar[int] = 20

    @classmethod
    def find_tasks(cls, name: str) -> str:
        """Returns the id of an environment; ``meta_rl/`` and the version may be left out."""
        if name.partition("-")[0] in DATASETS:
            raise ValueError(
                f"{name} is a data set of few-shot tasks, for learners such as protonet and maml; "
                "this algorithm acts in environments: see `meta-rl envs`"
            )
        return find_env_id(name)

    @classmethod
    def arguments_in(cls, name: str) -> dict[str, Any]:
        """Returns nothing: names of environments state no arguments."""
        return {}

    @classmethod
    def setting_owners(cls, env_id: str, settings: Settings) -> list[tuple[Any, str, dict]]:
        """Returns the agent's class, its policy's class, and the environment's constructor."""
        networks = cls.policy_aliases.get(str(settings.algorithm.get("policy", "MlpPolicy")))
        env = (env_constructor(env_id), "env.", settings.env)
        return [(cls, "", settings.algorithm), (networks, "policy.", settings.policy), env]

    @classmethod
    def run_arguments(
        cls, env_id: str, settings: Settings, options: frozenset[str]
    ) -> dict[str, Any]:
        """Returns the constructor's arguments, to which options belong."""
        policy = {"policy_kwargs": settings.policy} if settings.policy else {}
        return {**settings.algorithm, **policy, **{o: True for o in options if cls.has_option(o)}}

    @classmethod
    def has_option(cls, option: str) -> bool:
        """Returns whether the constructor has an argument of this name."""
        return option in inspect.signature(cls).parameters

    @classmethod
    def open_tasks(
        cls, env_id: str, env_kwargs: dict[str, Any], split: str = "test"
    ) -> tuple[str, dict[str, Any]]:
        """Returns the id and the arguments: agent and evaluation make batches of their own."""
        return env_id, env_kwargs

    @classmethod
    def from_run(
        cls,
        tasks: RunTasks,
        arguments: dict[str, Any],
        *,
        seed: int,
        device: str,
        checkpoint: Path | None = None,
        **options: Any,
    ) -> Self:
        """Makes an agent on the environment, or loads it from a checkpoint."""
        if checkpoint is not None:
            return cls.load(checkpoint, env=tasks.source, device=device)
        there = {"env": tasks.source, "env_kwargs": tasks.arguments, "device": device}
        return cls(**there, seed=seed, **arguments)

    @property
    def steps_done(self) -> int:
        """Number of environment steps so far."""
        return self.num_timesteps

    def train_until(
        self, length: int, tasks: RunTasks, callbacks: list[Any], **options: Any
    ) -> None:
        """Trains on the agent's environment until ``length`` steps are done."""
        show = options.get("progress_bar", False)
        remaining, fresh = length - self.num_timesteps, self.num_timesteps == 0
        self.learn(remaining, callbacks, reset_num_timesteps=fresh, progress_bar=show)

    def evaluation_size(self, tasks: RunTasks, *, brief: bool = False) -> int | None:
        """Returns all tasks of a list; fewer for slow environments, or during a training."""
        if not brief:
            return 40 if is_python(tasks.name) else None
        part = task_batch(self.task_env).task_split.validation
        wanted = 10 if is_python(tasks.name) else max(10, 200 // self.envs_per_task)
        return min(wanted, len(distinct_tasks(part, None, seed=0)[1]))

    def validation_scores(self, result: EvaluationResult) -> dict[str, float]:
        """Returns the mean return of a trial, and the success in its last episode if known."""
        scores, told = {"trial_return": float(result.total.mean())}, result.success
        return scores if told is None else scores | {"success": float(told[:, -1].mean())}
