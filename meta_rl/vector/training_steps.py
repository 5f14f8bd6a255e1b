"""What every agent does at each step of its training: count, stop at NaN, tell the callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from meta_rl.compute.finite_state import NonFiniteError
from meta_rl.rollout import Act, Step, true_successors
from meta_rl.vector.arrays import dtype_kind
from meta_rl.vector.sb3_view import EpisodeEnds, add_episodes, episode_ends, split_infos
from meta_rl.vector.task_arrays import take_tasks
from meta_rl.vector.task_batch import batch_arrays, task_batch

if TYPE_CHECKING:
    from meta_rl.algorithm import MetaAlgorithm

Stop = Callable[[str, np.ndarray], NoReturn]
"""``stop(what, columns)`` raises a ``FloatingPointError`` that names tasks."""


class TrainingSteps:
    """The steps of a training, from a reset of the environment on.

    A rollout gets its actions by :meth:`watched`, and calls this object with each step.

    Args:
        agent: The agent that trains.
        callback: Its callbacks, which see ``actions``, ``rewards``, ``dones`` and ``infos`` in
            ``locals``.
        stop: How to stop where a sub-environment's numbers are not finite (default: with its task
            of the meta-batch and the iteration).

    Attributes:
        going_on: Whether the callbacks want to go on.
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
        """The same policy, which stops where its observations or actions are not finite."""

        def watched_act(observations: Any) -> tuple[Any, dict[str, Any]]:
            if not self._began:  # later ones are looked at when they arrive
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
        """Count a step and look at it; gives whether the callbacks want to go on."""
        agent = self.agent
        self._check("a reward", step.rewards)
        self._check("an observation", step.following)
        agent.num_timesteps += agent.n_envs
        self._returns += step.rewards
        self._lengths += 1
        done = step.terminated | step.truncated
        ended = self._end_episodes(done, step.active) if done.any() else {}
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
        self.going_on = bool(self.callback.on_step())
        return self.going_on

    def _end_episodes(self, done: Any, active: Any) -> EpisodeEnds:
        """Note the episodes that ended, but for those that only fill up a rollout."""
        counted = done if active is None else done & active
        elapsed = time.time() - self.agent.start_time / 1e9
        ended = episode_ends(counted, self._returns, self._lengths, elapsed)
        self._returns[done] = 0.0
        self._lengths[done] = 0
        if self.agent.ep_info_buffer is not None:
            self.agent.ep_info_buffer.extend(ended.values())
        return ended

    def _check(self, what: str, values: Any) -> None:
        """Stop where numbers of a sub-environment are not finite."""
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
    """The infos of a step, one dictionary for each sub-environment, made when they are looked at.

    Args:
        step: The step.
        ended: The episodes that it ended, by sub-environment.
        num_envs: Number of sub-environments.
    """

    def __init__(self, step: Step, ended: EpisodeEnds, num_envs: int) -> None:
        self._step, self._ended, self._num_envs = step, ended, num_envs
        self._made: list[dict[str, Any]] | None = None

    def _all(self) -> list[dict[str, Any]]:
        if self._made is None:
            step = self._step
            self._made = split_infos(step.infos, self._num_envs)
            done = step.terminated | step.truncated
            if self._ended:
                last = true_successors(step.following, done, step.infos)
                add_episodes(self._made, self._ended, step.truncated, last)
        return self._made

    def __len__(self) -> int:
        return self._num_envs

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._all())
