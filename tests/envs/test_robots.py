"""The robots' physics are Gymnasium's, their rewards are what their docstrings say.

For every family: one step equals a step of Gymnasium's environment from the same state, velocity is
displacement over dt, the task changes the reward and not the motion (where it should not), first
states are those of Gymnasium, threads change nothing, episodes end when they should, lists of tasks
are frozen, the conformance checks hold, and arguments outside their range are refused.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import meta_rl
from meta_rl.envs.robot import Robot, RobotState
from meta_rl.mujoco_batch import FULL_PHYSICS, MujocoBatch
from meta_rl.task_env import build_definition

NUM_STATES = 1000  # visited by random actions, for the equality with Gymnasium
NUM_STATES_IN_TEST = 100  # of them, spread over the visit

# Our id, Gymnasium's id.
ROBOTS = {
    "HalfCheetahVel": "HalfCheetah-v5",
    "HalfCheetahVelMAML": "HalfCheetah-v5",
    "HalfCheetahDir": "HalfCheetah-v5",
    "AntVel": "Ant-v5",
    "AntDir": "Ant-v5",
    "AntForwardBackward": "Ant-v5",
    "AntGoal": "Ant-v5",
}

pytestmark = [
    # Of MuJoCo 4 and of Gymnasium, about the files that Gymnasium ships.
    pytest.mark.filterwarnings("ignore:.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*space m.nimum value"),
]


def make_definition(name: str, **kwargs: Any) -> Robot:
    spec = gym.spec(meta_rl.registration.find_env_id(name))
    definition = build_definition(spec.kwargs["definition"], {"nthread": 1, **kwargs})
    assert isinstance(definition, Robot)
    return definition


def make_theirs(name: str, definition: Robot) -> Any:
    return gym.make(ROBOTS[name], frame_skip=definition.batch.frame_skip).unwrapped


def visit(env: Any, num_states: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, actions and next states of a Gymnasium environment under random actions."""

    def get_state() -> np.ndarray:
        state = np.empty(mujoco.mj_stateSize(env.model, FULL_PHYSICS))
        mujoco.mj_getState(env.model, env.data, state, FULL_PHYSICS)
        return state

    env.reset(seed=seed)
    env.action_space.seed(seed)
    states, actions, after = [], [], []
    for step in range(num_states):
        action = env.action_space.sample()
        states.append(get_state())
        actions.append(action)
        terminated = env.step(action)[2]
        after.append(get_state())
        if terminated or step % 200 == 199:
            env.reset()
    return np.array(states), np.array(actions), np.array(after)


def make_state(definition: Robot, physics: np.ndarray) -> RobotState:
    warmstart = np.zeros_like(definition.batch.qvel(physics))
    return RobotState(physics, warmstart, definition.batch.sense(physics))


def draw_tasks(definition: Robot, num: int, seed: int = 0) -> Any:
    return definition.task_split.train.sample_tasks(num, np.random.default_rng(seed))


