"""Evaluation of fast adaptation on held-out tasks, the same for every learner."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from scipy import stats

from meta_rl.making import as_task_vec, family_name, make_task_vec
from meta_rl.provenance import package_versions, write_atomically
from meta_rl.rollout import acting, masked_rollout, named_infos, true_successors
from meta_rl.task_batch import task_batch
from meta_rl.tasks import TaskSplit, check_count, take_tasks

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
    num_tasks: int = 100,
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

    Every task is met afresh (``state=None``) and kept for ``num_episodes`` episodes of every
    sub-environment: a fixed number, so that short episodes do not count more often. After each
    episode (bandits: after each pull) the learner gets the data, ``state = adapt(rollout, state)``.
    A learner with ``adapt_to_tasks(tasks)`` is an oracle and is told the tasks first; one without
    ``adapt`` (a plain Stable-Baselines3 model) is evaluated as it is.

    The result depends on the learner and ``seed`` alone: randomness that the learner keeps in
    ``rng`` or ``generator`` is seeded here and put back afterwards, so that an evaluation in the
    middle of training changes nothing.

    Supervised tasks are evaluated by :func:`meta_rl.few_shot.evaluation.evaluate_few_shot`.

    Args:
        learner: With ``predict(observation, state, episode_start, deterministic)``; for supervised
            tasks, with ``predict(inputs, state)``.
        env: An environment id, or a batch of task environments; the tasks set there are replaced.
            Or supervised tasks: a split, or a distribution.
        num_tasks: Held-out tasks. Lists hold a finite number; more are met repeatedly.
        num_episodes: Episodes on each task; by default ``episodes_per_trial`` of the environment.
        seed: Of tasks, environment and learner.
        split: Part of the task split.
        envs_per_task: Sub-environments of each task, whose episodes the learner adapts to together;
            the result is their mean. By default the learner's own number (20 for MAML), else 1.
        deterministic: Take the most likely actions.
        max_envs: Sub-environments at a time, where ``env`` is an id.
        **env_kwargs: For the environment, where ``env`` is an id.

    Returns:
        Values ``[num_tasks, num_episodes]``; bandits ``[num_tasks, num_episodes * horizon]``.

    Raises:
        ValueError: Unknown ids or splits, counts below one, or a batch that is no whole number of
            tasks.
    """
    num_tasks = check_count("num_tasks", num_tasks)
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
        at_once = max(1, min(num_tasks, max_envs // envs_per_task))
        env = make_task_vec(env, at_once, envs_per_task, **env_kwargs)
    elif env_kwargs:
        raise ValueError(f"{sorted(env_kwargs)} are for an environment given by its id")
    env = as_task_vec(getattr(env, "task_env", env))
    wrap_env = getattr(learner, "wrap_env", None)
    env = env if wrap_env is None else wrap_env(env)
    base = task_batch(env)
    if env.num_envs % envs_per_task:
        raise ValueError(
            f"{env.num_envs} sub-environments: no whole number of {envs_per_task} each"
        )
    episodes = check_count(
        "num_episodes", base.episodes_per_trial if num_episodes is None else num_episodes
    )

    streams = np.random.SeedSequence(seed).spawn(3)
    tasks = base.task_split[split].sample_tasks(num_tasks, np.random.default_rng(streams[0]))
    at_once = env.num_envs // envs_per_task
    values, successes = [], []
    with seeded(learner, streams[1]):
        env_seeds = streams[2].generate_state(-(-num_tasks // at_once))
        for chunk, env_seed in enumerate(env_seeds):
            # The last chunk is filled up with tasks of the first, whose values are dropped.
            index = (chunk * at_once + np.arange(at_once)) % num_tasks
            base.set_tasks(take_tasks(tasks, index))
            trials = _Trials(learner, env, envs_per_task, deterministic)
            earned, succeeded = trials.run(episodes, int(env_seed >> 1))
            values.append(earned.reshape(at_once, envs_per_task, -1).mean(axis=1))
            if succeeded is not None:
                successes.append(succeeded.reshape(at_once, envs_per_task, -1).mean(axis=1))
    base.set_tasks(None)
    if made_here:
        env.close()  # processes would stay
    return EvaluationResult(
        values=np.concatenate(values)[:num_tasks],
        unit="pull" if adapts_by_step(learner, env) else "episode",
        learner=type(learner).__name__,
        environment=family_name(env),
        split=split,
        seed=seed,
        envs_per_task=envs_per_task,
        deterministic=deterministic,
        strata=np.zeros(num_tasks, dtype=np.int64),
        success=np.concatenate(successes)[:num_tasks] if successes else None,
    )


class _Trials:
    """One trial in every sub-environment."""

    def __init__(
        self, learner: Any, env: VectorEnv, envs_per_task: int, deterministic: bool
    ) -> None:
        self.learner = learner
        self.env = env
        self.envs_per_task = envs_per_task
        self.deterministic = deterministic
        self.by_step = adapts_by_step(learner, env)

    def run(self, num_episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Run them; gives what was earned and whether it succeeded, ``[N, points]`` each."""
        observations, _ = self.env.reset(seed=seed)
        tell = getattr(self.learner, "adapt_to_tasks", None)
        state = None if tell is None else tell(task_batch(self.env).tasks)
        columns: list[np.ndarray] = []
        successes: list[np.ndarray] = []
        for episode in range(num_episodes):
            if episode:
                observations, _ = self.env.reset()
            earned, succeeded, state = self._run_episode(observations, state)
            columns.extend(earned)
            successes.extend(succeeded)
        return np.stack(columns, axis=1), np.stack(successes, axis=1) if successes else None

    def _run_episode(
        self, observations: Any, state: Any
    ) -> tuple[list[np.ndarray], list[np.ndarray], Any]:
        """One episode in every sub-environment, and what the learner makes of it.

        Sub-environments whose episode has ended idle along until the last one ends: nothing of that
        reaches the learner or the result.
        """
        active = np.ones(self.env.num_envs, dtype=bool)
        start = active
        columns: list[np.ndarray] = []
        successes: list[np.ndarray] = []
        steps: list[tuple[Any, ...]] = []
        while active.any():
            with acting(self.env):
                actions, following_state = self.learner.predict(
                    observations, state=state, episode_start=start, deterministic=self.deterministic
                )
            state = _where(active, following_state, state)
            following, rewards, terminated, truncated, infos = self.env.step(actions)
            done = terminated | truncated
            successors = true_successors(following, done, infos)
            step = (observations, actions, rewards, terminated, truncated, successors, active)
            steps.append(step)
            observations, start = following, done
            columns.append(np.where(active, rewards, 0.0))
            successes += [active & succeeded for succeeded in told_success(infos, done)]
            if self.by_step:
                state = _where(active, self._adapted(steps, state), state)
                steps = []
            active = active & ~done
        if not self.by_step:
            state = self._adapted(steps, state)
            columns = [np.sum(columns, axis=0)]
            successes = [np.any(successes, axis=0)] if successes else []
        return columns, successes, state

    def _adapted(self, steps: list[tuple[Any, ...]], state: Any) -> Any:
        adapt = getattr(self.learner, "adapt", None)
        if adapt is None:
            return state
        rollout = masked_rollout(steps)
        rollout.envs_per_task = self.envs_per_task
        return adapt(rollout, state)


def told_success(infos: dict[str, Any], done: np.ndarray) -> list[np.ndarray]:
    """Whether infos tell success in this step, bool ``[N]``; empty where they tell nothing of it.

    Args:
        infos: Of a step of a batch; those of ended episodes are in ``final_info``.
        done: Which episodes ended, bool ``[N]``.
    """
    if "success" not in infos and "success" not in infos.get("final_info", {}):
        return []
    return [named_infos(infos, done, ["success"])["success"] > 0]


def adapts_by_step(learner: Any, env: VectorEnv) -> bool:
    """Whether a learner adapts after every step (a pull of a bandit), and not after an episode."""
    by_step = task_batch(env).adaptation_unit == "step"
    return by_step and getattr(learner, "adapts_by_step", True)


def _where(active: np.ndarray, new: Any, old: Any) -> Any:
    """The new state where ``active``, the old one elsewhere.

    Leaves have a leading task axis: of the sub-environments, or of the tasks that equal blocks of
    them share, which go on until the last of the block has finished.
    """
    if old is None or new is None or new is old or active.all():
        return new
    if isinstance(new, dict):
        return {key: _where(active, new[key], old[key]) for key in new}
    if isinstance(new, tuple):
        leaves = (_where(active, n, o) for n, o in zip(new, old, strict=True))
        return type(new)(*leaves) if hasattr(new, "_fields") else tuple(leaves)
    tasks = np.any(active.reshape(len(new), -1), axis=1)
    if isinstance(new, torch.Tensor):
        mask = torch.as_tensor(tasks, device=new.device)
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)
    return np.where(tasks.reshape(-1, *[1] * (new.ndim - 1)), new, old)


@contextlib.contextmanager
def seeded(learner: Any, stream: np.random.SeedSequence) -> Iterator[None]:
    """Seed the learner's generators, and put them back."""
    rng, generator = getattr(learner, "rng", None), getattr(learner, "generator", None)
    if isinstance(generator, torch.Generator):
        generator_state = generator.get_state()
        generator.manual_seed(int(stream.generate_state(1)[0]))
    if isinstance(rng, np.random.Generator):
        learner.rng = np.random.default_rng(stream)
    try:
        yield
    finally:
        if isinstance(generator, torch.Generator):
            generator.set_state(generator_state)
        if isinstance(rng, np.random.Generator):
            learner.rng = rng
