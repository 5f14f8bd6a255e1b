"""Classical learners for random tabular Markov decision processes.

They are the baselines of Duan et al., "RL²: Fast Reinforcement Learning via Slow Reinforcement
Learning" (2016), section 3.2, and the oracle that bounds them. Each keeps statistics of every
(state, action) and plans a whole episode after every :meth:`adapt`, for all tasks at once.

The paper does not print its definitions. Those here follow the code that its results come from,
which is Osband's TabulaRL (https://github.com/iosband/TabulaRL) in the authors' evaluation script:

* Its Bayesian learners believe that mean rewards are N(0, 1), although the processes are drawn with
  N(1, 1). :data:`~meta_rl.agents.tabular_beliefs.TABULARL_PRIOR` is that belief, and
  ``TabularPrior()`` the true one.
* Its ε-greedy and UCRL2 have almost no prior: ``EMPIRICAL_PRIOR``.
* It does not count the transition of an episode's last step, as no decision depends on it.

Shapes: N tasks, S states, A actions, H steps in an episode, T steps in a rollout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from meta_rl.arguments import check_count, check_number
from meta_rl.rollout import Rollout
from meta_rl.vector.streams import TaskStreams

from .oracle import Oracle
from .tabular_beliefs import (
    EMPIRICAL_PRIOR,
    TABULARL_PRIOR,
    BeliefState,
    Posterior,
    TabularPrior,
    check_indices,
    mean_transitions,
    posterior,
    rollout_steps,
)
from .tabular_planning import finite_horizon_q_values, optimistic_q_values


class StepState(NamedTuple):
    """Progress of the current episode.

    Attributes:
        step: Number of steps taken in the current episode, int64 ``[N]``, in ``0 .. H``.
    """

    step: np.ndarray


class PlanState(NamedTuple):
    """A plan and the progress of its episode.

    Attributes:
        q_values: Action values, ``[N, H, S, A]``.
        step: Number of steps taken in the current episode, int64 ``[N]``, in ``0 .. H``.
    """

    q_values: np.ndarray
    step: np.ndarray


class _TabularLearner:
    """Base class of all learners: the sizes, and the checks of inputs."""

    def __init__(self, num_states: int, num_actions: int, horizon: int) -> None:
        self.num_states = check_count("num_states", num_states)
        self.num_actions = check_count("num_actions", num_actions)
        self.horizon = check_count("horizon", horizon)

    def _check_observation(self, observation: Any) -> np.ndarray:
        cells = np.asarray(observation)
        if cells.ndim != 1:
            raise ValueError(f"observation must have shape [N], got {list(cells.shape)}")
        return check_indices("observation", cells, self.num_states)

    def _steps_taken(self, step: np.ndarray, episode_start: Any, num_tasks: int) -> np.ndarray:
        """Returns the steps taken before this one; 0 at an episode's start or after its end."""
        if len(step) != num_tasks:
            raise ValueError(f"state holds {len(step)} tasks, but observation {num_tasks}")
        step = step % self.horizon
        if episode_start is None:
            return step
        starts = np.asarray(episode_start, dtype=bool)
        if starts.shape != step.shape:
            raise ValueError(f"episode_start must have shape [{num_tasks}], got {starts.shape}")
        return np.where(starts, 0, step)


class RandomActions(_TabularLearner):
    """Agent that takes uniformly random actions: the lower bound.

    Args:
        num_states: Number of states, S.
        num_actions: Number of actions, A.
        horizon: Number of steps in an episode, H.
        rng: Generator that draws the actions.
    """

    def __init__(
        self, num_states: int, num_actions: int, horizon: int, *, rng: np.random.Generator
    ) -> None:
        super().__init__(num_states, num_actions, horizon)
        self.rng = rng

    def adapt(self, rollout: Rollout, state: StepState | None = None) -> StepState:
        """Returns the state as it is: this agent learns nothing."""
        if state is None:
            return StepState(np.zeros(np.shape(rollout.rewards)[1], dtype=np.int64))
        return state

    def predict(
        self,
        observation: Any,
        state: StepState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, StepState]:
        """Draws actions ``[N]``; random even where ``deterministic`` is asked for."""
        cells = self._check_observation(observation)
        state = StepState(np.zeros(len(cells), dtype=np.int64)) if state is None else state
        step = self._steps_taken(state.step, episode_start, len(cells))
        return self.rng.integers(self.num_actions, size=len(cells)), StepState(step + 1)


