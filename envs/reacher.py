"""Reacher with a goal that it does not see."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.tasks import SampledTasks, Tasks
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

from .robot import Robot, RobotState, control_cost, listed_split, uniform_on_ring

LINKS = (0.1, 0.11)  # m, from the shoulder to the elbow, and on to the fingertip


class ReacherGoal(Robot):
    """Reacher that has to touch a goal position.

    ## Description
    An arm with two joints has to bring its fingertip to the task's position in the plane, which it
    does not see. Reward, arm and goals are those of Reacher-v5, which shows the goal in its
    observation. The sparse reward (``goal_tolerance``) follows MetaCURE (Zhang et al., "MetaCURE:
    Meta Reinforcement Learning with Empowerment-Driven Exploration", 2021), whose goals lie on a
    half circle.

    ## Action Space
    ``Box(-1, 1, (2,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (8,))``: cosines and sines of the two angles, their velocities in rad/s, and x
    and y of the fingertip in m.

    ## Rewards
    * ``reward_dist``: ``-reward_dist_weight d``, where d is the distance of the fingertip from the
      goal after the step, in m; with a ``goal_tolerance``, ``reward_dist_weight (0.2 - d)`` where d
      is less than the tolerance, otherwise 0.
    * ``reward_ctrl``: ``-reward_control_weight ‖action‖²``.

    ## Starting State
    The start of Reacher-v5: uniform noise on angles (0.1 rad) and their velocities (0.005 rad/s).

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_radius`` | 0.2 | radius of the disc of goals around the shoulder, in m |
    | ``goal_tolerance`` | None | distance within which a sparse reward pays (MetaCURE: 0.09) |
    | ``num_train_tasks`` | 100 | length of the training list; ``None``: the whole disc |
    | ``horizon`` | 50 | number of steps in an episode |
    | ``frame_skip`` | 2 | number of MuJoCo steps (0.01 s) in a step; dt = 0.02 s |
    | ``reward_dist_weight`` | 1.0 | weight of the distance |
    | ``reward_control_weight`` | 1.0 | weight of the squared actions |
    | ``xml_file`` | "reacher.xml" | file of the MuJoCo model; links of 0.1 and 0.11 m |

    ## Task distribution
    ``Box(-0.2, 0.2, (2,))``: the goal in m, uniform on the disc. Frozen, seeded lists: 100 for
    training, 30 for test and 30 for validation. There is no ``ood``, since the arm reaches only
    0.21 m.
    """

    camera: ClassVar[dict[str, Any]] = {
        "distance": 0.8,
        "elevation": -90.0,
        "azimuth": 90.0,
        "track": False,
    }

    def __init__(
        self,
        goal_radius: float = 0.2,
        goal_tolerance: float | None = None,
        num_train_tasks: int | None = 100,
        reward_dist_weight: float = 1.0,
        reward_control_weight: float = 1.0,
        **robot: Any,
    ) -> None:
        defaults = {"xml_file": "reacher.xml", "frame_skip": 2, "horizon": 50}
        super().__init__(**{**defaults, **robot, "reset_noise_scale": 0.1})
        radius = check_number("goal_radius", goal_radius, least=0)
        if not 0 < radius <= sum(LINKS):
            raise ValueError(f"goal_radius has to be in (0, {sum(LINKS)}] m, got {goal_radius}")
        if goal_tolerance is not None:
            check_number("goal_tolerance", goal_tolerance, above=0)
        self.goal_tolerance = goal_tolerance
        self.reward_dist_weight = check_number("reward_dist_weight", reward_dist_weight, least=0)
        self.reward_control_weight = check_number(
            "reward_control_weight", reward_control_weight, least=0
        )
        self.observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float64)
        space = spaces.Box(-radius, radius, (2,), np.float64)
        self.task_split = listed_split(
            SampledTasks(space, uniform_on_ring(0.0, radius)),
            num_train=num_train_tasks,
            num_test=30,
            seed=2025,
        )

    def initial(self, rng: Draws, params: Tasks) -> RobotState:
        """Draws noise as in Reacher-v5, and puts the model's target on the goal, for pictures."""
        num = len(params)
        qpos = self.batch.init_qpos + rng.uniform(-0.1, 0.1, (num, 4))
        qvel = rng.uniform(-0.005, 0.005, (num, 4))
        qpos[:, 2:] = params
        qvel[:, 2:] = 0.0
        return self.state(qpos, qvel)

    def fingertip(self, state: RobotState) -> Any:
        """Returns the position of the fingertip, ``[N, 2]`` in m."""
        qpos = self.qpos(state)
        xp = array_namespace(qpos)
        shoulder, elbow = qpos[:, 0], qpos[:, 0] + qpos[:, 1]
        x = LINKS[0] * xp.cos(shoulder) + LINKS[1] * xp.cos(elbow)
        y = LINKS[0] * xp.sin(shoulder) + LINKS[1] * xp.sin(elbow)
        return xp.stack([x, y], axis=1)

    def observation(self, state: RobotState, rng: Draws, params: Tasks) -> Any:
        """Returns angles, their velocities and the fingertip, but nothing about the goal."""
        angles = self.qpos(state)[:, :2]
        xp = array_namespace(angles)
        parts = [xp.cos(angles), xp.sin(angles), self.qvel(state)[:, :2], self.fingertip(state)]
        return xp.concat(parts, axis=1)

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns distance of the fingertip from the goal, and control cost."""
        distance = ((self.fingertip(next_state) - params) ** 2).sum(axis=1) ** 0.5
        near = -distance
        if self.goal_tolerance is not None:
            near = (0.2 - distance) * (distance < self.goal_tolerance)
        return {
            "reward_dist": self.reward_dist_weight * near,
            "reward_ctrl": control_cost(self.reward_control_weight, action),
        }

    def transition_info(
        self, state: RobotState, action: Any, next_state: RobotState, params: Tasks
    ) -> dict[str, Any]:
        """Returns ``distance`` of the fingertip from the goal in m, ``[N]``."""
        return {"distance": ((self.fingertip(next_state) - params) ** 2).sum(axis=1) ** 0.5}
