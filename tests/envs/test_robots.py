"""The robots' physics are Gymnasium's.

For every family: one step equals a step of Gymnasium's environment from the same state, velocity is
displacement over dt, the task changes either the reward or the motion and not the other, first
states are those of Gymnasium, threads change nothing, lists of tasks are frozen, models are scaled
as the task says and nominal values do not drift, the conformance checks hold, and arguments outside
their range are refused.
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
from meta_rl.physics.batch import FULL_PHYSICS
from meta_rl.tasks import take_tasks

from .robots import DYNAMICS, MODELS, REWARDS, ROBOTS, draw_tasks, make_definition, nominal_tasks

NUM_STATES = 1000  # visited by random actions, for the equality with Gymnasium

pytestmark = [
    # Of MuJoCo 4 and of Gymnasium, about the files that Gymnasium ships.
    pytest.mark.filterwarnings("ignore:.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*space m.nimum value"),
]


def make_theirs(name: str, definition: Robot) -> Any:
    return gym.make(ROBOTS[name], frame_skip=definition.batch.frame_skip).unwrapped


def read_state(env: Any) -> np.ndarray:
    state = np.empty(mujoco.mj_stateSize(env.model, FULL_PHYSICS))
    mujoco.mj_getState(env.model, env.data, state, FULL_PHYSICS)
    return state


def visit(env: Any, num_states: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, actions and next states of a Gymnasium environment under random actions."""

    env.reset(seed=seed)
    env.action_space.seed(seed)
    states, actions, after = [], [], []
    for step in range(num_states):
        action = env.action_space.sample()
        states.append(read_state(env))
        actions.append(action)
        terminated = env.step(action)[2]
        after.append(read_state(env))
        if terminated or step % 200 == 199:
            env.reset()
    return np.array(states), np.array(actions), np.array(after)


def make_state(definition: Robot, physics: np.ndarray) -> RobotState:
    return RobotState(physics, definition.batch.sense(physics))


