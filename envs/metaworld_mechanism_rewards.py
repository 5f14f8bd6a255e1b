"""Meta-World's rewards (version 2) for buttons, doors, drawers, handles and other mechanisms."""

from __future__ import annotations

import numpy as np

from .metaworld_rewards import (
    Outcome,
    Step,
    both,
    cage,
    distance,
    floor_of_funnel,
    tolerance,
)

RADIUS = 0.05  # of most targets, in m


def _button(
    step: Step,
    axis: int,
    pressed_within: float,
    *,
    margin: np.ndarray | float,
    near: float,
) -> tuple[np.ndarray, np.ndarray, Outcome]:
    """Distance of the fingers, the tolerances of reaching and pressing, in an outcome."""
    to_button = distance(step.object, step.tcp)
    away = np.abs(step.target[:, axis] - step.object[:, axis])
    reached = tolerance(to_button, near, distance(step.object, step.tcp_first))
    pressed = tolerance(away, 0.005, margin)
    outcome = Outcome(
        0.0, away <= pressed_within, to_button <= 0.05, step.opened > 0, reached, pressed, away
    )
    return to_button, pressed, outcome


def button_press(step: Step) -> Outcome:
    """A button is pressed from the front."""
    to_button, pressed, outcome = _button(step, 1, 0.02, margin=step.more[:, 0], near=0.05)
    reward = 2 * both(step.opened.clip(0.0), outcome.grasp_reward)
    return outcome._replace(unscaled_reward=reward + np.where(to_button <= 0.05, 8 * pressed, 0.0))


def coffee_button(step: Step) -> Outcome:
    """The button of a coffee machine is pressed."""
    to_button, pressed, outcome = _button(step, 1, 0.02, margin=0.03, near=0.05)
    reward = 2 * both(step.opened.clip(0.0), outcome.grasp_reward)
    return outcome._replace(unscaled_reward=reward + np.where(to_button <= 0.05, 8 * pressed, 0.0))


def button_press_wall(step: Step) -> Outcome:
    """A button is pressed from the front, behind a wall."""
    to_button, pressed, outcome = _button(step, 1, 0.03, margin=step.more[:, 0], near=0.01)
    far = 2 * both((1 - step.opened) / 2.0, outcome.grasp_reward)
    reward = np.where(to_button > 0.07, far, 2 + 2 * (1 + step.opened) + 4 * pressed**2)
    return outcome._replace(unscaled_reward=reward)


def _button_from_top(step: Step, gripper: np.ndarray) -> Outcome:
    to_button, pressed, outcome = _button(step, 2, 0.024, margin=step.more[:, 0], near=0.01)
    reward = 5 * both(gripper, outcome.grasp_reward)
    return outcome._replace(unscaled_reward=reward + np.where(to_button <= 0.03, 5 * pressed, 0.0))


def button_press_topdown(step: Step) -> Outcome:
    """A button is pressed from above."""
    return _button_from_top(step, 1 - step.opened)


def button_press_topdown_wall(step: Step) -> Outcome:
    """A button is pressed from above, behind a wall."""
    return _button_from_top(step, step.opened.clip(0.0))


def dial_turn(step: Step) -> Outcome:
    """A dial is turned."""
    radius, near = 0.07, 0.005
    away = distance(step.object, step.target)
    margin = np.abs(distance(step.more, step.target) - radius)
    in_place = tolerance(away, radius, margin)
    to_dial = distance(step.object + np.array([0.05, 0.02, 0.09]), step.tcp)
    margin = np.abs(distance(step.more, step.tcp_first) - near)
    reached = both(tolerance(to_dial, near, margin, shape="gaussian"), step.closing)
    reward = 10 * both(reached, in_place)
    return Outcome(reward, away <= radius, to_dial <= 0.01, 1.0, reached, in_place, away)


def door_close(step: Step) -> Outcome:
    """A door is closed."""
    away = distance(step.object, step.target)
    margin = distance(step.object_first, step.target)
    in_place = tolerance(away, RADIUS, margin, shape="gaussian")
    margin = distance(step.hand_first, step.object) + 0.1
    to_target = distance(step.tcp, step.target)
    hand = tolerance(to_target, 0.25 * RADIUS, margin, shape="gaussian")
    reward = np.where(away < RADIUS, 10.0, 3 * hand + 6 * in_place)
    return Outcome(reward, away <= 0.08, 0.0, 1.0, 1.0, hand, away)


