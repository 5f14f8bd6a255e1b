"""Meta-World's rewards (version 2) for pegs, nuts, sticks, a hammer and a lid."""

from __future__ import annotations

import numpy as np

from .metaworld_object_rewards import RADIUS, UPRIGHT
from .metaworld_rewards import (
    Outcome,
    Step,
    alignment,
    both,
    cage,
    distance,
    floor_of_funnel,
    tolerance,
)


def _grasp_of_handle(step: Step, half_length: float, **density: float | bool) -> np.ndarray:
    """The reward for grasping a handle along x, anywhere within half its length."""
    handle = step.object.copy()
    along = np.abs(step.object[:, 0] - step.hand[:, 0]) < half_length
    handle[:, 0] = np.where(along, step.hand[:, 0], step.object[:, 0])
    return cage(step, handle, radius=0.015, pad_reach=0.02, height=0.01, **density)  # type: ignore[arg-type]


def _of_parts(
    reward: np.ndarray,
    success: np.ndarray,
    ready: np.ndarray,
    grasped: np.ndarray,
    in_place: np.ndarray,
) -> Outcome:
    """The outcome of environments that report no distance."""
    return Outcome(reward, success, ready, grasped >= 0.5, grasped, in_place, 0.0)


def assembly(step: Step) -> Outcome:
    """The nut is put over a peg."""
    centre = step["site:RoundNut"]
    error = step.target - centre
    radius = distance(step.target, centre, (1.0, 1.0, 0.0))
    success = (radius < 0.02) & (error[:, 2] > 0.0)
    rim = np.where(success, 0.02, 0.01)
    height = floor_of_funnel(radius, rim, 0.02, 0.2)
    error[:, 2] = height - centre[:, 2]
    lifted = (centre[:, 2] > 0.02) | (radius < rim)
    near = tolerance(distance(error, 0.0, (1.0, 1.0, 3.0)), 0.02, 0.4)
    in_place = 0.1 * lifted + 0.9 * near
    upright = alignment(step, UPRIGHT, 0.4)
    grasped = _grasp_of_handle(step, 0.01, reach=0.01)
    reward = np.where(success, 10.0, (2.0 * grasped + 6.0 * in_place) * upright)
    return _of_parts(reward, success, upright, grasped, in_place)


def disassemble(step: Step) -> Outcome:
    """The nut is taken from a peg."""
    centre = step["site:RoundNut"]
    near = tolerance(distance(step.target + np.array([0.0, 0.0, 0.1]), centre), 0.02, 0.2)
    in_place = 0.1 * (centre[:, 2] > 0.02) + 0.9 * near
    upright = alignment(step, UPRIGHT, 0.4)
    grasped = _grasp_of_handle(step, 0.01, denser=True)
    success = step.object[:, 2] > step.target[:, 2]
    reward = np.where(success, 10.0, (2.0 * grasped + 6.0 * in_place) * upright)
    return _of_parts(reward, success, upright, grasped, in_place)


def hammer(step: Step) -> Outcome:
    """The hammer drives a nail into a box."""
    head = step.object + np.array([0.16, 0.06, 0.0])
    near = tolerance(distance(step.target, head), 0.02, 0.2)
    in_place = 0.1 * (head[:, 2] > 0.02) + 0.9 * near
    level = alignment(step, (1.0, 0.0, 0.0, 0.0), 0.4)
    grasped = _grasp_of_handle(step, 0.07, denser=True)
    reward = (2.0 * grasped + 6.0 * in_place) * level
    success = step["joint:NailSlideJoint"][:, 0] > 0.09
    reward = np.where(success & (reward > 5.0), 10.0, reward)
    return _of_parts(reward, success, level, grasped, in_place)


def box_close(step: Step) -> Outcome:
    """The lid is put onto a box."""
    grasped = (step.action[:, 3].clip(-1.0, 1.0) + 1.0) / 2.0
    lid = step.object + np.array([0.0, 0.0, 0.02])
    radius = distance(step.hand, lid, (1.0, 1.0, 0.0))
    floor = floor_of_funnel(radius, 0.02, 0.04, 0.4)
    height = step.hand[:, 2]
    above = np.where(height >= floor, 1.0, tolerance(floor - height, 0.01, floor / 2.0))
    ready = both(above, tolerance(distance(step.hand, lid), 0.02, 0.5))
    near = tolerance(distance(step.target, lid, (1.0, 1.0, 3.0)), 0.05, 0.25)
    lifted = 0.2 * (lid[:, 2] > 0.04) + 0.8 * near
    success = distance(step.object, step.target) < 0.08
    reward = np.where(success, 10.0, 2.0 * both(grasped, ready) + 8.0 * lifted)
    reward = reward * alignment(step, UPRIGHT, 0.2)
    return _of_parts(reward, success, ready, grasped, lifted)


