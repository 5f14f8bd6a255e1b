"""Adapting and evaluating change nothing; the seed decides everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meta_rl
from meta_rl.few_shot import FewShotLearner, MemoryNetworkLearner, ProtoNet

from .every_learner import CASES, NETWORKS, Net, point_tasks, same


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def batch_of(tasks: Any, num: int = 3) -> Any:
    return getattr(tasks, "test", tasks).sample_tasks(num, np.random.default_rng(0))


def test_adapting_and_evaluating_in_a_training_change_nothing(name: str) -> None:
    make, tasks = CASES[name].make, CASES[name].tasks()
    batch, global_state = batch_of(tasks), torch.get_rng_state()
    calls = []

    def disturb(learner: FewShotLearner) -> None:
        before = learner.rng.bit_generator.state
        state = learner.adapt(batch.support)
        learner.predict(batch.query_x, state)
        list(learner.adaptation_points(batch.support))
        assert learner.rng.bit_generator.state == before
        held_out = getattr(tasks, "test", tasks)
        meta_rl.evaluate_adaptation(learner, held_out, 2)
        calls.append(1)

    undisturbed = make().learn(tasks, 3)
    disturbed = make().learn(tasks, 3, callback=disturb)
    assert same(undisturbed, disturbed)
    assert len(calls) == (0 if name in ("scratch", "nearest") else 3)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_adapting_twice_gives_the_same(name: str) -> None:
    learner, batch = CASES[name].make(), batch_of(CASES[name].tasks())
    first, second = (learner.scores(batch.query_x, learner.adapt(batch.support)) for _ in range(2))
    assert torch.equal(first, second)


def test_what_a_task_gives_does_not_depend_on_the_tasks_beside_it(name: str) -> None:
    learner, batch = CASES[name].make(), batch_of(CASES[name].tasks())
    together = learner.scores(batch.query_x, learner.adapt(batch.support))
    last = batch.take(slice(2, 3))
    alone = learner.scores(last.query_x, learner.adapt(last.support))
    assert torch.allclose(together[2:], alone, atol=1e-6)


def trained_after(name: str, number: int, **net: Any) -> FewShotLearner:
    """With torch's global generator in a state of its own before, and in the middle."""
    torch.manual_seed(number)
    learner = NETWORKS[name](**net) if net else CASES[name].make()

    def draw(learner: FewShotLearner) -> None:
        torch.rand(number)

    return learner.learn(CASES[name].tasks(), 3, callback=draw)


def test_the_global_generator_does_not_matter(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        assert same(trained_after(name, 1), trained_after(name, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_drawn_by_the_seed(name: str) -> None:
    """And not at all in adaptation and prediction."""
    with torch.random.fork_rng(devices=[]):
        one, other = (trained_after(name, number, dropout=0.5) for number in (1, 2))
        without = trained_after(name, 1)
    assert same(one, other)
    assert not same(one, without) or name == "scratch"  # which is not trained
    batch = batch_of(point_tasks())
    first, second = (one.scores(batch.query_x, one.adapt(batch.support)) for _ in range(2))
    assert torch.equal(first, second)


def test_updates_drop_other_units_each_time() -> None:
    learner = ProtoNet(Net(None, dropout=0.5), seed=0, meta_lr=1e-30, device="cpu")
    losses: list[float] = []
    update = learner.update
    batch = batch_of(point_tasks())

    def noted(_: Any) -> Any:
        numbers = update(batch)
        losses.append(float(numbers["loss"].detach()))
        return numbers

    learner.update = noted  # type: ignore[method-assign]
    learner.learn(point_tasks(), 4)
    assert len(set(losses)) == 4


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("name", ["maml", "anil", "reptile", "protonet"])
def test_layers_with_noise_train(layer: nn.Module, name: str) -> None:
    def trained() -> FewShotLearner:
        learner = NETWORKS[name]()
        body: Any = learner.network.body
        body[2] = layer
        return learner.learn(point_tasks(), 2)

    assert same(trained(), trained())


def test_a_failed_update_leaves_the_network_in_evaluation_mode() -> None:
    learner = ProtoNet(Net(None), device="cpu")
    with pytest.raises(ValueError, match="query inputs: example 5 of task 0 holds nan"):
        learner.learn(Poisoned(), 1)
    assert not learner.module.training


class Poisoned:
    """Tasks with a NaN in the last query."""

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        batch = point_tasks().train.sample_tasks(num_tasks, rng)
        batch.query_x[0, -1, 0] = torch.nan
        return batch


def test_memory_networks_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    MemoryNetworkLearner(20, seed=0, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
