"""Environments that exist only as Python objects, as a batch with tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from meta_rl.process_blocks import ProcessBlocks
from meta_rl.task_batch import TaskBatch
from meta_rl.tasks import (
    Tasks,
    TaskSplit,
    add_task_axis,
    check_count,
    copy_tasks,
    put_tasks,
    repeat_tasks,
    take_tasks,
)

_CHECKED_ACTIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces whose actions are arrays; nests of them go to the environments as they are."""


class TaskVectorAdapter(TaskBatch):
    """Gymnasium's vector environments with :class:`meta_rl.TaskVectorEnv`'s interface for tasks.

    Each environment needs a ``task_split`` and has to take ``reset(options={"task": task})``; its
    ``horizon`` is read from it or from its id's ``max_episode_steps``; ``episodes_per_trial`` (1)
    and ``adaptation_unit`` (``"episode"``) are read where it has them.

    Tasks behave as in the native batch: what :meth:`set_tasks` gives persists; otherwise they are
    drawn from ``split`` at the first reset, at every seeded one and, with ``resample_tasks``, after
    every trial. Autoreset is ``SAME_STEP``.

    Args:
        env_fns: Makers of the environments.
        asynchronous: Step blocks of neighbours in processes
            (:class:`meta_rl.process_blocks.ProcessBlocks`), instead of all in turn. The results are
            the same.
        num_processes: How many processes, at most; by default one for each core.
        context: How processes start, as in :mod:`multiprocessing`.
        split: The part of the task split that self-chosen tasks come from.
        resample_tasks: Draw a new task after every ``episodes_per_trial`` episodes.

    Raises:
        ValueError: An environment without tasks or without a known length.
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
        makers = [_TaskSlotMaker(env_fn) for env_fn in env_fns]
        self.num_envs = check_count("num_envs", len(makers))
        self._read(env_fns[0])
        self.envs: ProcessBlocks | SyncVectorEnv = (
            ProcessBlocks(makers, num_processes, context=context)
            if asynchronous
            else SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        )
        self.steps_on_threads = asynchronous  # and so torch has to leave the cores to them
        self.metadata = {**self.envs.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = self.envs.render_mode
        self.single_observation_space = self.envs.single_observation_space
        self.single_action_space = self.envs.single_action_space
        self.observation_space = self.envs.observation_space
        self.action_space = self.envs.action_space
        self.split = split
        self._chosen_from = self.task_split[split]
        self.resample_tasks = resample_tasks

        self._tasks: Tasks = None
        self._set: Tasks = None
        self._waiting: list[Any] = [None] * self.num_envs  # tasks for each next reset
        self._episodes = np.zeros(self.num_envs, dtype=np.int64)
        self.trial_start = np.zeros(self.num_envs, dtype=bool)

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
        """A batch of one registered environment; ``kwargs`` go to ``gymnasium.make``."""
        makers = [_Maker(env_id, kwargs) for _ in range(check_count("num_envs", num_envs))]
        return cls(
            makers,
            asynchronous=asynchronous,
            num_processes=num_processes,
            split=split,
            resample_tasks=resample_tasks,
        )

    def _read(self, env_fn: Callable[[], gym.Env]) -> None:
        """What all have in common, from one of them."""
        env = env_fn()
        base = env.unwrapped
        self.spec = env.spec
        if not hasattr(base, "task_split"):
            raise ValueError(f"{env} has no task_split, so that there are no tasks to draw")
        self.task_split: TaskSplit = base.task_split
        horizon = getattr(base, "horizon", None) or getattr(env.spec, "max_episode_steps", None)
        if horizon is None:
            raise ValueError(f"{env}: give it a horizon, or register it with max_episode_steps")
        self.horizon = check_count("horizon", horizon)
        self.episodes_per_trial = int(getattr(base, "episodes_per_trial", 1))
        self.adaptation_unit = str(getattr(base, "adaptation_unit", "episode"))

    @property
    def tasks(self) -> Tasks:
        """The tasks that are played, one per sub-environment; ``None`` before the first reset."""
        return None if self._tasks is None else copy_tasks(self._tasks)

    @property
    def pending_tasks(self) -> Tasks | None:
        """The tasks that the next resets bring, one per sub-environment; ``None`` if none wait."""
        waiting = self._set is not None and any(task is not None for task in self._waiting)
        return copy_tasks(self._set) if waiting else None

    def set_tasks(self, tasks: Tasks | None) -> None:
        """As :meth:`meta_rl.TaskVectorEnv.set_tasks`."""
        if tasks is None:
            self._set = None
            self._waiting = [None] * self.num_envs
        else:
            self._set = self._one_for_each(self._check_tasks(tasks))
            self._waiting = [take_tasks(self._set, i) for i in range(self.num_envs)]
        self._hand_over()

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes; arguments as in the native batch."""
        options = dict(options or {})
        task = options.pop("task", None)
        mask = self._check_mask(options.pop("reset_mask", None))
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}: reset_mask, task exist")
        if self._tasks is None and not mask.all():
            raise ValueError("the first reset has to be one of all sub-environments")
        if task is not None:
            self.set_tasks(task)
        seeds: Any = None if seed is None else self._seed_tasks(seed)
        if self._set is None:
            over = self._episodes + 1 >= self.episodes_per_trial
            anew = seed is not None or self._tasks is None
            if anew or self.resample_tasks:
                self._choose(mask & (anew | over))
        self._hand_over()
        observations, infos = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        self._took(mask)
        everywhere = np.ones(self.num_envs, dtype=bool)
        return observations, {**infos, "task": copy_tasks(self._tasks), "_task": everywhere}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all sub-environments.

        Raises:
            ValueError: Actions as :meth:`meta_rl.TaskVectorEnv.step` refuses them.
        """
        if isinstance(self.single_action_space, _CHECKED_ACTIONS):
            actions = self._check_actions(actions)
        observations, rewards, terminated, truncated, infos = self.envs.step(actions)
        self.trial_start = np.zeros(self.num_envs, dtype=bool)
        done = terminated | truncated
        if done.any():
            self._took(done)
        return observations, rewards, terminated, truncated, infos

    def _took(self, began: np.ndarray) -> None:
        """Account for the sub-environments whose new episode has just begun."""
        new = began & np.array([task is not None for task in self._waiting])
        for i in np.flatnonzero(new):
            if self._tasks is None:
                self._tasks = copy_tasks(
                    repeat_tasks(add_task_axis(self._waiting[i]), self.num_envs)
                )
            put_tasks(self._tasks, i, self._waiting[i])
            self._waiting[i] = None
        self.trial_start = new
        self._episodes = np.where(new, 0, self._episodes + began)
        if self.resample_tasks and self._set is None:
            # An automatic reset asks nobody: the task of the next trial has to lie ready.
            self._choose(began & (self._episodes + 1 >= self.episodes_per_trial))
            self._hand_over()

    def _choose(self, mask: np.ndarray) -> None:
        if not mask.any():
            return
        tasks = self._draw_tasks(mask, self._chosen_from)
        for place, i in enumerate(np.flatnonzero(mask)):
            self._waiting[i] = take_tasks(tasks, place)

    def _hand_over(self) -> None:
        self.envs.set_attr("next_task", list(self._waiting))

    def render(self) -> tuple[Any, ...] | None:
        """One frame per sub-environment."""
        return self.envs.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close all."""
        self.envs.close(**kwargs)


class _TaskSlot(gym.Wrapper):
    """Passes the task that lies in its slot to the next reset, automatic ones too."""

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
        # Tasks are reported for the whole batch; infos of single ones could not be stacked.
        return observation, {key: value for key, value in info.items() if key != "task"}


class _TaskSlotMaker:
    """Picklable, for processes."""

    def __init__(self, env_fn: Callable[[], gym.Env]) -> None:
        self.env_fn = env_fn

    def __call__(self) -> gym.Env:
        return _TaskSlot(self.env_fn())


class _Maker:
    """Picklable ``gymnasium.make``."""

    def __init__(self, env_id: str, kwargs: dict[str, Any]) -> None:
        self.env_id, self.kwargs = env_id, kwargs

    def __call__(self) -> gym.Env:
        return gym.make(self.env_id, **self.kwargs)
