"""Prototypes, attention, pairs and neighbours against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from meta_rl import evaluate_adaptation
from meta_rl.few_shot import MatchingNet, NearestNeighbour, ProtoNet, Siamese, conv4
from meta_rl.few_shot.learners.embedding import Memory, shots_of
from meta_rl.few_shot.learners.matching import FullContext
from meta_rl.few_shot.learners.protonet import squared_distances
from meta_rl.few_shot.learners.siamese import distort_images

from ..learning import Learned
from .small_data import Same, blob_split, mlp

# One task of two classes on a plane: class 0 at (0, 0) and (2, 0), class 1 at (0, 3).
X = torch.tensor([[[0.0, 0.0], [0.0, 3.0], [2.0, 0.0]]])
Y = torch.tensor([[0, 1, 0]])
QUERY = torch.tensor([[[1.0, 1.0]]])


class TestProtoNet:
    def test_logits_by_hand(self) -> None:
        """Prototypes (1, 0) and (0, 3); squared distances of (1, 1): 1 and 5."""
        learner = ProtoNet(Same(), device="cpu")
        logits = learner.scores(QUERY, learner.adapt((X, Y)))
        assert logits.tolist() == [[[-1.0, -5.0]]]

    def test_the_loss_by_hand(self) -> None:
        class Shift(Same):
            def __init__(self) -> None:
                super().__init__()
                self.b = torch.nn.Parameter(torch.zeros(2))

            def forward(self, x: Tensor) -> Tensor:
                return x + self.b

        learner = ProtoNet(Shift(), device="cpu")
        learner.optimizer = learner.make_optimizer()
        batch = blob_split().train.sample_tasks(1, np.random.default_rng(0))
        batch = batch._replace(support_x=X, support_y=Y, query_x=QUERY, query_y=torch.tensor([[1]]))
        numbers = learner.update(batch)
        assert float(numbers["loss"].detach()) == pytest.approx(math.log(1 + math.exp(4)))
        assert float(numbers["accuracy"]) == 0

    def test_more_examples_and_more_classes_may_come_later(self) -> None:
        learner = ProtoNet(Same(), device="cpu")
        state = learner.adapt((X[:, :2], Y[:, :2]))
        state = learner.adapt((X[:, 2:], Y[:, 2:]), state)
        assert torch.equal(
            learner.scores(QUERY, state), learner.scores(QUERY, learner.adapt((X, Y)))
        )
        wider = learner.adapt((torch.tensor([[[1.0, 1.0]]]), torch.tensor([[3]])), state)
        logits = learner.scores(QUERY, wider)[0, 0].tolist()
        assert logits == [-1.0, -5.0, -math.inf, 0.0]  # class 2 has no example
        assert learner.predict(QUERY, wider).tolist() == [[3]]

    def test_squared_distances(self) -> None:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(2, n, 5, generator=generator) for n in (3, 4))
        assert torch.allclose(squared_distances(a, b), torch.cdist(a, b) ** 2, atol=1e-4)


class TestMatching:
    def test_cosine_attention_by_hand(self) -> None:
        """Cosines of (1, 1) with (1, 0), (0, 2), (-3, 0): r, r, -r for r = 1/√2."""
        learner = MatchingNet(Same(), scale=2.0, device="cpu")
        x = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]])
        state = learner.adapt((x, torch.tensor([[0, 1, 1]])))
        near, far = math.exp(2 / math.sqrt(2)), math.exp(-2 / math.sqrt(2))
        total = 2 * near + far
        expected = [math.log(near / total), math.log((near + far) / total)]
        assert learner.scores(QUERY, state)[0, 0].tolist() == pytest.approx(expected, rel=1e-5)

    def test_euclidean_attention_by_hand(self) -> None:
        """Squared distances of (1, 1): 2, 5 and 2; class 0 has the first and the third."""
        learner = MatchingNet(Same(), metric="euclidean", device="cpu")
        scores = learner.scores(QUERY, learner.adapt((X, Y)))[0, 0].tolist()
        total = 2 * math.exp(-2) + math.exp(-5)
        expected = [math.log(2 * math.exp(-2) / total), math.log(math.exp(-5) / total)]
        assert scores == pytest.approx(expected, rel=1e-5)

    def test_full_context_by_hand_where_the_weights_are_zero(self) -> None:
        """Gates at one half and zero candidates: the LSTMs give 0, and the skips remain."""
        context = FullContext(2, num_steps=3)
        with torch.no_grad():
            for parameter in context.parameters():
                parameter.zero_()
        queries, keys = context(QUERY, X)
        assert torch.equal(keys, X)
        assert torch.equal(queries, QUERY)

    def test_full_context_is_that_of_a_loop(self) -> None:
        """One query and one key at a time, with PyTorch's cells."""
        context = FullContext(2, num_steps=2)
        context.draw_weights(torch.Generator().manual_seed(0))
        with torch.no_grad():
            queries, keys = context(QUERY, X)
            both = context.both_ways(X)[0]
            expected = X + both[..., :2] + both[..., 2:]
            assert torch.allclose(keys, expected)
            f, cell = QUERY[0], torch.zeros(1, 2)
            hidden = f
            for _ in range(2):
                weights = torch.softmax(torch.stack([hidden[0] @ k for k in keys[0]]), 0)
                read = sum(w * k for w, k in zip(weights, keys[0], strict=True))
                out, cell = context.attend(f, (hidden + read, cell))
                hidden = out + f
            assert torch.allclose(queries[0], hidden)

    def test_settings_are_checked(self) -> None:
        with pytest.raises(ValueError, match="metric is one of"):
            MatchingNet(Same(), metric="angle", device="cpu")
        with pytest.raises(ValueError, match="scale has to be above 0"):
            MatchingNet(Same(), scale=0.0, device="cpu")
        network = torch.nn.Flatten()
        with pytest.raises(ValueError, match="num_features"):
            MatchingNet(network, fce=True, device="cpu")