class ValueIteration(_TabularLearner, Oracle):
    """Oracle that follows the optimal finite-horizon policy of the true process: the upper bound.

    Args:
        num_states: Number of states, S.
        num_actions: Number of actions, A.
        horizon: Number of steps in an episode, H.
    """

    def adapt_to_tasks(self, tasks: dict[str, np.ndarray]) -> PlanState:
        """Plans in the true processes.

        Args:
            tasks: Tasks with ``rewards`` ``[N, S, A]`` and ``transitions`` ``[N, S, A, S]``.

        Raises:
            ValueError: The tasks have other sizes than the learner.
        """
        rewards = np.asarray(tasks["rewards"], dtype=np.float64)
        if rewards.shape[1:] != (self.num_states, self.num_actions):
            raise ValueError(
                f"tasks must have {self.num_states} states and {self.num_actions} actions, got "
                f"rewards of shape {list(rewards.shape)}"
            )
        transitions = np.asarray(tasks["transitions"], dtype=np.float64)
        q_values = finite_horizon_q_values(rewards, transitions, self.horizon)
        return PlanState(q_values, np.zeros(len(rewards), dtype=np.int64))

    def optimal_return(self, tasks: dict[str, np.ndarray], initial_state: int = 0) -> np.ndarray:
        """Returns the expected return of one episode of the optimal policy, ``[N]``."""
        values: np.ndarray = self.adapt_to_tasks(tasks).q_values[:, 0, initial_state].max(axis=-1)
        return values

    def predict(
        self,
        observation: Any,
        state: PlanState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, PlanState]:
        """Returns optimal actions ``[N]``.

        Raises:
            ValueError: There is no state, or the observation does not fit.
        """
        cells = self._check_observation(observation)
        state = self.require_state(state)
        step = self._steps_taken(state.step, episode_start, len(cells))
        actions = state.q_values[np.arange(len(cells)), step, cells].argmax(axis=-1)
        return actions, state._replace(step=step + 1)


