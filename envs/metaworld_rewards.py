"""What Meta-World's rewards are built from: measurements of a step, tolerances and grasps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

PAD_REACH = 0.05  # in m, between a pad and the centre of an object that it may grasp
VALUE_AT_MARGIN = 0.1  # of a tolerance, at the end of its margin

Shape = Literal["long_tail", "gaussian"]
Vector = Sequence[float]


class Outcome(NamedTuple):
    """Meta-World's reward and infos of a step, ``[N]`` each, by its names."""

    unscaled_reward: Any
    success: Any
    near_object: Any
    grasp_success: Any
    grasp_reward: Any
    in_place_reward: Any
    obj_to_target: Any


@dataclass
class Step:
    """A step of ``N`` copies of an environment, as its reward sees it.

    Attributes:
        seen: Current observation, clipped to its space, ``[N, 18]``.
        action: Action, not clipped, ``[N, 4]``.
        measured: Measurements, ``[N, M]``, and their columns by name.
        target: Position that the object or the hand has to get to, ``[N, 3]``.
        object_first: First position of the object, ``[N, 3]``.
        tcp_first: First centre of the fingers, ``[N, 3]``.
        more: Further values that the beginning of the episode determines, ``[N, 3]``.
        first_distance: Distance of object and target after the first step, ``[N]``.
        touched: Whether both pads touch the object, bool ``[N]``.
        hand_first: Where the hand begins, ``[3]``.
    """

    seen: np.ndarray
    action: np.ndarray
    measured: np.ndarray
    columns: dict[str, slice]
    target: np.ndarray
    object_first: np.ndarray
    tcp_first: np.ndarray
    more: np.ndarray
    first_distance: np.ndarray
    touched: np.ndarray
    hand_first: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a measurement, ``[N, size]``."""
        return self.measured[:, self.columns[name]]

    @property
    def hand(self) -> np.ndarray:
        """Position of the hand."""
        return self.seen[:, :3]

    @property
    def opened(self) -> np.ndarray:
        """Opening of the gripper, from 0 to 1."""
        return self.seen[:, 3]

    @property
    def object(self) -> np.ndarray:
        """Position of the object."""
        return self.seen[:, 4:7]

    @property
    def rotation(self) -> np.ndarray:
        """Quaternion of the object, as it is observed."""
        return self.seen[:, 7:11]

    @property
    def second_object(self) -> np.ndarray:
        """Position of the second object."""
        return self.seen[:, 11:14]

    @property
    def tcp(self) -> np.ndarray:
        """Centre of the fingers."""
        return fingers(self.measured, self.columns)

    @property
    def closing(self) -> np.ndarray:
        """Torque that closes the gripper, from 0 to 1."""
        return self.action[:, 3].clip(0.0, 1.0)

    @property
    def rise(self) -> np.ndarray:
        """Height of the object above its first position."""
        return self.object[:, 2] - self.object_first[:, 2]


Reward = Callable[[Step], Outcome]


def fingers(measured: np.ndarray, columns: dict[str, slice]) -> np.ndarray:
    """Returns the centre of the fingers, ``[N, 3]``."""
    right, left = (columns[f"site:{side}EndEffector"] for side in ("right", "left"))
    centre: np.ndarray = (measured[:, right] + measured[:, left]) / 2
    return centre


def length(vectors: np.ndarray) -> np.ndarray:
    """Returns the lengths of vectors, ``[N]``."""
    lengths: np.ndarray = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def distance(one: Any, other: Any, scale: Vector | float = 1.0) -> np.ndarray:
    """Returns the distances of points, ``[N]``, after their axes have been scaled."""
    return length((one - other) * np.asarray(scale))


def tolerance(
    value: Any,
    upper: Any,
    margin: Any,
    *,
    lower: float = 0.0,
    shape: Shape = "long_tail",
) -> np.ndarray:
    """Returns 1 between the bounds, and less the further a value is from them.

    This is dm_control's ``rewards.tolerance``: at a distance of ``margin`` the result is 0.1.

    Args:
        value: Values, ``[N]``.
        upper: Upper bound, a number or ``[N]``.
        margin: Distance from the bounds at which the result is 0.1, a number or ``[N]``; where it
            is 0, the result is 0 outside the bounds.
        lower: Lower bound (default: 0).
        shape: Decrease outside the bounds: ``"long_tail"`` (default) or ``"gaussian"``.
    """
    beyond = np.where(value < lower, lower - value, value - upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = (beyond / margin) ** 2
    if shape == "long_tail":
        outside = 1 / (squared * (1 / VALUE_AT_MARGIN - 1) + 1)
    else:
        outside = np.exp(squared * np.log(VALUE_AT_MARGIN))
    outside = np.where(np.equal(margin, 0), 0.0, outside)
    result: np.ndarray = np.where((lower <= value) & (value <= upper), 1.0, outside)
    return result


def both(one: Any, other: Any) -> np.ndarray:
    """Returns Hamacher's product of values in [0, 1]: near 1 only where both are."""
    product = one * other
    total = one + other - product
    result: np.ndarray = product / np.where(total > 0, total, 1.0)
    return result


