"""How Meta-World's environments begin: where the goal puts objects and targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from meta_rl.physics.shared_rollout import SharedRollout

from .metaworld_models import FRAME_SKIP, ArmModel
from .metaworld_rewards import fingers

RESET_STEPS = 50  # of the environment, in which the hand gets to its first position
CLOSED_GRIP = -1.0  # the gripper opens


class Start:
    """The beginnings of ``N`` episodes, which a function of the environment arranges.

    First the hand moves for 50 steps. Then the function sets joints; :meth:`forward` measures
    anew. Measurements are of the last step until then, as Meta-World's are.

    Args:
        arm: Model of the environment.
        roll_out: Engine that computes the steps, which several batches may share.
        goals: Goals, ``[N, 3 or 6]``.
        hand: First position of the hand, ``[3]``.
        place: Positions of the body that a goal moves, ``[N, 3]``.
        more_steps: Calls of ``mj_step`` after the hand's (default: 0).
        alike: Whether the hand's way, and what settles meanwhile, are the same for all goals.

    Attributes:
        physics: States, ``[N, nstate]``.
        measured: Measurements, ``[N, M]``.
        target: Position that the object or the hand has to get to, ``[N, 3]``.
        object: First position of the object, ``[N, 3]``.
        tcp: First centre of the fingers, ``[N, 3]``.
        more: Further values that the reward needs, ``[N, 3]``.
    """

    def __init__(
        self,
        arm: ArmModel,
        roll_out: SharedRollout,
        goals: np.ndarray,
        hand: np.ndarray,
        place: np.ndarray,
        more_steps: int = 0,
        *,
        alike: bool = False,
    ) -> None:
        self.arm, self._roll_out, self.goals, self.place = arm, roll_out, goals, place
        self._controls = arm.controls(CLOSED_GRIP, np.tile(hand, (len(goals), 1)), place)
        num_steps = RESET_STEPS * FRAME_SKIP
        self._settle(num_steps, alike=alike)
        self.tcp = fingers(self.measured, arm.places)
        if more_steps:  # they belong to one rollout, whose solver continues from step to step
            self._settle(num_steps + more_steps, alike=alike)
        self.target = self.object = self.more = np.zeros((len(goals), 3))

    def _settle(self, num_steps: int, *, alike: bool) -> None:
        """Moves the hand; measurements are those before the last call of ``mj_step``."""
        chosen = self._controls[:1] if alike else self._controls
        before, after = self.arm.settle(self._roll_out, chosen, num_steps)
        num = len(self.goals)
        before, self.physics = (np.resize(part, (num, part.shape[1])) for part in (before, after))
        self.measured = self.arm.measure(self._roll_out, before, self._controls)

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a measurement, ``[N, size]``."""
        return self.measured[:, self.arm.places[name]]

    @property
    def first(self) -> np.ndarray:
        """The first three numbers of the goals: mostly the object's position."""
        return self.goals[:, :3]

    @property
    def last(self) -> np.ndarray:
        """The last three numbers of the goals: mostly the target."""
        return self.goals[:, -3:]

    def forward(self) -> None:
        """Measures the current state."""
        self.measured = self.arm.measure(self._roll_out, self.physics, self._controls)

    def set_joints(self, begin: int, values: Any, still: slice | None = None) -> None:
        """Sets positions of joints from a place on, and measures.

        Args:
            begin: First place in the positions.
            values: Positions, ``[N, size]`` or ``[size]``.
            still: Places in the velocities that become 0 (default: none).
        """
        model = self.arm.model
        size = np.shape(values)[-1]
        self.physics[:, 1 + begin : 1 + begin + size] = values
        if still is not None:
            velocities = self.physics[:, 1 + model.nq : 1 + model.nq + model.nv]
            velocities[:, still] = 0.0
        self.forward()

    def set_object(self, position: np.ndarray, begin: int = 9) -> None:
        """Sets the position of the object, which moves freely."""
        self.set_joints(begin, position, slice(9, 15))

    def set_slide(self, position: float) -> None:
        """Sets the only joint of the object."""
        self.set_joints(9, [position], slice(9, 10))


Arrange = Callable[[Start], None]


