"""What a score is compared with: random actions, and the best known policy of a family."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from meta_rl.agents.bandits import BayesOptimal, BestArm, GittinsIndex
from meta_rl.agents.gittins import MAX_HORIZON, can_be_planned
from meta_rl.agents.grid_search import BayesOptimalSearch
from meta_rl.agents.navigation import navigation_oracles
from meta_rl.agents.tabular import ValueIteration
from meta_rl.cli.run_folder import RunConfig
from meta_rl.cli.training import open_tasks
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.few_shot.data.datasets import DATASETS
from meta_rl.make import NAMESPACE, make_task_vec
from meta_rl.vector.task_batch import task_batch

ENVS_PER_TASK = 8
"""Number of sub-environments of each task, which make the scores less noisy."""


class Best(NamedTuple):
    """The best known policy of a family.

    Attributes:
        learner: The policy.
        about: Its name.
        exact: Whether no learner can earn more on average: it is Bayes-optimal, or told the task
            and optimal.
    """

    learner: Any
    about: str
    exact: bool


class RandomActions:
    """Agent that takes uniformly random actions: the lower bound.

    Args:
        action_space: Action space of one environment.
        rng: Generator that draws the actions.
    """

    def __init__(self, action_space: spaces.Space, rng: np.random.Generator) -> None:
        self.single_action_space = action_space
        self.rng = rng

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Draws an action for each environment."""
        space = batch_space(self.single_action_space, len(episode_start))
        space.seed(int(self.rng.integers(2**31)))
        return np.asarray(space.sample()), state


def can_be_compared(config: RunConfig) -> bool:
    """Returns whether there is something to compare with: few-shot tasks need a number of ways."""
    return config.env_id not in DATASETS or "ways" in config.env_kwargs


def reference_results(
    config: RunConfig, num_tasks: int | None, num_episodes: int | None, seed: int
) -> dict[str, Any]:
    """Evaluates random actions and the best known policy on the test tasks.

    Args:
        config: Configuration of a training on these tasks.
        num_tasks: Number of tasks (default: all tasks of a list).
        num_episodes: Number of episodes on each task (default: the environment's).
        seed: Seed of the evaluation.

    Returns:
        Plain data: ``random`` and ``best``, each a saved evaluation, a number (shares of right
        answers), or ``None`` where it is not known; ``about`` the best, and whether it is
        ``exact``.
    """
    if config.env_id in DATASETS:
        chance = 1 / config.env_kwargs["ways"]
        return {"random": chance, "best": 1.0, "about": "every answer right", "exact": True}
    tasks = open_tasks(config)
    env = make_task_vec(tasks.source, 1, 1, **tasks.arguments)
    try:
        rng = np.random.default_rng(seed)
        random = RandomActions(env.single_action_space, rng)
        name = tasks.source.removeprefix(NAMESPACE).removesuffix("-v0")
        best = _best(name, env, rng, default=not tasks.arguments)
    finally:
        env.close()

    def earned(learner: Any) -> Any:
        result = evaluate_adaptation(
            learner,
            tasks.source,
            num_tasks,
            num_episodes,
            seed=seed,
            envs_per_task=ENVS_PER_TASK,
            **tasks.arguments,
        )
        return json.loads(result.to_json())

    return {
        "random": earned(random),
        "best": earned(best.learner) if best else None,
        "about": best.about if best else "",
        "exact": best.exact if best else False,
    }


def _best(name: str, env: Any, rng: np.random.Generator, *, default: bool) -> Best | None:
    """The best known policy of a family.

    Args:
        name: Name of the family.
        env: Batch of its environments.
        rng: Generator that breaks ties.
        default: Whether the environment has its default arguments, for which oracles are made.

    Returns:
        ``None`` where none is known.
    """
    if name == "BernoulliBandit":
        return _best_of_bandits(env, rng)
    if name == "TabularMDP":
        return _best_of_mdps(env)
    if not default:
        return None
    if name == "GridNavigation":
        return Best(BayesOptimalSearch(), "Bayes-optimal", True)
    oracle = navigation_oracles().get(name)
    return None if oracle is None else Best(oracle, "oracle, which is told the task", True)


def _best_of_bandits(env: Any, rng: np.random.Generator) -> Best:
    arms, horizon = int(env.single_action_space.n), int(task_batch(env).horizon)
    if can_be_planned(arms, horizon):
        return Best(BayesOptimal(arms, horizon, rng=rng), "Bayes-optimal", True)
    if horizon <= MAX_HORIZON:
        return Best(GittinsIndex(arms, horizon, rng=rng), "Gittins index, near the optimum", False)
    return Best(BestArm(arms), "the best arm, which is told the task", True)


def _best_of_mdps(env: Any) -> Best:
    states, actions = int(env.single_observation_space.n), int(env.single_action_space.n)
    learner = ValueIteration(states, actions, int(task_batch(env).horizon))
    return Best(learner, "optimal policy, which is told the process", True)
