"""Navigation families.

Moves and rewards equal hand-worked numbers, where points, winds, walls, keys and cues make a
difference; episodes end as documented; published task lists are the published ones, all lists stay
as they are, and parts do not overlap; other arguments keep the promises of ``check_task_env``; bad
arguments and tasks are refused; definitions survive pickling.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from meta_rl import TaskVectorEnv, check_task_env
from meta_rl.envs.dark_room import DarkKeyToDoor, DarkRoom
from meta_rl.envs.grid_navigation import GridNavigation
from meta_rl.envs.point_navigation import PointNavigation, PointRobot, square_ring
from meta_rl.envs.sparse_point_navigation import SparsePointNavigation
from meta_rl.envs.t_maze import TMaze
from meta_rl.envs.wind_navigation import WindNavigation

FAMILIES = [
    PointNavigation,
    PointRobot,
    SparsePointNavigation,
    WindNavigation,
    GridNavigation,
    DarkRoom,
    DarkKeyToDoor,
    TMaze,
]
STAY, UP, RIGHT, DOWN, LEFT = range(5)


def started(family: Any, tasks: Any, seed: int = 0, **kwargs: Any) -> tuple[TaskVectorEnv, Any]:
    """A batch on these tasks, and its first observations."""
    num = len(tasks["key"] if isinstance(tasks, dict) else tasks)
    env = TaskVectorEnv(family, num, autoreset_mode="Disabled", **kwargs)
    env.set_tasks(tasks)
    return env, env.reset(seed=seed)[0]


def walk(env: TaskVectorEnv, actions: list[int]) -> tuple[list[Any], list[float], list[bool]]:
    """Observations, rewards and terminations of a batch of one."""
    steps = [env.step(np.array([action])) for action in actions]
    return (
        [step[0][0].tolist() for step in steps],
        [float(step[1][0]) for step in steps],
        [bool(step[2][0]) for step in steps],
    )


def test_points_move_by_a_tenth_of_the_clipped_action() -> None:
    env, first = started(PointNavigation, [[0.3, 0.4], [0.0, 0.1], [-0.5, 0.5]])
    assert first.tolist() == [[0.0, 0.0]] * 3
    actions = np.array([[0.0, 0.0], [0.25, 1.0], [-3.0, 7.0]])
    observations, rewards, terminated, truncated, infos = env.step(actions)
    np.testing.assert_allclose(observations, [[0.0, 0.0], [0.025, 0.1], [-0.1, 0.1]], atol=1e-12)
    np.testing.assert_allclose(rewards, [-0.5, -0.025, -0.4 * np.sqrt(2)])
    np.testing.assert_allclose(infos["reward_distance"], rewards)
    assert not terminated.any()
    assert not truncated.any()


def test_point_navigation_ends_close_to_the_goal_along_both_axes() -> None:
    env, _ = started(PointNavigation, [[0.1, 0.109], [0.1, 0.111], [0.109, -0.109]])
    _, rewards, terminated, truncated, _ = env.step(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]))
    assert terminated.tolist() == [True, False, True]
    np.testing.assert_allclose(rewards, [-0.009, -0.011, -0.009 * np.sqrt(2)])
    assert not truncated.any()


def test_point_robots_start_anywhere_in_the_square() -> None:
    env = TaskVectorEnv(PointRobot, 4000)
    starts, _ = env.reset(seed=3)
    assert np.abs(starts).max() <= 1
    np.testing.assert_allclose(starts.mean(axis=0), 0.0, atol=4 / np.sqrt(3 * 4000))
    np.testing.assert_allclose(starts.std(axis=0), 1 / np.sqrt(3), rtol=0.04)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 4 / np.sqrt(4000)
    goals = env.tasks
    observations, rewards, *_ = env.step(np.full((4000, 2), 0.5, dtype=np.float32))
    np.testing.assert_allclose(observations, starts + 0.05, atol=1e-7)
    np.testing.assert_allclose(rewards, -np.sqrt(((observations - goals) ** 2).sum(axis=1)))


@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_sparse_points_are_paid_near_the_goal(reward: str) -> None:
    goals = [[1.0, 0.0], [-1.0, 0.0]]
    env, _ = started(SparsePointNavigation, goals, reward=reward, horizon=30)
    for step in range(1, 11):
        _, rewards, terminated, truncated, infos = env.step(np.array([[0.99, 0.0], [-0.79, 0.0]]))
        distances = np.array([1 - 0.099 * step, 1 - 0.079 * step])
        sparse = np.where(distances <= 0.2, 1 - distances, 0.0)
        np.testing.assert_allclose(infos["sparse_reward"], sparse, atol=1e-6)
        np.testing.assert_allclose(infos["dense_reward"], -distances, atol=1e-6)
        np.testing.assert_allclose(rewards, sparse if reward == "sparse" else -distances, atol=1e-6)
        assert not terminated.any()
        assert not truncated.any()
    assert distances.tolist() == pytest.approx([0.01, 0.21])


def test_wind_adds_to_the_move() -> None:
    env, _ = started(WindNavigation, [[0.08, -0.02], [0.0, 0.05], [0.0, 0.0]])
    observations, rewards, *_ = env.step(np.array([[-0.5, 1.0], [0.0, 0.0], [0.0, 9.0]]))
    np.testing.assert_allclose(observations, [[0.03, 0.08], [0.0, 0.05], [0.0, 0.1]], atol=1e-9)
    assert rewards.tolist() == [0.0, 0.0, 0.0]


def test_wind_navigation_pays_at_its_goal_as_long_as_one_stays() -> None:
    env, _ = started(WindNavigation, [[0.0, 0.0]])
    rewards = [float(env.step(np.array([[0.0, 1.0]]))[1][0]) for _ in range(9)]
    rewards += [float(env.step(np.array([[0.0, a]]))[1][0]) for a in (0.71, 0.0, 0.0, 0.58, 0.02)]
    # y: 0.971, 0.971, 0.971, 1.029, 1.031
    assert rewards == [0.0] * 9 + [1.0, 1.0, 1.0, 1.0, 0.0]


def test_grid_navigation_by_hand() -> None:
    env, first = started(GridNavigation, [[2, 1]])
    assert first.tolist() == [[0.0, 0.0]]
    path = [LEFT, DOWN, RIGHT, UP, RIGHT, STAY, RIGHT, LEFT]
    cells, rewards, ended = walk(env, path)
    assert cells == [[0, 0], [0, 0], [1, 0], [1, 1], [2, 1], [2, 1], [3, 1], [2, 1]]
    assert rewards == pytest.approx([-0.1, -0.1, -0.1, -0.1, 1.0, 1.0, -0.1, 1.0])
    cells, _, ended = walk(env, [UP] * 4 + [RIGHT] * 3)
    assert cells == [[2, 2], [2, 3], [2, 4], [2, 4], [3, 4], [4, 4], [4, 4]]
    assert ended == [False] * 6 + [True]


def test_grid_goals_are_everywhere_but_in_the_starting_corner() -> None:
    goals = {tuple(goal) for goal in GridNavigation().task_split.train.tasks.tolist()}
    assert len(goals) == 21
    assert goals == {(x, y) for x in range(5) for y in range(5)} - {(0, 0), (0, 1), (1, 0), (1, 1)}
    env = TaskVectorEnv(GridNavigation, 2)
    with pytest.raises(ValueError, match=r"task 1: goal \[1 0\] is one of the starting corner's"):
        env.set_tasks([[2, 2], [1, 0]])
    with pytest.raises(ValueError, match="task 0 is outside"):
        env.set_tasks([[5, 2]])


def test_dark_room_by_hand() -> None:
    env, first = started(DarkRoom, [[4, 5]])
    assert first.tolist() == [4 * 9 + 4]
    cells, rewards, ended = walk(env, [RIGHT, UP, LEFT, STAY, DOWN])
    assert cells == [41, 50, 49, 49, 40]
    assert rewards == [0.0, 0.0, 1.0, 1.0, 0.0]
    cells, _, _ = walk(env, [RIGHT] * 6)
    assert cells == [41, 42, 43, 44, 44, 44]
    cells, _, _ = walk(env, [UP] * 6)
    assert cells == [53, 62, 71, 80, 80, 80]
    assert not any(ended)


def test_hard_dark_room_ends_at_the_goal() -> None:
    env, first = started(DarkRoom, [[9, 8]], size=17, terminate_at_goal=True)
    assert first.tolist() == [8 * 17 + 8]
    _, rewards, ended = walk(env, [UP, RIGHT, DOWN])
    assert rewards == [0.0, 0.0, 1.0]
    assert ended == [False, False, True]


def test_key_opens_the_door_once() -> None:
    """The door without the key, the key twice, the door twice, and the next episode."""
    env = TaskVectorEnv(DarkKeyToDoor, 1, autoreset_mode="Disabled", size=2, horizon=12)
    env.set_tasks({"key": [[1, 0]], "door": [[0, 1]]})
    for seed in range(3):
        cell = int(env.reset(seed=seed)[0][0])
        to_corner = [LEFT, DOWN]  # over the key at no start but its own
        _, rewards, _ = walk(env, to_corner)
        assert sum(rewards) == 0, cell
        cells, rewards, _ = walk(env, [UP, DOWN, RIGHT, STAY, LEFT, UP, STAY, DOWN])
        assert cells == [2, 0, 1, 1, 0, 2, 2, 0]
        assert rewards == [0, 0, 1, 0, 0, 1, 0, 0]


def test_a_key_is_taken_by_a_step_and_may_lie_at_the_door() -> None:
    env = TaskVectorEnv(
        DarkKeyToDoor, 64, size=2, terminate_at_door=True, autoreset_mode="Disabled"
    )
    env.set_tasks({"key": [[1, 1]], "door": [[1, 1]]})
    at_key = env.reset(seed=0)[0] == 3
    assert 0 < at_key.sum() < 64
    _, rewards, terminated, _, infos = env.step(np.full(64, STAY))
    assert rewards.tolist() == (2.0 * at_key).tolist()
    assert infos["reward_key"].tolist() == infos["reward_door"].tolist() == at_key.tolist()
    assert terminated.tolist() == at_key.tolist()


def test_key_to_door_starts_in_every_cell() -> None:
    cells, _ = TaskVectorEnv(DarkKeyToDoor, 9000, size=3).reset(seed=1)
    counts = np.bincount(cells, minlength=9)
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000 * 8 / 9)


@pytest.mark.parametrize("side", [-1, 1])
def test_passive_t_maze_by_hand(side: int) -> None:
    env, first = started(TMaze, [[side]], corridor_length=3, penalty=-0.5)
    right, up, left, down = range(4)
    assert env.horizon == 4
    assert first.tolist() == [[0.0, 0.0, side]]
    seen, rewards, ended = walk(env, [right, right, right, up])
    assert seen == [[1, 0, 0], [2, 0, 0], [3, 0, 0], [3, 1, 0]]
    assert rewards == [0, 0, 0, side == 1]
    assert ended == [False, False, False, True]
    env.reset()
    seen, rewards, ended = walk(env, [left, down, right, right])  # walls, the cue gone, fines
    assert seen == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert rewards == [-0.5, -0.5, -0.5, 0]


def test_active_t_maze_hides_its_cue_behind_the_start() -> None:
    env, first = started(TMaze, [[-1]], corridor_length=2, oracle_length=1, penalty=-1.0)
    right, up, left, down = range(4)
    assert env.horizon == 5
    assert first.tolist() == [[1, 0, 0]]
    seen, rewards, _ = walk(env, [left, right, right, right, down])
    assert seen == [[0, 0, -1], [1, 0, 0], [2, 0, 0], [3, 0, 0], [3, -1, 0]]
    assert rewards == [0, 0, 0, 0, 1]
    env.reset()
    seen, rewards, _ = walk(env, [left, left, right, right, right])  # the cue shows once
    assert seen[:2] == [[0, 0, -1], [0, 0, 0]]
    assert rewards == [0, -1, -1, -1, 0]
    env.reset()
    seen, _, _ = walk(env, [right, right, up, up, left])  # walls beyond and beside the junction
    assert seen == [[2, 0, 0], [3, 0, 0], [3, 1, 0], [3, 1, 0], [3, 1, 0]]


def test_ambiguous_t_maze_shows_only_cue_and_junction() -> None:
    env, first = started(TMaze, [[1]], corridor_length=2, ambiguous_position=True)
    assert first.tolist() == [[0, 0, 1]]
    assert walk(env, [0, 0, 3])[0] == [[0, 0, 0], [1, 0, 0], [1, -1, 0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_episodes_last_for_their_horizon(family: Any) -> None:
    env = TaskVectorEnv(family, 3)
    env.reset(seed=0)
    ends_the_problem = family in (GridNavigation, TMaze)
    for step in range(1, 2 * env.horizon + 1):
        _, _, terminated, truncated, _ = env.step(np.zeros_like(env.action_space.sample()))
        at_end = [step % env.horizon == 0] * 3
        assert (terminated if ends_the_problem else truncated).tolist() == at_end
        assert not (truncated if ends_the_problem else terminated).any()


def test_defaults_are_those_of_the_papers() -> None:
    lengths = {
        family.__name__: (family().horizon, family().episodes_per_trial) for family in FAMILIES
    }
    assert lengths == {
        "PointNavigation": (100, 5),
        "PointRobot": (20, 3),
        "SparsePointNavigation": (20, 6),
        "WindNavigation": (75, 1),
        "GridNavigation": (15, 4),
        "DarkRoom": (20, 10),
        "DarkKeyToDoor": (50, 10),
        "TMaze": (11, 1),
    }


# Family, part, length, first task, sum of all numbers.
LISTS: list[tuple[Any, str, int, list[Any], float]] = [
    (PointNavigation, "validation", 40, [0.44192729, 0.03476411], 0.9120443275),
    (PointNavigation, "test", 40, [-0.08297800, 0.22032449], -2.6976838897),
    (PointRobot, "train", 80, [-0.47595065, -0.68263206], -1.2459711123),
    (PointRobot, "validation", 20, [-0.71060072, -0.11557281], 3.2092670992),
    (PointRobot, "test", 20, [0.79663784, -0.47519509], -1.8412053676),
    (SparsePointNavigation, "train", 80, [0.99798668, 0.06342392], 56.1113190700),
    (SparsePointNavigation, "validation", 20, [0.89844231, 0.43909159], 10.0922364229),
    (SparsePointNavigation, "test", 20, [-0.5, 0.86602540], 6.9087494291),
    (WindNavigation, "train", 40, [-0.03807605, -0.05461056], -0.1158966098),
    (WindNavigation, "validation", 20, [-0.04041183, -0.06512159], -0.5217630956),
    (WindNavigation, "test", 20, [0.03583166, 0.04688369], 0.3352863232),
    (DarkRoom, "train", 65, [6, 0], 515),
    (DarkRoom, "validation", 8, [1, 1], 65),
    (DarkRoom, "test", 8, [6, 5], 68),
    (DarkKeyToDoor, "train", 5249, [7, 8, 7, 1], 84188),
    (DarkKeyToDoor, "validation", 656, [5, 3, 2, 6], 10390),
    (DarkKeyToDoor, "test", 656, [0, 1, 6, 7], 10398),
    (TMaze, "train", 2, [-1], 0),
]


def flat(tasks: Any) -> np.ndarray:
    return np.hstack([tasks["key"], tasks["door"]]) if isinstance(tasks, dict) else tasks


@pytest.mark.parametrize(("family", "part", "length", "first", "total"), LISTS)
def test_task_lists_stay_as_they_are(
    family: Any, part: str, length: int, first: list[Any], total: float
) -> None:
    tasks = flat(family().task_split[part].tasks)
    assert len(tasks) == length
    np.testing.assert_allclose(tasks[0], first, atol=1e-8)
    assert tasks.sum() == pytest.approx(total, abs=1e-8)


def test_published_lists_are_those_of_the_authors_code() -> None:
    """Drawn here as their code does: one number at a time, from the global legacy generator."""
    state = np.random.RandomState(1337)
    goals = [[state.uniform(-1.0, 1.0), state.uniform(-1.0, 1.0)] for _ in range(100)]
    split = PointRobot().task_split
    np.testing.assert_array_equal(np.vstack([split.train.tasks, split.test.tasks]), goals)
    state = np.random.RandomState(1337)
    winds = [[state.uniform(-0.08, 0.08), state.uniform(-0.08, 0.08)] for _ in range(60)]
    split = WindNavigation().task_split
    np.testing.assert_array_equal(np.vstack([split.train.tasks, split.test.tasks]), winds)
    split = SparsePointNavigation().task_split
    angles = np.concatenate(
        [np.arctan2(p.tasks[:, 1], p.tasks[:, 0]) for p in (split.train, split.test)]
    )
    np.testing.assert_allclose(np.sort(angles), np.linspace(0, np.pi, 100), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_tasks_are_held_out(family: Any) -> None:
    """Two-task T-mazes and GridNavi, whose paper has one list, are the documented exceptions."""
    split = family().task_split
    lists = [
        split[part] for part in ("train", "validation", "test") if hasattr(split[part], "tasks")
    ]
    rows = [{tuple(task) for task in flat(part.tasks).tolist()} for part in lists]
    if family in (GridNavigation, TMaze):
        assert rows[0] == rows[1] == rows[2]
    else:
        assert sum(map(len, rows)) == len(set().union(*rows))
    if family in (DarkRoom, DarkKeyToDoor):  # a cut of everything
        assert len(set().union(*rows)) == {DarkRoom: 81, DarkKeyToDoor: 81**2}[family]


def test_ood_tasks_lie_outside_the_training_range() -> None:
    rng = np.random.default_rng(0)
    for family, inner in ((PointNavigation, 0.5), (PointRobot, 1.0), (WindNavigation, 0.08)):
        split = family().task_split
        farthest = np.abs(split.ood.sample_tasks(1000, rng)).max(axis=1)
        assert farthest.min() >= inner
        assert np.abs(split.train.sample_tasks(1000, rng)).max() <= inner
    split = SparsePointNavigation(continuous_goals=True).task_split
    train, ood = split.train.sample_tasks(1000, rng), split.ood.sample_tasks(1000, rng)
    assert train[:, 1].min() >= 0
    assert ood[:, 1].max() <= 0
    for tasks in (train, ood):
        np.testing.assert_allclose(np.linalg.norm(tasks, axis=1), 1.0)
        angles = np.sort(np.abs(np.arctan2(tasks[:, 1], tasks[:, 0]))) / np.pi
        assert np.abs(angles - np.linspace(0, 1, 1000)).max() < 1.95 / np.sqrt(1000)
    train = PointNavigation().task_split.train.sample_tasks(20_000, rng)
    np.testing.assert_allclose(train.std(axis=0), 0.5 / np.sqrt(3), rtol=0.02)


def test_square_rings_are_filled_evenly() -> None:
    """Each of the 12 unit squares around a 2 × 2 hole gets its share."""
    points = square_ring(24_000, np.random.default_rng(0), inner=1.0, outer=2.0)
    squares = np.floor(points).astype(int) + 2
    counts = np.bincount(squares[:, 0] * 4 + squares[:, 1], minlength=16).reshape(4, 4)
    assert (counts[1:3, 1:3] == 0).all()
    ring = counts[counts > 0]
    assert len(ring) == 12
    assert np.abs(ring - 2000).max() < 4 * np.sqrt(2000)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("PointNavigation", {"horizon": 7, "goal_range": 0.05, "goal_tolerance": 0.1}),
        ("PointRobot", {"horizon": 3, "episodes_per_trial": 1}),
        ("SparsePointNavigation", {"horizon": 100, "continuous_goals": True}),
        ("SparsePointNavigation", {"reward": "dense"}),
        ("WindNavigation", {"horizon": 5, "goal_radius": 2.0}),
        ("GridNavigation", {"size": 3, "horizon": 4}),
        ("DarkRoom", {"size": 2, "horizon": 3, "terminate_at_goal": True}),
        ("DarkKeyToDoor", {"size": 2, "terminate_at_door": True}),
        ("TMaze", {"corridor_length": 1, "oracle_length": 2, "penalty": -0.1}),
        ("TMaze", {"ambiguous_position": True}),
    ],
)
def test_other_arguments_keep_the_promises(name: str, kwargs: dict[str, Any]) -> None:
    check_task_env(name, **kwargs)


@pytest.mark.parametrize(
    ("family", "kwargs", "message"),
    [
        *((f, {"horizon": 0}, "horizon has to be a whole number") for f in FAMILIES[:-1]),
        *((f, {"episodes_per_trial": 0.5}, "episodes_per_trial has to") for f in FAMILIES[:-1]),
        (PointNavigation, {"goal_range": 0.0}, "goal_range has to be above 0"),
        (PointNavigation, {"goal_tolerance": np.nan}, "goal_tolerance has to be a finite"),
        (SparsePointNavigation, {"goal_radius": -1.0}, "goal_radius has to be above 0"),
        (SparsePointNavigation, {"reward": "some"}, "reward has to be 'sparse' or 'dense'"),
        (WindNavigation, {"goal_radius": np.inf}, "goal_radius has to be a finite number"),
        (GridNavigation, {"size": 2}, "size has to be a whole number of at least 3"),
        (DarkRoom, {"size": 1}, "size has to be a whole number of at least 2"),
        (DarkKeyToDoor, {"size": 2.5}, "size has to be a whole number"),
        (TMaze, {"corridor_length": 0}, "corridor_length has to be a whole number of at least 1"),
        (TMaze, {"oracle_length": -1}, "oracle_length has to be a whole number of at least 0"),
        (TMaze, {"penalty": 0.1}, "penalty has to be at most 0, got 0.1"),
    ],
)
def test_bad_arguments_are_refused(family: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        family(**kwargs)


def test_a_t_maze_has_two_sides() -> None:
    with pytest.raises(ValueError, match="task 1: the side has to be -1 or 1, got 0"):
        TaskVectorEnv(TMaze, 2).set_tasks([[1], [0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_definitions_survive_pickling(family: Any) -> None:
    copy = pickle.loads(pickle.dumps(family()))
    starts = [TaskVectorEnv(definition, 4).reset(seed=5)[0] for definition in (family(), copy)]
    np.testing.assert_array_equal(*starts)
