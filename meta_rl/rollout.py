"""Rollouts: time-major experience of many sub-environments, and functions that collect it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from array_api_compat import device
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from meta_rl.arguments import check_count, check_kind
from meta_rl.compute.torch_state import torch_threads
from meta_rl.tasks import copy_tasks, first_array
from meta_rl.vector.arrays import array_namespace

Array = TypeVar("Array", np.ndarray, Tensor)
Act: TypeAlias = Callable[[Any], tuple[Any, dict[str, Any]]]
"""``act(observations) -> (actions, extras)``, each with the leading axis ``[N, ...]``."""


@dataclass
class Rollout:
    """Experience of ``N`` sub-environments over ``T`` steps, time-major.

    ``N`` is the leading task axis of the learner's state: one column per sub-environment. Arrays
    are of the environment's kind, numpy's or tensors.

    Attributes:
        observations: Observations before each action, ``[T, N, ...]``; a dict of such arrays where
            the space is a ``Dict``.
        actions: Actions, ``[T, N, ...]``.
        rewards: Rewards, float ``[T, N]``.
        terminated: Whether the episode ended in a terminal state at this step, bool ``[T, N]``.
        truncated: Whether a time limit ended the episode at this step, bool ``[T, N]``.
        next_observations: True successors, ``[T, N, ...]``: where an episode ended, its last
            observation and not the first one of the next episode. ``None`` if they are not kept.
        mask: Whether a step is real, bool ``[T, N]``; ``None`` if all are (no padding).
        extras: More arrays ``[T, N, ...]`` by name (log-probabilities, values, ...).
        envs_per_task: Number of neighbouring sub-environments that share a task, B; ``N = M * B``.
    """

    observations: Any
    actions: Any
    rewards: Any
    terminated: Any
    truncated: Any
    next_observations: Any
    mask: Any = None
    extras: dict[str, Any] = field(default_factory=dict)
    envs_per_task: int = 1


def check_rollout(rollout: Any) -> None:
    """Refuses an object that is no rollout.

    Raises:
        TypeError: The object is of another class.
    """
    check_kind("rollout", rollout, Rollout, "a meta_rl.Rollout")


class Step(NamedTuple):
    """One step of all ``N`` sub-environments.

    Attributes:
        actions: Actions, ``[N, ...]``.
        rewards: Rewards, ``[N]``.
        terminated: Whether the episode ended in a terminal state, bool ``[N]``.
        truncated: Whether a time limit ended the episode, bool ``[N]``.
        following: Observations that the agent sees next, ``[N, ...]``: after an episode's end, the
            first observation of the next one.
        infos: Infos of the environment.
        active: Whether each step is real, bool ``[N]``; other steps only fill up the rollout.
            ``None`` if all are real.
    """

    actions: Any
    rewards: Any
    terminated: Any
    truncated: Any
    following: Any
    infos: dict[str, Any]
    active: Any = None


def collect_rollout(
    env: VectorEnv,
    act: Act,
    num_steps: int,
    observations: Any,
    *,
    on_done: Callable[[Any], None] | None = None,
    watch: Callable[[Step], bool] | None = None,
    info_names: Sequence[str] = (),
) -> tuple[Rollout, Any]:
    """Steps every sub-environment ``num_steps`` times; a new episode follows each that ends.

    Args:
        env: Batch with ``SAME_STEP`` autoreset, so that the data has no dummy steps.
        act: Function that chooses the actions; it keeps its memory itself.
        num_steps: Number of steps, T.
        observations: Latest observations, from the reset or from the rollout before.
        on_done: Function that is called after every step with the episodes that the step ended,
            bool ``[N]`` (default: none).
        watch: Function that is called with every step, after ``on_done``; the rollout ends where it
            returns ``False`` (default: none).
        info_names: Names of infos that are kept in ``extras`` (default: none).

    Returns:
        The rollout and the observations that follow it.

    Raises:
        ValueError: The autoreset mode is another one, a count is below one, or the steps return no
            such infos.
    """
    check_same_step(env)
    steps: list[tuple[Any, ...]] = []
    extras: list[dict[str, Any]] = []
    for _ in range(check_count("num_steps", num_steps)):
        step, extra = _take_step(env, act, observations)
        done = step.terminated | step.truncated
        steps.append((observations, *step[:4], true_successors(step.following, done, step.infos)))
        extras.append({**extra, **named_infos(step.infos, done, info_names)})
        observations = step.following
        if on_done is not None:
            on_done(done)
        if watch is not None and not watch(step):
            break
    rollout = Rollout(*(stack_batches(list(part)) for part in zip(*steps, strict=True)))
    rollout.extras = stack_batches(extras)
    return rollout, observations


def _take_step(
    env: VectorEnv, act: Act, observations: Any, active: Any = None
) -> tuple[Step, dict[str, Any]]:
    """Steps all sub-environments once; returns the step, and the policy's extras."""
    with acting(env):
        actions, extra = act(observations)
    following, rewards, terminated, truncated, infos = env.step(actions)
    return Step(actions, rewards, terminated, truncated, following, infos, active), extra


