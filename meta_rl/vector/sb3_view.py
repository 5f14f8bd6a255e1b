"""Stable-Baselines3's view of a batch of task environments, and of the steps of a training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from meta_rl.compute import ranks
from meta_rl.compute.finite_state import NonFiniteError
from meta_rl.rollout import Act, Step, true_successors
from meta_rl.tasks import Tasks, add_task_axis, take_tasks
from meta_rl.vector.arrays import array_namespace, dtype_kind
from meta_rl.vector.task_batch import batch_arrays, numpy_view, task_batch

if TYPE_CHECKING:
    from meta_rl.algorithm import MetaAlgorithm


class EpisodeEnds(NamedTuple):
    """The episodes that ended in a step.

    Attributes:
        indices: Their sub-environments, ``[K]``.
        returns: Their returns, ``[K]``.
        lengths: Their numbers of steps, ``[K]``.
        elapsed: Time since the beginning, in seconds.
    """

    indices: Any
    returns: Any
    lengths: Any
    elapsed: float

    def infos(self, most: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        """Returns sub-environments with return ``r``, length ``l`` and time ``t`` of an episode.

        Args:
            most: Number of episodes, the last ones, that are wanted (default: all).
        """
        last = slice(None) if most is None else slice(max(0, len(self.indices) - most), None)
        time_passed = round(self.elapsed, 6)
        columns = (part[last].tolist() for part in (self.indices, self.returns, self.lengths))
        return [
            (i, {"r": total, "l": length, "t": time_passed})
            for i, total, length in zip(*columns, strict=True)
        ]


Stop: TypeAlias = Callable[[str, np.ndarray], NoReturn]
"""``stop(what, columns)`` raises a ``FloatingPointError`` that names the tasks of columns."""


class TaskVecEnvView(VecEnv):
    """A batch of task environments as a Stable-Baselines3 ``VecEnv``.

    The infos hold what Stable-Baselines3's algorithms read: where an episode ended, ``episode``
    (return ``r``, length ``l``, time ``t``), ``terminal_observation`` and ``TimeLimit.truncated``.
    Tasks are set by ``set_options([{"task": task}, ...])`` before a reset, or by
    ``set_attr("task", task)``.

    Args:
        env: Batch of task environments with ``SAME_STEP`` autoreset.

    Raises:
        ValueError: The autoreset mode is another one.
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
        """Resets all sub-environments, with the seed and the tasks that were set before."""
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
        """Stores the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Steps all sub-environments."""
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
        """Closes the environment."""
        self.task_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Returns one frame for each sub-environment."""
        frames: Any = self.task_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Returns an attribute; ``"task"`` means the task of each sub-environment."""
        chosen = list(self._get_indices(indices))
        if attr_name == "task":
            batch = task_batch(self.task_env)
            tasks = batch.arrays.to_numpy(batch.tasks)
            return [None if tasks is None else take_tasks(tasks, i) for i in chosen]
        value = getattr(self.task_env, attr_name)
        return [value for _ in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets the ``task`` of all sub-environments, from the next reset on.

        Raises:
            AttributeError: The attribute is another one, or only some sub-environments are named.
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
        """Refuses to call a method, since sub-environments are no objects.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"no {method_name!r}: sub-environments are one native batch")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Returns ``True`` for ``Monitor``, whose work this view does; otherwise ``False``."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


def split_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Returns one dictionary of infos for each sub-environment."""
    named = {k: v for k, v in infos.items() if not k.startswith(("_", "final_"))}
    return [{key: take_tasks(value, i) for key, value in named.items()} for i in range(num_envs)]


def episode_ends(done: Any, returns: Any, lengths: Any, elapsed: float) -> EpisodeEnds:
    """Returns the episodes that ended, from arrays of all sub-environments, ``[N]``."""
    indices = array_namespace(done).nonzero(done)[0]
    return EpisodeEnds(indices, returns[done], lengths[done], elapsed)


def add_episodes(
    split: list[dict[str, Any]], ended: EpisodeEnds, truncated: Any, last: Any
) -> None:
    """Adds what Stable-Baselines3 reads to the infos of the episodes that ended.

    Args:
        split: Infos, one dictionary for each sub-environment.
        ended: Episodes that ended, from :func:`episode_ends`.
        truncated: Whether a time limit ended each episode, bool ``[N]``.
        last: Last observations of the episodes, ``[N, ...]``.
    """
    for i, episode in ended.infos():
        split[i]["terminal_observation"] = take_tasks(last, i)
        split[i]["TimeLimit.truncated"] = bool(truncated[i])
        split[i]["episode"] = episode


def _stacked_tasks(tasks: list[Any]) -> Tasks:
    if isinstance(tasks[0], dict):
        return {key: _stacked_tasks([task[key] for task in tasks]) for key in tasks[0]}
    return np.stack(tasks)


class TrainingSteps:
    """The part of a training that follows each step, from a reset of the environment on.

    It counts steps and episodes, stops the training at numbers that are not finite, and calls the
    callbacks, which may not touch the environment of the training. A rollout gets its actions by
    :meth:`watched`, and calls this object with each step.

    Args:
        agent: Agent that is trained.
        callback: Callbacks, which find ``actions``, ``rewards``, ``dones`` and ``infos`` in their
            ``locals``.
        stop: Function that is called if numbers are not finite (default: it raises an error that
            names the task of the meta-batch and the iteration).

    Attributes:
        going_on: Whether no callback has stopped the training.
    """

    def __init__(
        self, agent: MetaAlgorithm, callback: BaseCallback, stop: Stop | None = None
    ) -> None:
        self.agent, self.callback = agent, callback
        self.going_on = True
        self._stop = stop or self._stop_at_task
        self._began = False
        self._arrays = batch_arrays(agent.task_env)
        self._returns = self._arrays.zeros(agent.n_envs, "float64")
        self._lengths = self._arrays.zeros(agent.n_envs, "int64")

    def watched(self, act: Act) -> Act:
        """Returns the same policy with a check of its first observations and all its actions."""

        def watched_act(observations: Any) -> tuple[Any, dict[str, Any]]:
            if not self._began:  # later observations are checked with their step
                self._began = True
                self._check("an observation", observations)
            try:
                actions, extras = act(observations)
            except NonFiniteError as error:
                self._stop(str(error), error.rows)
            self._check("an action", actions)
            return actions, extras

        return watched_act

    def __call__(self, step: Step) -> bool:
        """Counts and checks a step; returns whether the training continues."""
        agent = self.agent
        self._check("a reward", step.rewards)
        self._check("an observation", step.following)
        agent.num_timesteps += agent.n_envs * ranks.size()
        self._returns += step.rewards
        self._lengths += 1
        done = step.terminated | step.truncated
        ended = self._end_episodes(done, step.active) if done.any() else None
        dones = done if step.active is None else done & step.active
        self.callback.update_locals(
            {
                "actions": step.actions,
                "rewards": step.rewards,
                "dones": dones,
                "infos": StepInfos(step, ended, agent.n_envs),
                "new_obs": step.following,
            }
        )
        before = task_batch(agent.task_env).num_calls
        with torch.inference_mode(False), torch.enable_grad():  # callbacks may adapt the agent
            self.going_on = bool(self.callback.on_step())
        if task_batch(agent.task_env).num_calls != before:
            raise ValueError(
                "a callback has reset or stepped the environment of the training in the middle of "
                "a rollout: give evaluations an environment of their own, or make them between "
                "rollouts (on_rollout_start, on_rollout_end)"
            )
        return self.going_on

    def _end_episodes(self, done: Any, active: Any) -> EpisodeEnds:
        """Records the episodes that ended, but not those that only fill up a rollout."""
        counted = done if active is None else done & active
        elapsed = time.time() - self.agent.start_time / 1e9
        ended = episode_ends(counted, self._returns, self._lengths, elapsed)
        self._returns[done] = 0.0
        self._lengths[done] = 0
        buffer = self.agent.ep_info_buffer
        if buffer is not None:
            buffer.extend(episode for _, episode in ended.infos(buffer.maxlen))
        return ended

    def _check(self, what: str, values: Any) -> None:
        """Stops the training if numbers of a sub-environment are not finite."""
        for value in values.values() if isinstance(values, dict) else [values]:
            if isinstance(value, dict):
                self._check(what, value)
            elif dtype_kind(value.dtype) == "f" and not self._arrays.xp.isfinite(value).all():
                finite = self._arrays.xp.isfinite(value).reshape(len(value), -1).all(axis=1)
                self._stop(f"{what} is not finite", np.flatnonzero((~finite).tolist()))

    def _stop_at_task(self, what: str, columns: np.ndarray) -> NoReturn:
        column = int(columns[0])
        task = take_tasks(task_batch(self.agent.task_env).tasks, column)
        raise FloatingPointError(
            f"{what}: task {column // self.agent.envs_per_task} ({task}) of the meta-batch in "
            f"iteration {self.agent._num_iterations + 1}"
        )


class StepInfos(Sequence[dict[str, Any]]):
    """The infos of a step, one dictionary for each sub-environment, made when one is read.

    Args:
        step: Step of all sub-environments.
        ended: Episodes that the step ended, if any.
        num_envs: Number of sub-environments, N.
    """

    def __init__(self, step: Step, ended: EpisodeEnds | None, num_envs: int) -> None:
        self._step, self._ended, self._num_envs = step, ended, num_envs
        self._made: list[dict[str, Any]] | None = None

    def _all(self) -> list[dict[str, Any]]:
        if self._made is None:
            step = self._step
            self._made = split_infos(step.infos, self._num_envs)
            done = step.terminated | step.truncated
            if self._ended is not None:
                last = true_successors(step.following, done, step.infos)
                add_episodes(self._made, self._ended, step.truncated, last)
        return self._made

    def __len__(self) -> int:
        return self._num_envs

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._all())
