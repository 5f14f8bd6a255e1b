"""Small pictures of maps: arrays ``[N, height, width, 3]`` of uint8 that are painted in steps.

Pictures are drawn for all sub-environments at once. Functions return new pictures. The second axis
of a map points up, against the direction of the rows of the picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Colour = tuple[int, int, int]

FLOOR: Colour = (255, 255, 255)
LINES: Colour = (208, 208, 208)
WALL: Colour = (64, 64, 64)
START: Colour = (160, 160, 160)
GOAL: Colour = (0, 158, 115)
ZONE: Colour = (190, 230, 215)
KEY: Colour = (230, 159, 0)
AGENT: Colour = (0, 90, 200)

CELL_PIXELS = 24
PLANE_PIXELS = 160


def empty_planes(num: int) -> np.ndarray:
    """Returns framed pictures of an empty plane, ``[N, PLANE_PIXELS, PLANE_PIXELS, 3]``."""
    picture = np.full((PLANE_PIXELS, PLANE_PIXELS, 3), LINES, dtype=np.uint8)
    picture[1:-1, 1:-1] = FLOOR
    return np.repeat(picture[None], num, axis=0)


def plane_pixels(points: Any, centre: tuple[float, float], half_width: float) -> np.ndarray:
    """Returns the pixels of points of a square plane in its picture.

    Args:
        points: Points (x, y), ``[..., 2]``; points outside the plane are moved to its border.
        centre: Point (x, y) in the middle of the picture.
        half_width: Half the side of the plane.

    Returns:
        Row and column, int64 ``[..., 2]``.
    """
    share = (np.asarray(points) - np.asarray(centre)) / (2.0 * half_width) + 0.5
    along = np.clip(np.round(share * (PLANE_PIXELS - 1)), 0, PLANE_PIXELS - 1).astype(np.int64)
    return np.stack([PLANE_PIXELS - 1 - along[..., 1], along[..., 0]], axis=-1)


def paint_discs(pictures: np.ndarray, pixels: Any, radius: float, colour: Colour) -> np.ndarray:
    """Paints a disc into each picture.

    Args:
        pictures: Pictures to paint on, ``[N, height, width, 3]``.
        pixels: Row and column of the centres, ``[N, 2]``, or ``[2]`` for all.
        radius: Radius in pixels; 0 paints only the centre. Halves (3.5) look rounder than integers.
        colour: Red, green and blue.
    """
    num, height, width, _ = pictures.shape
    pixels = np.broadcast_to(np.asarray(pixels), (num, 2))
    rows = np.arange(height)[None, :, None] - pixels[:, 0, None, None]
    columns = np.arange(width)[None, None, :] - pixels[:, 1, None, None]
    inside = rows**2 + columns**2 <= radius**2
    return np.where(inside[..., None], np.asarray(colour, dtype=np.uint8), pictures)


def grid_pictures(num: int, width: int, height: int) -> np.ndarray:
    """Returns pictures of an empty grid of ``width`` x ``height`` cells of ``CELL_PIXELS``."""
    picture = np.full((height * CELL_PIXELS, width * CELL_PIXELS, 3), FLOOR, dtype=np.uint8)
    picture[::CELL_PIXELS] = LINES
    picture[:, ::CELL_PIXELS] = LINES
    picture[-1] = picture[:, -1] = LINES
    return np.repeat(picture[None], num, axis=0)


def cell_pixels(cells: Any, height: int) -> np.ndarray:
    """Returns row and column of the middle of grid cells, ``[..., 2]``.

    Args:
        cells: Cells (x, y), int ``[..., 2]``; (0, 0) is at the lower left.
        height: Height of the grid, in cells.
    """
    cells = np.asarray(cells)
    rows = (height - 1 - cells[..., 1]) * CELL_PIXELS + CELL_PIXELS // 2
    return np.stack([rows, cells[..., 0] * CELL_PIXELS + CELL_PIXELS // 2], axis=-1)


def paint_cells(pictures: np.ndarray, cells: Any, colour: Colour) -> np.ndarray:
    """Fills one cell of each grid picture, up to its lines.

    Args:
        pictures: Pictures from :func:`grid_pictures`.
        cells: Cells (x, y), int ``[N, 2]``, or ``[2]`` for all.
        colour: Red, green and blue.
    """
    num, height, width, _ = pictures.shape
    middles = np.broadcast_to(cell_pixels(cells, height // CELL_PIXELS), (num, 2))
    reach = CELL_PIXELS // 2 - 2
    rows = np.abs(np.arange(height)[None, :, None] - middles[:, 0, None, None]) <= reach
    columns = np.abs(np.arange(width)[None, None, :] - middles[:, 1, None, None]) <= reach
    return np.where((rows & columns)[..., None], np.asarray(colour, dtype=np.uint8), pictures)
