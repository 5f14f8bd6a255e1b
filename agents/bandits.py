"""Classical learners for bandits.

They are the baselines of Duan et al., "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning" (2016), section 3.1, two learners that plan exactly, and the oracle that bounds them all.
Each keeps the pulls and rewards of every arm, which :meth:`adapt` counts and :meth:`predict` reads.

The paper prints no formulas. Definitions here follow its authors' evaluation script: every arm
starts from one success and one failure, Beta(1, 1), and so do the counts of UCB1 and ε-greedy.

Shapes: N tasks, A arms, T pulls in a rollout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from meta_rl.arguments import check_choice, check_count, check_number
from meta_rl.rollout import Rollout

from .bandit_beliefs import ArmBelief, BanditState, BetaBelief, NormalBelief, initial_state, updated
from .gittins import MAX_HORIZON, bayes_optimal_plan, can_be_planned, finite_horizon_gittins
from .oracle import Oracle

TUNED = {
    # (pulls, arms): (epsilon, c)
    (10, 5): (0.0, 0.1),
    (10, 10): (0.0, 0.1),
    (10, 50): (0.0, 0.1),
    (100, 5): (0.0, 0.2),
    (100, 10): (0.0, 0.2),
    (100, 50): (0.0, 0.2),
    (500, 5): (0.1, 0.3),
    (500, 10): (0.1, 0.2),
    (500, 50): (0.1, 0.2),
}
"""Best epsilon and c of 0, 0.1, ..., 1 for Bernoulli arms, by ``benchmarks/classical_bandits.py``.

Up to 100 pulls random exploration does not pay: the best ε-greedy learner is the greedy one.
"""


class BanditLearner(ABC):
    """Base class of learners that count each arm's rewards and pull the arm of highest score.

    Args:
        num_arms: Number of arms, A.
        rng: Generator that breaks ties and makes all other draws.
        belief: Belief about the arms' mean rewards (default: uniform, for Bernoulli arms).
    """

    def __init__(
        self, num_arms: int, *, rng: np.random.Generator, belief: ArmBelief | None = None
    ) -> None:
        self.num_arms = check_count("num_arms", num_arms)
        self.rng = rng
        self.belief: ArmBelief = BetaBelief() if belief is None else belief

    @abstractmethod
    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Returns the score of each arm, ``[N, A]``; the highest is pulled."""

    def adapt(self, rollout: Rollout, state: BanditState | None = None) -> BanditState:
        """Counts the pulls of a rollout.

        Args:
            rollout: Rollout with ``actions`` and ``rewards`` ``[T, N]``, of any length.
            state: State before the rollout; ``None`` before the first pull.

        Raises:
            ValueError: A shape, an action or a reward is not possible.
        """
        if state is None:
            state = initial_state(np.shape(rollout.rewards)[-1], self.num_arms)
        return updated(state, rollout, self.belief)

    def predict(
        self,
        observation: Any,
        state: BanditState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, BanditState]:
        """Chooses an arm for each task.

        Args:
            observation: Observations ``[N]``; only their number is used.
            state: State from :meth:`adapt`; ``None`` before the first pull.
            episode_start: Not used: the arms are the same in further episodes.
            deterministic: Whether to take the first of equally good arms without exploration.

        Returns:
            Arms, int64 ``[N]``, and the state as it was.

        Raises:
            ValueError: The observation or the state does not fit.
        """
        num_tasks = _num_tasks(observation)
        state = initial_state(num_tasks, self.num_arms) if state is None else state
        if state.pulls.shape != (num_tasks, self.num_arms):
            raise ValueError(
                f"state holds {state.pulls.shape[0]} tasks of {state.pulls.shape[1]} arms, but "
                f"there are {num_tasks} observations, and the learner has {self.num_arms} arms"
            )
        scores = self.scores(state, deterministic)
        if deterministic:
            return scores.argmax(axis=1), state
        return self._explore(self._best(scores)), state

    def _best(self, scores: np.ndarray) -> np.ndarray:
        """Returns one of the arms of highest score, ties broken at random."""
        ties = scores >= scores.max(axis=1, keepdims=True) - 1e-9
        drawn: np.ndarray = (ties * self.rng.uniform(0.5, 1.0, scores.shape)).argmax(axis=1)
        return drawn

    def _explore(self, actions: np.ndarray) -> np.ndarray:
        """Replaces some of the actions ``[N]`` to explore; the default replaces none."""
        return actions


