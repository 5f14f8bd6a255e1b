"""The robots' rewards and ends are those of their docstrings, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meta_rl.envs.robot import Robot, RobotState

from .robots import MODELS, make_definition, nominal_tasks


def moving(
    definition: Robot, velocity: float, num: int, sideways: float
) -> tuple[RobotState, RobotState]:
    """Two states; the second has moved by ``velocity * dt`` along x."""
    qpos = np.tile(definition.batch.init_qpos, (num, 1))
    qvel = np.zeros((num, definition.batch.model.nv))
    state = definition.state(qpos, qvel)
    qpos[:, 0] += velocity * definition.batch.dt
    qpos[:, 1] += sideways * definition.batch.dt
    return state, definition.state(qpos, qvel)


def terms_of(name: str, tasks: Any, velocity: float, sideways: float = 0.0) -> dict[str, Any]:
    """Reward terms of actions of 0.5 between two such states."""
    definition, action = make_definition(name), 0.5
    if not isinstance(tasks, dict):
        tasks = np.asarray(tasks)
    num = len(next(iter(tasks.values()))) if isinstance(tasks, dict) else len(tasks)
    states = moving(definition, velocity, num, sideways)
    actions = np.full((num, *definition.action_space.shape), action, dtype=np.float32)
    return definition.reward_terms(states[0], actions, states[1], np.random.default_rng(0), tasks)


@pytest.mark.parametrize("name", ["HalfCheetahVel", "HalfCheetahVelMAML"])
def test_half_cheetah_is_paid_for_its_velocity(name: str) -> None:
    """v = 1.5: misses of 0.5, 0 and -0.5; six actions of 0.5 cost 0.05 * 6 * 0.25 = 0.075."""
    terms = terms_of(name, [[1.0], [1.5], [2.0]], velocity=1.5)
    np.testing.assert_allclose(terms["reward_forward"], [-0.5, 0.0, -0.5], atol=1e-12)
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.075] * 3)
    assert list(terms) == ["reward_forward", "reward_ctrl"]


@pytest.mark.parametrize("name", ["HalfCheetahDir", "HalfCheetahDirMAML"])
def test_half_cheetah_is_paid_for_its_direction(name: str) -> None:
    terms = terms_of(name, [[-1.0], [1.0]], velocity=2.0)
    np.testing.assert_allclose(terms["reward_forward"], [-2.0, 2.0])
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.075] * 2)


def test_crippled_half_cheetah_is_paid_for_running() -> None:
    """Five motors of 0.5 cost 0.05 * 5 * 0.25."""
    terms = terms_of("HalfCheetahCripple", [0, 5], velocity=2.0)
    np.testing.assert_allclose(terms["reward_forward"], [2.0, 2.0])
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.0625] * 2)


def test_ant_velocity() -> None:
    """1 - |v - g| at v = 1.5; eight actions of 0.5 cost 0.005 * 8 * 0.25 = 0.01."""
    terms = terms_of("AntVel", [[1.0], [1.5], [3.0]], velocity=1.5)
    np.testing.assert_allclose(terms["reward_forward"], [0.5, 1.0, -0.5], atol=1e-12)
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.01] * 3)
    np.testing.assert_allclose(terms["reward_survive"], [0.05] * 3)


def test_ant_forward_backward() -> None:
    terms = terms_of("AntForwardBackward", [[-1.0], [1.0]], velocity=2.0, sideways=7.0)
    np.testing.assert_allclose(terms["reward_forward"], [-2.0, 2.0])
    np.testing.assert_allclose(terms["reward_ctrl"], [-1.0] * 2)
    np.testing.assert_allclose(terms["reward_survive"], [1.0] * 2)


@pytest.mark.parametrize(("name", "weight"), [("AntDir", 1.0), ("HumanoidDir", 1.25)])
def test_angles_are_directions(name: str, weight: float) -> None:
    """0 is x, π/2 is y, π is -x; π/6 has cosine √3/2 and sine 1/2."""
    angles = [[0.0], [np.pi / 2], [np.pi], [np.pi / 6]]
    terms = terms_of(name, angles, velocity=2.0, sideways=1.0)
    expected = weight * np.array([2.0, 1.0, -2.0, np.sqrt(3) + 0.5])
    np.testing.assert_allclose(terms["reward_forward"], expected, rtol=1e-6)


def test_humanoid_costs() -> None:
    terms = terms_of("HumanoidDir", [[0.0]], velocity=0.0)
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.1 * 17 * 0.25])
    np.testing.assert_allclose(terms["reward_survive"], [5.0])


def test_ant_goal_is_the_l1_distance() -> None:
    """The torso is at (0.1, 0.2) after the step: dt is 0.05."""
    terms = terms_of("AntGoal", [[0.1, 0.2], [3.1, -0.8]], velocity=2.0, sideways=4.0)
    np.testing.assert_allclose(terms["reward_goal"], [0.0, -4.0], atol=1e-12)
    np.testing.assert_allclose(terms["reward_ctrl"], [-0.2] * 2)
    np.testing.assert_allclose(terms["reward_survive"], [0.0] * 2)


@pytest.mark.parametrize(("name", "num_actions"), [("Walker2dVel", 6), ("HopperVel", 3)])
def test_walkers_are_paid_for_their_velocity(name: str, num_actions: int) -> None:
    terms = terms_of(name, [[1.0], [2.0]], velocity=1.5)
    np.testing.assert_allclose(terms["reward_forward"], [-0.5, -0.5])
    np.testing.assert_allclose(terms["reward_ctrl"], [-1e-3 * num_actions * 0.25] * 2)
    np.testing.assert_allclose(terms["reward_survive"], [1.0] * 2)


@pytest.mark.parametrize("name", MODELS)
def test_random_dynamics_are_paid_for_running(name: str) -> None:
    terms = terms_of(name, nominal_tasks(make_definition(name), 2), velocity=1.5)
    np.testing.assert_allclose(terms["reward_forward"], [1.5] * 2)
    np.testing.assert_allclose(terms["reward_survive"], [1.0] * 2)
    assert make_definition(name).batch.dt == pytest.approx(0.016)


def test_reacher_distance() -> None:
    """A straight arm touches (0.21, 0); folded at the elbow by π/2 it touches (0.1, 0.11)."""
    qpos = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, np.pi / 2, 0.0, 0.0]])
    goals = np.array([[0.0, 0.0], [0.1, 0.07]])
    actions = np.full((2, 2), 0.5, dtype=np.float32)
    for tolerance, expected in ((None, [-0.21, -0.04]), (0.09, [0.0, 0.16])):
        definition = make_definition("ReacherGoal", goal_tolerance=tolerance)
        state = definition.state(qpos, np.zeros((2, 4)))
        rng = np.random.default_rng(0)
        terms = definition.reward_terms(state, actions, state, rng, goals)
        np.testing.assert_allclose(terms["reward_dist"], expected, atol=1e-12)
        np.testing.assert_allclose(terms["reward_ctrl"], [-0.5, -0.5])


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("AntVel", 2, 0.1),
        ("AntVel", 2, 1.1),
        ("AntVel", 2, np.nan),
        ("AntVel", 5, np.inf),
        ("Walker2dVel", 1, 0.7),
        ("Walker2dVel", 2, 1.1),
        ("HopperVel", 1, 0.6),
        ("HopperVel", 2, -0.3),
        ("HopperVel", 4, 101.0),
        ("HumanoidDir", 2, 0.9),
        ("Walker2dRandParams", 2, -1.1),
        ("HopperRandParams", 1, np.nan),
    ],
)
def test_falling_ends_the_episode(name: str, index: int, value: float) -> None:
    definition = make_definition(name)
    rng = np.random.default_rng(0)
    state = definition.state(
        np.tile(definition.batch.init_qpos, (2, 1)), np.zeros((2, definition.batch.model.nv))
    )
    if name == "AntVel":
        definition.qpos(state)[:, 2] = 0.5
    definition.qpos(state)[1, index] = value
    np.testing.assert_array_equal(definition.terminal(state, rng, None), [False, True])
    forgiving = make_definition(name, terminate_when_unhealthy=False)
    np.testing.assert_array_equal(forgiving.terminal(state, rng, None), [False, False])
    actions = np.zeros((2, *definition.action_space.shape), dtype=np.float32)
    survive = forgiving.standing_terms(actions, state)["reward_survive"]
    np.testing.assert_array_equal(survive, [definition.healthy_reward, 0.0])
