"""End-to-end memory networks: encodings and hops against numbers worked by hand, and learning."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_rl import evaluate_adaptation
from meta_rl.few_shot.learners.memory_network import (
    MemoryNetwork,
    MemoryNetworkLearner,
    bag_of_words,
    encode_positions,
)
from meta_rl.few_shot.tasks import FewShotTasks

from ..learning import Learned


class Where:
    """Two of three people go to two of four places; where is one of them? Words 1-3 and 4-7."""

    name = "Where"

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        people = rng.permuted(np.tile([1, 2, 3], (num_tasks, 1)), axis=1)[:, :2]
        places = rng.permuted(np.tile([4, 5, 6, 7], (num_tasks, 1)), axis=1)[:, :2]
        asked = rng.integers(2, size=num_tasks)
        rows = np.arange(num_tasks)
        times = np.tile([2, 1], (num_tasks, 1))
        question = np.stack([people[rows, asked], np.zeros(num_tasks, np.int64)], axis=1)
        parts = (np.stack([people, places], axis=2), times, question[:, None])
        answer = places[rows, asked][:, None]
        return FewShotTasks(*(torch.from_numpy(part) for part in (*parts, answer)))


def small(seed: int = 0, **changes: object) -> MemoryNetworkLearner:
    settings = {"dim": 8, "hops": 2, "meta_batch_size": 8, "max_time": 4} | changes
    return MemoryNetworkLearner(8, **settings, seed=seed, device="cpu")


class TestEncodings:
    def test_positions_are_those_of_the_formula(self) -> None:
        tokens = torch.tensor([[3, 1, 2, 0], [4, 0, 0, 0]])
        words = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
        expected = torch.zeros(2, 5)
        for row, length in enumerate((3, 1)):
            for j in range(1, length + 1):
                for k in range(1, 6):
                    weight = 1 + 4 * (k - 3) * (j - (length + 1) / 2) / (5 * length)
                    expected[row, k - 1] += weight * words[row, j - 1, k - 1]
        assert torch.allclose(encode_positions(words, tokens), expected, atol=1e-6)
        both = encode_positions(torch.cat([words, 2 * words], dim=-1), tokens, dim=5)
        assert torch.allclose(both, torch.cat([expected, 2 * expected], dim=-1), atol=1e-5)

    def test_positions_by_hand(self) -> None:
        """Two words, two features: the first weighs (5/4, 3/4), the second (3/4, 5/4)."""
        words = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
        assert encode_positions(words, torch.tensor([1, 2])).tolist() == [2.75, 32.5]

    def test_a_bag_forgets_the_order(self) -> None:
        words, tokens = torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([5, 6, 0])
        assert bag_of_words(words, tokens).tolist() == [3.0]


def by_hand(tying: str, hops: int) -> MemoryNetwork:
    """One feature, word embeddings that are set by the tests; times count nothing."""
    network = MemoryNetwork(4, dim=1, hops=hops, tying=tying, positions=False, max_time=2)
    torch.nn.init.zeros_(network.times.weight)
    return network


def set_words(network: MemoryNetwork, *tables: list[float]) -> None:
    with torch.no_grad():
        network.words.weight.copy_(torch.tensor(tables).T)


class TestHops:
    STORY = torch.tensor([[[1], [2], [0]]])
    TIMES = torch.tensor([[2, 1, 0]])
    QUESTION = torch.tensor([[[3]]])

    def test_adjacent_by_hand(self) -> None:
        """u = log 2; m = 1, 0 and an empty place: p = 1/2, 1/4, 1/4; o = 3/2 + 6/4 = 3."""
        network = by_hand("adjacent", 1)
        set_words(network, [9.0, 1.0, 0.0, math.log(2)], [0.0, 3.0, 6.0, 1.0])
        logits = network(self.QUESTION, network.read_story(self.STORY, self.TIMES))
        u = math.log(2) + 3  # W is the last table
        assert logits[0, 0].tolist() == pytest.approx([0, 3 * u, 6 * u, u], rel=1e-6)

    def test_the_linear_start_by_hand(self) -> None:
        """Without softmax: p = log 2 · (1, 0), so o = 3 log 2 and u = 4 log 2."""
        network = by_hand("adjacent", 1)
        set_words(network, [9.0, 1.0, 0.0, math.log(2)], [0.0, 3.0, 6.0, 1.0])
        story = network.read_story(self.STORY, self.TIMES)
        logits = network(self.QUESTION, story, linear=True).detach()
        assert float(logits[0, 0, 3]) == pytest.approx(4 * math.log(2))

    def test_two_adjacent_hops_by_hand(self) -> None:
        """Keys of hop 2 are values of hop 1: u = 0, p even, o = (1 - 1) / 3; then (3 + 6) / 3."""
        network = by_hand("adjacent", 2)
        set_words(network, [9.0, 2.0, 7.0, 0.0], [0.0, 1.0, -1.0, 0.0], [0.0, 3.0, 6.0, 1.0])
        logits = network(self.QUESTION, network.read_story(self.STORY, self.TIMES))
        assert logits[0, 0].tolist() == pytest.approx([0, 9, 18, 3])

    def test_two_layerwise_hops_by_hand(self) -> None:
        """H = 2: u = 1, keys 0, o = (2 + 4) / 3 = 2: u = 2 · 1 + 2 = 4, then 2 · 4 + 2 = 10."""
        network = by_hand("layerwise", 2)
        set_words(network, [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 4.0, 0.0])
        with torch.no_grad():
            network.between.weight.fill_(2.0)
            network.answer.weight.copy_(torch.tensor([[0.0], [1.0], [-1.0], [0.5]]))
        logits = network(self.QUESTION, network.read_story(self.STORY, self.TIMES))
        assert logits[0, 0].tolist() == pytest.approx([0, 10, -10, 5])

    def test_times_tell_sentences_apart(self) -> None:
        """The same sentence twice; time 1 has key log 3, time 2 has key 0: p = 1/4, 3/4."""
        network = by_hand("adjacent", 1)
        set_words(network, [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0])
        with torch.no_grad():
            network.times.weight.copy_(torch.tensor([[9.0, 9.0], [math.log(3), 4.0], [0.0, 8.0]]))
        story = network.read_story(torch.tensor([[[1], [1]]]), torch.tensor([[2, 1]]))
        logits = network(self.QUESTION, story).detach()
        assert float(logits[0, 0, 3]) == pytest.approx(1 + 8 / 4 + 4 * 3 / 4)

    def test_empty_places_are_neither_compared_nor_read(self) -> None:
        """Two of them: p = 2/5, 1/5, 1/5, 1/5, whatever the embeddings of padding; o = 12/5."""
        network = by_hand("adjacent", 1)
        set_words(network, [9.0, 1.0, 0.0, math.log(2)], [8.0, 3.0, 6.0, 1.0])
        with torch.no_grad():
            network.times.weight[0] = 7.0
        story = network.read_story(
            torch.tensor([[[1], [2], [0], [0]]]), torch.tensor([[2, 1, 0, 0]])
        )
        logits = network(self.QUESTION, story).detach()
        assert float(logits[0, 0, 3]) == pytest.approx(math.log(2) + 12 / 5)


class TestTimeNoise:
    def test_empty_sentences_move_earlier_ones_back(self) -> None:
        learner = small(time_noise=0.5)
        times = torch.tensor([[4, 3, 2, 1, 0]]).repeat(400, 1)
        noisy = learner.noisy_times(times)
        assert not noisy[:, 4].any()
        assert (noisy[:, :3] > noisy[:, 1:4]).all()  # the order stays
        assert set((noisy[:, 0] - 4).unique().tolist()) == {0, 1, 2}  # at most half of 4
        moved = (noisy - times)[:, :4].to(torch.float64).mean(dim=0)
        # One empty sentence on average, at one of five places: before all, ..., after all.
        expected = torch.tensor([0.8, 0.6, 0.4, 0.2], dtype=torch.float64)
        assert torch.allclose(moved, expected, atol=0.12)

    def test_none(self) -> None:
        times = torch.tensor([[2, 1, 0]])
        assert torch.equal(small(time_noise=0.0).noisy_times(times), times)


class TestLearner:
    @pytest.mark.learning
    @pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
    def test_learns_who_is_where(self, tying: str, seed: int, learned: Learned) -> None:
        """Chance is 1/4, or 1/2 for one who only sees which places were told."""
        learner = small(seed, tying=tying, dim=12, hops=1, meta_lr=0.1, meta_batch_size=32)
        learner.learn(Where(), 400, log_interval=None)
        before, after = evaluate_adaptation(learner, Where(), 200, seed=seed).values.mean(axis=0)
        assert before < 0.5
        learned("accuracy", after, at_least=0.9)

    def test_rates_and_linear_start(self) -> None:
        learner = small(meta_lr=0.08, linear_start=0.25)
        seen = []
        assert learner.optimizer is None

        def note(learner: MemoryNetworkLearner) -> None:
            seen.append(learner.optimizer.param_groups[0]["lr"])

        learner.learn(Where(), 8, callback=note)
        assert seen == pytest.approx([0.04, 0.04, 0.04, 0.04, 0.02, 0.02, 0.01, 0.01])

    def test_resumed_is_undisturbed(self, tmp_path: Path) -> None:
        whole = small(seed=1).learn(Where(), 6)
        half = small(seed=1)
        half.learn(Where(), 6, callback=lambda learner: learner.num_iterations < 3)
        resumed = MemoryNetworkLearner.load(half.save(tmp_path / "half"), device="cpu")
        resumed.learn(Where(), 3, reset_num_iterations=False)
        for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_one_story_without_the_task_axis(self) -> None:
        learner = small()
        batch = Where().sample_tasks(3, np.random.default_rng(0))
        together = learner.scores(batch.query_x, learner.adapt(batch.support))
        one = batch.take(1)
        alone = learner.scores(one.query_x, learner.adapt(one.support))
        assert torch.allclose(together[1], alone, atol=1e-6)
        assert learner.predict(batch.query_x, None).shape == (3, 1)

    def test_bad_input(self) -> None:
        learner = small()
        x, y = torch.ones(2, 3, 2, dtype=torch.int64), torch.tensor([[3, 2, 1]] * 2)
        state = learner.adapt((x, y))
        for call, message in (
            (lambda: learner.adapt((x, y), state), "read at once"),
            (lambda: learner.adapt((x * 8, y)), "word numbers are 0 to 7"),
            (lambda: learner.adapt((x, y * 0)), "times are 1 and more"),
            (lambda: learner.adapt((x[:, :0], y[:, :0])), "an empty support set"),
            (lambda: learner.adapt((x.float(), y)), "no word numbers"),
            (lambda: learner.predict(x[:1], state), "1 tasks, but stories of 2"),
            (lambda: small(tying="none"), "tying is one of"),
            (lambda: small(linear_start=2.0), "linear_start"),
        ):
            with pytest.raises(ValueError, match=message):
                call()
