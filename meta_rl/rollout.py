"""Rollouts: time-major experience of many sub-environments, and how it is collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from meta_rl.tasks import check_count
from meta_rl.torch_threads import torch_threads

Act: TypeAlias = Callable[[Any], tuple[np.ndarray, dict[str, np.ndarray]]]
"""``act(observations) -> (actions, extras)``, each with the leading axis ``[N, ...]``."""


@dataclass
class Rollout:
    """Experience of ``N`` sub-environments over ``T`` steps, time-major.

    ``N`` is the leading task axis of the learner's state: one column per sub-environment.

    Attributes:
        observations: What the agent saw before each action, ``[T, N, ...]``; a dict of such arrays
            where the space is a ``Dict``.
        actions: ``[T, N, ...]``.
        rewards: ``[T, N]``, float.
        terminated: ``[T, N]``, bool: the episode ended in a terminal state at this step.
        truncated: ``[T, N]``, bool: the episode was cut by its time limit at this step.
        next_observations: The true successors, ``[T, N, ...]``: where an episode ended, its last
            observation and not the first of the next episode. ``None`` where they are not kept.
        mask: ``[T, N]``, bool: which steps are real; ``None`` where all are (no padding).
        extras: More arrays ``[T, N, ...]`` by name (log-probabilities, values, ...).
        envs_per_task: Neighbouring sub-environments that share a task, B; ``N = M * B``.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_observations: Any
    mask: np.ndarray | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    envs_per_task: int = 1


class Step(NamedTuple):
    """One step of all ``N`` sub-environments.

    Attributes:
        actions: ``[N, ...]``.
        rewards: ``[N]``.
        terminated: ``[N]``, bool.
        truncated: ``[N]``, bool.
        following: What the agent sees next, ``[N, ...]``: after an episode's end, the first
            observation of the next one.
        infos: As the environment gave them.
        active: ``[N]``, bool: which sub-environments do not merely fill up the rollout; ``None``
            where all count.
    """

    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    following: Any
    infos: dict[str, Any]
    active: np.ndarray | None = None


def collect_rollout(
    env: VectorEnv,
    act: Act,
    num_steps: int,
    observations: Any,
    on_step: Callable[[], bool] | None = None,
    *,
    on_done: Callable[[np.ndarray], None] | None = None,
    watch: Callable[[Step], bool] | None = None,
    info_names: Sequence[str] = (),
) -> tuple[Rollout, Any]:
    """Step every sub-environment ``num_steps`` times; episodes that end begin again.

    Args:
        env: A batch with ``SAME_STEP`` autoreset, so that no dummy step gets into the data.
        act: The policy; what it remembers between the steps is its own.
        num_steps: T.
        observations: The latest observations: of the reset, or of the rollout before.
        on_step: Called after every step; ``False`` stops, and the rollout ends there.
        on_done: Called after every step, before ``on_step``, with the episodes that it ended, bool
            ``[N]``.
        watch: Called with every step, after ``on_done``; ``False`` stops as ``on_step`` does.
        info_names: Infos that the steps give, to keep in ``extras``.

    Returns:
        The rollout and the observations that follow it.

    Raises:
        ValueError: Another autoreset mode, a count below one, or infos that the steps do not give.
    """
    _check_same_step(env)
    steps: list[tuple[Any, ...]] = []
    extras: list[dict[str, np.ndarray]] = []
    for _ in range(check_count("num_steps", num_steps)):
        with acting(env):
            actions, extra = act(observations)
        following, rewards, terminated, truncated, infos = env.step(actions)
        successors = true_successors(following, terminated | truncated, infos)
        steps.append((observations, actions, rewards, terminated, truncated, successors))
        extras.append({**extra, **named_infos(infos, terminated | truncated, info_names)})
        observations = following
        if on_done is not None:
            on_done(terminated | truncated)
        step = Step(actions, rewards, terminated, truncated, following, infos)
        if not _goes_on(step, watch, on_step):
            break
    parts = [stack_batches([step[i] for step in steps]) for i in range(6)]
    rollout = Rollout(*parts)
    rollout.extras = stack_batches(extras)
    return rollout, observations


