"""Sub-environments in blocks over processes.

All that a block gives - observations, rewards, ends, infos that only some have, first states of
seeds, masked resets, attributes, frames - is what Gymnasium's ``SyncVectorEnv`` gives, whatever the
number of processes; there are no more processes than were asked for; errors come through.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from meta_rl.vector.process_blocks import ProcessBlocks, count_cores

NUM_ENVS = 5
SEEN = spaces.Dict({"noise": spaces.Box(-9.0, 9.0, (2,), np.float64), "steps": spaces.Discrete(9)})


class Talkative(gym.Env):
    """Ends after as many steps as its seed says (1 to 4); tells something else at every step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}
    render_mode = "ansi"
    observation_space = SEEN
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    name = "nobody"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.length = 1 + seed % 4
        self.steps = 0
        return self.seen(), {"seeded": seed is not None, "offset": (options or {}).get("offset", 0)}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if action[0] < 0:
            raise ArithmeticError("an action below zero")
        self.steps += 1
        info: dict[str, Any] = {"name": self.name, "twice": np.full(2, self.steps)}
        if self.steps == 2:
            info = {"deep": {"rare": 0.5 * self.steps, "action": float(action[0])}}
        ends = self.steps == self.length
        return self.seen(), float(action[0]), ends and self.length < 3, ends, info

    def seen(self) -> dict[str, Any]:
        return {"noise": self.np_random.uniform(size=2), "steps": self.steps}

    def render(self) -> Any:
        return f"{self.name} {self.steps}"


@contextmanager
def blocks(num_processes: int | None, num_envs: int = NUM_ENVS) -> Iterator[ProcessBlocks]:
    env = ProcessBlocks([Talkative] * num_envs, num_processes)
    try:
        yield env
    finally:
        env.close()


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict | tuple | list):
        keys = sorted(one) if isinstance(one, dict) else range(len(one))
        assert keys == (sorted(other) if isinstance(other, dict) else range(len(other)))
        for key in keys:
            assert_same(one[key], other[key])
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert_same(list(one), list(other))
    else:
        np.testing.assert_array_equal(one, other)
        assert getattr(one, "dtype", type(one)) == getattr(other, "dtype", type(other))


def course(env: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    env.set_attr("name", [f"number {i}" for i in range(NUM_ENVS)])
    record: list[Any] = [env.reset(seed=3, options={"offset": 7})]
    for step in range(12):
        record.append(env.step(rng.uniform(size=(NUM_ENVS, 1)).astype(np.float32)))
        if step in (4, 8):
            # At first of the last sub-environment only: other blocks have nothing to reset.
            mask = np.arange(NUM_ENVS) >= (4 if step == 4 else 1)
            record.append(env.reset(seed=step if step == 8 else None, options={"reset_mask": mask}))
        record.append(env.render())
    return record


@pytest.mark.parametrize("num_processes", [1, 2, 3, 9])
def test_the_number_of_processes_changes_nothing(num_processes: int) -> None:
    one = SyncVectorEnv([Talkative] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    expected = course(one)
    told = {key for record in expected if len(record) == 5 for key in record[-1]}
    assert {"final_obs", "final_info", "deep", "twice", "name", "_seeded"} <= told
    with blocks(num_processes) as env:
        assert env.num_processes == min(num_processes, NUM_ENVS)
        assert len(multiprocessing.active_children()) == env.num_processes
        for name in (
            "observation_space",
            "action_space",
            "single_observation_space",
            "render_mode",
        ):
            assert getattr(env, name) == getattr(one, name)
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        for one_record, record in zip(expected, course(env), strict=True):
            assert_same(one_record, record)
    assert multiprocessing.active_children() == []


def test_hundreds_of_sub_environments_need_no_hundreds_of_processes() -> None:
    with blocks(None, 300) as env:
        assert env.num_processes == len(multiprocessing.active_children()) == count_cores()
        assert env.reset(seed=0)[0]["noise"].shape == (300, 2)


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")  # how Gymnasium prints the traceback
def test_errors_come_through() -> None:
    with blocks(2) as env:
        env.reset(seed=0)
        bad = np.array([[1.0], [1.0], [1.0], [-1.0], [1.0]], dtype=np.float32)
        with pytest.raises(ArithmeticError, match="an action below zero"):
            env.step(bad)
    assert multiprocessing.active_children() == []
    for number in (0, 1.5):
        with pytest.raises(ValueError, match="num_processes has to be a whole number"):
            ProcessBlocks([Talkative], number)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_envs has to be"):
        ProcessBlocks([])
