"""Meta-World: through the same interface as our own families, and as it is (``native=False``).

Without the extra, or with another MuJoCo, one error says what to install, and nothing else breaks.
With it: courses equal those of Meta-World's own environments, whatever task came before; lists are
its own; goals are hidden, refused outside their bounds and where Meta-World would ask for another
for ever; episodes that share a simulator, and batches in processes, are as each for itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import meta_rl
from meta_rl.algorithms import RunTasks
from meta_rl.cli import main
from meta_rl.cli.trainable import trainable
from meta_rl.envs import metaworld as ours
from meta_rl.envs.metaworld_goals import Goals, benchmark_goals, import_metaworld
from meta_rl.make import PYTHON_ENVIRONMENTS

from ..families import QuickSuccess

MISSING = importlib.util.find_spec("metaworld") is None
needs_metaworld = pytest.mark.skipif(MISSING, reason="the extra metaworld is not installed")
REACH = "meta_rl/MetaWorldML1-v0"
GOAL = np.array([0.0, 0.6, 0.02, 0.1, 0.85, 0.2])  # the puck's place, where the hand has to go


def task(goal: Any = GOAL, env: int = 0) -> dict[str, Any]:
    return {"env": env, "goal": np.asarray(goal, dtype=np.float64)}


def test_registering_and_listing_need_no_extra(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, meta_rl; sys.exit('metaworld' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert main(["envs"]) == 0
    shown = capsys.readouterr().out
    for name in PYTHON_ENVIRONMENTS:
        assert f"meta_rl/{name}" in shown
    assert "500" in shown


def test_a_missing_package_is_one_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    message = r'the package metaworld is missing .*mujoco==3\.3\.0.*pip install "meta-rl\[metaw'
    with pytest.raises(ImportError, match=message):
        gym.make(REACH)
    with pytest.raises(ImportError, match=message):
        meta_rl.make_task_vec("MetaWorldML10", 2)
    assert main(["train", "rl2", "MetaWorldML1", "--total-timesteps", "10"]) == 2
    assert "meta-rl: the package metaworld is missing" in capsys.readouterr().err


def test_another_mujoco_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", sys.modules[__name__])
    monkeypatch.setattr("mujoco.__version__", "9.9.9")
    with pytest.raises(ImportError, match=r"MuJoCo is 9\.9\.9 here\. .*needs mujoco==3\.3\.0"):
        import_metaworld()


@needs_metaworld
@pytest.mark.parametrize("env_name", ["reach-v3", "drawer-open-v3"])
def test_promises_are_kept(env_name: str) -> None:
    meta_rl.check_task_env(REACH, env_name=env_name, horizon=60)


@needs_metaworld
def test_lists_are_those_of_meta_world() -> None:
    """Training goals come with the seed, test goals with the next; ten of fifty are validation."""
    env = ours.MetaWorldTask(env_name="push-v3", goal_seed=4)
    theirs = importlib.import_module("metaworld").ML1("push-v3", seed=4)
    for parts, listed in (
        (("train", "validation"), theirs.train_tasks),
        (("test",), theirs.test_tasks),
    ):
        goals = [env.task_split[part].tasks["goal"] for part in parts]
        expected = [pickle.loads(listed_task.data)["rand_vec"] for listed_task in listed]
        np.testing.assert_array_equal(np.concatenate(goals), expected)
    split = env.task_split
    assert [len(part) for part in (split.train, split.validation, split.test)] == [40, 10, 50]
    assert not np.array_equal(
        ours.MetaWorldTask(env_name="push-v3").task_split.test.tasks["goal"],
        split.test.tasks["goal"],
    )
    assert (env.horizon, env.episodes_per_trial, env.env_names) == (500, 10, ("push-v3",))


@needs_metaworld
def test_courses_are_those_of_meta_world_whatever_came_before() -> None:
    package = importlib.import_module("metaworld")
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4)).astype(np.float32)
    env = ours.MetaWorldTask()
    records = []
    for goal in (GOAL, GOAL[[0, 1, 2, 0, 4, 5]], GOAL):
        observation, info = env.reset(options={"task": task(goal)})
        np.testing.assert_array_equal(info["task"]["goal"], goal)
        record = [observation]
        for action in actions:
            observation, reward, *_, infos = env.step(action)
            assert infos["reward_task"] == reward
            record += [observation, [reward, infos["success"]]]
        records.append(np.concatenate(record))
        assert len(env.arms) == 1
    np.testing.assert_array_equal(records[0], records[2])
    assert not np.array_equal(records[0], records[1])

    theirs = package.ALL_V3_ENVIRONMENTS["reach-v3"]()
    data = {"rand_vec": GOAL, "env_cls": type(theirs), "partially_observable": True}
    theirs.set_task(package.Task("reach-v3", pickle.dumps(data)))
    observation, _ = theirs.reset()
    record = [observation[:36]]
    for action in actions:
        observation, reward, *_, infos = theirs.step(action)
        assert not observation[36:].any()
        record += [observation[:36], [reward, infos["success"]]]
    np.testing.assert_array_equal(records[0], np.concatenate(record))


@needs_metaworld
def test_the_goal_is_hidden_and_success_is_told() -> None:
    """First observations of two goals are equal; a hand that is led there succeeds, to the end."""
    env = ours.MetaWorldTask(horizon=90)
    seen = [env.reset(options={"task": task(g)})[0] for g in (GOAL[[0, 1, 2, 0, 4, 5]], GOAL)]
    np.testing.assert_array_equal(*seen)
    observation, successes, truncated = seen[1], [], False
    while not truncated:
        push = np.clip(10 * (GOAL[3:] - observation[:3]), -1, 1)
        observation, _, terminated, truncated, infos = env.step(np.append(push, 0.0))
        assert not terminated
        successes.append(infos["success"])
    assert len(successes) == 90
    assert successes[0] == 0.0
    assert successes[-1] == 1.0
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(4))


@needs_metaworld
def test_bad_input_is_refused() -> None:
    for kwargs, message in (
        ({"env_name": "raech-v3"}, "unknown env_name 'raech-v3': did you mean reach-v3"),
        ({"benchmark": "ML2"}, "ML1, ML10, ML25, ML45 exist"),
        ({"benchmark": "ML10", "env_name": "reach-v3"}, "env_name is for ML1"),
        ({"horizon": 501}, "at most 500 steps, got 501"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"split": "ood"}, "no task split 'ood'"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.MetaWorldTask(**kwargs)
    env = ours.MetaWorldTask()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(4))
    with pytest.raises(ValueError, match="task 0 is outside Box"):
        env.reset(options={"task": task([0.0, 0.6, 0.02, 0.1, 0.95, 0.2])})
    with pytest.raises(ValueError, match=r"task 0 is outside Discrete\(1\)"):
        env.reset(options={"task": task(env=1)})
    with pytest.raises(ValueError, match=r"unknown reset options \['goal'\]"):
        env.reset(options={"goal": GOAL})
    assert env.task is None

    # Only 0.1 m between the puck and the goal: Meta-World would ask for another goal for ever.
    near = task([0.0, 0.7, 0.02, 0.0, 0.8, 0.2])
    env.reset(options={"task": task()})
    with pytest.raises(ValueError, match="SawyerReachEnvV3 does not accept it"):
        env.reset(options={"task": near})
    np.testing.assert_array_equal(env.reset()[1]["task"]["goal"], GOAL)


@needs_metaworld
def test_goals_of_three_numbers_are_padded_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of a 6-number and a 3-number environment, of two listed goals each."""
    reach, drawer = (benchmark_goals("ML1", f"{n}-v3", 0) for n in ("reach", "drawer-open"))
    bounds = (*reach.bounds, *drawer.bounds)
    test = [(1, goal) for _, goal in drawer.test]
    goals = Goals(("reach-v3", "drawer-open-v3"), bounds, reach.train, test)
    monkeypatch.setattr(ours, "benchmark_goals", lambda *_: goals)
    env = ours.MetaWorldTask("ML10")
    assert env.task_split.space["goal"].shape == (6,)
    drawn = env.task_split.test.tasks
    assert set(drawn["env"]) == {1}
    assert not drawn["goal"][:, 3:].any()
    env.reset(options={"task": task(drawn["goal"][0], env=1)})
    env.reset(options={"task": task()})
    assert len(env.arms) == 2
    with pytest.raises(ValueError, match=r"outside that of drawer-open-v3: .*, then zeros"):
        env.reset(options={"task": task(GOAL, env=1)})
    env.close()