def door_open(step: Step) -> Outcome:
    """A door is opened."""
    angle = step["joint:doorjoint"][:, 0]
    grasped = (step.action[:, 3].clip(-1.0, 1.0) + 1.0) / 2.0
    door = step.object + np.array([-0.05, 0.0, 0.0])
    radius = distance(step.hand, door, (1.0, 1.0, 0.0))
    floor, height = floor_of_funnel(radius, 0.12, 0.04, 0.4), step.hand[:, 2]
    above = np.where(height >= floor, 1.0, tolerance(floor - height, 0.01, floor / 2.0))
    to_handle = distance(step.hand - door, np.array([0.05, 0.03, -0.01]))
    ready = both(above, tolerance(to_handle, 0.06, 0.5))
    left = np.pi / 2 + np.pi / 6 + angle
    opened = 0.2 * (angle < -np.pi / 90) + 0.8 * tolerance(left, 0.5, np.pi / 3)
    success = np.abs(step.object[:, 0] - step.target[:, 0]) <= 0.08
    reward = np.where(success, 10.0, 2.0 * both(ready, grasped) + 8.0 * opened)
    return Outcome(reward, success, ready, grasped >= 0.5, grasped, opened, 0.0)


def door_lock(step: Step) -> Outcome:
    """A lock is turned down."""
    to_lock = distance(step.object, step["body:leftpad"], (0.25, 1.0, 0.5))
    away = np.abs(step.target[:, 2] - step.object[:, 2])
    near = tolerance(to_lock, 0.01, to_lock)
    pressed = tolerance(away, 0.005, 0.1)
    reward = 2 * both(step.opened.clip(0.0), near) + 8 * pressed
    return Outcome(reward, away <= 0.02, to_lock <= 0.05, step.opened > 0, near, pressed, away)


def door_unlock(step: Step) -> Outcome:
    """A lock is turned to the side."""
    offset, scale = np.array([0.0, 0.055, 0.07]), (0.25, 1.0, 0.5)
    to_lock = distance(step.hand + offset, step.object, scale)
    margin = distance(step.tcp_first + offset, step["body:lock_link"], scale)
    ready = tolerance(to_lock, 0.02, margin)
    away = np.abs(step.target[:, 0] - step.object[:, 0])
    pushed = tolerance(away, 0.005, 0.1)
    reward = 2 * ready + 8 * pushed
    return Outcome(reward, away <= 0.02, to_lock <= 0.05, step.opened > 0, ready, pushed, away)


def drawer_close(step: Step) -> Outcome:
    """A drawer is pushed in."""
    near = 0.005
    away = distance(step.object, step.target)
    margin = np.abs(distance(step.object_first, step.target) - RADIUS)
    in_place = tolerance(away, RADIUS, margin)
    to_handle = distance(step.object, step.tcp)
    margin = np.abs(distance(step.object_first, step.tcp_first) - near)
    reached = both(tolerance(to_handle, near, margin, shape="gaussian"), step.closing)
    success = away <= RADIUS + 0.015
    reward = 10 * np.where(success, 1.0, both(reached, in_place))
    return Outcome(reward, success, to_handle <= 0.01, 1.0, reached, in_place, away)


def drawer_open(step: Step) -> Outcome:
    """A drawer is pulled out."""
    away = distance(step.object, step.target)
    opening = tolerance(away, 0.02, 0.2)
    first, scale = step.target + np.array([0.0, 0.2, 0.0]), (3.0, 3.0, 1.0)
    margin = distance(first, step.tcp_first, scale)
    caging = tolerance(distance(step.object, step.hand, scale), 0.01, margin)
    near = distance(step.object, step.hand) <= 0.03
    reward = 5.0 * (caging + opening)
    return Outcome(reward, away <= 0.03, near, step.opened > 0, caging, opening, away)


def _faucet(step: Step, handle: np.ndarray) -> Outcome:
    radius, near = 0.07, 0.01
    away = distance(handle, step.target)
    margin = np.abs(distance(step.object_first, step.target) - radius)
    in_place = tolerance(away, radius, margin)
    to_handle = distance(handle, step.tcp)
    margin = np.abs(distance(step.object_first, step.tcp_first) - near)
    reached = tolerance(to_handle, near, margin, shape="gaussian")
    reward = np.where(away <= radius, 10.0, 2 * (2 * reached + 3 * in_place))
    return Outcome(reward, away <= radius, to_handle <= 0.01, 1.0, reached, in_place, away)


def faucet_close(step: Step) -> Outcome:
    """A faucet is turned clockwise."""
    return _faucet(step, step.object)