class EpsilonGreedy(BanditLearner):
    """Learner that pulls the arm of highest expected reward; with probability ε, any arm.

    The RL² paper tunes ε over {0, 0.1, ..., 1} for each setting.

    Args:
        num_arms: Number of arms, A.
        epsilon: Probability of a uniformly random arm, in [0, 1].
        **learner: Further arguments of :class:`BanditLearner`: ``rng`` and ``belief``.
    """

    def __init__(self, num_arms: int, *, epsilon: float = 0.1, **learner: Any) -> None:
        super().__init__(num_arms, **learner)
        self.epsilon = check_number("epsilon", epsilon, least=0.0, most=1.0)

    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Returns posterior means, ``[N, A]``."""
        return self.belief.mean(state)

    def _explore(self, actions: np.ndarray) -> np.ndarray:
        if self.epsilon == 0.0:
            return actions
        explores = self.rng.random(len(actions)) < self.epsilon
        return np.where(explores, self.rng.integers(self.num_arms, size=len(actions)), actions)


class Greedy(EpsilonGreedy):
    """Learner that pulls the arm of highest expected reward, ties broken at random.

    Args:
        num_arms: Number of arms, A.
        **learner: Further arguments of :class:`BanditLearner`: ``rng`` and ``belief``.
    """

    def __init__(self, num_arms: int, **learner: Any) -> None:
        super().__init__(num_arms, epsilon=0.0, **learner)


class RandomArms(EpsilonGreedy):
    """Agent that pulls uniformly random arms, even if ``deterministic``: the lower bound.

    Args:
        num_arms: Number of arms, A.
        **learner: Further arguments of :class:`BanditLearner`: ``rng`` and ``belief``.
    """

    def __init__(self, num_arms: int, **learner: Any) -> None:
        super().__init__(num_arms, epsilon=1.0, **learner)

    def predict(
        self,
        observation: Any,
        state: BanditState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, BanditState]:
        """Draws arms ``[N]``."""
        return super().predict(observation, state, episode_start)


class UCB1(BanditLearner):
    """Optimistic learner: its score is the mean plus ``c * scale * sqrt(2 ln t / observations)``.

    The number t counts the pulls of the trial, observations the pulls of the arm with the prior's
    counts (2 for Beta(1, 1)); scale is the spread of a reward (1 for Bernoulli arms). ``c = 1``
    with no prior is UCB1 of Auer et al., 2002. The RL² paper tunes c over {0, 0.1, ..., 1} for each
    setting, and starts from Beta(1, 1).

    Args:
        num_arms: Number of arms, A.
        c: Factor of the bonus, from 0 on.
        **learner: Further arguments of :class:`BanditLearner`: ``rng`` and ``belief``.
    """

    def __init__(self, num_arms: int, *, c: float = 0.2, **learner: Any) -> None:
        super().__init__(num_arms, **learner)
        self.c = check_number("c", c, least=0.0)

    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Returns upper confidence bounds, ``[N, A]``."""
        log_t = np.log(np.maximum(1, state.pulls.sum(axis=1, keepdims=True)))
        width = np.sqrt(2.0 * log_t / self.belief.observations(state))
        return self.belief.mean(state) + self.c * self.belief.reward_scale * width