class ModelBasedLearner(_TabularLearner, ABC):
    """Base class of learners that keep a belief about each process and plan by episodes.

    Args:
        num_states: Number of states, S.
        num_actions: Number of actions, A.
        horizon: Number of steps in an episode, H.
        rng: Generator that breaks ties and makes all other draws.
        prior: Belief about the processes (default: the true one; for :class:`UCRL2` nearly none).
    """

    default_prior = TabularPrior()

    def __init__(
        self,
        num_states: int,
        num_actions: int,
        horizon: int,
        *,
        rng: np.random.Generator,
        prior: TabularPrior | None = None,
    ) -> None:
        super().__init__(num_states, num_actions, horizon)
        self.prior = prior = self.default_prior if prior is None else prior
        if min(prior[1:]) <= 0:
            raise ValueError(f"precisions and counts of a prior must be above 0, got {prior}")
        self.rng = rng

    @abstractmethod
    def _plan(self, state: BeliefState) -> np.ndarray:
        """Returns action values ``[N, H, S, A]`` to follow in the next episode."""

    def initial_state(self, num_tasks: int) -> BeliefState:
        """Returns the prior, with a plan that is made from it."""
        table = (num_tasks, self.num_states, self.num_actions)
        counts = np.zeros(num_tasks, dtype=np.int64)
        empty = BeliefState(
            reward_counts=np.zeros(table),
            reward_sums=np.zeros(table),
            transition_counts=np.zeros((*table, self.num_states)),
            num_adaptations=counts,
            q_values=np.empty(0),
            step=counts.copy(),
        )
        return empty._replace(q_values=self._plan(empty))

    def adapt(self, rollout: Rollout, state: BeliefState | None = None) -> BeliefState:
        """Updates the belief with a rollout of any length, and plans anew.

        The transition of a *terminated* step is not counted, since nothing follows it.

        Args:
            rollout: Rollout with arrays ``[T, N]``; observations and next observations are states.
                Steps whose ``mask`` is ``False`` are ignored, whatever they hold.
            state: Belief so far; ``None`` for the prior.

        Raises:
            ValueError: A shape, a state, an action or a reward is not possible.
        """
        steps = rollout_steps(rollout, self.num_states, self.num_actions)
        num_tasks = rollout.rewards.shape[1]
        state = self.initial_state(num_tasks) if state is None else state
        if len(state.step) != num_tasks:
            raise ValueError(f"state holds {len(state.step)} tasks, but the rollout {num_tasks}")
        visits = (steps.task, steps.state, steps.action)
        counts, sums = state.reward_counts.copy(), state.reward_sums.copy()
        np.add.at(counts, visits, 1.0)
        np.add.at(sums, visits, steps.reward)
        transitions = state.transition_counts.copy()
        np.add.at(transitions, (*visits, steps.next_state), steps.continues)
        state = state._replace(
            reward_counts=counts,
            reward_sums=sums,
            transition_counts=transitions,
            num_adaptations=state.num_adaptations + 1,
        )
        return state._replace(q_values=self._plan(state))

    def predict(
        self,
        observation: Any,
        state: BeliefState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, BeliefState]:
        """Follows the plan.

        Args:
            observation: States, integers ``[N]``.
            state: State from :meth:`adapt` or the last call; ``None`` for the prior.
            episode_start: Tasks where an episode starts, bool ``[N]``; ``None`` where every episode
                has H steps.
            deterministic: Whether to take the first of equally good actions without exploration.

        Returns:
            Actions ``[N]`` and the state after this step.

        Raises:
            ValueError: The observation or the state does not fit.
        """
        cells = self._check_observation(observation)
        state = self.initial_state(len(cells)) if state is None else state
        step = self._steps_taken(state.step, episode_start, len(cells))
        q = state.q_values[np.arange(len(cells)), step, cells]
        actions = q.argmax(axis=-1) if deterministic else self._draw_actions(q)
        return actions, state._replace(step=step + 1)

    def _draw_actions(self, q: np.ndarray) -> np.ndarray:
        """Returns one of the best actions of each row of ``[N, A]``, ties broken at random."""
        best = q.max(axis=-1, keepdims=True)
        ties = q >= best - 1e-9 * np.maximum(1.0, np.abs(best))
        drawn: np.ndarray = (ties * self.rng.uniform(0.5, 1.0, q.shape)).argmax(axis=-1)
        return drawn


class EpsilonGreedyMDP(ModelBasedLearner):
    """Learner that plans in the belief's mean, and acts at random with probability ε at each step.

    With ``epsilon=0`` this is the greedy learner. The RL² paper's versions have no prior
    (``prior=EMPIRICAL_PRIOR``), and an ε that is tuned over {0.1, 0.2, ..., 1}.

    Args:
        *sizes: ``num_states``, ``num_actions`` and ``horizon``; see :class:`ModelBasedLearner`.
        epsilon: Probability of a uniformly random action, in [0, 1].
        **learner: Further arguments of :class:`ModelBasedLearner`: ``rng`` and ``prior``.
    """

    def __init__(self, *sizes: int, epsilon: float = 0.1, **learner: Any) -> None:
        super().__init__(*sizes, **learner)
        self.epsilon = check_number("epsilon", epsilon, least=0.0, most=1.0)

    def _plan(self, state: BeliefState) -> np.ndarray:
        belief = posterior(self.prior, state)
        return finite_horizon_q_values(belief.reward_mean, mean_transitions(belief), self.horizon)

    def _draw_actions(self, q: np.ndarray) -> np.ndarray:
        actions = super()._draw_actions(q)
        if self.epsilon == 0.0:
            return actions
        explore = self.rng.random(len(q)) < self.epsilon
        return np.where(explore, self.rng.integers(self.num_actions, size=len(q)), actions)


