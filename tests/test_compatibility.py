"""Gymnasium's and Stable-Baselines3's own tools work on the environments as they are.

Episode statistics are the sums of the rewards in each autoreset mode; running means are those of
the observations; CleanRL's stack of wrappers goes around single environments; batches of processes
equal batches in this process; environments that are copied in the middle of an episode go on alike;
Stable-Baselines3's PPO trains on robots, with normalised observations.
"""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import meta_rl
from meta_rl.make import ENVIRONMENTS

REGISTERED = sorted(f"meta_rl/{name}" for name in ENVIRONMENTS)

# Of Gymnasium, about its own robots' observations, which have no bounds.
pytestmark = pytest.mark.filterwarnings("ignore:.*space m.nimum value")


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_episode_statistics_of_a_batch(mode: AutoresetMode) -> None:
    """Dark rooms of which some end at the goal: lengths and returns differ."""
    env = gym.make_vec(
        "meta_rl/DarkRoom-v0",
        num_envs=6,
        autoreset_mode=mode,
        terminate_at_goal=True,
        size=3,
        horizon=9,
    )
    env = vector_wrappers.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    env.action_space.seed(0)
    returns, lengths = np.zeros(6), np.zeros(6, dtype=int)
    resetting = np.zeros(6, dtype=bool)  # NEXT_STEP's steps that only reset
    seen = set()
    for _ in range(60):
        _, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        returns, lengths = returns + rewards, lengths + ~resetting
        done = terminated | truncated
        if done.any():
            told = infos if "episode" in infos else infos["final_info"]
            assert told["episode"]["r"][done].tolist() == returns[done].tolist()
            assert told["episode"]["l"][done].tolist() == lengths[done].tolist()
            seen |= set(lengths[done].tolist())
            returns[done], lengths[done] = 0.0, 0
        resetting = done if mode is AutoresetMode.NEXT_STEP else resetting
    assert 9 in seen
    assert len(seen) > 2


def test_episode_statistics_of_one() -> None:
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("meta_rl/PointRobot-v0"))
    env.reset(seed=0)
    total = 0.0
    for _ in range(20):
        _, reward, _, truncated, info = env.step(np.ones(2, dtype=np.float32))
        total += reward
    assert truncated
    assert info["episode"]["r"] == pytest.approx(total)
    assert info["episode"]["l"] == 20


def test_running_means_of_a_batch_are_those_of_its_observations() -> None:
    env, twin = (
        gym.make_vec(
            "meta_rl/HopperVel-v0",
            num_envs=8,
            nthread=1,
            autoreset_mode=AutoresetMode.NEXT_STEP,  # the wrapper refuses SAME_STEP
        )
        for _ in range(2)
    )
    normalised = vector_wrappers.NormalizeObservation(env)
    raw = [twin.reset(seed=0)[0]]
    last = [normalised.reset(seed=0)[0]]
    twin.action_space.seed(0)
    for _ in range(20):
        actions = twin.action_space.sample()
        raw.append(twin.step(actions)[0])
        last.append(normalised.step(actions)[0])
    seen = np.concatenate(raw)
    statistics = normalised.obs_rms
    np.testing.assert_allclose(statistics.mean, seen.mean(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(statistics.var, seen.var(axis=0), rtol=1e-3, atol=1e-5)
    expected = (raw[-1] - statistics.mean) / np.sqrt(statistics.var + 1e-8)
    np.testing.assert_allclose(last[-1], expected, rtol=1e-4, atol=1e-4)
    env.close()
    twin.close()


def cleanrl_stack(env_id: str) -> gym.Env:
    """What CleanRL's ppo_continuous_action.py wraps around an environment, in its order."""
    env = gym.make(env_id, horizon=7)
    env = gym.wrappers.FlattenObservation(env)
    env = gym.wrappers.RecordEpisodeStatistics(env)
    env = gym.wrappers.ClipAction(env)
    env = gym.wrappers.NormalizeObservation(env)
    env = gym.wrappers.TransformObservation(
        env, lambda seen: np.clip(seen, -10, 10), env.observation_space
    )
    env = gym.wrappers.NormalizeReward(env, gamma=0.99)
    return gym.wrappers.TransformReward(env, lambda reward: float(np.clip(reward, -10, 10)))


@pytest.mark.parametrize("name", ["HalfCheetahVel", "PointNavigation"])
def test_cleanrls_stack_of_wrappers(name: str) -> None:
    envs = SyncVectorEnv([lambda: cleanrl_stack(f"meta_rl/{name}-v0")] * 2)
    observations, infos = envs.reset(seed=1)
    assert infos["task"].shape == (2, *envs.get_attr("task_split")[0].space.shape)
    envs.action_space.seed(0)
    ended = 0
    for _ in range(20):
        observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert np.abs(observations).max() <= 10
        assert np.isfinite(rewards).all()
        if (terminated | truncated).any():
            assert infos["episode"]["l"].tolist() == [7, 7]
            ended += 1
    assert ended == 2
    envs.close()


@pytest.mark.parametrize("name", ["HopperRandParams", "DarkKeyToDoor"])
def test_processes_equal_one_process(name: str) -> None:
    """The id names the module that registers it, as a fresh process has to know."""
    outcomes = []
    for batch in (SyncVectorEnv, AsyncVectorEnv):
        kwargs = {} if batch is SyncVectorEnv else {"context": "forkserver"}
        env = batch([lambda: gym.make(f"meta_rl:meta_rl/{name}-v0", horizon=4)] * 2, **kwargs)
        env.action_space.seed(0)
        record = [env.reset(seed=3)[0]]
        for _ in range(6):
            record += env.step(env.action_space.sample())[:4]
        env.close()
        outcomes.append(record)
    for ours, theirs in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("env_id", REGISTERED)
def test_copies_go_on_alike(env_id: str) -> None:
    """One environment and a batch, pickled in the middle of an episode."""
    single = gym.make(env_id).unwrapped
    batch = gym.make_vec(env_id, num_envs=3, resample_tasks=True).unwrapped
    for env in (single, batch):
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(2):
            step(env, env.action_space.sample())
        copy = pickle.loads(pickle.dumps(env))
        for _ in range(6):
            actions = env.action_space.sample()
            for ours, theirs in zip(step(env, actions), step(copy, actions), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        env.close()
        copy.close()


def step(env: Any, actions: Any) -> Any:
    """One step; a single environment whose episode has ended begins another."""
    outcome = env.step(actions)[:4]
    if isinstance(env, gym.Env) and (outcome[2] or outcome[3]):
        env.reset()
    return outcome


def test_ppo_trains_on_robots() -> None:
    env = VecNormalize(meta_rl.sb3_env("HalfCheetahVel", num_envs=4, horizon=8, nthread=1))
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128
    assert len(model.ep_info_buffer) == 16
    assert {info["l"] for info in model.ep_info_buffer} == {8}
    assert all(-60 < info["r"] < 0 for info in model.ep_info_buffer)
    env.close()
