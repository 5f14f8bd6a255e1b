"""The Neural Turing Machine: addressing against numbers worked by hand; learning to copy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_rl.few_shot.data.sequences import CopyTasks
from meta_rl.few_shot.learners.sequence_learner import LSTMLearner, NTMLearner
from meta_rl.memory.ntm import (
    NTM,
    content_weights,
    cosines,
    interpolate,
    sharpen,
    shift,
    write,
)

from ..learning import Learned

SMALL = {"slots": 6, "width": 4, "hidden": 8}
TASKS = CopyTasks((1, 3), bits=2)


def one(*values: float) -> torch.Tensor:
    """Of one sequence and one head."""
    return torch.tensor([[values]])


def small_ntm(seed: int = 0, **changes: object) -> NTMLearner:
    return NTMLearner(3, 2, **SMALL, **changes, meta_batch_size=4, seed=seed, device="cpu")


class TestAddressing:
    def test_cosines_by_hand(self) -> None:
        """(3, 4) with (1, 0), (0, 2), (-3, -4), and an empty slot: 3/5, 4/5, -1, 0."""
        memory = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, -4.0], [0.0, 0.0]]])
        assert cosines(memory, one(3.0, 4.0))[0, 0].tolist() == pytest.approx(
            [0.6, 0.8, -1.0, 0.0], abs=1e-5
        )

    def test_content_weights_by_hand(self) -> None:
        """Strength log 2 over 1/2 and cosines 1, 0: odds of 2² to 1."""
        memory = torch.tensor([[[5.0, 0.0], [0.0, 1.0]]])
        strength = torch.tensor([[2 * math.log(2)]])
        weights = content_weights(memory, one(1.0, 0.0), strength)
        assert weights[0, 0].tolist() == pytest.approx([0.8, 0.2], abs=1e-5)

    def test_the_gate_chooses_content(self) -> None:
        mixed = interpolate(one(1.0, 0.0), one(0.0, 1.0), torch.tensor([[0.25]]))
        assert mixed[0, 0].tolist() == [0.25, 0.75]

    def test_shifts_go_around_the_ring(self) -> None:
        """Kernel entries are for shifts by -1, 0 and 1: slot 3 goes to 2, 3 and 0."""
        moved = shift(one(0.0, 0.0, 0.0, 1.0), one(0.1, 0.2, 0.7))
        assert moved[0, 0].tolist() == pytest.approx([0.7, 0.0, 0.1, 0.2])
        wider = shift(one(1.0, 0.0, 0.0, 0.0, 0.0), one(0.1, 0.2, 0.3, 0.0, 0.4))
        assert wider[0, 0].tolist() == pytest.approx([0.3, 0.0, 0.4, 0.1, 0.2])

    def test_shift_is_the_circular_convolution_of_the_paper(self) -> None:
        """Equation 8 written as the double sum, s indexed by shift modulo N."""
        rng = np.random.default_rng(0)
        weights, kernel = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(3))
        s = np.zeros(7)
        s[[-1, 0, 1]] = kernel
        expected = [sum(weights[j] * s[(i - j) % 7] for j in range(7)) for i in range(7)]
        moved = shift(one(*weights), one(*kernel))
        assert moved[0, 0].tolist() == pytest.approx(expected, abs=1e-6)

    def test_sharpening_by_hand(self) -> None:
        """Squares of 0.6, 0.2, 0.2, divided by 0.44; power 1 changes nothing."""
        weights = one(0.6, 0.2, 0.2)
        sharp = sharpen(weights, torch.tensor([[2.0]]))[0, 0].tolist()
        assert sharp == pytest.approx([0.36 / 0.44, 0.04 / 0.44, 0.04 / 0.44])
        assert torch.allclose(sharpen(weights, torch.tensor([[1.0]])), weights)

    def test_sharpening_has_a_gradient_at_zero(self) -> None:
        weights = one(1.0, 0.0).requires_grad_()
        powers = torch.tensor([[1.5]], requires_grad=True)
        sharpen(weights, powers)[0, 0, 1].backward()
        assert torch.isfinite(weights.grad).all()
        assert torch.isfinite(powers.grad).all()

    def test_writing_by_hand(self) -> None:
        """4 loses half of a half: 4 · (1 - 0.5 · 0.5) + 0.5 · 2 = 4; the other slot keeps 8."""
        memory = torch.tensor([[[4.0], [8.0]]])
        written = write(memory, one(0.5, 0.0), one(0.5), one(2.0))
        assert written.flatten().tolist() == [4.0, 8.0]

    def test_two_heads_write_in_any_order(self) -> None:
        """Slot 0: 4 · (1 - 1 · 0.5) · (1 - 0.5 · 0.5) + 1 · 1 + 0.5 · 2 = 3.5."""
        memory = torch.tensor([[[4.0], [8.0]]])
        weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
        erase, add = torch.tensor([[[0.5], [0.5]]]), torch.tensor([[[1.0], [2.0]]])
        written = write(memory, weights, erase, add)
        assert written.flatten().tolist() == [3.5, 7.0]
        assert torch.equal(written, write(memory, weights.flip(1), erase.flip(1), add.flip(1)))


class TestCell:
    @pytest.mark.parametrize("controller", ["lstm", "feedforward"])
    def test_shapes_weights_and_separate_sequences(self, controller: str) -> None:
        cell = NTM(3, 2, **SMALL, read_heads=2, write_heads=3, controller=controller)
        x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
        state, alone = cell.initial_state(5), cell.initial_state(1)
        for step in x:
            outputs, state = cell(step, state)
            output, alone = cell(step[3:4], alone)
        assert outputs.shape == (5, 2)
        assert state.weights.shape == (5, 5, 6)
        assert all(len(leaf) == 5 for leaf in state)
        assert torch.allclose(state.weights.sum(-1), torch.ones(5, 5))
        assert torch.allclose(outputs[3:4], output, atol=1e-6)
        assert torch.allclose(state.memory[3:4], alone.memory, atol=1e-6)

    def test_the_state_given_is_not_changed(self) -> None:
        cell = NTM(3, 2, **SMALL)
        state = cell.initial_state(2)
        before = [leaf.clone() for leaf in state]
        cell(torch.ones(2, 3), state)
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"slots": 0}, "slots"),
            ({"controller": "gru"}, "controller is one of"),
            ({"slots": 2}, "around the ring"),
            ({"read_heads": 0}, "read_heads"),
        ],
    )
    def test_bad_sizes(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            NTM(3, 2, **(SMALL | changes))


class TestLearner:
    def test_adapt_then_predict_is_one_sequence(self) -> None:
        learner = small_ntm()
        batch = TASKS.sample_tasks(3, np.random.default_rng(0))
        whole, _ = learner.run(torch.cat([batch.support_x, batch.query_x], dim=1))
        state = learner.adapt(batch.support)
        steps = batch.query_x.shape[1]
        assert torch.allclose(learner.scores(batch.query_x, state), whole[:, -steps:])
        single = learner.adapt((batch.support_x[1], batch.support_y[1]))
        bits = learner.predict(batch.query_x[1], single)
        assert torch.equal(bits, (whole[1, -steps:] > 0).to(torch.float32))

    def test_an_lstm_in_one_call_is_one_step_by_step(self) -> None:
        learner = LSTMLearner(3, 2, hidden=8, seed=0, device="cpu")
        batch = TASKS.sample_tasks(3, np.random.default_rng(0))
        history: list[object] = []
        stepped, last = learner.run(batch.support_x, None, history)
        whole, state = learner.run(batch.support_x)
        assert len(history) == batch.support_x.shape[1] > 1
        assert torch.allclose(whole, stepped, atol=1e-6)
        for a, b in zip(state, last, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
            assert a.abs().max() > 0.01

    def test_bits_of_a_machine_that_guesses(self) -> None:
        """Outputs of 0 say one half: a bit for each of the 2 · 3."""
        learner = small_ntm()
        torch.nn.init.zeros_(learner.network.head.weight)
        torch.nn.init.zeros_(learner.network.head.bias)
        bits = learner.bits_per_sequence(CopyTasks((3, 3), 2), 5, np.random.default_rng(0))
        assert bits == pytest.approx(6.0)

    @pytest.mark.parametrize("kind", [NTMLearner, LSTMLearner])
    def test_resumed_is_undisturbed(self, kind: type, tmp_path: Path) -> None:
        def fresh() -> NTMLearner:
            return kind(3, 2, hidden=8, meta_batch_size=4, meta_lr=[1e-2, 1e-3], seed=1)

        whole = fresh().learn(TASKS, 4, log_interval=None)
        path = fresh()
        path.learn(TASKS, 4, callback=lambda learner: learner.num_iterations < 2)
        resumed = kind.load(path.save(tmp_path / "half"))
        resumed.total_iterations = 4
        resumed.learn(TASKS, 2, reset_num_iterations=False)
        for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_seeds_and_the_global_generator(self) -> None:
        torch.manual_seed(3)
        before = torch.get_rng_state()
        a, b, c = (small_ntm(seed).learn(TASKS, 2) for seed in (0, 0, 1))
        assert torch.equal(before, torch.get_rng_state())
        heads = [learner.network.head.weight for learner in (a, b, c)]
        assert torch.equal(heads[0], heads[1])
        assert not torch.equal(heads[0], heads[2])

    def test_long_gradients_are_scaled(self) -> None:
        learner = small_ntm(max_grad_norm=1e-3).learn(TASKS, 1)
        grads = [p.grad.norm() for p in learner.module.parameters() if p.grad is not None]
        assert float(torch.stack(grads).norm()) == pytest.approx(1e-3, rel=1e-3)

    def test_bad_input(self) -> None:
        learner = small_ntm()
        with pytest.raises(ValueError, match=r"no \[tasks, steps, 3\]"):
            learner.adapt((torch.zeros(1, 4, 7), torch.zeros(1, 4, 0)))
        state = learner.adapt((torch.zeros(2, 4, 3), torch.zeros(2, 4, 0)))
        with pytest.raises(ValueError, match="3 tasks, but a state of 2"):
            learner.predict(torch.zeros(3, 4, 3), state)
        with pytest.raises(ValueError, match=r"no \[tasks, steps, 3\]"):
            learner.learn(CopyTasks((1, 2), bits=5), 1)
        with pytest.raises(ValueError, match="max_grad_norm"):
            small_ntm(max_grad_norm=0.0)

    def test_attention(self) -> None:
        batch = TASKS.sample_tasks(2, np.random.default_rng(0))
        weights = small_ntm().attention(batch)
        steps = batch.support_x.shape[1] + batch.query_x.shape[1]
        assert weights.shape == (2, steps, 2, 6)
        assert torch.allclose(weights.sum(-1), torch.ones(2, steps, 2))


@pytest.mark.learning
def test_learns_to_copy(seed: int, learned: Learned) -> None:
    """With a feed-forward controller nothing but the memory can hold the bits; chance is 6 bits."""
    tasks = CopyTasks((2, 2), bits=3)
    sizes = {"slots": 6, "width": 6, "hidden": 24, "controller": "feedforward"}
    rates = {"meta_lr": [3e-2, 3e-3], "meta_batch_size": 64}
    learner = NTMLearner(4, 3, **sizes, **rates, seed=seed, device="cpu")
    learner.learn(tasks, 400, log_interval=None)
    bits = learner.bits_per_sequence(tasks, 64, np.random.default_rng(1))
    learned("bits per sequence", bits, at_most=0.3)
    batch = tasks.sample_tasks(20, np.random.default_rng(2))
    right = learner.predict(batch.query_x, learner.adapt(batch.support)) == batch.query_y
    learned("right bits", right.float().mean(), at_least=0.95)
