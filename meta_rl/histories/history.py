"""How a learner makes a batch of histories, and how an expert labels it.

Shapes: N histories, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from meta_rl.arguments import check_count
from meta_rl.evaluation.trials import adapts_by_step
from meta_rl.histories.encoding import History, HistoryEncoder
from meta_rl.rollout import Act, Rollout, Step, collect_rollout, stack_batches
from meta_rl.tasks import Tasks, take_tasks
from meta_rl.vector.task_batch import task_batch


class _Record(VectorWrapper):
    """A wrapper that keeps all steps as the environment below it gave them."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.steps: list[tuple[Any, ...]] = []
        self._latest: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self._latest, infos = self.env.reset(**options)
        return self._latest, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        following, rewards, terminated, truncated, infos = self.env.step(actions)
        self.steps.append((self._latest, np.asarray(actions), rewards, terminated | truncated))
        self._latest = following
        return following, rewards, terminated, truncated, infos

    def history(self) -> History:
        parts = [stack_batches(list(part)) for part in zip(*self.steps, strict=True)]
        return History(task_batch(self.env).tasks, *parts)


def play_history(
    learner: Any,
    env: VectorEnv,
    num_steps: int,
    *,
    seed: int | None = None,
    watch: Callable[[Step], bool] | None = None,
    watched: Callable[[Act], Act] = lambda act: act,
) -> History:
    """Lets a learner act and learn on the tasks that are set in a batch, from a reset on.

    The learner keeps its state over all episodes. It adapts after every step where the family says
    so (bandits), otherwise after every ``horizon`` steps. Its own wrapper (``learner.wrap_env``) is
    put around the batch; the history holds what the batch itself returned.

    Args:
        learner: Learner with ``predict`` and, if it learns by it, ``adapt``; an oracle is told the
            tasks by ``adapt_to_tasks``.
        env: Batch of task environments without the learner's wrapper, with ``SAME_STEP`` autoreset.
        num_steps: Number of steps, T.
        seed: Seed of the reset (default: none).
        watch: Function that is called with every step; the history ends where it returns ``False``
            (default: none).
        watched: Function that is given the policy, and returns the one to act by (default: the
            same).
    """
    check_count("num_steps", num_steps)
    record = _Record(env)
    seen = learner.wrap_env(record) if hasattr(learner, "wrap_env") else record
    observations, _ = seen.reset(seed=seed)
    state = _told(learner, task_batch(env).tasks)
    start = np.ones(env.num_envs, dtype=bool)
    going_on = True

    def act(latest: Any) -> tuple[Any, dict[str, Any]]:
        nonlocal state
        actions, state = learner.predict(latest, state=state, episode_start=start)
        return actions, {}

    def after(step: Step) -> bool:
        nonlocal start, going_on
        start = np.asarray(step.terminated | step.truncated)
        going_on = watch is None or watch(step)
        return going_on

    acting = watched(act)
    unit = 1 if adapts_by_step(learner, env) else task_batch(env).horizon
    while going_on and len(record.steps) < num_steps:
        length = min(unit, num_steps - len(record.steps))
        rollout, observations = collect_rollout(seen, acting, length, observations, watch=after)
        if hasattr(learner, "adapt"):
            state = learner.adapt(rollout, state)
    return record.history()


def _told(learner: Any, tasks: Tasks) -> Any:
    """Returns the state of an oracle that is told the tasks; ``None`` for a learner."""
    tell = getattr(learner, "adapt_to_tasks", None)
    return None if tell is None else tell(tasks)


def optimal_actions(expert: Any, history: History, env: VectorEnv) -> Any:
    """Asks an expert what it would have done at each step of a history, ``[T, N, ...]``.

    The expert sees what the history's own learner saw, step by step, and does not act. An oracle
    is told the tasks, and so its labels do not depend on what was done; an expert that learns (such
    as the Gittins index) labels what is best for who has seen the history so far. An expert with a
    ``wrap_env`` reads the observations of :class:`.AppendPreviousStep`.

    Args:
        expert: Oracle or learner, as in :func:`play_history`; its most likely actions are taken.
        history: Histories.
        env: Batch of the family, which tells the spaces, and whether experts adapt after each step.
    """
    seen = history.observations
    if hasattr(expert, "wrap_env"):
        encode = HistoryEncoder(env.single_observation_space, env.single_action_space)
        seen = encode(history)
    state = _told(expert, history.tasks)
    adapts = adapts_by_step(expert, env) and hasattr(expert, "adapt")
    starts = np.concatenate([np.ones_like(history.dones[:1]), history.dones[:-1]])
    labels = []
    for t in range(len(history.rewards)):
        asked, state = expert.predict(
            take_tasks(seen, t), state=state, episode_start=starts[t], deterministic=True
        )
        labels.append(np.asarray(asked))
        if adapts:
            state = expert.adapt(_one_step(history, t), state)
    return np.stack(labels)


def _one_step(history: History, t: int) -> Rollout:
    now = slice(t, t + 1)
    observations = take_tasks(history.observations, now)
    done = history.dones[now]
    return Rollout(
        observations, history.actions[now], history.rewards[now], done, done & False, observations
    )
