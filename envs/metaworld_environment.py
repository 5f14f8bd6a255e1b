"""What is known of each of Meta-World's environments: a row of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .metaworld_rewards import Reward
from .metaworld_starts import Arrange

Triple = tuple[float, float, float]


class Seen(NamedTuple):
    """What an observation shows of an object: position and rotation.

    Attributes:
        position: Name of a measurement.
        rotation: Name of a measurement: ``quat:...``, or ``axes:...``, whose quaternion has its
            real part last; ``"unit"``: (1, 0, 0, 0); ``None``: zeros.
        offset: Offset from the position, in m.
    """

    position: str
    rotation: str | None = None
    offset: Triple = (0.0, 0.0, 0.0)


class Environment(NamedTuple):
    """One of Meta-World's environments.

    Attributes:
        file: Name of its model's file.
        seen: Objects in the observation.
        arrange: Function that arranges the first states.
        reward: Its reward.
        moved: Body that a goal moves, if there is one.
        place: Function of the goals, ``[N, 3 or 6]``, that gives its positions, ``[N, 3]``.
        hand: First position of the hand, in m.
        low: Lowest position that the hand is drawn to; the highest is the same for all.
        also: Further measurements.
        touched: Geom whose contact with both pads counts for ``grasp_success``.
        apart: Least distance of the object's first position and the target in the plane, in m.
        apart_from: That target, if it is not the goal's.
        more_steps: Calls of ``mj_step`` after the hand has moved to its first position.
        settles_alike: Whether goals do not change how the hand moves there, and how objects settle.
    """

    file: str
    seen: tuple[Seen, ...]
    arrange: Arrange
    reward: Reward
    moved: str | None = None
    place: Callable[[np.ndarray], np.ndarray] | None = None
    hand: Triple = (0.0, 0.6, 0.2)
    low: Triple = (-0.5, 0.4, 0.05)
    also: tuple[str, ...] = ()
    touched: str | None = None
    apart: float = 0.0
    apart_from: tuple[float, float] | None = None
    more_steps: int = 0
    settles_alike: bool = True

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of all measurements, besides those of the arm."""
        shown = [(seen.position, seen.rotation) for seen in self.seen]
        names = [name for pair in shown for name in pair if name and ":" in name]
        return (*names, *self.also)


HIGH: Triple = (0.5, 1.0, 0.5)
