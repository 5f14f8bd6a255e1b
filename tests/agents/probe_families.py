"""Task families with known optima and values: the probe that an agent fails names its broken part.

The first five follow the probe environments of rejax, with tasks: constant reward, reward that
depends on the observation, delayed reward, reward that depends on the action, and on both. Others
are for meta-learning: the right action is known from an earlier reward only, and the memory has to
carry it over pulls, or over the end of an episode; or a gradient step has to find it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.definition import TaskFuncEnv
from meta_rl.tasks import Tasks, UniformTasks, held_out_split

TWO_TASKS = spaces.Discrete(2)
SIGNS = spaces.Box(-1.0, 1.0, (1,), np.float64)


class Clock(NamedTuple):
    """What a probe remembers: the steps made in the episode, int64 ``[N]``."""

    steps: np.ndarray


class Probe(TaskFuncEnv):
    """What probes share: two actions, nothing to see, and one step of reward by :meth:`earned`."""

    horizon = 1
    horizon_is_terminal = True
    tasks: spaces.Space = SIGNS

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: spaces.Space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space: spaces.Space = spaces.Discrete(2)
        self.task_split = held_out_split(UniformTasks(self.tasks), num_test=64, seed=1)

    def initial(self, rng: np.random.Generator, params: Tasks) -> Clock:
        return Clock(np.zeros(len(params), dtype=np.int64))

    def transition(self, state: Clock, action: Any, rng: Any, params: Tasks) -> Clock:
        return Clock(state.steps + 1)

    def observation(self, state: Clock, rng: Any, params: Tasks) -> np.ndarray:
        return np.zeros((len(params), 1), dtype=np.float32)

    def reward_terms(
        self, state: Clock, action: Any, next_state: Clock, rng: Any, params: Tasks
    ) -> dict[str, Any]:
        return {"reward_probe": np.asarray(self.earned(state.steps, action, params), np.float64)}

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        """The reward ``[N]`` of the action that is taken after ``steps`` steps."""
        raise NotImplementedError


class ConstantReward(Probe):
    """Always 1: the value is 1."""

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return np.ones(len(params))


class ObservationReward(Probe):
    """The observation is the task, and so is the reward: the value is the observation."""

    def observation(self, state: Clock, rng: Any, params: Tasks) -> np.ndarray:
        return params.astype(np.float32)

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return params[:, 0]


class DelayedReward(Probe):
    """Three steps, and 1 at the last: the values are discount², discount and 1."""

    horizon = 3

    def observation(self, state: Clock, rng: Any, params: Tasks) -> np.ndarray:
        return (state.steps[:, None] / self.horizon).astype(np.float32)

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return steps == self.horizon - 1


class DelayedActionReward(DelayedReward):
    """The last of three steps pays what the first action deserves: 1 for action 1, 0 for 0.

    It is the advantage estimate that has to carry the reward back over time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(2)

    def initial(self, rng: np.random.Generator, params: Tasks) -> Any:
        return FirstAction(*super().initial(rng, params), np.zeros(len(params), dtype=np.int64))

    def transition(self, state: Any, action: Any, rng: Any, params: Tasks) -> Any:
        first = np.where(state.steps == 0, action, state.first)
        return FirstAction(state.steps + 1, first)

    def reward_terms(
        self, state: Any, action: Any, next_state: Any, rng: Any, params: Tasks
    ) -> dict[str, Any]:
        paid = (state.steps == self.horizon - 1) & (next_state.first == 1)
        return {"reward_probe": paid.astype(np.float64)}


class FirstAction(NamedTuple):
    """Steps made, and the first action of the episode: int64 ``[N]`` each."""

    steps: np.ndarray
    first: np.ndarray


class ActionReward(Probe):
    """1 for action 1, otherwise -1."""

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return 2.0 * action - 1.0


class ObservationActionReward(ObservationReward):
    """1 for the action that has the sign of the observation, otherwise -1."""

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return np.where((params[:, 0] > 0) == (action == 1), 1.0, -1.0)


class ObservationTarget(ObservationReward):
    """The observation is where to go, continuously: minus the squared distance, at most 0."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return -np.square(action - params).sum(axis=1)


class RememberedPull(Probe):
    """A bandit of two arms, one of which pays 1, and only at the first and at the last pull.

    The best is 1/2 at the first pull and 1 at the last: the first reward tells the arm, and has to
    be remembered over the pulls between, whose rewards are 0.
    """

    horizon = 4
    adaptation_unit = "step"
    tasks = TWO_TASKS

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return (action == params) & ((steps == 0) | (steps == self.horizon - 1))


class RememberedEpisode(Probe):
    """Two episodes of two steps: the right action, the task, pays 1 at the first step of each.

    The best is 1/2 in the first episode and 1 in the second. The last step of an episode pays
    nothing, so that its reward, which is seen beside the first observation of the next, tells
    nothing: what was learned passes the end of the episode in the memory or not at all.
    """

    horizon = 2
    episodes_per_trial = 2
    tasks = TWO_TASKS

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return (action == params) & (steps == 0)


class HiddenAction(Probe):
    """Which of two actions pays 1 is the task, and cannot be seen.

    The best is 1/2 before adaptation, and 1 after it.
    """

    episodes_per_trial = 2
    tasks = TWO_TASKS

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return action == params


class HiddenTarget(Probe):
    """Where to go is the task, in [-1, 1], and cannot be seen: minus the squared distance.

    The best is -1/3 before adaptation, at the mean of the tasks, and 0 after it.
    """

    episodes_per_trial = 3

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return -np.square(action - params).sum(axis=1)


class ThreeActions(ActionReward):
    """Another action space, for checkpoints that do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(3)


class OppositeActionReward(ActionReward):
    """The same spaces as :class:`ActionReward`, but another family."""

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return 1.0 - 2.0 * action


class EarlyEnd(Probe):
    """Action 1 ends the episode, whose horizon is 4, and pays 1."""

    horizon = 4
    episodes_per_trial = 2
    tasks = TWO_TASKS

    def transition(self, state: Clock, action: Any, rng: Any, params: Tasks) -> Clock:
        return Clock(np.where(action == 1, self.horizon, state.steps + 1))

    def terminal(self, state: Clock, rng: Any, params: Tasks) -> Any:
        return state.steps >= self.horizon

    def earned(self, steps: np.ndarray, action: Any, params: Tasks) -> Any:
        return action == 1
