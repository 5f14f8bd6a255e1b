"""Known optima of the navigation families.

Oracles earn their closed forms on every held-out task, and more than random policies and than their
own policy with some wrong moves; the Bayes-optimal search equals the recursion over beliefs on
small grids, earns in the environment what it promises, and no other path is worth more; bad input
is refused.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import meta_rl
from meta_rl.agents import grid_search
from meta_rl.agents.grid_search import BayesOptimalSearch, bayes_optimal_search
from meta_rl.agents.navigation import (
    GRID_MOVES,
    MAX_STEP,
    GridOracle,
    KeyToDoorOracle,
    PointOracle,
    TMazeOracle,
    WindOracle,
    dense_optimum,
    navigation_oracles,
    shortest_ways,
    sparse_optimum,
    time_within,
)
from meta_rl.envs import grid_navigation, point_navigation, t_maze
from meta_rl.envs.point_navigation import PointRobot

ORIGIN = np.zeros(2)
NAMES = list(navigation_oracles())


def oracle_returns(
    name: str, learner: Any = None, split: str = "test", **kwargs: Any
) -> np.ndarray:
    """Returns of the first episode on each task of the list, in its order."""
    learner = navigation_oracles()[name] if learner is None else learner
    env = meta_rl.make_task_vec(name, 1, **kwargs).unwrapped
    tasks = env.task_split[split].tasks
    env = meta_rl.make_task_vec(name, meta_rl.tasks.count_tasks(tasks), **kwargs)
    env.unwrapped.set_tasks(tasks)
    return episode_returns(learner, env, tasks)


def episode_returns(learner: Any, env: Any, tasks: Any, seed: int = 0) -> np.ndarray:
    observations, _ = env.reset(seed=seed)
    state = learner.adapt_to_tasks(tasks)
    returns, active = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=bool)
    start = active
    while active.any():
        actions, state = learner.predict(observations, state, start, deterministic=True)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        returns += np.where(active, rewards, 0.0)
        start = terminated | truncated
        active = active & ~start
    return returns


def test_conventions_are_those_of_the_environments() -> None:
    """Agents import no environments: what both need to know is written twice."""
    np.testing.assert_array_equal(GRID_MOVES, grid_navigation.MOVES)
    assert MAX_STEP == point_navigation.MAX_STEP
    moves = t_maze.MOVES[[TMazeOracle.RIGHT, TMazeOracle.UP, TMazeOracle.DOWN]]
    assert moves.tolist() == [[1, 0], [0, 1], [0, -1]]


def test_shortest_ways_by_hand() -> None:
    task = WindOracle(goal=(0.0, 0.5)).adapt_to_tasks([[0.05, 0.05], [0.1, -0.02]])
    ways = shortest_ways([0.3, 0.0], task, 4)
    left = [0.3 - 0.05 * np.arange(1, 5), 0.5 - 0.15 * np.arange(1, 5)]
    np.testing.assert_allclose(ways[0], np.maximum(np.transpose(left), 0), atol=1e-12)
    np.testing.assert_allclose(ways[1, :, 0], 0.3)  # a wind as strong as the point
    np.testing.assert_allclose(ways[1, :, 1], 0.5 - 0.08 * np.arange(1, 5))


def test_dense_optimum_by_hand() -> None:
    ways = shortest_ways(ORIGIN, PointOracle().adapt_to_tasks([[0.25, 0.0], [0.3, -0.209]]), 5)
    far = np.hypot([0.2, 0.1], [0.109, 0.009]).sum()
    np.testing.assert_allclose(dense_optimum(ways), [-0.2, -far])
    np.testing.assert_allclose(dense_optimum(ways, tolerance=0.06), [-0.2, -far])
    np.testing.assert_allclose(dense_optimum(ways, tolerance=0.11), [-0.2, -far])
    np.testing.assert_allclose(dense_optimum(ways, tolerance=0.16), [-0.15, -far])


def test_point_navigation_oracle_earns_the_closed_form() -> None:
    returns = oracle_returns("PointNavigation")
    tasks = point_navigation.PointNavigation().task_split.test.tasks
    ways = shortest_ways(ORIGIN, PointOracle().adapt_to_tasks(tasks), 100)
    np.testing.assert_allclose(returns, dense_optimum(ways, 0.01), atol=1e-6)
    assert returns.mean() == pytest.approx(-0.54414, abs=1e-5)
    assert returns.mean() > -2.29  # the paper's trained oracle


def test_point_robot_oracle_earns_the_closed_form() -> None:
    """From wherever it starts."""
    env = meta_rl.make_task_vec("PointRobot", 20)
    tasks = PointRobot().task_split.test.tasks
    env.unwrapped.set_tasks(tasks)
    starts, _ = env.reset(seed=7)
    ways = shortest_ways(starts, PointOracle().adapt_to_tasks(tasks), 20)
    returns = episode_returns(PointOracle(), env, tasks, seed=7)
    np.testing.assert_allclose(returns, dense_optimum(ways), atol=1e-5)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_sparse_oracle_earns_the_closed_form(split: str) -> None:
    returns = oracle_returns("SparsePointNavigation", split=split)
    tasks = meta_rl.make_task_vec("SparsePointNavigation", 1).unwrapped.task_split[split].tasks
    ways = shortest_ways(ORIGIN, PointOracle().adapt_to_tasks(tasks), 20)
    np.testing.assert_allclose(returns, sparse_optimum(ways, 0.2), atol=1e-5)
    # Arrives after 8 to 10 steps, and the rest pays 1.
    assert returns.min() > 11
    assert returns.max() < 15


def test_wind_oracle_earns_the_closed_form() -> None:
    for split in ("train", "test"):
        returns = oracle_returns("WindNavigation", split=split)
        tasks = meta_rl.make_task_vec("WindNavigation", 1).unwrapped.task_split[split].tasks
        ways = shortest_ways(ORIGIN, WindOracle().adapt_to_tasks(tasks), 75)
        np.testing.assert_array_equal(returns, time_within(ways, 0.03))
        first = np.ceil(0.97 / (0.1 + tasks[:, 1]))
        np.testing.assert_array_equal(returns, 76 - first)


def test_grid_oracles_earn_the_closed_form() -> None:
    tasks = meta_rl.make_task_vec("GridNavigation", 1).unwrapped.task_split.test.tasks
    returns = oracle_returns("GridNavigation")
    on_goal = GridOracle.optimal_steps_on_goal(tasks, (0, 0), 15)
    np.testing.assert_array_equal(on_goal, 16 - tasks.sum(axis=1))
    np.testing.assert_allclose(returns, on_goal - 0.1 * (15 - on_goal))
    assert returns.mean() == pytest.approx(11.07143, abs=1e-5)
    for split in ("train", "test"):
        tasks = meta_rl.make_task_vec("DarkRoom", 1).unwrapped.task_split[split].tasks
        returns = oracle_returns("DarkRoom", split=split)
        on_goal = GridOracle.optimal_steps_on_goal(tasks, (4, 4), 20)
        np.testing.assert_array_equal(returns, on_goal)
        assert on_goal.min() >= 13
    assert GridOracle.optimal_steps_on_goal([[4, 4], [4, 5], [0, 0]], (4, 4), 20).tolist() == [
        20,
        20,
        13,
    ]


def test_key_to_door_oracle_earns_both_rewards() -> None:
    """Also where the key lies at the start or at the door, and in every further episode."""
    assert oracle_returns("DarkKeyToDoor").tolist() == [2.0] * 656
    assert (
        oracle_returns("DarkKeyToDoor", KeyToDoorOracle(2), "train", size=2, horizon=4).min() == 2
    )
    result = meta_rl.evaluate_adaptation(KeyToDoorOracle(9), "DarkKeyToDoor", 50, 3)
    assert (result.values == 2).all()


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"penalty": -1.0},
        {"oracle_length": 3, "corridor_length": 4, "penalty": -1.0, "goal_reward": 2.0},
        {"ambiguous_position": True},
    ],
)
def test_t_maze_oracle_earns_the_goal_reward(kwargs: dict[str, Any]) -> None:
    length = kwargs.get("corridor_length", 10) + kwargs.get("oracle_length", 0)
    oracle = TMazeOracle(1 if "ambiguous_position" in kwargs else length)
    returns = oracle_returns("TMaze", oracle, **kwargs)
    assert returns.tolist() == [kwargs.get("goal_reward", 1.0)] * 2


class Mostly:
    """An oracle that makes some random moves: still told the task."""

    def __init__(self, oracle: Any, share: float) -> None:
        self.oracle, self.share = oracle, share
        self.rng = np.random.default_rng(0)

    def adapt_to_tasks(self, tasks: Any) -> Any:
        return self.oracle.adapt_to_tasks(tasks)

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> Any:
        best, state = self.oracle.predict(observation, state, episode_start)
        if best.ndim == 2:
            other = self.rng.uniform(-1, 1, best.shape).astype(np.float32)
        else:
            other = self.rng.integers(4, size=best.shape)
        wrong = self.rng.random(len(best)) < self.share
        return np.where(wrong.reshape(-1, *[1] * (best.ndim - 1)), other, best), state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_nothing_earns_more_than_the_oracle(name: str, share: float) -> None:
    """On no task, and from the same starts; and less on average."""
    best = oracle_returns(name)
    other = oracle_returns(name, Mostly(navigation_oracles()[name], share))
    assert (other <= best + 1e-6).all()
    assert other.mean() < best.mean() or share == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_oracles_have_to_be_told_the_tasks(name: str) -> None:
    oracle = navigation_oracles()[name]
    observation = np.zeros((1, 3)) if name == "TMaze" else np.zeros((1, 2))
    with pytest.raises(ValueError, match="needs to be told the tasks"):
        oracle.predict(observation, None)
    with pytest.raises(ValueError, match="needs to be told the tasks"):
        oracle.adapt(None, None)


def belief_recursion(size: int, horizon: int, num_episodes: int) -> float:
    """Bayes-optimal return, by the definition: all actions, all beliefs, step by step."""
    every = frozenset((x, y) for x in range(size) for y in range(size) if max(x, y) > 1)

    def step(cell: tuple[int, int], move: Any) -> tuple[int, int]:
        x, y = np.clip(np.array(cell) + move, 0, size - 1).tolist()
        return x, y

    @cache
    def value(time: int, cell: tuple[int, int], goals: frozenset[tuple[int, int]]) -> float:
        if time == horizon * num_episodes:
            return 0.0
        if time % horizon == 0:
            cell = (0, 0)
        values = []
        for move in GRID_MOVES:
            there = step(cell, move)
            total = 0.0
            if there in goals:
                total += (1.0 + value(time + 1, there, frozenset([there]))) / len(goals)
            rest = goals - {there}
            if rest:
                total += len(rest) / len(goals) * (-0.1 + value(time + 1, there, rest))
            values.append(total)
        return max(values)

    return value(0, (0, 0), every)


@pytest.mark.parametrize(
    ("size", "horizon", "num_episodes"), [(3, 5, 2), (3, 3, 3), (3, 8, 1), (4, 4, 2), (3, 1, 2)]
)
def test_search_equals_the_recursion_over_beliefs(
    size: int, horizon: int, num_episodes: int
) -> None:
    plan = bayes_optimal_search(size, horizon, num_episodes)
    expected = belief_recursion(size, horizon, num_episodes)
    assert plan.expected_return == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("size", "horizon", "num_episodes"), [(4, 5, 3), (4, 6, 2), (4, 12, 2), (5, 7, 3)]
)
def test_bounds_leave_out_nothing(size: int, horizon: int, num_episodes: int) -> None:
    search = grid_search._Search(size, horizon, num_episodes)
    best, _ = search.run(at_least=0, width=None)
    plan = bayes_optimal_search(size, horizon, num_episodes)
    assert plan.steps_on_goal * search.num_goals == pytest.approx(best)


def path_value(actions: np.ndarray, size: int, horizon: int) -> float:
    """Expected steps on the goal of following a path until the goal is found."""
    num_episodes = len(actions) // horizon
    total, found, cell = 0, set(), np.zeros(2, dtype=int)
    for time, action in enumerate(actions):
        if time % horizon == 0:
            cell = np.zeros(2, dtype=int)
        cell = np.clip(cell + GRID_MOVES[action], 0, size - 1)
        key = tuple(cell.tolist())
        if cell.max() > 1 and key not in found:
            found.add(key)
            episode, step = divmod(time, horizon)
            later = max(horizon - sum(key) + 1, 0)
            total += horizon - step + (num_episodes - 1 - episode) * later
    return total / (size**2 - 4)


def test_the_published_grid_has_an_exact_optimum() -> None:
    plan = bayes_optimal_search()
    assert plan.steps_on_goal == pytest.approx(825 / 21)
    assert plan.expected_return == pytest.approx(37.2142857)
    assert plan.actions.shape == (4, 15)
    assert path_value(plan.actions.ravel(), 5, 15) == pytest.approx(825 / 21)
    starts = np.where(np.arange(60)[:, None] % 15 == 0, 0, np.roll(plan.cells.reshape(60, 2), 1, 0))
    np.testing.assert_array_equal(
        starts + GRID_MOVES[plan.actions.ravel()], plan.cells.reshape(60, 2)
    )


def test_no_other_path_is_worth_more() -> None:
    """Random paths, and the best path with some moves changed."""
    rng = np.random.default_rng(0)
    plan = bayes_optimal_search()
    snake = np.tile([2, 2, 2, 2, 1, 4, 4, 4, 1, 2, 2, 2, 1, 4, 4], 4)
    others = [snake, *rng.integers(1, 5, (200, 60))]
    for changes in (1, 2, 3):
        for _ in range(150):
            other = plan.actions.ravel().copy()
            other[rng.choice(30, changes, replace=False)] = rng.integers(5, size=changes)
            others.append(other)
    values = [path_value(np.asarray(other), 5, 15) for other in others]
    assert max(values) <= plan.steps_on_goal + 1e-9
    assert np.mean(values) < plan.steps_on_goal - 1


@pytest.mark.parametrize(
    ("size", "horizon", "num_episodes"), [(5, 15, 4), (4, 6, 3), (3, 2, 3), (4, 3, 4)]
)
def test_search_earns_its_value_in_the_environment(
    size: int, horizon: int, num_episodes: int
) -> None:
    """Also where goals are found by the last step of an episode (short horizons)."""
    learner = BayesOptimalSearch(size, horizon, num_episodes)
    kwargs = {"size": size, "horizon": horizon, "episodes_per_trial": num_episodes}
    goals = size**2 - 4
    result = meta_rl.evaluate_adaptation(learner, "GridNavigation", num_tasks=goals, **kwargs)
    assert result.total.mean() == pytest.approx(learner.plan.expected_return)
    oracle = meta_rl.evaluate_adaptation(GridOracle(size), "GridNavigation", goals, **kwargs)
    assert (result.values <= oracle.values + 1e-9).all()


def test_episodes_of_the_published_grid() -> None:
    """The first pays for the search, the others are as good as knowing the goal."""
    result = meta_rl.evaluate_adaptation(BayesOptimalSearch(), "GridNavigation", 21)
    np.testing.assert_allclose(result.values.mean(axis=0), [4.0, *[11.0714286] * 3])


def test_search_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="size has to be a whole number of at least 3"):
        bayes_optimal_search(2)
    with pytest.raises(ValueError, match="size has to be at most 8, got 9"):
        bayes_optimal_search(9)
    with pytest.raises(ValueError, match="horizon has to be a whole number"):
        bayes_optimal_search(5, 0)
    with pytest.raises(ValueError, match=r"observation must have shape \[N, 10\].*got \[3, 2\]"):
        BayesOptimalSearch().predict(np.zeros((3, 2)))
    monkeypatch.setattr(grid_search, "MAX_STATES", 10)
    with pytest.raises(ValueError, match="too large for an exact search: over 10 states at step"):
        bayes_optimal_search(4, 9, 1)
