"""Data sets of histories: what they hold, that they go on, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta_rl import make_task_vec
from meta_rl.agents.bandits import BestArm, GittinsIndex, ThompsonSampling
from meta_rl.agents.navigation import GridOracle, KeyToDoorOracle
from meta_rl.agents.rl2 import RL2
from meta_rl.agents.room_search import NearestSearch
from meta_rl.agents.tabular import PSRL, ValueIteration
from meta_rl.histories import (
    Histories,
    HistoryEncoder,
    collect_histories,
    optimal_actions,
    play_history,
)
from meta_rl.histories import collection as collection_module
from meta_rl.wrappers.previous_step import AppendPreviousStep

BANDIT: dict[str, Any] = {"num_arms": 3, "horizon": 6}


def thompson() -> ThompsonSampling:
    return ThompsonSampling(3, rng=np.random.default_rng(0))


def collect(folder: Path, num: int = 10, **changes: Any) -> Histories:
    settings: dict[str, Any] = {"expert": BestArm(3), "batch_size": 4, "env_kwargs": BANDIT}
    settings |= {"seed": 3, **changes}
    return collect_histories(thompson(), "BernoulliBandit", folder, num_histories=num, **settings)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestContent:
    def test_arrays_and_labels(self, tmp_path: Path) -> None:
        """Labels are the exact optimum of each history's own task; rewards are possible."""
        data = collect(tmp_path)
        assert len(data) == 10
        assert data.num_steps == 6
        batch = data.batch([7, 2])
        assert batch.actions.shape == batch.rewards.shape == batch.dones.shape == (6, 2)
        np.testing.assert_array_equal(batch.labels, np.tile(batch.tasks.argmax(axis=1), (6, 1)))
        assert np.isin(batch.rewards, (0.0, 1.0)).all()
        assert batch.dones[-1].all()
        assert not batch.dones[:-1].any()
        assert len({task.tobytes() for task in data.batch(np.arange(10)).tasks}) == 10

    def test_given_tasks_are_played_in_their_order(self, tmp_path: Path) -> None:
        tasks = np.random.default_rng(1).random((5, 3))
        data = collect_histories(
            thompson(), "BernoulliBandit", tmp_path, tasks=tasks, batch_size=2, env_kwargs=BANDIT
        )
        np.testing.assert_array_equal(data.batch(np.arange(5)).tasks, tasks)
        assert data.batch([0]).labels is None

    def test_dict_tasks_and_several_episodes(self, tmp_path: Path) -> None:
        """A history of an oracle: the key and the door of each episode pay once."""
        data = collect_histories(
            KeyToDoorOracle(4),
            "DarkKeyToDoor",
            tmp_path,
            num_histories=3,
            num_episodes=2,
            batch_size=3,
            env_kwargs={"size": 4, "horizon": 14},
        )
        batch = data.batch([0, 1, 2])
        assert batch.tasks["key"].shape == (3, 2)
        np.testing.assert_array_equal(batch.rewards.sum(axis=0), [4.0, 4.0, 4.0])
        np.testing.assert_array_equal(np.flatnonzero(batch.dones[:, 0]), [13, 27])

    def test_a_learner_that_sees_the_previous_step(self, tmp_path: Path) -> None:
        """The history holds what the environment returned, not what the wrapper made of it."""
        env = make_task_vec("BernoulliBandit", 4, **BANDIT)
        agent = RL2(env=env, seed=0, num_minibatches=1, policy_kwargs={"hidden_size": 6})
        data = collect_histories(
            agent, "BernoulliBandit", tmp_path, num_histories=4, batch_size=4, env_kwargs=BANDIT
        )
        np.testing.assert_array_equal(data.batch([0, 3]).observations, np.zeros((6, 2)))

    def test_draws_come_from_the_generator(self, tmp_path: Path) -> None:
        data = collect(tmp_path)
        one, other = (data.draw(20, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(one.actions, other.actions)

    def test_the_learner_learns_in_its_history(self, tmp_path: Path) -> None:
        learner = PSRL(3, 2, 4, rng=np.random.default_rng(0))
        kwargs = {"num_states": 3, "num_actions": 2, "horizon": 4, "reward_std": 0.1}
        data = collect_histories(
            learner,
            "TabularMDP",
            tmp_path,
            num_histories=200,
            num_episodes=10,
            env_kwargs=kwargs,
        )
        returns = data.batch(np.arange(200)).rewards.reshape(10, 4, 200).sum(axis=1).mean(axis=1)
        assert returns[-3:].mean() > returns[0] + 0.5


class TestLabels:
    def test_gittins_labels_are_what_it_would_pull_itself(self) -> None:
        """The label depends on the history so far; the learner's own choices without ties."""
        env = make_task_vec("BernoulliBandit", 8, **BANDIT)
        env.set_tasks(env.task_split.train.sample_tasks(8, np.random.default_rng(0)))
        history = play_history(thompson(), env, 6, seed=0)
        labels = optimal_actions(GittinsIndex(3, 6, rng=np.random.default_rng(0)), history, env)
        expert = GittinsIndex(3, 6, rng=np.random.default_rng(0))
        for t in range(6):
            taken = [np.eye(3)[history.actions[i]] for i in range(t)]
            pulls = np.sum(taken, axis=0) if t else np.zeros((8, 3))
            wins = sum(part * history.rewards[i][:, None] for i, part in enumerate(taken))
            state = (pulls.astype(np.int64), np.broadcast_to(np.asarray(wins, float), (8, 3)))
            scores = expert.scores(type(_state(expert))(*state))
            np.testing.assert_array_equal(labels[t], scores.argmax(axis=1))

    def test_labels_of_value_iteration_are_optimal_at_each_step(self) -> None:
        """With the time in the episode, over two episodes."""
        kwargs = {"num_states": 3, "num_actions": 2, "horizon": 4}
        env = make_task_vec("TabularMDP", 5, **kwargs)
        env.set_tasks(env.task_split.train.sample_tasks(5, np.random.default_rng(0)))
        history = play_history(PSRL(3, 2, 4, rng=np.random.default_rng(0)), env, 8, seed=0)
        oracle = ValueIteration(3, 2, 4)
        labels = optimal_actions(oracle, history, env)
        q = oracle.adapt_to_tasks(history.tasks).q_values
        for t, n in np.ndindex(8, 5):
            assert labels[t, n] == q[n, t % 4, history.observations[t, n]].argmax()

    def test_labels_in_a_dark_room_follow_a_shortest_path(self) -> None:
        env = make_task_vec("DarkRoom", 6)
        env.set_tasks(env.task_split.train.sample_tasks(6, np.random.default_rng(0)))
        oracle = GridOracle(9, cell_numbers=True)
        history = play_history(oracle, env, 40, seed=0)
        np.testing.assert_array_equal(optimal_actions(oracle, history, env), history.actions)

    def test_an_expert_that_reads_the_previous_step(self) -> None:
        """The search's labels for its own history are its actions."""
        env = make_task_vec("DarkRoom", 5)
        env.set_tasks(env.task_split.train.sample_tasks(5, np.random.default_rng(0)))
        search = NearestSearch(9, rng=np.random.default_rng(0))
        history = play_history(search, env, 60, seed=0)
        np.testing.assert_array_equal(optimal_actions(search, history, env), history.actions)


def _state(expert: GittinsIndex) -> Any:
    return expert.predict(np.zeros(1))[1]


def test_encoding_equals_what_an_agent_sees() -> None:
    """Over the ends of episodes too."""
    env = make_task_vec("DarkRoom", 3, horizon=3)
    env.set_tasks(env.task_split.train.sample_tasks(3, np.random.default_rng(0)))
    seen: list[np.ndarray] = []

    class Watcher:
        rng = np.random.default_rng(0)

        def wrap_env(self, env: Any) -> Any:
            return AppendPreviousStep(env)

        def predict(self, observation: Any, state: Any = None, **_: Any) -> Any:
            seen.append(observation.copy())
            return self.rng.integers(5, size=len(observation)), state

    history = play_history(Watcher(), env, 8, seed=0)
    encode = HistoryEncoder(env.single_observation_space, env.single_action_space)
    np.testing.assert_array_equal(encode(history), np.stack(seen))
    assert history.dones.sum() == 6


class TestGoingOn:
    def test_a_killed_collection_goes_on_and_gives_the_same_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collect(tmp_path / "whole")
        play, played = collection_module.play_history, []

        def stop_at_the_third(*args: Any, **kwargs: Any) -> Any:
            played.append(1)
            if len(played) == 3:
                raise KeyboardInterrupt
            return play(*args, **kwargs)

        monkeypatch.setattr(collection_module, "play_history", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            collect(tmp_path / "cut")
        with pytest.raises(ValueError, match="not complete: 8 of 10 histories"):
            Histories(tmp_path / "cut")
        collect(tmp_path / "cut")
        assert len(played) == 4  # the third again, and no other
        assert files(tmp_path / "cut") == files(tmp_path / "whole")

    def test_a_complete_collection_is_left_alone(self, tmp_path: Path) -> None:
        collect(tmp_path)
        before = files(tmp_path)
        collect(tmp_path)
        assert files(tmp_path) == before

    @pytest.mark.parametrize("change", [{"seed": 4}, {"expert": None}, {"num": 12}])
    def test_another_data_set_in_the_folder_is_refused(
        self, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        collect(tmp_path)
        before = files(tmp_path)
        with pytest.raises(ValueError, match="holds another data set"):
            collect(tmp_path, **change)
        assert files(tmp_path) == before

    def test_the_learners_generator_is_left_as_it_was(self, tmp_path: Path) -> None:
        learner = thompson()
        before = learner.rng.bit_generator.state
        collect_histories(learner, "BernoulliBandit", tmp_path, num_histories=4, env_kwargs=BANDIT)
        assert learner.rng.bit_generator.state == before


class TestDamage:
    def test_a_changed_byte(self, tmp_path: Path) -> None:
        collect(tmp_path)
        path = tmp_path / "rewards.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"rewards.npy is damaged: its checksum differs"):
            Histories(tmp_path)
        assert len(Histories(tmp_path, verify=False)) == 10

    def test_a_missing_array(self, tmp_path: Path) -> None:
        collect(tmp_path)
        (tmp_path / "actions.npy").unlink()
        with pytest.raises(ValueError, match=r"actions.npy is missing or damaged"):
            Histories(tmp_path)

    def test_an_array_of_objects_is_not_unpickled(self, tmp_path: Path) -> None:
        collect(tmp_path)
        np.save(tmp_path / "actions.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(ValueError, match=r"actions.npy is missing or damaged"):
            Histories(tmp_path)

    def test_a_cut_array(self, tmp_path: Path) -> None:
        collect(tmp_path)
        path = tmp_path / "rewards.npy"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(ValueError, match=r"rewards.npy is missing or damaged"):
            Histories(tmp_path)

    def test_another_format(self, tmp_path: Path) -> None:
        collect(tmp_path)
        path = tmp_path / "histories.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
        with pytest.raises(ValueError, match="format 9, and this version reads 1"):
            Histories(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
    def test_a_damaged_description(self, tmp_path: Path, text: str) -> None:
        collect(tmp_path)
        (tmp_path / "histories.json").write_text(text)
        with pytest.raises(ValueError, match=r"histories.json is damaged"):
            Histories(tmp_path)

    def test_no_data_set(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no data set of histories"):
            Histories(tmp_path)


class TestArguments:
    def test_tasks_or_a_number(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="give tasks, or num_histories"):
            collect_histories(thompson(), "BernoulliBandit", tmp_path, env_kwargs=BANDIT)
        with pytest.raises(ValueError, match="2 tasks, but num_histories=3"):
            collect_histories(
                thompson(),
                "BernoulliBandit",
                tmp_path,
                tasks=np.full((2, 3), 0.5),
                num_histories=3,
                env_kwargs=BANDIT,
            )

    def test_what_cannot_act(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="learner"):
            collect_histories(object(), "BernoulliBandit", tmp_path, num_histories=1)