@needs_metaworld
@pytest.mark.parametrize("env_name", ["basketball-v3", "push-v3"])
def test_episodes_that_share_a_simulator_are_those_of_meta_world(env_name: str) -> None:
    """Two in turn on one simulator, as two objects of Meta-World's; in second episodes as well.

    Basketball moves a body of the model, and keeps a view of the simulator's memory as its goal.
    """
    package = importlib.import_module("metaworld")
    envs = [ours.MetaWorldTask(env_name=env_name, horizon=30) for _ in range(2)]
    envs[1].arms = envs[0].arms
    goals = envs[0].task_split.train.tasks["goal"][:2]
    theirs = [package.ALL_V3_ENVIRONMENTS[env_name]() for _ in range(2)]
    for env, goal in zip(theirs, goals, strict=True):
        data = {"rand_vec": goal, "env_cls": type(env), "partially_observable": True}
        env.set_task(package.Task(env_name, pickle.dumps(data)))
    rng = np.random.default_rng(0)
    for _ in range(2):
        seen = []
        for env, other, goal in zip(envs, theirs, goals, strict=True):
            seen.append(env.reset(options={"task": task(goal)})[0])
            np.testing.assert_array_equal(seen[-1], other.reset()[0][:36])
        rewards = []
        for _ in range(30):
            for i, (env, other) in enumerate(zip(envs, theirs, strict=True)):
                push = 10 * (seen[i][4:7] - seen[i][:3])  # towards the object
                action = np.append(push, rng.uniform(-1, 1)).clip(-1, 1).astype(np.float32)
                seen[i], reward, *_, infos = env.step(action)
                expected, paid, *_, told = other.step(action)
                np.testing.assert_array_equal(seen[i], expected[:36])
                assert (reward, infos["success"]) == (paid, told["success"])
                rewards.append(reward)
        assert len(set(rewards)) > 50
    assert len(envs[0].arms) == 1
    arm = envs[0].arms.find(env_name, None)
    assert arm._beginning.cache_info()[:2] == (2, 2)  # second episodes simulate no first states


