"""Evaluation of fast adaptation on held-out tasks, the same for every learner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from meta_rl.evaluation_result import EvaluationResult as EvaluationResult
from meta_rl.intervals import interquartile_mean as interquartile_mean
from meta_rl.making import as_task_vec, family_name, make_task_vec
from meta_rl.rollout import acting, masked_rollout, named_infos, true_successors
from meta_rl.task_batch import task_batch
from meta_rl.tasks import TaskSplit, check_count, take_tasks

MAX_ENVS = 4096  # sub-environments at a time, where nothing else says how many


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
