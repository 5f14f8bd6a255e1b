"""Your own data as few-shot tasks: any labelled data set, any folder of images by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from meta_rl.few_shot.tasks import ClassPool, FewShotSplit, class_split
from meta_rl.tasks import check_count

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


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
) -> FewShotSplit:
    """Few-shot tasks of a labelled data set, its classes split into three parts.

    Every example is read once and kept in memory, as it comes: ``uint8`` images are given out as
    floats in [0, 1].

    Args:
        dataset: A ``torch.utils.data.Dataset`` (map-style or iterable) of pairs: a tensor, array or
            PIL image, and a label.
        ways: Classes of a task.
        shots: Support examples of each class.
        queries: Query examples of each class.
        fractions: Of the classes, for training, validation and test.
        seed: Of the split.
        name: Of the data set; its class's name by default.
        rotations: Turn training classes by multiples of 90 degrees.
        train: Other ``ways``, ``shots`` or ``queries`` for training.

    Raises:
        ValueError: No pairs of example and label, examples of different shapes, fractions that do
            not sum to one, or parts with too few classes or examples.
    """
    by_class: dict[Any, list[Tensor]] = {}
    shape: tuple[int, ...] | None = None
    for index, pair in enumerate(_pairs(dataset)):
        try:
            example, label = pair
            example, label = _as_tensor(example), _as_label(label)
        except (TypeError, ValueError) as error:
            raise ValueError(f"example {index} is no pair of example and label: {error}") from error
        shape = shape or tuple(example.shape)
        if tuple(example.shape) != shape:
            raise ValueError(
                f"example {index} has shape {tuple(example.shape)}, the first one has {shape}"
            )
        by_class.setdefault(label, []).append(example)
    labels = sorted(by_class, key=lambda label: (str(type(label)), label))
    parts = _split_labels(labels, fractions, seed)
    pools = {
        part: ClassPool(
            torch.stack([example for label in members for example in by_class[label]]),
            [len(by_class[label]) for label in members],
            turns=4 if rotations and part == "train" else 1,
        )
        for part, members in parts.items()
    }
    return class_split(
        pools, ways, shots, queries, name=name or type(dataset).__name__, train=train
    )


def split_folder(
    path: str | Path,
    ways: int,
    shots: int,
    queries: int = 15,
    *,
    size: int = 28,
    channels: int = 1,
    **settings: Any,
) -> FewShotSplit:
    """Few-shot tasks of a folder that has a folder of images for each class.

    Args:
        path: Of the folder.
        ways: Classes of a task.
        shots: Support images of each class.
        queries: Query images of each class.
        size: Images are resized to ``size`` × ``size`` pixels.
        channels: 1 for grey, 3 for colour.
        **settings: For :func:`split_dataset`.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No images, a file that is none, or as :func:`split_dataset`.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}: it has to hold a folder of images per class")
    if channels not in (1, 3):
        raise ValueError(f"channels is 1 (grey) or 3 (colour), got {channels}")
    size = check_count("size", size)
    files = [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise ValueError(f"{path} holds no folders with images ({', '.join(SUFFIXES)})")
    pairs = [(_read_image(file, size, channels), label) for file, label in files]
    return split_dataset(pairs, ways, shots, queries, **{"name": path.name, **settings})


def _read_image(file: Path, size: int, channels: int) -> Tensor:
    try:
        with Image.open(file) as image:
            colours = image.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is no readable image: {error}") from error
    return _as_tensor(colours.resize((size, size), Image.Resampling.LANCZOS))


def _pairs(dataset: Any) -> Iterable[Any]:
    """A map-style data set need not be iterable by itself."""
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return (dataset[index] for index in range(len(dataset)))
    return dataset


def _as_tensor(example: Any) -> Tensor:
    if isinstance(example, Tensor):
        return example
    array = np.array(example)
    if isinstance(example, Image.Image):  # [H, W] or [H, W, C] to [C, H, W]
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return torch.as_tensor(array)


def _as_label(label: Any) -> Any:
    if isinstance(label, Tensor | np.ndarray | np.generic):
        if np.size(label) != 1:
            raise ValueError(f"a label of shape {tuple(label.shape)}: one number or name is wanted")
        label = label.item()
    if not isinstance(label, int | str):
        raise ValueError(f"label {label!r} is neither a whole number nor a name")
    return label


def _split_labels(labels: list[Any], fractions: Sequence[float], seed: int) -> dict[str, list[Any]]:
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions are three positive numbers that sum to 1, got {fractions}")
    order = np.random.default_rng(seed).permutation(len(labels))
    bounds = np.round(np.cumsum(fractions) * len(labels)).astype(int)
    pieces = np.split(order, bounds[:-1])
    parts = {}
    for part, piece in zip(("train", "validation", "test"), pieces, strict=True):
        if len(piece) == 0:
            raise ValueError(f"{len(labels)} classes are too few: none is left for {part}")
        parts[part] = [labels[index] for index in sorted(piece)]
    return parts
