"""Checkpoints: everything comes back, training goes on as if undisturbed, bad ones are refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule

from meta_rl import TaskVectorEnv, make_task_vec, sb3_env
from meta_rl.agents.rl2 import RL2

from .agents.probe_families import (
    ActionReward,
    ObservationReward,
    ObservationTarget,
    OppositeActionReward,
    RememberedEpisode,
    ThreeActions,
)
from .agents.small_agents import ITERATION, bandit_model, make_model, parameters, same


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class OtherRL2(RL2):
    """Another algorithm, by its name."""


class TestSaving:
    @pytest.mark.parametrize("core", ["gru", "lstm"])
    def test_loaded_agent_predicts_the_same(self, core: str, tmp_path: Path) -> None:
        """Actions and state, drawn and most likely, without an environment."""
        kwargs = {"core": core, "hidden_size": 6, "embedding": [5]}
        model = make_model(policy_kwargs=kwargs).learn(2 * ITERATION)
        model.save(tmp_path / "model")
        loaded = RL2.load(tmp_path / "model")
        assert loaded.env is None
        observations = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
        for deterministic in (True, False):
            ours, state = model.predict(observations, deterministic=deterministic)
            theirs, their_state = loaded.predict(observations, deterministic=deterministic)
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(state, their_state)
            ours, _ = model.predict(observations, state, deterministic=deterministic)
            theirs, _ = loaded.predict(observations, state, deterministic=deterministic)
            np.testing.assert_array_equal(ours, theirs)

    def test_everything_comes_back(self, tmp_path: Path) -> None:
        """Parameters, optimiser, counters, generators and settings."""
        model = make_model(num_epochs=3, discount=0.8, trials_per_env=2).learn(4 * ITERATION)
        model.save(tmp_path / "model.zip")
        loaded = RL2.load(tmp_path / "model.zip", env=TaskVectorEnv(RememberedEpisode, 4))
        assert same(parameters(loaded), parameters(model))
        ours = model.policy.optimizer.state_dict()
        theirs = loaded.policy.optimizer.state_dict()
        assert theirs["param_groups"] == ours["param_groups"]
        for key, entry in ours["state"].items():
            torch.testing.assert_close(theirs["state"][key], entry, rtol=0, atol=0)
        assert len(ours["state"]) == len(list(model.policy.parameters()))
        names = ("num_timesteps", "_num_iterations", "_n_updates", "seed", "num_epochs", "discount")
        for name in (*names, "trials_per_env", "policy_kwargs", "num_minibatches", "family"):
            assert getattr(loaded, name) == getattr(model, name), name
        assert loaded.num_timesteps == 4 * ITERATION
        assert loaded._n_updates == 6
        assert loaded.rng.bit_generator.state == model.rng.bit_generator.state
        assert torch.equal(loaded.generator.get_state(), model.generator.get_state())

    @pytest.mark.parametrize("family", [RememberedEpisode, ObservationTarget])
    @pytest.mark.parametrize("in_memory", [False, True])
    def test_training_goes_on_as_if_undisturbed(
        self, family: type, in_memory: bool, tmp_path: Path
    ) -> None:
        """learn, save, load, learn ends with the parameters of learn, learn: bit for bit."""
        path = io.BytesIO() if in_memory else tmp_path / "model.zip"
        model = make_model(family, trial_growth=0.5, learning_rate=LinearSchedule(0.01, 0.0, 1.0))
        iteration = 4 * family.horizon * family.episodes_per_trial
        model.learn(3 * iteration)
        model.save(path)
        at_save = parameters(model)
        model.learn(3 * iteration, reset_num_timesteps=False)
        if in_memory:
            path.seek(0)
        loaded = RL2.load(path, env=TaskVectorEnv(family, 4))
        assert same(parameters(loaded), at_save)
        loaded.learn(3 * iteration, reset_num_timesteps=False)
        assert same(parameters(loaded), parameters(model))
        assert not same(parameters(loaded), at_save)
        assert loaded.num_timesteps == model.num_timesteps
        assert loaded.rng.bit_generator.state == model.rng.bit_generator.state
        assert torch.equal(loaded.generator.get_state(), model.generator.get_state())

    def test_a_failed_save_leaves_the_earlier_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where writing breaks off midway, the old bytes stay, and nothing partial lies about."""
        path = tmp_path / "model.zip"
        model = make_model()
        model.save(path)
        before = path.read_bytes()
        model.learn(ITERATION)
        written = []

        def full(descriptor: int) -> None:
            written.append(sum(part.stat().st_size for part in tmp_path.glob(".*")))
            raise OSError("No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                model.save(path)
        assert written[0] > 1000  # it did write
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.zip"]
        model.save(path)
        assert path.read_bytes() != before

    def test_save_makes_the_folder_and_the_suffix(self, tmp_path: Path) -> None:
        """``.zip`` may be left out when saving and when loading."""
        make_model().save(tmp_path / "new" / "folder" / "model")
        assert (tmp_path / "new" / "folder" / "model.zip").exists()
        RL2.load(str(tmp_path / "new" / "folder" / "model"))

    def test_another_number_of_environments(self, tmp_path: Path) -> None:
        """A loaded agent takes as many tasks at a time as its new environment has places."""
        make_model(ObservationReward).save(tmp_path / "model")
        for num_envs in (2, 8):
            loaded = RL2.load(tmp_path / "model", env=TaskVectorEnv(ObservationReward, num_envs))
            assert loaded.meta_batch_size == num_envs
            assert len(np.unique(loaded.begin_tasks()[:, 0])) == num_envs
            loaded.learn(3 * num_envs)

    def test_by_id(self, tmp_path: Path) -> None:
        """An id makes the environment with the arguments and the size that it had."""
        bandit_model().learn(12).save(tmp_path / "model")
        loaded = RL2.load(tmp_path / "model", env="BernoulliBandit")
        assert loaded.task_env.num_envs == 4
        assert loaded.task_env.unwrapped.horizon == 3
        loaded.learn(12, reset_num_timesteps=False)
        assert loaded.num_timesteps == 24


class TestRefusedCheckpoints:
    def test_missing(self, tmp_path: Path) -> None:
        """A FileNotFoundError that names the file."""
        with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nowhere\.zip"):
            RL2.load(tmp_path / "nowhere")

    def test_truncated(self, tmp_path: Path) -> None:
        """At any length."""
        make_model().save(tmp_path / "whole.zip")
        content = (tmp_path / "whole.zip").read_bytes()
        path = tmp_path / "model.zip"
        for length in (0, 1, 100, len(content) // 2, len(content) - 100, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"model\.zip is a corrupt checkpoint"):
                RL2.load(path)

    def test_garbage(self, tmp_path: Path) -> None:
        """No zip at all; also from an open file."""
        path = tmp_path / "model.zip"
        path.write_bytes(np.random.default_rng(0).bytes(10_000))
        with pytest.raises(ValueError, match="corrupt checkpoint"):
            RL2.load(path)
        with path.open("rb") as file, pytest.raises(ValueError, match="corrupt checkpoint"):
            RL2.load(file)

    def test_of_another_algorithm(self, tmp_path: Path) -> None:
        """Says of which, whichever of the two is loaded."""
        settings = {"num_minibatches": 1, "policy_kwargs": {"hidden_size": 4}}
        OtherRL2(env=TaskVectorEnv(ActionReward, 2), **settings).save(tmp_path / "other")
        OtherRL2.load(tmp_path / "other")
        with pytest.raises(ValueError, match="is a checkpoint of OtherRL2, not of RL2"):
            RL2.load(tmp_path / "other")
        make_model().save(tmp_path / "model")
        with pytest.raises(ValueError, match="is a checkpoint of RL2, not of OtherRL2"):
            OtherRL2.load(tmp_path / "model")

    def test_of_stable_baselines3(self, tmp_path: Path) -> None:
        """One of its own PPO."""
        torch_state = torch.get_rng_state()
        PPO("MlpPolicy", sb3_env("BernoulliBandit", 2), n_steps=8, batch_size=8).save(
            tmp_path / "ppo"
        )
        torch.set_rng_state(torch_state)
        with pytest.raises(ValueError, match="is a checkpoint of another library, not of RL2"):
            RL2.load(tmp_path / "ppo")

    def test_of_another_environment(self, tmp_path: Path) -> None:
        """Another family is refused, with the same spaces or others; the message names both."""
        make_model(ActionReward).save(tmp_path / "model")
        for family in (OppositeActionReward, ThreeActions):
            message = rf"trained on .*:ActionReward, not on .*:{family.__name__}"
            with pytest.raises(ValueError, match=message):
                RL2.load(tmp_path / "model", env=TaskVectorEnv(family, 4))
        with pytest.raises(ValueError, match="trained on"):
            RL2.load(tmp_path / "model", env="BernoulliBandit")

    def test_other_spaces_of_the_same_family(self, tmp_path: Path) -> None:
        """A bandit with more arms."""
        bandit_model().save(tmp_path / "model")
        with pytest.raises(ValueError, match="spaces do not match"):
            RL2.load(tmp_path / "model", env=make_task_vec("BernoulliBandit", 4, num_arms=3))
