"""Humanoid with a goal direction."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco

from meta_rl.arguments import check_number
from meta_rl.tasks import Tasks
from meta_rl.vector.streams import Draws

from .robot import FallingRobot, RobotState, angle_split, directions, in_plane, is_within


class HumanoidDir(FallingRobot):
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
    | ``num_train_tasks`` | 100 | length of the training list; ``None``: all directions |
    | ``frame_skip`` | 5 | number of MuJoCo steps (0.003 s) in a step; dt = 0.015 s |
    | ``forward_reward_weight`` | 1.25 | weight of the velocity |
    | ``ctrl_cost_weight`` | 0.1 | weight of the squared actions |
    | ``healthy_reward`` | 5.0 | reward for a step that ends healthy |
    | ``healthy_z_range`` | (1.0, 2.0) | range of healthy heights of the torso, in m |
    | ``reset_noise_scale`` | 0.01 | scale of the noise in the first state |
    | ``exclude_current_positions_from_observation`` | True | whether x and y are left out |
    | ``xml_file`` | "humanoid.xml" | file of the MuJoCo model; its main body is called "torso" |

    ## Task distribution
    ``Box(0, 2π, (1,))``: the direction as an angle in radians; 0 is the x axis, π/2 the y axis.
    Uniform; frozen, seeded lists as in PEARL: 100 for training, 30 for test, and 30 for validation.
    There is no ``ood``, since all directions are in the training range.
    """

    num_excluded_positions = 2
    camera: ClassVar[dict[str, Any]] = {**FallingRobot.camera, "distance": 5.0, "elevation": -30.0}

    def __init__(
        self, num_train_tasks: int | None = 100, forward_reward_weight: float = 1.25, **robot: Any
    ) -> None:
        defaults = {"xml_file": "humanoid.xml", "frame_skip": 5, "reset_noise_scale": 1e-2}
        healthy = {"healthy_reward": 5.0, "healthy_z_range": (1.0, 2.0), "ctrl_cost_weight": 0.1}
        centre_of_mass = (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtObj.mjOBJ_BODY, "torso")
        super().__init__(**{**defaults, **healthy, **robot, "sensors": [centre_of_mass]})
        self.forward_reward_weight = check_number(
            "forward_reward_weight", forward_reward_weight, least=0.0
        )
        self.task_split = angle_split(num_train=num_train_tasks, num_test=30, seed=2024)

    def velocity(self, state: RobotState, next_state: RobotState) -> Any:
        """Returns the displacement of the centre of mass in x and y over dt, ``[N, 2]`` in m/s."""
        return (next_state.sensors[:, :2] - state.sensors[:, :2]) / self.batch.dt

    def is_healthy(self, state: RobotState) -> Any:
        """Returns whether the torso's height is in its range, bool ``[N]``."""
        return is_within(self.qpos(state)[:, 2], self.healthy_z_range)

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the direction as an arrow."""
        return in_plane(directions(params))

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns velocity along the direction, control cost, and reward for not falling."""
        along = (self.velocity(state, next_state) * directions(params)).sum(axis=1)
        terms = self.standing_terms(action, next_state)
        return {"reward_forward": self.forward_reward_weight * along, **terms}
