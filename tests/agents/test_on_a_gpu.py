"""Agents on a GPU: trained, evaluated, saved, and loaded on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meta_rl import evaluate_adaptation
from meta_rl.agents.maml_trpo import MAMLTRPO
from meta_rl.agents.multi_task_sac import MultiTaskSAC, OracleSAC
from meta_rl.agents.pearl import PEARL
from meta_rl.agents.promp import ProMP
from meta_rl.agents.rl2 import RL2
from meta_rl.compute.torch_state import set_generator_state, weights_generator

OFF_POLICY: dict[str, Any] = {
    "num_train_tasks": 4,
    "initial_steps": 20,
    "prior_steps": 20,
    "extra_steps": 20,
    "updates_per_iteration": 4,
    "tasks_per_update": 3,
    "batch_size": 4,
    "context_size": 3,
    "buffer_size": 800,
    "policy_kwargs": {"hidden_sizes": (8, 8), "encoder_sizes": (8,)},
}
INNER: dict[str, Any] = {"envs_per_task": 20, "policy_kwargs": {"hidden_sizes": (16,)}}
AGENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pearl": (PEARL, OFF_POLICY),
    "pearl-recurrent": (
        PEARL,
        OFF_POLICY | {"policy_kwargs": OFF_POLICY["policy_kwargs"] | {"encoder": "recurrent"}},
    ),
    "pearl-held": (PEARL, OFF_POLICY | {"initial_actions": "held", "cuda_graph": True}),
    "multi-task": (MultiTaskSAC, OFF_POLICY | {"cuda_graph": True}),
    "oracle": (OracleSAC, OFF_POLICY | {"cuda_graph": True}),
    "maml-trpo": (MAMLTRPO, INNER),
    "promp": (ProMP, INNER),
    **{
        f"rl2-{core}": (
            RL2,
            {"num_minibatches": 2, "policy_kwargs": {"hidden_size": 6, "core": core}},
        )
        for core in ("gru", "lstm", "ntm")
    },
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", AGENTS)
def test_trains_and_moves_to_a_cpu(name: str, tmp_path: Path) -> None:
    algorithm, settings = AGENTS[name]
    settings = settings | {"env_kwargs": {"horizon": 10}, "meta_batch_size": 2, "seed": 0}
    model = algorithm(env="PointNavigation", device="cuda", **settings)
    first = {key: value.cpu().clone() for key, value in model.policy.state_dict().items()}
    settings.pop("cuda_graph", None)
    on_cpu = algorithm(env="PointNavigation", device="cpu", **settings)
    for key, value in on_cpu.policy.state_dict().items():
        assert torch.equal(value, first[key])  # the same first weights everywhere
    model.learn(1).learn(1, reset_num_timesteps=False)
    assert any(not torch.equal(v.cpu(), first[k]) for k, v in model.policy.state_dict().items())
    model.save(tmp_path / "model")
    for device in ("cuda", "cpu"):
        loaded = algorithm.load(tmp_path / "model", env="PointNavigation", device=device)
        for key, value in model.policy.state_dict().items():
            assert torch.equal(value.cpu(), loaded.policy.state_dict()[key].cpu())
        result = evaluate_adaptation(
            loaded, "PointNavigation", 3, 2, envs_per_task=20 if "envs_per_task" in settings else 1
        )
        assert np.isfinite(result.values).all()


def test_first_weights_are_drawn_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(3)
    assert weights_generator(generator) is generator


def test_a_state_of_another_device_is_a_seed() -> None:
    """A GPU's state has 16 bytes, that of a CPU thousands."""
    foreign = torch.arange(16, dtype=torch.uint8)
    drawn = []
    for state in (foreign, foreign, foreign + 1):
        generator = torch.Generator().manual_seed(len(drawn))
        set_generator_state(generator, state)
        drawn.append(torch.rand(3, generator=generator))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    own = generator.get_state()
    following = torch.rand(3, generator=generator)
    set_generator_state(generator, own)
    assert torch.equal(torch.rand(3, generator=generator), following)
