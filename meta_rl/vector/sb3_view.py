"""Stable-Baselines3's view of a batch of task environments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from meta_rl.rollout import true_successors
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.numpy_view import numpy_view
from meta_rl.vector.task_arrays import Tasks, add_task_axis, take_tasks
from meta_rl.vector.task_batch import task_batch

EpisodeEnds: TypeAlias = dict[int, dict[str, Any]]
"""Return, length and time of episodes that ended, by the number of the sub-environment."""


class TaskVecEnvView(VecEnv):
    """A batch of task environments as a Stable-Baselines3 ``VecEnv``.

    Infos hold what its algorithms look for: ``episode`` (return ``r``, length ``l``, time ``t``)
    and ``terminal_observation`` where an episode ended, and ``TimeLimit.truncated``. Tasks are set
    by ``set_options([{"task": task}, ...])`` before a reset, or by ``set_attr("task", task)``.

    Args:
        env: With ``SAME_STEP`` autoreset.

    Raises:
        ValueError: Another autoreset mode.
    """

    def __init__(self, env: VectorEnv) -> None:
        if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
            raise ValueError(
                "Stable-Baselines3 needs SAME_STEP autoreset, not "
                f"{env.metadata.get('autoreset_mode')}"
            )
        self.task_env = env
        self._view = numpy_view(env)
        self.metadata = env.metadata
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._began = time.time()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Reset all, with the seed and the tasks set before."""
        tasks = [options["task"] for options in self._options if options.get("task") is not None]
        if tasks and len(tasks) != self.num_envs:
            raise ValueError(f"set_options: tasks for {len(tasks)} of {self.num_envs} environments")
        options = {"task": _stacked_tasks(tasks)} if tasks else None
        observations, infos = self._view.reset(seed=self._seeds[0], options=options)
        self.reset_infos = split_infos(infos, self.num_envs)
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all."""
        observations, rewards, terminated, truncated, infos = self._view.step(self._actions)
        done = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        split = split_infos(infos, self.num_envs)
        if done.any():
            ended = episode_ends(done, self._returns, self._lengths, time.time() - self._began)
            add_episodes(split, ended, truncated, true_successors(observations, done, infos))
            self._returns[done] = 0.0
            self._lengths[done] = 0
        return observations, rewards.astype(np.float32), done, split

    def close(self) -> None:
        """Release what the environment holds."""
        self.task_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One frame for each sub-environment."""
        frames: Any = self.task_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute; ``"task"`` gives the task of each sub-environment."""
        chosen = list(self._get_indices(indices))
        if attr_name == "task":
            batch = task_batch(self.task_env)
            tasks = batch.arrays.to_numpy(batch.tasks)
            return [None if tasks is None else take_tasks(tasks, i) for i in chosen]
        value = getattr(self.task_env, attr_name)
        return [value for _ in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set the ``task`` of every sub-environment, from the next reset on.

        Raises:
            AttributeError: Another attribute, or only some of the sub-environments: they are one
                native batch.
        """
        if attr_name != "task" or indices is not None:
            raise AttributeError(
                f"cannot set {attr_name!r} of {indices or 'all'}: sub-environments are one native "
                "batch, of which only the task of all can be set"
            )
        task_batch(self.task_env).set_tasks(None if value is None else add_task_axis(value))

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Not there: sub-environments are one native batch.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"no {method_name!r}: sub-environments are one native batch")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """``True`` for ``Monitor``, whose part this view plays; otherwise ``False``."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


def split_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """One dictionary for each sub-environment."""
    named = {k: v for k, v in infos.items() if not k.startswith(("_", "final_"))}
    return [{key: take_tasks(value, i) for key, value in named.items()} for i in range(num_envs)]


def episode_ends(done: Any, returns: Any, lengths: Any, elapsed: float) -> EpisodeEnds:
    """Return ``r``, length ``l`` and time ``t`` of the episodes that ended."""
    indices = array_namespace(done).nonzero(done)[0].tolist()
    ended = zip(indices, returns[done].tolist(), lengths[done].tolist(), strict=True)
    return {i: {"r": total, "l": length, "t": round(elapsed, 6)} for i, total, length in ended}


def add_episodes(
    split: list[dict[str, Any]], ended: EpisodeEnds, truncated: Any, last: Any
) -> None:
    """Put what Stable-Baselines3 looks for into the infos of episodes that ended.

    Args:
        split: Infos, one dictionary for each sub-environment.
        ended: The episodes that ended, as :func:`episode_ends` gives them.
        truncated: Which episodes were cut by their time limit, bool ``[N]``.
        last: The last observations of the episodes, ``[N, ...]``.
    """
    for i, episode in ended.items():
        split[i]["terminal_observation"] = take_tasks(last, i)
        split[i]["TimeLimit.truncated"] = bool(truncated[i])
        split[i]["episode"] = episode


def _stacked_tasks(tasks: list[Any]) -> Tasks:
    if isinstance(tasks[0], dict):
        return {key: _stacked_tasks([task[key] for task in tasks]) for key in tasks[0]}
    return np.stack(tasks)