@needs_metaworld
def test_the_number_of_processes_changes_nothing() -> None:
    """Of all in this process, in one other, and in blocks of one and two."""
    courses = []
    for kwargs in ({"asynchronous": False}, {"num_processes": 1}, {"num_processes": 2}):
        env: Any = meta_rl.make_task_vec("MetaWorldML1", 3, horizon=5, **kwargs)
        assert (env.num_envs, env.horizon, env.spec.id) == (3, 5, REACH)
        assert len(multiprocessing.active_children()) == kwargs.get("num_processes", 0)
        goals = np.stack([GOAL, GOAL[[0, 1, 2, 0, 4, 5]], GOAL])
        env.set_tasks({"env": np.zeros(3, dtype=np.int64), "goal": goals})
        env.action_space.seed(0)
        observations, infos = env.reset(seed=0)
        np.testing.assert_array_equal(infos["task"]["goal"], goals)
        course = [observations]
        for step in range(6):
            *outcome, infos = env.step(env.action_space.sample())
            course += outcome
            assert outcome[3].all() == (step == 4)
        assert infos["success"].tolist() == [0.0, 0.0, 0.0]
        env.set_tasks(None)
        observations, infos = env.reset(seed=1)
        courses.append([*course, observations, infos["task"]["goal"]])
        env.close()
    for other in courses[1:]:
        for one, another in zip(courses[0], other, strict=True):
            np.testing.assert_array_equal(one, another)
    assert multiprocessing.active_children() == []