def peg_insert_side(step: Step) -> Outcome:
    """The peg is put into a hole from the side."""
    head, scale = step["site:pegHead"], (1.0, 2.0, 2.0)
    away = distance(head, step.target, scale)
    in_place = tolerance(away, 0.07, distance(step.more, step.target, scale))
    free = [
        _outside(
            head,
            step[f"site:bottom_right_corner_collision_box_{box}"],
            step[f"site:top_left_corner_collision_box_{box}"],
        )
        for box in (1, 2)
    ]
    in_place = both(in_place, both(*free))
    to_peg = distance(step.object, step.tcp)
    grasped = cage(step, step.object, radius=0.0075, pad_reach=0.03, height=0.005, denser=True)
    lifted = (step.opened > 0) & (step.object[:, 2] - 0.01 > step.object_first[:, 2])
    held = lifted & (to_peg < 0.08)
    grasped = np.where(held, 1.0, grasped)
    reward = both(grasped, in_place) + np.where(held, 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away <= 0.07, 10.0, reward)
    grasp_success = lifted & (to_peg < 0.02)
    return Outcome(reward, away <= 0.07, to_peg <= 0.03, grasp_success, grasped, in_place, away)


def _outside(point: np.ndarray, zero: np.ndarray, one: np.ndarray) -> np.ndarray:
    """1 outside a box, and inside it the product of the shares of the way between two corners."""
    low, high = np.minimum(zero, one), np.maximum(zero, one)
    inside = ((low <= point) & (point <= high)).all(axis=1)
    width = np.where(one == zero, 1.0, one - zero)
    return np.where(inside, ((point - zero) / width).prod(axis=1), 1.0)


def peg_unplug_side(step: Step) -> Outcome:
    """The plug is pulled out of a socket."""
    away = distance(step.object, step.target)
    to_plug = distance(step.object, step.tcp)
    grasped = cage(step, step.object, radius=0.025, height=0.005, effort=0.8, denser=True)
    in_place = tolerance(away, RADIUS, distance(step.object_first, step.target))
    pulled = (step.opened > 0.5) & (step.object[:, 0] - step.object_first[:, 0] > 0.015)
    more = np.where(pulled & (to_plug < 0.035), 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away <= RADIUS, 10.0, 2 * grasped + more)
    return Outcome(reward, away <= 0.07, to_plug <= 0.03, pulled, grasped, in_place, away)


def _stick_grasp(step: Step, stick: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the fingers from the stick, and where it is held."""
    to_stick = distance(stick, step.tcp)
    held = (to_stick < 0.02) & (step.opened > 0) & (stick[:, 2] - 0.01 > step.more[:, 2])
    return to_stick, held


def stick_push(step: Step) -> Outcome:
    """A stick pushes a thermos to the target."""
    stick, container = step.object + np.array([0.015, 0.0, 0.0]), step.second_object
    radius = 0.12
    to_stick, held = _stick_grasp(step, stick)
    margin = distance(step.more, step.target) - radius
    stick_in_place = tolerance(distance(stick, step.target), radius, margin)
    away = distance(container, step.target)
    margin = distance(step.object_first, step.target) - radius
    in_place = tolerance(away, radius, margin)
    grasped = cage(step, stick, radius=0.04, height=0.01, first=step.more, denser=True)
    more = np.where(away <= radius, 10.0, 2.0 + 5.0 * stick_in_place + 3.0 * in_place)
    reward = np.where(held, more, grasped)
    lifted = step.touched & (step.opened > 0)
    lifted &= step.object[:, 2] - 0.01 > step.more[:, 2]
    success = lifted & (away <= 0.12)
    near, grasped = to_stick <= 0.03, np.where(held, 1.0, grasped)
    return Outcome(reward, success, near, lifted, grasped, stick_in_place, away)


def stick_pull(step: Step) -> Outcome:
    """A stick pulls a thermos by its handle to the target."""
    stick, handle, end = step.object, step.second_object, step["site:stick_end"]
    offset, scale = np.array([0.05, 0.0, 0.0]), (1.0, 1.0, 2.0)
    to_stick, held = _stick_grasp(step, stick)
    margin = distance(step.more, step.object_first + offset, scale)
    inserting = tolerance(distance(stick, handle + offset, scale), RADIUS, margin)
    pulled = tolerance(distance(stick, step.target), RADIUS, distance(step.more, step.target))
    in_place = tolerance(
        distance(handle + offset, step.target), RADIUS, distance(step.object_first, step.target)
    )
    away = distance(handle, step.target)
    grasped = cage(step, stick, radius=0.014, height=0.01, denser=True)
    grasped = np.where(held, 1.0, grasped)
    inserted = (end[:, 0] >= handle[:, 0]) & (np.abs(end[:, 1] - handle[:, 1]) <= 0.04)
    inserted &= np.abs(end[:, 2] - handle[:, 2]) <= 0.06
    base = both(grasped, inserting)
    more = np.where(inserted, 5.0 + 2.0 * pulled + in_place, 5.0 * inserting)
    reward = base + np.where(held, 1.0 + more, 0.0)
    reward = np.where(held & inserted & (away <= 0.12), 10.0, reward)
    lifted = step.touched & (step.opened > 0) & (stick[:, 2] - 0.02 > step.object_first[:, 2])
    success = inserted & (away <= 0.12)
    return Outcome(reward, success, to_stick <= 0.03, lifted, grasped, inserting, away)