class OPSRL(ModelBasedLearner):
    """Optimistic posterior sampling: plans in several sampled processes, takes the best values.

    ``Q_h(s, a) = max_k Q_h^k(s, a)`` over ``num_samples`` processes k, each drawn from the belief
    and solved on its own: the optimistic envelope of Osband's TabulaRL, which the RL² paper runs
    with N(0, 1) as the belief about mean rewards (``prior=TABULARL_PRIOR``) and with the number of
    samples tuned over {1, ..., 20}. (Osband and Van Roy, "Why is posterior sampling better than
    optimism for reinforcement learning?", 2017, is the analysis; "OPSRL" of Agrawal and Jia, 2017,
    is another algorithm.)

    Args:
        *sizes: ``num_states``, ``num_actions`` and ``horizon``; see :class:`ModelBasedLearner`.
        num_samples: Number of sampled processes, at least 1.
        **learner: Further arguments of :class:`ModelBasedLearner`: ``rng`` and ``prior``.
    """

    def __init__(self, *sizes: int, num_samples: int = 10, **learner: Any) -> None:
        super().__init__(*sizes, **learner)
        self.num_samples = check_count("num_samples", num_samples)

    def _plan(self, state: BeliefState) -> np.ndarray:
        belief = posterior(self.prior, state)
        q_values = self._plan_in_sample(belief)
        for _ in range(self.num_samples - 1):
            np.maximum(q_values, self._plan_in_sample(belief), out=q_values)
        return q_values

    def _plan_in_sample(self, belief: Posterior) -> np.ndarray:
        noise = self.rng.standard_normal(belief.reward_mean.shape)
        rewards = belief.reward_mean + noise / np.sqrt(belief.reward_precision)
        # A task's draws must not depend on the rejected draws of the tasks before it.
        streams = TaskStreams(self.rng.integers(2**63, size=len(belief.dirichlet)))
        transitions = streams.standard_gamma(belief.dirichlet)
        transitions /= transitions.sum(axis=-1, keepdims=True)
        return finite_horizon_q_values(rewards, transitions, self.horizon)


class PSRL(OPSRL):
    """Posterior sampling: draws one process from the belief for each episode, and solves it.

    See Strens, "A Bayesian Framework for Reinforcement Learning", 2000, and Osband et al., "(More)
    Efficient Reinforcement Learning via Posterior Sampling", 2013. The RL² paper runs it with
    ``prior=TABULARL_PRIOR``.

    Args:
        *sizes: ``num_states``, ``num_actions`` and ``horizon``; see :class:`ModelBasedLearner`.
        **learner: Further arguments of :class:`ModelBasedLearner`: ``rng`` and ``prior``.
    """

    def __init__(self, *sizes: int, **learner: Any) -> None:
        super().__init__(*sizes, num_samples=1, **learner)


class BEB(ModelBasedLearner):
    """Bayesian exploration bonus: plans in the belief's mean, with a bonus for the unknown.

    The bonus is ``beta / (1 + n)``, where n is the sum of the Dirichlet parameters of (state,
    action): Kolter and Ng, "Near-Bayesian Exploration in Polynomial Time", 2009. TabulaRL's form,
    which the RL² paper runs (``steps_to_go=True`` and ``prior=TABULARL_PRIOR``), is ``1 / (1 +
    tau)`` plus ``beta / (1 + n)`` for each step that still follows, where tau is the precision of
    the belief about the mean reward; its beta is ``2 H^3`` times a scale tuned in [0.0001, 1].

    Args:
        *sizes: ``num_states``, ``num_actions`` and ``horizon``; see :class:`ModelBasedLearner`.
        beta: Factor of the bonus, from 0 on.
        steps_to_go: Whether to use TabulaRL's form.
        **learner: Further arguments of :class:`ModelBasedLearner`: ``rng`` and ``prior``.
    """

    def __init__(
        self, *sizes: int, beta: float = 12.0, steps_to_go: bool = False, **learner: Any
    ) -> None:
        super().__init__(*sizes, **learner)
        self.beta = check_number("beta", beta, least=0.0)
        self.steps_to_go = steps_to_go

    def _plan(self, state: BeliefState) -> np.ndarray:
        belief = posterior(self.prior, state)
        rewards, transitions = belief.reward_mean, mean_transitions(belief)
        bonus = self.beta / (1.0 + belief.dirichlet.sum(axis=-1))
        if not self.steps_to_go:
            return finite_horizon_q_values(rewards + bonus, transitions, self.horizon)
        rewards = rewards + 1.0 / (1.0 + belief.reward_precision)
        return finite_horizon_q_values(rewards, transitions, self.horizon, bonus)


