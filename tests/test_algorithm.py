"""What all agents share, shown on RL²: reproducible and at home in Stable-Baselines3."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from numpy.random import mtrand
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from meta_rl import TaskEnv, TaskVectorEnv, evaluate_adaptation, make_task_vec, sb3_env
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.agents.rl2 import RL2
from meta_rl.memory import MEMORY_CORES

from .agents.probe_families import (
    ActionReward,
    ObservationReward,
    OppositeActionReward,
    RememberedEpisode,
    ThreeActions,
)
from .agents.small_agents import ITERATION, TRIAL, bandit_model, make_model, parameters, same


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def global_states() -> tuple[Any, ...]:
    numpy_state = mtrand.get_state()
    return (
        random.getstate(),
        numpy_state[1].tolist(),
        numpy_state[2],
        torch.get_rng_state().tolist(),
    )


class TestReproducible:
    def test_same_seed_same_result(self) -> None:
        """Two trainings agree bit for bit, though the global generators were seeded differently."""
        results = []
        for global_seed in (1, 2):
            random.seed(global_seed)
            mtrand.seed(global_seed)
            torch.manual_seed(global_seed)
            model = make_model().learn(4 * ITERATION)
            values = evaluate_adaptation(model, TaskVectorEnv(RememberedEpisode, 8)).values
            results.append((parameters(model), model.rng.bit_generator.state, values))
        assert same(results[0][0], results[1][0])
        assert results[0][1] == results[1][1]
        np.testing.assert_array_equal(results[0][2], results[1][2])

    def test_different_seeds_differ(self) -> None:
        """First weights and results; without a seed, every agent is another one."""
        first, second = make_model(seed=0), make_model(seed=1)
        assert not same(parameters(first), parameters(second))
        assert not same(parameters(make_model(seed=None)), parameters(make_model(seed=None)))
        assert first.rng.random() != second.rng.random()

    def test_training_changes_the_parameters(self) -> None:
        """All of them: otherwise the comparisons here would compare nothing."""
        model = make_model()
        before = parameters(model)
        model.learn(2 * ITERATION)
        after = parameters(model)
        for name in before:
            assert not torch.equal(before[name], after[name]), name

    def test_global_generators_are_left_alone(self, tmp_path: Path) -> None:
        """Neither training, evaluating, predicting nor saving draws from or seeds them."""
        model = make_model()
        before = global_states()
        model.learn(2 * ITERATION)
        evaluate_adaptation(model, TaskVectorEnv(RememberedEpisode, 8))
        model.predict(model.env.reset())
        model.save(tmp_path / "model.zip")
        assert global_states() == before

    @pytest.mark.parametrize("core", sorted(MEMORY_CORES))
    def test_making_an_agent_leaves_the_global_generator_alone(
        self, core: str, tmp_path: Path
    ) -> None:
        """Making and loading advance it by nothing, and no weight depends on it."""
        torch_state = torch.get_rng_state()
        kwargs = {"core": core, "hidden_size": 6, "embedding": [5]}
        made = []
        try:
            for global_seed in (1, 2):
                torch.manual_seed(global_seed)
                before = global_states()
                model = make_model(policy_kwargs=kwargs)
                model.save(tmp_path / "model")
                RL2.load(tmp_path / "model")
                assert global_states() == before
                made.append(parameters(model))
        finally:
            torch.set_rng_state(torch_state)
        assert same(made[0], made[1])
        other = parameters(make_model(policy_kwargs=kwargs, seed=1))
        for name, weights in other.items():  # all weights were drawn, by our own generator
            if weights.dim() > 1:
                assert not torch.equal(weights, made[0][name]), name

    def test_evaluation_in_the_middle_changes_nothing(self) -> None:
        """Not between two calls of learn, not within one, not on the agent's own environment."""
        undisturbed = make_model().learn(4 * ITERATION)

        class Evaluate(BaseCallback):
            count = 0

            def _on_rollout_end(self) -> None:
                evaluate_adaptation(self.model, TaskVectorEnv(RememberedEpisode, 8), seed=3)
                self.count += 1

            def _on_step(self) -> bool:
                return True

        callback = Evaluate()
        watched = make_model().learn(4 * ITERATION, callback)
        assert callback.count == 4
        assert same(parameters(watched), parameters(undisturbed))
        halves = make_model().learn(2 * ITERATION)
        evaluate_adaptation(halves, halves.task_env, seed=3)
        halves.learn(2 * ITERATION, reset_num_timesteps=False)
        assert same(parameters(halves), parameters(undisturbed))
        assert halves.num_timesteps == undisturbed.num_timesteps == 4 * ITERATION

    def test_each_iteration_draws_new_tasks(self) -> None:
        """From the training tasks; afterwards the environment chooses for itself again."""
        model = make_model(ObservationReward)
        seen = [model.begin_tasks()[:, 0].tolist() for _ in range(3)]
        assert len({task for tasks in seen for task in tasks}) == 12
        model.learn(4)
        env = model.task_env.unwrapped
        first = env.tasks
        env.reset(seed=5)
        assert (env.tasks != first).all()  # no task is set any more


