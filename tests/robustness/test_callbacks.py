"""Stable-Baselines3's own callbacks work with every agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)

from meta_rl import TaskVectorEnv

from .every_agent import AGENTS, NUM_ENVS, Signs, make_agent

STEPS = 300


@pytest.fixture(params=AGENTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


class Look(BaseCallback):
    """Keeps what each step shows in ``locals``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        wanted = ("actions", "rewards", "dones", "infos")
        self.seen.append({key: self.locals[key] for key in wanted})
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        assert len(ended) == self.locals["dones"].sum()
        self.episodes += ended
        return True


def test_locals(name: str) -> None:
    """One entry for each sub-environment; infos tell the reward's terms and where episodes end."""
    agent, look = make_agent(name), Look()
    agent.learn(STEPS, look)
    assert len(look.seen) * NUM_ENVS == agent.num_timesteps
    for step in look.seen:
        assert all(len(value) == NUM_ENVS for value in step.values())
        told = [info["reward_sign"] for info in step["infos"] if "episode" not in info]
        going_on = ~step["dones"]
        np.testing.assert_allclose(step["rewards"][going_on], told)
    assert look.episodes
    assert {episode["l"] for episode in look.episodes} == {Signs.horizon}
    earned = np.sum([step["rewards"] for step in look.seen])
    unfinished = agent.num_timesteps - Signs.horizon * len(look.episodes)
    assert abs(sum(episode["r"] for episode in look.episodes) - earned) <= unfinished


@pytest.mark.parametrize("window", [1, 7, 100])
def test_episodes_in_the_window(name: str, window: int) -> None:
    """The latest episodes, and their means in the log."""
    agent, look = make_agent(name, stats_window_size=window), Look()
    agent.learn(STEPS, look, log_interval=None)
    latest = look.episodes[-window:]
    assert list(agent.ep_info_buffer) == latest
    logged: dict[str, float] = {}
    agent.logger.dump = lambda step: logged.update(agent.logger.name_to_value)
    agent.dump_logs()
    mean = np.mean([episode["r"] for episode in latest])
    assert logged["rollout/ep_rew_mean"] == pytest.approx(mean)
    assert logged["rollout/ep_len_mean"] == Signs.horizon


def test_stop_on_max_episodes(name: str) -> None:
    """Stable-Baselines3 counts them for each sub-environment."""
    agent = make_agent(name)
    agent.learn(100_000, StopTrainingOnMaxEpisodes(5))
    least = 5 * NUM_ENVS * Signs.horizon
    assert least <= agent.num_timesteps < least + 10 * NUM_ENVS * Signs.horizon


@pytest.mark.parametrize("threshold", [-1.0, 1e9])
def test_stop_on_reward_threshold(name: str, threshold: float) -> None:
    """At the first evaluation, or never."""
    agent = make_agent(name)
    stop = StopTrainingOnRewardThreshold(threshold)
    look = EvalCallback(
        agent._wrap_env(TaskVectorEnv(Signs, 2)),
        callback_on_new_best=stop,
        eval_freq=10,
        n_eval_episodes=6,
        verbose=0,
    )
    agent.learn(STEPS, look)
    assert np.isfinite(look.last_mean_reward)
    assert (agent.num_timesteps < STEPS) == (threshold < 0)


def test_checkpoints(name: str, tmp_path: Path) -> None:
    """They can be loaded."""
    agent = make_agent(name)
    agent.learn(STEPS, CheckpointCallback(20, str(tmp_path), "agent"))
    files = sorted(tmp_path.iterdir())
    assert len(files) == agent.num_timesteps // NUM_ENVS // 20
    loaded = type(agent).load(tmp_path / f"agent_{20 * NUM_ENVS}_steps.zip", device="cpu")
    assert loaded.num_timesteps == 20 * NUM_ENVS


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_every_n_timesteps_and_progress_bar(name: str) -> None:
    agent, look = make_agent(name), Look()
    bar = ProgressBarCallback()
    agent.learn(STEPS, [EveryNTimesteps(60, look), bar])
    assert len(look.seen) == agent.num_timesteps // 60
    assert bar.pbar.n == agent.num_timesteps
