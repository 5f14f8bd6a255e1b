"""Experts and learners of each family, by name, for agents that learn from them.

A family of your own joins by a line: ``EXPERTS["MyFamily"] = make_expert``, where
``make_expert(definition, rng)`` returns a learner with ``predict``, and is given the family's
definition and a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from meta_rl.arguments import check_number, did_you_mean
from meta_rl.make import family_name
from meta_rl.vector.task_batch import task_batch

from .bandit_beliefs import BetaBelief, NormalBelief
from .bandits import UCB1, BestArm, GittinsIndex, ThompsonSampling
from .navigation import GridOracle, KeyToDoorOracle, PointOracle, TMazeOracle, WindOracle
from .oracle import Oracle
from .room_search import GoalSampling, KeyToDoorSearch, NearestSearch
from .tabular import PSRL, UCRL2, ValueIteration

Make = Callable[[Any, np.random.Generator], Any]


def _mdp(family: Any) -> tuple[int, int, int]:
    return family.num_states, family.num_actions, family.horizon


def _normal(family: Any) -> NormalBelief:
    return NormalBelief(0.0, family.mean_std, family.reward_std)


EXPERTS: dict[str, Make] = {
    "BernoulliBandit": lambda family, rng: BestArm(family.num_arms),
    "GaussianBandit": lambda family, rng: BestArm(family.num_arms),
    "TabularMDP": lambda family, rng: ValueIteration(*_mdp(family)),
    "GridNavigation": lambda family, rng: GridOracle(size=5),
    "DarkRoom": lambda family, rng: GridOracle(family.size, cell_numbers=True),
    "DarkKeyToDoor": lambda family, rng: KeyToDoorOracle(family.size),
    "TMaze": lambda family, rng: TMazeOracle(family.junction),
    "PointNavigation": lambda family, rng: PointOracle(),
    "PointRobot": lambda family, rng: PointOracle(),
    "SparsePointNavigation": lambda family, rng: PointOracle(),
    "WindNavigation": lambda family, rng: WindOracle(),
}
"""Oracles that act optimally because they are told the task, by the name of the family."""

LEARNERS: dict[str, dict[str, Make]] = {
    "BernoulliBandit": {
        "gittins": lambda family, rng: GittinsIndex(family.num_arms, family.horizon, rng=rng),
        "thompson": lambda family, rng: ThompsonSampling(
            family.num_arms, rng=rng, belief=BetaBelief()
        ),
        "ucb1": lambda family, rng: UCB1(family.num_arms, rng=rng, belief=BetaBelief()),
    },
    "GaussianBandit": {
        "thompson": lambda family, rng: ThompsonSampling(
            family.num_arms, rng=rng, belief=_normal(family)
        ),
        "noised-thompson": lambda family, rng: NoisedLearner(
            ThompsonSampling(family.num_arms, rng=rng, belief=_normal(family)),
            RandomActor(spaces.Discrete(family.num_arms), rng),
            rng,
        ),
        "ucb1": lambda family, rng: UCB1(family.num_arms, rng=rng, belief=_normal(family)),
    },
    "TabularMDP": {
        "psrl": lambda family, rng: PSRL(*_mdp(family), rng=rng),
        "ucrl2": lambda family, rng: UCRL2(*_mdp(family), rng=rng),
    },
    "DarkRoom": {
        "psrl": lambda family, rng: GoalSampling(family.size, rng=rng),
        "search": lambda family, rng: NearestSearch(family.size, rng=rng),
        "noised-search": lambda family, rng: NearestSearch(family.size, rng=rng, epsilon=0.2),
    },
    "DarkKeyToDoor": {
        "search": lambda family, rng: KeyToDoorSearch(family.size, rng=rng),
        "noised-search": lambda family, rng: KeyToDoorSearch(family.size, rng=rng, epsilon=0.2),
    },
}
"""Learners that are not told the task, by the names of the family and of the learner."""

ORACLE, NOISED, RANDOM = "oracle", "noised-oracle", "random"


def find_expert(env: VectorEnv, name: str, rng: np.random.Generator, num_steps: int) -> Any:
    """Makes a learner or an oracle of a family.

    Args:
        env: Batch of task environments.
        name: ``"oracle"`` (told the task), ``"noised-oracle"`` (:class:`NoisedExpert`),
            ``"random"`` (uniformly random actions), or a name in :data:`LEARNERS`.
        rng: Generator of its draws.
        num_steps: Number of steps of a history, over which noise falls.

    Raises:
        ValueError: The family has no such learner; the error lists those that it has.
    """
    family, definition = family_of(env), getattr(task_batch(env), "definition", None)
    known = LEARNERS.get(family, {})
    if name == RANDOM:
        return RandomActor(env.single_action_space, rng)
    if name in known:
        return known[name](definition, rng)
    oracles = [ORACLE, NOISED] if family in EXPERTS else []
    if name not in oracles:
        names = [*oracles, *known, RANDOM]
        raise ValueError(f"no expert {name!r} of {family}: {did_you_mean(name, names)}")
    oracle = EXPERTS[family](definition, rng)
    if name == ORACLE:
        return oracle
    return NoisedExpert(oracle, RandomActor(env.single_action_space, rng), rng, num_steps)


def family_of(env: VectorEnv) -> str:
    """Returns the name of a batch's family in :data:`EXPERTS` and :data:`LEARNERS`."""
    return family_name(env).rpartition(":")[2]