class TestEnvironments:
    @pytest.mark.parametrize(
        "make_env",
        [
            lambda: TaskVectorEnv(ActionReward, 4),
            lambda: TaskVectorAdapter([lambda: TaskEnv(ActionReward)] * 4),
            lambda: RL2.wrap_env(TaskVectorEnv(ActionReward, 4)),
            lambda: make_task_vec("BernoulliBandit", 4, num_arms=2, horizon=2),
            lambda: sb3_env("BernoulliBandit", 4, num_arms=2, horizon=2),
            lambda: sb3_env("BernoulliBandit", 4, num_arms=2, horizon=2, previous_step=True),
        ],
        ids=["native", "adapter", "wrapped", "made", "view", "view with the previous step"],
    )
    def test_whatever_holds_tasks(self, make_env: Callable[[], Any]) -> None:
        """All become the same: a batch with the previous step, behind an SB3 view."""
        model = make_model(make_env(), num_epochs=1)
        assert model.meta_batch_size == model.n_envs == 4
        model.learn(4 * 4)
        assert model.env.observation_space == model.observation_space
        assert model.observation_space.shape[0] in (6, 1 + 2 + 3)

    def test_a_single_environment(self) -> None:
        """Becomes a batch of one."""
        model = make_model(TaskEnv(RememberedEpisode), num_minibatches=1).learn(3 * TRIAL)
        assert model.num_timesteps == 3 * TRIAL
        assert all(part.isfinite().all() for part in parameters(model).values())

    @pytest.mark.parametrize(
        ("make_env", "message"),
        [
            (lambda: gym.make("CartPole-v1"), "task_split"),
            (lambda: gym.make_vec("CartPole-v1", 2), "has no tasks"),
            (lambda: DummyVecEnv([lambda: gym.make("CartPole-v1")]), "needs tasks"),
            (lambda: TaskVectorEnv(ActionReward, 4, autoreset_mode="NextStep"), "SAME_STEP"),
            (lambda: 3, "expected an environment id"),
            (lambda: [TaskEnv(ActionReward)], "expected an environment id"),
            (lambda: "BernouliBandit", "BernoulliBandit"),
        ],
        ids=["single", "vector", "vec", "next step", "number", "list", "misspelt"],
    )
    def test_unsupported(self, make_env: Callable[[], Any], message: str) -> None:
        """Everything without tasks, and batches that do not reset in the same step."""
        with pytest.raises((ValueError, TypeError), match=message):
            make_model(make_env())

    def test_unsupported_actions(self) -> None:
        """Named, with the supported ones."""

        class Switches(ActionReward):
            def __init__(self) -> None:
                super().__init__()
                self.action_space = spaces.MultiBinary(2)

        with pytest.raises(
            ValueError, match=r"RL2 takes actions in Discrete, Box, not MultiBinary"
        ):
            make_model(Switches)

    def test_learning_without_an_environment(self, tmp_path: Path) -> None:
        """Is refused with what to do; after set_env it goes on."""
        make_model().save(tmp_path / "model")
        loaded = RL2.load(tmp_path / "model")
        with pytest.raises(ValueError, match=r"RL2 has no environment: call set_env\(env\)"):
            loaded.learn(ITERATION)
        before = parameters(loaded)
        loaded.set_env(TaskVectorEnv(RememberedEpisode, 4))
        loaded.learn(ITERATION)
        assert not same(parameters(loaded), before)

    @pytest.mark.parametrize("env", [None, "left out"])
    def test_making_without_an_environment(self, env: str | None) -> None:
        """Only loading does without one."""
        kwargs = {"env": None} if env is None else {}
        with pytest.raises(ValueError, match="RL2 needs an environment; only load does without"):
            RL2(**kwargs)

    @pytest.mark.parametrize("num_envs", [2, 8])
    @pytest.mark.parametrize("loaded", [False, True])
    def test_set_env_to_another_number(self, num_envs: int, loaded: bool, tmp_path: Path) -> None:
        """As many tasks at a time as there are sub-environments from then on."""
        model = make_model(ObservationReward).learn(8)
        if loaded:
            model.save(tmp_path / "model")
            model = RL2.load(tmp_path / "model")
        model.set_env(TaskVectorEnv(ObservationReward, num_envs))
        assert model.n_envs == model.meta_batch_size == model.task_env.num_envs == num_envs
        assert len(np.unique(model.begin_tasks()[:, 0])) == num_envs
        assert model.learn(3 * num_envs).num_timesteps == 3 * num_envs
        model.save(tmp_path / "after")
        assert RL2.load(tmp_path / "after").meta_batch_size == num_envs

    def test_set_env_by_id(self) -> None:
        """Makes the environment with the arguments and the size that it had."""
        model = bandit_model()
        before = model.task_env
        model.set_env("BernoulliBandit")
        assert model.task_env is not before
        assert model.task_env.num_envs == 4
        assert model.task_env.unwrapped.horizon == 3

    @pytest.mark.parametrize(
        ("make_env", "message"),
        [
            (lambda: TaskVectorEnv(RememberedEpisode, 1), "num_minibatches=2, but only 1 trials"),
            (lambda: TaskVectorEnv(ThreeActions, 8), "spaces do not match"),
            (lambda: gym.make_vec("CartPole-v1", 2), "has no tasks"),
        ],
        ids=["fewer trials than minibatches", "spaces", "no tasks"],
    )
    def test_refused_set_env(self, make_env: Callable[[], Any], message: str) -> None:
        """The agent keeps its environment, and trains on as if undisturbed."""
        model, undisturbed = make_model(), make_model()
        env = model.env
        with pytest.raises(ValueError, match=message):
            model.set_env(make_env())
        assert model.env is env
        assert model.n_envs == model.meta_batch_size == 4
        assert same(parameters(model.learn(ITERATION)), parameters(undisturbed.learn(ITERATION)))

    def test_envs_per_task_divide_the_sub_environments(self, tmp_path: Path) -> None:
        """In set_env, and when loaded."""
        model = make_model(ActionReward)
        model.envs_per_task = 2
        with pytest.raises(ValueError, match="3 sub-environments are no whole number of tasks"):
            model.set_env(TaskVectorEnv(ActionReward, 3))
        model.set_env(TaskVectorEnv(ActionReward, 6))
        assert (model.n_envs, model.meta_batch_size) == (6, 3)
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="3 sub-environments are no whole number of tasks"):
            RL2.load(tmp_path / "model", env=TaskVectorEnv(ActionReward, 3))

    def test_set_env_carries_an_agent_over(self, tmp_path: Path) -> None:
        """To another family with the same spaces; not to other spaces."""
        make_model(ActionReward).save(tmp_path / "model")
        loaded = RL2.load(tmp_path / "model")
        loaded.set_env(TaskVectorEnv(OppositeActionReward, 4))
        loaded.learn(4)
        loaded.save(tmp_path / "carried")
        RL2.load(tmp_path / "carried", env=TaskVectorEnv(OppositeActionReward, 4))
        with pytest.raises(ValueError, match="spaces do not match"):
            loaded.set_env(TaskVectorEnv(ThreeActions, 4))

    @pytest.mark.parametrize("bad", [-1, 1.5, True])
    def test_bad_total_timesteps(self, bad: Any) -> None:
        """Whole numbers from 0 on."""
        with pytest.raises(ValueError, match="total_timesteps"):
            make_model().learn(bad)

    def test_no_timesteps(self) -> None:
        """Nothing is done."""
        model = make_model()
        before = parameters(model)
        model.learn(0)
        assert model.num_timesteps == 0
        assert same(parameters(model), before)

    def test_iterations_are_whole(self) -> None:
        """The steps asked for are a lower bound."""
        assert make_model().learn(ITERATION + 1).num_timesteps == 2 * ITERATION