def at(point: np.ndarray, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Returns points, ``[N, 3]``, shifted by an offset in m."""
    return point + np.array([x, y, z])


def level(point: np.ndarray, height: Any) -> np.ndarray:
    """Returns points, ``[N, 3]``, at another height."""
    points = np.array(point, dtype=np.float64)
    points[:, 2] = height
    return points


def as_given(start: Start) -> None:
    """The goal has the positions of the object and the target."""
    start.object, start.target = start.first, start.last
    start.set_object(start.object)


def at_height_of(name: str) -> Arrange:
    """Object and target are at the height that the object has settled at."""

    def arrange(start: Start) -> None:
        height = start[name][:, 2]
        start.object, start.target = level(start.first, height), level(start.last, height)
        start.set_object(start.object)

    return arrange


def at_height(height: float) -> Arrange:
    """The object is at a height, and the target as given."""

    def arrange(start: Start) -> None:
        start.object, start.target = level(start.first, height), start.last
        start.set_object(start.object)

    return arrange


def basketball(start: Start) -> None:
    """The basket's place is the goal's; its ring is the target."""
    start.object = level(start.first, np.float32(0.03))
    start.set_object(start.object)
    start.target = start["site:goal"]


def bin_picking(start: Start) -> None:
    """The block is in the first bin, at the height that it has settled at."""
    start.object = level(start.first, start["body:obj"][:, 2])
    start.set_object(start.object)
    start.target = start["body:bin_goal"]


def button(axis: int, *, set_joint: bool) -> Arrange:
    """A box with a button; its hole is the target."""

    def arrange(start: Start) -> None:
        start.object = start.goals
        if set_joint:
            start.set_slide(0.0)
        else:
            start.forward()
        start.target = start["site:hole"]
        travel = np.abs(start.target[:, axis] - start["site:buttonStart"][:, axis])
        start.more = np.repeat(travel[:, None], 3, axis=1)

    return arrange


def coffee_button(start: Start) -> None:
    """A machine with a mug in it."""
    start.object = start.goals
    start.set_object(at(start.goals, y=-0.22), begin=0)
    start.target = at(at(start.goals, 0.0, -0.22, 0.3), y=0.03)


def coffee_mug(start: Start) -> None:
    """A mug, and a target for it."""
    start.object, start.target = start.first, start.last
    start.set_object(start.object, begin=0)


def dial_turn(start: Start) -> None:
    """A dial, which is pushed at its rim."""
    start.object, start.target = start.goals, at(start.goals, 0.0, 0.03, 0.03)
    start.more = at(dial(start.measured, start.arm.places), 0.05, 0.02, 0.09)


def dial(measured: np.ndarray, places: dict[str, slice]) -> np.ndarray:
    """Returns the position of the mark at the dial's rim, ``[N, 3]``."""
    angle = measured[:, places["joint:knob_Joint_1"]][:, 0]
    rim = np.stack([np.sin(angle), -np.cos(angle), np.zeros_like(angle)], axis=1)
    mark: np.ndarray = measured[:, places["body:dial"]] + 0.05 * rim
    return mark


def disassemble(start: Start) -> None:
    """A nut on a peg; it has to get above it."""
    start.object, start.target = start.first, at(start.first, z=0.15)
    start.set_object(start.object)


def door(angle: float, x: float, y: float) -> Arrange:
    """A door at an angle in radians, and a target at an offset from its hinge in m."""

    def arrange(start: Start) -> None:
        start.object, start.target = start.goals, at(start.goals, x, y)
        joint = start.arm.model.joint("doorjoint")
        velocity = int(joint.dofadr[0])
        start.set_joints(int(joint.qposadr[0]), [angle], slice(velocity, velocity + 1))

    return arrange


def door_lock(start: Start) -> None:
    """An unlocked door."""
    start.object = start["body:lock_link"]
    start.target = at(start.object, 0.0, -0.04, -0.1)


def door_unlock(start: Start) -> None:
    """A locked door."""
    start.set_slide(1.5708)
    start.object = start["body:lock_link"]
    start.target = at(start.object, 0.1, -0.04)


def drawer_close(start: Start) -> None:
    """An open drawer."""
    start.target = at(start.goals, 0.0, -0.16, 0.09)
    start.set_joints(9, [-0.15])
    start.object = at(start["body:drawer_link"], 0.0, -0.16, 0.05)


def drawer_open(start: Start) -> None:
    """A closed drawer."""
    start.object, start.target = start.goals, at(start.goals, 0.0, -0.16 - 0.2, 0.09)


def faucet(x: float, *, measure: bool) -> Arrange:
    """A faucet, and a target at a distance along x in m."""

    def arrange(start: Start) -> None:
        start.object, start.target = start.goals, at(start.goals, x, 0.0, 0.125)
        if measure:
            start.forward()

    return arrange


def hammer(start: Start) -> None:
    """A hammer at the goal's position, and a box with a nail at a fixed one."""
    start.target, start.object = start["site:goal"].copy(), start.goals
    start.set_object(start.object)


def handle(position: float, target: str) -> Arrange:
    """A handle at a position of its joint, and a site that is its target."""

    def arrange(start: Start) -> None:
        start.object = start.goals
        start.set_slide(position)
        start.target = start[target]
        if "site:handleStart" in start.arm.places:
            start.more = start["site:handleStart"]
        if "site:handleCenter" in start.arm.places:
            start.object = start["site:handleCenter"]

    return arrange


def lever_pull(start: Start) -> None:
    """A lever that points to the robot."""
    start.object = start.goals
    start.more = at(start.goals, 0.12, -0.2, 0.25)
    start.target = at(start.goals, 0.12, 0.0, 0.25 + 0.2)


def peg_insert_side(start: Start) -> None:
    """A peg, and a box with a hole."""
    start.object, start.target = start.first, at(start.last, 0.03, 0.0, 0.13)
    start.more = start["site:pegHead"].copy()  # before the peg is put to its place
    start.set_object(start.object)


def peg_unplug_side(start: Start) -> None:
    """A plug in a socket."""
    plug = at(start.goals, 0.044, 0.0, 0.131)
    upright = np.tile([1.0, 0.0, 0.0, 0.0], (len(plug), 1))
    start.set_joints(9, np.concatenate([plug, upright], axis=1), slice(9, 12))
    start.object, start.target = start["site:pegEnd"], at(plug, 0.15)


def plate(x: float, y: float) -> Arrange:
    """A plate that is displaced from its first position, in m."""

    def arrange(start: Start) -> None:
        start.object, start.target = start.first, start.last
        start.set_joints(9, [x, y])

    return arrange


def shelf_place(start: Start) -> None:
    """A block, and a shelf, whose site is the target."""
    start.object = level(start.first, start["body:obj"][:, 2])
    model = start.arm.model
    start.target = model.site("goal").pos + start.place
    start.set_object(start.object)


def stick_pull(start: Start) -> None:
    """A stick, and a thermos at a fixed position."""
    start.more, start.target = level(start.first, 0.02), level(start.last, 0.02)
    _set_stick(start, [0.0, 0.09])


def stick_push(start: Start) -> None:
    """A stick, and a thermos at a fixed position, whose height is the target's."""
    start.more = level(start.first, 0.02)
    start.target = level(start.last, start["site:insertion"][:, 2])
    _set_stick(start, [0.0, 0.0])


def _set_stick(start: Start, thermos: list[float]) -> None:
    start.set_object(start.more)
    start.set_joints(16, thermos, slice(16, 18))
    start.object = start["body:object"]


def sweep(start: Start) -> None:
    """A block, which has to get to the edge of the table."""
    start.object = level(start.goals, 0.02)
    start.target = np.repeat([[0.5, 0.0, 0.01]], len(start.goals), axis=0)
    start.target[:, 1] = start.goals[:, 1]
    start.set_object(start.object)


def sweep_into(start: Start) -> None:
    """A block, and a hole at a fixed position."""
    start.object = level(start.first, start["body:obj"][:, 2])
    start.target = np.repeat([[0.0, 0.84, 0.02]], len(start.goals), axis=0)
    start.set_object(start.object)


def window(position: float, x: float, name: str, handle_x: float) -> Arrange:
    """A window at a position of its joint; offsets of the target and the handle along x in m."""

    def arrange(start: Start) -> None:
        start.object, start.target = start.goals, at(start.goals, x)
        start.more = at(start[name], handle_x)
        joint = 1 + start.arm.joints("window_slide")
        start.physics[:, joint] = position  # measured with the first step only

    return arrange
