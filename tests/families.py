"""Small task families whose whole course can be worked out by hand."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from meta_rl.definition import TaskFuncEnv
from meta_rl.tasks import FiniteTasks, Tasks, TaskSplit, UniformTasks, as_task, held_out_split

LENGTHS = spaces.Discrete(5, start=1)


class CorridorState(NamedTuple):
    """Steps made, int64 ``[N]``, and a random walk that nothing depends on, float64 ``[N]``."""

    steps: np.ndarray
    noise: np.ndarray


class Corridor(TaskFuncEnv):
    """The task is the number of steps, 1 to 5, after which the episode is over.

    Seen are ``(task, steps made, noise)``. A step pays ``10 * task + steps made before it`` and
    half the action. The time limit is 4 steps, so that task 4 is terminated, and task 5 truncated,
    there.
    """

    horizon = 4

    def __init__(self, episodes_per_trial: int = 2, noise: float = 0.0) -> None:
        super().__init__()
        self.episodes_per_trial = episodes_per_trial
        self.noise = noise
        self.observation_space: spaces.Space = spaces.Box(-1e3, 1e3, (3,), np.float32)
        self.action_space: spaces.Space = spaces.Discrete(3)
        self.task_split = held_out_split(
            UniformTasks(LENGTHS), num_test=20, num_validation=10, seed=7
        )

    def initial(self, rng: np.random.Generator, params: Tasks) -> CorridorState:
        num = len(params)
        return CorridorState(np.zeros(num, dtype=np.int64), self.noise * rng.standard_normal(num))

    def transition(
        self, state: CorridorState, action: Any, rng: np.random.Generator, params: Tasks
    ) -> CorridorState:
        drift = self.noise * rng.standard_normal(len(params))
        return CorridorState(state.steps + 1, state.noise + drift)

    def observation(self, state: CorridorState, rng: Any, params: Tasks) -> Any:
        return np.column_stack([params, state.steps, state.noise]).astype(np.float32)

    def reward_terms(
        self, state: CorridorState, action: Any, next_state: CorridorState, rng: Any, params: Tasks
    ) -> dict[str, Any]:
        return {
            "reward_place": 10.0 * params + state.steps,
            "reward_action": 0.5 * self.pushed(action),
        }

    def pushed(self, action: Any) -> Any:
        return action

    def terminal(self, state: CorridorState, rng: Any, params: Tasks) -> Any:
        return state.steps >= params


class PushedCorridor(Corridor):
    """The corridor with a dict to see, a vector of two to act, and the sum of it as the push."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            {"steps": spaces.Discrete(7), "task": spaces.Box(0.0, 9.0, (1,), np.float32)}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def observation(self, state: CorridorState, rng: Any, params: Tasks) -> Any:
        return {"steps": state.steps.copy(), "task": params[:, None].astype(np.float32)}

    def pushed(self, action: Any) -> Any:
        return np.asarray(action).sum(axis=1)


class PulledCorridor(Corridor):
    """The corridor of a learner that adapts after every step."""

    adaptation_unit = "step"


class PlainCorridor(gym.Env):
    """The corridor as a Python environment that knows nothing of batches."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    horizon: int | None = 4
    episodes_per_trial = 2

    def __init__(self) -> None:
        family = Corridor()
        self.observation_space, self.action_space = family.observation_space, family.action_space
        self.task_split: TaskSplit = family.task_split
        self.task: Any = None
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        given = (options or {}).get("task")
        if given is not None:
            self.task = as_task(self.task_split.space, given)
        elif self.task is None:
            self.task = self.task_split.train.sample_tasks(1, self.np_random)[0]
        self.steps = 0
        return self.seen(), {"task": self.task}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        place, push = 10.0 * self.task + self.steps, 0.5 * action
        self.steps += 1
        terminated = bool(self.steps >= self.task)
        truncated = self.steps == self.horizon and not terminated
        terms = {"reward_place": place, "reward_action": push}
        return self.seen(), float(place + push), terminated, truncated, terms

    def seen(self) -> np.ndarray:
        return np.array([self.task, self.steps, 0.0], dtype=np.float32)


class ListedCorridor(Corridor):
    """The corridor with three held-out tasks, one each of length 1, 3 and 5."""

    def __init__(self) -> None:
        super().__init__()
        listed = FiniteTasks(LENGTHS, [1, 3, 5])
        self.task_split = TaskSplit(UniformTasks(LENGTHS), listed, listed)


class QuickSuccess(gym.Env):
    """Task 1 succeeds in its first step and ends there; task 0 never does, and lasts ten steps.

    It has what Meta-World's own evaluation asks of its environments.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    horizon = 10
    task_name = "SawyerReachEnvV3"
    terminate_on_success = True

    def __init__(self, task: int | None = None) -> None:
        self.observation_space = spaces.Box(0.0, 10.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        listed = FiniteTasks(spaces.Discrete(2), [0, 1])
        self.task_split = TaskSplit(listed, listed, listed)
        self.task = task

    def toggle_terminate_on_success(self, on: bool) -> None:
        assert on

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task", self.task)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        success = self.task == 1
        truncated = not success and self.steps == self.horizon
        seen = np.full(1, self.steps, dtype=np.float32)
        return seen, 1.0, success, truncated, {"success": float(success)}
