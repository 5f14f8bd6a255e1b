"""A wrapper that appends the previous step to the observation, for agents with memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from meta_rl.rollout import true_successors
from meta_rl.vector.task_batch import task_batch


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
        self._encode_obs = FlatEncoder(env.single_observation_space)
        self._encode_action = FlatEncoder(env.single_action_space)
        self.observation_size = self._encode_obs.size
        size = self.observation_size + self._encode_action.size + 3
        self._single_observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._observation_space = batch_space(self._single_observation_space, env.num_envs)
        self._latest = np.zeros((env.num_envs, size), dtype=np.float32)
        self._ended = np.zeros(env.num_envs, dtype=bool)  # an episode ended since the last reset
        self._end = np.zeros_like(self._latest)  # the last step of that episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new episodes; the trial goes on where the task persists."""
        observations, infos = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask", True)
        self._latest = np.where((self._ended & mask)[:, None], self._end, self._latest)
        self._ended = self._ended & ~np.asarray(mask)
        self._write_observations(self._latest, observations)
        return self._latest, infos

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all sub-environments, and appends the step to the observations."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        latest = np.zeros_like(self._latest)
        latest[:, self.observation_size : -3] = self._encode_action.encoded(actions)
        latest[:, -3] = rewards
        latest[:, -2] = done
        if "final_obs" in infos:
            final = latest.copy()
            final[:, : self.observation_size] = self._encode_obs.encoded(
                true_successors(observations, done, infos)
            )
            infos["final_obs"] = final
        first_end = done & ~self._ended
        if first_end.any():
            self._end[first_end] = latest[first_end]
            self._ended = self._ended | done
        self._write_observations(latest, observations)
        self._latest = latest
        return latest, rewards, terminated, truncated, infos

    def _write_observations(self, latest: np.ndarray, observations: Any) -> None:
        new_trial = task_batch(self.env).trial_start
        latest[new_trial] = 0.0
        latest[:, -1] = new_trial
        latest[:, : self.observation_size] = self._encode_obs.encoded(observations)


class FlatEncoder:
    """An encoder that flattens a batch of a space's elements to float32 ``[N, size]``.

    Args:
        space: Space of one element: ``Box``, ``Discrete`` (one-hot), ``MultiBinary``, or a ``Dict``
            of these.

    Raises:
        ValueError: The space is of another kind.
    """

    size: int

    def __init__(self, space: spaces.Space) -> None:
        if isinstance(space, spaces.Dict):
            self.parts = {key: FlatEncoder(part) for key, part in space.spaces.items()}
            self.size = sum(part.size for part in self.parts.values())
        elif isinstance(space, spaces.Discrete | spaces.Box | spaces.MultiBinary):
            self.size = spaces.flatdim(space)
        else:
            raise ValueError(f"cannot append {space} to a flat observation")
        self.space = space

    def encoded(self, batch: Any) -> np.ndarray:
        """Flattens elements ``[N, ...]`` to float32 ``[N, size]``."""
        if isinstance(self.space, spaces.Dict):
            return np.concatenate([p.encoded(batch[k]) for k, p in self.parts.items()], axis=1)
        batch = np.asarray(batch)
        if isinstance(self.space, spaces.Discrete):
            return (batch[:, None] == self.space.start + np.arange(self.size)).astype(np.float32)
        return batch.reshape(len(batch), self.size).astype(np.float32)