def equality_error(name: str, num_states: int) -> float:
    """Largest relative error of one step of the batch."""
    definition = make_definition(name)
    states, actions, expected = visit(make_theirs(name, definition), num_states)
    rng, tasks = np.random.default_rng(0), nominal_tasks(definition, num_states)
    if name == "HalfCheetahCripple":
        actions[np.arange(num_states), tasks] = 0.0
        expected = step_theirs(make_theirs(name, definition), states, actions)
    got = definition.transition(make_state(definition, states), actions, rng, tasks).physics
    assert np.abs(got - states).max() > 1e-3  # it did move
    return float((np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def step_theirs(env: Any, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """What Gymnasium's environment makes of each state."""
    env.reset()
    after = np.empty_like(states)
    for i, (state, action) in enumerate(zip(states, actions, strict=True)):
        mujoco.mj_setState(env.model, env.data, state, FULL_PHYSICS)
        env.step(action)
        mujoco.mj_getState(env.model, env.data, after[i], FULL_PHYSICS)
    return after


@pytest.mark.parametrize("name", ROBOTS)
def test_one_step_equals_gymnasium(name: str) -> None:
    """Relative to the length of the state, up to the tolerance of MuJoCo's solvers."""
    assert equality_error(name, NUM_STATES) < 1e-6


@pytest.mark.parametrize(
    ("name", "kwargs", "task"),
    [
        ("HalfCheetahDir", {"ctrl_cost_weight": 0.1}, [1.0]),
        ("Walker2dRandParams", {}, None),
        ("HopperRandParams", {}, None),
        ("AntForwardBackward", {}, [1.0]),
        ("HumanoidDir", {}, [0.0]),
    ],
)
def test_rewards_and_ends_equal_gymnasium_where_the_definitions_do(
    name: str, kwargs: dict[str, Any], task: Any
) -> None:
    """Ant and Humanoid but for contact costs and the forward reward, compared in the mean only.

    Gymnasium takes their positions from the last stage of a Runge-Kutta step.
    """
    num = 300
    definition = make_definition(name, **kwargs)
    theirs = make_theirs(name, definition)
    theirs.reset(seed=3)
    theirs.action_space.seed(3)
    rng = np.random.default_rng(0)
    tasks = nominal_tasks(definition, 1) if task is None else np.array([task])
    miss = []
    for step in range(num):
        action = theirs.action_space.sample()
        state = make_state(definition, read_state(theirs)[None])
        _, _, terminated, _, info = theirs.step(action)
        after = make_state(definition, read_state(theirs)[None])
        terms = definition.reward_terms(state, action[None], after, rng, tasks)
        assert definition.terminal(after, rng, tasks)[0] == terminated
        for term in terms.keys() - {"reward_forward"}:
            assert terms[term][0] == pytest.approx(info[term], rel=1e-6), term
        miss.append(terms["reward_forward"][0] - info["reward_forward"])
        if terminated or step % 100 == 99:
            theirs.reset()
    if name in ("AntForwardBackward", "HumanoidDir"):
        assert abs(np.mean(miss)) < 0.05
    else:
        assert np.abs(miss).max() < 1e-9


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
    if name == "ReacherGoal":  # draws a target in between, which is the task here
        np.testing.assert_array_equal(definition.qpos(state)[0, :2], theirs.data.qpos[:2])
        state = definition.state(theirs.data.qpos[None], theirs.data.qvel[None])
    np.testing.assert_array_equal(definition.qpos(state)[0], theirs.data.qpos)
    np.testing.assert_array_equal(definition.qvel(state)[0], theirs.data.qvel)
    observation = definition.observation(state, rng, None)[0]
    assert observation.shape == definition.observation_space.shape
    if name == "ReacherGoal":
        np.testing.assert_array_equal(observation[:4], theirs._get_obs()[:4])
        tip = theirs.get_body_com("fingertip")[:2]
        np.testing.assert_allclose(observation[6:], tip, atol=1e-12)
    elif name != "AntGoal":  # sees x and y, which Ant-v5 leaves out
        np.testing.assert_array_equal(observation, theirs._get_obs()[: len(observation)])


@pytest.mark.parametrize("name", [name for name in ROBOTS if name != "ReacherGoal"])
def test_velocity_is_displacement_over_dt(name: str) -> None:
    """Of the root joint; of the centre of mass, as MuJoCo computes it, for Humanoid."""
    env: Any = gym.make(f"meta_rl/{name}-v0").unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    model, data = env.definition.batch.model, mujoco.MjData(env.definition.batch.model)

    def position() -> float:
        mujoco.mj_setState(model, data, env._batch._state.physics[0], FULL_PHYSICS)
        mujoco.mj_forward(model, data)
        return data.subtree_com[1, 0] if name == "HumanoidDir" else data.qpos[0]

    for _ in range(5):
        before = position()
        *_, info = env.step(env.action_space.sample())
        dt = model.opt.timestep * env.definition.batch.frame_skip
        assert info["x_velocity"] == pytest.approx((position() - before) / dt, rel=1e-9)
        assert info["x_position"] == data.qpos[0]


@pytest.mark.parametrize("name", ["HalfCheetahVel", "HalfCheetahDir"])
def test_maml_timing(name: str) -> None:
    assert make_definition(name + "MAML").batch.dt == pytest.approx(0.01)
    assert make_definition(name).batch.dt == pytest.approx(0.05)
    longer = make_definition(name + "MAML", frame_skip=3)
    assert longer.batch.dt == pytest.approx(0.03)


@pytest.mark.parametrize("name", REWARDS)
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


@pytest.mark.parametrize("name", DYNAMICS)
def test_task_changes_the_motion_and_not_the_reward(name: str) -> None:
    definition = make_definition(name)
    tasks = draw_tasks(definition, 2)
    rng = np.random.default_rng(0)
    both = RobotState(
        *(np.repeat(array[:1], 2, axis=0) for array in definition.initial(rng, tasks))
    )
    actions = np.repeat(definition.action_space.high[None], 2, axis=0)
    after = definition.transition(both, actions, rng, tasks)
    assert np.abs(after.physics[0] - after.physics[1]).max() > 1e-3
    same = RobotState(*(np.repeat(array[:1], 2, axis=0) for array in after))
    reward = definition.reward(both, actions, same, rng, tasks)
    assert reward[0] == reward[1]


def test_a_dead_motor_gives_no_torque() -> None:
    definition = make_definition("HalfCheetahCripple")
    actions = np.ones((6, 6), dtype=np.float32)
    np.testing.assert_array_equal(definition.control(actions, np.arange(6)), 1 - np.eye(6))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("consistent", [False, True])
def test_models_are_scaled_exactly_as_the_task_says(name: str, consistent: bool) -> None:
    """And after 1,000 tasks the nominal values are the nominal values."""
    definition = make_definition(name, physically_consistent=consistent, num_train_tasks=None)
    untouched = make_definition(name).batch.model
    tasks = draw_tasks(definition, 3)
    for i, model in enumerate(definition.models(tasks)):
        mass = tasks["body_mass"][i]
        inertia = mass[:, None] if consistent else tasks["body_inertia"][i]
        np.testing.assert_array_equal(model.body_mass[1:], untouched.body_mass[1:] * mass)
        np.testing.assert_array_equal(model.body_inertia[1:], untouched.body_inertia[1:] * inertia)
        friction = untouched.geom_friction * tasks["geom_friction"][i]
        np.testing.assert_array_equal(model.geom_friction, friction)
        damping = untouched.dof_damping[3:] * tasks["dof_damping"][i]
        np.testing.assert_array_equal(model.dof_damping[3:], damping)
        assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum())  # derived anew
    many = draw_tasks(definition, 1000, seed=1)
    for i in range(0, 1000, 4):
        definition.models({key: value[i : i + 4] for key, value in many.items()})
    for model in [*definition.models(nominal_tasks(definition, 4)), definition.batch.model]:
        for field in ("body_mass", "body_inertia", "geom_friction", "dof_damping"):
            np.testing.assert_array_equal(getattr(model, field), getattr(untouched, field))


@pytest.mark.parametrize("name", MODELS)
def test_dynamics_do_not_drift_over_resets(name: str) -> None:
    """1,000 episodes on fresh tasks later, a task is what it was in a fresh environment."""

    def step_of(env: Any) -> np.ndarray:
        task = take_tasks(env.task_split.test.tasks, [0])
        env.reset(seed=5, options={"task": task})
        return env.step(np.ones(env.action_space.shape, dtype=np.float32))[0]

    env, fresh = (
        meta_rl.make_task_vec(name, 4, nthread=1, horizon=1, resample_tasks=True).unwrapped
        for _ in range(2)
    )
    untouched = copy.copy(env.definition.batch.model)
    env.reset(seed=0)
    seen = set()
    for _ in range(250):  # times four episodes; a new task after every second
        env.step(np.zeros(env.action_space.shape, dtype=np.float32))
        seen |= set(env.tasks["body_mass"][:, 0])
    assert len(seen) > 30
    np.testing.assert_array_equal(step_of(env), step_of(fresh))
    for field in ("body_mass", "body_inertia", "geom_friction", "dof_damping"):
        kept = getattr(env.definition.batch.model, field)
        np.testing.assert_array_equal(kept, getattr(untouched, field))


@pytest.mark.parametrize("name", MODELS)
def test_scaled_dynamics_equal_gymnasium_with_the_same_values(name: str) -> None:
    """One step of each of five tasks, from states that the unscaled robot visits."""
    definition = make_definition(name)
    tasks = draw_tasks(definition, 5)
    theirs = make_theirs(name, definition)
    states, actions, unscaled = (part[10:15] for part in visit(theirs, 15))
    state, rng = make_state(definition, states), np.random.default_rng(0)
    got = definition.transition(state, actions, rng, tasks).physics
    for i, model in enumerate(definition.models(tasks)):
        for field in ("body_mass", "body_inertia", "geom_friction", "dof_damping"):
            getattr(theirs.model, field)[:] = getattr(model, field)
        mujoco.mj_setConst(theirs.model, mujoco.MjData(theirs.model))
        expected = step_theirs(theirs, states[[i]], actions[[i]])[0]
        np.testing.assert_allclose(got[i], expected, rtol=1e-6, atol=1e-9)
        assert np.abs(got[i] - unscaled[i]).max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_a_task_has_its_own_model_wherever_it_is_in_the_batch(name: str) -> None:
    """Tasks change in some sub-environments only, and the batch changes its size."""
    definition = make_definition(name, nthread=2)
    tasks = draw_tasks(definition, 5)
    rng = np.random.default_rng(0)
    state = definition.initial(rng, tasks)
    actions = np.repeat(definition.action_space.high[None], 5, axis=0)

    def step(order: list[int]) -> np.ndarray:
        rows = RobotState(*(array[order] for array in state))
        chosen = take_tasks(tasks, order)
        return definition.transition(rows, actions[order], rng, chosen).physics

    expected = step([0, 1, 2, 3, 4])
    for order in ([0, 1, 2, 4, 3], [0, 0, 2, 4, 4], [3], [1], [4, 2]):
        np.testing.assert_array_equal(step(order), expected[order])


def test_random_dynamics_lists() -> None:
    split = make_definition("Walker2dRandParams").task_split
    assert (len(split.train), len(split.test)) == (40, 10)
    for name, base in (("body_mass", 1.5), ("dof_damping", 1.3)):
        exponents = np.abs(np.log(split.train.tasks[name]) / np.log(base))
        assert 2.9 < exponents.max() <= 3.0
        beyond = split.ood.sample_tasks(50, np.random.default_rng(0))[name]
        exponents = np.log(beyond) / np.log(base)
        assert np.abs(exponents).min() >= 3 - 1e-9
        assert exponents.min() < 0 < exponents.max()


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
        tasks = first[part].tasks
        np.testing.assert_equal(tasks, second[part].tasks)
    same = np.array_equal(*(np.asarray(flat(first[part])) for part in ("validation", "test")))
    assert same == (name in ("HalfCheetahDir", "HalfCheetahDirMAML", "AntForwardBackward"))


def flat(part: Any) -> np.ndarray:
    tasks = part.tasks
    return next(iter(tasks.values())) if isinstance(tasks, dict) else tasks


@pytest.mark.parametrize(
    ("name", "radius", "num"), [("AntGoal", 3.0, 150), ("ReacherGoal", 0.2, 100)]
)
def test_goals_are_uniform_on_a_disc(name: str, radius: float, num: int) -> None:
    """A quarter of the area is within half the radius."""
    split = make_definition(name, num_train_tasks=None).task_split
    goals = split.train.sample_tasks(10_000, np.random.default_rng(0))
    distance = np.linalg.norm(goals, axis=1)
    assert distance.max() <= radius
    assert (distance < radius / 2).mean() == pytest.approx(0.25, abs=0.02)
    assert goals.mean(axis=0) == pytest.approx([0.0, 0.0], abs=0.05 * radius)
    split = make_definition(name).task_split
    assert (len(split.train), len(split.test)) == (num, 30)
    if split.ood:
        distance = np.linalg.norm(split.ood.sample_tasks(100, np.random.default_rng(0)), axis=1)
        assert distance.min() >= radius
        assert distance.max() <= radius * 4 / 3


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
        ("HalfCheetahVel", {"num_train_tasks": 0}, "num_train_tasks has to be"),
        ("HalfCheetahVel", {"ctrl_cost_weight": -1.0}, "ctrl_cost_weight has to be"),
        ("AntVel", {"healthy_z_range": (1.0, 0.2)}, "healthy_z_range has to be"),
        ("AntGoal", {"goal_radius": -1.0}, "goal_radius has to be"),
        ("ReacherGoal", {"goal_radius": 0.5}, "goal_radius has to be"),
        ("ReacherGoal", {"goal_tolerance": 0.0}, "goal_tolerance has to be"),
        ("HopperVel", {"healthy_angle_range": 0.2}, "healthy_angle_range has to be"),
        ("HopperRandParams", {"log_scale_limit": -3.0}, "log_scale_limit has to be"),
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
