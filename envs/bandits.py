"""Multi-armed bandits: the smallest problems where an agent has to learn to explore."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.definition import TaskFuncEnv, ones_where, zeros_for
from meta_rl.tasks import SampledTasks, Tasks, UniformTasks, check_count, held_out_split
from meta_rl.vector.arrays import indices
from meta_rl.vector.streams import Draws

NUM_TEST_TASKS = 1000


class BanditState(NamedTuple):
    """State of a bandit.

    Attributes:
        pulls: Number of pulls made so far, int64 ``[N]``.
    """

    pulls: np.ndarray


class _Bandit(TaskFuncEnv):
    """Base class of bandits: arms, a count of pulls, and a constant observation.

    ## Action Space
    ``Discrete(num_arms)``: the arm to pull.

    ## Observation Space
    ``Discrete(1)``: always 0. The agent has only its own actions and rewards to learn from.

    ## Starting State
    No pull has been made.

    ## Episode End
    The episode is *terminated* after ``horizon`` pulls: the budget is part of the problem.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``num_arms`` | 10 | number of arms, k |
    | ``horizon`` | 10 | number of pulls in a trial, n |

    ## Adaptation
    The agent adapts after every pull; a trial is one episode.

    ## Version History
    * v0: initial.
    """

    horizon_is_terminal = True
    adaptation_unit = "step"

    def __init__(self, num_arms: int, horizon: int) -> None:
        super().__init__()
        self.num_arms = check_count("num_arms", num_arms)
        self.horizon = check_count("horizon", horizon)
        self.observation_space = spaces.Discrete(1)
        self.action_space = spaces.Discrete(self.num_arms)

    def initial(self, rng: Draws, params: Tasks) -> BanditState:
        """Returns a state without pulls."""
        return BanditState(zeros_for(params, dtype="int64"))

    def transition(self, state: BanditState, action: Any, rng: Draws, params: Tasks) -> BanditState:
        """Counts the pull."""
        return BanditState(state.pulls + 1)

    def observation(self, state: BanditState, rng: Draws, params: Tasks) -> Any:
        """Returns 0: there is nothing to see."""
        return state.pulls * 0

    def arm_values(self, params: Tasks, action: Any) -> Any:
        """Returns the entries of the tasks ``[N, k]`` for the arms that were pulled, ``[N]``."""
        return params[indices(params), action]


class BernoulliBandit(_Bandit):
    """Bernoulli multi-armed bandit.

    ## Description
    Each arm pays 1 with its own probability and 0 otherwise. The task, which the agent does not
    see, is the vector of these probabilities. An episode is a whole trial of ``horizon`` pulls (the
    RL² paper counts each pull as an episode of one step). Source: Duan et al., "RL²: Fast
    Reinforcement Learning via Slow Reinforcement Learning", 2016, section 3.1.

    ## Rewards
    The reward is 1 with the arm's probability, otherwise 0: info ``reward_pull``.

    ## Task distribution
    ``Box(0, 1, (num_arms,))``: the arms' probabilities, independent and uniform. Validation and
    test are fixed, seeded lists of 1,000 bandits each.
    """

    def __init__(self, num_arms: int = 10, horizon: int = 10) -> None:
        super().__init__(num_arms, horizon)
        space = spaces.Box(0.0, 1.0, (self.num_arms,), np.float64)
        self.task_split = held_out_split(UniformTasks(space), num_test=NUM_TEST_TASKS, seed=2016)

    def reward_terms(
        self, state: BanditState, action: Any, next_state: BanditState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Draws the reward of the arm that was pulled."""
        pays = rng.random(len(params)) < self.arm_values(params, action)
        return {"reward_pull": ones_where(pays)}


class GaussianBandit(_Bandit):
    """Gaussian multi-armed bandit.

    ## Description
    Each arm pays a normally distributed reward with its own mean and a known spread. The task,
    which the agent does not see, is the vector of means. Thompson sampling and UCB are exact here,
    with conjugate priors, so that the family is a check with real-valued rewards.

    ## Rewards
    The reward is normal with the arm's mean and standard deviation ``reward_std``: info
    ``reward_pull``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``mean_std`` | 1.0 | standard deviation of the arms' means (their mean is 0) |
    | ``reward_std`` | 1.0 | standard deviation of a reward around its arm's mean |

    ## Task distribution
    ``Box(-inf, inf, (num_arms,))``: the arms' means, independent and normal. Validation and test
    are fixed, seeded lists of 1,000 bandits each; ``ood`` doubles ``mean_std``.
    """

    def __init__(
        self, num_arms: int = 10, horizon: int = 10, mean_std: float = 1.0, reward_std: float = 1.0
    ) -> None:
        super().__init__(num_arms, horizon)
        self.reward_std = check_number("reward_std", reward_std, above=0)
        self.mean_std = check_number("mean_std", mean_std, above=0)
        space = spaces.Box(-np.inf, np.inf, (self.num_arms,), np.float64)
        train, ood = (
            SampledTasks(space, partial(_normal_means, self.num_arms, spread))
            for spread in (self.mean_std, 2 * self.mean_std)
        )
        self.task_split = held_out_split(train, num_test=NUM_TEST_TASKS, seed=2016, ood=ood)

    def reward_terms(
        self, state: BanditState, action: Any, next_state: BanditState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Draws the reward of the arm that was pulled."""
        means = self.arm_values(params, action)
        return {"reward_pull": means + self.reward_std * rng.standard_normal(len(params))}


def _normal_means(num_arms: int, spread: float, num: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0.0, spread, (num, num_arms))
