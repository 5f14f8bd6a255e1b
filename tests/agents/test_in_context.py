"""DPT and algorithm distillation: the network, the labels, data sets, and the optimum of probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meta_rl import TaskVectorEnv, evaluate_adaptation, make_task_vec
from meta_rl.agents.algorithm_distillation import AlgorithmDistillation
from meta_rl.agents.dpt import DPT
from meta_rl.agents.experts import EXPERTS, LEARNERS, NoisedExpert, RandomActor, find_expert
from meta_rl.agents.in_context import InContextAgent
from meta_rl.agents.navigation import GridOracle
from meta_rl.agents.oracle import Oracle
from meta_rl.agents.room_search import GoalSampling, KeyToDoorSearch, NearestSearch, RoomSearch
from meta_rl.agents.sequence_policy import digit_codes
from meta_rl.evaluation import trials as trials_of_evaluation
from meta_rl.histories import History, collect_histories, play_history

from ..learning import Learned
from .probe_families import RememberedEpisode, RememberedPull

BANDIT: dict[str, Any] = {"num_arms": 3, "horizon": 6}
CLASSES = [DPT, AlgorithmDistillation]


class TaskOracle(Oracle):
    """Takes the action that is the task, as the probes pay it."""

    def adapt_to_tasks(self, tasks: Any) -> np.ndarray:
        return np.asarray(tasks)

    def act(self, observation: Any, state: np.ndarray, deterministic: bool) -> np.ndarray:
        return state


@pytest.fixture(autouse=True)
def _probes_have_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in (RememberedPull, RememberedEpisode):
        monkeypatch.setitem(EXPERTS, family.__name__, lambda family, rng: TaskOracle())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(make: Any = DPT, env: Any = "BernoulliBandit", **changes: Any) -> Any:
    settings: dict[str, Any] = {"meta_batch_size": 4, "num_minibatches": 2, "seed": 0}
    settings |= {"policy_kwargs": {"hidden_size": 8}, "device": "cpu"}
    if env == "BernoulliBandit":
        settings["env_kwargs"] = BANDIT
        settings |= {} if make is DPT else {"source_name": "ucb1"}
    return make(env=env, **{**settings, **changes})


def trials(model: InContextAgent, num_steps: int, num: int) -> torch.Tensor:
    """Random trials with a mark of a new trial at the first step."""
    size = model.observation_space.shape[0]
    obs = torch.rand(num_steps, num, size, generator=torch.Generator().manual_seed(1))
    obs[..., -1] = 0.0
    obs[0, :, -1] = 1.0
    return obs


class TestNetwork:
    @pytest.mark.parametrize("core", ["attention", "gru"])
    @torch.no_grad()
    def test_step_by_step_equals_the_whole_trial(self, core: str) -> None:
        model = make_model(policy_kwargs={"hidden_size": 8, "core": core})
        obs, policy = trials(model, 6, 3), model.policy
        whole = policy.features(obs, policy.initial_state(3))
        state = policy.initial_state(3)
        for t in range(6):
            hidden, state = policy.step(obs[t], state)
            torch.testing.assert_close(hidden, whole[t], atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_a_new_trial_forgets_the_one_before(self) -> None:
        """Where it is marked, and nowhere else."""
        model = make_model()
        obs, policy = trials(model, 4, 3), model.policy
        obs[2, 1, -1] = 1.0
        state, fresh = policy.initial_state(3), policy.initial_state(3)
        for t in range(4):
            hidden, state = policy.step(obs[t], state)
            if t >= 2:
                alone, fresh = policy.step(obs[t], fresh)
        torch.testing.assert_close(hidden[1], alone[1], atol=1e-5, rtol=1e-5)
        assert (hidden[[0, 2]] - alone[[0, 2]]).abs().max() > 1e-3

    def test_later_steps_do_not_reach_earlier_ones(self) -> None:
        """The mask is causal: the gradient of step 2 by the inputs of steps 3 to 5 is 0."""
        model = make_model()
        obs = trials(model, 6, 2).requires_grad_()
        model.policy.features(obs, model.policy.initial_state(2))[2].sum().backward()
        assert obs.grad is not None
        assert (obs.grad[3:] == 0.0).all()
        assert (obs.grad[:3].abs().amax(dim=(1, 2)) > 0.0).all()

    @torch.no_grad()
    def test_surprise_is_minus_the_log_probability(self) -> None:
        """Without temperature: that is for acting."""
        model = make_model(policy_kwargs={"hidden_size": 8, "temperature": 0.1})
        obs, policy = trials(model, 6, 2), model.policy
        labels = torch.randint(3, (6, 2), generator=torch.Generator().manual_seed(0))
        hidden = policy.features(obs, policy.initial_state(2))
        expected = -policy.actor(hidden).log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        torch.testing.assert_close(policy.surprise(obs, labels), expected)

    @torch.no_grad()
    def test_temperature_and_least_chance(self) -> None:
        policy = make_model(
            policy_kwargs={"hidden_size": 8, "temperature": 0.5, "least_chance": 0.1}
        ).policy
        policy.actor.weight.zero_()
        policy.actor.bias.copy_(torch.tensor([0.6, 0.3, 0.15]).log())
        found = policy.distribution(torch.zeros(1, 8)).probs[0]
        torch.testing.assert_close(found, torch.tensor([0.8, 0.2, 0.0]), atol=1e-3, rtol=0.0)

    def test_digits(self) -> None:
        codes = digit_codes(6, (2, 3))
        assert codes.shape == (6, 5)
        assert codes[4].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]  # 4 = 3 · 1 + 1
        with pytest.raises(ValueError, match=r"digits: \[2, 2\] have 4 values, but there are 6"):
            digit_codes(6, (2, 2))


class TestLabels:
    def test_algorithm_distillation_imitates_the_source(self) -> None:
        model = make_model(AlgorithmDistillation)
        history = history_of(model)
        assert model.labels(history) is history.actions

    def test_dpt_imitates_the_oracle(self) -> None:
        model = make_model(DPT)
        history = history_of(model)
        best = history.tasks.argmax(axis=1)
        np.testing.assert_array_equal(model.labels(history), np.tile(best, (6, 1)))

    def test_every_expert_has_the_familys_sizes(self) -> None:
        """Each plays a trial of its family; an oracle of a room earns the optimum."""
        for family in LEARNERS:
            env = make_task_vec(family, 4)
            for name in [*LEARNERS[family], "oracle", "noised-oracle", "random"]:
                env.set_tasks(env.task_split.train.sample_tasks(4, np.random.default_rng(0)))
                learner = find_expert(env, name, np.random.default_rng(0), 20)
                play_history(learner, env, min(20, env.horizon), seed=0)

    def test_noise_falls_to_nothing(self) -> None:
        """From all actions to none, in the last fifth of a history."""
        rng, steps, num = np.random.default_rng(0), 100, 400
        env = make_task_vec("DarkRoom", num)
        noised = NoisedExpert(
            GridOracle(9, cell_numbers=True), RandomActor(env.single_action_space, rng), rng, steps
        )
        env.set_tasks(env.task_split.train.sample_tasks(num, np.random.default_rng(0)))
        history = play_history(noised, env, steps, seed=0)
        best = play_history(GridOracle(9, cell_numbers=True), env, steps, seed=0)
        assert history.rewards[-20:].mean() > 0.7 * best.rewards[-20:].mean()
        assert history.rewards[:20].mean() < 0.2 * best.rewards[:20].mean()
        with pytest.raises(ValueError, match="needs to be told the tasks"):
            noised.predict(np.zeros(3, dtype=np.int64))

    def test_a_noised_learner_has_a_share_of_random_actions_in_each_history(self) -> None:
        """From none to all; it still learns, from the random ones too."""
        num, steps = 400, 100
        env = make_task_vec("GaussianBandit", num, num_arms=5, horizon=steps, reward_std=0.3)
        tasks = env.task_split.train.sample_tasks(num, np.random.default_rng(0))
        env.set_tasks(tasks)
        learner = find_expert(env, "noised-thompson", np.random.default_rng(0), steps)
        actions = play_history(learner, env, steps, seed=0).actions
        best = (actions[-50:] == tasks.argmax(axis=1)).mean(axis=0)  # 1 - 4/5 of the share
        shares = np.quantile(best, [0.05, 0.5, 0.95])
        np.testing.assert_allclose(shares, [0.2, 0.57, 0.96], atol=0.1)


def history_of(model: InContextAgent) -> History:
    env = model._base_env
    env.set_tasks(env.task_split.train.sample_tasks(4, np.random.default_rng(0)))
    learner = find_expert(env, "thompson", np.random.default_rng(0), 6)
    return play_history(learner, env, 6, seed=0)


class TestSearches:
    @pytest.mark.parametrize("make", [NearestSearch, GoalSampling])
    def test_they_find_every_goal_and_stay(self, make: type[RoomSearch]) -> None:
        """In the last of ten episodes each takes a shortest path, to all 81 goals."""
        env = make_task_vec("DarkRoom", 81)
        goals = np.stack([np.arange(81) % 9, np.arange(81) // 9], axis=1)
        env.set_tasks(goals)
        history = play_history(make(9, rng=np.random.default_rng(0)), env, 200, seed=0)
        last = history.rewards[-20:].sum(axis=0)
        np.testing.assert_array_equal(last, GridOracle.optimal_steps_on_goal(goals, (4, 4), 20))

    def test_key_and_door_are_found(self) -> None:
        """In the last of ten episodes each search takes a shortest path to the key and the door."""
        env = make_task_vec("DarkKeyToDoor", 64)
        tasks = env.task_split.train.sample_tasks(64, np.random.default_rng(0))
        tasks["door"][:8] = tasks["key"][:8]  # one cell holds both
        env.set_tasks(tasks)
        history = play_history(KeyToDoorSearch(9, rng=np.random.default_rng(0)), env, 500, seed=0)
        rewards = history.rewards.reshape(10, 50, 64)
        np.testing.assert_array_equal(rewards[-1].sum(axis=0), 2.0)
        assert rewards[0].sum(axis=0).mean() < 1.5
        start, key, door = (
            np.stack([cells % 9, cells // 9], axis=-1) if cells.ndim == 1 else cells
            for cells in (history.observations[450], tasks["key"], tasks["door"])
        )
        way = np.abs(key - start).sum(axis=1), np.abs(door - key).sum(axis=1)
        least = np.maximum(way[0], 1) + way[1]  # a step, be it "stay", takes the key
        last = rewards[-1].shape[0] - 1 - rewards[-1][::-1].argmax(axis=0)  # the latest payment
        np.testing.assert_array_equal(last + 1, least)

    def test_the_nearest_cell_is_new_where_one_is_beside_the_agent(self) -> None:
        """The first episode of a search without success visits 20 cells."""
        env = make_task_vec("DarkRoom", 1)
        env.set_tasks(np.array([[0, 8]]))
        search = NearestSearch(9, rng=np.random.default_rng(0))
        history = play_history(search, env, 20, seed=0)
        assert history.rewards.sum() == 0.0
        assert len(set(history.observations[1:, 0].tolist())) == 19

    def test_wrong_observations(self) -> None:
        with pytest.raises(ValueError, match=r"observation must have shape \[N, 89\]"):
            NearestSearch(9, rng=np.random.default_rng(0)).predict(np.zeros((2, 5)))


class TestEvaluation:
    @pytest.mark.parametrize("core", ["attention", "gru"])
    def test_a_network_that_writes_into_its_state_gives_the_same_values(
        self, core: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An evaluation lets it; a user's state stays as it is."""
        model = make_model(policy_kwargs={"hidden_size": 8, "core": core})
        written = evaluate_adaptation(model, "BernoulliBandit", num_tasks=70, seed=1, **BANDIT)
        assert not model.policy.uses_up_states
        monkeypatch.setattr(trials_of_evaluation, "using_up_states", lambda learner: nullcontext())
        copied = evaluate_adaptation(model, "BernoulliBandit", num_tasks=70, seed=1, **BANDIT)
        np.testing.assert_array_equal(written.values, copied.values)
        obs = trials(model, 1, 3)[0].numpy()
        _, state = model.predict(obs)
        before = [leaf.copy() for leaf in state]
        model.predict(obs, state)
        for leaf, old in zip(state, before, strict=True):
            np.testing.assert_array_equal(leaf, old)