def equality_error(name: str, num_states: int, every: int = 1) -> float:
    """Largest relative error of one step of the batch, from a cold start of the solver."""
    definition = make_definition(name)
    states, actions, expected = visit(make_theirs(name, definition), num_states)
    states, actions, expected = states[::every], actions[::every], expected[::every]
    tasks = draw_tasks(definition, len(states))
    rng = np.random.default_rng(0)
    got = definition.transition(make_state(definition, states), actions, rng, tasks).physics
    assert np.abs(got - states).max() > 1e-3  # it did move
    return float((np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize("name", ROBOTS)
def test_one_step_equals_gymnasium(name: str) -> None:
    num_states = NUM_STATES if name == "HalfCheetahVel" else NUM_STATES_IN_TEST
    assert equality_error(name, num_states) < 1e-6


@pytest.mark.parametrize("name", ROBOTS)
def test_keeps_the_promises_of_a_task_environment(name: str) -> None:
    meta_rl.check_task_env(name, nthread=2)


@pytest.mark.parametrize("name", ROBOTS)
def test_first_states_and_observations_are_those_of_gymnasium(name: str) -> None:
    """Same noise, drawn in the same order: equal for a batch of one and the same generator."""
    definition = make_definition(name)
    theirs = make_theirs(name, definition)
    theirs.reset(seed=5)
    rng = np.random.default_rng(5)
    state = definition.initial(rng, draw_tasks(definition, 1))
    np.testing.assert_array_equal(definition.qpos(state)[0], theirs.data.qpos)
    np.testing.assert_array_equal(definition.qvel(state)[0], theirs.data.qvel)
    observation = definition.observation(state, rng, None)[0]
    assert observation.shape == definition.observation_space.shape
    if name != "AntGoal":  # sees x and y, which Ant-v5 leaves out
        np.testing.assert_array_equal(observation, theirs._get_obs()[: len(observation)])


@pytest.mark.parametrize("name", ROBOTS)
def test_velocity_is_displacement_over_dt(name: str) -> None:
    env = gym.make(f"meta_rl/{name}-v0").unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        before = env.definition.qpos(env._batch._state)[0, 0]
        *_, info = env.step(env.action_space.sample())
        after = env.definition.qpos(env._batch._state)[0, 0]
        dt = env.definition.batch.model.opt.timestep * env.definition.batch.frame_skip
        assert info["x_position"] == after
        assert info["x_velocity"] == pytest.approx((after - before) / dt)


def moving(definition: Robot, velocity: float, num: int) -> tuple[RobotState, RobotState]:
    """Two states, the second displaced along x (and no other axis) by ``velocity * dt``."""
    qpos = np.tile(definition.batch.init_qpos, (num, 1))
    qvel = np.zeros((num, definition.batch.model.nv))
    state = definition.state(qpos, qvel)
    qpos[:, 0] += velocity * definition.batch.dt
    return state, definition.state(qpos, qvel)


def terms_of(name: str, tasks: Any, velocity: float, action: float = 0.5) -> dict[str, Any]:
    definition = make_definition(name)
    tasks = np.asarray(tasks, dtype=np.float64)
    states = moving(definition, velocity, len(tasks))
    actions = np.full((len(tasks), *definition.action_space.shape), action, dtype=np.float32)
    return definition.reward_terms(states[0], actions, states[1], np.random.default_rng(0), tasks)


@pytest.mark.parametrize("name", ["HalfCheetahVel", "HalfCheetahVelMAML"])
def test_half_cheetah_is_paid_for_its_velocity(name: str) -> None:
    """v = 1.5: misses of 0.5, 0 and -0.5; six actions of 0.5 cost 0.05 * 6 * 0.25 = 0.075."""
    terms = terms_of(name, [[1.0], [1.5], [2.0]], velocity=1.5)
    np.testing.assert_allclose(terms["reward_forward"], [-0.5, 0.0, -0.5], atol=1e-12)
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.075] * 3)
    assert list(terms) == ["reward_forward", "reward_ctrl"]


def test_half_cheetah_is_paid_for_its_direction() -> None:
    terms = terms_of("HalfCheetahDir", [[-1.0], [1.0]], velocity=2.0)
    np.testing.assert_allclose(terms["reward_forward"], [-2.0, 2.0])
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.075] * 2)


def test_maml_timing() -> None:
    assert make_definition("HalfCheetahVelMAML").batch.dt == pytest.approx(0.01)
    assert make_definition("HalfCheetahVel").batch.dt == pytest.approx(0.05)


@pytest.mark.parametrize("name", ROBOTS)
def test_task_changes_the_reward_and_not_the_motion(name: str) -> None:
    definition = make_definition(name)
    tasks = draw_tasks(definition, 2)
    assert not np.array_equal(tasks[0], tasks[1])
    rng = np.random.default_rng(0)
    first = definition.initial(rng, tasks)
    both = RobotState(*(np.repeat(array[:1], 2, axis=0) for array in first))
    actions = np.repeat(definition.action_space.sample()[None], 2, axis=0)
    after = definition.transition(both, actions, rng, tasks)
    np.testing.assert_array_equal(after.physics[0], after.physics[1])
    reward = definition.reward(both, actions, after, rng, tasks)
    assert reward[0] != reward[1]


@pytest.mark.parametrize("name", ROBOTS)
def test_threads_change_nothing_and_inputs_are_not_written(name: str) -> None:
    rng = np.random.default_rng(0)
    results = []
    for nthread in (1, 2):
        definition = make_definition(name, nthread=nthread)
        tasks = draw_tasks(definition, 7)
        state = definition.initial(np.random.default_rng(1), tasks)
        actions = np.stack([definition.action_space.high * x for x in np.linspace(-1, 1, 7)])
        for _ in range(3):
            kept = copy.deepcopy(state)
            after = definition.transition(state, actions, rng, tasks)
            for was, now in zip(kept, state, strict=True):
                np.testing.assert_array_equal(was, now)
            state = after
        results.append(state.physics)
        definition.close()
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ROBOTS)
def test_pickled_and_closed_definitions_go_on(name: str) -> None:
    definition = make_definition(name, nthread=2)
    tasks = draw_tasks(definition, 3)
    rng = np.random.default_rng(0)
    state = definition.initial(rng, tasks)
    actions = np.stack([definition.action_space.high] * 3)
    expected = definition.transition(state, actions, rng, tasks).physics
    revived = pickle.loads(pickle.dumps(definition))
    definition.close()
    for one in (definition, revived):
        np.testing.assert_array_equal(one.transition(state, actions, rng, tasks).physics, expected)
        one.close()