@needs_metaworld
def test_pictures_need_no_screen() -> None:
    """And are those of the episode, whose turn it need not be; they change no course."""
    env = gym.make(REACH, render_mode="rgb_array", native=False)
    env.reset(options={"task": task()})
    frame = env.render()
    assert frame.shape == (480, 480, 3)
    assert frame.std() > 10

    others = [ours.MetaWorldTask(render_mode="rgb_array") for _ in range(2)]
    for other in others:
        other.arms = env.unwrapped.arms
    others[0].reset(options={"task": task()})
    others[1].reset(options={"task": task([0.0, 0.6, 0.02, -0.1, 0.85, 0.1])})
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 4)).astype(np.float32)
    seen = [(env.step(a)[0], others[0].step(a)[0], others[1].step(a)[0]) for a in actions]
    assert not np.array_equal(others[0].render(), frame)
    np.testing.assert_array_equal(others[0].render(), env.render())
    assert not np.array_equal(others[1].render(), env.render())  # another goal
    np.testing.assert_array_equal(seen[-1][0], seen[-1][1])
    after = [env.step(actions[0])[0], others[0].step(actions[0])[0]]
    unseen = ours.MetaWorldTask()
    unseen.reset(options={"task": task()})
    expected = [unseen.step(action)[0] for action in [*actions, actions[0]]][-1]
    for observation in after:
        np.testing.assert_array_equal(observation, expected)
    env.close()


def test_evaluations_take_fewer_tasks_of_slow_environments() -> None:
    agent: Any = trainable("rl2")
    model = agent(env="BernoulliBandit", meta_batch_size=1, num_minibatches=1, seed=0)
    for env_id, whole, brief in (("MetaWorldML10", 40, 10), ("BernoulliBandit", None, 200)):
        tasks = RunTasks(env_id, env_id, {})
        assert model.evaluation_size(tasks) == whole
        assert model.evaluation_size(tasks, brief=True) == brief


@needs_metaworld
def test_success_is_evaluated() -> None:
    """An oracle that is told the goals leads the hand there: it succeeds on all."""

    class Oracle:
        def adapt_to_tasks(self, tasks: Any) -> Any:
            return tasks["goal"]

        def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: Any):
            push = np.clip(10 * (state[:, 3:] - observation[:, :3]), -1, 1)
            return np.column_stack([push, np.zeros(len(push))]).astype(np.float32), state

    result = meta_rl.evaluate_adaptation(Oracle(), "MetaWorldML1", 2, 1, horizon=90)
    assert result.success.tolist() == [[1.0], [1.0]]
    assert multiprocessing.active_children() == []
    assert result.environment == REACH


@needs_metaworld
def test_its_own_evaluation_counts_quick_successes_more_often() -> None:
    """Of two goals one succeeds, ten times as quickly as the other fails: it finds 1, not 1/2."""

    class Still:
        def eval_action(self, observations: np.ndarray) -> np.ndarray:
            return np.zeros(len(observations), dtype=np.int64)

        def reset(self, env_mask: np.ndarray) -> None:
            pass

    envs = gym.vector.SyncVectorEnv(
        [
            lambda: gym.wrappers.RecordEpisodeStatistics(QuickSuccess(task=0)),
            lambda: gym.wrappers.RecordEpisodeStatistics(QuickSuccess(task=1)),
        ],
        autoreset_mode="SameStep",
    )
    theirs = importlib.import_module("metaworld.evaluation")
    success, mean_return, *_ = theirs.evaluation(Still(), envs, num_episodes=3)
    assert (success, mean_return) == (1.0, 1.0)


@needs_metaworld
def test_only_ml25_lists_an_environment_on_both_sides() -> None:
    """As the page says, so that nobody takes it for a held-out one."""
    listed = importlib.import_module("metaworld.env_dict")
    shared = {
        name: set(getattr(listed, f"{name}_V3")["train"])
        & set(getattr(listed, f"{name}_V3")["test"])
        for name in ("ML10", "ML25", "ML45")
    }
    assert shared == {"ML10": set(), "ML25": {"basketball-v3"}, "ML45": set()}
