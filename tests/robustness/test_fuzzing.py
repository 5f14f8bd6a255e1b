"""Made-up settings, tasks and run folders: an error of one kind and one line, or nothing wrong."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from meta_rl import algorithms
from meta_rl.algorithms import register_algorithm
from meta_rl.cli import Train, main, run_config
from meta_rl.cli.run_folder import RunFolder, learning_columns
from meta_rl.cli.training import make_model, open_tasks
from meta_rl.evaluation.result import EvaluationResult
from meta_rl.files.checksums import checked_json
from meta_rl.tasks import Tasks

from .small_files import QUICK

FEW = settings(QUICK, max_examples=30)
"""For what takes several milliseconds."""

ODD_NUMBERS = [0, -1, 3, 10**30, -0.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, True]
WORDS = ["", "nan", "auto", "None", "a\nb", "é", "x" * 300, "../x", "__class__"]
PLAIN = st.recursive(
    st.sampled_from([None, *ODD_NUMBERS, *WORDS]) | st.floats(width=16) | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=5,
)
"""Values that JSON and TOML can hold; none is so large that it would take all memory."""


def one_line(arguments: list[str]) -> tuple[int, str]:
    """Exit code and error of a command; the error has one line at most."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    error = printed.getvalue()
    assert error.startswith("meta-rl: ") or not error
    assert error.count("\n") == (1 if code else 0)
    assert code in (0, 2)
    return code, error


def finite(value: Any) -> bool:
    """Whether all numbers of settings are finite."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


ALGORITHMS = {
    "rl2": ("BernoulliBandit", ["learning_rate", "gamma", "num_minibatches", "env.horizon"]),
    "varibad": ("GridNavigation", ["kl_weight", "policy.latent_size", "policy.reward_values"]),
    "maml_trpo": ("PointRobot", ["max_kl", "inner_lr", "envs_per_task", "policy.hidden_sizes"]),
    "pearl": ("PointRobot", ["tau", "reward_scale", "policy.latent_size", "tasks_per_update"]),
    "protonet": ("Csv-3w1s", ["meta_lr", "network", "env.path", "env.queries", "env.fractions"]),
    "maml": ("Sinusoid-5s", ["lr", "num_steps", "env.amplitude", "policy.hidden"]),
    "ntm": ("Copy", ["slots", "width", "meta_batch_size", "env.bits"]),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_settings_of_the_command_line(name: str) -> None:
    """A value of ``--param`` is refused, or the settings are finite and make a learner."""
    tasks, names = ALGORITHMS[name]

    @FEW
    @given(setting=st.sampled_from(names), value=PLAIN)
    def check(setting: str, value: Any) -> None:
        text = value if isinstance(value, str) else repr(value).replace("inf", "1e999")
        command = Train(name, tasks, param=((f"{setting}={text}",),), device="cpu")
        try:
            config = run_config(command)
            make_model(config, open_tasks(config), "cpu")
        except (ValueError, OSError) as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert finite([config.algorithm_kwargs, config.env_kwargs]), (setting, text)

    check()


def toml(value: Any) -> str:
    """A value in a settings file."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The settings of an algorithm of one's own."""
    path = tmp_path_factory.mktemp("own") / "own.toml"
    path.write_text("")
    register_algorithm("own-rl2", "meta_rl.agents.rl2:RL2", settings=path)
    yield path
    algorithms._registered.pop("own-rl2")


class TestSettingsFiles:
    def begin(self, folder: Path) -> tuple[int, str]:
        words = ["train", "own-rl2", "BernoulliBandit", "--quiet", "--device", "cpu"]
        return one_line(
            [*words, "--eval-tasks", "0", "--out", str(folder), "--param", "meta_batch_size=4"]
        )

    @QUICK
    @given(name=st.sampled_from(["env", "policy", "like", "total_timesteps", "gamma"]), value=PLAIN)
    def test_values(self, file: Path, name: str, value: Any) -> None:
        if value is None:
            return
        length = "" if name == "total_timesteps" else "total_timesteps = 0\n"
        file.write_text(f"[BernoulliBandit]\n{length}{name} = {toml(value)}\n", encoding="utf-8")
        command = Train("own-rl2", "BernoulliBandit", device="cpu")
        try:
            config = run_config(command)
            make_model(config, open_tasks(config), "cpu")
        except (ValueError, OSError) as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert finite([config.algorithm_kwargs, config.env_kwargs])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('[BernoulliBandit]\nlike = "Unknown"', "Unknown"),
            ('[BernoulliBandit]\nlike = "BernoulliBandit"', "like"),
            ('[A]\nlike = "BernoulliBandit"\n[BernoulliBandit]\nlike = "A"', "like"),
            ("BernoulliBandit = 5", "BernoulliBandit"),
            ("[BernoulliBandit", "own.toml"),
            ("[BernoulliBandit]\nenv = 5", "env"),
            ("[BernoulliBandit]\ntotal_timesteps = inf", "total_timesteps"),
            ("[BernoulliBandit]\ntotal_timesteps = -1", "total_timesteps"),
            ("[BernoulliBandit]\ntotal_timesteps = 1.5", "total_timesteps"),
            ("[BernoulliBandit]\ngamma = nan", "gamma"),
        ],
    )
    def test_wrong_files(self, file: Path, text: str, message: str, tmp_path: Path) -> None:
        file.write_text(text)
        code, error = self.begin(tmp_path / "run")
        assert code == 2
        assert message in error


