"""One assignment of tasks for native and for adapted batches.

Random sequences of steps, resets and settings give the same played tasks, waiting tasks and starts
of trials in both; an episode without a step does not count; draws follow the seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meta_rl import TaskEnv, TaskVectorEnv
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.tasks import UniformTasks
from meta_rl.vector.task_assignment import TaskAssignment

from .families import Corridor

NUM = 3
ALL = np.ones(NUM, dtype=bool)
SPACE = Corridor().task_split.space


def batches(**kwargs: Any) -> list[Any]:
    native = TaskVectorEnv(Corridor, NUM, **kwargs)
    return [native, TaskVectorAdapter([lambda: TaskEnv(Corridor)] * NUM, **kwargs)]


def snapshot(env: Any) -> list[Any]:
    pending = env.pending_tasks
    return [
        None if env.tasks is None else env.tasks.tolist(),
        None if pending is None else pending.tolist(),
        env.trial_start.tolist(),
    ]


@pytest.mark.parametrize("resample_tasks", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_native_and_adapted_batches_agree(seed: int, resample_tasks: bool) -> None:
    rng = np.random.default_rng(seed)
    native, adapted = batches(resample_tasks=resample_tasks)
    seeds = rng.integers(1000, size=NUM).tolist()  # each its own, as batches draw at other times
    for env in (native, adapted):
        env.reset(seed=seeds)
    kinds = set()
    for _ in range(60):
        kind = rng.choice(["step", "step", "step", "reset", "masked", "set", "unset", "seeded"])
        kinds.add(kind)
        mask = rng.random(NUM) < 0.5
        mask[rng.integers(NUM)] = True
        tasks = rng.integers(1, 6, NUM)
        seeds = rng.integers(1000, size=NUM).tolist()
        for env in (native, adapted):
            if kind == "step":
                env.step(np.zeros(NUM, dtype=np.int64))
            elif kind == "reset":
                env.reset()
            elif kind == "masked":
                env.reset(options={"reset_mask": mask})
            elif kind == "seeded":
                env.reset(seed=seeds)
            else:
                env.set_tasks(tasks if kind == "set" else None)
        assert snapshot(native) == snapshot(adapted), kind
    assert len(kinds) == 6


@pytest.mark.parametrize("place", [0, 1], ids=["native", "adapted"])
def test_a_reset_without_a_step_keeps_the_task(place: int) -> None:
    env = batches(resample_tasks=True)[place]
    env.reset(seed=[1, 2, 3])
    played = env.tasks.tolist()
    for _ in range(5):
        env.reset()
        assert env.tasks.tolist() == played
        assert not env.trial_start.any()
    drawn = set()
    for _ in range(20):
        env.step(np.zeros(NUM, dtype=np.int64))
        env.reset()
        drawn.add(tuple(env.tasks.tolist()))
    assert len(drawn) > 3


def test_drawn_ahead_is_drawn_once() -> None:
    ahead, late = (
        TaskAssignment(NUM, UniformTasks(SPACE), episodes_per_trial=1, resample=True)
        for _ in range(2)
    )
    for assignment in (ahead, late):
        assignment.seed(5)
        assignment.begin(ALL, seeded=True)
    for _ in range(10):
        for _ in range(3):
            new, coming = ahead.prepare(ALL, stepped=True)
        assert new.all()
        for assignment in (ahead, late):
            assignment.step()
            assignment.begin(ALL)
        np.testing.assert_array_equal(ahead.played, late.played)
        np.testing.assert_array_equal(ahead.played, coming)
        assert ahead.pending is None


def test_other_seeds_forget_what_was_drawn_ahead() -> None:
    found = []
    for ahead in (False, True):
        assignment = TaskAssignment(NUM, UniformTasks(SPACE), 1, resample=True)
        assignment.seed(5)
        assignment.begin(ALL, seeded=True)
        if ahead:
            assignment.prepare(ALL, stepped=True)
        assignment.seed(6)
        assignment.begin(ALL, seeded=True)
        found.append(assignment.played.tolist())
    assert found[0] == found[1]
