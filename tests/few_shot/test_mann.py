"""MANN: its access to memory against numbers worked by hand, and that it learns to bind labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from meta_rl.few_shot.learners.mann import (
    MANN,
    MANNCell,
    by_presentation,
    least_used,
    update_usage,
    write_weights,
)
from meta_rl.few_shot.tasks import FewShotTasks

from ..learning import Learned
from .small_data import blob_split

SIZES = {"slots": 6, "width": 5, "heads": 2, "hidden": 12}
TASKS = blob_split(ways=3, shots=1, queries=2).train


def small(seed: int = 0, **changes: object) -> MANN:
    settings = {"input_shape": [4], "meta_batch_size": 4} | SIZES | changes
    return MANN(3, **settings, seed=seed, device="cpu")


class TestAccess:
    def test_the_least_used_slots(self) -> None:
        usage = torch.tensor([[0.3, 0.1, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]])
        assert least_used(usage, 1).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
        assert least_used(usage, 2).tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
        assert least_used(usage, 3).tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]

    def test_write_weights_by_hand(self) -> None:
        """A quarter of where was read, three quarters of the least used; a slot for each head."""
        reads = torch.tensor([[[0.4, 0.6, 0.0], [0.0, 0.0, 1.0]]])
        least = torch.tensor([[1.0, 0.0, 1.0]])
        weights = write_weights(reads, least, torch.tensor([[0.25, 0.0]]))
        assert weights[0, 0].tolist() == pytest.approx([0.85, 0.15, 0.0])
        assert weights[0, 1].tolist() == [0.0, 0.0, 1.0]

    def test_usage_decays(self) -> None:
        """0.5 · (2, 4) + (0.2 + 0.4, 0.8 + 0.6) + (1 + 0, 0 + 1)."""
        reads = torch.tensor([[[0.2, 0.8], [0.4, 0.6]]])
        writes = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        usage = update_usage(torch.tensor([[2.0, 4.0]]), reads, writes, decay=0.5)
        assert usage[0].tolist() == pytest.approx([2.6, 4.4])

    def test_a_slot_is_emptied_before_it_is_written(self) -> None:
        """With the gate shut, rows go to the least used slots and replace what was there."""
        cell = MANNCell(3, [4], **SIZES, decay=0.9)
        with torch.no_grad():
            cell.addressing.weight.zero_()
            cell.addressing.bias.zero_()
            given = cell.addressing.bias.view(2, 12)
            given[:, 5:10] = torch.atanh(torch.tensor(0.5))
            given[:, 10] = -100.0
        usage = torch.tensor([[5.0, 1.0, 5.0, 5.0, 2.0, 5.0]])
        full = cell.initial_state(1)._replace(memory=torch.full((1, 6, 5), 9.0), usage=usage)
        _, state = cell(torch.ones(1, 4), full)
        assert torch.allclose(state.memory[0, [1, 4]], torch.tensor(0.5))
        assert torch.equal(state.memory[0, [0, 2, 3, 5]], torch.full((4, 5), 9.0))
        # Keys of zeros read all six slots alike, 1/6 by each of two heads.
        expected = 0.9 * usage[0] + 2 / 6 + torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
        assert torch.allclose(state.usage[0], expected)


def test_by_presentation() -> None:
    y = np.array([[0, 1, 0, 0], [2, 2, 1, 2]])
    right = np.array([[0, 1, 1, 1], [0, 1, 0, 0]])
    assert by_presentation(right, y).tolist() == [0.25, 1.0, 0.5]


class TestLearner:
    def test_an_answer_never_sees_its_own_label(self) -> None:
        learner = small()
        batch = TASKS.sample_tasks(2, np.random.default_rng(0))
        x, y = learner.episode(batch, np.random.default_rng(1))
        changed = y.clone()
        changed[:, 4] = (y[:, 4] + 1) % 3
        before, after = learner.run(x, y)[0], learner.run(x, changed)[0]
        assert torch.equal(before[:, :5], after[:, :5])
        assert not torch.equal(before[:, 5], after[:, 5])

    def test_an_episode_holds_every_image_once(self) -> None:
        batch = TASKS.sample_tasks(2, np.random.default_rng(0))
        x, y = small().episode(batch, np.random.default_rng(1))
        whole = torch.cat([batch.support_x, batch.query_x], dim=1)
        labels = torch.cat([batch.support_y, batch.query_y], dim=1)
        for task in range(2):
            place = [(whole[task] == image).all(dim=1).nonzero().item() for image in x[task]]
            assert sorted(place) == list(range(9))
            assert y[task].tolist() == labels[task][place].tolist()

    def test_predict_is_the_next_step_of_the_episode(self) -> None:
        learner = small()
        batch = TASKS.sample_tasks(2, np.random.default_rng(0))
        state = learner.adapt(batch.support)
        scores = learner.scores(batch.query_x, state)
        for query in (0, 3):
            x = torch.cat([batch.support_x, batch.query_x[:, query : query + 1]], dim=1)
            y = torch.cat([batch.support_y, batch.query_y[:, query : query + 1]], dim=1)
            expected = learner.run(x, y)[0][:, -1]
            assert torch.allclose(scores[:, query], expected, atol=1e-5)
        halves = learner.adapt((batch.support_x[:, :1], batch.support_y[:, :1]))
        halves = learner.adapt((batch.support_x[:, 1:], batch.support_y[:, 1:]), halves)
        assert torch.allclose(halves.memory, state.memory, atol=1e-6)
        single = learner.adapt((batch.support_x[1], batch.support_y[1]))
        assert torch.equal(
            learner.predict(batch.query_x[1], single), learner.predict(batch.query_x, state)[1]
        )

    def test_resumed_is_undisturbed(self, tmp_path: Path) -> None:
        whole = small(seed=1).learn(TASKS, 4)
        half = small(seed=1)
        half.learn(TASKS, 4, callback=lambda learner: learner.num_iterations < 2)
        resumed = MANN.load(half.save(tmp_path / "half"), device="cpu")
        resumed.learn(TASKS, 2, reset_num_iterations=False)
        for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
            assert torch.equal(a, b)
        other = small(seed=2).learn(TASKS, 4)
        assert not torch.equal(whole.network.head.weight, other.network.head.weight)

    def test_bad_input(self) -> None:
        learner = small()
        x, y = torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2]] * 2)
        state = learner.adapt((x, y))
        for call, message in (
            (lambda: learner.adapt((x, y + 1)), "labels have to be 0 to 2"),
            (lambda: learner.adapt((x[..., :3], y)), "inputs of shape"),
            (lambda: learner.adapt((x[:, :0], y[:, :0])), "an empty support set"),
            (lambda: learner.predict(x[:1], state), "1 tasks, but a state of 2"),
            (lambda: learner.learn(blob_split(ways=4).train, 1), "labels have to be 0 to 2"),
            (lambda: small(input_shape=[2, 2]).learn(TASKS, 1), "inputs of shape"),
            (lambda: small(heads=7), "more than the 6 slots"),
            (lambda: small(decay=1.5), "decay"),
        ):
            with pytest.raises(ValueError, match=message):
                call()


class Corners:
    """Two different corners of a square as classes 0 and 1, at random; noise-free."""

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        corners = rng.permuted(np.tile(np.arange(4), (num_tasks, 1)), axis=1)[:, :2]
        labels = np.tile([0, 1], (num_tasks, 3))
        x = torch.nn.functional.one_hot(torch.from_numpy(np.take_along_axis(corners, labels, 1)), 4)
        x, y = x.to(torch.float32), torch.from_numpy(labels)
        return FewShotTasks(x[:, :2], y[:, :2], x[:, 2:], y[:, 2:])


@pytest.mark.learning
def test_learns_to_bind_labels(seed: int, learned: Learned) -> None:
    """First images: 3/4 at best (the other label is ruled out once one is seen); later: all."""
    sizes = {"slots": 6, "width": 8, "heads": 1, "hidden": 32, "meta_batch_size": 32}
    learner = MANN(2, input_shape=[4], **sizes, meta_lr=2e-2, seed=seed, device="cpu")
    learner.learn(Corners(), 400, log_interval=None)
    rates = learner.accuracy_by_presentation(Corners(), 200, np.random.default_rng(1))
    assert rates[0] < 0.85
    learned("second time", rates[1], at_least=0.9)
    learned("third time", rates[2], at_least=0.9)
    batch = Corners().sample_tasks(100, np.random.default_rng(2))
    right = learner.predict(batch.query_x, learner.adapt(batch.support)) == batch.query_y
    learned("accuracy", right.float().mean(), at_least=0.9)
