"""Pictures of every format, labels of every kind, and texts, as few-shot tasks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from meta_rl.few_shot import FewShotTasks, ProtoNet, conv4, text_encoder
from meta_rl.few_shot.data.images import check_background, image_tensor, read_image

WHITE = (255, 255, 255)


def drawing(seed: int = 0) -> Image.Image:
    """Black lines on white, not symmetric."""
    image = Image.new("L", (16, 24), 255)
    points = np.random.default_rng(seed).integers(1, 15, (4, 2))
    ImageDraw.Draw(image).line([(int(x), int(y)) for x, y in points], fill=0, width=2)
    return image


def transparent(mode: str, seed: int = 0) -> Image.Image:
    """The same ink; where it is white, nothing."""
    grey = drawing(seed)
    alpha = grey.point(lambda value: 255 - value)
    black = Image.new("L", grey.size, 0)
    if mode == "LA":
        return Image.merge("LA", (black, alpha))
    return Image.merge("RGBA", (black, black, black, alpha))


def palette(seed: int = 0) -> Image.Image:
    """Number 0 is white and number 1 is black: the numbers alone would be a negative."""
    image = Image.fromarray((np.asarray(drawing(seed)) < 128).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def expected(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.array(drawing(seed)))[None]


def test_the_drawing_has_ink() -> None:
    assert 0 < (expected() == 0).float().mean() < 0.5


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("grey.png", drawing),
        ("one bit.png", lambda: drawing().convert("1")),
        ("rgba.png", lambda: transparent("RGBA")),
        ("grey with alpha.png", lambda: transparent("LA")),
        ("rgba.webp", lambda: transparent("RGBA")),
        ("rgba.tif", lambda: transparent("RGBA")),
        ("palette.png", palette),
        ("palette.gif", palette),
        ("colour.ppm", lambda: drawing().convert("RGB")),
        ("cmyk.tif", lambda: drawing().convert("RGB").convert("CMYK")),
    ],
)
def test_every_format_shows_the_same_picture(name: str, make: Any, tmp_path: Path) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(make(), tmp_path / name, **options)
    with Image.open(path) as image:
        image.load()
        got = image_tensor(image, 1)
    assert got.shape == (1, 24, 16)
    assert torch.allclose(got.float(), expected().float(), atol=2)
    small = read_image(path, 12, 3)
    assert small.shape == (3, 12, 12)
    assert small.dtype == torch.uint8
    assert small.float().std() > 20


def test_one_transparent_number_of_a_palette(tmp_path: Path) -> None:
    image = palette()
    image.putpalette([0, 0, 0, 0, 0, 0])  # all black, and the paper transparent
    path = save(image, tmp_path / "p.png", transparency=0)
    with Image.open(path) as opened:
        assert torch.equal(image_tensor(opened, 1), expected())


@pytest.mark.parametrize("most", [65535, 4095])
def test_16_bits_keep_their_shades(most: int, tmp_path: Path) -> None:
    values = (np.asarray(drawing()).astype(np.float64) / 255 * most).astype(np.uint16)
    path = save(Image.fromarray(values), tmp_path / "deep.png")
    with Image.open(path) as image:
        image.load()
        got = image_tensor(image)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.from_numpy(values.astype(np.float32))[None] / 65535)
    resized = read_image(path, 12, 3)
    assert resized.shape == (3, 12, 12)
    assert 0 <= resized.min() < resized.max() <= 1


def test_16_bits_of_a_pgm_and_32_bits(tmp_path: Path) -> None:
    values = np.asarray(drawing()).astype(">u2") * 257
    header = b"P5 16 24 65535\n"
    (tmp_path / "deep.pgm").write_bytes(header + values.tobytes())
    assert read_image(tmp_path / "deep.pgm", 12, 1).std() > 0.1
    for name, kind in (("whole.tif", np.int32), ("floats.tif", np.float32)):
        path = save(Image.fromarray(values.astype(kind)), tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: images of mode . have no known white"):
            read_image(path, 12, 1)


def test_pictures_are_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    lying = drawing().transpose(Image.Transpose.ROTATE_90)
    path = save(lying, tmp_path / "phone.png", exif=exif)
    with Image.open(path) as image:
        assert torch.equal(image_tensor(image), expected())


@pytest.mark.parametrize("background", ["black", 0, (0, 0, 0), "#000000", [0, 0, 0]])
def test_the_background_is_an_argument(background: Any, tmp_path: Path) -> None:
    ink = Image.new("L", (16, 24), 255)
    alpha = drawing().point(lambda value: 255 - value)
    path = save(Image.merge("LA", (ink, alpha)), tmp_path / "white ink.png")
    with Image.open(path) as image:
        got = image_tensor(image, 1, check_background(background))
    assert torch.equal(got, 255 - expected())
    with pytest.raises(ValueError, match=r"white ink.png: it has one colour .* another background"):
        read_image(path, 12, 1, WHITE)


@pytest.mark.parametrize("background", ["no colour", -1, 256, (1, 2), 1.5, None, (1, 2, "x")])
def test_other_backgrounds_are_refused(background: Any) -> None:
    with pytest.raises(ValueError, match="background is the name of a colour"):
        check_background(background)


def class_folder(path: Path, classes: int = 6) -> Path:
    for label in range(classes):
        (path / f"class{label}").mkdir(parents=True)
        for i in range(3):
            drawing(3 * label + i).save(path / f"class{label}" / f"{i}.png")
    return path


def count_examples(split: Any) -> int:
    return sum(len(part.pool.examples) for part in (split.train, split.validation, split.test))


def load(path: Path, **settings: Any) -> Any:
    return FewShotTasks.from_folder(
        path, 2, 1, queries=1, fractions=(1 / 3, 1 / 3, 1 / 3), **settings
    )


def test_hidden_and_system_files_are_skipped_in_silence(tmp_path: Path) -> None:
    path = class_folder(tmp_path / "own")
    (path / ".git").mkdir()
    (path / "class0" / ".DS_Store").write_bytes(b"x")
    (path / "class0" / "._0.png").write_bytes(b"x")
    (path / "class0" / "Thumbs.db").write_bytes(b"x")
    (path / "README.md").write_text("not of a class")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = load(path)
    assert (
        sum(len(part.pool.examples) for part in (split.train, split.validation, split.test)) == 18
    )
    names = [*split.train.class_names, *split.validation.class_names, *split.test.class_names]
    assert sorted(names) == [f"class{label}" for label in range(6)]


def frames(tmp_path: Path) -> bytes:
    images = [drawing(seed).convert("RGB") for seed in range(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    return (tmp_path / "a.gif").read_bytes()


def test_files_that_cannot_be_read_are_counted_and_named(tmp_path: Path) -> None:
    path = class_folder(tmp_path / "own")
    whole = (path / "class0" / "0.png").read_bytes()
    (path / "class0" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (path / "class0" / "empty.jpg").write_bytes(b"")
    (path / "class1" / "moving.gif").write_bytes(frames(tmp_path))
    (path / "class1" / "notes.txt").write_text("notes")
    (path / "class2" / "more").mkdir()
    Image.fromarray(np.ones((4, 4), np.float32)).save(path / "class3" / "floats.tif")
    os.mkfifo(path / "class4" / "pipe.png")  # opening it would wait for ever
    (path / "class4" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match="8 left out") as told:
        split = load(path)
    text = str(told[0].message)
    for part in ("cut.png", "empty.jpg", "moving.gif: an animation of 3 frames", "notes.txt is no"):
        assert part in text
    assert "and 3 more" in text
    assert (
        sum(len(part.pool.examples) for part in (split.train, split.validation, split.test)) == 18
    )


def test_a_class_that_disappears_is_an_error(tmp_path: Path) -> None:
    path = class_folder(tmp_path / "own")
    for i in range(3):
        (path / "class4" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="of 1 of 6 classes: class4; 3 left out"):
        load(path)
    (tmp_path / "own" / "class4" / "0.png").unlink()
    (path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"2 of 7 classes: class4, empty"):
        load(path)


def test_pictures_of_8_and_16_bits_in_one_folder(tmp_path: Path) -> None:
    path = class_folder(tmp_path / "own")
    deep = np.asarray(drawing(0)).astype(np.uint16) * 257
    Image.fromarray(deep).save(path / "class0" / "0.png")
    split = load(path, size=16)
    pools = [part.pool.examples for part in (split.train, split.validation, split.test)]
    assert all(pool.dtype == torch.float32 and 0.9 < pool.max() <= 1 for pool in pools)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"sise": 28},
            TypeError,
            "unexpected keyword argument 'sise'; did you mean size",
        ),
        ({"channels": 2}, ValueError, "channels is 1"),
        ({"size": 0}, ValueError, "size has to be"),
        ({"background": "colourless"}, ValueError, "background is"),
        ({"rotations": "no"}, ValueError, "rotations has to be True or False, got 'no'"),
        (
            {"train": {"way": 3}},
            TypeError,
            "unexpected keyword argument 'way'; did you mean ways",
        ),
        ({"seed": -1}, ValueError, "seed has to be a whole number of at least 0, got -1"),
    ],
)
def test_other_settings_of_a_folder_are_refused(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        load(class_folder(tmp_path / "own"), **settings)


# ------------------------------------------------------------------------ data sets and labels

X, Y = torch.arange(120.0 * 2).reshape(120, 2), torch.arange(120) % 12


class Mapped(Dataset):
    def __init__(self, labels: Any, x: Any = X) -> None:
        self.labels, self.x = labels, x

    def __getitem__(self, index: int) -> Any:
        if index >= len(self.x):
            raise IndexError
        return self.x[index], self.labels[index]


class Sized(Mapped):
    def __len__(self) -> int:
        return len(self.x)


class Streamed(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X[i], int(Y[i])) for i in range(120)])


class SizedStream(Streamed):
    def __len__(self) -> int:
        return 120


NAMES = [f"name {int(y)}" for y in Y]
DATASETS: dict[str, Any] = {
    "TensorDataset": TensorDataset(X, Y),
    "labels of int16": TensorDataset(X, Y.to(torch.int16)),
    "labels of [1]": TensorDataset(X, Y[:, None]),
    "Subset": Subset(TensorDataset(X, Y), range(120)),
    "ConcatDataset": ConcatDataset([TensorDataset(X[:60], Y[:60]), TensorDataset(X[60:], Y[60:])]),
    "names": Sized(NAMES),
    "names of NumPy": Sized(np.array(NAMES)),
    "numbers of NumPy": Sized(Y.numpy()),
    "without a length": Mapped(NAMES),
    "iterable": Streamed(),
    "iterable with a length": SizedStream(),
    "pairs": list(zip(X.numpy(), NAMES, strict=True)),
    "lists in lists": [[x, y] for x, y in zip(X.tolist(), NAMES, strict=True)],
    "generator": (pair for pair in zip(X, NAMES, strict=True)),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_every_labelled_data_set(kind: str) -> None:
    split = FewShotTasks.from_dataset(DATASETS[kind], ways=2, shots=1, queries=2)
    names = {
        str(n).split()[-1]
        for part in ("train", "validation", "test")
        for n in split[part].class_names
    }
    assert names == {str(number) for number in range(12)}
    batch = split.train.sample_tasks(50, np.random.default_rng(0))
    drawn = (batch.support_x[..., 0] / 2) % 12
    for x, y in zip(drawn, batch.support_y, strict=True):
        assert len(set(x.tolist())) == len(set(y.tolist())) == 2
    seen = {split.train.class_names[k] for k in range(split.train.pool.num_classes)}
    known = {str(name).split()[-1] for name in seen}
    assert {str(int(number)) for number in drawn.flatten()} <= known


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (None, TypeError, "dataset has to be a torch.utils.data.Dataset or .* got None"),
        (3, TypeError, "got int"),
        ("texts", TypeError, "got str"),
        ({"a": 1}, TypeError, "got dict"),
        (X, TypeError, "got Tensor"),
        ([], ValueError, "an empty data set"),
        (TensorDataset(X), ValueError, "example 0 is no pair"),
        (TensorDataset(X, Y, Y), ValueError, "example 0 is no pair"),
        (TensorDataset(X, torch.eye(12)[Y]), ValueError, r"a label of shape \(12,\)"),
        ([(X[0], 0), (X[1] * torch.nan, 1)], ValueError, "example 1: it holds nan"),
        ([(X[0], 0), (X[1] + torch.inf, 1)], ValueError, "example 1: it holds inf"),
        ([(X[0], 0), (X[1] * 1j, 1)], ValueError, "example 1: it: complex numbers"),
        ([(X[0], 0), (X[1, :0], 1)], ValueError, r"example 1: an array of shape \(0,\) holds no"),
        ([(X[0], 0), (None, 1)], ValueError, "example 1: it have to be a tensor"),
        ([("a text", "a"), ("", "b")], ValueError, "example 1: no words in ''"),
        ([("a text", "a"), (X[0], "b")], ValueError, "example 1 is of kind Tensor, .* of str"),
        ([(X[0], None)], ValueError, "label None is neither"),
    ],
)
def test_other_data_sets_are_refused(dataset: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FewShotTasks.from_dataset(dataset, 2, 1)


def test_names_of_settings_that_do_not_exist_list_the_near_ones() -> None:
    with pytest.raises(TypeError, match="argument 'query'; did you mean queries"):
        FewShotTasks.from_dataset(TensorDataset(X, Y), 2, 1, query=3)


def test_pictures_of_pil_in_a_data_set() -> None:
    """Transparent ones are composed, so that ink is seen; all are [channels, height, width]."""
    pairs = [(transparent("RGBA", 3 * c + k), f"class {c}") for c in range(10) for k in range(3)]
    split = FewShotTasks.from_dataset(pairs, ways=2, shots=1, queries=1)
    examples = split.train.pool.examples
    assert examples.shape[1:] == (3, 24, 16)
    assert len({example.numpy().tobytes() for example in examples}) == len(examples)
    batch = split.train.sample_tasks(1, np.random.default_rng(0))
    assert 0 == batch.support_x.min() < batch.support_x.max() == 1


def test_own_pictures_are_learned() -> None:
    pairs = [(transparent("LA", 10 * c), c) for c in range(9) for _ in range(4)]
    square = [(np.asarray(image_tensor(image).float())[:, :16, :16], c) for image, c in pairs]
    split = FewShotTasks.from_dataset(square, 2, 1, queries=2, fractions=(0.4, 0.3, 0.3))
    generator = torch.Generator().manual_seed(0)
    learner = ProtoNet(conv4(hidden=4, size=16, generator=generator), seed=0, device="cpu")
    batch = split.test.sample_tasks(4, np.random.default_rng(0))
    predicted = learner.learn(split, 2).predict(batch.query_x, learner.adapt(batch.support))
    assert (predicted == batch.query_y).all()  # the examples of a class are equal


WORDS = ["card", "rate", "loan", "fee", "branch", "phone", "limit", "cash", "visa", "pin"]


def test_texts_become_numbers_of_words() -> None:
    pairs = [(f"question {k} about my {word} please", word) for word in WORDS for k in range(6)]
    split = FewShotTasks.from_dataset(pairs, 2, 1, queries=2, num_hashes=50)
    vocabulary = split.vocabulary  # type: ignore[attr-defined]
    assert set(split.train.class_names) <= set(vocabulary.known)
    assert not set(split.test.class_names) & set(vocabulary.known)
    assert split.train.pool.example_shape == (6,)
    network = text_encoder(len(vocabulary), generator=torch.Generator().manual_seed(0))
    learner = ProtoNet(network, seed=0, device="cpu").learn(split, 2)
    batch = split.test.sample_tasks(3, np.random.default_rng(0))
    assert batch.support_x.dtype == torch.int64
    assert (learner.predict(batch.query_x, learner.adapt(batch.support)) == batch.query_y).all()
    assert FewShotTasks.from_dataset(pairs, 2, 1, queries=1, length=3).train.pool.example_shape == (
        3,
    )
