"""The values of a task depend on the learner, the task and the seed alone.

To the last bit they are the same for other numbers of tasks, for other sizes of the batch, for a
batch of one's own, and for any number of threads of the physics: for bandits, tabular MDPs,
navigation and a robot, and for recurrent, gradient-based, latent and classical learners and models
of Stable-Baselines3. All networks are untrained: nothing here depends on what they have learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC

import meta_rl
from meta_rl import evaluate_adaptation, make_task_vec, sb3_env
from meta_rl.agents.bandits import bandit_learners
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.oracle import TaskConditionedOracle
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.rl2 import RL2
from meta_rl.agents.tabular import mdp_learners
from meta_rl.vector.task_batch import task_batch

BANDIT, MDP, GRID, POINT = "BernoulliBandit", "TabularMDP", "GridNavigation", "PointNavigation"
ROBOT, WALKER = "HalfCheetahVel", "Walker2dVel"  # a walker falls: its episodes differ in length
NUM = 6
"""Tasks that are compared."""


def classical(name: str) -> Callable[[str], Any]:
    return lambda env: bandit_learners(10, 10, np.random.default_rng(3))[name]


def tabular(name: str) -> Callable[[str], Any]:
    return lambda env: mdp_learners(10, 5, 10, np.random.default_rng(3))[name]


def rl2(env: str) -> Any:
    return RL2(env=env, meta_batch_size=4, num_minibatches=2, seed=0, device="cpu")


def maml(env: str) -> Any:
    return MAMLTRPO(env=env, meta_batch_size=2, envs_per_task=3, seed=0, device="cpu")


def pearl(env: str) -> Any:
    return PEARL(env=env, seed=0, device="cpu", policy_kwargs={"hidden_sizes": (32, 32)})


def sb3(algorithm: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Callable[[str], Any]:
    return lambda env: algorithm(policy, sb3_env(env, num_envs=4), seed=0, device="cpu", **kwargs)


CASES: dict[str, tuple[Callable[[str], Any], str, dict[str, Any]]] = {
    "RL2 on bandits": (rl2, BANDIT, {}),
    "RL2 on MDPs": (rl2, MDP, {"num_episodes": 2}),
    "RL2 on a grid": (rl2, GRID, {}),
    "RL2 on a robot": (rl2, ROBOT, {"horizon": 20}),
    "MAML-TRPO on bandits": (maml, BANDIT, {"num_episodes": 2}),
    "MAML-TRPO on a plane": (maml, POINT, {"num_episodes": 2, "horizon": 60}),
    "MAML-TRPO on a robot": (maml, WALKER, {"horizon": 60}),
    "PEARL on a robot": (pearl, WALKER, {"horizon": 60, "num_episodes": 3}),
    "Thompson sampling": (classical("thompson"), BANDIT, {}),
    "UCB1": (classical("ucb1"), BANDIT, {}),
    "posterior sampling of MDPs": (tabular("PSRL"), MDP, {"num_episodes": 2}),
    "PPO": (sb3(PPO), MDP, {"num_episodes": 2}),
    "SAC": (sb3(SAC), WALKER, {"horizon": 60}),
    "recurrent PPO": (sb3(RecurrentPPO, "MlpLstmPolicy", n_steps=8), WALKER, {"horizon": 60}),
}


@pytest.mark.parametrize("name", CASES)
def test_values_of_a_task_depend_on_nothing_else(name: str) -> None:
    make, env, kwargs = CASES[name]
    learner = make(env)
    each = getattr(learner, "envs_per_task", 1)
    options = {key: kwargs[key] for key in ("num_episodes",) if key in kwargs}
    family = {key: value for key, value in kwargs.items() if key not in options}
    expected = evaluate_adaptation(learner, env, NUM, seed=3, **kwargs).values
    assert np.unique(expected[:, 0]).size > 1  # tasks differ, so that a mix-up would be seen

    others = {
        "few sub-environments at a time": {"env": env, "max_envs": each, **family},
        "more tasks": {"env": env, "num_tasks": NUM + 4, **family},
        "fewer tasks": {"env": env, "num_tasks": NUM - 3, **family},
        "a batch of one's own": {"env": make_task_vec(env, 4, each, **family)},
        "a large batch of one's own": {"env": make_task_vec(env, 70, each, **family)},
    }
    for what, given in others.items():
        arguments = {"num_tasks": NUM, **given}
        values = evaluate_adaptation(learner, seed=3, **options, **arguments).values
        shared = min(NUM, len(values))
        np.testing.assert_array_equal(values[:shared], expected[:shared], err_msg=what)


@pytest.mark.parametrize("nthread", [1, 2, 3])
def test_values_do_not_depend_on_the_threads_of_the_physics(nthread: int) -> None:
    learner = rl2(WALKER)
    expected = evaluate_adaptation(learner, WALKER, NUM, seed=3, horizon=60).values
    env = make_task_vec(WALKER, NUM, horizon=60, nthread=nthread)
    np.testing.assert_array_equal(evaluate_adaptation(learner, env, NUM, seed=3).values, expected)


@pytest.mark.parametrize("name", [*CASES, "DQN", "A2C", "told the task"])
def test_equal_seeds_give_equal_values_and_generators_stay_as_they_were(name: str) -> None:
    """Whatever the global generators are; another seed gives other values."""
    make, env, kwargs = {
        **CASES,
        "DQN": (sb3(DQN, exploration_initial_eps=0.5), BANDIT, {}),
        "A2C": (sb3(A2C), BANDIT, {}),
        "told the task": (
            lambda env: TaskConditionedOracle(
                PPO("MlpPolicy", sb3_env(env, 4, append_task=True), seed=0, device="cpu"),
                task_batch(make_task_vec(env, 1)).task_split.space,
            ),
            WALKER,
            {"horizon": 60},
        ),
    }[name]
    learner = make(env)
    states = []
    values = []
    for seed in (5, 5, 6):
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002 (what must not matter)
        states.append([torch.get_rng_state(), np.random.get_state()[1].copy()])  # noqa: NPY002
        values.append(evaluate_adaptation(learner, env, NUM, seed=seed, **kwargs).values)
        assert torch.equal(torch.get_rng_state(), states[-1][0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[-1][1])  # noqa: NPY002
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_layers_of_recurrent_models_are_no_tasks() -> None:
    """Two layers and two tasks: the axis of the tasks is the second."""
    model = sb3(RecurrentPPO, "MlpLstmPolicy", n_steps=8, policy_kwargs={"n_lstm_layers": 2})(
        WALKER
    )
    both = evaluate_adaptation(model, WALKER, 2, 2, seed=0, horizon=60).values
    alone = evaluate_adaptation(model, WALKER, 1, 2, seed=0, horizon=60).values
    np.testing.assert_array_equal(both[:1], alone)


def test_an_evaluation_in_the_middle_of_training_changes_nothing() -> None:
    def trained(evaluated: bool) -> dict[str, torch.Tensor]:
        model = rl2(BANDIT)
        model.learn(100)
        if evaluated:
            meta_rl.evaluate_adaptation(model, BANDIT, 5)
        return model.learn(100, reset_num_timesteps=False).policy.state_dict()

    expected, parameters = trained(False), trained(True)
    for key, value in expected.items():
        assert torch.equal(parameters[key], value), key