def cage(
    step: Step,
    target: np.ndarray,
    *,
    radius: float,
    pad_reach: float = PAD_REACH,
    height: float,
    effort: float = 1.0,
    first: np.ndarray | None = None,
    reach: float | None = None,
    denser: bool = False,
) -> np.ndarray:
    """Returns the reward for having an object between the fingers, and for closing them.

    Args:
        step: The step.
        target: Position of the object, ``[N, 3]``.
        radius: Radius of the object, in m.
        pad_reach: Largest distance of a pad from the object along y, in m (default: 0.05).
        height: Largest distance of the fingers from the object in the plane of x and z, in m.
        effort: Torque that counts as closed, from 0 to 1 (default: 1).
        first: First position of the object (default: that of the step).
        reach: Largest distance of the fingers from the object, in m, whose tolerance is averaged
            with the result (default: not).
        denser: Whether the result is averaged with the part without closing (default: False).
    """
    first = step.object_first if first is None else first
    sides = []
    for pad in ("body:leftpad", "body:rightpad"):
        y = step[pad][:, 1]
        margin = np.abs(np.abs(y - first[:, 1]) - pad_reach)
        sides.append(tolerance(np.abs(y - target[:, 1]), pad_reach, margin, lower=radius))
    around = both(both(*sides), _above(step, target, first, height))
    closed = step.action[:, 3].clip(0.0, effort) / effort
    result = both(around, np.where(around > 0.97, closed, 0.0))
    if denser:
        result = (result + around) / 2
    if reach is not None:
        margin = np.abs(distance(first, step.tcp_first) - reach)
        result = (result + tolerance(distance(target, step.tcp), reach, margin)) / 2
    return result


def _above(step: Step, target: np.ndarray, first: np.ndarray, height: float) -> np.ndarray:
    """How near the fingers are to the object in the plane of x and z."""
    margin = distance(first, step.tcp_first, (1.0, 0.0, 1.0)) - height
    return tolerance(distance(step.tcp, target, (1.0, 0.0, 1.0)), height, margin)


def cage_of_live_pads(step: Step, radius: float, height: float) -> np.ndarray:
    """Returns how well an object is between the fingers; its margins follow the pads."""
    return both(both(*_pads(step, radius, PAD_REACH)), _over(step, height))


def squeeze(step: Step, radius: float, slack: float, height: float) -> np.ndarray:
    """Returns the reward for having an object between the fingers, and the pads at its sides.

    Args:
        step: The step.
        radius: Radius of the object, in m.
        slack: Distance of a pad from the object's side that counts as grasped, in m.
        height: Largest distance of the fingers from the object in the plane of x and z, in m.
    """
    around = cage_of_live_pads(step, radius, height)
    gripped = both(*_pads(step, radius, radius + slack))
    result: np.ndarray = (around + np.where(around > 0.95, gripped, 0.0)) / 2
    return result


def _pads(step: Step, radius: float, upper: float) -> list[np.ndarray]:
    y = step.object[:, 1]
    sides = []
    for pad, sign in (("body:rightpad", -1), ("body:leftpad", 1)):
        aside = step[pad][:, 1] - y
        margin = np.abs(np.abs(aside) - PAD_REACH)
        sides.append(tolerance(sign * aside, upper, margin, lower=radius))
    return sides


def _over(step: Step, height: float) -> np.ndarray:
    return _above(step, step.object, step.object_first, height)


def floor_of_funnel(radius: np.ndarray, rim: Any, steepness: float, top: float) -> np.ndarray:
    """Returns the height of a funnel around a point, 0 within its rim, ``[N]``.

    Args:
        radius: Horizontal distances from the point, ``[N]``.
        rim: Radius of the funnel's hole, in m.
        steepness: Factor of the logarithm of the distance from the rim.
        top: Height at a distance of 1 m from the rim, in m.
    """
    outside = radius > rim
    with np.errstate(divide="ignore", invalid="ignore"):
        height = steepness * np.log(np.where(outside, radius - rim, 1.0)) + top
    result: np.ndarray = np.where(outside, height, 0.0)
    return result


def alignment(step: Step, ideal: Vector, width: float) -> np.ndarray:
    """Returns 1 for the ideal quaternion, and 0 from a distance of ``width`` on."""
    result: np.ndarray = (1.0 - distance(step.rotation, np.asarray(ideal)) / width).clip(0.0)
    return result
