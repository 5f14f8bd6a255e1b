"""The scikit-learn classifier over any learner: names, files, and scikit-learn's own checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from meta_rl.few_shot import FewShotTasks, NearestMean, ProtoNet

from .small_data import blob_split, mlp

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import cross_val_score  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from meta_rl.few_shot import FewShotClassifier  # noqa: E402

NOT_APPLICABLE: dict[str, str] = {
    "check_array_api_input": "needs the variable SCIPY_ARRAY_API",
}
"""Checks of scikit-learn that cannot apply, and why."""

CHECKS = [
    pytest.param(estimator, check, id=f"{number} {check.func.__name__}")
    for number, (estimator, check) in enumerate(estimator_checks_generator(FewShotClassifier()))
    if check.func.__name__ not in NOT_APPLICABLE
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_there_are_checks() -> None:
    assert len(CHECKS) > 45


VERBS = ("book", "cancel", "change", "find", "pay", "sell")
ITEMS = ("car", "house", "flight", "table", "phone", "ticket")
INTENTS = [f"{verb}_{item}" for verb in VERBS for item in ITEMS]
POLITE = ("please {}", "i want to {} today", "could you {} for me", "{} now", "help me {} it", "{}")


def words_of(intents: list[str]) -> tuple[list[str], list[str]]:
    pairs = [(form.format(i.replace("_", " ")), i) for i in intents for form in POLITE]
    return [text for text, _ in pairs], [name for _, name in pairs]


@pytest.fixture(scope="module")
def texts() -> Any:
    return FewShotTasks.from_texts(
        *words_of(INTENTS),
        ways=3,
        shots=2,
        queries=3,
        fractions=(0.6, 0.2, 0.2),
    )


def trained(tasks: Any, learner: Any = "protonet", **settings: Any) -> FewShotClassifier:
    return FewShotClassifier.meta_train(tasks, learner, num_iterations=60, device="cpu", **settings)


def new_task(tasks: Any) -> tuple[list[str], list[str], list[str], list[str]]:
    x, names = words_of(tasks.test.class_names[:4])
    return x[::2], names[::2], x[1::2], names[1::2]


@pytest.mark.parametrize("learner", ["protonet", "matching", "ridge", "nearest-mean"])
def test_names_of_texts(texts: Any, learner: str, tmp_path: Path) -> None:
    x, y, queries, wanted = new_task(texts)
    classifier = trained(texts, learner).fit(x, y)
    assert classifier.classes_.tolist() == sorted(set(y))
    predicted = classifier.predict(queries)
    assert set(predicted) <= set(y)
    if learner != "nearest-mean":  # word numbers are no vectors
        assert (predicted == np.array(wanted)).mean() > 0.7
    probabilities = classifier.predict_proba(queries)
    assert np.allclose(probabilities.sum(axis=1), 1)
    again = FewShotClassifier.load(classifier.save(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.predict_proba(queries), probabilities)
    assert again.classes_.tolist() == classifier.classes_.tolist()
    other = again.fit(x, [f"other {name}" for name in y])  # the next task
    assert other.predict(queries).tolist() == [f"other {name}" for name in predicted]


def test_a_classifier_with_outputs_for_each_class(texts: Any, tmp_path: Path) -> None:
    x, y, queries, _ = new_task(texts)
    classifier = trained(texts, "maml", lr=0.01)
    fitted = classifier.fit(x[:6], y[:6])  # two classes, and a network with three outputs
    assert fitted.predict_proba(queries).shape == (len(queries), 2)
    again = FewShotClassifier.load(fitted.save(tmp_path / "maml.zip"), device="cpu")
    assert np.allclose(again.predict_proba(queries), fitted.predict_proba(queries))
    with pytest.raises(ValueError, match="4 classes, but the network of this MAML has outputs for"):
        classifier.fit(x, y)


def test_names_may_be_anything_hashable(tmp_path: Path) -> None:
    x = np.repeat(np.eye(3), 2, axis=0)
    for names in (
        [("a", 1), ("a", 1), "b", "b", 3, 3],
        [None, None, True, True, "x", "x"],
        [2.5, 2.5, "b", "b", 3, 3],
    ):
        classifier = FewShotClassifier().fit(x, names)
        assert list(classifier.predict(x)) == names
        again = FewShotClassifier.load(classifier.save(tmp_path / "a"))
        assert list(again.predict(x)) == names
    frozen = FewShotClassifier().fit(x, [frozenset({1})] * 3 + ["b"] * 3)
    with pytest.raises(ValueError, match="frozenset"):
        frozen.save(tmp_path / "b")
    assert not (tmp_path / "b.zip").exists()


def test_pictures_as_files_images_and_pixels(tmp_path: Path) -> None:
    for label in range(9):
        (tmp_path / "own" / f"c{label}").mkdir(parents=True)
        for i in range(4):
            image = Image.new("RGB", (30, 20), (25 * label, 255 - 25 * label, 10 * i))
            image.save(tmp_path / "own" / f"c{label}" / f"{i}.png")
    tasks = FewShotTasks.from_folder(
        tmp_path / "own", 2, 1, queries=2, size=16, fractions=(0.4, 0.3, 0.3)
    )
    classifier = trained(tasks, network_settings={"hidden": 8})
    assert classifier.learner.network.input_shape == (3, 16, 16)  # conv4 of colour
    files = [tmp_path / "own" / f"c{label}" / f"{i}.png" for label in (0, 8) for i in range(4)]
    names = ["red"] * 4 + ["green"] * 4
    classifier.fit(files[::2], names[::2])
    again = FewShotClassifier.load(classifier.save(tmp_path / "saved.zip"), device="cpu")
    by_file = again.predict_proba(files)
    assert again.predict(files).tolist() == names
    assert np.array_equal(by_file, again.predict_proba([Image.open(file) for file in files]))
    pixels = again.preparation(files)
    assert np.array_equal(by_file, again.predict_proba(list(pixels)))
    with pytest.raises(ValueError, match=r"example 0 has shape \(3, 8, 8\); a file, a PIL image"):
        again.predict([np.zeros((3, 8, 8))])


def test_fitting_changes_no_learner_and_copies_share_it() -> None:
    split = blob_split()
    learner = ProtoNet(mlp(None), seed=0, device="cpu").learn(split, 20, log_interval=None)
    before = {k: v.clone() for k, v in learner.module.state_dict().items()}
    classifier = FewShotClassifier(learner)
    x = np.repeat(np.eye(4)[:2], 6, axis=0)
    scores = cross_val_score(classifier, x, ["a"] * 6 + ["b"] * 6, cv=3)
    assert scores.tolist() == [1, 1, 1]
    assert clone(classifier).learner is learner
    assert all(torch.equal(before[k], v) for k, v in learner.module.state_dict().items())
    with pytest.raises(NotFittedError):
        classifier.predict(x)


def test_networks_and_encoders_of_ones_own_are_asked_for(tmp_path: Path) -> None:
    class Own(nn.Linear):
        pass

    classifier = FewShotClassifier(ProtoNet(Own(2, 2), device="cpu")).fit(np.eye(2), ["a", "b"])
    path = classifier.save(tmp_path / "own")
    with pytest.raises(ValueError, match="a network of your own"):
        FewShotClassifier.load(path)
    loaded = FewShotClassifier.load(path, network=Own(2, 2), device="cpu")
    assert np.array_equal(loaded.predict_proba(np.eye(2)), classifier.predict_proba(np.eye(2)))

    def lengths(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), text.count(" ")] for text in texts])

    texts, names = ["a", "a b c d e", "b", "x y z a b"], ["short", "long"] * 2
    path = FewShotClassifier(encoder=lengths).fit(texts, names).save(tmp_path / "lengths")
    with pytest.raises(ValueError, match="an encoder of your own, a function"):
        FewShotClassifier.load(path)
    again = FewShotClassifier.load(path, encoder=lengths)
    assert again.predict(["c", "a a a a a"]).tolist() == ["short", "long"]


def test_what_is_refused(tmp_path: Path, texts: Any) -> None:
    with pytest.raises(ValueError, match="2 examples, but 1 class names"):
        FewShotClassifier(encoder=lambda x: np.eye(2)[: len(x)]).fit(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="not both"):
        FewShotClassifier(preparation=texts.preparation, encoder="tfidf").fit(["a"], ["b"])
    with pytest.raises(ValueError, match="example 1 is no text, but int"):
        trained(texts, "nearest").fit(["a", 3], ["a", "b"])
    with pytest.raises(ValueError, match="unknown algorithm 'protonets': did you mean protonet"):
        trained(texts, "protonets")
    with pytest.raises(TypeError, match="is no few-shot learner"):
        trained(texts, "rl2")
    path = NearestMean(seed=0).save(tmp_path / "learner")
    with pytest.raises(ValueError, match="is a checkpoint of NearestMean, not of FewShotC"):
        FewShotClassifier.load(path)


def test_a_classifier_is_described_without_module_paths(texts: Any) -> None:
    classifier = FewShotClassifier.meta_train(
        texts, learner="protonet", num_iterations=1, seed=0, device="cpu"
    )
    assert repr(classifier.learner) == "ProtoNet(text_encoder, 1 iteration)"
    assert repr(classifier.preparation) == "Words()"
    for described in (repr(classifier), repr(FewShotClassifier(NearestMean(seed=0)))):
        assert "meta_rl." not in described
        assert "object at" not in described
