"""A batch with tasks for environments that exist only as Python objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from meta_rl.arguments import check_count, check_kind
from meta_rl.tasks import Tasks, TaskSplit, take_tasks
from meta_rl.vector.process_blocks import ProcessBlocks
from meta_rl.vector.task_assignment import TaskAssignment
from meta_rl.vector.task_batch import TaskBatch

_CHECKED_ACTIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces whose actions are arrays and are checked; others are passed on unchecked."""


class TaskVectorAdapter(TaskBatch):
    """A batch of Gymnasium environments with the task interface of :class:`meta_rl.TaskVectorEnv`.

    Each environment needs a ``task_split`` and has to accept ``reset(options={"task": task})``. Its
    ``horizon`` is read from the environment and from ``max_episode_steps`` of its id; the shorter
    one counts. The
    attributes ``episodes_per_trial`` (default: 1) and ``adaptation_unit`` (default: ``"episode"``)
    are read where the environment has them.

    Tasks behave as in the native batch. Tasks set by :meth:`set_tasks` persist; otherwise tasks are
    drawn from ``split`` at the first reset, at every seeded reset and, with ``resample_tasks``,
    after every trial. The autoreset mode is ``SAME_STEP``.

    Args:
        env_fns: Functions that make the environments, one each.
        asynchronous: Whether processes step blocks of neighbouring environments
            (:class:`.ProcessBlocks`), instead of one process that steps all
            in turn (default: False). The results are the same.
        num_processes: Largest number of processes (default: one for each core).
        context: Start method of the processes (default: that of :mod:`multiprocessing`).
        split: Part of the task split that tasks are drawn from (default: ``"train"``).
        resample_tasks: Whether a new task is drawn after every ``episodes_per_trial`` episodes
            (default: False).

    Raises:
        ValueError: An environment has no tasks, or its horizon is unknown.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        *,
        asynchronous: bool = False,
        num_processes: int | None = None,
        context: str | None = None,
        split: str = "train",
        resample_tasks: bool = False,
    ) -> None:
        check_kind("env_fns", env_fns, (list, tuple), "a list of functions that make environments")
        makers = [_TaskSlotMaker(env_fn) for env_fn in env_fns]
        self.num_envs = check_count("num_envs", len(makers))
        self._read_attributes(env_fns[0])
        self.envs: ProcessBlocks | SyncVectorEnv = (
            ProcessBlocks(makers, num_processes, context=context)
            if asynchronous
            else SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        )
        self.steps_on_threads = asynchronous  # torch then leaves the cores to the processes
        self.metadata = {**self.envs.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = self.envs.render_mode
        self.single_observation_space = self.envs.single_observation_space
        self.single_action_space = self.envs.single_action_space
        self.observation_space = self.envs.observation_space
        self.action_space = self.envs.action_space
        self.split = split
        self.resample_tasks = resample_tasks
        self._slots_filled = False
        self._assignment = TaskAssignment(
            self.num_envs,
            self.task_split[split],
            self.episodes_per_trial,
            resample=resample_tasks,
        )

    @classmethod
    def from_id(
        cls,
        env_id: str,
        num_envs: int,
        *,
        asynchronous: bool = False,
        num_processes: int | None = None,
        split: str = "train",
        resample_tasks: bool = False,
        **kwargs: Any,
    ) -> TaskVectorAdapter:
        """Makes a batch of one registered environment; ``kwargs`` go to ``gymnasium.make``."""
        makers = [_Maker(env_id, kwargs) for _ in range(check_count("num_envs", num_envs))]
        return cls(
            makers,
            asynchronous=asynchronous,
            num_processes=num_processes,
            split=split,
            resample_tasks=resample_tasks,
        )

    def _read_attributes(self, env_fn: Callable[[], gym.Env]) -> None:
        """Reads the attributes that all environments share from one of them."""
        if not callable(env_fn):
            raise TypeError(f"env_fns has to hold functions that make environments, got {env_fn!r}")
        env = env_fn()
        check_kind("what a function of env_fns makes", env, gym.Env, "an environment")
        base = env.unwrapped
        self.spec = env.spec
        if not hasattr(base, "task_split"):
            raise ValueError(f"{env} has no task_split, so that there are no tasks to draw")
        self.task_split: TaskSplit = base.task_split
        limits = [getattr(base, "horizon", None), getattr(env.spec, "max_episode_steps", None)]
        known = [check_count("horizon", limit) for limit in limits if limit is not None]
        if not known:
            raise ValueError(f"{env}: give it a horizon, or register it with max_episode_steps")
        self.horizon = min(known)
        self.episodes_per_trial = int(getattr(base, "episodes_per_trial", 1))
        self.adaptation_unit = str(getattr(base, "adaptation_unit", "episode"))

    def set_tasks(self, tasks: Tasks | None) -> None:
        """As :meth:`meta_rl.TaskVectorEnv.set_tasks`."""
        given = None if tasks is None else self._one_for_each(self._check_tasks(tasks))
        self._assignment.set(given)
        if self.tasks is not None:  # before the first reset, that one hands them over
            self._hand_over_for_automatic_resets()

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes; takes the arguments of :meth:`meta_rl.TaskVectorEnv.reset`."""
        check_kind("options", options, (dict, type(None)), "a dictionary")
        options = dict(options or {})
        task = options.pop("task", None)
        mask = self._check_mask(options.pop("reset_mask", None))
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}: reset_mask, task exist")
        if self.tasks is None and not mask.all():
            raise ValueError("the first reset has to be one of all sub-environments")
        if task is not None:
            self.set_tasks(task)
        seeds: Any = None if seed is None else self._assignment.seed(seed)
        self._hand_over(*self._assignment.prepare(mask, seeded=seed is not None))
        observations, infos = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        self._assignment.begin(mask, seeded=seed is not None)
        self._hand_over_for_automatic_resets()
        everywhere = np.ones(self.num_envs, dtype=bool)
        return observations, {**infos, "task": self._assignment.shown, "_task": everywhere}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all sub-environments.

        Raises:
            ValueError: :meth:`meta_rl.TaskVectorEnv.step` would refuse the actions.
        """
        if isinstance(self.single_action_space, _CHECKED_ACTIONS):
            actions = self._check_actions(actions)
        observations, rewards, terminated, truncated, infos = self.envs.step(actions)
        self._assignment.step()
        done = terminated | truncated
        if done.any():
            self._assignment.begin(done)
            self._hand_over_for_automatic_resets()
        everywhere = np.ones(self.num_envs, dtype=bool)
        infos = {**infos, "task": self._assignment.shown, "_task": everywhere}
        return observations, rewards, terminated, truncated, infos

    def _hand_over_for_automatic_resets(self) -> None:
        """Lay the tasks of the next resets ready: an automatic reset asks nobody."""
        everywhere = np.ones(self.num_envs, dtype=bool)
        self._hand_over(*self._assignment.prepare(everywhere, stepped=True))

    def _hand_over(self, new: np.ndarray, tasks: Tasks) -> None:
        slots = [take_tasks(tasks, i) if new[i] else None for i in range(self.num_envs)]
        if new.any() or self._slots_filled:
            self.envs.set_attr("next_task", slots)
        self._slots_filled = bool(new.any())

    def render(self) -> tuple[Any, ...] | None:
        """Renders one frame per sub-environment."""
        return self.envs.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments."""
        self.envs.close(**kwargs)


class _TaskSlot(gym.Wrapper):
    """A wrapper that passes ``next_task`` to the next reset, also to an automatic one."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.next_task: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        task, self.next_task = self.next_task, None
        if task is not None:
            options = {**(options or {}), "task": task}
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, _without_task(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *outcome, info = self.env.step(action)
        return *outcome, _without_task(info)


def _without_task(info: dict[str, Any]) -> dict[str, Any]:
    """Tasks are reported for the whole batch; infos of single tasks could not be stacked."""
    return {key: value for key, value in info.items() if key != "task"}


class _TaskSlotMaker:
    """A picklable function that makes a wrapped environment, for processes."""

    def __init__(self, env_fn: Callable[[], gym.Env]) -> None:
        self.env_fn = env_fn

    def __call__(self) -> gym.Env:
        return _TaskSlot(self.env_fn())


class _Maker:
    """A picklable call of ``gymnasium.make``."""

    def __init__(self, env_id: str, kwargs: dict[str, Any]) -> None:
        self.env_id, self.kwargs = env_id, kwargs

    def __call__(self) -> gym.Env:
        return gym.make(self.env_id, **self.kwargs)