class TestTraining:
    def test_the_player_acts_as_the_agent_does(self) -> None:
        """The same draws, over a whole trial on the same tasks."""
        model = make_model()
        env = make_task_vec("BernoulliBandit", 4, **BANDIT)
        env.set_tasks(env.task_split.train.sample_tasks(4, np.random.default_rng(0)))
        histories = []
        for learner in (model, model.player()):
            model.generator.manual_seed(3)
            histories.append(play_history(learner, env, 6, seed=0))
        np.testing.assert_array_equal(histories[0].actions, histories[1].actions)

    @pytest.mark.parametrize("make", CLASSES)
    def test_a_resumed_training_equals_an_undisturbed_one(self, make: Any, tmp_path: Path) -> None:
        one = make_model(make)
        one.learn(3 * 24).save(tmp_path / "model")
        loaded = make.load(
            tmp_path / "model", env=make_task_vec("BernoulliBandit", 4, **BANDIT), device="cpu"
        )
        for model in (one, loaded):
            model.learn(3 * 24, reset_num_timesteps=False)
        parts = loaded.policy.state_dict()
        for name, part in one.policy.state_dict().items():
            assert torch.equal(part, parts[name]), name

    @pytest.mark.parametrize("make", CLASSES)
    def test_it_learns_from_a_data_set(self, make: Any, tmp_path: Path) -> None:
        """The loss of a single history falls to that of imitating it."""
        env = make_task_vec("BernoulliBandit", 4, **BANDIT)
        collect_histories(
            find_expert(env, "thompson", np.random.default_rng(0), 6),
            "BernoulliBandit",
            tmp_path / "data",
            num_histories=1,
            batch_size=1,
            env_kwargs=BANDIT,
            expert=find_expert(env, "oracle", np.random.default_rng(0), 6),
        )
        labels = {"expert": "data"} if make is DPT else {}
        model = make_model(make, histories=tmp_path / "data", learning_rate=1e-2, **labels)
        model.learn(24 * 40)
        assert model.num_timesteps == 24 * 40
        assert model.logger.name_to_value["train/loss"] < 0.05

    def test_histories_grow(self) -> None:
        """From a tenth of the pulls, or of whole episodes, to all of them in half the training."""
        pulls = make_model(env_kwargs={"num_arms": 3, "horizon": 40}, trial_growth=0.5)
        episodes = make_model(env=TaskVectorEnv(RememberedEpisode, 4), trial_growth=0.5)
        for done, of_pulls, of_episodes in (
            (0.0, 4, 2),
            (0.25, 20, 2),
            (0.375, 30, 4),
            (1.0, 40, 4),
        ):
            pulls._current_progress_remaining = 1.0 - done
            episodes._current_progress_remaining = 1.0 - done
            assert (pulls.trial_steps(), episodes.trial_steps()) == (of_pulls, of_episodes)
        pulls._current_progress_remaining = 1.0
        pulls.learn(4 * 40 * 3)
        assert pulls.policy.core.capacity == 40
        assert pulls._batch["obs"].shape[:2] == (40, 4)
        assert pulls._num_iterations > 3

    def test_every_second_episode_is_kept(self) -> None:
        model = make_model(
            AlgorithmDistillation, TaskVectorEnv(RememberedEpisode, 4), keep_every=2,
            source_name="random",
        )  # fmt: skip
        assert model.source_steps() == 8
        steps = np.arange(8)[:, None] * np.ones((1, 4))
        dones = np.tile(np.array([False, True] * 4)[:, None], (1, 4))
        history = History(np.zeros(4), steps, steps, steps, dones)
        np.testing.assert_array_equal(model.kept(history).rewards[:, 0], [0, 1, 4, 5])
        with pytest.raises(ValueError, match="episodes of different lengths"):
            model.kept(history._replace(dones=~dones))