class UCRL2(ModelBasedLearner):
    """Optimistic learner that plans in the best process that the data do not rule out.

    See Jaksch et al., "Near-optimal Regret Bounds for Reinforcement Learning", 2010, in the
    episodic form of TabulaRL. In episode t, for n visits to (state, action), the mean reward is
    bounded by ``mean + scale sqrt(4 L / max(1, n))`` and the 1-norm around the transition
    frequencies by ``scale sqrt(4 S L / max(1, n))``, with ``L = log(2 S A (t + 1) / delta)``. The
    theory has ``scale=1``; the RL² paper tunes it between 0.0001 and 1.

    Args:
        *sizes: ``num_states``, ``num_actions`` and ``horizon``; see :class:`ModelBasedLearner`.
        scale: Factor of the widths of the confidence sets, from 0 on.
        delta: Probability that the sets miss the truth, in (0, 1).
        **learner: Further arguments of :class:`ModelBasedLearner`: ``rng`` and ``prior``.
    """

    default_prior = EMPIRICAL_PRIOR

    def __init__(
        self, *sizes: int, scale: float = 0.4, delta: float = 0.05, **learner: Any
    ) -> None:
        super().__init__(*sizes, **learner)
        self.scale = check_number("scale", scale, least=0.0)
        self.delta = check_number("delta", delta, above=0.0, below=1.0)

    def confidence_widths(self, state: BeliefState) -> tuple[np.ndarray, np.ndarray]:
        """Returns the confidence widths of rewards and of transitions, ``[N, S, A]`` each."""
        episode = state.num_adaptations[:, None, None] + 1
        log_term = np.log(2 * self.num_states * self.num_actions * (episode + 1) / self.delta)
        rewards = np.sqrt(4.0 * log_term / np.maximum(1.0, state.reward_counts))
        visits = np.maximum(1.0, state.transition_counts.sum(axis=-1))
        transitions = np.sqrt(4.0 * self.num_states * log_term / visits)
        return self.scale * rewards, self.scale * transitions

    def _plan(self, state: BeliefState) -> np.ndarray:
        belief = posterior(self.prior, state)
        reward_width, transition_width = self.confidence_widths(state)
        return optimistic_q_values(
            belief.reward_mean + reward_width,
            mean_transitions(belief),
            transition_width,
            self.horizon,
        )


def mdp_learners(
    num_states: int, num_actions: int, horizon: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Returns the standard set of learners by display name.

    The set has the columns of the RL² paper's table with the paper's definitions, then the same
    algorithms with the true prior, then the oracle. Tuned numbers are the best of
    ``benchmarks/classical_mdps.py`` for 10 states, 5 actions, 10 steps and trials of 50 episodes;
    for 10 to 100 episodes the best are about the same.

    Args:
        num_states: Number of states, S.
        num_actions: Number of actions, A.
        horizon: Number of steps in an episode, H.
        rng: Generator from which each learner's own generator is spawned.
    """
    sizes = (num_states, num_actions, horizon)
    known_mean = EMPIRICAL_PRIOR._replace(reward_mean=TabularPrior().reward_mean)
    rngs = iter(rng.spawn(11))
    beta = 2.0 * horizon**3 * 10.0**-2.8
    return {
        "Random": RandomActions(*sizes, rng=next(rngs)),
        "PSRL": PSRL(*sizes, rng=next(rngs), prior=TABULARL_PRIOR),
        "OPSRL": OPSRL(*sizes, rng=next(rngs), num_samples=14, prior=TABULARL_PRIOR),
        "UCRL2": UCRL2(*sizes, rng=next(rngs)),
        "BEB": BEB(*sizes, rng=next(rngs), beta=beta, steps_to_go=True, prior=TABULARL_PRIOR),
        "ε-greedy": EpsilonGreedyMDP(*sizes, rng=next(rngs), prior=EMPIRICAL_PRIOR),
        "Greedy": EpsilonGreedyMDP(*sizes, rng=next(rngs), epsilon=0.0, prior=EMPIRICAL_PRIOR),
        "PSRL (true prior)": PSRL(*sizes, rng=next(rngs)),
        "UCRL2 (true prior)": UCRL2(*sizes, rng=next(rngs), scale=0.06, prior=known_mean),
        "BEB (true prior)": BEB(*sizes, rng=next(rngs)),
        "Greedy (true prior)": EpsilonGreedyMDP(*sizes, rng=next(rngs), epsilon=0.0),
        "Value iteration": ValueIteration(*sizes),
    }
