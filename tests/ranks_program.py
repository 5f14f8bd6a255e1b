"""A program for several ranks: it trains small learners of every kind that ranks can share.

``python -m tests.ranks_program FOLDER`` writes their parameters into the folder, from rank 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meta_rl import TaskVectorEnv
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.ppo import PPO
from meta_rl.agents.promp import ProMP
from meta_rl.agents.rl2 import RL2
from meta_rl.compute import ranks
from meta_rl.few_shot import FewShotNetwork
from meta_rl.few_shot.data.datasets import open_dataset
from meta_rl.few_shot.learners.maml import MAML
from meta_rl.few_shot.learners.matching import MatchingNet
from meta_rl.few_shot.learners.protonet import ProtoNet
from meta_rl.few_shot.learners.reptile import Reptile
from meta_rl.few_shot.learners.ridge import Ridge
from meta_rl.few_shot.networks.batch_norm import RunningBatchNorm1d
from meta_rl.few_shot.networks.feed_forward import sinusoid_mlp

from .families import Corridor
from .few_shot.small_data import blob_split

TASKS = 4
ITERATIONS = 3


def agent(algorithm: Any, env: Any, kwargs: dict[str, Any], first: int = 1, **settings: Any) -> Any:
    """An agent after three iterations on a meta-batch of four tasks."""
    model = algorithm(
        env=env, env_kwargs=kwargs, meta_batch_size=TASKS, seed=0, device="cpu", **settings
    )
    return trained(model, first)


def trained(model: Any, first: int = 1) -> Any:
    """The agent after three iterations, of which the first one needs some number of steps."""
    for steps in [first, *[1] * (ITERATIONS - 1)]:
        model.learn(steps, reset_num_timesteps=False)
    return model


def on_corridor() -> Any:
    """Tasks of 1 to 4 steps: the ranks' episodes, and their batches, have different lengths."""
    per_task = 3
    env = TaskVectorEnv(Corridor, ranks.share("tasks", TASKS) * per_task, noise=0.3)
    return trained(
        MAMLTRPO(
            env=env,
            envs_per_task=per_task,
            num_inner_steps=2,
            exploration_coefficient=0.1,
            curvature_fraction=0.5,
            policy_kwargs={"hidden_sizes": (5,), "activation": "tanh"},
            seed=0,
            device="cpu",
        )
    )


def pearl(encoder: str) -> Any:
    steps = {"initial_steps": 20, "prior_steps": 20, "posterior_steps": 20, "extra_steps": 20}
    networks = {"hidden_sizes": (8, 8), "latent_size": 2, "encoder": encoder}
    updates = {"updates_per_iteration": 4, "tasks_per_update": 4, "batch_size": 8}
    return agent(
        PEARL,
        "PointRobot",
        {"horizon": 10},
        80 * 20,  # the first steps on each of 80 training tasks
        **steps,
        **updates,
        context_size=8,
        buffer_size=16_000,
        initial_actions="held",
        policy_kwargs=networks,
    )


def embedding() -> FewShotNetwork:
    with torch.random.fork_rng(devices=[]):
        body = nn.Sequential(nn.Linear(4, 8, bias=False), RunningBatchNorm1d(8), nn.Tanh())
        generator = torch.Generator().manual_seed(0)
        shape: dict[str, Any] = {"ways": None, "input_shape": (4,), "recipe": None}
        return FewShotNetwork(body, 8, None, **shape, generator=generator)


def few_shot(learner: Any, **settings: Any) -> Any:
    """A few-shot learner after three iterations on a meta-batch of four tasks."""
    if learner in (MAML, Reptile):
        tasks = open_dataset("Sinusoid", {"shots": 5, "num_test": 4}, "test")
        network = sinusoid_mlp(hidden=(8, 8), generator=torch.Generator().manual_seed(0))
    else:
        tasks, network = blob_split(), embedding()
    made = learner(network, meta_batch_size=TASKS, seed=0, device="cpu", **settings)
    return made.learn(tasks, ITERATIONS)


SMALL = {"policy_kwargs": {"hidden_sizes": (8,), "output_scale": 0.1}}
CASES: dict[str, Callable[[], Any]] = {
    "MAML-TRPO on episodes of different lengths": on_corridor,
    "MAML-TRPO on a robot": partial(
        agent,
        MAMLTRPO,
        "HalfCheetahVel",
        {"horizon": 20},
        envs_per_task=2,
        **SMALL,
    ),
    "ProMP": partial(
        agent,
        ProMP,
        "PointNavigation",
        {"horizon": 10},
        envs_per_task=3,
        num_outer_steps=2,
        **SMALL,
    ),
    "RL2 on a robot": partial(
        agent,
        RL2,
        "HalfCheetahVel",
        {"horizon": 10},
        trials_per_env=2,
        num_minibatches=2,
        num_epochs=2,
        policy_kwargs={"hidden_size": 8},
    ),
    "RL2 on MDPs": partial(
        agent,
        RL2,
        "TabularMDP",
        {},
        num_minibatches=1,
        num_epochs=3,
        target_kl=1e-4,
        policy_kwargs={"hidden_size": 8},
    ),
    "PPO": partial(agent, PPO, "PointNavigation", {"horizon": 10}, num_minibatches=2),
    "PEARL": partial(pearl, "product"),
    "PEARL with a recurrent encoder": partial(pearl, "recurrent"),
    "MAML": partial(few_shot, MAML),
    "MAML with learned step sizes": partial(few_shot, MAML, learn_lr=True, num_steps=2),
    "Reptile": partial(few_shot, Reptile),
    "ProtoNet": partial(few_shot, ProtoNet),
    "Matching networks": partial(few_shot, MatchingNet),
    "Ridge": partial(few_shot, Ridge),
}


def parameters(learner: Any) -> dict[str, np.ndarray]:
    """All that is learned, the state of the optimiser left out, and the count of steps."""
    module = learner.module if hasattr(learner, "module") else learner.policy
    found = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    done = getattr(learner, "num_timesteps", 0)
    return {**found, "steps": np.array(done), "draw": np.array(learner.rng.random())}


def train_all() -> dict[str, dict[str, np.ndarray]]:
    """Trains all learners as one of several ranks."""
    torch.set_num_threads(1)
    return {name: parameters(make()) for name, make in CASES.items()}


if __name__ == "__main__":
    with ranks.joined():
        learned = train_all()
        if ranks.is_first():
            for name, values in learned.items():
                np.savez(Path(sys.argv[1]) / f"{name}.npz", **values)