FAMILIES = [
    *("BernoulliBandit", "GaussianBandit", "GridNavigation", "PointRobot", "SparsePointNavigation"),
    *("PointNavigation", "TabularMDP", "DarkRoom", "DarkKeyToDoor", "TMaze", "WindNavigation"),
    *("HalfCheetahVel", "HalfCheetahDir", "HopperRandParams", "HalfCheetahCripple"),
]


def changed(task: Tasks, data: st.DataObject) -> Any:
    """A task with another leaf, another shape, or something else."""
    if isinstance(task, dict):
        key = data.draw(st.sampled_from([*task, "more"]))
        return {**task, key: changed(task.get(key, np.zeros(1)), data)}
    array = np.asarray(task)
    kind = data.draw(st.sampled_from(["value", "shape", "type", "other", "same"]))
    if kind == "value":
        values = array.astype(np.float64).reshape(-1)
        values[data.draw(st.integers(0, max(0, values.size - 1)))] = data.draw(
            st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 0.5])
        )
        return values.reshape(array.shape)
    if kind == "shape":
        return data.draw(st.sampled_from([array[None], array.reshape(-1), array[..., :0], array.T]))
    if kind == "type":
        return array.astype(data.draw(st.sampled_from([bool, complex, object, str, np.int8, "f2"])))
    return data.draw(PLAIN) if kind == "other" else array


@pytest.mark.parametrize("name", FAMILIES)
def test_tasks(name: str) -> None:
    """A task that is not in its space is refused; the task that was played stays."""
    env = gym.make(f"meta_rl/{name}-v0")
    split = env.unwrapped.task_split
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    good = info["task"]

    @QUICK
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        drawn = split.train.sample_tasks(1, rng)
        one = {k: v[0] for k, v in drawn.items()} if isinstance(drawn, dict) else drawn[0]
        task = changed(one, data)
        try:
            _, info = env.reset(options={"task": task})
        except (ValueError, TypeError) as error:
            assert "task" in str(error)  # noqa: PT017
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            return
        assert info["task"] in split.train.space
        observation, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(np.asarray(reward)).all()
        assert all(
            np.isfinite(leaf).all()
            for leaf in (observation.values() if isinstance(observation, dict) else [observation])
        )

    check()
    env.reset(options={"task": good})
    env.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "rl2", "BernoulliBandit", "--quiet", "--device", "cpu", "--eval-tasks", "2"]
    sizes = ["meta_batch_size=4", "num_minibatches=2", "policy.hidden_size=2", "env.horizon=3"]
    words += ["--total-timesteps", "12", "--out", str(out), "--param", *sizes]
    assert main(words) == 0
    return out


class TestRunFolders:
    @FEW
    @given(name=st.text(max_size=9) | st.sampled_from(["seed", "env_kwargs"]), value=PLAIN)
    def test_configurations(self, run: Path, name: str, value: Any) -> None:
        """Any entry, with a valid checksum."""
        file = run / "config.json"
        before = file.read_text()
        content = json.loads(before)
        known = [key for key in content if key != "checksum"]
        key = name if name not in ("",) else known[len(str(value)) % len(known)]
        del content["checksum"]
        file.write_text(checked_json({**content, key: value}))
        try:
            code, _ = one_line(["evaluate", str(run), "--num-tasks", "2", "--device", "cpu"])
            assert code == 2 or key in content
        finally:
            file.write_text(before)
            for made in run.glob("evaluation-*"):
                made.unlink()

    @FEW
    @given(value=PLAIN, data=st.data())
    def test_evaluations(self, run: Path, value: Any, data: st.DataObject) -> None:
        content = json.loads((run / "evaluation.json").read_text())
        del content["checksum"]
        key = data.draw(st.sampled_from([*content, "more"]))
        whole = data.draw(st.booleans())
        path = run / "made_up.json"
        path.write_text(json.dumps(value) if whole else checked_json({**content, key: value}))
        try:
            found = EvaluationResult.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            return
        assert np.isfinite(found.values).all()
        str(found)
        found.summary()
        found.plot()

    @QUICK
    @given(text=st.text(alphabet="0123456789.,-einf\n\r\"' a\0é", max_size=60), whole=st.booleans())
    def test_logs(self, run: Path, text: str, whole: bool) -> None:
        folder = RunFolder(run / "made_up")
        folder.path.mkdir(exist_ok=True)
        head = "" if whole else "time/total_timesteps,rollout/trial_return\n4,1.0\n"
        folder.progress.write_text(head + text, encoding="utf-8")
        try:
            curve = learning_columns(folder.learning_curve())
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert len(curve.steps) == len(curve.trained)