class OptimisticThompson(BanditLearner):
    """Learner that uses the most likely of several posterior draws of the mean rewards.

    It draws all arms ``num_samples`` times and keeps the joint draw of highest posterior density.
    This is the "optimistic Thompson sampling" of the RL² paper's evaluation script, which tunes the
    number of draws over {1, ..., 20}; 20 is best for most settings. It moves Thompson sampling
    towards the posterior mode. (May et al., "Optimistic Bayesian sampling in contextual-bandit
    problems", 2012, is another algorithm.)

    Args:
        num_arms: Number of arms, A.
        num_samples: Number of draws of each arm, at least 1.
        **learner: Further arguments of :class:`BanditLearner`: ``rng`` and ``belief``.
    """

    def __init__(self, num_arms: int, *, num_samples: int = 20, **learner: Any) -> None:
        super().__init__(num_arms, **learner)
        self.num_samples = check_count("num_samples", num_samples)

    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Returns the best joint draw ``[N, A]``, or posterior means where ``deterministic``."""
        if deterministic:
            return self.belief.mean(state)
        draws = self.belief.sample(state, self.rng, self.num_samples)
        if self.num_samples == 1:
            return draws[0]
        likeliest = self.belief.log_density(draws, state).sum(axis=-1).argmax(axis=0)
        return draws[likeliest, np.arange(len(likeliest))]


class ThompsonSampling(OptimisticThompson):
    """Learner that pulls the best arm of one draw of the mean rewards (Thompson, 1933).

    Args:
        num_arms: Number of arms, A.
        **learner: Further arguments of :class:`BanditLearner`: ``rng`` and ``belief``.
    """

    def __init__(self, num_arms: int, **learner: Any) -> None:
        super().__init__(num_arms, num_samples=1, **learner)


class _BernoulliPlanner(BanditLearner):
    """Base class of learners that plan for Bernoulli arms, from a uniform belief."""

    def __init__(self, num_arms: int, horizon: int, *, rng: np.random.Generator) -> None:
        super().__init__(num_arms, rng=rng, belief=BetaBelief())
        self.horizon = check_count("horizon", horizon)


class GittinsIndex(_BernoulliPlanner):
    """Learner that pulls the arm of highest undiscounted Gittins index for the remaining pulls.

    See :func:`~meta_rl.agents.gittins.finite_horizon_gittins`. After the trial's last pull it
    continues greedily.

    Args:
        num_arms: Number of arms, A.
        horizon: Number of pulls in a trial, 1 to 500.
        rng: Generator that breaks ties.

    Raises:
        ValueError: The horizon is out of range.
    """

    def __init__(self, num_arms: int, horizon: int, *, rng: np.random.Generator) -> None:
        super().__init__(num_arms, horizon, rng=rng)
        check_count("horizon", horizon, most=MAX_HORIZON)

    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Returns Gittins indices, ``[N, A]``."""
        means = self.belief.mean(state)
        left = self.horizon - state.pulls.sum(axis=1)
        in_time = left > 0
        if not in_time.any():
            return means
        wins = state.reward_sums[in_time].astype(np.int64)
        losses = state.pulls[in_time] - wins
        table = finite_horizon_gittins(self.horizon)  # not earlier: the first call is slow
        means[in_time] = table.index(wins, losses, left[in_time, None])
        return means


class BayesOptimal(_BernoulliPlanner):
    """Learner with the highest expected total reward of all: no learner is better on average.

    See :class:`~meta_rl.agents.gittins.BayesOptimalPlan`. After the trial's last pull it continues
    greedily.

    Args:
        num_arms: Number of arms, A.
        horizon: Number of pulls in a trial, H.
        rng: Generator that breaks ties.

    Raises:
        ValueError: There are too many joint beliefs to plan with.
    """

    def __init__(self, num_arms: int, horizon: int, *, rng: np.random.Generator) -> None:
        super().__init__(num_arms, horizon, rng=rng)
        self.plan = bayes_optimal_plan(num_arms, horizon)

    @property
    def value(self) -> float:
        """The expected total reward of a trial of ``horizon`` pulls."""
        return self.plan.value

    def scores(self, state: BanditState, deterministic: bool = False) -> np.ndarray:
        """Returns action values, ``[N, A]``."""
        wins = state.reward_sums.astype(np.int64)
        return self.plan.action_values(wins, state.pulls - wins)


