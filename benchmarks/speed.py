"""Speed against the peers: ratios, each measured in one run on one machine.

* Steps of 1,024 Bernoulli bandits: the native batch against Gymnasium's ``SyncVectorEnv`` of the
  same environment.
* Training steps of RL² against sb3-contrib's ``RecurrentPPO``: the same trials, an LSTM of the same
  size with the same heads, the same batch, minibatches and epochs. RecurrentPPO is measured twice:
  on our batched environment (only the learning differs) and, as its users would run it, on
  Stable-Baselines3's ``DummyVecEnv``.

Contenders take turns, ``repeats`` times; the median of the ratios is reported with its range.

    python benchmarks/speed.py
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from result_files import RESULTS, page, ratios, span, table, take_turns, write
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import meta_rl
from meta_rl.agents.rl2 import RL2

BANDIT = "meta_rl/BernoulliBandit-v0"


@dataclass
class Args:
    """Settings of the run."""

    num_envs: int = 1024
    """Number of sub-environments in the comparison of environments."""
    num_trials: int = 512
    """Number of trials in an iteration of training."""
    hidden_size: int = 64
    """Number of units of the LSTM."""
    num_epochs: int = 8
    """Number of epochs of an iteration."""
    horizons: tuple[int, ...] = (10, 100)
    """Numbers of pulls of a trial in the comparisons of training."""
    num_steps: int = 50_000
    """Least number of training steps in a measurement; iterations are whole."""
    repeats: int = 3
    """Number of turns of each contender."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    out: Path = RESULTS
    """Folder of speed.json and speed.md."""


class PreviousStep(gym.Wrapper):
    """The single environment as RL² sees it, for vector environments of Python objects."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.num_arms = int(env.action_space.n)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.num_arms + 4,), np.float32)

    def reset(self, **kwargs):
        """Resets; the observation tells that nothing came before the first step."""
        _, info = self.env.reset(**kwargs)
        row = np.zeros(self.num_arms + 4, dtype=np.float32)
        row[[0, -1]] = 1.0
        return row, info

    def step(self, action):
        """Steps, and appends the action, the reward and the end to the observation."""
        _, reward, terminated, truncated, info = self.env.step(action)
        row = np.zeros(self.num_arms + 4, dtype=np.float32)
        row[[0, 1 + action]] = 1.0
        row[-3:-1] = reward, terminated
        return row, reward, terminated, truncated, info


def env_steps_per_second(env: VectorEnv, seconds: float = 2.0) -> float:
    """Environment steps per second with random pulls, after a warm-up."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]
    for action in actions:
        env.step(action)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for action in actions:
            env.step(action)
        steps += len(actions) * env.num_envs
    return steps / (time.perf_counter() - began)


def make_rl2(args: Args, horizon: int) -> RL2:
    """RL² with the recurrent network of RecurrentPPO."""
    return RL2(
        env=BANDIT,
        env_kwargs={"horizon": horizon},
        meta_batch_size=args.num_trials,
        num_minibatches=8,
        num_epochs=args.num_epochs,
        policy_kwargs={"core": "lstm", "hidden_size": args.hidden_size},
        seed=0,
    )


def make_recurrent_ppo(args: Args, horizon: int, env: VecEnv) -> RecurrentPPO:
    """RecurrentPPO with the network of RL²: one LSTM, linear heads."""
    return RecurrentPPO(
        "MlpLstmPolicy",
        env,
        learning_rate=1e-3,
        n_steps=horizon,
        batch_size=args.num_trials * horizon // 8,
        n_epochs=args.num_epochs,
        gae_lambda=0.3,
        policy_kwargs={
            "lstm_hidden_size": args.hidden_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": [],
        },
        seed=0,
        device="cpu",
    )


def training_steps_per_second(model: RL2 | RecurrentPPO, args: Args, horizon: int) -> float:
    """Training steps per second of whole iterations; a model's first call is its warm-up."""
    iteration = args.num_trials * horizon
    steps = -(-args.num_steps // iteration) * iteration
    began = time.perf_counter()
    model.learn(steps, log_interval=None)
    return steps / (time.perf_counter() - began)


def compare_training(args: Args, horizon: int) -> dict[str, list[float]]:
    """Training steps per second of each contender, on trials of ``horizon`` pulls."""
    single = {"horizon": horizon, "resample_tasks": True}
    models = {
        "meta_rl RL²": make_rl2(args, horizon),
        "RecurrentPPO, our batch": make_recurrent_ppo(
            args,
            horizon,
            meta_rl.sb3_env(BANDIT, args.num_trials, previous_step=True, horizon=horizon),
        ),
        "RecurrentPPO, DummyVecEnv": make_recurrent_ppo(
            args,
            horizon,
            DummyVecEnv([lambda: PreviousStep(gym.make(BANDIT, **single))] * args.num_trials),
        ),
    }
    for model in models.values():
        model.set_logger(Logger(None, []))
        training_steps_per_second(model, args, horizon)
    return take_turns(
        {
            name: lambda model=model: training_steps_per_second(model, args, horizon)
            for name, model in models.items()
        },
        args.repeats,
    )


def row(ours: str, theirs: str, figures: dict[str, list[float]], what: str) -> list[str]:
    """A row of the table."""
    gains = ratios(figures[ours], figures[theirs])
    speeds = [f"{np.median(figures[name]):,.0f}" for name in (ours, theirs)]
    gain = f"**{np.median(gains):.1f}**"
    return [what, ours, speeds[0], theirs, speeds[1], gain, span(gains, ".1f")]


def main(args: Args) -> None:
    """Measures, and writes the tables."""
    torch.set_num_threads(args.threads)
    native = gym.make_vec(BANDIT, num_envs=args.num_envs)
    sync = SyncVectorEnv(
        [lambda: gym.make(BANDIT)] * args.num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )
    stepping = take_turns(
        {
            "meta_rl native batch": lambda: env_steps_per_second(native),
            "gymnasium SyncVectorEnv": lambda: env_steps_per_second(sync),
        },
        args.repeats,
    )
    training = {horizon: compare_training(args, horizon) for horizon in args.horizons}
    rows = [row(*stepping, stepping, f"environment steps, {args.num_envs:,} bandits")]
    for horizon, figures in training.items():
        ours, *peers = figures
        rows += [row(ours, peer, figures, f"training, {horizon} pulls") for peer in peers]
    text = page(
        "Speed",
        f"`python benchmarks/speed.py`: medians of {args.repeats} turns; torch with "
        f"{args.threads} thread(s) on {os.cpu_count()} cores. Training: {args.num_trials} "
        f"trials with 10 arms, LSTM of {args.hidden_size}, 8 minibatches, "
        f"{args.num_epochs} epochs.",
        table(["what", "ours", "steps/s", "peer", "steps/s", "ratio", "range"], rows),
    )
    print(text)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    content = {"stepping": stepping, "training": training, "settings": settings}
    write(args.out / "speed.json", content, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
