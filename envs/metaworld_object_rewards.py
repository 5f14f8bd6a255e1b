"""Meta-World's rewards (version 2) for objects that are reached, pushed and carried."""

from __future__ import annotations

import numpy as np

from .metaworld_rewards import (
    Outcome,
    Step,
    both,
    cage,
    cage_of_live_pads,
    distance,
    floor_of_funnel,
    squeeze,
    tolerance,
)

UPRIGHT = (0.707, 0.0, 0.0, 0.707)
RADIUS = 0.05  # of most targets, in m


def _in_place(step: Step, radius: float = RADIUS) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the object from the target, and its tolerance from the first distance on."""
    away = distance(step.object, step.target)
    margin = distance(step.object_first, step.target)
    return away, tolerance(away, radius, margin)


def _lifted_by_touch(step: Step, height: float = 0.02) -> np.ndarray:
    return step.touched & (step.opened > 0) & (step.object[:, 2] - height > step.object_first[:, 2])


def _held(step: Step, near: float, height: float = 0.01) -> np.ndarray:
    """Where the fingers are near the object, open, and the object is above its first height."""
    lifted = step.object[:, 2] - height > step.object_first[:, 2]
    return (distance(step.object, step.tcp) < near) & (step.opened > 0) & lifted


def _near(step: Step, within: float = 0.03) -> np.ndarray:
    return distance(step.object, step.tcp) <= within


def reach(step: Step) -> Outcome:
    """The hand gets to the target."""
    away = distance(step.tcp, step.target)
    in_place = tolerance(away, RADIUS, distance(step.hand_first, step.target))
    return Outcome(10 * in_place, away <= RADIUS, away, 1.0, away, in_place, away)


def reach_wall(step: Step) -> Outcome:
    """The hand gets to the target, behind a wall."""
    outcome = reach(step)
    return outcome._replace(near_object=0.0, grasp_success=0.0, grasp_reward=0.0)


def push(step: Step) -> Outcome:
    """The puck is pushed to the target."""
    away, in_place = _in_place(step)
    grasped = cage(step, step.object, radius=0.015, height=0.005, denser=True)
    held = (distance(step.object, step.tcp) < 0.02) & (step.opened > 0)
    reward = 2 * grasped + np.where(held, 1.0 + 2 * grasped + 5.0 * in_place, 0.0)
    reward = np.where(away < RADIUS, 10.0, reward)
    success = away <= RADIUS
    lifted = _lifted_by_touch(step)
    return Outcome(reward, success, _near(step), lifted, grasped, in_place, away)


def push_wall(step: Step) -> Outcome:
    """The puck is pushed to the target, around a wall."""
    midpoint = np.stack([np.full(len(step.object), -0.05)] * 3, axis=1)
    midpoint[:, 1], midpoint[:, 2] = 0.77, step.object[:, 2]
    scale = (3.0, 1.0, 1.0)
    half_way = tolerance(
        distance(step.object, midpoint, scale),
        RADIUS,
        distance(step.object_first, midpoint, scale),
    )
    away, in_place = _in_place(step)
    grasped = cage(step, step.object, radius=0.015, height=0.005, denser=True)
    held = (distance(step.object, step.tcp) < 0.02) & (step.opened > 0)
    behind = step.object[:, 1] > 0.75
    more = np.where(behind, 1.0 + 4.0 + 3.0 * in_place, 1.0 + 4.0 * half_way)
    reward = np.where(away < RADIUS, 10.0, 2 * grasped + np.where(held, more, 0.0))
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def push_back(step: Step) -> Outcome:
    """The puck is pulled to the target, which is nearer to the robot."""
    away, in_place = _in_place(step)
    grasped = squeeze(step, 0.007, 0.003, 0.01)
    held = (distance(step.object, step.tcp) < 0.01) & (step.opened > 0) & (step.opened < 0.55)
    held &= distance(step.object_first, step.target) - away > 0.01
    reward = both(grasped, in_place) + np.where(held, 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away < RADIUS, 10.0, reward)
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def pick_place(step: Step) -> Outcome:
    """The puck is carried to the target."""
    away, in_place = _in_place(step)
    around = cage_of_live_pads(step, 0.015, 0.005)
    grasped = (both(around, np.where(around > 0.97, step.closing, 0.0)) + around) / 2
    held = np.where(_held(step, 0.02), 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away < RADIUS, 10.0, both(grasped, in_place) + held)
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def pick_place_wall(step: Step) -> Outcome:
    """The puck is carried to the target, over a wall."""
    midpoint = step.target.copy()
    midpoint[:, 1:] = 0.77, 0.25
    scale = (1.0, 1.0, 3.0)
    half_way = tolerance(
        distance(step.object, midpoint, scale),
        RADIUS,
        distance(step.object_first, midpoint, scale),
    )
    away, in_place = _in_place(step)
    grasped = cage(step, step.object, radius=0.015, height=0.005)
    behind = step.object[:, 1] > 0.75
    more = np.where(behind, 1.0 + 4.0 + 3.0 * in_place, 1.0 + 4.0 * half_way)
    reward = both(grasped, half_way) + np.where(_held(step, 0.02, 0.015), more, 0.0)
    reward = np.where(away < RADIUS, 10.0, reward)
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def pick_out_of_hole(step: Step) -> Outcome:
    """The puck is carried out of a hole to the target."""
    away = distance(step.object, step.target)
    in_place = tolerance(away, 0.02, distance(step.object_first, step.target))
    radius = distance(step.tcp, step.object_first, (1.0, 1.0, 0.0))
    floor = floor_of_funnel(radius, 0.03, 0.015, 0.15)
    below = (floor - step.tcp[:, 2]).clip(0.0)
    above = np.where(step.tcp[:, 2] >= floor, 1.0, tolerance(below, 0.01, 0.02))
    grasped = cage(
        step, step.object, radius=0.015, pad_reach=0.02, height=0.03, effort=0.1, denser=True
    )
    lifted = (distance(step.object, step.tcp) < 0.04) & (step.opened >= 0.33)
    lifted &= step.object[:, 2] - 0.02 > step.object_first[:, 2]
    more = np.where(lifted, 1.0 + 5.0 * both(in_place, above), 0.0)
    reward = np.where(away < RADIUS, 10.0, both(grasped, in_place) + more)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def hand_insert(step: Step) -> Outcome:
    """The hand and the block get into a hole."""
    away, in_place = _in_place(step)
    grasped = cage(step, step.object, radius=0.015, height=0.005, denser=True)
    held = (distance(step.object, step.tcp) < 0.02) & (step.opened > 0)
    reward = both(grasped, in_place) + np.where(held, 1.0 + 7.0 * in_place, 0.0)
    reward = np.where(away < RADIUS, 10.0, reward)
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.05, _near(step), lifted, grasped, in_place, away)


def basketball(step: Step) -> Outcome:
    """The ball is carried into the basket."""
    target, scale = step.target.copy(), (1.0, 1.0, 2.0)
    target[:, 2] = 0.3
    away = distance(step.object, target, scale)
    in_place = tolerance(away, 0.08, distance(step.object_first, target, scale))
    grasped = cage(step, step.object, radius=0.025, pad_reach=0.06, height=0.005, denser=True)
    held = _held(step, 0.035)
    grasped = np.where(held, 1.0, grasped)
    reward = both(grasped, in_place) + np.where(held, 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away < 0.08, 10.0, reward)
    lifted = (step.opened > 0) & (step.object[:, 2] - 0.03 > step.object_first[:, 2])
    return Outcome(reward, away <= 0.08, _near(step, 0.05), lifted, grasped, in_place, away)


def bin_picking(step: Step) -> Outcome:
    """The block is carried from one bin to the other."""
    away = distance(step.object, step.target)
    in_place = tolerance(away, RADIUS, step.first_distance)
    floors = [
        floor_of_funnel(distance(step.hand, centre, (1.0, 1.0, 0.0)), 0.03, 0.02, 0.2)
        for centre in (step.object_first, step.target)
    ]
    floor = np.minimum(*floors)
    below = (floor - step.hand[:, 2]).clip(0.0)
    above = np.where(step.hand[:, 2] >= floor, 1.0, tolerance(below, 0.01, 0.05))
    grasped = cage(step, step.object, radius=0.015, height=0.01, effort=0.7, denser=True)
    near = distance(step.object, step.hand) < 0.04
    lifted = near & (step.object[:, 2] - 0.02 > step.object_first[:, 2]) & (step.opened >= 0.43)
    more = np.where(lifted, 1.0 + 5.0 * both(above, in_place), 0.0)
    reward = np.where(away < RADIUS, 10.0, both(grasped, in_place) + more)
    return Outcome(reward, away <= 0.05, near, lifted, grasped, in_place, away)


def shelf_place(step: Step) -> Outcome:
    """The block is carried onto a shelf."""
    away, in_place = _in_place(step)
    grasped = cage(step, step.object, radius=0.02, height=0.01)
    reward = both(grasped, in_place)
    x, y, z = step.object.T
    front = step.target[:, 1] - 3 * RADIUS
    below = (z > 0.0) & (z < 0.24) & (np.abs(x - step.target[:, 0]) < 0.15)
    before = below & (front < y) & (y < step.target[:, 1])
    blocked = both((y - front).clip(0.0) / (3 * RADIUS), (0.24 - z).clip(0.0) / 0.24)
    in_place = np.where(before, (in_place - blocked).clip(0.0, 1.0), in_place)
    in_place = np.where(below & (y > step.target[:, 1]), 0.0, in_place)
    reward = reward + np.where(_held(step, 0.025), 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away < RADIUS, 10.0, reward)
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def soccer(step: Step) -> Outcome:
    """The ball is pushed into the goal."""
    scale = (3.0, 1.0, 1.0)
    scaled = distance(step.object, step.target, scale)
    in_place = tolerance(scaled, 0.07, distance(step.object, step.object_first, scale))
    line = step.target[:, 1] - 0.1
    beside = np.abs(step.object[:, 0] - step.target[:, 0]) > 0.1
    beyond = step.object[:, 1] - line
    missed = (in_place - 2 * (beyond / (1 - line))).clip(0.0, 1.0)
    in_place = np.where((beyond > 0) & beside, missed, in_place)
    grasped = squeeze(step, 0.013, 0.01, 0.005)
    reward = np.where(scaled < 0.07, 10.0, 3 * grasped + 6.5 * in_place)
    away = distance(step.object, step.target)
    lifted = _lifted_by_touch(step)
    return Outcome(reward, away <= 0.07, _near(step), lifted, grasped, in_place, away)


def _sweep(step: Step, target: np.ndarray, slack: float, height: float) -> Outcome:
    away = distance(step.object, target)
    in_place = tolerance(away, RADIUS, distance(step.object_first, target))
    grasped = squeeze(step, 0.02, slack, height)
    reward = np.where(away < RADIUS, 10.0, 2 * grasped + 6 * both(grasped, in_place))
    touched = step.touched & (step.opened > 0)
    return Outcome(reward, away <= RADIUS, _near(step), touched, grasped, in_place, away)


def sweep(step: Step) -> Outcome:
    """The block is swept off the table."""
    return _sweep(step, step.target, 0.01, 0.005)


def sweep_into(step: Step) -> Outcome:
    """The block is swept into a hole."""
    target = step.target.copy()
    target[:, 2] = step.object[:, 2]
    return _sweep(step, target, 0.005, 0.01)


def coffee_mug(step: Step) -> Outcome:
    """The mug is pushed, or pulled, to the target."""
    scale = (2.0, 2.0, 1.0)
    scaled = distance(step.object, step.target, scale)
    in_place = tolerance(scaled, RADIUS, distance(step.object_first, step.target, scale))
    grasped = cage(step, step.object, radius=0.02, height=0.05, effort=0.7, reach=0.04)
    held = (distance(step.object, step.tcp) < 0.04) & (step.opened > 0)
    reward = both(grasped, in_place) + np.where(held, 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(scaled < RADIUS, 10.0, reward)
    away = distance(step.object, step.target)
    touched = step.touched & (step.opened > 0)
    return Outcome(reward, away <= 0.07, _near(step), touched, grasped, in_place, away)


def plate_slide(step: Step) -> Outcome:
    """The plate slides into the cabinet."""
    away, in_place = _in_place(step)
    to_plate = distance(step.tcp, step.object)
    grasped = tolerance(to_plate, RADIUS, distance(step.tcp_first, step.object_first))
    reward = np.where(away < RADIUS, 10.0, 8 * both(grasped, in_place))
    return Outcome(reward, away <= 0.07, _near(step), 0.0, grasped, in_place, away)


def plate_slide_on_table(step: Step) -> Outcome:
    """The plate slides to the side, or back; the hand has to be low."""
    away, to_plate = distance(step.object, step.target), distance(step.tcp, step.object)
    margin = distance(step.object_first, step.target) - RADIUS
    in_place = tolerance(away, RADIUS, margin)
    margin = distance(step.tcp_first, step.object_first) - RADIUS
    grasped = tolerance(to_plate, RADIUS, margin)
    low = (step.tcp[:, 2] <= 0.03) & (to_plate < 0.07)
    reward = np.where(low, 2.0 + 7.0 * in_place, 1.5 * grasped)
    reward = np.where(away < RADIUS, 10.0, reward)
    return Outcome(reward, away <= 0.07, _near(step), 0.0, grasped, in_place, away)
