"""A batch shared by threads gives what one thread gives."""

from __future__ import annotations

import gc
import pickle
import threading

import mujoco
import numpy as np
import pytest

from meta_rl.physics.batch import FULL_PHYSICS, MujocoBatch
from meta_rl.physics.shared_rollout import Rollouts, SharedRollout

PENDULUM = """
<mujoco><worldbody><body><joint name="hinge" axis="0 1 0"/><geom size="0.1" pos="0.5 0 0"/></body>
</worldbody><actuator><motor joint="hinge"/></actuator></mujoco>
"""


def make_work(num: int, num_steps: int = 3) -> Rollouts:
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    size = mujoco.mj_stateSize(model, FULL_PHYSICS)
    rng = np.random.default_rng(0)
    return Rollouts(
        [model] * num,
        rng.uniform(-1, 1, (num, size)),
        num_steps,
        rng.uniform(-1, 1, (num, num_steps, 1)),
        np.full((num, num_steps, size), np.nan),
    )


def stepped_by_hand(work: Rollouts) -> np.ndarray:
    states = np.empty_like(work.states)
    data = mujoco.MjData(work.models[0])
    for i, model in enumerate(work.models):
        mujoco.mj_setState(model, data, work.physics[i], FULL_PHYSICS)
        for k in range(work.num_steps):
            data.ctrl[:] = work.controls[i, k]
            mujoco.mj_step(model, data)
            mujoco.mj_getState(model, data, states[i, k], FULL_PHYSICS)
    return states


@pytest.mark.parametrize("num", [1, 2, 3, 7, 64, 131])
@pytest.mark.parametrize("nthread", [1, 2, 3, 5])
def test_every_row_is_rolled_out(num: int, nthread: int) -> None:
    work = make_work(num)
    roll_out = SharedRollout(nthread)
    for _ in range(2):
        roll_out(work)
        np.testing.assert_array_equal(work.states, stepped_by_hand(work))
        work.states[:] = np.nan
    roll_out.close()
    roll_out(work)  # starts again
    np.testing.assert_array_equal(work.states, stepped_by_hand(work))
    roll_out.close()


def test_an_error_of_either_thread_is_raised_and_the_next_call_works() -> None:
    roll_out = SharedRollout(2)
    work = make_work(64)
    for broken in (0, 63):  # the caller's row, and its companion's
        models = list(work.models)
        models[broken] = "not a model"
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            roll_out(Rollouts(models, work.physics, 3, work.controls, work.states))
        roll_out(work)
        np.testing.assert_array_equal(work.states, stepped_by_hand(work))
    roll_out.close()


@pytest.mark.parametrize("closed", [True, False])
def test_threads_end_with_close_and_with_their_owner(closed: bool) -> None:
    before = set(threading.enumerate())
    roll_out = SharedRollout(2)
    roll_out(make_work(8))
    (companion,) = set(threading.enumerate()) - before  # those of earlier tests may end meanwhile
    if closed:
        roll_out.close()
        assert not companion.is_alive()
    del roll_out
    gc.collect()
    companion.join(timeout=5)
    assert not companion.is_alive()


def test_a_copy_starts_threads_of_its_own() -> None:
    batch = MujocoBatch("half_cheetah.xml", 5, nthread=2)
    physics = batch.physics(np.tile(batch.init_qpos, (4, 1)), np.zeros((4, batch.model.nv)))
    control = np.full((4, batch.model.nu), 0.3)
    expected = batch.step(physics, control)
    copied = pickle.loads(pickle.dumps(batch))
    batch.close()
    np.testing.assert_array_equal(copied.step(physics, control), expected)
    copied.close()