def named_infos(infos: dict[str, Any], done: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns infos of a step, ``[N]``, with those of ended episodes from ``final_info``."""
    final = infos.get("final_info", {}) if done.any() else {}
    found = {}
    for name in names:
        if name not in infos and name not in final:
            given = sorted(k for k in infos if not k.startswith(("_", "final")))
            raise ValueError(f"the environment's infos have no {name!r}; they have {given}")
        values = copy_tasks(infos[name] if name in infos else final[name])
        if name in final:
            values[done] = final[name][done]
        found[name] = values
    return found


def collect_episodes(
    env: VectorEnv,
    act: Act,
    observations: Any,
    *,
    keep_successors: bool = True,
    watch: Callable[[Step], bool] | None = None,
) -> Rollout:
    """Runs one episode in every sub-environment.

    All are stepped until the last episode ends; the mask excludes the steps after an episode's end.

    Args:
        env: Batch with ``SAME_STEP`` autoreset.
        act: Function that chooses the actions; it keeps its memory itself.
        observations: Observations of the reset.
        keep_successors: Whether ``next_observations`` are kept (default: True).
        watch: Function that is called with every step; the rollout ends where it returns ``False``
            (default: none).

    Returns:
        The rollout, padded to the longest episode.

    Raises:
        ValueError: The autoreset mode is another one.
    """
    check_same_step(env)
    array = first_array(observations)
    xp = array_namespace(array)
    active = xp.ones(env.num_envs, dtype=xp.bool, device=device(array))
    steps: list[tuple[Any, ...]] = []
    extras: list[dict[str, Any]] = []
    while active.any():
        step, extra = _take_step(env, act, observations, active)
        done = step.terminated | step.truncated
        last = true_successors(step.following, done, step.infos) if keep_successors else None
        steps.append((observations, *step[:4], last, active))
        extras.append(extra)
        observations, active = step.following, active & ~done
        if watch is not None and not watch(step):
            break
    *parts, mask = (stack_batches(list(part)) for part in zip(*steps, strict=True))
    rollout = Rollout(*parts)
    rollout.mask = None if mask.all() else mask
    rollout.extras = stack_batches(extras)
    return rollout


@contextmanager
def acting(env: VectorEnv) -> Iterator[None]:
    """Limits torch to one thread within the context if the environment has threads of its own.

    After an operation, torch's other threads spin for milliseconds while they wait for the next
    one. They occupy the cores that step the environment, which costs a third of a step of 800
    robots on two cores.
    """
    with torch_threads(1 if getattr(env.unwrapped, "steps_on_threads", False) else None):
        yield


def true_successors(observations: Any, done: Any, infos: dict[str, Any]) -> Any:
    """Returns the true successors of a step: the last observation where an episode ended.

    Args:
        observations: Observations from ``step``; where an episode ended, the first one of the next
            episode.
        done: Whether each episode ended, bool ``[N]``.
        infos: Infos of the step, with ``final_obs`` as a batch or as Gymnasium's array of objects.
    """
    if not done.any():
        return observations
    return _replace_final(observations, done, infos["final_obs"])


def check_same_step(env: VectorEnv) -> None:
    """Refuses a batch whose autoreset puts dummy steps into the data or waits for resets.

    Raises:
        ValueError: The batch does not reset in the same step.
    """
    if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"rollouts need SAME_STEP autoreset, not {env.metadata.get('autoreset_mode')}: the "
            "other modes put dummy steps into the data or need separate resets"
        )


def _replace_final(observations: Any, done: Any, final: Any) -> Any:
    if isinstance(observations, dict):
        if not isinstance(final, dict):  # Gymnasium's array, with a dict for each ended episode
            final = {k: _object_array([f and f[k] for f in final]) for k in observations}
        return {key: _replace_final(value, done, final[key]) for key, value in observations.items()}
    replaced = copy_tasks(observations)
    replaced[done] = np.stack(list(final[done])) if final.dtype == object else final[done]
    return replaced


def _object_array(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def stack_batches(batches: list[Any]) -> Any:
    """Stacks batches (arrays, dicts of arrays, or ``None``) on a new leading axis."""
    if batches[0] is None:
        return None
    if isinstance(batches[0], dict):
        return {key: stack_batches([batch[key] for batch in batches]) for key in batches[0]}
    return array_namespace(batches[0]).stack(batches)


def discounted_returns(rewards: Array, ends: Array, discount: float) -> Array:
    """Computes returns ``G_t = r_t + discount * G_{t+1}`` within each sequence.

    Args:
        rewards: Rewards, ``[T, N]``.
        ends: Whether a sequence ends at each step, bool ``[T, N]``. Rewards after an end do not
            count for the steps before it.
        discount: Discount factor, from 0 to 1.

    Returns:
        Returns ``[T, N]``, of the type of the rewards.
    """
    returns = rewards + 0.0
    for t in range(len(returns) - 2, -1, -1):
        returns[t] = rewards[t] + discount * returns[t + 1] * ~ends[t]
    return returns


def generalized_advantages(
    rewards: Array,
    values: Array,
    next_values: Array,
    ends: Array,
    discount: float,
    gae_lambda: float,
) -> Array:
    """Computes generalized advantage estimates (Schulman et al., 2016, equations 11 to 16).

    Within each sequence, ``delta_t = r_t + discount * V(s_{t+1}) - V(s_t)`` and
    ``A_t = delta_t + discount * gae_lambda * A_{t+1}``.

    Args:
        rewards: Rewards, ``[T, N]``.
        values: Values ``V(s_t)``, ``[T, N]``.
        next_values: Values ``V(s_{t+1})``, ``[T, N]``. The caller sets 0 at the end of an episode,
            and the value of the true successor where an episode was truncated.
        ends: Whether a sequence ends at each step, bool ``[T, N]``. Rewards after an end do not
            count for the steps before it.
        discount: Discount factor, from 0 to 1.
        gae_lambda: Parameter λ, from 0 to 1. With 0 the advantages are one-step errors; with 1 they
            are the returns minus the values.

    Returns:
        Advantages ``[T, N]``, of the type of the rewards.
    """
    return discounted_returns(
        rewards + discount * next_values - values, ends, discount * gae_lambda
    )