class TestSiamese:
    def learner(self) -> Siamese:
        learner = Siamese(Same(), augment=False, seed=0, device="cpu")
        with torch.no_grad():
            learner.module["similarity"].weight.copy_(torch.tensor([-2.0, 1.0]))
            learner.module["similarity"].bias.fill_(0.5)
        return learner

    def test_logits_by_hand(self) -> None:
        """σ of 0 is 1/2; the best example of a class counts."""
        learner = self.learner()
        s = 1 / (1 + math.exp(-2.0))
        state = learner.adapt((torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]), torch.tensor([[0, 0]])))
        scores = learner.scores(torch.tensor([[[0.0, 2.0]]]), state)
        pairs = [0.5 + (s - 0.5), 0.5 - 2 * (s - 0.5) + (s - 0.5)]
        assert scores.flatten().tolist() == pytest.approx([max(pairs)])

    def test_half_of_the_pairs_are_the_same(self) -> None:
        learner = self.learner()
        y = torch.tensor([[0, 1, 2, 0, 1, 2]]).expand(30, -1)
        x = (y.float() * 10)[..., None].expand(-1, -1, 2).contiguous()
        query_y = torch.tensor([[0, 1, 2, 2]]).expand(30, -1)
        query_x = (query_y.float() * 10)[..., None].expand(-1, -1, 2).contiguous()
        logits, same = learner._pairs((x, y), (query_x, query_y))
        assert logits.shape == (2, 30, 4)
        assert (same[0] == 1).all()
        assert (same[1] == 0).all()
        assert torch.allclose(logits[0], torch.full((30, 4), 0.5))  # no distance: the bias
        assert (logits[1][:, 0] != 0.5).all()

    @pytest.mark.parametrize("part", [0.0, 0.25, 1.0])
    def test_hard_negatives_are_the_likeliest_of_other_classes(self, part: float) -> None:
        """Found by hand; of the other queries one in four meets it by chance, of four examples."""
        learner = self.learner()
        rng = np.random.default_rng(3)
        x, query_x = (torch.from_numpy(rng.normal(size=(200, n, 2))).float() for n in (6, 9))
        y = torch.tensor([[0, 1, 2, 0, 1, 2]]).expand(200, -1)
        query_y = torch.tensor([[0, 1, 2] * 3]).expand(200, -1)
        with torch.no_grad():
            logits, same = learner._pairs((x, y), (query_x, query_y), part)
        assert same.sum(dim=(1, 2)).tolist() == [1800.0, 0.0]
        keys, queries = torch.sigmoid(x), torch.sigmoid(query_x)
        hardest = 0
        for task in range(200):
            for query in range(9):
                given = [
                    0.5 - 2 * abs(float(k[0] - q[0])) + abs(float(k[1] - q[1]))
                    for k, label in zip(keys[task], y[task], strict=True)
                    for q in [queries[task, query]]
                    if label != query_y[task, query]
                ]
                found = float(logits[1, task, query])
                assert min(abs(found - value) for value in given) < 1e-5
                hardest += abs(found - max(given)) < 1e-5
        expected = part + (1 - part) / 4
        assert hardest / 1800 == pytest.approx(expected, abs=0.0 if part == 1.0 else 0.04)

    def test_hard_negatives_are_for_training(self) -> None:
        """An update has them, and ``verify`` does not."""
        tasks, asked = blob_split(), []

        class Recorded(Siamese):
            def _pairs(self, support: Any, query: Any, hard: float = 0.0) -> Any:
                asked.append(hard)
                return super()._pairs(support, query, hard)

        learner = Recorded(mlp(None), augment=False, hard_negatives=0.5, seed=0, device="cpu")
        learner.learn(tasks, 1)
        learner.verify(tasks.test, 1, np.random.default_rng(0))
        assert asked == [0.5, 0.0]
        with pytest.raises(ValueError, match=r"hard_negatives has to be in \[0"):
            Siamese(mlp(None), hard_negatives=1.5, device="cpu")

    @pytest.mark.learning
    def test_it_learns_to_verify(self, seed: int, learned: Learned) -> None:
        tasks = blob_split()
        network = mlp(None, hidden=32, seed=seed)
        learner = Siamese(network, augment=False, meta_lr=1e-2, seed=seed, device="cpu")
        learner.learn(tasks, 100)
        verified = learner.verify(tasks.test, 50, np.random.default_rng(0))
        learned("pairs told apart", verified, at_least=0.85)
        test = tasks.test.sample_tasks(50, np.random.default_rng(0))
        right = learner.predict(test.query_x, learner.adapt(test.support)) == test.query_y
        learned("accuracy", right.float().mean(), at_least=0.85)

    def test_distortions_stay_in_their_ranges(self) -> None:
        """A dot in the middle moves by at most 2 pixels of 105; all four kinds take part."""
        images = torch.zeros(400, 1, 105, 105)
        images[:, :, 52, 52] = 1.0
        moved = distort_images(images, np.random.default_rng(0))
        assert moved.shape == images.shape
        where = moved.flatten(1).argmax(dim=1)
        rows, columns = where // 105 - 52, where % 105 - 52
        shown = moved.flatten(1).amax(dim=1) > 0
        assert int(rows[shown].abs().max()) in (2, 3)
        assert int(columns[shown].abs().max()) in (2, 3)
        still = (rows == 0) & (columns == 0) & shown
        assert 0.4 < still.float().mean() < 0.7
        square = torch.zeros(400, 1, 105, 105)
        square[:, :, 32:73, 32:73] = 1.0
        area = distort_images(square, np.random.default_rng(0)).sum(dim=(1, 2, 3)) / 41**2
        assert float(area.max()) < 1.2**2 / (1 - 0.3**2) + 0.05
        assert float(area.min()) > 0.8**2 / (1 + 0.3**2) - 0.05
        same = distort_images(square, np.random.default_rng(0))
        assert torch.equal(same, distort_images(square, np.random.default_rng(0)))
        with pytest.raises(ValueError, match="expected images"):
            distort_images(torch.zeros(3, 4), np.random.default_rng(0))


