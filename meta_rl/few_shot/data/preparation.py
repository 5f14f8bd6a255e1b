"""The preparation of examples: the step from texts, images or numbers to what a network takes.

A split of your own data has the attribute ``preparation``, and a classifier saves it, so that new
examples are prepared as those of the training were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from meta_rl.arguments import kind_in_words
from meta_rl.few_shot.data.arrays import as_tensor, find_not_finite
from meta_rl.few_shot.data.encoders import Encoder, encoded, load_encoder
from meta_rl.few_shot.data.images import image_tensor, read_image
from meta_rl.few_shot.data.texts import Vocabulary


class Preparation(ABC):
    """A function from a list of examples to a tensor."""

    kind: ClassVar[str]
    """Name of this kind of preparation in files."""

    @abstractmethod
    def __call__(self, examples: Sequence[Any]) -> Tensor:
        """Returns the examples as a tensor ``[N, ...]``.

        Raises:
            ValueError: An example is of another kind or shape.
        """

    def saved(self) -> dict[str, Any]:
        """Returns what :func:`load_preparation` needs."""
        return {"kind": self.kind}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'encoder', '')})"


class Words(Preparation):
    """Word numbers of texts.

    Args:
        vocabulary: Vocabulary of the training texts.
    """

    kind = "words"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __call__(self, examples: Sequence[Any]) -> Tensor:
        """Returns the word numbers ``[N, length]`` of texts."""
        return self.vocabulary.encode(_check_texts(examples))

    def saved(self) -> dict[str, Any]:
        """Returns the vocabulary."""
        known = list(self.vocabulary.known)
        sizes = {"num_hashes": self.vocabulary.num_hashes, "length": self.vocabulary.length}
        return {"kind": self.kind, "known": known, **sizes}


class Images(Preparation):
    """Pixels of images: paths of files, PIL images, or pixels ``[channels, height, width]``.

    Args:
        size: Height and width to which files and PIL images are resized, in pixels; ``None`` keeps
            their size.
        channels: Number of channels: 1 for grey, 3 for colour.
        background: Colour behind transparent pixels: red, green and blue, 0 to 255.
    """

    kind = "images"

    def __init__(self, size: int | None, channels: int, background: tuple[int, int, int]) -> None:
        self.size = size
        self.channels = channels
        self.background = background

    def __call__(self, examples: Sequence[Any]) -> Tensor:
        """Returns the pixels ``[N, channels, height, width]``: uint8, or floats in [0, 1]."""
        images = [self._pixels(example, index) for index, example in enumerate(examples)]
        if any(image.is_floating_point() for image in images):
            images = [
                image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image
                for image in images
            ]
        return _stack(images)

    def _pixels(self, example: Any, index: int) -> Tensor:
        if isinstance(example, Image.Image):
            return image_tensor(example, self.channels, self.background, self.size)
        if isinstance(example, str | Path):
            return read_image(Path(example), self.size, self.channels, self.background)
        pixels = as_tensor(example, f"example {index}")
        size = self.size or "any"
        wanted = (self.channels, self.size, self.size)
        fits = pixels.dim() == 3 and all(
            want in (None, have) for want, have in zip(wanted, pixels.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"example {index} has shape {tuple(pixels.shape)}; a file, a PIL image, or pixels "
                f"of shape ({self.channels}, {size}, {size}) are wanted"
            )
        return pixels

    def saved(self) -> dict[str, Any]:
        """Returns size, channels and background."""
        settings = {"size": self.size, "channels": self.channels, "background": self.background}
        return {"kind": self.kind, **settings}


class Numbers(Preparation):
    """Arrays, tensors or lists of numbers, as they are.

    Args:
        shape: Shape of an example; ``None`` for any.
    """

    kind = "numbers"

    def __init__(self, shape: tuple[int, ...] | None = None) -> None:
        self.shape = None if shape is None else tuple(shape)

    def __call__(self, examples: Sequence[Any]) -> Tensor:
        """Returns the examples as one tensor."""
        x = as_tensor(examples, "examples")
        if x.dim() == 0 or (self.shape is not None and tuple(x.shape[1:]) != self.shape):
            raise ValueError(
                f"examples of shape {tuple(x.shape[1:])}; the learner takes {self.shape or 'any'}"
            )
        place = find_not_finite(x, 1) if x.numel() else None
        if place is not None:
            raise ValueError(f"example {place[0]} holds {place[1]}; finite numbers are wanted")
        return x

    def saved(self) -> dict[str, Any]:
        """Returns the shape."""
        return {"kind": self.kind, "shape": self.shape}


class Vectors(Preparation):
    """Vectors of an encoder of texts or images.

    Args:
        encoder: The encoder.
        images: Preparation of the images before they are encoded; ``None`` for texts.
    """

    kind = "vectors"

    def __init__(self, encoder: Encoder, images: Images | None = None) -> None:
        self.encoder = encoder
        self.images = images

    def __call__(self, examples: Sequence[Any]) -> Tensor:
        """Returns the vectors ``[N, D]``."""
        if self.images is None:
            return encoded(self.encoder, _check_texts(examples))
        return encoded(self.encoder, list(self.images(examples)))

    def saved(self) -> dict[str, Any]:
        """Returns what is saved of the encoder and of the preparation of images."""
        images = None if self.images is None else self.images.saved()
        return {"kind": self.kind, "encoder": self.encoder.saved(), "images": images}


def load_preparation(saved: dict[str, Any], encoder: Any = None) -> Preparation:
    """Returns the preparation of which :meth:`Preparation.saved` told.

    Args:
        saved: Saved description of a preparation.
        encoder: Encoder of the user's own, which no file holds.

    Raises:
        ValueError: The kind is unknown, or an encoder of the user's own is not given.
    """
    settings = dict(saved)
    kind = settings.pop("kind")
    if kind == Vectors.kind:
        images = settings["images"]
        return Vectors(
            load_encoder(settings["encoder"], encoder),
            None if images is None else _load_images(images),
        )
    if encoder is not None:
        raise ValueError("encoder: its examples are not encoded by an encoder")
    if kind == Words.kind:
        return Words(Vocabulary.from_known(**settings))
    if kind == Images.kind:
        return _load_images(saved)
    if kind == Numbers.kind:
        return Numbers(**settings)
    raise ValueError(f"unknown preparation {kind!r}")


def _load_images(saved: dict[str, Any]) -> Images:
    return Images(saved["size"], saved["channels"], tuple(saved["background"]))


def preparation_of(tasks: Any) -> Preparation:
    """Returns the preparation of the examples of a split, by its data if it tells none.

    Args:
        tasks: Split, or distribution of tasks with a ``pool``.

    Raises:
        ValueError: The tasks have neither a preparation nor a pool.
    """
    told = getattr(tasks, "preparation", None)
    if told is not None:
        return told
    vocabulary = getattr(tasks, "vocabulary", None)
    if isinstance(vocabulary, Vocabulary):
        return Words(vocabulary)
    pool = getattr(getattr(tasks, "test", tasks), "pool", None)
    if pool is None:
        raise ValueError("tasks: a split of classes is wanted, as FewShotTasks.from_texts makes")
    return Numbers(pool.example_shape)


def image_preparation(
    images: Iterable[Tensor], background: tuple[int, int, int], size: int | None = None
) -> Images:
    """Returns the preparation that makes images like these."""
    channels, height, width = next(iter(images)).shape
    size = height if height == width else size
    return Images(size, channels, background)


def _stack(parts: list[Tensor]) -> Tensor:
    if not parts:
        raise ValueError("there are no examples")
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"images of different shapes: {sorted(shapes)[:2]}")
    return torch.stack(parts)


def _check_texts(examples: Any) -> list[str]:
    if isinstance(examples, str):
        raise ValueError("a list of texts is wanted, got one text")
    texts = examples.tolist() if isinstance(examples, np.ndarray) else list(examples)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"example {index} is no text, but {kind_in_words(text)}")
        if not text.strip():
            raise ValueError(f"example {index} is empty")
    return texts
