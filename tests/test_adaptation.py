"""``adapt_to``: one call adapts any trained agent to one task, or to a user's environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import meta_rl
from meta_rl import Rollout, TaskEnv, TaskVectorEnv, evaluate_adaptation
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.rl2 import RL2
from meta_rl.task_env import TaskVectorEnv as Batch
from meta_rl.tasks import FiniteTasks, TaskSplit

from .agents.small_agents import bandit_model
from .robustness.every_agent import AGENTS, OFF_POLICY, Signs, learned, make_agent

POSITIVE = np.array([0.7])
NEGATIVE = np.array([-0.7])


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Any:
    meta_rl.register_task_env("tests/Signs-v0", "tests.robustness.every_agent:Signs")
    gym.registry["tests/Signs-v0"].kwargs["definition"] = Signs
    yield
    del gym.registry["tests/Signs-v0"]


class OwnSigns(gym.Env):
    """A user's environment with the spaces of ``Signs``, which knows nothing of tasks.

    It notes the actions, and whether an action followed the end of an episode without a reset.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.steps = -1
        self.actions: list[float] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert not options
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert 0 <= self.steps < self.length, "a step needs a reset first"
        self.steps += 1
        self.actions.append(float(action[0]))
        seen = np.array([self.steps], dtype=np.float32)
        return seen, float(action[0] > 0), self.steps == self.length, False, {}


