"""Evaluation of fast adaptation on held-out tasks, the same for every learner."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv
from scipy import stats

from meta_rl.making import as_task_vec, family_name, make_task_vec
from meta_rl.provenance import package_versions, write_atomically
from meta_rl.randomness import LearnerRandomness
from meta_rl.task_batch import task_batch
from meta_rl.tasks import (
    DRAWN_TASKS,
    FiniteTasks,
    Tasks,
    TaskSplit,
    check_count,
    count_tasks,
    distinct_tasks,
    take_tasks,
)
from meta_rl.trials import Trials
from meta_rl.trials import adapts_by_step as adapts_by_step
from meta_rl.trials import told_success as told_success

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ENVS = 4096  # sub-environments at a time, where nothing else says how many
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class EvaluationResult:
    """What a learner earned on held-out tasks, after more and more adaptation.

    Attributes:
        values: ``[num_tasks, num_adaptation_points]``. For environments that adapt after
            episodes: the return of episode k + 1, after k episodes; for bandits: the reward of pull
            k + 1, after k pulls. Column 0 is before adaptation. A mean over the sub-environments of
            a task.
        unit: What lies between two columns: ``"episode"`` or ``"pull"``.
        learner: Class of the learner.
        environment: Family of the environment.
        split: Part of the task split that the tasks came from.
        seed: Of the evaluation.
        envs_per_task: Sub-environments of each task.
        deterministic: Whether the most likely actions were taken.
        strata: Which run each task was evaluated in, ``[num_tasks]``; intervals resample within a
            run. All 0 unless results were merged.
        versions: Of the packages.
        measure: What the values are: a ``"return"``, ``"accuracy"`` or ``"mean squared error"``.
        points: How many units came before each column; 0, 1, 2, ... where it is ``None``.
        success: ``[num_tasks, num_adaptation_points]``, beside ``values``: in what share of the
            task's sub-environments an info ``success`` was above 0 in any step of that episode (or
            pull). ``None`` where infos tell no success.
    """

    values: np.ndarray
    unit: str
    learner: str
    environment: str
    split: str
    seed: int
    envs_per_task: int
    deterministic: bool
    strata: np.ndarray
    versions: dict[str, str] = field(default_factory=package_versions)
    measure: str = "return"
    points: list[int] | None = None
    success: np.ndarray | None = None

    def __str__(self) -> str:
        """One line: the mean before and after adaptation, with its interval."""
        summary = self.summary()
        last = self.values.shape[1] - 1 if self.points is None else self.points[-1]
        low, high = summary["mean_interval"][-1]
        return (
            f"{self.learner} on {self.num_tasks:,} {self.split} tasks of {self.environment}: "
            f"{self._mean_measure} {summary['mean'][0]:.3f} before adaptation, "
            f"{summary['mean'][-1]:.3f} (95 % interval {low:.3f} to {high:.3f}) after {last} "
            f"{self.unit}{'' if last == 1 else 's'}" + self.success_text()
        )

    @property
    def _mean_measure(self) -> str:
        return self.measure if self.measure.startswith("mean ") else f"mean {self.measure}"

    def success_text(self) -> str:
        """``"; success 0.1 before adaptation, 0.8 (...)"``; empty where infos tell no success."""
        if self.success is None:
            return ""
        rates = self.success.mean(axis=0)
        low, high = self._intervals(self.success, np.mean, 0.95)[-1]
        return (
            f"; success {rates[0]:.3f} before adaptation, {rates[-1]:.3f} "
            f"(95 % interval {low:.3f} to {high:.3f}) in the last {self.unit}"
        )

    @property
    def num_tasks(self) -> int:
        """Evaluated tasks, over all merged runs."""
        return len(self.values)

    @property
    def total(self) -> np.ndarray:
        """What each task's whole trial gave: the sum over the columns, ``[num_tasks]``."""
        return np.asarray(self.values.sum(axis=1))

    def summary(self, confidence: float = 0.95) -> dict[str, np.ndarray]:
        """Means with bootstrap intervals, per column and for the whole trial.

        Intervals are percentiles of a bootstrap over tasks, stratified by run (Agarwal et al.,
        "Deep RL at the edge of the statistical precipice", 2021); the interquartile mean (IQM) is
        the mean of the middle half.

        Args:
            confidence: Of the intervals, between 0 and 1.

        Returns:
            ``mean`` and ``iqm`` ``[points]``, ``mean_interval`` and ``iqm_interval``
            ``[points, 2]``; ``total_mean`` (a number) and ``total_mean_interval`` ``[2]``, and the
            same for ``total_iqm``. Where infos tell success, its mean ``success`` ``[points]`` and
            ``success_interval`` ``[points, 2]``.

        Raises:
            ValueError: A confidence outside (0, 1).
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence has to lie between 0 and 1, got {confidence}")
        summary: dict[str, np.ndarray] = {}
        for name, statistic in (("mean", np.mean), ("iqm", interquartile_mean)):
            columns = np.column_stack([self.values, self.total])
            intervals = self._intervals(columns, statistic, confidence)
            estimates = statistic(columns, axis=0)
            summary[name], summary[f"{name}_interval"] = estimates[:-1], intervals[:-1]
            summary[f"total_{name}"] = estimates[-1]
            summary[f"total_{name}_interval"] = intervals[-1]
        if self.success is not None:
            summary["success"] = self.success.mean(axis=0)
            summary["success_interval"] = self._intervals(self.success, np.mean, confidence)
        return summary

    def _intervals(
        self, columns: np.ndarray, statistic: Callable[..., Any], confidence: float
    ) -> np.ndarray:
        if self.num_tasks < 2:
            return np.full((columns.shape[1], 2), np.nan)
        runs = [columns[self.strata == run] for run in np.unique(self.strata)]

        def joint(*samples: np.ndarray, axis: int) -> Any:
            return statistic(np.concatenate(samples, axis=axis), axis=axis)

        low, high = stats.bootstrap(
            runs,
            joint,
            axis=0,
            vectorized=True,
            method="percentile",
            confidence_level=confidence,
            n_resamples=NUM_RESAMPLES,
            batch=20,
            rng=np.random.default_rng(0),
        ).confidence_interval
        return np.column_stack([low, high])

    def plot(
        self, ax: Axes | None = None, *, label: str | None = None, color: str | None = None
    ) -> Axes:
        """Draw the mean per column with its 95 % interval.

        Args:
            ax: Where; a new figure by default (``ax.figure.savefig(path)`` saves it).
            label: In the legend; the learner by default.
            color: Of line and interval; the next one of the axes by default.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6.0, 4.0), layout="constrained").add_subplot()
        summary = self.summary()
        # Columns are numbered by what came before: pull 1 is made after 0 pulls.
        before = np.arange(self.values.shape[1]) if self.points is None else self.points
        name = label or self.learner
        (line,) = ax.plot(before, summary["mean"], label=name, marker=".", color=color)
        low, high = summary["mean_interval"].T
        ax.fill_between(before, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        ax.set_xlabel(f"{self.unit}s of adaptation")
        ax.locator_params(axis="x", integer=True)
        ax.set_ylabel("mean reward" if self.unit == "pull" else self._mean_measure)
        ax.set_title(
            f"{self.environment.rpartition(':')[2]}, {self.num_tasks:,} {self.split} tasks"
        )
        ax.legend()
        return ax

    def save(self, path: str | Path) -> Path:
        """Write as JSON, atomically; gives the path."""
        content = {"num_tasks": self.num_tasks, **asdict(self)}
        content |= {"values": self.values.tolist(), "strata": self.strata.tolist()}
        content["success"] = None if self.success is None else self.success.tolist()
        return write_atomically(path, json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            del content["num_tasks"]
            content["values"] = np.array(content["values"], dtype=np.float64)
            content["strata"] = np.array(content["strata"], dtype=np.int64)
            if content.get("success") is not None:
                content["success"] = np.array(content["success"], dtype=np.float64)
            return cls(**content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no saved evaluation: {error!r}") from error

    @classmethod
    def merged(cls, results: Sequence[EvaluationResult]) -> EvaluationResult:
        """Several runs (training seeds) of one learner as one result; each run is a stratum.

        Raises:
            ValueError: None given, or results of different learners, environments or lengths.
        """
        kinds = {(r.learner, r.environment, r.unit, r.split, r.values.shape[1]) for r in results}
        if len(kinds) != 1:
            raise ValueError(f"results to merge have to be of one kind, got {sorted(kinds)}")
        first = results[0]
        strata = np.concatenate([np.full(r.num_tasks, i) for i, r in enumerate(results)])
        values = np.concatenate([result.values for result in results])
        told = [result.success for result in results if result.success is not None]
        success = np.concatenate(told) if len(told) == len(results) else None
        joined = {"values": values, "strata": strata, "success": success}
        return cls(**{**asdict(first), **joined})


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """The mean of the middle half."""
    return stats.trim_mean(values, 0.25, axis=axis)


def evaluate_adaptation(
    learner: Any,
    env: Any,
    num_tasks: int | None = None,
    num_episodes: int | None = None,
    *,
    seed: int = 0,
    split: str = "test",
    envs_per_task: int | None = None,
    deterministic: bool = False,
    max_envs: int = MAX_ENVS,
    **env_kwargs: Any,
) -> EvaluationResult:
    """Let a learner adapt to held-out tasks, and record what it earns on the way.

    Every distinct task counts once. It is met afresh (``state=None``) and kept for
    ``num_episodes`` episodes of every sub-environment: a fixed number, so that short episodes do
    not count more often. After each episode (bandits: after each pull) the learner gets the data,
    ``state = adapt(rollout, state)``. A learner with ``adapt_to_tasks(tasks)`` is told the tasks
    first; one without ``adapt`` (a plain Stable-Baselines3 model) is evaluated as it is.

    The values of a task depend on the learner, the task and ``seed`` alone: not on the number of
    other tasks, on ``max_envs``, or on the batch that is stepped (see :mod:`meta_rl.trials`). The
    learner's generators and the global ones are seeded here and put back afterwards, so that an
    evaluation in the middle of training changes nothing.

    Supervised tasks are evaluated by :func:`meta_rl.few_shot.evaluation.evaluate_few_shot`.

    Args:
        learner: An object with ``predict(observation, state, episode_start, deterministic)``; for
            supervised tasks, with ``predict(inputs, state)``. The leaves of its state have the
            tasks on their first axis, or on the one that its ``state_task_axis`` names.
        env: An environment id, or a batch of task environments; the tasks set there are replaced.
            Or supervised tasks: a split, or a distribution.
        num_tasks: Number of held-out tasks, all different. By default all tasks of a list, and 100
            draws of a distribution without one.
        num_episodes: Episodes on each task; by default ``episodes_per_trial`` of the environment.
        seed: Seed of the environment, of the learner and of tasks that are not listed.
        split: Part of the task split.
        envs_per_task: Sub-environments of each task, whose episodes the learner adapts to together;
            the result is their mean. By default the learner's own number (20 for MAML), else 1.
        deterministic: Take the most likely actions.
        max_envs: Sub-environments at a time, where ``env`` is an id.
        **env_kwargs: Arguments for the environment, where ``env`` is an id.

    Returns:
        Values ``[num_tasks, num_episodes]``; bandits ``[num_tasks, num_episodes * horizon]``.

    Raises:
        ValueError: Unknown ids or splits, counts below one, more tasks than the split has, a batch
            that is no whole number of tasks, or a state without an axis of the tasks.
    """
    num_tasks = None if num_tasks is None else check_count("num_tasks", num_tasks)
    if isinstance(env, TaskSplit) or hasattr(env, "sample_tasks"):
        if num_episodes is not None or env_kwargs:
            raise ValueError("supervised tasks have no episodes and no arguments of environments")
        from meta_rl.few_shot.evaluation import evaluate_few_shot

        return evaluate_few_shot(learner, env, num_tasks, seed=seed, split=split)
    if envs_per_task is None:
        envs_per_task = getattr(learner, "envs_per_task", 1)
    envs_per_task = check_count("envs_per_task", envs_per_task)
    made_here = isinstance(env, str)
    if isinstance(env, str):
        env = _made(env, num_tasks, split, envs_per_task, max_envs, env_kwargs)
    elif env_kwargs:
        raise ValueError(f"{sorted(env_kwargs)} are for an environment given by its id")
    env = as_task_vec(getattr(env, "task_env", env))
    base = task_batch(env)
    if env.num_envs % envs_per_task:
        raise ValueError(
            f"{env.num_envs} sub-environments: no whole number of {envs_per_task} each"
        )
    wrap_env = getattr(learner, "wrap_env", None)
    env = env if wrap_env is None else wrap_env(env)
    episodes = check_count(
        "num_episodes", base.episodes_per_trial if num_episodes is None else num_episodes
    )
    part = base.task_split[split]
    tasks, index = distinct_tasks(part, num_tasks, seed, name=f"the {split} tasks")
    randomness = LearnerRandomness(learner)
    with randomness.kept():
        trials = Trials(
            learner,
            env,
            envs_per_task,
            deterministic=deterministic,
            seed=seed,
            randomness=randomness,
        )
        values, success = _scores(trials, tasks, episodes)
    base.set_tasks(None)
    if made_here:
        env.close()  # processes would stay
    return EvaluationResult(
        values=values,
        unit="pull" if trials.by_step else "episode",
        learner=type(learner).__name__,
        environment=family_name(env),
        split=split,
        seed=seed,
        envs_per_task=envs_per_task,
        deterministic=deterministic,
        strata=np.zeros(len(index), dtype=np.int64),
        success=success,
    )


def _made(
    env_id: str,
    num_tasks: int | None,
    split: str,
    envs_per_task: int,
    max_envs: int,
    env_kwargs: dict[str, Any],
) -> VectorEnv:
    """A batch of one environment for as many tasks as are evaluated at a time."""
    at_once = max(1, check_count("max_envs", max_envs) // envs_per_task)
    if num_tasks is None:
        first = make_task_vec(env_id, 1, envs_per_task, **env_kwargs)
        part = task_batch(first).task_split[split]
        num_tasks = len(part) if isinstance(part, FiniteTasks) else DRAWN_TASKS
        first.close()
    return make_task_vec(env_id, min(num_tasks, at_once), envs_per_task, **env_kwargs)


def _scores(
    trials: Trials, tasks: Tasks, num_episodes: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Values and successes of all tasks, ``[M, points]`` each: means over sub-environments."""
    each, num_tasks = trials.envs_per_task, count_tasks(tasks)
    at_once = trials.env.num_envs // each
    values, successes = [], []
    for first in range(0, num_tasks, at_once):
        # A batch that has more room than there are tasks plays further ones, which do not count.
        task_batch(trials.env).set_tasks(
            take_tasks(tasks, (first + np.arange(at_once)) % num_tasks)
        )
        num = min(at_once, num_tasks - first)
        earned, succeeded = trials.run(first, num, num_episodes)
        values.append(earned.reshape(num, each, -1).mean(axis=1))
        if succeeded is not None:
            successes.append(succeeded.reshape(num, each, -1).mean(axis=1))
    return np.concatenate(values), np.concatenate(successes) if successes else None
