"""Ant with a goal velocity, a goal direction, or a goal position."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.tasks import SampledTasks, Tasks
from meta_rl.vector.streams import Draws

from .robot import (
    FallingRobot,
    GoalDirection,
    GoalVelocity,
    Range,
    RobotState,
    TwoDirections,
    in_plane,
    listed_split,
    uniform_on_ring,
)


class _Ant(FallingRobot):
    """Base class of Gymnasium's Ant without contact forces.

    ## Action Space
    ``Box(-1, 1, (8,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (27,))``: 13 positions (without x and y) and 14 velocities; with x and y,
    ``Box(-inf, inf, (29,))``. The contact forces of Ant-v5 are left out of the observation and of
    the reward, since they were always zero with MuJoCo 2 in the sources. Their contact cost, with
    forces clipped to [-1, 1], is at most 0.039 a step.

    ## Starting State
    The start of Ant-v5: uniform noise of ``reset_noise_scale`` on the positions, normal noise on
    the velocities.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``frame_skip`` | 5 | number of MuJoCo steps (0.01 s) in a step; dt = 0.05 s |
    | ``ctrl_cost_weight`` | 0.5 | weight of the squared actions |
    | ``healthy_z_range`` | (0.2, 1.0) | range of healthy heights of the torso, in m |
    | ``reset_noise_scale`` | 0.1 | scale of the noise in the first state |
    | ``xml_file`` | "ant.xml" | file of the MuJoCo model |
    | ``exclude_current_positions_from_observation`` | True | whether x and y are left out |
    """

    num_excluded_positions = 2
    gaussian_velocity_noise = True
    camera: ClassVar[dict[str, Any]] = {**FallingRobot.camera, "distance": 5.0, "elevation": -35.0}

    def __init__(self, **robot: Any) -> None:
        defaults = {"xml_file": "ant.xml", "frame_skip": 5, "reset_noise_scale": 0.1}
        healthy = {"healthy_reward": 1.0, "healthy_z_range": (0.2, 1.0), "ctrl_cost_weight": 0.5}
        super().__init__(**{**defaults, **healthy, **robot})

    def is_healthy(self, state: RobotState) -> Any:
        """Returns whether the torso's height is in its range and the state is finite, ``[N]``."""
        low, high = self.healthy_z_range
        height = self.qpos(state)[:, 2]
        finite = (abs(state.physics) < np.inf).all(axis=1)
        return finite & (low <= height) & (height <= high)


class AntVel(GoalVelocity, _Ant):
    """Ant that has to run at a goal velocity.

    ## Description
    A robot with four legs has to run along x at the task's velocity, which it does not see. Source:
    Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, whose
    weights these are. The paper simulates 0.02 s a step; here dt = 0.05 s as in Gymnasium, and
    ``frame_skip=2`` gives the timing of the paper.

    ## Rewards
    * ``reward_forward``: ``1 - |v - goal|``, where v is the displacement in x over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``num_train_tasks`` | None | length of the training list; ``None``: the whole range |
    | ``ctrl_cost_weight`` | 0.005 | weight of the squared actions |
    | ``healthy_reward`` | 0.05 | reward for a step that ends healthy |

    ## Task distribution
    ``Box(0, 4, (1,))``: the goal in m/s, uniform in ``goal_velocity_range``; frozen, seeded lists
    of 30 tasks for test and for validation. ``ood`` is uniform over a third of the range's width
    above it: [3, 4].
    """

    split_seed = 2017
    reward_at_goal = 1.0

    def __init__(
        self,
        goal_velocity_range: Range = (0.0, 3.0),
        num_train_tasks: int | None = None,
        **robot: Any,
    ) -> None:
        weights = {"healthy_reward": 0.05, "ctrl_cost_weight": 0.005}
        super().__init__(goal_velocity_range, num_train_tasks, **{**weights, **robot})


class AntForwardBackward(TwoDirections, _Ant):
    """Ant that has to run forward or backward.

    ## Description
    A robot with four legs has to run fast along x in the task's direction, which it does not see.
    The weights are those of PEARL and ProMP (Rothfuss et al., "ProMP: Proximal Meta-Policy Search",
    2019); MAML has a control cost a hundred times smaller (``ctrl_cost_weight=0.005``,
    ``healthy_reward=0.05``). Two problems of the same name differ: VariBAD's takes -1 and +1 as
    angles in radians, and PEARL's code with two tasks draws two random directions.

    ## Rewards
    * ``reward_forward``: ``direction * v``, where v is the displacement in x over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.
    """


class AntDir(GoalDirection, _Ant):
    """Ant that has to run in a direction in the plane.

    ## Description
    A robot with four legs has to run fast in the task's direction in the plane, which it does not
    see. Source: the code of PEARL (Rakelly et al., "Efficient Off-Policy Meta-Reinforcement
    Learning via Probabilistic Context Variables", 2019) with more than two tasks, and of ProMP.

    ## Rewards
    * ``reward_forward``: the velocity (displacement of the torso in x and y over dt, in m/s) along
      the direction.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Task distribution
    ``Box(0, 2π, (1,))``: the direction as an angle in radians; 0 is the x axis, π/2 the y axis.
    Uniform; frozen, seeded lists: 100 for training, 30 for test and 30 for validation. There is no
    ``ood``, since all directions are in the training range.
    """

    split_seed = 2020


class AntGoal(_Ant):
    """Ant that has to walk to a goal position.

    ## Description
    A robot with four legs has to walk to the task's position, which it does not see. Definition of
    PEARL, ProMP and VariBAD: Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via
    Probabilistic Context Variables", 2019. All these sources use the **L1** distance. MAML's
    problem differs: goals from a square, a bonus of 4, and an episode that ends when the ant falls.

    ## Rewards
    * ``reward_goal``: ``-‖xy - goal‖₁`` of the torso after the step, in m.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Episode End
    The episode is *truncated* after ``horizon`` steps; falling does not end the episode by default.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_radius`` | 3.0 | radius of the disc of goals around the start, in m |
    | ``num_train_tasks`` | 150 | length of the training list; ``None``: the whole disc |
    | ``ctrl_cost_weight`` | 0.1 | weight of the squared actions |
    | ``healthy_reward`` | 0.0 | reward for a step that ends healthy |
    | ``terminate_when_unhealthy`` | False | whether falling ends the episode |
    | ``exclude_current_positions_from_observation`` | False | whether x and y are left out |

    ## Task distribution
    ``Box(-4, 4, (2,))``: the goal in m, uniform on the disc as in the sources: radius ``goal_radius
    √U``. Frozen, seeded lists as in PEARL: 150 for training, 30 for test, and 30 for validation.
    ``ood`` is uniform on the ring around the disc whose width is a third of the radius.
    """

    camera: ClassVar[dict[str, Any]] = {**_Ant.camera, "distance": 7.0}  # goals are up to 3 m away

    def __init__(
        self, goal_radius: float = 3.0, num_train_tasks: int | None = 150, **robot: Any
    ) -> None:
        standing = {"healthy_reward": 0.0, "terminate_when_unhealthy": False}
        seen = {"exclude_current_positions_from_observation": False}
        super().__init__(**{**standing, **seen, "ctrl_cost_weight": 0.1, **robot})
        radius = check_number("goal_radius", goal_radius, least=0)
        outer = radius * 4 / 3
        space = spaces.Box(-outer, outer, (2,), np.float64)
        self.task_split = listed_split(
            SampledTasks(space, uniform_on_ring(0.0, radius)),
            num_train=num_train_tasks,
            num_test=30,
            seed=2021,
            ood=SampledTasks(space, uniform_on_ring(radius, outer)),
        )

    def goal_points(self, params: Tasks) -> Any:
        """Returns the goal position."""
        return in_plane(params, height=0.15)

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns L1 distance from the goal, control cost, and reward for not falling."""
        distance = abs(self.qpos(next_state)[:, :2] - params).sum(axis=1)
        return {"reward_goal": -distance, **self.standing_terms(action, next_state)}
