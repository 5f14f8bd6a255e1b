"""Random tabular Markov decision processes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.definition import TaskFuncEnv, zeros_for
from meta_rl.tasks import SampledTasks, Tasks, check_count, held_out_split
from meta_rl.vector.arrays import indices
from meta_rl.vector.streams import Draws


class TabularState(NamedTuple):
    """State of each sub-environment.

    Attributes:
        cell: State of the Markov decision process, int64 ``[N]``.
    """

    cell: np.ndarray


class TabularMDP(TaskFuncEnv):
    """Random tabular Markov decision process.

    ## Description
    The task is a Markov decision process with random transitions and random mean rewards, which the
    agent does not see. The agent has ``episodes_per_trial`` short episodes on the same process, and
    has to explore in the first to earn more in the last. Source: Duan et al., "RL²: Fast
    Reinforcement Learning via Slow Reinforcement Learning", 2016, section 3.2 (following Osband et
    al., 2013).

    ## Action Space
    ``Discrete(num_actions)``: the action.

    ## Observation Space
    ``Discrete(num_states)``: the current state.

    ## Rewards
    The reward is the mean reward of (state, action) plus normal noise with standard deviation
    ``reward_std``: info ``reward_mean`` and ``reward_noise``.

    ## Starting State
    An episode starts in state 0.

    ## Episode End
    The episode is *terminated* after ``horizon`` steps: the horizon is part of the problem.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``num_states`` | 10 | number of states, S |
    | ``num_actions`` | 5 | number of actions, A |
    | ``horizon`` | 10 | number of steps in an episode |
    | ``episodes_per_trial`` | 10 | number of episodes on one task, n |
    | ``reward_std`` | 1.0 | standard deviation of the reward noise |

    ## Task distribution
    A ``Dict`` of ``rewards`` ``[S, A]``, mean rewards that are normal with mean 1 and standard
    deviation 1, and ``transitions`` ``[S, A, S]``, whose rows are flat Dirichlet draws. Validation
    and test are fixed, seeded lists of 1,000 processes each.

    ## Adaptation
    The agent adapts after every episode; a trial is ``episodes_per_trial`` episodes.

    ## Version History
    * v0: initial.
    """

    horizon_is_terminal = True

    def __init__(
        self,
        num_states: int = 10,
        num_actions: int = 5,
        horizon: int = 10,
        episodes_per_trial: int = 10,
        reward_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_states = check_count("num_states", num_states)
        self.num_actions = check_count("num_actions", num_actions)
        self.horizon = check_count("horizon", horizon)
        self.episodes_per_trial = check_count("episodes_per_trial", episodes_per_trial)
        self.reward_std = check_number("reward_std", reward_std, least=0)
        self.observation_space = spaces.Discrete(self.num_states)
        self.action_space = spaces.Discrete(self.num_actions)
        table = (self.num_states, self.num_actions)
        space = spaces.Dict(
            {
                "rewards": spaces.Box(-np.inf, np.inf, table, np.float64),
                "transitions": spaces.Box(0.0, 1.0, (*table, self.num_states), np.float64),
            }
        )
        self.task_split = held_out_split(
            SampledTasks(space, self._sample_tasks), num_test=1000, seed=2016
        )

    def _sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Tasks:
        table = (num_tasks, self.num_states, self.num_actions)
        return {
            "rewards": rng.normal(1.0, 1.0, table),
            "transitions": rng.dirichlet(np.ones(self.num_states), table),
        }

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses transition rows that are no probability distributions."""
        wrong = np.abs(tasks["transitions"].sum(axis=-1) - 1.0).max(axis=(1, 2)) > 1e-6
        if wrong.any():
            task = int(np.argmax(wrong))
            raise ValueError(f"task {task}: rows of 'transitions' do not sum to 1")

    def initial(self, rng: Draws, params: Tasks) -> TabularState:
        """Returns state 0 for each sub-environment."""
        return TabularState(zeros_for(params, dtype="int64"))

    def transition(
        self, state: TabularState, action: Any, rng: Draws, params: Tasks
    ) -> TabularState:
        """Draws from the row of (state, action) by inversion."""
        rows = params["transitions"][indices(action), state.cell, action]
        draws = rng.random((len(action), 1))
        # Rounding may leave the last sum below 1: it is left out, so that no draw exceeds it.
        return TabularState((draws >= rows.cumsum(axis=1)[:, :-1]).sum(axis=1))

    def observation(self, state: TabularState, rng: Draws, params: Tasks) -> Any:
        """Returns the state itself."""
        return state.cell + 0

    def reward_terms(
        self, state: TabularState, action: Any, next_state: TabularState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns the mean reward of the state that was left, and draws noise."""
        return {
            "reward_mean": params["rewards"][indices(action), state.cell, action],
            "reward_noise": self.reward_std * rng.standard_normal(len(action)),
        }
