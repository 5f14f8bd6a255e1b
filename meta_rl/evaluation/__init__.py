"""Evaluation of fast adaptation on held-out tasks, the same for every learner."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_count, check_flag
from meta_rl.evaluation.intervals import interquartile_mean as interquartile_mean
from meta_rl.evaluation.randomness import LearnerRandomness
from meta_rl.evaluation.result import EvaluationResult as EvaluationResult
from meta_rl.evaluation.tasks import DRAWN_TASKS, distinct_tasks
from meta_rl.evaluation.trials import Trials
from meta_rl.evaluation.trials import adapts_by_step as adapts_by_step
from meta_rl.evaluation.trials import told_success as told_success
from meta_rl.make import as_task_vec, family_name, make_task_vec
from meta_rl.rollout import check_same_step
from meta_rl.tasks import FiniteTasks, Tasks, TaskSplit, count_tasks, take_tasks
from meta_rl.vector.task_batch import numpy_view, task_batch
from meta_rl.wrappers.previous_step import AppendPreviousStep

MAX_ENVS = 4096  # default number of sub-environments that are stepped at a time


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
    """Evaluates how a learner adapts to held-out tasks, and returns its rewards.

    Every distinct task counts once. The learner starts each task without experience
    (``state=None``), and plays ``num_episodes`` episodes of it in every sub-environment. This
    number is fixed, so that short episodes do not count more often. After each episode (bandits:
    after each pull) the learner gets the data, ``state = adapt(rollout, state)``. A learner with
    ``adapt_to_tasks(tasks)`` is told the tasks first. A learner without ``adapt`` (a plain
    Stable-Baselines3 model) is evaluated without adaptation.

    The values of a task depend only on the learner, the task and ``seed``. They do not depend on
    the number of other tasks, on ``max_envs``, or on the batch that is stepped (see
    :mod:`.trials`). The learner's generators and the global ones are seeded here and
    restored afterwards, so that an evaluation during a training does not change the training.

    Supervised tasks are evaluated by :func:`meta_rl.few_shot.evaluation.evaluate_few_shot`.

    Args:
        learner: Object with ``predict(observation, state, episode_start, deterministic)``; for
            supervised tasks, with ``predict(inputs, state)``. The leaves of its state have the
            tasks on their first axis, or on the axis that its ``state_task_axis`` names.
        env: Environment id, or batch of task environments, whose tasks are replaced; for
            supervised tasks, a split or a distribution.
        num_tasks: Number of distinct held-out tasks (default: all tasks of a list, or 100 draws
            from a distribution without a list).
        num_episodes: Number of episodes on each task (default: the environment's
            ``episodes_per_trial``).
        seed: Seed of the environment, of the learner and of tasks that are not listed (default:
            0).
        split: Part of the task split (default: ``"test"``).
        envs_per_task: Number of sub-environments of each task. The learner adapts to the episodes
            of all of them together, and the result is their mean (default: the learner's own
            number, 20 for MAML, or 1).
        deterministic: Whether the learner takes the most likely actions (default: False).
        max_envs: Largest number of sub-environments at a time, where ``env`` is an id (default:
            4096).
        **env_kwargs: Arguments of the environment, where ``env`` is an id.

    Returns:
        Values ``[num_tasks, num_episodes]``; bandits ``[num_tasks, num_episodes * horizon]``.

    Raises:
        ValueError: An id or a split is unknown, a count is below one, the split has too few tasks,
            the batch is not a whole number of tasks, or a state has no axis of the tasks.
    """
    num_tasks = None if num_tasks is None else check_count("num_tasks", num_tasks)
    seed = check_count("seed", seed, least=0)
    deterministic = check_flag("deterministic", deterministic)
    _check_learner(learner)
    if isinstance(env, TaskSplit) or hasattr(env, "sample_tasks"):
        if num_episodes is not None or env_kwargs:
            raise ValueError("supervised tasks have no episodes and no arguments of environments")
        if "episode_start" in _predict_arguments(learner):
            raise TypeError(
                f"learner: {type(learner).__name__} acts in environments; supervised tasks need an "
                "object with predict(inputs, state)"
            )
        from meta_rl.few_shot.evaluation import evaluate_few_shot

        return evaluate_few_shot(learner, env, num_tasks, seed=seed, split=split)
    if not {"episode_start", "kwargs"} & {*_predict_arguments(learner)}:
        raise TypeError(
            f"learner: {type(learner).__name__} has no predict(observation, state, episode_start, "
            "deterministic), which an environment needs"
        )
    if envs_per_task is None:
        envs_per_task = getattr(learner, "envs_per_task", 1)
    envs_per_task = check_count("envs_per_task", envs_per_task)
    if isinstance(env, str):
        env = _make_env(env, num_tasks, split, envs_per_task, max_envs, env_kwargs)
        try:
            result = evaluate_adaptation(
                learner,
                env,
                num_tasks,
                num_episodes,
                seed=seed,
                split=split,
                envs_per_task=envs_per_task,
                deterministic=deterministic,
            )
            given = {name: str(value) for name, value in sorted(env_kwargs.items())}
            return replace(result, env_kwargs=given)
        finally:
            env.close()  # otherwise its processes would go on
    if env_kwargs:
        raise ValueError(f"{sorted(env_kwargs)} are for an environment given by its id")
    env = as_task_vec(getattr(env, "task_env", env))
    base = task_batch(env)
    check_same_step(env)
    if env.num_envs % envs_per_task:
        raise ValueError(
            f"{env.num_envs} sub-environments: no whole number of {envs_per_task} each"
        )
    env = numpy_view(_as_seen(learner, env))
    trained, seen = getattr(learner, "observation_space", None), env.single_observation_space
    if trained is not None and trained.shape != seen.shape:
        raise ValueError(
            f"the {type(learner).__name__} was trained with observations of shape {trained.shape}, "
            f"but here they have shape {seen.shape}: is it another environment?"
        )
    episodes = check_count(
        "num_episodes", base.episodes_per_trial if num_episodes is None else num_episodes
    )
    part = base.task_split[split]
    tasks, index = distinct_tasks(part, num_tasks, seed, name=f"the {split} tasks")
    randomness = LearnerRandomness(learner)
    trials = Trials(
        learner,
        env,
        envs_per_task,
        deterministic=deterministic,
        seed=seed,
        randomness=randomness,
    )
    try:
        with randomness.kept():
            values, success = _run_trials(trials, tasks, episodes)
    finally:
        base.set_tasks(None)
    return EvaluationResult(
        values=values,
        unit="pull" if trials.by_step else "episode",
        learner=type(learner).__name__,
        environment=family_name(env),
        split=split,
        seed=seed,
        envs_per_task=envs_per_task,
        deterministic=deterministic,
        success=success,
        tasks=index,
        listed=isinstance(part, FiniteTasks),
        whole_distribution=_is_whole(base.task_split, part, len(index)),
    )


def _as_seen(learner: Any, env: VectorEnv) -> VectorEnv:
    """Returns the environment with the learner's wrapper, or with the one it was trained with.

    Raises:
        ValueError: The learner was trained on other observations.
    """
    if hasattr(learner, "wrap_env"):
        return learner.wrap_env(env)
    wanted = getattr(learner, "observation_space", None)
    if wanted is None or wanted.shape == env.single_observation_space.shape:
        return env
    with_step = AppendPreviousStep(env)
    if wanted == with_step.single_observation_space:
        return with_step
    raise ValueError(
        f"the learner was trained on observations in {wanted}, but the environment has "
        f"{env.single_observation_space}"
    )


def _check_learner(learner: Any) -> None:
    if isinstance(learner, type) or not callable(getattr(learner, "predict", None)):
        raise TypeError(
            "a learner is an object with predict(observation, state, episode_start, deterministic) "
            f"-> (actions, state), or with predict(inputs, state) for supervised tasks; got "
            f"{learner!r}"
        )


def _predict_arguments(learner: Any) -> list[str]:
    parameters = inspect.signature(learner.predict).parameters.values()
    return ["kwargs" if one.kind is one.VAR_KEYWORD else one.name for one in parameters]


def _is_whole(split: TaskSplit, part: Any, num_tasks: int) -> bool:
    """Tells whether the evaluated tasks are all that there are to train and to test on."""
    listed = isinstance(part, FiniteTasks) and part is split.train and part is split.test
    return listed and num_tasks == len(distinct_tasks(part, None, 0)[1])


def _make_env(
    env_id: str,
    num_tasks: int | None,
    split: str,
    envs_per_task: int,
    max_envs: int,
    env_kwargs: dict[str, Any],
) -> VectorEnv:
    """Makes a batch for the number of tasks that are evaluated at a time."""
    at_once = max(1, check_count("max_envs", max_envs) // envs_per_task)
    if num_tasks is None:
        first = make_task_vec(env_id, 1, envs_per_task, **env_kwargs)
        part = task_batch(first).task_split[split]
        num_tasks = len(part) if isinstance(part, FiniteTasks) else DRAWN_TASKS
        first.close()
    return make_task_vec(env_id, min(num_tasks, at_once), envs_per_task, **env_kwargs)


def _run_trials(
    trials: Trials, tasks: Tasks, num_episodes: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns values and successes of all tasks, ``[M, points]``: means over sub-environments."""
    each, num_tasks = trials.envs_per_task, count_tasks(tasks)
    at_once = trials.env.num_envs // each
    values, successes = [], []
    for first in range(0, num_tasks, at_once):
        # Where the batch is larger than the number of tasks, the surplus does not count.
        task_batch(trials.env).set_tasks(
            take_tasks(tasks, (first + np.arange(at_once)) % num_tasks)
        )
        num = min(at_once, num_tasks - first)
        earned, succeeded = trials.run(first, num, num_episodes)
        values.append(earned.reshape(num, each, -1).mean(axis=1))
        if succeeded is not None:
            successes.append(succeeded.reshape(num, each, -1).mean(axis=1))
    if not successes:
        return np.concatenate(values), None
    zeros = np.zeros_like(values[0])  # of the tasks before the first info that told success
    earlier = [zeros[:at_once]] * (len(values) - len(successes))
    return np.concatenate(values), np.concatenate([*earlier, *successes])