class RandomActor:
    """An agent that draws uniformly random actions and learns nothing.

    Args:
        space: Space of a single action, ``Discrete`` or a bounded ``Box``.
        rng: Generator of the draws.

    Raises:
        ValueError: The space is of another kind.
    """

    def __init__(self, space: spaces.Space, rng: np.random.Generator) -> None:
        if not isinstance(space, spaces.Discrete | spaces.Box):
            raise ValueError(f"random actions are drawn in Discrete or Box spaces, not {space}")
        self.space, self.rng = space, rng

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """Returns random actions, and the state as it is."""
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        num = len(first)
        if isinstance(self.space, spaces.Discrete):
            return self.space.start + self.rng.integers(self.space.n, size=num), state
        low, high = self.space.low, self.space.high
        return self.rng.uniform(low, high, (num, *low.shape)).astype(self.space.dtype), state


class NoisedLearner:
    """A learner some of whose actions are random: in each history another share of them.

    The share is uniform in [0, 1]. Who learns from such histories cannot take the arm that was
    pulled most for the best one, and has to read the rewards.

    Args:
        learner: Learner, whose ``adapt`` sees the random actions too.
        noise: Agent that draws the random actions.
        rng: Generator that draws the shares, and which actions are random.
    """

    def __init__(self, learner: Any, noise: Any, rng: np.random.Generator) -> None:
        self.learner, self.noise, self.rng = learner, noise, rng

    def adapt(self, rollout: Any, state: Any) -> Any:
        """Lets the learner adapt."""
        known, share = state
        return self.learner.adapt(rollout, known), share

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Returns the learner's actions, some of them replaced by random ones."""
        random, _ = self.noise.predict(observation)
        known, share = (None, self.rng.random(len(random))) if state is None else state
        actions, known = self.learner.predict(observation, known, episode_start, deterministic)
        return np.where(self.rng.random(len(random)) < share, random, actions), (known, share)


class NoisedExpert(Oracle):
    """An expert whose actions are random at first, and less and less (noise distillation).

    In step t of a history an action is random with probability ``1 - t / ((1 - share) T)``, and
    never in the last ``share``. So the history of an expert looks like learning: Zisman et al.,
    "Emergence of In-Context Reinforcement Learning from Noise Distillation", 2023 (AD-ε).

    Args:
        expert: Oracle.
        noise: Agent that draws the random actions.
        rng: Generator that draws which actions are random.
        num_steps: Number of steps of a history, T.
        share: Share of a history without noise, in [0, 1).
    """

    def __init__(
        self, expert: Any, noise: Any, rng: np.random.Generator, num_steps: int, share: float = 0.2
    ) -> None:
        self.expert, self.noise, self.rng = expert, noise, rng
        self.until = (1.0 - check_number("share", share, least=0.0, below=1.0)) * num_steps

    def adapt_to_tasks(self, tasks: Any) -> Any:
        """Returns the expert's knowledge of the tasks, and the number of steps, 0."""
        return self.expert.adapt_to_tasks(tasks), 0

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Returns the expert's actions, some of them replaced by random ones.

        Raises:
            ValueError: There is no state: the expert has to be told the tasks.
        """
        known, steps = self.require_state(state)
        actions, known = self.expert.predict(observation, known, episode_start, deterministic)
        random, _ = self.noise.predict(observation)
        noised = self.rng.random(len(actions)) < 1.0 - steps / self.until
        shape = (-1, *[1] * (np.ndim(actions) - 1))
        return np.where(noised.reshape(shape), random, actions), (known, steps + 1)
