"""Stable-Baselines3's view.

Its PPO, callback and evaluation run unchanged; episode infos hold the summed rewards, lengths, last
observations, and whether the time limit cut; seeds and tasks reach the environment at the next
reset; the previous step is appended on request; what a native batch cannot do is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import meta_rl
from meta_rl import TaskVectorEnv
from meta_rl.adapter import TaskVectorAdapter
from meta_rl.sb3 import TaskVecEnvView

from .families import Corridor, PlainCorridor, PushedCorridor
from .learning import Learned


def corridor(num_envs: int = 3, **kwargs: Any) -> TaskVecEnvView:
    return TaskVecEnvView(TaskVectorEnv(Corridor, num_envs, **kwargs))


def set_tasks(view: TaskVecEnvView, tasks: list[int]) -> None:
    view.set_options([{"task": np.int64(task)} for task in tasks])


def ppo(env: Any, seed: int = 0, **kwargs: Any) -> PPO:
    settings: dict[str, Any] = {"n_steps": 10, "batch_size": 160, "n_epochs": 2, "device": "cpu"}
    return PPO("MlpPolicy", env, seed=seed, **{**settings, **kwargs})


def test_ppo_learns_and_is_evaluated_unchanged(tmp_path: Path) -> None:
    env = meta_rl.sb3_env("meta_rl/BernoulliBandit-v0", num_envs=64)
    evaluated = meta_rl.sb3_env("meta_rl/BernoulliBandit-v0", num_envs=4, split="validation")
    callback = EvalCallback(
        evaluated, n_eval_episodes=8, eval_freq=10, log_path=str(tmp_path), verbose=0
    )
    model = ppo(env).learn(1280, callback)
    assert model.num_timesteps == 1280
    evaluations = np.load(tmp_path / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [640, 1280]
    assert evaluations["results"].shape == (2, 8)
    returns, lengths = evaluate_policy(model, evaluated, 8, return_episode_rewards=True)
    assert lengths == [10] * 8
    assert all(0 <= earned <= 10 and earned == int(earned) for earned in returns)
    assert len(model.ep_info_buffer) == 100
    assert {info["l"] for info in model.ep_info_buffer} == {10}


@pytest.mark.learning
def test_ppo_finds_the_best_action_of_one_task(seed: int, learned: Learned) -> None:
    """Arm 2 pays always, the others never."""
    env = meta_rl.sb3_env("meta_rl/BernoulliBandit-v0", num_envs=16, num_arms=3)
    env.set_attr("task", np.array([0.0, 0.0, 1.0]))
    model = ppo(env, seed, learning_rate=3e-3, n_epochs=5).learn(3200)
    # Actions are drawn: by chance, the likeliest one of an untrained policy may be the best.
    mean, _ = evaluate_policy(model, env, 64, deterministic=False)
    learned("return", mean, at_least=8.0)  # of 10 at most


def test_episode_infos_hold_hand_worked_numbers() -> None:
    view = corridor()
    set_tasks(view, [1, 3, 5])
    assert view.reset()[:, :2].tolist() == [[1, 0], [3, 0], [5, 0]]
    assert [info["task"] for info in view.reset_infos] == [1, 3, 5]
    ends = []
    for _ in range(4):
        observations, rewards, done, infos = view.step(np.array([2, 0, 0]))
        assert rewards.dtype == np.float32
        assert [info["reward_action"] for info in infos] == [1, 0, 0]
        assert ["episode" in info for info in infos] == done.tolist()
        ends += [(i, infos[i]) for i in np.flatnonzero(done)]
    assert observations[:, 1].tolist() == [0, 1, 0]
    told = [
        (i, info["episode"]["r"], info["episode"]["l"], info["TimeLimit.truncated"])
        for i, info in ends
    ]
    first = (0, 11.0, 1, False)
    assert told == [first, first, first, (1, 93.0, 3, False), first, (2, 206.0, 4, True)]
    last = [info["terminal_observation"].tolist() for i, info in ends if i]
    assert last == [[3, 3, 0], [5, 4, 0]]
    assert all(info["episode"]["t"] >= 0 for _, info in ends)


def test_a_reset_begins_the_sums_anew() -> None:
    view = corridor(1)
    set_tasks(view, [3])
    view.reset()
    view.step(np.array([0]))
    view.reset()
    for _ in range(3):
        *_, infos = view.step(np.array([0]))
    assert (infos[0]["episode"]["r"], infos[0]["episode"]["l"]) == (93.0, 3)


def test_dict_observations_and_adapted_batches() -> None:
    view = TaskVecEnvView(TaskVectorEnv(PushedCorridor, 2))
    set_tasks(view, [1, 5])
    view.reset()
    *_, infos = view.step(np.zeros((2, 2)))
    assert infos[0]["terminal_observation"]["steps"] == 1
    assert infos[0]["terminal_observation"]["task"].tolist() == [1.0]
    adapted = TaskVecEnvView(TaskVectorAdapter([PlainCorridor] * 2))
    set_tasks(adapted, [1, 5])
    adapted.reset()
    *_, infos = adapted.step(np.zeros(2, dtype=int))
    assert infos[0]["terminal_observation"].tolist() == [1, 1, 0]
    assert infos[0]["episode"]["r"] == 10
    assert "episode" not in infos[1]


def test_a_seed_is_for_one_reset() -> None:
    view = corridor(8, noise=1.0, resample_tasks=True)
    view.seed(3)
    first, second = view.reset(), view.reset()
    view.seed(3)
    np.testing.assert_array_equal(view.reset(), first)
    assert not np.array_equal(first, second)
    view.seed(4)
    assert not np.array_equal(view.reset(), first)


def test_tasks_are_set_by_options_and_by_attribute() -> None:
    view = corridor()
    assert view.get_attr("task") == [None] * 3
    set_tasks(view, [1, 3, 5])
    view.reset()
    assert view.get_attr("task") == [1, 3, 5]
    assert view.get_attr("task", [2, 0]) == [5, 1]
    assert view.reset()[:, 0].tolist() == [1, 3, 5]
    view.set_attr("task", 4)
    assert view.reset()[:, 0].tolist() == [4, 4, 4]
    view.set_attr("task", None)
    view.seed(0)
    assert view.reset()[:, 0].tolist() != [4, 4, 4]
    with pytest.raises(ValueError, match=r"task 0 is outside Discrete\(5, start=1\)"):
        view.set_attr("task", 9)
    view.set_options([{"task": 1}, {}, {}])
    with pytest.raises(ValueError, match="tasks for 1 of 3 environments"):
        view.reset()


def test_dict_tasks_are_set_by_options() -> None:
    view = meta_rl.sb3_env("TabularMDP", num_envs=2, num_states=3, num_actions=2)
    tasks = view.task_env.unwrapped.task_split["test"].sample_tasks(2, np.random.default_rng(0))
    options = [{"task": {key: value[i] for key, value in tasks.items()}} for i in range(2)]
    view.set_options(options)
    view.reset()
    for i, task in enumerate(view.get_attr("task")):
        np.testing.assert_array_equal(task["rewards"], tasks["rewards"][i])


def test_a_new_task_after_every_trial_unless_refused() -> None:
    changes = {}
    for resample in (True, False):
        view = meta_rl.sb3_env("BernoulliBandit", 4, resample_tasks=resample, horizon=3)
        view.seed(0)
        view.reset()
        before = np.stack(view.get_attr("task"))
        for _ in range(3):
            view.step(np.zeros(4, dtype=int))
        changes[resample] = (np.stack(view.get_attr("task")) != before).all()
    assert changes == {True: True, False: False}


def test_the_previous_step_is_appended_on_request() -> None:
    """One observation; three arms one-hot; reward, end, new trial."""
    view = meta_rl.sb3_env("BernoulliBandit", 2, num_arms=3, horizon=2, previous_step=True)
    view.set_attr("task", np.array([1.0, 0.0, 1.0]))
    assert view.observation_space.shape == (7,)
    assert view.reset().tolist() == [[1, 0, 0, 0, 0, 0, 1]] * 2
    rows = view.step(np.array([1, 2]))[0]
    assert rows.tolist() == [[1, 0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0, 0]]
    *_, infos = view.step(np.array([0, 0]))
    assert infos[0]["terminal_observation"].tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert [view.get_attr("task")[0].tolist(), infos[1]["episode"]["r"]] == [[1, 0, 1], 2]
    assert ppo(view, batch_size=20).learn(20).num_timesteps == 20


def test_what_a_native_batch_cannot_do_is_refused() -> None:
    view = corridor()
    assert view.env_is_wrapped(Monitor) == [True] * 3
    assert view.env_is_wrapped(TaskVecEnvView) == [False] * 3
    assert view.get_attr("horizon") == [4] * 3
    assert view.get_attr("horizon", 1) == [4]
    with pytest.raises(AttributeError, match="only the task of all"):
        view.set_attr("task", 3, [1])
    with pytest.raises(AttributeError, match="cannot set 'horizon' of all"):
        view.set_attr("horizon", 3)
    with pytest.raises(AttributeError, match="no 'reset'"):
        view.env_method("reset")
    with pytest.raises(ValueError, match="needs SAME_STEP"):
        corridor(autoreset_mode="Disabled")
    with pytest.raises(ValueError, match="unknown environment"):
        meta_rl.sb3_env("CartPole-v7")
    with pytest.raises(ValueError, match="num_tasks"):
        meta_rl.sb3_env("BernoulliBandit", 0)
    view.close()
