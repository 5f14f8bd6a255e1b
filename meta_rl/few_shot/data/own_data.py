"""Few-shot tasks from your own data: a labelled data set, or a folder of images by class."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from meta_rl.arguments import (
    check_count,
    check_flag,
    check_kind,
    check_names,
    keyword_names,
)
from meta_rl.few_shot.data.arrays import as_tensor, find_not_finite
from meta_rl.few_shot.data.encoders import as_encoder, encoded
from meta_rl.few_shot.data.held_out import HeldOut, check_parts, divide_classes
from meta_rl.few_shot.data.images import (
    SUFFIXES,
    Background,
    check_background,
    image_tensor,
    read_image,
)
from meta_rl.few_shot.data.preparation import (
    Numbers,
    Preparation,
    Vectors,
    Words,
    image_preparation,
)
from meta_rl.few_shot.data.texts import Vocabulary, words
from meta_rl.few_shot.tasks import ClassPool, FewShotSplit, class_split

SYSTEM_FILES = ("thumbs.db", "desktop.ini")
"""Files that file managers leave in folders and that are not hidden."""

NAMED_FILES = 5
"""Maximum number of files that a warning names."""


def split_dataset(
    dataset: Any,
    ways: int,
    shots: int,
    queries: int = 15,
    *,
    fractions: Sequence[float] = (0.64, 0.16, 0.2),
    seed: int = 0,
    name: str | None = None,
    rotations: bool = False,
    train: dict[str, int | None] | None = None,
    background: Background = "white",
    length: int | None = None,
    num_hashes: int = 2048,
    validation_classes: Sequence[Any] | None = None,
    test_classes: Sequence[Any] | None = None,
    groups: Mapping[Any, Any] | None = None,
    validation_groups: Sequence[Any] | None = None,
    test_groups: Sequence[Any] | None = None,
    encoder: Any = None,
    progress_bar: bool = True,
) -> FewShotSplit:
    """Makes few-shot tasks from a labelled data set, whose classes are split into three parts.

    Every example is read once and kept in memory: ``uint8`` images are returned as floats in
    [0, 1], other integers as int64. Texts become word numbers: words of the training classes have
    numbers of their own, others get a hash. The split's ``vocabulary`` holds them. With an encoder,
    texts or images become its vectors.

    Args:
        dataset: A ``torch.utils.data.Dataset`` (map-style or iterable), or a list, of pairs of an
            example (tensor, array, list of numbers, PIL image or text) and a label. A label is a
            whole number (also as an array or tensor of one) or a name.
        ways: Number of classes in a task.
        shots: Number of support examples of each class.
        queries: Number of query examples of each class.
        fractions: Fractions of the classes for training, validation and test, which sum to 1.
        seed: Seed of the split.
        name: Name of the data set (default: the name of its class).
        rotations: Whether training classes are rotated by multiples of 90 degrees.
        train: Values of ``ways``, ``shots`` or ``queries`` for training, where they differ.
        background: Colour behind transparent pixels of PIL images: a name, a grey value from 0 to
            255, or red, green and blue.
        length: Number of words that are kept of a text (default: that of the longest text).
        num_hashes: Number of word numbers for words that the training texts do not have.
        validation_classes: Labels of the validation classes (default: drawn by ``fractions``).
        test_classes: Labels of the test classes (default: drawn by ``fractions``).
        groups: Group of each class, such as its domain, by its label; whole groups are held out.
        validation_groups: Names of the validation groups (default: drawn by ``fractions``).
        test_groups: Names of the test groups (default: drawn by ``fractions``).
        encoder: Pre-trained encoder of texts or images: a function from a list of texts (or PIL
            images) to vectors, the name or folder of a sentence_transformers model, a torch module
            from images in [0, 1], or ``"tfidf"``. Vectors are computed once, and those of a
            sentence_transformers model or a module are kept in the user's cache folder.
        progress_bar: Whether a progress bar is shown while examples are encoded.

    Returns:
        The split; ``split.train.class_names`` and so on are the labels, and ``split.preparation``
        is the function from examples to what a learner takes.

    Raises:
        TypeError: ``dataset`` is no data set, or an argument does not exist.
        ValueError: The data set has no pairs of example and label, examples have different kinds
            or shapes or hold NaN, infinity, complex numbers or no numbers, fractions do not sum to
            one, a held-out name is unknown, or a part has too few classes or examples.
    """
    colour, turned = check_background(background), check_flag("rotations", rotations)
    sizes = _task_sizes(ways, shots, queries, train)
    by_class = _group_by_class(_iterate_pairs(dataset), colour)
    labels = sorted(by_class, key=lambda label: (str(type(label)), label))
    held_out = HeldOut(
        fractions, seed, validation_classes, test_classes, groups, validation_groups, test_groups
    )
    parts = divide_classes(labels, held_out)
    counts = {label: len(examples) for label, examples in by_class.items()}
    check_parts(parts, counts, sizes, grouped=groups is not None)
    prepare = _preparation(by_class, parts["train"], encoder, colour, (length, num_hashes))
    if isinstance(prepare, Words | Vectors):
        by_class = _prepared(prepare, by_class, check_flag("progress_bar", progress_bar))
    split = class_split(
        _pools(by_class, parts, turned),
        ways,
        shots,
        queries,
        name=name or type(dataset).__name__,
        train=train,
    )
    split.__dict__["preparation"] = prepare  # the dataclass is frozen
    if isinstance(prepare, Words):
        split.__dict__["vocabulary"] = prepare.vocabulary
    return split


def _preparation(
    by_class: dict[Any, list[Any]],
    train: list[Any],
    encoder: Any,
    background: tuple[int, int, int],
    of_texts: tuple[int | None, int],
) -> Preparation:
    """Returns the preparation of examples like these."""
    examples = [example for examples in by_class.values() for example in examples]
    texts = isinstance(examples[0], str)
    pixels = not texts and examples[0].dim() == 3 and len(examples[0]) in (1, 3)
    images = image_preparation(examples, background) if pixels else None
    if encoder is not None:
        if not texts and images is None:
            raise ValueError("encoder: texts or images are encoded, and these are neither")
        made = as_encoder(encoder)
        made.fit([example for label in train for example in by_class[label]])
        return Vectors(made, images)
    if texts:
        return Words(_vocabulary(by_class, train, *of_texts))
    return images or Numbers(tuple(examples[0].shape))


def _prepared(
    prepare: Words | Vectors, by_class: dict[Any, list[Any]], progress_bar: bool
) -> dict[Any, list[Tensor]]:
    """Returns the prepared examples by class; all are prepared together."""
    examples = [example for examples in by_class.values() for example in examples]
    if isinstance(prepare, Words):
        rows = prepare(examples)
    else:
        rows = encoded(prepare.encoder, examples, progress_bar=progress_bar)
    sizes = [len(examples) for examples in by_class.values()]
    return {label: list(x) for label, x in zip(by_class, rows.split(sizes), strict=True)}


def _task_sizes(ways: int, shots: int, queries: int, train: Any) -> dict[str, dict[str, int]]:
    """Returns the numbers of ways, shots and queries in each part."""
    sizes = {
        "ways": check_count("ways", ways, least=2),
        "shots": check_count("shots", shots),
        "queries": check_count("queries", queries),
    }
    check_names(train or {}, list(sizes), "train")
    changed = {key: check_count(key, n) for key, n in (train or {}).items() if n is not None}
    return {"train": sizes | changed, "validation": sizes, "test": sizes}


def _pools(
    by_class: dict[Any, list[Tensor]], parts: dict[str, list[Any]], turned: bool
) -> dict[str, ClassPool]:
    """Returns the pools of examples, which have one type in all parts."""
    kind = _common_type(example.dtype for examples in by_class.values() for example in examples)
    return {
        part: ClassPool(
            torch.stack([_cast(example, kind) for c in members for example in by_class[c]]),
            [len(by_class[label]) for label in members],
            turns=4 if turned and part == "train" else 1,
            names=members,
        )
        for part, members in parts.items()
    }


def split_folder(
    path: str | Path,
    ways: int,
    shots: int,
    queries: int = 15,
    *,
    size: int = 28,
    channels: int | None = None,
    background: Background = "white",
    **settings: Any,
) -> FewShotSplit:
    """Makes few-shot tasks from a folder that has a folder of images for each class.

    Hidden files and folders are skipped. Other files that cannot be read as one image (damaged
    files, animations, files of other kinds) are left out, and one warning counts and names them.
    Images are rotated upright as their EXIF data say.

    Args:
        path: Path of the folder.
        ways: Number of classes in a task.
        shots: Number of support images of each class.
        queries: Number of query images of each class.
        size: Height and width to which images are resized, in pixels.
        channels: Number of channels: 1 for grey, 3 for colour (default: 1 if all images are grey,
            3 otherwise).
        background: Colour behind transparent pixels: a name, a grey value from 0 to 255, or red,
            green and blue.
        **settings: Arguments of :func:`split_dataset`: ``fractions``, ``seed``, ``name``,
            ``rotations``, ``train``, and those that choose the held-out classes.

    Raises:
        FileNotFoundError: There is no such folder.
        TypeError: An argument does not exist.
        ValueError: The folder has no images, a class has no readable image, or
            :func:`split_dataset` raises it.
    """
    check_names(settings, _FOLDER_SETTINGS, "from_folder")
    check_kind("path", path, (str, Path), "the path of a folder")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}: it has to hold a folder of images per class")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is 1 (grey) or 3 (colour), got {channels}")
    size, colour = check_count("size", size), check_background(background)
    folders = [
        folder for folder in sorted(path.iterdir()) if _is_users_file(folder) and folder.is_dir()
    ]
    pairs: list[tuple[Tensor, str]] = []
    left_out: list[str] = []
    empty = []
    for folder in folders:
        read = _read_class(folder, size, channels, colour, left_out)
        pairs += [(image, folder.name) for image in read]
        if not read:
            empty.append(folder.name)
    reasons = _describe_left_out(left_out)
    because = f"; {reasons}" if reasons else ""
    if not pairs:
        raise ValueError(f"{path} holds no folders with images ({', '.join(SUFFIXES)}){because}")
    if empty:
        raise ValueError(
            f"{path}: no readable images of {len(empty)} of {len(folders)} classes: "
            f"{', '.join(empty[:NAMED_FILES])}{because}"
        )
    if left_out:
        warnings.warn(f"{path}: {reasons}", stacklevel=2)
    pairs = _with_equal_channels(pairs)
    return split_dataset(pairs, ways, shots, queries, **{"name": path.name, **settings})


_HELD_OUT = ("validation_classes", "test_classes", "groups", "validation_groups", "test_groups")
_FOLDER_SETTINGS = [
    *("ways", "shots", "queries", "size", "channels", "background"),
    *("fractions", "seed", "name", "rotations", "train", *_HELD_OUT),
    *("encoder", "progress_bar"),
]


def _with_equal_channels(pairs: list[tuple[Tensor, str]]) -> list[tuple[Tensor, str]]:
    """Returns the images with three channels each if one of them has colour."""
    most = max(len(image) for image, _ in pairs)
    return [(image.expand(most, -1, -1), label) for image, label in pairs]


def _is_users_file(file: Path) -> bool:
    """Returns whether a file or folder is the user's: neither hidden nor a system file."""
    return not file.name.startswith((".", "__MACOSX")) and file.name.lower() not in SYSTEM_FILES