class StopAfter(BaseCallback):
    """Stop after so many steps of all sub-environments."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.trained = 0

    def _on_rollout_start(self) -> None:
        self.trained = self.model._n_updates

    def _on_step(self) -> bool:
        return self.n_calls < self.calls


class TestStableBaselines3:
    def test_evaluation_callback(self, tmp_path: Path) -> None:
        """EvalCallback evaluates beside the training, logs, and keeps the best agent, loadable."""
        env = sb3_env("BernoulliBandit", 4, num_arms=2, horizon=3, previous_step=True)
        callback = EvalCallback(
            env,
            n_eval_episodes=8,
            eval_freq=6,
            best_model_save_path=str(tmp_path),
            log_path=str(tmp_path),
            deterministic=False,
            verbose=0,
        )
        bandit_model().learn(4 * 12, callback)
        results = np.load(tmp_path / "evaluations.npz")
        assert results["timesteps"].tolist() == [24, 48]  # 6 and 12 steps of 4 sub-environments
        assert results["results"].shape == (2, 8)
        assert (results["ep_lengths"] == 3).all()
        RL2.load(tmp_path / "best_model.zip")

    def test_checkpoint_callback(self, tmp_path: Path) -> None:
        """CheckpointCallback writes what load takes."""
        model = make_model().learn(3 * ITERATION, CheckpointCallback(TRIAL, str(tmp_path), "c"))
        names = sorted(entry.name for entry in tmp_path.iterdir())
        assert names == ["c_16_steps.zip", "c_32_steps.zip", "c_48_steps.zip"]
        loaded = RL2.load(tmp_path / "c_48_steps.zip")
        assert loaded.num_timesteps == model.num_timesteps == 48

    @pytest.mark.parametrize("calls", [1, TRIAL + 2, 2 * TRIAL])
    def test_a_callback_stops_the_training(self, calls: int) -> None:
        """At once, also within a trial, whose data are not learned from."""
        callback = StopAfter(calls)
        model = make_model().learn(100 * ITERATION, callback)
        assert callback.n_calls == calls
        assert model.num_timesteps == 4 * calls
        assert model._n_updates == 2 * ((calls - 1) // TRIAL)  # of whole trials that went before

    def test_evaluate_policy(self) -> None:
        """SB3's own evaluation runs the agent with its memory."""
        env = sb3_env("BernoulliBandit", 4, num_arms=2, horizon=3, previous_step=True)
        returns, lengths = evaluate_policy(
            bandit_model(), env, n_eval_episodes=10, return_episode_rewards=True
        )
        assert lengths == [3] * 10
        assert all(0 <= total <= 3 for total in returns)

    @pytest.mark.filterwarnings("ignore:rich is experimental")
    def test_progress_bar(self) -> None:
        """Changes nothing of the result."""
        with_bar = make_model().learn(2 * ITERATION, progress_bar=True)
        assert same(parameters(with_bar), parameters(make_model().learn(2 * ITERATION)))

    def test_tensorboard(self, tmp_path: Path) -> None:
        """Events of the run, under the algorithm's name."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        make_model(tensorboard_log=str(tmp_path)).learn(3 * ITERATION)
        events = EventAccumulator(str(tmp_path / "RL2_1")).Reload()
        logged = events.Scalars("rollout/trial_return")
        assert [event.step for event in logged] == [ITERATION, 2 * ITERATION, 3 * ITERATION]
        names = {"train/policy_loss", "train/value_loss", "train/entropy", "train/approx_kl"}
        assert names <= set(events.Tags()["scalars"])

    @pytest.mark.parametrize("verbose", [0, 1])
    def test_no_folder_is_left_behind(
        self,
        verbose: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Without a logger and a folder of events nothing is written; a table where asked for."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        model = make_model(verbose=verbose).learn(ITERATION)
        model.learn(ITERATION, reset_num_timesteps=False)
        assert list(tmp_path.iterdir()) == []
        assert capsys.readouterr().out.count("trial_return") == 2 * verbose
        model.tensorboard_log = str(tmp_path)  # no logger was set by the user: this one counts
        model.learn(ITERATION)
        assert [entry.name for entry in tmp_path.iterdir()] == ["RL2_1"]

    def test_a_logger_of_ones_own(self) -> None:
        """Is used and kept."""
        model = make_model()
        logger = Logger(None, [])
        model.set_logger(logger)
        model.learn(ITERATION)
        assert model.logger is logger

    def test_log_interval(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A table every so many iterations, none with ``None``."""
        for interval, tables in ((1, 4), (2, 2), (None, 0)):
            make_model(verbose=1).learn(4 * ITERATION, log_interval=interval)
            assert capsys.readouterr().out.count("total_timesteps") == tables

    def test_our_environments_train_its_agents(self) -> None:
        """An agent of SB3 learns on the view, and our evaluator takes it as it is."""
        torch_state = torch.get_rng_state()
        env = sb3_env("BernoulliBandit", 4, num_arms=2, horizon=4)
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu").learn(64)
        torch.set_rng_state(torch_state)
        result = evaluate_adaptation(model, "BernoulliBandit", 6, num_arms=2, horizon=4)
        assert result.values.shape == (6, 4)
        assert result.learner == "PPO"
        assert stable_baselines3.__version__ >= "2"