def named_infos(
    infos: dict[str, Any], done: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Infos of the step, ``[N]``; Gymnasium moves those of ended episodes to ``final_info``."""
    final = infos.get("final_info", {}) if done.any() else {}
    found = {}
    for name in names:
        if name not in infos and name not in final:
            given = sorted(k for k in infos if not k.startswith(("_", "final")))
            raise ValueError(f"the environment's infos have no {name!r}; they have {given}")
        values = np.array(infos[name] if name in infos else final[name])
        if name in final:
            values[done] = np.asarray(final[name])[done]
        found[name] = values
    return found


def collect_episodes(
    env: VectorEnv,
    act: Act,
    observations: Any,
    on_step: Callable[[], bool] | None = None,
    *,
    keep_successors: bool = True,
    watch: Callable[[Step], bool] | None = None,
) -> Rollout:
    """Run one episode in every sub-environment.

    Those whose episode has ended idle along until the last one ends: the mask leaves that out.

    Args:
        env: A batch with ``SAME_STEP`` autoreset.
        act: The policy; what it remembers between the steps is its own.
        observations: Of the reset.
        on_step: Called after every step; ``False`` stops, and the rollout ends there.
        keep_successors: ``False`` leaves ``next_observations`` at ``None``.
        watch: Called with every step; ``False`` stops as ``on_step`` does.

    Returns:
        Padded to the longest episode.

    Raises:
        ValueError: Another autoreset mode.
    """
    _check_same_step(env)
    active = np.ones(env.num_envs, dtype=bool)
    steps: list[tuple[Any, ...]] = []
    extras: list[dict[str, np.ndarray]] = []
    while active.any():
        with acting(env):
            actions, extra = act(observations)
        following, rewards, terminated, truncated, infos = env.step(actions)
        done = terminated | truncated
        successors = true_successors(following, done, infos) if keep_successors else None
        steps.append((observations, actions, rewards, terminated, truncated, successors, active))
        extras.append(extra)
        step = Step(actions, rewards, terminated, truncated, following, infos, active)
        observations, active = following, active & ~done
        if not _goes_on(step, watch, on_step):
            break
    return masked_rollout(steps, extras)


def _goes_on(
    step: Step, watch: Callable[[Step], bool] | None, on_step: Callable[[], bool] | None
) -> bool:
    """Whether neither of the two wants to stop after this step."""
    watched = watch is None or watch(step)
    return watched and (on_step is None or on_step())


def masked_rollout(
    steps: list[tuple[Any, ...]], extras: list[dict[str, np.ndarray]] | None = None
) -> Rollout:
    """A rollout of steps as tuples of its first six fields and the mask, each a batch."""
    parts = [stack_batches(list(part)) for part in zip(*steps, strict=True)]
    mask = parts.pop()
    rollout = Rollout(*parts)
    rollout.mask = None if mask.all() else mask
    if extras:
        rollout.extras = stack_batches(extras)
    return rollout


@contextmanager
def acting(env: VectorEnv) -> Iterator[None]:
    """One thread for torch within, where the environment has threads of its own.

    After an operation torch's other threads wait for the next one by spinning, for milliseconds, on
    the cores that are to step the environment: a third of a step of 800 robots on two cores.
    """
    with torch_threads(1 if getattr(env.unwrapped, "steps_on_threads", False) else None):
        yield


def true_successors(observations: Any, done: np.ndarray, infos: dict[str, Any]) -> Any:
    """The observations that follow a step: the last of the old episode where one ended.

    Args:
        observations: As ``step`` returned them, the first of the new episode where one ended.
        done: Which episodes ended, bool ``[N]``.
        infos: Holds ``final_obs``: a batch, or Gymnasium's array of objects.
    """
    if not done.any():
        return observations
    return _replaced(observations, done, infos["final_obs"])


def _check_same_step(env: VectorEnv) -> None:
    if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"rollouts need SAME_STEP autoreset, not {env.metadata.get('autoreset_mode')}: the "
            "other modes put dummy steps into the data or need resets in between"
        )


def _replaced(observations: Any, done: np.ndarray, final: Any) -> Any:
    if isinstance(observations, dict):
        if not isinstance(final, dict):  # Gymnasium's: an array with a dict for each that ended
            final = {k: _objects([f and f[k] for f in final]) for k in observations}
        return {key: _replaced(value, done, final[key]) for key, value in observations.items()}
    replaced = np.array(observations)
    replaced[done] = np.stack(list(final[done])) if final.dtype == object else final[done]
    return replaced


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def stack_batches(batches: list[Any]) -> Any:
    """Batches one behind the other on a new leading axis: arrays, dicts of arrays, or ``None``."""
    if batches[0] is None:
        return None
    if isinstance(batches[0], dict):
        return {key: stack_batches([batch[key] for batch in batches]) for key in batches[0]}
    return np.stack(batches)