def _read_class(
    folder: Path,
    size: int,
    channels: int | None,
    background: tuple[int, int, int],
    left_out: list[str],
) -> list[Tensor]:
    """Returns the images of a class, and appends a reason to ``left_out`` for other files."""
    images = []
    for file in sorted(filter(_is_users_file, folder.iterdir())):
        if file.is_dir():
            left_out.append(f"{file} is a folder within a class")
        elif not file.is_file():
            left_out.append(f"{file} is no file, or a link to nothing")
        elif file.suffix.lower() not in SUFFIXES:
            left_out.append(f"{file} is no image file")
        else:
            try:
                images.append(read_image(file, size, channels, background))
            except ValueError as error:
                left_out.append(str(error))
    return images


def _describe_left_out(left_out: list[str]) -> str:
    if not left_out:
        return ""
    named = "; ".join(left_out[:NAMED_FILES])
    more = f"; and {len(left_out) - NAMED_FILES} more" if len(left_out) > NAMED_FILES else ""
    return f"{len(left_out)} left out: {named}{more}"


def _iterate_pairs(dataset: Any) -> Iterable[Any]:
    """Returns an iterable over the examples of a data set, map-style or iterable."""
    wanted = "a torch.utils.data.Dataset or a sequence of pairs (example, label)"
    if isinstance(dataset, str | bytes | dict | set | Tensor | np.ndarray | type):
        check_kind("dataset", dataset, Dataset, wanted)
    if isinstance(dataset, IterableDataset):
        return dataset
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return (dataset[index] for index in range(len(dataset)))
    check_kind("dataset", dataset, (Dataset, Iterable), wanted)
    return _iterate_by_index(dataset) if isinstance(dataset, Dataset) else dataset


