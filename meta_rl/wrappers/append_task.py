"""A wrapper that appends the task to the observation, for oracles that are told the task."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from meta_rl.rollout import true_successors
from meta_rl.vector.task_batch import batch_arrays, task_batch
from meta_rl.wrappers.previous_step import FlatEncoder


class AppendTask(VectorWrapper):
    """A wrapper that appends the flattened task to the flattened observation.

    The new observation is one float32 vector.

    Args:
        env: Batch of task environments; its autoreset mode is ``SAME_STEP`` or ``DISABLED``.

    Raises:
        ValueError: A space cannot be flattened, or the autoreset mode is ``NEXT_STEP``.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        if env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP:
            raise ValueError("AppendTask needs SAME_STEP or DISABLED autoreset")
        self._arrays = batch_arrays(env)
        self._encode_obs = FlatEncoder(env.single_observation_space, self._arrays)
        self._encode_task = FlatEncoder(task_batch(env).task_split.space, self._arrays)
        size = self._encode_obs.size + self._encode_task.size
        self._single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._observation_space = batch_space(self._single_observation_space, env.num_envs)
        self._tasks = self._arrays.zeros((env.num_envs, self._encode_task.size), "float32")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes, and appends their tasks to the observations."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self._tasks = self._current_tasks()
        return self._with_tasks(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all sub-environments; an episode's last observation has that episode's task."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        if "final_obs" in infos:
            infos["final_obs"] = self._with_tasks(true_successors(observations, done, infos))
        if done.any():
            current = self._current_tasks()
            self._tasks = self._arrays.xp.where(done[:, None], current, self._tasks)
        return self._with_tasks(observations), rewards, terminated, truncated, infos

    def _current_tasks(self) -> Any:
        return self._encode_task.encoded(task_batch(self.env).tasks)

    def _with_tasks(self, observations: Any) -> Any:
        seen = self._encode_obs.encoded(observations)
        return self._arrays.xp.concat([seen, self._tasks], axis=1)