def faucet_open(step: Step) -> Outcome:
    """A faucet is turned anticlockwise."""
    return _faucet(step, step.object + np.array([-0.04, 0.0, 0.03]))


def _along(
    step: Step,
    axis: int,
    first: np.ndarray,
    handle_first: np.ndarray,
    *,
    radius: float,
    gaussian: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distances and tolerances of an object that moves along one axis."""
    away = np.abs(step.object[:, axis] - step.target[:, axis])
    margin = np.abs(np.abs(first[:, axis] - step.target[:, axis]) - radius)
    in_place = tolerance(away, radius, margin)
    to_handle = distance(step.object, step.tcp)
    margin = np.abs(distance(handle_first, step.tcp_first) - 0.02)
    shape = "gaussian" if gaussian else "long_tail"
    reached = tolerance(to_handle, 0.02, margin, shape=shape)  # type: ignore[arg-type]
    return away, in_place, to_handle, reached


def handle_press(step: Step) -> Outcome:
    """A handle is pressed down."""
    away, in_place, near, reached = _along(step, 2, step.more, step.more, radius=0.02)
    reward = 10 * np.where(away <= 0.02, 1.0, both(reached, in_place))
    return Outcome(reward, away <= 0.02, near <= 0.05, 1.0, reached, in_place, away)


def _window(step: Step, first: np.ndarray, *, gaussian: bool) -> Outcome:
    away, in_place, near, reached = _along(
        step, 0, first, step.more, radius=RADIUS, gaussian=gaussian
    )
    reward = 10 * both(reached, in_place)
    return Outcome(reward, away <= RADIUS, near <= 0.05, 1.0, reached, in_place, away)


def window_close(step: Step) -> Outcome:
    """A window is closed."""
    return _window(step, step.more, gaussian=True)


def window_open(step: Step) -> Outcome:
    """A window is opened."""
    return _window(step, step.object_first, gaussian=False)


def _handle_pull(
    step: Step, away: np.ndarray, margin: np.ndarray, grasped: np.ndarray, raised: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    in_place = tolerance(away, RADIUS, margin)
    to_handle = distance(step.object, step.tcp)
    held = (to_handle < 0.035) & (step.opened > 0) & raised
    reward = both(grasped, in_place) + np.where(held, 1.0 + 5.0 * in_place, 0.0)
    reward = np.where(away < RADIUS, 10.0, reward)
    lifted = (step.opened > 0) & (step.object[:, 2] - 0.03 > step.object_first[:, 2])
    return reward, to_handle <= 0.05, lifted, in_place


def handle_pull(step: Step) -> Outcome:
    """A handle is pulled up."""
    away = np.abs(step.target[:, 2] - step.object[:, 2])
    margin = np.abs(step.target[:, 2] - step.object_first[:, 2])
    grasped = cage(step, step.object, radius=0.022, height=0.01, denser=True)
    # Meta-World compares y with the first height here.
    raised = step.object[:, 1] - 0.01 > step.object_first[:, 2]
    reward, near, lifted, in_place = _handle_pull(step, away, margin, grasped, raised)
    return Outcome(reward, away <= RADIUS, near, lifted, grasped, in_place, away)


def handle_pull_side(step: Step) -> Outcome:
    """A handle is pulled up from the side."""
    away = distance(step.object, step.target)
    margin = distance(step.object_first, step.target)
    grasped = cage(step, step.object, radius=0.032, pad_reach=0.06, height=0.01, denser=True)
    raised = step.object[:, 2] - 0.01 > step.object_first[:, 2]
    reward, near, lifted, in_place = _handle_pull(step, away, margin, grasped, raised)
    return Outcome(reward, away <= 0.08, near, lifted, grasped, in_place, away)


def lever_pull(step: Step) -> Outcome:
    """A lever is pulled up."""
    offset, scale = np.array([0.0, 0.055, 0.07]), (4.0, 1.0, 4.0)
    to_lever = distance(step.hand + offset, step.object, scale)
    margin = distance(step.tcp_first + offset, step.more, scale)
    ready = tolerance(to_lever, 0.02, margin)
    error = np.abs(-step["joint:LeverAxis"][:, 0] - np.pi / 2)
    engaged = tolerance(error, np.pi / 48, np.pi / 2 - np.pi / 12)
    margin = distance(step.more, step.target)
    in_place = tolerance(distance(step.object, step.target), 0.04, margin)
    reward = 10.0 * both(ready, in_place)
    success, near = error <= np.pi / 24, to_lever < 0.03
    return Outcome(reward, success, near, ready > 0.9, ready, engaged, to_lever)
