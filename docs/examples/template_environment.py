"""Template of an environment of your own: reach a hidden point on a line."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

import meta_rl
from meta_rl.tasks import held_out_split


class State(NamedTuple):
    """Arrays with a leading axis of N sub-environments."""

    place: np.ndarray


class ReachPoint(meta_rl.TaskFuncEnv):
    """Move on a line; the reward is the negative distance to the hidden point."""

    horizon = 20  # steps of an episode
    episodes_per_trial = 2  # episodes on one task
    observation_space = spaces.Box(-2.0, 2.0, (1,), np.float64)
    action_space = spaces.Box(-0.2, 0.2, (1,), np.float32)
    task_split = held_out_split(  # a task is the hidden point
        meta_rl.UniformTasks(spaces.Box(-1.0, 1.0, (1,), np.float64)), num_test=50, seed=0
    )

    def initial(self, rng: Any, params: Any) -> State:
        """Begins at random places; every draw has the leading axis ``len(params)``."""
        return State(rng.uniform(-0.1, 0.1, (len(params), 1)))

    def transition(self, state: State, action: Any, rng: Any, params: Any) -> State:
        """Moves by the actions ``[N, 1]``."""
        return State(np.clip(state.place + np.clip(action, -0.2, 0.2), -2.0, 2.0))

    def observation(self, state: State, rng: Any, params: Any) -> Any:
        """Shows the place, and nothing of the task."""
        return state.place

    def reward_terms(self, state: Any, action: Any, next_state: Any, rng: Any, params: Any) -> Any:
        """Names begin with ``reward_``; the reward is the sum of all."""
        return {"reward_distance": -np.abs(next_state.place - params)[:, 0]}


meta_rl.register_task_env("my/ReachPoint-v0", f"{__name__}:ReachPoint")
