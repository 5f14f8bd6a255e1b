"""Humanoid with a goal direction."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco

from meta_rl.arguments import check_number

from .robot import (
    FallingRobot,
    GoalDirection,
    RobotState,
    is_within,
)


class HumanoidDir(GoalDirection, FallingRobot):
    """Humanoid that has to walk in a direction in the plane.

    ## Description
    A robot with two legs and two arms has to walk fast in the task's direction in the plane, which
    it does not see. Source: Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via
    Probabilistic Context Variables", 2019. The weight of the velocity, 1.25, is Gymnasium's and the
    same as in the sources (0.25 over MuJoCo's timestep for the displacement of five timesteps).
    VariBAD rescales actions to [-1, 1]; here they are not rescaled.

    ## Action Space
    ``Box(-0.4, 0.4, (17,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (45,))``: 22 positions (without x and y) and 23 velocities, the first entries
    of Humanoid-v5. Its other 303 are left out: inertias, velocities of the bodies and actuator
    forces follow from these and from the action, and contact forces were always zero with MuJoCo 2
    in the source.

    ## Rewards
    * ``reward_forward``: ``forward_reward_weight`` times the velocity along the direction: the
      displacement of the robot's centre of mass over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    The contact cost of Humanoid-v5 (at most 10 a step, and mostly far less than 1) is left out with
    the contact forces.

    ## Starting State
    The start of Humanoid-v5: uniform noise of ``reset_noise_scale`` on positions and velocities.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``frame_skip`` | 5 | number of MuJoCo steps (0.003 s) in a step; dt = 0.015 s |
    | ``forward_reward_weight`` | 1.25 | weight of the velocity |
    | ``ctrl_cost_weight`` | 0.1 | weight of the squared actions |
    | ``healthy_reward`` | 5.0 | reward for a step that ends healthy |
    | ``healthy_z_range`` | (1.0, 2.0) | range of healthy heights of the torso, in m |
    | ``reset_noise_scale`` | 0.01 | scale of the noise in the first state |
    | ``exclude_current_positions_from_observation`` | True | whether x and y are left out |
    | ``xml_file`` | "humanoid.xml" | file of the MuJoCo model; its main body is called "torso" |
    """

    num_excluded_positions = 2
    split_seed = 2024
    camera: ClassVar[dict[str, Any]] = {**FallingRobot.camera, "distance": 5.0, "elevation": -30.0}

    def __init__(
        self, num_train_tasks: int | None = 100, forward_reward_weight: float = 1.25, **robot: Any
    ) -> None:
        defaults = {"xml_file": "humanoid.xml", "frame_skip": 5, "reset_noise_scale": 1e-2}
        healthy = {"healthy_reward": 5.0, "healthy_z_range": (1.0, 2.0), "ctrl_cost_weight": 0.1}
        centre_of_mass = (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtObj.mjOBJ_BODY, "torso")
        super().__init__(
            num_train_tasks, **{**defaults, **healthy, **robot, "sensors": [centre_of_mass]}
        )
        self.forward_reward_weight = check_number(
            "forward_reward_weight", forward_reward_weight, least=0
        )

    def velocity(self, state: RobotState, next_state: RobotState) -> Any:
        """Returns the displacement of the centre of mass in x and y over dt, ``[N, 2]`` in m/s."""
        return (next_state.sensors[:, :2] - state.sensors[:, :2]) / self.batch.dt

    def is_healthy(self, state: RobotState) -> Any:
        """Returns whether the torso's height is in its range, bool ``[N]``."""
        return is_within(self.qpos(state)[:, 2], self.healthy_z_range)
