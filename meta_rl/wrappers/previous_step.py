"""A wrapper that appends the previous step to the observation, for agents with memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from meta_rl.rollout import true_successors
from meta_rl.tasks import count_tasks
from meta_rl.vector.arrays import NUMPY, Arrays
from meta_rl.vector.task_batch import batch_arrays, task_batch


class AppendPreviousStep(VectorWrapper):
    """A wrapper that appends the previous action, reward and done flag, and marks new trials.

    The new observation is one flat float32 vector of the parts

    | part | size |
    |---|---|
    | observation, flattened (one-hot where it is discrete) | O |
    | previous action (one-hot where it is discrete) | A |
    | previous reward | 1 |
    | 1 where the previous step ended an episode | 1 |
    | 1 where a new trial (a new task) begins; the three parts above are 0 there | 1 |

    as in RL² (Duan et al., 2016, section 2.2). The first observation of a later episode of a trial
    has the action and the reward of the last step of the episode before. If all sub-environments
    are reset at once after episodes of different lengths, a sub-environment may have played idle
    steps after its episode; its last step is then that of the first episode that ended since the
    reset before.

    Args:
        env: Batch of task environments (:class:`meta_rl.TaskVectorEnv` or the adapter) with the
            autoreset mode ``SAME_STEP`` or ``DISABLED``.

    Raises:
        ValueError: A space cannot be flattened, or the autoreset mode is ``NEXT_STEP``, whose dummy
            steps must not be learned from.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        if env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP:
            raise ValueError("AppendPreviousStep needs SAME_STEP or DISABLED autoreset")
        self._arrays = batch_arrays(env)
        self._encode_obs = FlatEncoder(env.single_observation_space, self._arrays)
        self._encode_action = FlatEncoder(env.single_action_space, self._arrays)
        self.observation_size = self._encode_obs.size
        size = self.observation_size + self._encode_action.size + 3
        self._single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._observation_space = batch_space(self._single_observation_space, env.num_envs)
        self._latest = self._arrays.zeros((env.num_envs, size), "float32")
        self._ended = self._arrays.zeros(env.num_envs, "bool")  # an episode, since the last reset
        self._end = self._latest  # the last step of that episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes; the trial goes on where the task persists."""
        observations, infos = self.env.reset(seed=seed, options=options)
        mask = self._arrays.converted((options or {}).get("reset_mask", True))
        ended = (self._ended & mask)[:, None]
        self._latest = self._arrays.xp.where(ended, self._end, self._latest)
        self._ended = self._ended & ~mask
        self._write_observations(self._latest, observations)
        return self._latest, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all sub-environments, and appends the step to the observations."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        latest = self._arrays.zeros(self._latest.shape, "float32")
        self._encode_action.write(actions, latest[:, self.observation_size : -3])
        latest[:, -3] = rewards
        latest[:, -2] = done
        if "final_obs" in infos:
            final = latest + 0.0
            successors = true_successors(observations, done, infos)
            self._encode_obs.write(successors, final[:, : self.observation_size])
            infos["final_obs"] = final
        first_end = done & ~self._ended
        if first_end.any():
            self._end = self._arrays.xp.where(first_end[:, None], latest, self._end)
            self._ended = self._ended | done
        self._write_observations(latest, observations)
        self._latest = latest
        return latest, rewards, terminated, truncated, infos

    def _write_observations(self, latest: Any, observations: Any) -> None:
        new_trial = task_batch(self.env).trial_start
        latest[new_trial] = 0.0
        latest[:, -1] = new_trial
        self._encode_obs.write(observations, latest[:, : self.observation_size])


class FlatEncoder:
    """An encoder that flattens a batch of a space's elements to float32 ``[N, size]``.

    Args:
        space: Space of one element: ``Box``, ``Discrete`` (one-hot), ``MultiBinary``, or a ``Dict``
            of these.
        arrays: Kind of the arrays that it works with (default: numpy's).

    Raises:
        ValueError: The space is of another kind.
    """

    size: int

    def __init__(self, space: spaces.Space, arrays: Arrays = NUMPY) -> None:
        self.arrays = arrays
        if isinstance(space, spaces.Dict):
            self.parts = {key: FlatEncoder(part, arrays) for key, part in space.spaces.items()}
            self.size = sum(part.size for part in self.parts.values())
        elif isinstance(space, spaces.Discrete | spaces.Box | spaces.MultiBinary):
            self.size = spaces.flatdim(space)
            if isinstance(space, spaces.Discrete):
                self._values = arrays.converted(space.start + np.arange(self.size))
        else:
            raise ValueError(f"cannot append {space} to a flat observation")
        self.space = space

    def encoded(self, batch: Any) -> Any:
        """Flattens elements ``[N, ...]`` to float32 ``[N, size]``."""
        flat = self.arrays.zeros((count_tasks(batch), self.size), "float32")
        self.write(batch, flat)
        return flat

    def write(self, batch: Any, flat: Any) -> None:
        """Flattens elements ``[N, ...]`` into ``flat``, ``[N, size]``."""
        if isinstance(self.space, spaces.Dict):
            start = 0
            for key, part in self.parts.items():
                part.write(batch[key], flat[:, start : start + part.size])
                start += part.size
            return
        batch = self.arrays.converted(batch)
        if isinstance(self.space, spaces.Discrete):
            flat[:] = batch[:, None] == self._values
        else:
            flat[:] = batch.reshape(len(batch), self.size)
