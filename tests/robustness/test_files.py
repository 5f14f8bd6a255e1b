"""Files of agents and learners: reading runs nothing, and all damage is seen.

Attacks are tried with a valid checksum too, as whoever makes up a file can compute one.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from stable_baselines3.common.utils import LinearSchedule

from meta_rl.agents.rl2 import RL2
from meta_rl.cli import main
from meta_rl.few_shot import MAML
from meta_rl.files.plain_data import decode
from meta_rl.files.sealed import read_file

from .every_learner import learned
from .small_files import QUICK, Kept, members, sealed, small_agent, small_learner

FORMER = {"agent": Path(__file__).parents[1] / "data" / "former_rl2.zip"}
FORMER["learner"] = FORMER["agent"].with_name("former_maml.zip")


@pytest.fixture(params=["agent", "learner"])
def kept(request: pytest.FixtureRequest) -> Kept:
    return Kept(request.param)


class Foreign:
    """Code that makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path) -> dict[str, str]:
    """Foreign code, as Stable-Baselines3 writes objects."""
    return {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Foreign(mark))).decode()}


class TestLoadingRunsNothing:
    def test_pickled_members_and_entries(self, kept: Kept, tmp_path: Path) -> None:
        """In the description, as a tensor file, and beside them; the checksum is valid."""
        mark = tmp_path / "executed"
        parts = members(kept.save(tmp_path / "good.zip"))
        about = json.loads(parts["data"])
        first = next(iter(about["content"]))
        code = pickle.dumps(Foreign(mark))
        for changed in (
            {"data": json.dumps({**about, "anything": pickled(mark)}).encode()},
            {"data": json.dumps({**about, "content": pickled(mark)}).encode()},
            {
                "data": json.dumps(
                    {**about, "content": {**about["content"], first: pickled(mark)}}
                ).encode()
            },
            {"data": code},
            {"tensors.safetensors": code},
            {"policy.pth": code},
            {"archive/data.pkl": code},
            {"_stable_baselines3_version": b"2.0", "more": code},
        ):
            path = sealed(tmp_path / "bad.zip", {**parts, **changed})
            try:
                kept.load(path)
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert "anything" in str(changed)  # plain data that nobody reads
            assert not mark.exists()

    def test_former_agents_run_code_and_need_trust(self, tmp_path: Path) -> None:
        """The same attack works on a trusted file, so that this test can fail."""
        mark = tmp_path / "executed"
        parts = members(FORMER["agent"])
        about = {**json.loads(parts["data"]), "anything": pickled(mark)}
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in {**parts, "data": json.dumps(about).encode()}.items():
                archive.writestr(name, part)
        with pytest.raises(ValueError, match=r"meta-rl convert OLD NEW.*trust_pickle=True"):
            RL2.load(path)
        run = tmp_path / "run"
        assert not mark.exists()
        train(run)
        os.replace(path, run / "checkpoint.zip")
        assert main(["evaluate", str(run), "--num-tasks", "4"]) == 2
        assert main([*TRAIN, "--out", str(run), "--resume", "--total-timesteps", "48"]) == 2
        assert not mark.exists()
        RL2.load(run / "checkpoint.zip", trust_pickle=True)
        assert mark.exists()

    def test_environments_arguments_import_nothing(self, tmp_path: Path) -> None:
        """A definition in a file's ``env_kwargs`` would be imported and called."""
        small_agent().save(tmp_path / "good.zip")
        parts = members(tmp_path / "good.zip")
        about = json.loads(parts["data"])
        mark = tmp_path / "executed"
        about["content"]["attributes"]["env_kwargs"] = {"definition": "os:mkdir", "path": str(mark)}
        path = sealed(tmp_path / "bad.zip", {**parts, "data": json.dumps(about).encode()})
        with pytest.raises(ValueError, match="BernoulliBandit has a definition already"):
            RL2.load(path, env="BernoulliBandit")
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["os:mkdir", "Foreign", "__class__", "", None, 3, ["tuple"]])
    def test_no_tag_names_a_function(self, name: Any) -> None:
        with pytest.raises((KeyError, TypeError)):
            decode({"!": name, "value": ["x"]}, {})

    @QUICK
    @given(data=st.data())
    def test_made_up_descriptions_are_refused(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """Any JSON in any place, with a valid checksum: an error of one kind, or a whole agent."""
        folder = tmp_path_factory.mktemp("fuzz")
        for kind in ("agent", "learner"):
            about = json.loads(MADE[kind][1]["data"])
            place: Any = about
            for _ in range(data.draw(st.integers(0, 3))):
                inner = place if isinstance(place, dict) else range(len(place))
                keys = [key for key in inner if isinstance(place[key], dict | list) and place[key]]
                if keys:
                    place = place[data.draw(st.sampled_from(keys))]
            inner = list(place if isinstance(place, dict) else range(len(place)))
            place[data.draw(st.sampled_from(inner))] = data.draw(JSON)
            path = sealed(folder / "bad.zip", {**MADE[kind][1], "data": json.dumps(about).encode()})
            try:
                MADE[kind][0].load(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["!", "value", "x"]), inner, max_size=2)
        | st.builds(
            lambda tag, value: {"!": tag, "value": value},
            st.sampled_from(["tuple", "array", "Box", "Discrete", "tensor", "number", "generator"]),
            inner,
        )
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module", autouse=True)
def _made(tmp_path_factory: pytest.TempPathFactory) -> None:
    for kind in ("agent", "learner"):
        one = Kept(kind)
        MADE[kind] = (one, members(one.save(tmp_path_factory.mktemp("made") / "good.zip")))


