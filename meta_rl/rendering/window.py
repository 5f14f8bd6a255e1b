"""Windows for ``render_mode="human"``, and grids that join many frames to one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

LEAST_PIXELS = 400  # a whole factor enlarges frames so that their shorter side has as many


class Window(Protocol):
    """The interface of the windows that :meth:`meta_rl.TaskFuncEnv.open_window` returns."""

    def show(self, state: Any, tasks: Any) -> None:
        """Shows the first sub-environment of a batch."""

    def close(self) -> None:
        """Closes the window."""


class PictureWindow:
    """A window of pygame that shows frames.

    Args:
        frames: Function that takes the states and tasks of a batch and returns its frames; the
            first frame is shown.
        caption: Caption of the window.

    Raises:
        ImportError: pygame is not installed.
        RuntimeError: There is no screen.
    """

    def __init__(self, frames: Callable[[Any, Any], Sequence[np.ndarray]], caption: str) -> None:
        try:
            import pygame
        except ImportError as error:
            raise ImportError(
                'render_mode="human" needs pygame: pip install pygame. '
                'render_mode="rgb_array" does not'
            ) from error
        self._pygame, self._frames, self._caption = pygame, frames, caption
        try:
            pygame.display.init()
        except pygame.error as error:
            raise RuntimeError(
                f'render_mode="human" opens a window, but there is no screen ({error}). '
                'render_mode="rgb_array" needs none'
            ) from error

    def show(self, state: Any, tasks: Any) -> None:
        """Shows the first sub-environment of a batch."""
        frame = self._frames(state, tasks)[0]
        scale = -(-LEAST_PIXELS // min(frame.shape[:2]))
        enlarged = frame.repeat(scale, axis=0).repeat(scale, axis=1).swapaxes(0, 1)
        display = self._pygame.display
        screen = display.get_surface()
        if screen is None or screen.get_size() != enlarged.shape[:2]:
            screen = display.set_mode(enlarged.shape[:2])
            display.set_caption(self._caption)
        self._pygame.surfarray.blit_array(screen, enlarged)
        display.flip()
        self._pygame.event.pump()

    def close(self) -> None:
        """Closes the window."""
        self._pygame.display.quit()


def frame_grid(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Joins the frames of a batch to one picture, row by row in a grid that is nearly square.

    Args:
        frames: Frames from ``render()`` of a batch, uint8 ``[height, width, 3]`` each.

    Returns:
        uint8 ``[rows * height, columns * width, 3]``; places without a frame are black.
    """
    from stable_baselines3.common.vec_env.base_vec_env import tile_images

    return tile_images(frames)