class BestArmState(NamedTuple):
    """Knowledge of the oracle about each task.

    Attributes:
        arms: Best arm of each task, int64 ``[N]``.
    """

    arms: np.ndarray


class BestArm(Oracle):
    """Oracle that always pulls the best arm: the upper bound.

    Args:
        num_arms: Number of arms, A.
    """

    def __init__(self, num_arms: int) -> None:
        self.num_arms = check_count("num_arms", num_arms)

    def adapt_to_tasks(self, tasks: Any) -> BestArmState:
        """Looks up the best arms.

        Args:
            tasks: Mean rewards, ``[N, A]``.

        Raises:
            ValueError: The tasks have another number of arms.
        """
        means = np.asarray(tasks)
        if means.ndim != 2 or means.shape[1] != self.num_arms:
            raise ValueError(f"tasks must have shape [N, {self.num_arms}], got {list(means.shape)}")
        return BestArmState(means.argmax(axis=1))

    def act(self, observation: Any, state: BestArmState, deterministic: bool) -> np.ndarray:
        """Returns the best arms ``[N]``."""
        num_tasks = _num_tasks(observation)
        if len(state.arms) != num_tasks:
            raise ValueError(f"state holds {len(state.arms)} tasks, but observation {num_tasks}")
        return state.arms


def bandit_learners(
    num_arms: int, horizon: int, rng: np.random.Generator, family: str = "bernoulli"
) -> dict[str, Any]:
    """Returns the standard set of learners by name.

    The names are random, greedy, epsilon-greedy, ucb1, thompson, optimistic-thompson, best-arm; for
    Bernoulli bandits also gittins (up to 500 pulls), and bayes-optimal where it can be computed (16
    pulls with any number of arms, 2 arms with up to 50 pulls). ε and c are those of :data:`TUNED`
    for the nearest setting, by ratios of pulls and of arms.

    Args:
        num_arms: Number of arms, A.
        horizon: Number of pulls in a trial.
        rng: Generator from which each learner's own generator is spawned.
        family: Name of the family: ``"bernoulli"``, or ``"gaussian"`` with means and noise N(0, 1).

    Raises:
        ValueError: The family is unknown.
    """
    families: dict[str, ArmBelief] = {"bernoulli": BetaBelief(), "gaussian": NormalBelief()}
    belief = families[check_choice("family", family, families)]
    num_arms, horizon = check_count("num_arms", num_arms), check_count("horizon", horizon)
    wanted = np.array([horizon, num_arms])
    epsilon, c = TUNED[min(TUNED, key=lambda sizes: np.abs(np.log(sizes / wanted)).sum())]
    rngs = iter(rng.spawn(8))
    learners: dict[str, Any] = {
        "random": RandomArms(num_arms, rng=next(rngs), belief=belief),
        "greedy": Greedy(num_arms, rng=next(rngs), belief=belief),
        "epsilon-greedy": EpsilonGreedy(num_arms, rng=next(rngs), epsilon=epsilon, belief=belief),
        "ucb1": UCB1(num_arms, rng=next(rngs), c=c, belief=belief),
        "thompson": ThompsonSampling(num_arms, rng=next(rngs), belief=belief),
        "optimistic-thompson": OptimisticThompson(num_arms, rng=next(rngs), belief=belief),
        "best-arm": BestArm(num_arms),
    }
    if family == "bernoulli" and horizon <= MAX_HORIZON:
        learners["gittins"] = GittinsIndex(num_arms, horizon, rng=next(rngs))
    if family == "bernoulli" and can_be_planned(num_arms, horizon):
        learners["bayes-optimal"] = BayesOptimal(num_arms, horizon, rng=next(rngs))
    return learners


def _num_tasks(observation: Any) -> int:
    if np.ndim(observation) != 1:
        raise ValueError(f"observation must have shape [N], got {list(np.shape(observation))}")
    return len(observation)