class TestArguments:
    @pytest.mark.parametrize(
        ("make", "changes", "message"),
        [
            (DPT, {"expert": "gitins"}, "no expert 'gitins' of BernoulliBandit.*gittins"),
            (DPT, {"behaviour": "psrl"}, "no expert 'psrl' of BernoulliBandit"),
            (DPT, {"expert": "data"}, "give histories"),
            (DPT, {"own_contexts": 1.5}, "own_contexts"),
            (AlgorithmDistillation, {"source_name": "a3c"}, "no expert 'a3c'"),
            (AlgorithmDistillation, {"keep_every": 0}, "keep_every"),
            (DPT, {"weight_decay": -1.0}, "weight_decay"),
            (DPT, {"trial_growth": 1.5}, "trial_growth"),
            (DPT, {"trial_growth": 0.5, "histories": "data"}, "trial_growth has to be 0 with"),
            (DPT, {"num_minibatches": 5}, "num_minibatches=5, but only 4 histories"),
            (DPT, {"policy_kwargs": {"digits": (2,)}}, "digits"),
            (DPT, {"policy_kwargs": {"temperature": 0.0}}, "temperature"),
            (DPT, {"policy_kwargs": {"least_chance": 1.0}}, "least_chance"),
        ],
    )
    def test_wrong_values(self, make: Any, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_model(make, **changes)

    def test_a_family_without_experts(self) -> None:
        with pytest.raises(ValueError, match=r"no expert 'oracle' of PointRobot2|random"):
            find_expert(make_task_vec("HopperVel", 1), "oracle", np.random.default_rng(0), 5)

    def test_data_sets_of_others(self, tmp_path: Path) -> None:
        env = make_task_vec("BernoulliBandit", 4, **BANDIT)
        learner = find_expert(env, "thompson", np.random.default_rng(0), 6)
        for name, kwargs in (("short", {"num_arms": 3, "horizon": 5}), ("arms", {"num_arms": 3})):
            collect_histories(
                learner, "BernoulliBandit", tmp_path / name, num_histories=2, env_kwargs=kwargs
            )
        with pytest.raises(ValueError, match="histories of 5 steps, not of 6"):
            make_model(AlgorithmDistillation, histories=tmp_path / "short").learn(1)
        kwargs = {"num_arms": 3, "horizon": 5}
        model = make_model(DPT, histories=tmp_path / "short", expert="data", env_kwargs=kwargs)
        with pytest.raises(ValueError, match="has no labels: collect it with an expert"):
            model.learn(1)
        rooms = GoalSampling(9, rng=np.random.default_rng(0))
        collect_histories(rooms, "DarkRoom", tmp_path / "rooms", num_histories=2)
        with pytest.raises(ValueError, match="its observations are not in Discrete"):
            make_model(AlgorithmDistillation, histories=tmp_path / "rooms").learn(1)


def trained(make: Any, family: Any, seed: int, **changes: Any) -> InContextAgent:
    """An agent after 150 iterations on a probe."""
    model = make_model(
        make,
        TaskVectorEnv(family, 64),
        seed=seed,
        learning_rate=5e-3,
        policy_kwargs={"hidden_size": 16},
        **changes,
    )
    return model.learn(150 * 64 * model.trial_steps(), log_interval=None)


def earned(model: InContextAgent, family: Any) -> np.ndarray:
    """What the likeliest actions earn on the test tasks, ``[tasks, points]``."""
    env = TaskVectorEnv(family, 64)
    return evaluate_adaptation(model, env, deterministic=True, seed=model.seed).values


@pytest.mark.learning
class TestProbes:
    """What only an agent that learns in context solves: the task is seen in a reward alone."""

    def test_dpt_over_pulls(self, seed: int, learned: Learned) -> None:
        """The arm that the first reward tells is pulled at the end, over two pulls that pay 0."""
        values = earned(trained(DPT, RememberedPull, seed), RememberedPull)
        assert 0.2 < values[:, 0].mean() < 0.8  # the first is a guess: there are both tasks
        learned("last reward", values[:, 3].mean(), at_least=0.9)

    def test_dpt_over_episodes(self, seed: int, learned: Learned) -> None:
        """What the first episode told is known in the second."""
        values = earned(trained(DPT, RememberedEpisode, seed), RememberedEpisode)
        assert 0.2 < values[:, 0].mean() < 0.8
        learned("second episode", values[:, 1].mean(), at_least=0.9)

    def test_distillation_over_pulls(self, seed: int, learned: Learned) -> None:
        """The source learns the arm from the first pull, and so does the agent."""
        values = earned(distilled(RememberedPull, seed), RememberedPull)
        assert 0.2 < values[:, 0].mean() < 0.8
        learned("last reward", values[:, 3].mean(), at_least=0.9)

    def test_distillation_over_episodes(self, seed: int, learned: Learned) -> None:
        values = earned(distilled(RememberedEpisode, seed), RememberedEpisode)
        assert 0.2 < values[:, 0].mean() < 0.8
        learned("second episode", values[:, 1].mean(), at_least=0.9)


class WinStayLoseShift:
    """The source: draws the first action, and then repeats it if it was paid; else the other."""

    rng = np.random.default_rng(0)

    def adapt(self, rollout: Any, state: Any) -> Any:
        first, known = state
        paid = np.asarray(rollout.rewards).sum(axis=0) > 0
        return (first, np.where(known < 0, np.where(paid, first, 1 - first), known))

    def predict(self, observation: Any, state: Any = None, **_: Any) -> Any:
        if state is None:
            first = self.rng.integers(2, size=len(observation))
            state = (first, np.full(len(observation), -1))
        return np.where(state[1] < 0, state[0], state[1]), state


def distilled(family: Any, seed: int) -> InContextAgent:
    """An agent that was trained on the histories of the source."""
    with pytest.MonkeyPatch.context() as patch:
        source = WinStayLoseShift()
        patch.setitem(LEARNERS, family.__name__, {"shift": lambda family, rng: source})
        return trained(AlgorithmDistillation, family, seed, source_name="shift")
