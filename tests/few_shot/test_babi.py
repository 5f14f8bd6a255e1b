"""The bAbI loader, on small archives made here, and on the real one where it is at hand."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_rl.few_shot.data.babi import ARCHIVES, Babi, encode, parse, vocabulary_of

from .small_data import real_data

TEXT = (
    "1 Mary moved to the bathroom.\n2 John went to the hall.\n3 Where is Mary? \tbathroom\t1\n"
    "4 Mary got milk.\n5 What has Mary? \tmilk,Ball\t4 2\n"
    "1 John sleeps.\n2 Why?\tTired\t1\n"
)
NAME = ARCHIVES["en"][0]


def archive(root: Path, files: Mapping[str, str], name: str = NAME) -> Path:
    path = root / "babi" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for inside, text in files.items():
            info = tarfile.TarInfo(f"tasks_1-20_v1-2/{inside}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("META_RL_DATA", raising=False)
    monkeypatch.setenv("META_RL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def small(root: Path) -> Path:
    other = "1 Unrelated things.\n2 What?\tnothing\t1\n"
    archive(
        root,
        {
            "en/qa1_one_train.txt": TEXT,
            "en/qa1_one_test.txt": "1 Sandra went to the hall.\n2 Where is Sandra? \thall\t1\n",
            "en/qa11_other_train.txt": other,
            "en/qa11_other_test.txt": other,
            "en-10k/qa1_one_train.txt": other,
        },
    )
    return root


def test_parse() -> None:
    first, second, third = parse(TEXT)
    assert first.story == [
        ["mary", "moved", "to", "the", "bathroom"],
        ["john", "went", "to", "the", "hall"],
    ]
    assert first.question == ["where", "is", "mary"]
    assert first.answer == "bathroom"
    assert second.story == [*first.story, ["mary", "got", "milk"]]  # questions are not told
    assert second.answer == "milk,ball"  # two words are one answer
    assert third.story == [["john", "sleeps"]]


def test_encode_keeps_the_last_sentences() -> None:
    questions = parse(TEXT)
    vocabulary = vocabulary_of(questions)
    assert vocabulary[0] == ""
    assert vocabulary[1:] == tuple(sorted(vocabulary[1:]))
    assert "milk,ball" in vocabulary
    tasks = encode(questions, vocabulary, sentences=2, length=5)
    told = [[vocabulary[n] for n in sentence if n] for sentence in tasks.support_x[1].tolist()]
    assert told == [["john", "went", "to", "the", "hall"], ["mary", "got", "milk"]]
    assert tasks.support_y.tolist() == [[2, 1], [2, 1], [1, 0]]  # 0 is padding
    assert [vocabulary[n] for n in tasks.query_y[:, 0].tolist()] == [
        "bathroom",
        "milk,ball",
        "tired",
    ]
    assert [vocabulary[n] for n in tasks.query_x[2, 0].tolist()] == ["why", "", "", "", ""]


def test_parts(small: Path) -> None:
    tasks = Babi(1, root=small)
    assert [len(part) for part in (tasks.train, tasks.validation, tasks.test)] == [2, 1, 1]
    assert tasks.test.tasks.support_x.shape == (1, 3, 5)
    assert "unrelated" not in tasks.vocabulary
    assert tasks.name == "Babi-en-qa1"
    drawn = tasks.train.sample_tasks(2, np.random.default_rng(0))
    assert sorted(drawn.query_y[:, 0].tolist()) == sorted(tasks.train.tasks.query_y[:, 0].tolist())
    again = Babi(1, root=small)
    assert torch.equal(tasks.train.tasks.query_y, again.train.tasks.query_y)
    joint = Babi([1, 11], root=small)
    assert "unrelated" in joint.vocabulary
    assert len(joint.test) == 2


def test_found_by_the_environment(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_RL_DATA", str(small))
    assert len(Babi(1).test) == 1


def test_missing_files_and_tasks(small: Path) -> None:
    with pytest.raises(ValueError, match=r"no train and no test file of task 3 \(en\)"):
        Babi(3, root=small)
    with pytest.raises(FileNotFoundError, match=r"looked for .*babi.*Download http.*META_RL_DATA"):
        Babi(1, "en-10k", root=small)
    (small / "babi" / NAME).rename(small / "babi" / ARCHIVES["en-10k"][1])
    with pytest.raises(ValueError, match=r"no test file of task 1 \(en-10k\)"):
        Babi(1, "en-10k", root=small)


def test_broken_archive(root: Path) -> None:
    path = archive(root, {"en/qa1_one_train.txt": TEXT * 100})
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ValueError, match=r"no readable tar\.gz"):
        Babi(1, root=root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": 0}, "1 to 20"),
        ({"task": []}, "1 to 20"),
        ({"task": "1"}, "1 to 20, got '1'"),
        ({"task": [1, 2.5]}, "1 to 20"),
        ({"version": "fr"}, "version is one of en, en-10k"),
        ({"validation": 1.0}, "validation has to be above 0 and below 1, got 1.0"),
        ({"memories": 0}, "memories"),
    ],
)
def test_bad_settings(small: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Babi(**({"root": small} | settings))


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 A.\nB.\n", "line 2 of qa is no numbered"), ("1 A.\n", "qa holds no questions")],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, "qa")


def test_the_real_archives() -> None:
    data = real_data("babi")
    tasks = Babi(1, root=data)
    assert [len(part) for part in (tasks.train, tasks.validation, tasks.test)] == [900, 100, 1000]
    assert tasks.test.tasks.support_x.shape[1:] == (10, 6)
    with pytest.raises(ValueError, match=r"no train file of task 3 \(en-10k\)"):
        Babi(3, "en-10k", root=data)