def _iterate_by_index(dataset: Any) -> Iterator[Any]:
    """Yields the examples of a map-style data set without a length, up to its ``IndexError``."""
    index = 0
    while True:
        try:
            yield dataset[index]
        except IndexError:
            return
        index += 1


def _group_by_class(pairs: Iterable[Any], background: tuple[int, int, int]) -> dict[Any, list[Any]]:
    """Returns the examples (tensors or texts) by their label."""
    by_class: dict[Any, list[Any]] = {}
    first: Any = None
    for index, pair in enumerate(pairs):
        example, label = _checked_pair(pair, index, background)
        first = example if first is None else first
        if isinstance(example, str) != isinstance(first, str):
            kinds = [type(one).__name__ for one in (example, first)]
            raise ValueError(f"example {index} is of kind {kinds[0]}, the first one of {kinds[1]}")
        if not isinstance(example, str) and example.shape != first.shape:
            raise ValueError(
                f"example {index} has shape {tuple(example.shape)}, the first one has "
                f"{tuple(first.shape)}"
            )
        by_class.setdefault(label, []).append(example)
    if not by_class:
        raise ValueError("an empty data set: there are no examples in it")
    return by_class


def _checked_pair(pair: Any, index: int, background: tuple[int, int, int]) -> tuple[Any, Any]:
    try:
        if isinstance(pair, str | dict):
            raise TypeError(f"got {type(pair).__name__}")
        example, label = pair
        label = _as_label(label)
    except (TypeError, ValueError) as error:
        raise ValueError(f"example {index} is no pair of example and label: {error}") from error
    try:
        return _as_example(example, background), label
    except (TypeError, ValueError) as error:
        raise ValueError(f"example {index}: {error}") from error


