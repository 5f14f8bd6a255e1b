"""An oracle: an ordinary agent that is told the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_has, check_kind
from meta_rl.rollout import Rollout
from meta_rl.tasks import Tasks
from meta_rl.wrappers.previous_step import FlatEncoder


class Predictor(Protocol):
    """Interface of an agent of Stable-Baselines3."""

    observation_space: spaces.Space

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> Any:
        """Returns actions, and a state that is not used."""


class Oracle(ABC):
    """Base class of oracles, whose state holds what they know about the tasks."""

    @abstractmethod
    def adapt_to_tasks(self, tasks: Any) -> Any:
        """Returns what the oracle knows about the tasks; leaves have a leading task axis."""

    def adapt(self, rollout: Rollout, state: Any = None) -> Any:
        """Returns the state as it is: there is nothing left to learn.

        Raises:
            ValueError: There is no state, so that the oracle does not know the tasks.
        """
        return self.require_state(state)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Acts on the observation and the task.

        Args:
            observation: Observations ``[N, ...]``.
            state: State from :meth:`adapt_to_tasks`.
            episode_start: Tasks where an episode starts, bool ``[N]``.
            deterministic: Whether to take the most likely action.

        Returns:
            Actions ``[N, ...]``, and the state after this step.

        Raises:
            ValueError: There is no state, or the observation does not fit.
        """
        state = self.require_state(state)
        return self.act(observation, state, deterministic), state

    def act(self, observation: Any, state: Any, deterministic: bool) -> np.ndarray:
        """Returns the actions ``[N, ...]`` of an oracle whose state does not change."""
        raise NotImplementedError

    def require_state(self, state: Any) -> Any:
        """Returns the state, and raises a ``ValueError`` if there is none."""
        if state is None:
            raise ValueError(
                f"{type(self).__name__} needs to be told the tasks: state = adapt_to_tasks(tasks)"
            )
        return state


class TaskConditionedOracle(Oracle):
    """Oracle: a policy that is told the task, where learners have to infer it.

    It can represent the behaviour of any learner after adaptation. It is an upper bound only if it
    is trained well enough: PPO with 3 million steps that is told the goal of HalfCheetahVel earns
    -82 an episode, a published PEARL -37.

    Train any agent of Stable-Baselines3 on ``meta_rl.sb3_env(..., append_task=True)``, and wrap it
    to evaluate it on held-out tasks.

    Args:
        model: Trained agent of Stable-Baselines3.
        task_space: Space of tasks, ``task_split.space`` of the environment.
        observation_space: Space of a single environment's observations without the task, where it
            is not a ``Box``.

    Raises:
        ValueError: The agent was not trained with the task in its observation.

    Example:
        >>> env = meta_rl.sb3_env("meta_rl/HalfCheetahVel-v0", num_envs=64, append_task=True)
        >>> model = PPO("MlpPolicy", env).learn(2_000_000)
        >>> oracle = TaskConditionedOracle(model, task_batch(env.task_env).task_split.space)
        >>> meta_rl.evaluate_adaptation(oracle, "meta_rl/HalfCheetahVel-v0")
    """

    def __init__(
        self,
        model: Predictor,
        task_space: spaces.Space,
        observation_space: spaces.Space | None = None,
    ) -> None:
        check_has("model", model, ["predict"], "an agent of Stable-Baselines3")
        check_kind("task_space", task_space, spaces.Space, "a space of Gymnasium")
        self.model = model
        self.encoder = FlatEncoder(task_space)
        self.encode_obs = None if observation_space is None else FlatEncoder(observation_space)
        shape = model.observation_space.shape
        if shape is None or len(shape) != 1 or shape[0] <= self.encoder.size:
            raise ValueError(
                f"observations in {model.observation_space} have no room for a task of "
                f"{self.encoder.size} numbers: train with sb3_env(..., append_task=True)"
            )

    def adapt_to_tasks(self, tasks: Tasks) -> np.ndarray:
        """Returns the tasks as flat vectors, ``[N, K]``, which are the agent's state."""
        return self.encoder.encoded(tasks)

    def act(self, observation: Any, state: np.ndarray, deterministic: bool) -> np.ndarray:
        """Returns the agent's actions on observation and task.

        Raises:
            ValueError: The agent was trained on other observations.
        """
        if self.encode_obs is not None:
            observation = self.encode_obs.encoded(observation)
        elif isinstance(observation, dict):
            raise ValueError("observations in a Dict need observation_space=")
        flat = np.asarray(observation, dtype=np.float32).reshape(len(state), -1)
        seen = np.concatenate([flat, state], axis=1)
        if seen.shape[1:] != self.model.observation_space.shape:
            raise ValueError(
                f"observation and task are {seen.shape[1]} numbers, but the agent was trained on "
                f"{self.model.observation_space}; observations other than a Box need "
                "observation_space="
            )
        return self.model.predict(seen, deterministic=deterministic)[0]
