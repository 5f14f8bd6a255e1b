"""What is saved comes back, of the same types and bit for bit; other things are refused by name."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.rl2 import RL2, RecurrentActorCritic
from meta_rl.few_shot import MAML
from meta_rl.files.plain_data import decode, encode
from meta_rl.files.sealed import Saved, read_file, write_file

from .every_agent import AGENTS, NUM_ENVS, Signs, TaskVectorEnv, make_agent
from .every_agent import learned as learned_by_agent
from .every_learner import CASES, NETWORKS, Net
from .every_learner import same as same_learners
from .small_files import QUICK, small_agent


class TestEverythingComesBack:
    @pytest.mark.parametrize("name", AGENTS)
    def test_agents(self, name: str, tmp_path: Path) -> None:
        """Parameters and optimisers, and the training that follows, bit for bit."""
        agent = make_agent(name).learn(40)
        agent.save(tmp_path / "agent")
        loaded = type(agent).load(tmp_path / "agent", TaskVectorEnv(Signs, NUM_ENVS), "cpu")
        for _ in range(2):
            pairs = zip(learned_by_agent(agent), learned_by_agent(loaded), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
            assert agent.rng.bit_generator.state == loaded.rng.bit_generator.state
            assert torch.equal(agent.generator.get_state(), loaded.generator.get_state())
            agent.learn(40, reset_num_timesteps=False)
            loaded.learn(40, reset_num_timesteps=False)

    @pytest.mark.parametrize("name", CASES)
    def test_learners(self, name: str, tmp_path: Path) -> None:
        make, tasks = CASES[name]
        learner = make().learn(tasks(), 2)
        path = learner.save(tmp_path / "learner")
        own = {"network": NETWORKS[name]().network} if name in NETWORKS else {}
        loaded = type(learner).load(path, device="cpu", **own)
        assert same_learners(learner, loaded)
        assert learner.settings == loaded.settings

    def test_parameters_alone(self, tmp_path: Path) -> None:
        """``set_parameters`` reads the file of an agent; an exact match is asked by default."""
        agent = small_agent().learn(12)
        agent.save(tmp_path / "agent.zip")
        other = small_agent(seed=1)
        other.set_parameters(tmp_path / "agent.zip")
        for name, value in agent.policy.state_dict().items():
            assert torch.equal(value, other.policy.state_dict()[name])

    def test_numpy_in_any_argument(self, tmp_path: Path) -> None:
        """Numbers and arrays of NumPy have the same type and value afterwards."""
        given = {
            "learning_rate": np.float32(0.01),
            "discount": np.float64(0.9),
            "num_epochs": np.int64(2),
            "seed": np.uint8(3),
            "policy_kwargs": {"hidden_size": np.int32(3), "embedding": np.array([4, 2])},
        }
        agent = small_agent(**given)
        agent.save(tmp_path / "agent")
        loaded = RL2.load(tmp_path / "agent", env="BernoulliBandit", device="cpu")
        for name in ("learning_rate", "discount", "num_epochs", "seed"):
            ours, theirs = getattr(agent, name), getattr(loaded, name)
            assert (type(ours), ours) == (type(theirs), theirs)
        assert loaded.policy_kwargs == {"hidden_size": 3, "embedding": [4, 2]}
        loaded.learn(12)

    def test_shared_memory_and_noncontiguous_tensors(self, tmp_path: Path) -> None:
        base = torch.arange(12.0).reshape(3, 4)
        content = {"a": base, "b": base, "c": base.T, "d": base[1:], "e": torch.zeros(0, 3)}
        write_file(tmp_path / "f", Saved("X", content))
        back = read_file(tmp_path / "f", "X").content
        assert all(torch.equal(back[name], value) for name, value in content.items())

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(-np.inf, np.array([1.0, np.pi], np.float64), (2,), np.float64),
            spaces.Box(0, 255, (2, 2), np.uint8),
            spaces.Box(0.1, np.nextafter(np.float32(1), np.float32(2)), (1,), np.float32),
            spaces.Discrete(5, start=-2),
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 1]]),
            spaces.MultiBinary([2, 3]),
            spaces.MultiBinary(4),
            spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple([spaces.Box(0, 1), spaces.Dict()])),
        ],
        ids=str,
    )
    def test_spaces(self, space: spaces.Space) -> None:
        back = through_json(space)
        assert back == space
        assert str(back) == str(space)
        assert back.dtype == space.dtype

    @QUICK
    @given(
        value=st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False)
            | st.text()
            | st.builds(np.float32, st.floats(allow_nan=False, width=32))
            | st.builds(Path, st.text("ab/.", min_size=1)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.lists(inner, max_size=3).map(tuple)
                | st.dictionaries(
                    st.text(max_size=2) | st.integers() | st.just("!"), inner, max_size=3
                )
                | st.lists(inner, max_size=3).map(lambda parts: deque(parts, 5))
            ),
        )
    )
    def test_plain_values(self, value: Any) -> None:
        """Each value comes back equal, and with the same types."""
        back = through_json(value)
        assert back == value
        assert repr(back) == repr(value)

    @pytest.mark.parametrize(
        "bits", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox]
    )
    def test_generators(self, bits: Any) -> None:
        generator = np.random.Generator(bits(3))
        generator.random(5)
        assert through_json(generator).random() == generator.random()


def through_json(value: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    return decode(json.loads(json.dumps(encode(value, "x", tensors))), tensors)


class OwnPolicy(RecurrentActorCritic):
    """A policy class of one's own."""