def _as_example(example: Any, background: tuple[int, int, int]) -> Tensor | str:
    if isinstance(example, str):
        if not words(example):
            raise ValueError(f"no words in {example!r}")
        return str(example)
    if isinstance(example, Image.Image):
        return image_tensor(example, background=background)
    tensor = as_tensor(example, "it")
    if tensor.numel() == 0:
        raise ValueError(f"an array of shape {tuple(tensor.shape)} holds no numbers")
    bad = find_not_finite(tensor.reshape(1, -1), 1)
    if bad is not None:
        raise ValueError(f"it holds {bad[-1]}; finite numbers are wanted")
    return tensor


def _as_label(label: Any) -> int | str:
    if isinstance(label, Tensor | np.ndarray | np.generic):
        shape = tuple(label.shape)
        if int(np.prod(shape)) != 1:
            raise ValueError(f"a label of shape {shape}: one number or name is wanted")
        label = label.item()
    if not isinstance(label, int | str):
        raise ValueError(f"label {label!r} is neither a whole number nor a name")
    return label


def _vocabulary(
    by_class: dict[Any, list[str]], train: list[Any], length: int | None, num_hashes: int
) -> Vocabulary:
    if length is None:
        length = max(len(words(text)) for texts in by_class.values() for text in texts)
    return Vocabulary([text for label in train for text in by_class[label]], num_hashes, length)


def _common_type(kinds: Iterable[torch.dtype]) -> torch.dtype:
    """Returns a type for all examples together: floats if some are floats."""
    distinct = set(kinds)
    if len(distinct) == 1:
        return distinct.pop()
    return torch.float32 if any(kind.is_floating_point for kind in distinct) else torch.int64


def _cast(example: Tensor, kind: torch.dtype) -> Tensor:
    """Converts an example; 8-bit images become floats in [0, 1] if others are floats."""
    if example.dtype == torch.uint8 and kind.is_floating_point:
        return example.to(kind) / 255
    return example.to(kind)


DATASET_SETTINGS = keyword_names(inspect.signature(split_dataset).parameters)
"""Names of the keyword arguments of :func:`split_dataset`."""