def test_sub_environments_reset_alone() -> None:
    env = meta_rl.make_task_vec(
        "HalfCheetahVel", 3, autoreset_mode=AutoresetMode.DISABLED, nthread=1
    )
    env.reset(seed=0)
    actions = np.ones((3, 6), dtype=np.float32)
    before = env.step(actions)[0]
    mask = np.array([False, True, False])
    after, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert np.abs(after[mask, :8]).max() <= 0.1  # noise on the model's first positions, all zero
    assert np.abs(before[mask, 8:]).max() > np.abs(after[mask, 8:]).max()
    env.close()


@pytest.mark.parametrize("name", ROBOTS)
def test_task_lists_are_frozen(name: str) -> None:
    first, second = (make_definition(name).task_split for _ in range(2))
    for part in ("validation", "test"):
        tasks = getattr(first, part).tasks
        np.testing.assert_array_equal(tasks, getattr(second, part).tasks)
    if "Dir" not in name and "Forward" not in name:
        assert not np.array_equal(first.validation.tasks, first.test.tasks)


def test_sizes_and_ranges_of_the_lists() -> None:
    split = make_definition("HalfCheetahVel").task_split
    assert (len(split.train), len(split.validation), len(split.test)) == (100, 30, 30)
    assert 0 <= split.train.tasks.min() < 0.2
    assert 2.8 < split.train.tasks.max() <= 3
    assert split.test.tasks[:3, 0] == pytest.approx(HALF_CHEETAH_TEST_GOALS, abs=1e-6)
    beyond = split.ood.sample_tasks(100, np.random.default_rng(0))
    assert beyond.min() >= 3
    assert beyond.max() <= 4
    split = make_definition("HalfCheetahVel", num_train_tasks=None).task_split
    drawn = split.train.sample_tasks(1000, np.random.default_rng(0))
    assert len(np.unique(drawn)) == 1000


HALF_CHEETAH_TEST_GOALS = [
    0.0770937,
    2.5014793,
    0.5011471,
]  # must never change: results refer to them


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("HalfCheetahVel", {"goal_velocity_range": (3.0, 1.0)}, "goal_velocity_range has to be"),
        ("HalfCheetahVel", {"goal_velocity_range": 3.0}, "goal_velocity_range has to be"),
        ("HalfCheetahVel", {"frame_skip": 0}, "frame_skip has to be a whole number"),
        ("HalfCheetahVel", {"nthread": 0}, "nthread has to be a whole number"),
        ("HalfCheetahVel", {"horizon": 0}, "horizon has to be a whole number"),
        ("HalfCheetahVel", {"num_train_tasks": 0}, "num_tasks has to be"),
        ("HalfCheetahVel", {"ctrl_cost_weight": -1.0}, "ctrl_cost_weight has to be"),
        ("HalfCheetahDir", {"reset_noise_scale": np.nan}, "reset_noise_scale has to be"),
    ],
)
def test_bad_arguments_are_refused(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_definition(name, **kwargs)


def test_unknown_arguments_and_files_are_refused() -> None:
    with pytest.raises(TypeError, match="frames_skip"):
        make_definition("HalfCheetahVel", frames_skip=3)
    with pytest.raises(OSError, match=r"no_robot\.xml does not exist"):
        make_definition("HalfCheetahVel", xml_file="./no_robot.xml")


@pytest.mark.parametrize("task", [[0.5], [0.0]])
def test_half_directions_are_refused(task: list[float]) -> None:
    env = gym.make("meta_rl/HalfCheetahDir-v0")
    with pytest.raises(ValueError, match=r"task 0 has to be -1 or \+1"):
        env.reset(options={"task": np.array(task)})


def test_bounded_tasks_are_refused_outside() -> None:
    env = gym.make("meta_rl/HalfCheetahVel-v0")
    with pytest.raises(ValueError, match=r"outside Box\(0.0, 4.0"):
        env.reset(options={"task": np.array([4.5])})


def test_step_of_one_mujoco_step_has_the_right_warm_start() -> None:
    """The guess is the change of velocity over the last step of MuJoCo, whatever frame_skip."""
    for frame_skip in (1, 3):
        batch = MujocoBatch("hopper.xml", frame_skip, nthread=1)
        qpos, qvel = batch.init_qpos[None], np.zeros((1, batch.model.nv))
        qpos = qpos + np.array([0, 1.0, 0, 0, 0, 0])  # in the air: it falls freely
        physics = batch.physics(qpos, qvel)
        _, guess = batch.step(physics, np.zeros_like(qvel), np.zeros((1, 3)))
        assert guess[0, 1] == pytest.approx(-9.81, rel=1e-6)
