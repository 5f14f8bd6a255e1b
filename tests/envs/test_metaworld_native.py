"""Meta-World's native batch: what Meta-World computes, for many episodes at once.

First states, observations, rewards and infos of all 50 environments are those of Meta-World's own
objects, from the same state; a batch of several environments is each of them alone; arguments of
one kind of batch are refused by the other; goals are hidden and checked; copies and pictures work.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import meta_rl
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.envs.metaworld_arms import Arm
from meta_rl.envs.metaworld_goals import benchmark_goals, observation_space
from meta_rl.envs.metaworld_rewards import both, tolerance
from meta_rl.physics.batch import FULL_PHYSICS
from meta_rl.physics.shared_rollout import SharedRollout

if importlib.util.find_spec("metaworld") is None:
    pytest.skip("the extra metaworld is not installed", allow_module_level=True)

from meta_rl.envs.metaworld_native import ArmState, MetaWorld, NativeArm, quaternions
from meta_rl.envs.metaworld_rewards import Outcome
from meta_rl.envs.metaworld_table import ENVIRONMENTS

ML1 = "meta_rl/MetaWorldML1-v0"
GOAL = np.array([0.0, 0.6, 0.02, 0.1, 0.85, 0.2])  # the puck's place, where the hand has to go
NEAR = np.array([0.0, 0.7, 0.02, 0.0, 0.8, 0.2])  # only 0.1 m apart
STEPS = 30


def scripted_action(name: str, seen: np.ndarray, target: np.ndarray) -> np.ndarray:
    policies = importlib.import_module("metaworld.policies")
    action = policies.ENV_POLICY_MAP[name]().get_action(np.concatenate([seen, target]))
    return np.asarray(action, dtype=np.float64)


def state_of(arm: Arm, episode: Any, state: ArmState) -> ArmState:
    """The state of Meta-World's simulator."""
    size = mujoco.mj_stateSize(arm.model, FULL_PHYSICS)
    now = np.empty(size)
    mujoco.mj_getState(arm.model, arm.data, now, FULL_PHYSICS)
    physics = state.physics.copy()
    physics[0, :size] = now
    hand, seen = arm.data.mocap_pos[:1].copy(), episode.env._prev_obs[None].copy()
    return state._replace(physics=physics, hand=hand, seen=seen)


def test_the_table_has_all_environments() -> None:
    package = importlib.import_module("metaworld")
    assert set(ENVIRONMENTS) == set(package.ALL_V3_ENVIRONMENTS)
    assert len(ENVIRONMENTS) == 50


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.filterwarnings("ignore:Constant")  # scripted policies ask for more than is allowed
def test_steps_are_those_of_meta_world(name: str) -> None:
    """From its first state on, and from each of its states with the warm start of its solver."""
    space, roll_out = observation_space(), SharedRollout(1)
    native, arm = NativeArm(name, space), Arm(name, None)
    goal = benchmark_goals("ML1", name, 0).train[0][1]
    state = native.begin(roll_out, goal[None])
    episode = arm.begin(goal)
    arm._activate(episode)
    first = state_of(arm, episode, state)
    np.testing.assert_allclose(state.physics, first.physics, atol=1e-12)
    np.testing.assert_allclose(state.seen[0], episode.observation[:18], atol=1e-12)
    np.testing.assert_allclose(state.target[0], episode.env._target_pos, atol=1e-12)
    seen, rewards = episode.observation[:36].clip(space.low, space.high), []
    rng = np.random.default_rng(0)
    for step in range(2 * STEPS):
        state, warmstart = state_of(arm, episode, state), arm.data.qacc_warmstart[None].copy()
        action = rng.uniform(-1.5, 1.5, 4)
        if step < STEPS:
            action = scripted_action(name, seen, state.target[0])
        state = native.step(roll_out, state, action[None], warmstart)
        observation, reward, _, _, info = arm.step(episode, action)
        seen = observation[:36]
        ours = np.concatenate([state.seen[0], state.before[0]]).clip(space.low, space.high)
        np.testing.assert_allclose(ours, seen, rtol=0, atol=1e-6)
        told = [reward, *(float(info[part]) for part in Outcome._fields[1:])]
        np.testing.assert_allclose(state.outcome[0], told, rtol=0, atol=1e-5)
        rewards.append(reward)
    assert len(set(rewards)) > 10


def test_without_the_warm_start_reaching_stays_close_to_meta_world() -> None:
    native, own = (meta_rl.make_task_vec(ML1, 3, native=kind) for kind in (True, False))
    assert isinstance(native, meta_rl.TaskVectorEnv)
    assert isinstance(own, TaskVectorAdapter)
    native.action_space.seed(0)
    for env in (native, own):
        env.reset(seed=0)
    for _ in range(20):
        actions = native.action_space.sample()
        ours, theirs = native.step(actions), own.step(actions)
        for one, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        for name in ("reward_task", *Outcome._fields):
            np.testing.assert_allclose(ours[4][name], theirs[4][name], atol=1e-4)
    native.close()
    own.close()


def test_a_batch_of_several_environments_is_each_alone() -> None:
    """In ML10, with goals of three and of six numbers, and resets of some in the middle."""
    definition = MetaWorld("ML10", horizon=7, nthread=2)
    tasks = definition.task_split.train.sample_tasks(5, np.random.default_rng(1))
    tasks["env"][4], tasks["goal"][4] = tasks["env"][0], tasks["goal"][0]
    assert len(set(tasks["env"])) > 2
    batch = meta_rl.TaskVectorEnv(definition, 5)
    batch.set_tasks(tasks)
    batch.action_space.seed(0)
    actions = [batch.action_space.sample() for _ in range(20)]

    def courses(env: Any, rows: Any) -> list[np.ndarray]:
        course = [env.reset(seed=0)[0]]
        for action in actions:
            course += env.step(action[rows])[:4]
        env.close()
        return course

    together = courses(batch, slice(None))
    for row in range(5):
        alone = meta_rl.TaskVectorEnv(MetaWorld("ML10", horizon=7, nthread=1), 1)
        alone.set_tasks({name: part[[row]] for name, part in tasks.items()})
        for one, all_of_them in zip(courses(alone, [row]), together, strict=True):
            np.testing.assert_array_equal(one, all_of_them[[row]])