MADE: dict[str, tuple[Kept, dict[str, bytes]]] = {}


class TestDamage:
    def test_every_flipped_bit_is_seen(self, kept: Kept, tmp_path: Path) -> None:
        """Bits at random, those of both directories, and all of the checksum."""
        content = kept.save(tmp_path / "good.zip").read_bytes()
        path = tmp_path / "bad.zip"
        rng = np.random.default_rng(0)
        bits = {int(bit) for bit in rng.integers(8 * len(content), size=400)}
        bits |= set(range(0, 8 * 40, 3)) | set(range(8 * len(content) - 8 * 300, 8 * len(content)))
        for bit in sorted(bits):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            for trusted in (False, True):
                with pytest.raises(ValueError, match=r"bad\.zip is a corrupt checkpoint"):
                    read_file(path, type(kept.one).__name__, trust_pickle=trusted)
        path.write_bytes(content)
        kept.load(path)

    def test_cut_and_prolonged_files(self, kept: Kept, tmp_path: Path) -> None:
        content = kept.save(tmp_path / "good.zip").read_bytes()
        path = tmp_path / "bad.zip"
        cut = [content[:n] for n in (0, 1, 70, 71, 72, len(content) // 2, len(content) - 1)]
        for damaged in (*cut, content + b"\0", b"\0" + content, content + content[-71:]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="is a corrupt checkpoint"):
                kept.load(path)

    def test_members_are_lost_or_foreign_or_packed(self, kept: Kept, tmp_path: Path) -> None:
        """Other members with a valid checksum; a packed member could be a bomb."""
        parts = members(kept.save(tmp_path / "good.zip"))
        path = tmp_path / "bad.zip"
        for wrong in (
            {},
            {"data": parts["data"]},
            {"tensors.safetensors": parts["tensors.safetensors"]},
            {**parts, "more": b""},
            {**parts, "data": b"[]"},
            {**parts, "data": b"\xff\xfe"},
            {**parts, "data": b"[" * 100_000},
            {**parts, "data": b'{"format": 99}'},
            {**parts, "tensors.safetensors": b""},
        ):
            with pytest.raises(ValueError, match="is a corrupt checkpoint"):
                kept.load(sealed(path, wrong))
        with pytest.raises(ValueError, match="without compression"):
            kept.load(sealed(path, parts, zipfile.ZIP_DEFLATED))

    def test_a_newer_format_is_told(self, kept: Kept, tmp_path: Path) -> None:
        parts = members(kept.save(tmp_path / "good.zip"))
        about = json.dumps({**json.loads(parts["data"]), "format": 3}).encode()
        with pytest.raises(ValueError, match="it has format 3, and this version reads 2"):
            kept.load(sealed(tmp_path / "new.zip", {**parts, "data": about}))

    def test_loading_writes_nothing(self, kept: Kept, tmp_path: Path) -> None:
        path = kept.save(tmp_path / "good.zip")
        os.chmod(tmp_path, 0o500)
        before = path.read_bytes(), path.stat().st_mtime_ns
        kept.load(path)
        os.chmod(tmp_path, 0o700)
        assert before == (path.read_bytes(), path.stat().st_mtime_ns)
        assert [file.name for file in tmp_path.iterdir()] == ["good.zip"]


class TestTheFormerFormat:
    """Files of the version before, which are a part of the tests."""

    @pytest.mark.parametrize(("kind", "cls"), [("agent", RL2), ("learner", MAML)])
    def test_needs_trust(self, kind: str, cls: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"former format.*convert OLD NEW.*trust_pickle=True"):
            cls.load(FORMER[kind])
        before = FORMER[kind].read_bytes()
        CHECKS[kind](cls.load(FORMER[kind], device="cpu", trust_pickle=True))
        assert FORMER[kind].read_bytes() == before
        other = {RL2: MAML, MAML: RL2}[cls]
        with pytest.raises(ValueError, match=f"of {cls.__name__}, not of {other.__name__}"):
            other.load(FORMER[kind], trust_pickle=True)

    @pytest.mark.parametrize(("kind", "cls"), [("agent", RL2), ("learner", MAML)])
    def test_convert(
        self, kind: str, cls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """``meta-rl convert`` writes today's format, and no file that exists."""
        new = tmp_path / "new.zip"
        assert main(["convert", str(FORMER[kind]), str(new)]) == 0
        CHECKS[kind](cls.load(new, device="cpu"))
        assert sorted(members(new)) == ["data", "tensors.safetensors"]
        before = new.read_bytes()
        assert main(["convert", str(FORMER[kind]), str(new)]) == 2
        assert "exists already" in capsys.readouterr().err
        assert new.read_bytes() == before

    def test_convert_refuses_other_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "text.zip").write_text("no checkpoint " * 100)
        for old, message in (("text.zip", "corrupt checkpoint"), ("none.zip", "no checkpoint")):
            assert main(["convert", str(tmp_path / old), str(tmp_path / "new")]) == 2
            assert message in capsys.readouterr().err
        assert [file.name for file in tmp_path.iterdir()] == ["text.zip"]

    def test_streams(self) -> None:
        RL2.load(io.BytesIO(FORMER["agent"].read_bytes()), trust_pickle=True)


def check_former_agent(agent: RL2) -> None:
    """The numbers that the former version printed when it saved the file."""
    assert agent.num_timesteps == 12
    assert float(agent.policy.state_dict()["embedding.0.weight"][0, 1]) == 0.08426099270582199
    assert agent.rng.bit_generator.state["uinteger"] == 2334851559
    assert agent.generator.get_state()[:4].tolist() == [95, 60, 122, 216]
    assert agent.lr_schedule(0.5) == LinearSchedule(0.01, 0.001, 1.0)(0.5)
    assert agent.entropy_schedule(0.5) == 0.01
    assert agent.policy_kwargs == {"hidden_size": 2, "embedding": [2]}
    agent.set_env("BernoulliBandit")
    agent.learn(12)


def check_former_learner(learner: MAML) -> None:
    predicted = learner.predict(torch.linspace(-1, 1, 3)[None, :, None])
    torch.testing.assert_close(predicted.flatten(), torch.tensor([0.6675, -0.0024, 0.1704]), **NEAR)
    state = learner.rng.bit_generator.state["state"]
    assert state["state"] == 247357296591481441440547922405578785770
    assert learner.num_iterations == 2
    assert len(learned(learner)) == len(learned(small_learner()))


NEAR = {"atol": 1e-4, "rtol": 0}
CHECKS: dict[str, Callable[[Any], None]] = {
    "agent": check_former_agent,
    "learner": check_former_learner,
}

TRAIN = [
    *("train", "rl2", "BernoulliBandit", "--quiet", "--eval-tasks", "0", "--device", "cpu"),
    *("--param", "env.num_arms=2", "env.horizon=3", "meta_batch_size=4", "num_minibatches=2"),
    *("policy.hidden_size=2", "num_epochs=1"),
]


def train(run: Path, *flags: str) -> None:
    assert main([*TRAIN, "--out", str(run), "--total-timesteps", "24", *flags]) == 0


OWN_MODULE = """
from pathlib import Path
from meta_rl import register_task_env
register_task_env("mine/Bandit-v0", "meta_rl.envs.bandits:BernoulliBandit", num_arms=2, horizon=3)
with (Path(__file__).parent / "imports").open("a") as file:
    file.write("x")
"""


class TestRunFoldersImportNothing:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A module that registers an environment, and leaves a file where it is imported."""
        (tmp_path / "own_environments.py").write_text(OWN_MODULE)
        monkeypatch.syspath_prepend(tmp_path)
        return "own_environments"

    def imported(self, tmp_path: Path) -> bool:
        """Whether the module was imported since this was asked last."""
        import gymnasium

        sys.modules.pop("own_environments", None)
        gymnasium.registry.pop("mine/Bandit-v0", None)
        file = tmp_path / "imports"
        found = file.exists()
        file.unlink(missing_ok=True)
        return found

    @pytest.mark.parametrize("by_id", [False, True], ids=["module:Id", "--import"])
    def test_ones_own_environment_is_named_again(
        self, by_id: bool, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """``evaluate`` wants --import; ``--resume`` takes the words of the command line."""
        run = tmp_path / "run"
        named = ["--import", module] if by_id else []
        words = ["mine/Bandit-v0" if by_id else f"{module}:mine/Bandit-v0"]
        own = ["train", "rl2", *words, *TRAIN[3:8], "--out", str(run), *named, "--param"]
        own += [*TRAIN[11:], "meta_batch_size=4", "num_minibatches=2", "--total-timesteps"]
        assert main([*own, "24"]) == 0
        assert self.imported(tmp_path)
        assert main(["evaluate", str(run), "--num-tasks", "4"]) == 2
        message = capsys.readouterr().err
        assert "--import" in message
        assert by_id or f"--import {module}" in message
        assert main(["plot", str(run)]) == 0
        assert not self.imported(tmp_path)
        assert main(["evaluate", str(run), "--num-tasks", "4", "--import", module]) == 0
        assert self.imported(tmp_path)
        assert main([*own, "48", "--resume"]) == 0
        assert self.imported(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"env_id": "own_environments:Bandit-v0"}, "--import own_environments"),
            ({"env_id": "a.b:c:Bandit-v0"}, "--import a.b:c"),
            ({"env_id": "Unknown-v0"}, "unknown environment 'Unknown-v0'"),
            ({"algorithm": "own_environments:RL2"}, "unknown algorithm"),
            ({"env_kwargs": {"definition": "own_environments:X"}}, "no setting 'env.definition'"),
            ({"env_kwargs": {"num_arms": "two"}}, "env.num_arms takes int, got 'two'"),
            ({"env_kwargs": [5]}, "env_kwargs: Input should be"),
            ({"algorithm": 5}, "algorithm: Input should be a valid string"),
            ({"seed": "0"}, "seed: Input should be a valid integer"),
            ({"more": 0}, "unexpected keyword argument 'more'"),
        ],
    )
    def test_changed_configurations(
        self,
        change: dict[str, Any],
        message: str,
        module: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run = tmp_path / "run"
        train(run)
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, **change}))
        assert main(["evaluate", str(run), "--num-tasks", "4"]) == 2
        assert message in capsys.readouterr().err
        assert not self.imported(tmp_path)

    @pytest.mark.parametrize("kind", ["config.json", "settings.toml", "suite.toml"])
    def test_files_of_settings_import_nothing(
        self, kind: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The module in the name of the tasks has to be given by --import, too."""
        tasks, file = f"{module}:mine/Bandit-v0", tmp_path / "run" / kind
        if kind == "config.json":
            train(tmp_path / "run")
            config = json.loads(file.read_text())
            del config["checksum"]
            file.write_text(json.dumps(config | {"tasks": tasks, "env_id": tasks}))
        else:
            file.parent.mkdir()
            row = f'tasks = "{tasks}"\n'
            cell = f'title = "x"\n[[cells]]\nlearner = "rl2"\nlabel = "one"\nminutes = 1\n{row}'
            file.write_text(cell if kind == "suite.toml" else f'algo = "rl2"\n{row}')
        words = ["train", "--config", str(file), "--out", str(tmp_path / "other")]
        words += [*TRAIN[3:9], *TRAIN[11:], "--total-timesteps", "24"]
        if kind == "suite.toml":
            words = ["benchmark", str(file), "--out", str(tmp_path / "other"), "--dry-run"]
        assert main(words) == 2
        assert f"give --import {module}" in capsys.readouterr().err
        assert not self.imported(tmp_path)
        assert main([*words, "--import", module]) == 0
        assert self.imported(tmp_path)

    @pytest.mark.parametrize("name", ["no_such_module", "", "../x", ".relative", "own-module"])
    def test_wrong_names_of_modules(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*TRAIN, "--out", str(tmp_path / "run"), "--import", name]) == 2
        assert f"--import {name}: " in capsys.readouterr().err
