"""Tiny RL² agents, and what is compared of them."""

from __future__ import annotations

from typing import Any

import torch

from meta_rl import TaskVectorEnv
from meta_rl.agents.rl2 import RL2

from .probe_families import RememberedEpisode

TRIAL = 4  # steps of RememberedEpisode, on 4 sub-environments: 16 steps in an iteration
ITERATION = 4 * TRIAL


def make_model(env: Any = RememberedEpisode, seed: int | None = 0, **changes: Any) -> RL2:
    settings = {
        "num_minibatches": 2,
        "num_epochs": 2,
        "learning_rate": 0.01,
        "policy_kwargs": {"hidden_size": 6},
    }
    if isinstance(env, type):
        env = TaskVectorEnv(env, 4)
    return RL2(env=env, seed=seed, **{**settings, **changes})


def bandit_model(**changes: Any) -> RL2:
    """On a registered environment, as SB3's callbacks need one beside it."""
    kwargs = {"meta_batch_size": 4, "env_kwargs": {"num_arms": 2, "horizon": 3}}
    return make_model("BernoulliBandit", **{**kwargs, **changes})


def parameters(model: RL2) -> dict[str, torch.Tensor]:
    return {name: part.clone() for name, part in model.policy.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)