class TestNearestNeighbour:
    def test_pixels(self) -> None:
        learner = NearestNeighbour(device="cpu")
        state = learner.adapt((X, Y))
        assert torch.allclose(learner.scores(QUERY, state), torch.tensor([[[-2.0, -5.0]]]))

    def test_words(self) -> None:
        """Texts "1 2" and "3 3 4" (0 is padding); the query "3 1 1" shares more with the first."""
        learner = NearestNeighbour(vocabulary_size=5, device="cpu")
        x = torch.tensor([[[1, 2, 0], [3, 3, 4]]])
        state = learner.adapt((x, torch.tensor([[0, 1]])))
        scores = learner.scores(torch.tensor([[[3, 1, 1]]]), state)[0, 0].tolist()
        cosines = [2 / (math.sqrt(5) * math.sqrt(2)), 2 / (math.sqrt(5) * math.sqrt(5))]
        assert scores == pytest.approx([2 * c - 2 for c in cosines], rel=1e-5)


@pytest.mark.parametrize("shots", [1, 3])
def test_shots_come_one_after_another(shots: int) -> None:
    labels = torch.tensor([[2, 0, 1] * shots, [1, 2, 0] * shots])
    index = shots_of(labels)
    assert len(index) == shots
    for shot, where in enumerate(index):
        assert (labels.gather(1, where).sort(dim=1)[0] == torch.arange(3)).all()
        assert ((where // 3) == shot).all()
    (all_at_once,) = shots_of(torch.tensor([[0, 0, 1]]))
    assert all_at_once.tolist() == [[0, 1, 2]]


def test_before_adaptation_nothing_is_known() -> None:
    learner = ProtoNet(Same(), device="cpu")
    assert learner.predict(QUERY, None).tolist() == [[0]]


COMPARING: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "protonet": (ProtoNet, {"meta_batch_size": 4}),
    "matching": (MatchingNet, {}),
    "matching-euclidean": (MatchingNet, {"metric": "euclidean"}),
    "matching-fce": (MatchingNet, {"fce": True}),
}


@pytest.mark.learning
@pytest.mark.parametrize("name", COMPARING)
def test_they_learn_to_compare(name: str, seed: int, learned: Learned) -> None:
    tasks = blob_split(shots=2)
    kind, settings = COMPARING[name]
    learner = kind(mlp(None, hidden=32, seed=seed), meta_lr=1e-2, seed=seed, **settings)
    learner.learn(tasks, 100)
    points = dict(learner.adaptation_points(tasks.test.sample_tasks(1, learner.rng).support))
    assert list(points) == [1, 2]
    test = tasks.test.sample_tasks(50, np.random.default_rng(0))
    right = learner.predict(test.query_x, learner.adapt(test.support)) == test.query_y
    learned("accuracy", right.float().mean(), at_least=0.75)


def test_an_evaluation_embeds_queries_once() -> None:
    """And finds what ``predict`` does, shot by shot."""
    embedded = []

    class Counted(ProtoNet):
        def embed(self, x: torch.Tensor) -> torch.Tensor:
            embedded.append(x.shape[1])
            return super().embed(x)

    learner = Counted(mlp(None), seed=0, device="cpu")
    tasks = blob_split(ways=3, shots=4)
    test = tasks.test.sample_tasks(40, np.random.default_rng(0))
    found = dict(learner.predictions(test.support, test.query_x))
    assert embedded == [test.query_x.shape[1], 3, 3, 3, 3]
    states = dict(learner.adaptation_points(test.support))
    assert list(found) == list(states) == [1, 2, 3, 4]
    for shot, state in states.items():
        assert torch.equal(found[shot], learner.predict(test.query_x, state))
    embedded.clear()
    values = evaluate_adaptation(learner, tasks, num_tasks=10).values
    assert embedded == [test.query_x.shape[1], 3, 3, 3, 3]
    assert values.shape == (10, 5)


def test_adapting_leaves_running_statistics_alone() -> None:
    network = conv4(hidden=2, size=16)
    learner = ProtoNet(network, device="cpu")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.rand(1, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    state = learner.adapt((x, torch.tensor([[0, 1, 0, 1]])))
    together = learner.scores(x, state)
    assert torch.allclose(learner.scores(x[:, :1], state), together[:, :1], atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert isinstance(state, Memory)
