"""Walker2d and Hopper with a goal velocity."""

from __future__ import annotations

import math
from typing import Any

from meta_rl.arguments import check_number

from .robot import (
    FallingRobot,
    GoalVelocity,
    Range,
    RobotState,
    check_range,
    is_within,
)


class Walker2d(FallingRobot):
    """Base class of Gymnasium's Walker2d; a family adds the tasks.

    ## Action Space
    ``Box(-1, 1, (6,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (17,))``: 8 positions (without x) and 9 velocities, clipped to [-10, 10], as in
    Walker2d-v5.

    ## Starting State
    The start of Walker2d-v5: uniform noise of ``reset_noise_scale`` on positions and velocities.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``frame_skip`` | 4 | number of MuJoCo steps (0.002 s) in a step; dt = 0.008 s |
    | ``forward_reward_weight`` | 1.0 | weight of the velocity |
    | ``ctrl_cost_weight`` | 0.001 | weight of the squared actions |
    | ``healthy_z_range`` | (0.8, 2.0) | range of healthy heights of the torso, in m |
    | ``healthy_angle_range`` | (-1.0, 1.0) | range of healthy angles of the torso, in radians |
    | ``reset_noise_scale`` | 0.005 | scale of the noise in the first state |
    | ``xml_file`` | "walker2d_v5.xml" | file of the MuJoCo model |
    | ``exclude_current_positions_from_observation`` | True | whether x is left out |
    """

    velocity_limit = 10.0

    def __init__(self, *, healthy_angle_range: Range = (-1.0, 1.0), **robot: Any) -> None:
        defaults = {"xml_file": "walker2d_v5.xml", "frame_skip": 4, "reset_noise_scale": 5e-3}
        healthy = {"healthy_reward": 1.0, "healthy_z_range": (0.8, 2.0), "ctrl_cost_weight": 1e-3}
        super().__init__(**{**defaults, **healthy, **robot})
        self.healthy_angle_range = check_range("healthy_angle_range", healthy_angle_range)

    def is_healthy(self, state: RobotState) -> Any:
        """Returns whether the torso's height and angle are in their ranges, bool ``[N]``."""
        qpos = self.qpos(state)
        upright = is_within(qpos[:, 2], self.healthy_angle_range)
        return is_within(qpos[:, 1], self.healthy_z_range) & upright


class Hopper(FallingRobot):
    """Base class of Gymnasium's Hopper; a family adds the tasks.

    ## Action Space
    ``Box(-1, 1, (3,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (11,))``: 5 positions (without x) and 6 velocities, clipped to [-10, 10], as in
    Hopper-v5.

    ## Starting State
    The start of Hopper-v5: uniform noise of ``reset_noise_scale`` on positions and velocities.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``frame_skip`` | 4 | number of MuJoCo steps (0.002 s) in a step; dt = 0.008 s |
    | ``forward_reward_weight`` | 1.0 | weight of the velocity |
    | ``ctrl_cost_weight`` | 0.001 | weight of the squared actions |
    | ``healthy_state_range`` | (-100, 100) | range of healthy angles and velocities |
    | ``healthy_z_range`` | (0.7, inf) | range of healthy heights of the torso, in m |
    | ``healthy_angle_range`` | (-0.2, 0.2) | range of healthy angles of the torso, in radians |
    | ``reset_noise_scale`` | 0.005 | scale of the noise in the first state |
    | ``xml_file`` | "hopper.xml" | file of the MuJoCo model |
    | ``exclude_current_positions_from_observation`` | True | whether x is left out |
    """

    velocity_limit = 10.0

    def __init__(
        self,
        *,
        healthy_angle_range: Range = (-0.2, 0.2),
        healthy_state_range: Range = (-100.0, 100.0),
        **robot: Any,
    ) -> None:
        defaults = {"xml_file": "hopper.xml", "frame_skip": 4, "reset_noise_scale": 5e-3}
        healthy = {
            "healthy_reward": 1.0,
            "healthy_z_range": (0.7, math.inf),
            "ctrl_cost_weight": 1e-3,
        }
        super().__init__(**{**defaults, **healthy, **robot})
        self.healthy_angle_range = check_range("healthy_angle_range", healthy_angle_range)
        self.healthy_state_range = check_range("healthy_state_range", healthy_state_range)

    def is_healthy(self, state: RobotState) -> Any:
        """Returns whether torso, positions and velocities are in their ranges, bool ``[N]``."""
        qpos = self.qpos(state)
        upright = is_within(qpos[:, 2], self.healthy_angle_range)
        angles = is_within(qpos[:, 2:], self.healthy_state_range).all(axis=1)
        velocities = is_within(self.qvel(state), self.healthy_state_range).all(axis=1)
        return is_within(qpos[:, 1], self.healthy_z_range) & upright & angles & velocities


class _GoalVelocity(GoalVelocity, FallingRobot):
    """Base class of walkers whose task is a goal velocity.

    ## Rewards
    * ``reward_forward``: ``-forward_reward_weight |v - goal|``, where v is the displacement in x
      over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``forward_reward_weight`` | 1.0 | weight of the distance from the goal velocity |
    """

    def __init__(self, *goals: Any, forward_reward_weight: float = 1.0, **robot: Any) -> None:
        super().__init__(*goals, **robot)
        self.forward_reward_weight = check_number(
            "forward_reward_weight", forward_reward_weight, least=0
        )


class Walker2dVel(_GoalVelocity, Walker2d):
    """Walker2d that has to walk at a goal velocity.

    ## Description
    A planar robot with two legs has to walk at the task's velocity, which it does not see. No
    paper's definition is the standard; the reward is HalfCheetahVel's distance from the goal
    velocity, with the reward for not falling and the control cost of Walker2d-v5.

    ## Task distribution
    ``Box(0, 4, (1,))``: the goal in m/s, uniform in ``goal_velocity_range``. Frozen, seeded lists:
    100 for training, 30 for test and 30 for validation. ``ood`` is uniform over a third of the
    range's width above it: [3, 4].
    """

    split_seed = 2022

    def __init__(self, goal_velocity_range: Range = (0.0, 3.0), *args: Any, **kwargs: Any) -> None:
        super().__init__(goal_velocity_range, *args, **kwargs)


class HopperVel(_GoalVelocity, Hopper):
    """Hopper that has to hop at a goal velocity.

    ## Description
    A planar robot with one leg has to hop at the task's velocity, which it does not see. No paper's
    definition is the standard; the reward is HalfCheetahVel's distance from the goal velocity, with
    the reward for not falling and the control cost of Hopper-v5.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_velocity_range`` | (0, 2) | range of the goals, in m/s |

    ## Task distribution
    ``Box(0, 2.667, (1,))``: the goal in m/s, uniform in ``goal_velocity_range``. Frozen, seeded
    lists: 100 for training, 30 for test and 30 for validation. ``ood`` is uniform over a third of
    the range's width above it: [2, 2.667].
    """

    split_seed = 2023

    def __init__(self, goal_velocity_range: Range = (0.0, 2.0), *args: Any, **kwargs: Any) -> None:
        super().__init__(goal_velocity_range, *args, **kwargs)