def falling(progress: float) -> float:
    return 0.01 * progress


class TestWhatCannotBeSaved:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("learning_rate", falling),
            ("learning_rate", lambda left: 0.01 * left),
            ("entropy_coefficient", lambda left: 0.01 * left),
            ("policy", OwnPolicy),
        ],
        ids=["function", "lambda", "entropy", "policy"],
    )
    def test_refused_by_name_or_given_again(self, name: str, value: Any, tmp_path: Path) -> None:
        """The error names the argument and the way out; the earlier file stays."""
        small_agent().save(tmp_path / "agent")
        before = (tmp_path / "agent.zip").read_bytes()
        agent = small_agent(**{name: value}).learn(12)
        with pytest.raises(ValueError, match=rf"^{name} cannot be saved.*exclude=.*custom_objects"):
            agent.save(tmp_path / "agent")
        assert (tmp_path / "agent.zip").read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]

        attribute = "policy_class" if name == "policy" else name
        agent.save(tmp_path / "agent", exclude=[attribute])
        with pytest.raises(ValueError, match=f"saved without {attribute}.*custom_objects"):
            RL2.load(tmp_path / "agent")
        again = {"custom_objects": {attribute: value}}
        loaded = RL2.load(tmp_path / "agent", "BernoulliBandit", "cpu", **again)
        agent.learn(12, reset_num_timesteps=False)
        loaded.learn(12, reset_num_timesteps=False)
        for key, parameter in agent.policy.state_dict().items():
            assert torch.equal(parameter, loaded.policy.state_dict()[key])

    @pytest.mark.parametrize("make", [MAMLTRPO, PEARL])
    def test_other_agents_name_the_argument_too(self, make: Any, tmp_path: Path) -> None:
        name = {MAMLTRPO: "maml_trpo", PEARL: "pearl"}[make]
        agent = make_agent(name)
        agent.policy_kwargs = {"hidden_sizes": [8, nn.ReLU]}
        with pytest.raises(ValueError, match=r"policy_kwargs\['hidden_sizes'\]\[1\] cannot.*ReLU"):
            agent.save(tmp_path / "agent")

    def test_learners(self, tmp_path: Path) -> None:
        """An argument of a learner; its network may be one's own, and is given again."""
        learner = MAML(Net(3), 0.2, seed=1, device="cpu")
        learner.settings["num_steps"] = falling
        with pytest.raises(ValueError, match=r"^num_steps cannot be saved"):
            learner.save(tmp_path / "learner")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "value",
        [np.array([{}]), object(), {1, 2}, 1j, b"x", torch.zeros(2, dtype=torch.complex128), int],
        ids=lambda value: type(value).__name__,
    )
    def test_other_kinds(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^x\[0\]\['y'\] cannot be saved"):
            encode([{"y": value}], "x", {})

    def test_schedules_of_stable_baselines3_are_saved(self, tmp_path: Path) -> None:
        schedule = LinearSchedule(0.01, 0.001, 0.5)
        small_agent(learning_rate=schedule, entropy_coefficient=schedule).save(tmp_path / "agent")
        loaded = RL2.load(tmp_path / "agent")
        assert repr(loaded.learning_rate) == repr(loaded.entropy_coefficient) == repr(schedule)
        assert loaded.lr_schedule(0.75) == schedule(0.75)
