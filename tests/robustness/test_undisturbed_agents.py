"""Adapting and evaluating an agent change nothing; the seed decides everything."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

import meta_rl
from meta_rl import MetaAlgorithm, TaskVectorEnv
from meta_rl.algorithms import OWN, find_algorithm
from meta_rl.evaluation.randomness import LearnerRandomness
from meta_rl.few_shot import PLDA, LogisticRegressionLearner, NearestMean
from meta_rl.rollout import collect_episodes

from .every_agent import AGENTS, Signs, learned, make_agent
from .every_learner import CASES

STEPS = 200


@pytest.fixture(params=AGENTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def same(one: MetaAlgorithm, other: MetaAlgorithm) -> bool:
    """Whether two agents are equal bit for bit, their generators and spaces too."""
    pairs = zip(learned(one), learned(other), strict=True)
    return (
        all(torch.equal(a, b) for a, b in pairs)
        and one.num_timesteps == other.num_timesteps
        and one.rng.bit_generator.state == other.rng.bit_generator.state
        and torch.equal(one.generator.get_state(), other.generator.get_state())
    )


class Disturb(BaseCallback):
    """Evaluates, predicts and adapts between iterations, on environments of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        agent: Any = self.model
        meta_rl.evaluate_adaptation(agent, TaskVectorEnv(Signs, 4), 4, envs_per_task=1)
        self._adapt(agent)
        self.calls += 1

    def _adapt(self, agent: Any) -> None:
        """Acting draws from the agent's generator, which is put back here; adapting does not."""
        env = agent.wrap_env(TaskVectorEnv(Signs, 4))
        observations, _ = env.reset(seed=0)
        state = None
        if hasattr(agent, "adapt_to_tasks"):
            state = agent.adapt_to_tasks(env.unwrapped.tasks)
        starts = np.ones(4, dtype=bool)

        def act(observations: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            nonlocal state
            actions, state = agent.predict(observations, state, starts)
            starts[:] = False
            return actions, {}

        with LearnerRandomness(agent).kept():
            rollout = collect_episodes(env, act, observations)
        for _ in range(2):
            state = agent.adapt(rollout, state)


def test_adapting_and_evaluating_in_a_training_change_nothing(name: str) -> None:
    disturb = Disturb()
    undisturbed = make_agent(name).learn(STEPS)
    before = torch.get_rng_state()
    disturbed = make_agent(name).learn(STEPS, disturb)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(undisturbed, disturbed)
    assert disturb.calls == disturbed._num_iterations >= 2


class Touch(BaseCallback):
    """Evaluates once: on the environment of the training, or on another one."""

    def __init__(self, where: str, by: str) -> None:
        super().__init__()
        self.where, self.by, self.touched = where, by, False

    def _touch(self, where: str) -> None:
        if where != self.where or self.touched or self.n_calls < 2 * (where == "step"):
            return
        self.touched = True
        env: Any = self.model.get_env()
        if self.by == "evaluate_policy":
            with LearnerRandomness(self.model).kept():  # acting draws from the agent's generator
                evaluate_policy(self.model, env, 2, deterministic=True, warn=False)
        elif self.by == "evaluate_adaptation":
            meta_rl.evaluate_adaptation(self.model, env, 2)
        else:
            meta_rl.evaluate_adaptation(self.model, TaskVectorEnv(Signs, 4), 4, envs_per_task=1)

    def _on_step(self) -> bool:
        self._touch("step")
        return True

    def _on_rollout_start(self) -> None:
        self._touch("start")

    def _on_rollout_end(self) -> None:
        self._touch("end")


def test_evaluating_within_a_training(name: str) -> None:
    """It changes nothing; but on the training's own environment, it is refused in a rollout."""
    undisturbed = make_agent(name).learn(STEPS)
    for where, by in itertools.product(
        ["start", "step", "end"], ["evaluate_adaptation", "evaluate_policy", "elsewhere"]
    ):
        touch, agent = Touch(where, by), make_agent(name)
        if where == "step" and by != "elsewhere":
            with pytest.raises(ValueError, match="in the middle of a rollout"):
                agent.learn(STEPS, touch)
        else:
            assert same(undisturbed, agent.learn(STEPS, touch))
        assert touch.touched


def test_the_global_generator_does_not_matter(name: str) -> None:
    class Draw(BaseCallback):
        def _on_step(self) -> bool:
            torch.rand(3)
            np.random.rand()  # noqa: NPY002
            return True

    agents = []
    with torch.random.fork_rng(devices=[]):
        for number in (1, 2):
            torch.manual_seed(number)
            agents.append(make_agent(name).learn(STEPS, Draw() if number == 2 else None))
    assert same(*agents)


def test_every_algorithm_is_among_those_that_are_tested() -> None:
    tested = {AGENTS[name][0] for name in AGENTS}
    tested |= {type(case.make()) for case in CASES.values()}
    tested |= {NearestMean, LogisticRegressionLearner, PLDA}  # which have no iterations
    own = {find_algorithm(name) for names in OWN.values() for name in names}
    assert own == tested
