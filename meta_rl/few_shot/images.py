"""Image files and PIL images as pixels, whatever their format: read rightly or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from meta_rl.arguments import check_count

SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
"""Endings of the names of image files, in lower case."""

WHITE_OF_16_BITS = 65535
OF_16_BITS = ("PNG", "PPM")
"""Formats whose images of PIL's mode "I" (32 bits) have 16 bits."""

Background = str | int | tuple[int, int, int]
"""A colour: a name or ``"#rrggbb"``, a grey value from 0 to 255, or red, green and blue."""


def check_background(background: Any) -> tuple[int, int, int]:
    """Gives a colour as red, green and blue, 0 to 255 each.

    Raises:
        ValueError: No colour.
    """
    try:
        if isinstance(background, str):
            return ImageColor.getrgb(background)[:3]
        parts = [background] * 3 if not isinstance(background, tuple | list) else background
        red, green, blue = (check_count("background", part, 0, 255) for part in parts)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "background is the name of a colour, a grey value from 0 to 255, or three of them, got "
            f"{background!r}"
        ) from error
    return red, green, blue


def read_image(
    file: Path, size: int, channels: int, background: tuple[int, int, int] = (255, 255, 255)
) -> Tensor:
    """Reads an image file, resized.

    Args:
        file: Path of the file.
        size: Height and width of the result, in pixels.
        channels: 1 for grey, 3 for colour.
        background: What lies behind transparent pixels.

    Returns:
        ``[channels, size, size]``, uint8; of files with 16 bits a channel, floats in [0, 1].

    Raises:
        ValueError: Not readable, animated, or of a kind whose numbers have no known range.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return image_tensor(image, channels, background, size)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except Exception as error:  # damaged files raise all kinds
        raise ValueError(f"{file} is no readable image: {error}") from error


def image_tensor(
    image: Image.Image,
    channels: int | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    size: int | None = None,
) -> Tensor:
    """Gives the pixels of an image, upright, ``[channels, height, width]``.

    Transparent images are composed on the background; palettes and other colour models (such as
    CMYK) become grey or red, green and blue.

    Args:
        image: An image of PIL.
        channels: 1 for grey, 3 for colour; by default what the image has.
        background: What lies behind transparent pixels.
        size: Height and width of the result; by default those of the image.

    Returns:
        uint8; of 16-bit images floats in [0, 1].

    Raises:
        ValueError: Animated, a kind whose numbers have no known range, or an image that is seen
            only before another background.
    """
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":  # MPO: a photo and its preview
        raise ValueError(f"an animation of {frames} frames; save the one that is meant")
    if image.mode == "F" or (image.mode == "I" and image.format not in OF_16_BITS):
        raise ValueError(
            f"images of mode {image.mode} have no known white; save it with 8 or 16 bits"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _of_many_greys(image, channels, size)
    transparent = image.has_transparency_data
    flat = _composed(image, background) if transparent else _plain_colours(image)
    if channels is not None:
        flat = flat.convert("L" if channels == 1 else "RGB")
    if transparent and _is_constant(flat) and not _is_constant(image.convert("RGBA")):
        raise ValueError(
            f"it has one colour throughout once it is composed on the background {background}; "
            "choose another background"
        )
    if size is not None:
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.array(flat)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0).copy())


def _composed(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """On an opaque background; grey stays grey where the background is grey too."""
    grey = image.mode in ("1", "L", "LA", "La") and len(set(background)) == 1
    over = image.convert("RGBA")
    under = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(under, over).convert("L" if grey else "RGB")


def _plain_colours(image: Image.Image) -> Image.Image:
    """Of a palette or another colour model, as grey or as red, green and blue."""
    try:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except ValueError as error:
        raise ValueError(f"images of mode {image.mode} cannot be read: {error}") from error


def _of_many_greys(image: Image.Image, channels: int | None, size: int | None) -> Tensor:
    """A 16-bit image as floats: 8 bits would lose most of a dark one, and PIL cuts bright ones."""
    grey = Image.fromarray(np.asarray(image).astype(np.float32) / WHITE_OF_16_BITS)
    if size is not None:
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(grey)).clamp(0.0, 1.0)
    return pixels.expand(channels or 1, *pixels.shape).clone()


def _is_constant(image: Image.Image) -> bool:
    extrema: Any = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)
