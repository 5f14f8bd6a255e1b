"""Observations that carry the previous step: how a recurrent agent sees what it did and earned."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from meta_rl.rollout import true_successors
from meta_rl.task_batch import task_batch


class AppendPreviousStep(VectorWrapper):
    """Append the previous action, reward and done flag to the observation, and mark new trials.

    The new observation is one flat float32 vector of the parts

    | part | size |
    |---|---|
    | observation, flattened (one-hot where it is discrete) | O |
    | previous action (one-hot where it is discrete) | A |
    | previous reward | 1 |
    | 1 where the previous step ended an episode | 1 |
    | 1 where a new trial (a new task) begins; the three parts above are 0 there | 1 |

    as in RL² (Duan et al., 2016, section 2.2). Between episodes of one trial the action and reward
    of the last step carry over, beside the first observation of the new episode. Where all are
    reset at once and some had ended before (episodes run one at a time), their last step is that of
    the first episode that ended since the reset before, and not of what they idled through
    afterwards.

    Args:
        env: A batch of task environments (:class:`meta_rl.TaskVectorEnv` or the adapter) that does
            not reset in the next step.

    Raises:
        ValueError: Spaces that cannot be flattened, or ``NEXT_STEP`` autoreset, whose dummy steps
            must not be learned from.
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
        self._ended = np.zeros(env.num_envs, dtype=bool)  # an episode, since the last reset
        self._end = np.zeros_like(self._latest)  # the step that did

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes; where the task persists, the trial goes on."""
        observations, infos = self.env.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask", True)
        self._latest = np.where((self._ended & mask)[:, None], self._end, self._latest)
        self._ended = self._ended & ~np.asarray(mask)
        self._fill(self._latest, observations)
        return self._latest, infos

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step, and append what was done."""
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
        self._fill(latest, observations)
        self._latest = latest
        return latest, rewards, terminated, truncated, infos

    def _fill(self, latest: np.ndarray, observations: Any) -> None:
        new_trial = task_batch(self.env).trial_start
        latest[new_trial] = 0.0
        latest[:, -1] = new_trial
        latest[:, : self.observation_size] = self._encode_obs.encoded(observations)


class FlatEncoder:
    """Flattens a batch of a space's elements to float32 ``[N, size]``: one call, no loop.

    Args:
        space: ``Box``, ``Discrete`` (one-hot), ``MultiBinary``, or a ``Dict`` of these.

    Raises:
        ValueError: Another space.
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
        """Elements ``[N, ...]`` as float32 ``[N, size]``."""
        if isinstance(self.space, spaces.Dict):
            return np.concatenate([p.encoded(batch[k]) for k, p in self.parts.items()], axis=1)
        batch = np.asarray(batch)
        if isinstance(self.space, spaces.Discrete):
            return (batch[:, None] == self.space.start + np.arange(self.size)).astype(np.float32)
        return batch.reshape(len(batch), self.size).astype(np.float32)
