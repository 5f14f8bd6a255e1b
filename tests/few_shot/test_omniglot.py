"""Omniglot: decoding, splits and caching on a small copy; protocol numbers on the real one."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import meta_rl
from meta_rl.few_shot import NearestNeighbour, Omniglot, lake_runs, omniglot
from meta_rl.few_shot.data.sources import contents_digest

from .small_data import real_data

ALPHABETS = {
    "background": {f"Back{i}": 3 for i in range(7)},
    "evaluation": {"Eval0": 4, "Eval1": 3},
}


def png(number: int, size: int = 105) -> bytes:
    """A one-bit drawing: ``number`` rows of ink at the top."""
    pixels = np.ones((size, size), dtype=bool)
    pixels[:number] = False
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zip files and a split, laid out as the real ones; a character's images are all alike."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "omniglot"
    (folder / "vinyals_split").mkdir(parents=True)
    rows = 0
    for part, alphabets in ALPHABETS.items():
        with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
            for alphabet, count in alphabets.items():
                for character in range(1, count + 1):
                    rows += 3
                    for i in range(20):
                        name = f"images_{part}/{alphabet}/character{character:02}/{rows}_{i:02}.png"
                        archive.writestr(name, png(rows))
    three = [f"character{i:02}" for i in (1, 2, 3)]
    splits = {
        "train": {"background": {f"Back{i}": three for i in range(5)}, "evaluation": {}},
        "val": {"background": {"Back5": three, "Back6": three}, "evaluation": {}},
        "test": {"background": {}, "evaluation": {"Eval0": three, "Eval1": three}},
    }
    for part, tree in splits.items():
        (folder / "vinyals_split" / f"{part}.json").write_text(json.dumps(tree))
    return root


@pytest.fixture
def root(zips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed, taken for the true contents."""
    copy = Path(shutil.copytree(zips, tmp_path / "data"))
    for part in ALPHABETS:
        with zipfile.ZipFile(copy / "omniglot" / f"images_{part}.zip") as archive:
            digest = contents_digest(archive, archive.namelist())
        monkeypatch.setitem(omniglot.CONTENTS, part, digest)
    for table in (omniglot.IMAGES, omniglot.VINYALS):
        for key, source in table.items():
            monkeypatch.setitem(table, key, dataclasses.replace(source, url="file:///nowhere"))
    monkeypatch.setenv("META_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("META_RL_DATA", raising=False)
    return copy


def ink(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(-3, -2, -1))


def test_ink_is_one_and_paper_is_zero(root: Path) -> None:
    tasks = Omniglot(root, ways=3, shots=1, queries=1)
    batch = tasks.test.sample_tasks(4, np.random.default_rng(0))
    assert batch.support_x.shape == (4, 3, 1, 28, 28)
    assert batch.support_x.min() == 0
    assert batch.support_x.max() == 1
    # Filters keep the mean: rows of ink out of 105 (the evaluation characters have 66 to 84).
    rows = set((ink(batch.support_x) * 105 / 3).round().flatten().tolist())
    assert rows <= set(range(22, 29))
    assert torch.equal(ink(batch.query_x).sort(1)[0], ink(batch.support_x).sort(1)[0])


@pytest.mark.parametrize("test_rotations", [False, True])
def test_which_classes_are_turned(root: Path, test_rotations: bool) -> None:
    """Of training tasks, and of the others on demand; one in four stays as it is."""
    tasks = Omniglot(root, ways=3, shots=1, queries=1, test_rotations=test_rotations)
    turned = {}
    for part in ("train", "validation", "test"):
        x = tasks[part].sample_tasks(50, np.random.default_rng(0)).support_x
        upright = (x[..., 0, :].amin(-1) > 0.5) & (x[..., -1, :].amax(-1) < 0.5)
        turned[part] = int((~upright).sum())
    assert 90 < turned["train"] < 135  # of 150
    for part in ("validation", "test"):
        assert 90 < turned[part] < 135 if test_rotations else turned[part] == 0
    straight = Omniglot(root, ways=3, queries=1, rotations=False).train
    x = straight.sample_tasks(20, np.random.default_rng(0)).support_x
    assert (x[..., 0, :] > 0.5).all()


def test_the_splits_are_disjoint(root: Path) -> None:
    for split, sizes in (("vinyals", (15, 6, 6)), ("random", (18, 3, 7)), ("lake", (6, 15, 7))):
        tasks = Omniglot(root, ways=2, queries=1, split=split, rotations=False)
        parts = [tasks.train, tasks.validation, tasks.test]
        assert [part.pool.num_classes for part in parts] == list(sizes)
        amounts = [set(ink(part.pool.examples.float()).tolist()) for part in parts]
        assert len(set.union(*amounts)) == sum(sizes)
    with pytest.raises(ValueError, match="split is 'vinyals', 'random' or 'lake', got 'koch'"):
        Omniglot(root, split="koch")


def test_the_random_split_has_its_seed(root: Path) -> None:
    def training_characters(seed: int) -> list[float]:
        tasks = Omniglot(root, ways=2, queries=1, split="random", split_seed=seed, rotations=False)
        return ink(tasks.train.pool.examples.float()).tolist()

    assert training_characters(3) == training_characters(3)
    assert training_characters(3) != training_characters(4)
    for seed in (-1, 0.5):
        with pytest.raises((ValueError, TypeError), match="split_seed"):
            Omniglot(root, split="random", split_seed=seed)


@pytest.mark.parametrize("split", ["vinyals", "random", "lake"])
def test_training_on_the_validation_characters_too(root: Path, split: str) -> None:
    def amounts(train_on_validation: bool) -> list[list[float]]:
        settings = {"split": split, "train_on_validation": train_on_validation}
        tasks = Omniglot(root, ways=2, queries=1, rotations=False, **settings)
        parts = [tasks.train, tasks.validation, tasks.test]
        return [sorted(ink(part.pool.examples.float()).tolist()) for part in parts]

    (train, validation, test), last = amounts(False), amounts(True)
    assert last == [sorted(train + validation), validation, test]


def test_classes_within_an_alphabet(root: Path) -> None:
    tasks = Omniglot(root, ways=3, queries=1, within_alphabet=True, rotations=False)
    drawn = ink(tasks.train.sample_tasks(30, np.random.default_rng(0)).support_x) * 105 / 3
    alphabets = (drawn.round().sort(dim=1)[0] - 1) // 3  # three characters in a row
    assert (alphabets == alphabets[:, :1]).all()


def test_images_are_decoded_once(root: Path, tmp_path: Path) -> None:
    first = omniglot.load_characters(root)
    assert len(first.names) == 28
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".zip"]
    shutil.rmtree(root / "omniglot")
    again = omniglot.load_characters(root)
    assert again.names == first.names
    assert torch.equal(again.images, first.images)
    next((tmp_path / "cache").iterdir()).write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match="META_RL_DATA"):
        omniglot.load_characters(root)


