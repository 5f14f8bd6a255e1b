"""A sample of the wrong inputs of ``benchmarks/bad_inputs.py``, and what wrong values are."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.ppo import PPO
from meta_rl.agents.promp import ProMP
from meta_rl.agents.rl2 import RL2
from meta_rl.agents.varibad import VariBAD
from meta_rl.arguments import CheckedArguments, check_annotated, checked
from meta_rl.cli.commands import Evaluate, Train
from meta_rl.cli.settings import check_settings, check_threads

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bad_inputs() -> Any:
    spec = importlib.util.spec_from_file_location("bad_inputs", BENCHMARKS / "bad_inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bad_inputs"] = module  # where its dataclass looks for names
    spec.loader.exec_module(module)
    return module


def test_a_sample_is_refused_by_one_line(bad_inputs: Any) -> None:
    rows = bad_inputs.table(every=9)
    assert len(rows) > 60
    assert {row.where for row in rows} >= {"agents", "environments", "command line"}
    assert [row for row in rows if not row.clear] == []


def test_an_accepted_input_is_seen(bad_inputs: Any) -> None:
    scope = {"fine": int}
    assert not bad_inputs.try_python("x", "fine('3')", scope).clear
    assert not bad_inputs.try_python("x", "{}['a']", scope).clear
    assert not bad_inputs.try_python("x", "fine('a')", scope, name="other").clear
    assert bad_inputs.try_python("x", "fine('a')", scope, name="int").clear
    assert not bad_inputs.try_command("envs").clear


def test_the_committed_table_has_no_other() -> None:
    rows = json.loads((BENCHMARKS / "results" / "bad_inputs.json").read_text(encoding="utf-8"))
    assert len(rows) >= 150
    assert all(row["clear"] for row in rows)


class Base(CheckedArguments):
    def __init__(self, gain: float = 1.0, label: str | None = None, **more: Any) -> None:
        self.gain, self.label, self.more = gain, label, more


class Derived(Base):
    def __init__(self, count: int, sizes: Sequence[int] = (), **base: Any) -> None:
        super().__init__(**base)
        self.count = count


class Closed(Base):
    def __init__(self, flag: bool = False, gain: float = 1.0) -> None:
        super().__init__(gain)
        self.flag = flag


class TestCheckedArguments:
    def test_arguments_that_fit(self) -> None:
        assert Derived(np.int64(3), (2,), gain=np.float32(0.5), label="x", other=3).gain == 0.5
        assert Closed(np.True_, 2).gain == 2

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: Derived(1.5), ValueError, "count has to be a whole number, got 1.5"),
            (lambda: Derived(3, 4), TypeError, "sizes has to be a sequence, got 4"),
            (lambda: Derived(3, gain=math.inf), ValueError, "gain has to be a finite number, got"),
            (lambda: Derived(3, gain=None), ValueError, "gain has to be a finite number, got None"),
            (lambda: Derived(3, label=3), TypeError, "label has to be a text or None, got 3"),
            (lambda: Closed("no"), ValueError, "flag has to be True or False, got 'no'"),
            (lambda: Closed(flug=True), TypeError, "unexpected keyword argument 'flug'; did you"),
            (lambda: Closed(label="x"), TypeError, "unexpected keyword argument 'label'"),
        ],
    )
    def test_others_are_refused(self, make: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            make()

    def test_of_functions(self) -> None:
        @checked
        def double(number: float, *, twice: bool = False) -> float:
            return number * (4 if twice else 2)

        assert double(2, twice=True) == 8
        with pytest.raises(ValueError, match="number has to be a finite number, got nan"):
            double(math.nan)
        with pytest.raises(TypeError, match="unexpected keyword argument 'twize'; did you mean tw"):
            double(2, twize=True)

    def test_an_annotation_with_other_parts_is_not_checked(self) -> None:
        check_annotated("x", object(), "int | Something")
        check_annotated("x", math.inf, 'Annotated[float, "infinity too"]')


@pytest.mark.parametrize("command", [Train("rl2", "BernoulliBandit"), Evaluate(Path("run"))])
@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_numbers_of_threads(command: Any, threads: int) -> None:
    command.threads = threads
    with pytest.raises(ValueError, match=f"--threads must be from 1 to .*, got {threads}"):
        check_threads(command)


@pytest.mark.parametrize("value", [math.inf, math.nan, [1.0, math.inf], [[0, -math.inf]]])
@pytest.mark.parametrize("owner", [None, Derived])
def test_infinite_settings(owner: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"env\.rate has to hold finite numbers, got"):
        check_settings(owner, "env.", {"rate": value})


SHARED = {"env_kwargs", "policy_kwargs", "stats_window_size", "verbose", "seed", "device"}


@pytest.mark.parametrize(
    ("agent", "absent"),
    [
        (RL2, "envs_per_task"),
        (PPO, "envs_per_task"),
        (VariBAD, "envs_per_task"),
        (MAMLTRPO, "learning_rate"),
        (ProMP, "inner_loss"),
        (ProMP, "first_order"),
        (PEARL, "inner_lr"),
    ],
)
def test_agents_list_the_arguments_that_they_pass_on(agent: type[Any], absent: str) -> None:
    """Also those of the base classes, and no others; wrong values and names are told."""
    names = list(inspect.signature(agent).parameters)
    assert names[:2] == ["policy", "env"]
    assert set(names) > SHARED
    assert not {absent, "settings"} & set(names)
    with pytest.raises(TypeError, match=rf"{agent.__name__}\(\) got an unexpected .* '{absent}'"):
        agent(**{absent: 1})
    with pytest.raises(TypeError, match="'verbos'; did you mean verbose"):
        agent(verbos=1)
    with pytest.raises(ValueError, match=r"stats_window_size has to be a whole number, got 1\.5"):
        agent(env="meta_rl/PointNavigation-v0", stats_window_size=1.5)