def test_a_native_batch_keeps_its_promises() -> None:
    for env_name in ("push-v3", "window-open-v3"):
        meta_rl.check_task_env(ML1, env_name=env_name, horizon=40)


def test_the_goal_is_hidden_and_bin_picking_remembers_its_first_distance() -> None:
    env = meta_rl.make_task_vec(ML1, 2)
    goals = np.stack([GOAL, GOAL[[0, 1, 2, 0, 4, 5]]])
    env.set_tasks({"env": np.zeros(2, dtype=np.int64), "goal": goals})
    observations, _ = env.reset(seed=0)
    np.testing.assert_array_equal(*observations)
    *_, infos = env.step(np.zeros((2, 4)))
    assert infos["reward_task"][0] != infos["reward_task"][1]
    env.close()

    picking = NativeArm("bin-picking-v3", observation_space())
    goal = benchmark_goals("ML1", "bin-picking-v3", 0).train[0][1]
    state = picking.begin(SharedRollout(1), goal[None])
    assert np.isnan(state.first_distance).all()
    later = [state := picking.step(SharedRollout(1), state, np.ones((1, 4))) for _ in range(3)]
    assert len({float(one.first_distance[0]) for one in later}) == 1


def test_arguments_of_the_other_kind_of_batch_are_refused() -> None:
    for kwargs, message in (
        ({"native": True, "num_processes": 2}, "num_processes is for native=False"),
        ({"native": True, "asynchronous": False}, "asynchronous is for native=False"),
        ({"native": False, "nthread": 2}, "nthread is for a native batch"),
        ({"reward_function_version": "v1"}, "'v1': only v2 is offered"),
        ({"native": False, "reward_function_version": "v1"}, "'v1': only v2 is offered"),
        ({"horizon": 501}, "at most 500 steps, got 501"),
        ({"env_name": "raech-v3"}, "did you mean reach-v3"),
    ):
        with pytest.raises(ValueError, match=message):
            meta_rl.make_task_vec(ML1, 2, **kwargs)


def test_goals_are_checked_when_they_are_set() -> None:
    env = meta_rl.make_task_vec(ML1, 1)
    for goal, message in (
        (NEAR, "reach-v3 does not accept it, for the object begins too near"),
        (GOAL + np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]), "task 0 is outside Box"),
    ):
        with pytest.raises(ValueError, match=message):
            env.set_tasks({"env": np.zeros(1, dtype=np.int64), "goal": goal[None]})
    mixed: Any = meta_rl.make_task_vec("MetaWorldML10", 1)
    drawer = mixed.definition.env_names.index("drawer-close-v3")
    with pytest.raises(ValueError, match=r"outside that of drawer-close-v3: .*, then zeros"):
        mixed.set_tasks({"env": np.array([drawer]), "goal": GOAL[None]})


def test_copies_continue_as_the_original() -> None:
    env: Any = meta_rl.make_task_vec(ML1, 2, horizon=20)
    env.reset(seed=0)
    env.step(np.ones((2, 4)))
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    expected = env.step(np.zeros((2, 4)))[0]
    for other in copies:
        np.testing.assert_array_equal(other.step(np.zeros((2, 4)))[0], expected)


def test_pictures_are_of_the_state_and_the_goal() -> None:
    env = gym.make_vec(ML1, num_envs=2, render_mode="rgb_array")
    goals = np.stack([GOAL, GOAL[[0, 1, 2, 0, 4, 5]]])
    env.reset(seed=0, options={"task": {"env": np.zeros(2, dtype=np.int64), "goal": goals}})
    before = env.render()
    assert not np.array_equal(*before)  # another goal
    for _ in range(10):
        env.step(np.ones((2, 4), dtype=np.float32))
    after = env.render()
    assert after[0].shape == (480, 480, 3)
    assert not np.array_equal(before[0], after[0])
    env.close()


def test_quaternions_are_those_of_scipy() -> None:
    rotations = Rotation.random(1000, random_state=0)
    half_turns = Rotation.from_euler(
        "xyz", [[180, 0, 0], [0, 180, 0], [0, 0, 180], [0, 0, 0]], True
    )
    for chosen in (rotations, half_turns):
        matrices = chosen.as_matrix()
        found = quaternions(matrices.transpose(0, 2, 1).reshape(-1, 9))
        np.testing.assert_allclose(found, Rotation.from_matrix(matrices).as_quat(), atol=1e-14)


def test_tolerances_are_those_of_their_definition() -> None:
    """At the margin 0.1; 1 in the bounds; 0 outside them without a margin; products of 0 are 0."""
    values = np.array([0.0, 0.5, 1.5, 1.0])
    for shape in ("long_tail", "gaussian"):
        got = tolerance(values, 0.5, np.array([1.0, 1.0, 1.0, 0.0]), shape=shape)
        np.testing.assert_allclose(got, [1.0, 1.0, 0.1, 0.0])
    assert tolerance(np.array([-1.0]), 1.0, 1.0, lower=0.0) == pytest.approx(0.1)
    np.testing.assert_allclose(
        both(np.array([0.0, 1.0, 0.5]), np.array([0.0, 0.5, 0.5])), [0, 0.5, 1 / 3]
    )