def test_the_size_is_chosen(root: Path) -> None:
    assert omniglot.load_characters(root, size=105).images.shape == (28, 20, 1, 105, 105)
    assert set(omniglot.load_characters(root, size=105).images.unique().tolist()) == {0, 255}


def repacked(root: Path, monkeypatch: pytest.MonkeyPatch, images: dict[str, bytes]) -> None:
    """Other images, whose contents are taken for true."""
    path = root / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in images.items():
            archive.writestr(name, content)
    with zipfile.ZipFile(path) as archive:
        digest = contents_digest(archive, archive.namelist())
    monkeypatch.setitem(omniglot.CONTENTS, "background", digest)


def test_bad_files_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "images_background/A/character01/0_{:02}.png"
    repacked(root, monkeypatch, {name.format(i): png(3, 50) for i in range(20)})
    with pytest.raises(ValueError, match=r"0_00.png has \(50, 50\) pixels, expected \(105, 105\)"):
        Omniglot(root)
    repacked(root, monkeypatch, {name.format(i): png(3) for i in range(19)})
    with pytest.raises(ValueError, match=r"19 images of background/A/character01, expected 20"):
        Omniglot(root)
    repacked(root, monkeypatch, {name.format(i): b"no image" for i in range(20)})
    with pytest.raises(ValueError, match=r"0_00.png is damaged"):
        Omniglot(root)
    monkeypatch.setitem(omniglot.CONTENTS, "background", "0" * 64)
    with pytest.raises(ValueError, match="does not hold Omniglot's background images"):
        Omniglot(root)
    (root / "omniglot" / "images_background.zip").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="no readable zip file"):
        Omniglot(root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 7}, "ways=7: more than the 6 classes of Omniglot"),
        ({"ways": 2, "shots": 6}, "shots=6 and queries=15: together more than the 20 examples"),
        ({"ways": 2, "train_shots": 6}, "shots=6 and queries=15"),
    ],
)
def test_more_than_there_is_is_refused(root: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Omniglot(root, **settings)


def test_a_split_of_other_characters_is_refused(root: Path) -> None:
    (root / "omniglot" / "vinyals_split" / "val.json").write_text('{"background": {"X": ["y"]}}')
    with pytest.raises(ValueError, match=r"val.json is no split of these characters"):
        Omniglot(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no runs"),
        ({"run01/class_labels.txt": "one word\nand three words"}, "holds no pairs of images"),
        ({"run01/class_labels.txt": ""}, "holds no pairs of images"),
        ({"run01/class_labels.txt": "run01/test/a.png run01/training/b.png"}, "is damaged"),
    ],
)
def test_broken_runs_are_named(
    files: dict[str, str], message: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "omniglot" / "all_runs.zip"
    monkeypatch.setattr(omniglot, "obtain", lambda *_: path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=message):
        lake_runs(root)


def test_the_official_runs() -> None:
    """On whole images, the nearest neighbour by pixels has 21.7 % in the literature."""
    runs = lake_runs(real_data("omniglot"), size=105)
    assert len(runs) == 20
    assert runs.tasks.support_x.shape == (20, 20, 1, 105, 105)
    assert (runs.tasks.query_y.sort(dim=1)[0] == torch.arange(20)).all()
    result = meta_rl.evaluate_adaptation(NearestNeighbour(device="cpu"), runs, num_tasks=20)
    assert 0.15 < result.values[:, 1].mean() < 0.3
    assert (result.values[:, 0] == 0.05).all()


def test_the_real_classes() -> None:
    tasks = Omniglot(real_data("omniglot"), download=False)
    parts = [tasks.train, tasks.validation, tasks.test]
    assert [part.pool.num_classes for part in parts] == [1028, 172, 423]
    assert tasks.train.num_labels == 4112
    last = Omniglot(real_data("omniglot"), download=False, train_on_validation=True)
    assert last.train.pool.num_classes == 1200
    lake = Omniglot(real_data("omniglot"), download=False, split="lake")
    assert lake.train.pool.num_classes + lake.validation.pool.num_classes == 964
    assert lake.test.pool.num_classes == 659
