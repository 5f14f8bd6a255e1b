"""Every agent that trains, small, on a family whose numbers can be broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from meta_rl import MetaAlgorithm, TaskVectorEnv
from meta_rl.agents.algorithm_distillation import AlgorithmDistillation
from meta_rl.agents.dpt import DPT
from meta_rl.agents.experts import EXPERTS
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.multi_task_sac import MultiTaskSAC, OracleSAC
from meta_rl.agents.oracle import Oracle
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.ppo import PPO
from meta_rl.agents.promp import ProMP
from meta_rl.agents.rl2 import RL2
from meta_rl.agents.varibad import VariBAD
from meta_rl.definition import TaskFuncEnv
from meta_rl.tasks import Tasks, UniformTasks, held_out_split

NUM_ENVS = 6
FIRST = 36
"""Steps of PEARL and its baselines before their first update."""


class Signs(TaskFuncEnv):
    """An action pays 1 where it has the sign of the task; the observation counts the steps.

    Attributes:
        broken: What is broken on tasks above 0, and the value in its place: ``"reward"`` or
            ``"observation"`` of the second step, or the ``"first"`` observation.
    """

    horizon = 3
    episodes_per_trial = 2
    broken: tuple[str, float] | None = None

    def __init__(self, discrete: bool = False) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.action_space: spaces.Space = spaces.Discrete(2) if discrete else action
        tasks = UniformTasks(spaces.Box(-1.0, 1.0, (1,), np.float64))
        self.task_split = held_out_split(tasks, num_test=8, seed=1)

    def initial(self, rng: np.random.Generator, params: Tasks) -> np.ndarray:
        return np.zeros(len(params), dtype=np.int64)

    def transition(self, state: np.ndarray, action: Any, rng: Any, params: Tasks) -> np.ndarray:
        return state + 1

    def observation(self, state: np.ndarray, rng: Any, params: Tasks) -> np.ndarray:
        seen = state[:, None].astype(np.float32)
        seen = self._broken("observation", seen, state[:, None] == 2, params)
        return self._broken("first", seen, state[:, None] == 0, params)

    def reward_terms(
        self, state: np.ndarray, action: Any, next_state: Any, rng: Any, params: Tasks
    ) -> dict[str, Any]:
        positive = action.reshape(len(params), -1)[:, 0] > 0
        right = (positive == (params[:, 0] > 0)).astype(np.float64)
        right = self._broken("reward", right[:, None], state[:, None] == 1, params)
        return {"reward_sign": right[:, 0]}

    def _broken(self, what: str, values: np.ndarray, here: np.ndarray, params: Tasks) -> np.ndarray:
        if self.broken is None or self.broken[0] != what:
            return values
        return np.where(here & (params > 0), self.broken[1], values).astype(values.dtype)


class SignsOracle(Oracle):
    """Takes an action of the task's sign."""

    def __init__(self, discrete: bool) -> None:
        self.discrete = discrete

    def adapt_to_tasks(self, tasks: Any) -> np.ndarray:
        return np.asarray(tasks)

    def act(self, observation: Any, state: np.ndarray, deterministic: bool) -> np.ndarray:
        if self.discrete:
            return (state[:, 0] > 0).astype(np.int64)
        return np.sign(state).astype(np.float32)


EXPERTS["Signs"] = lambda family, rng: SignsOracle(isinstance(family.action_space, spaces.Discrete))

IN_CONTEXT: dict[str, Any] = {"num_minibatches": 2, "policy_kwargs": {"hidden_size": 6}}
OFF_POLICY: dict[str, Any] = {
    "num_train_tasks": 6,
    "initial_steps": 6,
    "prior_steps": 6,
    "posterior_steps": 3,
    "extra_steps": 0,
    "updates_per_iteration": 3,
    "tasks_per_update": 3,
    "batch_size": 4,
    "context_size": 3,
    "buffer_size": 600,
    "policy_kwargs": {"hidden_sizes": (8, 8)},
}
ON_POLICY: dict[str, Any] = {"num_minibatches": 2, "num_epochs": 2}
GRADIENT: dict[str, Any] = {"envs_per_task": 2, "policy_kwargs": {"hidden_sizes": (4,)}}

AGENTS: dict[str, tuple[type[MetaAlgorithm], dict[str, Any]]] = {
    "rl2": (RL2, {**ON_POLICY, "policy_kwargs": {"hidden_size": 6}}),
    "varibad": (
        VariBAD,
        {**ON_POLICY, "policy_kwargs": {"hidden_size": 6, "decoder_size": 8}},
    ),
    "algorithm_distillation": (
        AlgorithmDistillation,
        {**IN_CONTEXT, "source_name": "noised-oracle"},
    ),
    "dpt": (DPT, IN_CONTEXT),
    "ppo": (PPO, ON_POLICY),
    "maml_trpo": (MAMLTRPO, {**GRADIENT, "cg_iterations": 3}),
    "promp": (ProMP, GRADIENT),
    "pearl": (PEARL, OFF_POLICY),
    "multi_task_sac": (MultiTaskSAC, OFF_POLICY),
    "oracle_sac": (OracleSAC, OFF_POLICY),
}
"""Classes and settings of all agents that train."""


def make_agent(name: str, family: Callable[[], TaskFuncEnv] = Signs, **changes: Any) -> Any:
    """An agent on six sub-environments."""
    make, settings = AGENTS[name]
    env = TaskVectorEnv(family, NUM_ENVS)
    return make(env=env, seed=0, device="cpu", **{**settings, **changes})


def learned(agent: MetaAlgorithm) -> list[torch.Tensor]:
    """All that is learned, the optimisers' state too."""
    found = []
    for part in agent.learned().values():
        if isinstance(part, torch.optim.Optimizer):
            found += [v for state in part.state.values() for v in state.values()]
        else:
            found += list(part.state_dict().values())
    return [value.detach().clone() for value in found]
