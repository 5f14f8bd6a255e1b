"""Reading of image files and PIL images as pixels; unclear formats are refused."""

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
"""File formats that hold 16 bits where PIL's mode is "I" (32 bits)."""

Background = str | int | tuple[int, int, int]
"""A colour: a name or ``"#rrggbb"``, a grey value from 0 to 255, or red, green and blue."""


def check_background(background: Any) -> tuple[int, int, int]:
    """Returns a colour as red, green and blue, each from 0 to 255.

    Raises:
        ValueError: The background is no colour.
    """
    try:
        if isinstance(background, str):
            return ImageColor.getrgb(background)[:3]
        parts = [background] * 3 if not isinstance(background, tuple | list) else background
        red, green, blue = (check_count("background", part, 0, 255) for part in parts)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "background is the name of a colour, a grey value from 0 to 255, or red, green and "
            f"blue values, got {background!r}"
        ) from error
    return red, green, blue


def read_image(
    file: Path,
    size: int | None,
    channels: int | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Tensor:
    """Reads and resizes an image file.

    Args:
        file: Path of the file.
        size: Height and width of the result, in pixels; ``None`` keeps those of the image.
        channels: Number of channels: 1 for grey, 3 for colour (default: as the image has).
        background: Colour behind transparent pixels: red, green and blue, 0 to 255.

    Returns:
        Pixels ``[channels, size, size]``: uint8, or floats in [0, 1] for files of 16 bits a
        channel.

    Raises:
        ValueError: The image is not readable, animated, or has values of no known range.
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
    """Returns the pixels of an upright image.

    Transparent images are composed on the background; palettes and other colour models (such as
    CMYK) become grey or red, green and blue.

    Args:
        image: Image of PIL.
        channels: Number of channels: 1 for grey, 3 for colour (default: as the image has).
        background: Colour behind transparent pixels: red, green and blue, 0 to 255.
        size: Height and width of the result, in pixels (default: those of the image).

    Returns:
        Pixels ``[channels, height, width]``: uint8, or floats in [0, 1] for images of 16 bits.

    Raises:
        ValueError: The image is animated, has values of no known range, or cannot be told from
            the background.
    """
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":  # MPO: a photo and its preview
        raise ValueError(f"an animation of {frames} frames; save one frame as an image")
    if image.mode == "F" or (image.mode == "I" and image.format not in OF_16_BITS):
        raise ValueError(
            f"images of mode {image.mode} have no known white; save it with 8 or 16 bits"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _read_16_bit_grey(image, channels, size)
    transparent = image.has_transparency_data
    flat = _compose_on_background(image, background) if transparent else _as_grey_or_rgb(image)
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


def _compose_on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Composes an image on an opaque background; the result is grey if both are grey."""
    grey = image.mode in ("1", "L", "LA", "La") and len(set(background)) == 1
    over = image.convert("RGBA")
    under = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(under, over).convert("L" if grey else "RGB")


def _as_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Converts an opaque image of any colour model to grey, or to red, green and blue."""
    try:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except ValueError as error:
        raise ValueError(f"images of mode {image.mode} cannot be read: {error}") from error


def _read_16_bit_grey(image: Image.Image, channels: int | None, size: int | None) -> Tensor:
    """Returns the pixels of a 16-bit image as floats: 8 bits would lose detail."""
    grey = Image.fromarray(np.asarray(image).astype(np.float32) / WHITE_OF_16_BITS)
    if size is not None:
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(grey)).clamp(0.0, 1.0)
    return pixels.expand(channels or 1, *pixels.shape).clone()


def _is_constant(image: Image.Image) -> bool:
    extrema: Any = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)