def by_id(name: str) -> Any:
    """An agent that was trained on an id."""
    make, settings = AGENTS[name]
    sizes = {"meta_batch_size": 6 // settings.get("envs_per_task", 1)}
    return make(env="tests/Signs-v0", seed=0, device="cpu", **{**settings, **sizes})


def leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [leaf for part in state.values() for leaf in leaves(part)]
    if isinstance(state, tuple | list):
        return [leaf for part in state for leaf in leaves(part)]
    return [] if state is None else [state]


@pytest.mark.parametrize("name", sorted(AGENTS))
class TestEveryAgent:
    def test_a_task_of_its_family(self, name: str) -> None:
        """Returns of two episodes of three steps, and a state of one task that acts on it."""
        agent = by_id(name)
        before = learned(agent)
        state, returns = agent.adapt_to(POSITIVE, seed=1)
        assert returns.shape == (2,)
        assert np.all((returns >= 0.0) & (returns <= 3.0))
        assert all(len(leaf) == 1 for leaf in leaves(state))
        assert name == "ppo" or leaves(state)
        after = learned(agent)
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
        env = agent.open_task(POSITIVE)
        actions, _ = agent.predict(env.reset()[0][:1], state, np.ones(1, dtype=bool))
        assert actions.shape == (1, 1)

    def test_the_task_is_what_is_played(self, name: str) -> None:
        """The same actions earn 1 - x of the mirrored task; before anything has been learned."""
        agent = by_id(name)
        if hasattr(agent, "adapt_to_tasks"):
            pytest.skip("an agent that is told the task acts by it")
        positive = agent.adapt_to(POSITIVE, num_episodes=1, seed=3).returns
        negative = agent.adapt_to(NEGATIVE, num_episodes=1, seed=3).returns
        np.testing.assert_allclose(positive + negative, 3.0)

    def test_the_seed_decides(self, name: str) -> None:
        agent = by_id(name)
        rng, generator = agent.rng.bit_generator.state, agent.generator.get_state()
        first, again = (agent.adapt_to(POSITIVE, num_episodes=3, seed=5) for _ in range(2))
        np.testing.assert_array_equal(first.returns, again.returns)
        for one, other in zip(leaves(first.state), leaves(again.state), strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert agent.rng.bit_generator.state == rng
        assert torch.equal(agent.generator.get_state(), generator)

    @pytest.mark.parametrize("length", [1, 3, 5])
    def test_an_environment_of_ones_own(self, name: str, length: int) -> None:
        """Without tasks, id or horizon; the returns are what its actions earned."""
        agent = make_agent(name)
        env = OwnSigns(length)
        task = POSITIVE if hasattr(agent, "adapt_to_tasks") else None
        state, returns = agent.adapt_to(env, task, num_episodes=2, seed=0)
        each = agent.envs_per_task if agent.pools_episodes else 1
        assert len(env.actions) == 2 * each * length
        earned = (np.array(env.actions) > 0).reshape(2, each, length).sum(axis=2).mean(axis=1)
        np.testing.assert_array_equal(returns, earned)
        assert all(len(leaf) == 1 for leaf in leaves(state))

    def test_the_same_as_the_native_batch(self, name: str) -> None:
        """A single environment with the task set in it earns what the task alone earns."""
        agent = by_id(name)
        if agent.pools_episodes:
            pytest.skip("a single environment plays the episodes in turn, with other draws")
        native = agent.adapt_to(POSITIVE, num_episodes=3, seed=2)
        single = agent.adapt_to(TaskEnv(Signs), POSITIVE, num_episodes=3, seed=2)
        np.testing.assert_array_equal(native.returns, single.returns)

    def test_wrong_spaces(self, name: str) -> None:
        """Of observations and of actions: the error names both spaces."""
        agent = make_agent(name)
        task = POSITIVE if hasattr(agent, "adapt_to_tasks") else None
        env = OwnSigns()
        env.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        with pytest.raises(ValueError, match=r"observation space .*, but the environment has"):
            agent.adapt_to(env, task)
        env = OwnSigns()
        env.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        with pytest.raises(ValueError, match=r"space .*, but the environment has"):
            agent.adapt_to(env, task)

    def test_a_task_outside_its_space(self, name: str) -> None:
        agent = by_id(name)
        with pytest.raises(ValueError, match=r"Box\(-1.0, 1.0, \(1,\), float64\)"):
            agent.adapt_to(np.array([3.0]))

    def test_a_task_alone_needs_an_id(self, name: str) -> None:
        with pytest.raises(ValueError, match="not trained on an environment id"):
            make_agent(name).adapt_to(POSITIVE)

    def test_a_loaded_agent(self, name: str, tmp_path: Path) -> None:
        """The file names the id: a loaded agent adapts to a task without an environment."""
        agent = by_id(name)
        agent.save(tmp_path / "agent.zip")
        loaded = type(agent).load(tmp_path / "agent.zip")
        assert loaded.env is None
        one, other = (model.adapt_to(POSITIVE, seed=4) for model in (agent, loaded))
        np.testing.assert_array_equal(one.returns, other.returns)


class TestWhatTheAgentSees:
    def test_recurrent_agents_see_a_trial(self) -> None:
        """The trial's start once; then the previous reward, across the episodes' ends too."""
        agent = make_agent("rl2")
        seen: list[np.ndarray] = []
        predict = agent.predict

        def recorded(observation: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(np.array(observation[0]))
            return predict(observation, *args, **kwargs)

        agent.predict = recorded
        env = OwnSigns(2)
        agent.adapt_to(env, num_episodes=2, seed=0)
        rows = np.array(seen)  # observation, action, reward, done, new trial
        assert rows[:, -1].tolist() == [1.0, 0.0, 0.0, 0.0]
        assert rows[:, -2].tolist() == [0.0, 0.0, 1.0, 0.0]
        assert rows[1:, -3].tolist() == [float(action > 0) for action in env.actions[:3]]

    def test_a_second_trial_begins_anew(self) -> None:
        """In the same batch too, as ``open_task`` gives it."""
        agent = make_agent("rl2")
        env = agent.open_task(OwnSigns(2))
        first, second = (agent.adapt_to(env, num_episodes=2, seed=0) for _ in range(2))
        np.testing.assert_array_equal(first.returns, second.returns)

    def test_gradient_agents_adapt_to_all_episodes(self) -> None:
        """Those of a single environment are columns of one task, padded with masked steps."""
        agent = make_agent("maml_trpo")
        given: list[Rollout] = []
        adapt = agent.adapt

        def recorded(rollout: Rollout, state: Any = None) -> Any:
            given.append(rollout)
            return adapt(rollout, state)

        class Longer(OwnSigns):
            def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
                self.length = 5 - self.length  # 3, 2, 3, ...
                return super().reset(**kwargs)

        agent.adapt = recorded
        agent.adapt_to(Longer(2), num_episodes=1, seed=0)
        (rollout,) = given
        assert (rollout.rewards.shape, rollout.envs_per_task) == ((3, 2), 2)
        assert rollout.mask.sum(axis=0).tolist() == [3, 2]

    def test_bandits_adapt_after_every_pull(self) -> None:
        """PEARL's posterior on a bandit moves within the episode, as in an evaluation."""

        class Pulled(Signs):
            adaptation_unit = "step"

        agent = PEARL(env=TaskVectorEnv(Pulled, 6), seed=0, device="cpu", **OFF_POLICY)
        counts: list[int] = []
        adapt = agent.adapt
        agent.adapt = lambda rollout, state=None: (
            counts.append(len(rollout.rewards)) or adapt(rollout, state)
        )
        agent.adapt_to(TaskEnv(Pulled), POSITIVE, num_episodes=1, seed=0)
        assert counts == [1, 1, 1]

    def test_learning_shows(self) -> None:
        """MAML's step on the task earns more than the policy before, as evaluations measure it."""
        agent = MAMLTRPO(
            env=TaskVectorEnv(Signs, 40),
            envs_per_task=20,
            inner_lr=3.0,
            seed=0,
            device="cpu",
            policy_kwargs={"hidden_sizes": (4,)},
        )
        returns = agent.adapt_to(TaskEnv(Signs), POSITIVE, num_episodes=4, seed=0).returns
        values = evaluate_adaptation(agent, TaskVectorEnv(Signs, 160), 8, 4).values
        assert returns[-1] > returns[0] + 0.2
        assert values[:, -1].mean() > values[:, 0].mean() + 0.2


class TestRefused:
    def test_no_task_in_a_plain_environment(self) -> None:
        with pytest.raises(ValueError, match="has no task_split"):
            make_agent("rl2").adapt_to(OwnSigns(), POSITIVE)

    def test_an_agent_that_is_told_the_task(self) -> None:
        with pytest.raises(ValueError, match="is told the task"):
            make_agent("oracle_sac").adapt_to(OwnSigns())

    def test_different_tasks(self) -> None:
        env = Batch(Signs, 2)
        env.set_tasks(np.array([[0.5], [-0.5]]))
        agent = make_agent("maml_trpo")
        with pytest.raises(ValueError, match="different tasks"):
            agent.adapt_to(env)

    def test_a_batch_without_a_task(self) -> None:
        with pytest.raises(ValueError, match="which task"):
            make_agent("rl2").adapt_to(Batch(Signs, 1))

    def test_too_large_a_batch(self) -> None:
        with pytest.raises(ValueError, match="1 or 1 sub-environments, got 4"):
            make_agent("rl2").adapt_to(Batch(Signs, 4), POSITIVE)

    def test_counts(self) -> None:
        with pytest.raises(ValueError, match="num_episodes"):
            make_agent("rl2").adapt_to(OwnSigns(), num_episodes=0)

    def test_a_file_imports_nothing(self, tmp_path: Path) -> None:
        """An id that is not registered is named, and its module is not imported."""
        agent = by_id("rl2")
        agent.env_id = "evil/Evil-v0"
        agent.save(tmp_path / "agent.zip")
        with pytest.raises(ValueError, match="import the module"):
            RL2.load(tmp_path / "agent.zip").adapt_to(POSITIVE)


def test_tasks_of_dicts_and_numbers() -> None:
    """Tasks as the families have them: probabilities of arms, and a dict."""
    agent = bandit_model()
    task = np.array([1.0, 0.0], dtype=np.float32)
    returns = agent.adapt_to(task, num_episodes=2).returns
    assert returns.shape == (2,)
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (1,), np.float64)})

    class Named(Signs):
        def __init__(self) -> None:
            super().__init__()
            tasks = FiniteTasks(space, {"a": np.array([[0.5], [-0.5]])})
            self.task_split = TaskSplit(tasks, tasks, tasks)

        def reward_terms(self, state: Any, action: Any, *args: Any) -> dict[str, Any]:
            right = (action.reshape(-1) > 0) == (args[-1]["a"][:, 0] > 0)
            return {"reward_sign": right.astype(np.float64)}

    agent = make_agent("rl2", Named)
    returns = agent.adapt_to(TaskEnv(Named), {"a": np.array([0.5])}, seed=0).returns
    assert returns.shape == (2,)
