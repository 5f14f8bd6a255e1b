"""Sine waves, steps and lines against their definitions; intents from texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from meta_rl.few_shot import Clinc150, Sinusoid, clinc150, texts
from meta_rl.few_shot.data.sinusoid import FunctionTasks

from .small_data import real_data


def points(families: tuple[str, ...], num: int = 200) -> tuple[np.ndarray, np.ndarray]:
    batch = FunctionTasks(10, 30, families).sample_tasks(num, np.random.default_rng(0))
    x = np.concatenate([batch.support_x, batch.query_x], axis=1)[..., 0].astype(float)
    y = np.concatenate([batch.support_y, batch.query_y], axis=1)[..., 0].astype(float)
    assert x.shape == (num, 40)
    assert x.min() >= -5
    assert x.max() <= 5
    return x, y


def test_sine_waves() -> None:
    """``A sin(x - φ) = a sin x - b cos x``: an exact fit, with A and φ in their ranges."""
    x, y = points(("sine",))
    amplitudes, phases = [], []
    for task_x, task_y in zip(x, y, strict=True):
        basis = np.stack([np.sin(task_x), -np.cos(task_x)], axis=1)
        (a, b), residual, *_ = np.linalg.lstsq(basis, task_y)
        assert residual[0] < 1e-9
        amplitudes.append(np.hypot(a, b))
        phases.append(np.arctan2(b, a))
    assert 0.1 <= min(amplitudes) < 0.5
    assert 4.7 < max(amplitudes) <= 5.0001
    assert -1e-4 <= min(phases) < 0.2
    assert np.pi - 0.2 < max(phases) <= np.pi + 1e-4


def test_lines_and_steps() -> None:
    x, y = points(("linear",))
    slopes = []
    for task_x, task_y in zip(x, y, strict=True):
        (slope, offset), residual, *_ = np.polyfit(task_x, task_y, 1, full=True)
        assert residual[0] < 1e-9
        assert max(abs(slope), abs(offset)) <= 3.0001
        slopes.append(slope)
    assert np.std(slopes) == pytest.approx(6 / np.sqrt(12), rel=0.15)
    x, y = points(("step",))
    order = np.argsort(x, axis=1)
    y = np.take_along_axis(y, order, axis=1)
    assert np.allclose(abs(y), abs(y[:, :1]))
    assert (np.diff(np.sign(y), axis=1) >= 0).all()
    assert (y[:, 0] < 0).all()
    assert (y[:, -1] > 0).all()


def test_a_mix_has_all_families() -> None:
    x, y = points(("sine", "step", "linear"))
    steps = np.isclose(abs(y), abs(y[:, :1])).all(axis=1)
    lines = np.array(
        [np.polyfit(a, b, 1, full=True)[1][0] < 1e-8 for a, b in zip(x, y, strict=True)]
    )
    assert 40 < steps.sum() < 95
    assert 40 < lines.sum() < 95
    assert not (steps & lines).any()
    with pytest.raises(ValueError, match="families are some of"):
        Sinusoid(families=("cosine",))


def test_held_out_functions_are_fixed() -> None:
    first, again, other = (
        Sinusoid(num_test=20),
        Sinusoid(num_test=20),
        Sinusoid(num_test=20, seed=1),
    )
    assert np.array_equal(first.test.tasks.support_y, again.test.tasks.support_y)
    assert not np.array_equal(first.test.tasks.support_y, other.test.tasks.support_y)
    assert not np.array_equal(first.test.tasks.support_y, first.validation.tasks.support_y)
    assert first.test.tasks.query_x.shape == (20, 100, 1)
    assert first.name == "Sinusoid-10s"
    one = {key: value.numpy() for key, value in first.test.tasks.take(0)._asdict().items()}
    assert first.test.space.contains(one)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two intents in each domain, whose utterances name them."""
    names = [name for pair in clinc150.FOLDS for name in pair]
    domains = {name: [f"{name}_a", f"{name}_b"] for name in names}
    utterances = {
        "train": [
            [f"Please, {i} number{n}!", i] for d in domains.values() for i in d for n in (1, 2)
        ],
        "val": [[f"{i} again", i] for d in domains.values() for i in d],
        "test": [[f"{i} it's over", i] for d in domains.values() for i in d],
        "oos_train": [["nothing of that", "oos"]],
        "oos_val": [["please nothing", "oos"]],
        "oos_test": [["over and out", "oos"]],
    }
    (tmp_path / "clinc150").mkdir()
    for name, content in (("data_full", utterances), ("domains", domains)):
        (tmp_path / "clinc150" / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setenv("META_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("META_RL_DATA", raising=False)
    return tmp_path


def test_words() -> None:
    assert texts.words("Please, it's 5 o'clock!") == ["please", "it's", "5", "o'clock"]
    vocabulary = clinc150.Vocabulary(["b b a", "a b c"], num_hashes=10, length=3)
    assert len(vocabulary) == 1 + 3 + 10
    assert vocabulary.encode(["b a c b", "a"]).tolist() == [[1, 2, 3], [2, 0, 0]]
    unknown = vocabulary.encode(["x y", "y x"])
    assert unknown[0, 0] == unknown[1, 1]
    assert unknown[0, 1] == unknown[1, 0]
    assert ((unknown[:, :2] >= 4) & (unknown[:, :2] < 14)).all()
    with pytest.raises(ValueError, match="no words in"):
        vocabulary.encode(["?!"])


def test_whole_domains_are_held_out(root: Path) -> None:
    tasks = Clinc150(root, ways=3, shots=2, queries=2, length=5)
    assert [tasks[p].pool.num_classes for p in ("train", "validation", "test")] == [12, 4, 4]
    batch = tasks.test.sample_tasks(20, np.random.default_rng(0))
    assert batch.support_x.shape == (20, 6, 5)
    # the intent's name is unknown to the vocabulary, "please" is not
    known = len(tasks.vocabulary.known)
    assert (batch.support_x > known).any(dim=-1).all()
    assert tasks.vocabulary.known["please"] <= known
    assert not any(name in tasks.vocabulary.known for name in ("travel_a", "utility_b"))
    assert tasks.out_of_scope.shape == (3, 5)
    assert tasks.to("cpu").vocabulary is tasks.vocabulary
    with pytest.raises(ValueError, match="ways=5: more than the 4 classes of Clinc150"):
        Clinc150(root, ways=5, shots=1, queries=1, train_ways=5)


def test_folds_hold_out_every_domain_once(root: Path) -> None:
    names = {name for pair in clinc150.FOLDS for name in pair}
    held_out: list[str] = []
    for fold in range(5):
        parts = clinc150.domains_of(fold)
        sizes = {part: len(domains) for part, domains in parts.items()}
        assert sizes == {"train": 6, "validation": 2, "test": 2}
        assert {domain for domains in parts.values() for domain in domains} == names
        held_out += parts["test"]
        tasks = Clinc150(root, ways=3, shots=2, queries=2, length=5, fold=fold)
        intents = {word for word in tasks.vocabulary.known if word.endswith(("_a", "_b"))}
        assert intents == {f"{domain}_{kind}" for domain in parts["train"] for kind in "ab"}
    assert len(held_out) == 10
    assert set(held_out) == names
    assert clinc150.domains_of(0)["test"] == ("credit_cards", "travel")
    with pytest.raises(ValueError, match="fold is 0 to 4, got 5"):
        Clinc150(root, fold=5)


def test_words_of_a_training_task_are_taken_for_unknown(root: Path) -> None:
    """The same word keeps its number within a task, and loses it with the given probability."""
    plain, hidden = (
        Clinc150(root, ways=3, shots=2, queries=2, length=5, unknown_words=probability)
        for probability in (0.0, 0.5)
    )
    known = len(plain.vocabulary.known)
    before, after = (t.train.sample_tasks(100, np.random.default_rng(0)) for t in (plain, hidden))
    assert (before.support_y == after.support_y).all()
    for part in ("support_x", "query_x"):
        old, new = getattr(before, part), getattr(after, part)
        assert (old <= known).all()
        assert ((new == old) | (new > known)).all()
        assert (new[old == 0] == 0).all()
    changed = 0
    for old, new in zip(before.support_x.tolist(), after.support_x.tolist(), strict=True):
        pairs = {pair for a, b in zip(old, new, strict=True) for pair in zip(a, b, strict=True)}
        assert len({a for a, _ in pairs}) == len(pairs)
        changed += sum(a != b for a, b in pairs) / len(pairs)
    assert 0.3 < changed / 100 < 0.55  # half of the words, but never the padding
    with pytest.raises(ValueError, match=r"unknown_words has to be in \[0, 1\]"):
        Clinc150(root, ways=3, shots=1, queries=1, unknown_words=2.0)


def test_a_broken_file_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "clinc150" / "data_full.json"
    file.write_text("{")
    with pytest.raises(ValueError, match=r"data_full.json is no JSON"):
        Clinc150(root)
    for other in ("{}", "[]"):
        file.write_text(other)
        with pytest.raises(ValueError, match="the files of CLINC150 have other contents"):
            Clinc150(root)


def test_the_real_utterances() -> None:
    tasks = Clinc150(real_data("clinc150"), shots=5, download=False)
    assert [tasks[p].pool.num_classes for p in ("train", "validation", "test")] == [90, 30, 30]
    assert (tasks.train.pool.class_sizes == 150).all()
    assert len(tasks.out_of_scope) == 1200
    assert (tasks.train.pool.examples[:, 0] > 0).all()
