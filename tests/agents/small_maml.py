"""Tiny agents that adapt by gradient steps, and their data in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import CallbackList
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_rl import TaskVectorEnv
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.promp import ProMP
from meta_rl.inner_loop import detached
from meta_rl.policy_gradient.batch import Batch
from meta_rl.rollout import Rollout

from ..families import Corridor

TASKS, EPISODES = 3, 4  # of a meta-batch, and of each of its tasks


def make_model(
    family: Any = Corridor, algorithm: Any = MAMLTRPO, seed: int | None = 0, **changes: Any
) -> Any:
    settings = {
        **({"cg_iterations": 3} if algorithm is MAMLTRPO else {}),
        "envs_per_task": EPISODES,
        "inner_lr": 0.3,
        "policy_kwargs": {"hidden_sizes": (3,), "activation": "tanh"},
    }
    env = TaskVectorEnv(family, TASKS * EPISODES) if isinstance(family, type) else family
    return algorithm(env=env, seed=seed, **{**settings, **changes})


def collected(model: Any, iteration: int = 1) -> Any:
    """The same agent, with the data of an iteration and no update."""
    model._setup_learn(1000, None)
    model._num_iterations = iteration - 1
    callback = CallbackList([])
    callback.init_callback(model)
    assert model.collect_rollouts(callback)
    return model


def in_double(model: Any) -> Any:
    """The same data and parameters in float64, with what the policy gives there exactly."""
    model.policy.double()
    batches = [
        tree_map(lambda part: part.double() if part.is_floating_point() else part, batch)
        for batch in (*model._supports, model._query)
    ]
    params = [model.policy.parameters_by_name()] * TASKS
    fixed, path = [], []
    for batch in batches:
        old = [model.policy.outputs(params[m], batch.obs[m]) for m in range(TASKS)]
        log_probs = [model.policy.log_prob(old[m], batch.actions[m]) for m in range(TASKS)]
        old = tuple(torch.stack(parts).detach() for parts in zip(*old, strict=True))
        batch = batch._replace(old=old, old_log_probs=torch.stack(log_probs).detach())
        fixed.append(batch)
        params = [looped_step(model, params[m], one_task(batch, m)) for m in range(TASKS)]
        path.append({name: torch.stack([p[name] for p in params]).detach() for name in params[0]})
    *model._supports, model._query = fixed
    model._path = path[:-1]
    return model


def one_task(batch: Batch, task: int) -> Batch:
    return tree_map(lambda part: part[task], batch)


def looped_step(
    model: Any, params: dict[str, Tensor], support: Batch, create_graph: bool = False
) -> dict[str, Tensor]:
    """A step of the policy gradient for one task by autograd, over the real steps alone."""
    real = support.mask > 0
    leaves = {
        name: value if create_graph else value.detach().requires_grad_()
        for name, value in params.items()
    }
    log_probs = model.policy.log_prob(
        model.policy.outputs(leaves, support.obs[real]), support.actions[real]
    )
    weight = log_probs
    if model.inner_loss_kind == "likelihood_ratio":
        weight = torch.exp(log_probs - support.old_log_probs[real])
    loss = -(weight * support.advantages[real]).sum() / real.sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=create_graph)
    if model.first_order:
        gradients = [gradient.detach() for gradient in gradients]
    stepped = {
        name: value - model.inner_lr * gradient
        for (name, value), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return stepped if create_graph else detached(stepped)


def play(model: Any, state: Any = None, seed: int = 0) -> Rollout:
    """An episode in every sub-environment of the agent's own, on the tasks set there."""
    from meta_rl.rollout import collect_episodes

    def act(observations: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return model.predict(observations, state)[0], {}

    rollout = collect_episodes(model.task_env, act, model.task_env.reset(seed=seed)[0])
    rollout.envs_per_task = EPISODES
    return rollout


ALGORITHMS = {"maml_trpo": MAMLTRPO, "promp": ProMP}
