"""Ant with a goal velocity, a goal direction, or a goal position."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from meta_rl.tasks import SampledTasks, Tasks

from .robot import (
    FallingRobot,
    Range,
    RobotState,
    along_x,
    angle_split,
    check_two_directions,
    check_weight,
    directions,
    in_plane,
    listed_split,
    two_directions_split,
    uniform_on_ring,
    velocity_split,
)


class _Ant(FallingRobot):
    """Gymnasium's Ant without contact forces."""

    num_excluded_positions = 2
    gaussian_velocity_noise = True
    camera: ClassVar[dict[str, Any]] = {
        **FallingRobot.camera,
        "distance": 5.0,
        "elevation": -35.0,
    }
    episodes_per_trial = 2

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


class AntVel(_Ant):
    """Ant that has to run at a goal velocity.

    ## Description
    A robot with four legs is to run along x at a velocity that it does not see: the task. Source:
    Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, whose
    weights these are. It simulates 0.02 s a step; here dt = 0.05 s as in Gymnasium, and
    ``frame_skip=2`` gives the timing of the paper.

    ## Action Space
    ``Box(-1, 1, (8,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (27,))``: 13 positions (without x and y) and 14 velocities. The contact forces
    of Ant-v5 are left out, of the observation and of the reward, as they were always zero with
    MuJoCo 2 before Gymnasium computed them. The sources' contact cost, with forces clipped to [-1,
    1], is at most 0.039 a step.

    ## Rewards
    * ``reward_forward``: ``1 - |v - goal|``, where v is the displacement in x over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Starting State
    As in Ant-v5: uniform noise of ``reset_noise_scale`` on the positions, normal noise on the
    velocities.

    ## Episode End
    *Terminated* when the ant is unhealthy; *truncated* after ``horizon`` steps.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_velocity_range`` | (0, 3) | of the goals, in m/s |
    | ``num_train_tasks`` | None | length of the training list; ``None``: the whole range |
    | ``horizon`` | 200 | steps in an episode |
    | ``frame_skip`` | 5 | steps of MuJoCo (0.01 s) in a step: dt = 0.05 s |
    | ``ctrl_cost_weight`` | 0.005 | of the squared actions |
    | ``healthy_reward`` | 0.05 | for a step that ends healthy |
    | ``healthy_z_range`` | (0.2, 1.0) | healthy heights of the torso in m |
    | ``terminate_when_unhealthy`` | True | whether falling ends the episode |
    | ``reset_noise_scale`` | 0.1 | of the noise in the first state |
    | ``exclude_current_positions_from_observation`` | True | leave out x and y |
    | ``xml_file`` | "ant.xml" | the model |
    | ``nthread`` | None | threads that step the batch; all cores by default |
    | ``width``, ``height`` | 480 | of a rendered frame, in pixels |

    ## Task distribution
    ``Box(0, 4, (1,))``: the goal in m/s, uniform in ``goal_velocity_range``; frozen, seeded lists
    of 30 tasks for test and for validation. ``ood`` is uniform over a third of the range's width
    above it: [3, 4].

    ## Adaptation
    After every episode; a trial is two episodes.

    ## Version History
    * v0: initial.
    """

    def __init__(
        self,
        goal_velocity_range: Range = (0.0, 3.0),
        num_train_tasks: int | None = None,
        **robot: Any,
    ) -> None:
        super().__init__(**{"healthy_reward": 0.05, "ctrl_cost_weight": 0.005, **robot})
        self.task_split = velocity_split(
            goal_velocity_range, num_train=num_train_tasks, num_test=30, seed=2017
        )

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the goal velocity as an arrow, half a metre long for 1 m/s."""
        return along_x(0.5 * params)

    def reward_terms(
        self,
        state: RobotState,
        action: Any,
        next_state: RobotState,
        rng: np.random.Generator,
        params: Tasks,
    ) -> dict[str, Any]:
        """Returns distance from the goal velocity, control cost, and reward for not falling."""
        miss = abs(self.velocity(state, next_state)[:, 0] - params[:, 0])
        return {"reward_forward": 1.0 - miss, **self.standing_terms(action, next_state)}


class AntForwardBackward(_Ant):
    """Ant that has to run forward or backward.

    ## Description
    A robot with four legs is to run fast along x in a direction that it does not see: the task.
    Weights of PEARL and ProMP (Rothfuss et al., "ProMP: Proximal Meta-Policy Search", 2019); MAML
    has a control cost a hundred times smaller (``ctrl_cost_weight=0.005``,
    ``healthy_reward=0.05``). Two namesakes are other problems: VariBAD's takes -1 and +1 as angles
    in radians, and PEARL's code with two tasks draws two random directions.

    ## Action Space
    ``Box(-1, 1, (8,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (27,))``: 13 positions (without x and y) and 14 velocities. The contact forces
    of Ant-v5 are left out, of the observation and of the reward, as they were always zero with
    MuJoCo 2 before Gymnasium computed them. The sources' contact cost, with forces clipped to [-1,
    1], is at most 0.039 a step.

    ## Rewards
    * ``reward_forward``: ``direction * v``, where v is the displacement in x over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Starting State
    As in Ant-v5: uniform noise of ``reset_noise_scale`` on the positions, normal noise on the
    velocities.

    ## Episode End
    *Terminated* when the ant is unhealthy; *truncated* after ``horizon`` steps.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 200 | steps in an episode |
    | ``frame_skip`` | 5 | steps of MuJoCo (0.01 s) in a step: dt = 0.05 s |
    | ``ctrl_cost_weight`` | 0.5 | of the squared actions |
    | ``healthy_reward`` | 1.0 | for a step that ends healthy |
    | ``healthy_z_range`` | (0.2, 1.0) | healthy heights of the torso in m |
    | ``terminate_when_unhealthy`` | True | whether falling ends the episode |
    | ``reset_noise_scale`` | 0.1 | of the noise in the first state |
    | ``exclude_current_positions_from_observation`` | True | leave out x and y |
    | ``xml_file`` | "ant.xml" | the model |
    | ``nthread`` | None | threads that step the batch; all cores by default |
    | ``width``, ``height`` | 480 | of a rendered frame, in pixels |

    ## Task distribution
    ``Box(-1, 1, (1,))``: -1 (backward) or +1 (forward), nothing between. There are only two tasks:
    validation and test equal train, as in all the sources.

    ## Adaptation
    After every episode; a trial is two episodes.

    ## Version History
    * v0: initial.
    """

    def __init__(self, **robot: Any) -> None:
        super().__init__(**robot)
        self.task_split = two_directions_split()

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses directions other than -1 and +1."""
        check_two_directions(tasks)

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the direction as an arrow."""
        return along_x(params)

    def reward_terms(
        self,
        state: RobotState,
        action: Any,
        next_state: RobotState,
        rng: np.random.Generator,
        params: Tasks,
    ) -> dict[str, Any]:
        """Returns velocity in the task's direction, control cost, and reward for not falling."""
        along = self.velocity(state, next_state)[:, 0] * params[:, 0]
        return {"reward_forward": along, **self.standing_terms(action, next_state)}


class AntDir(_Ant):
    """Ant that has to run in a direction in the plane.

    ## Description
    A robot with four legs is to run fast in a direction of the plane that it does not see: the
    task. Source: the code of PEARL (Rakelly et al., "Efficient Off-Policy Meta-Reinforcement
    Learning via Probabilistic Context Variables", 2019) with more than two tasks, and of ProMP.

    ## Action Space
    ``Box(-1, 1, (8,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (27,))``: 13 positions (without x and y) and 14 velocities. The contact forces
    of Ant-v5 are left out, of the observation and of the reward, as they were always zero with
    MuJoCo 2 before Gymnasium computed them. The sources' contact cost, with forces clipped to [-1,
    1], is at most 0.039 a step.

    ## Rewards
    * ``reward_forward``: the velocity (displacement of the torso in x and y over dt, in m/s) along
      the direction.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Starting State
    As in Ant-v5: uniform noise of ``reset_noise_scale`` on the positions, normal noise on the
    velocities.

    ## Episode End
    *Terminated* when the ant is unhealthy; *truncated* after ``horizon`` steps.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``num_train_tasks`` | 100 | length of the training list; ``None``: all directions |
    | ``horizon`` | 200 | steps in an episode |
    | ``frame_skip`` | 5 | steps of MuJoCo (0.01 s) in a step: dt = 0.05 s |
    | ``ctrl_cost_weight`` | 0.5 | of the squared actions |
    | ``healthy_reward`` | 1.0 | for a step that ends healthy |
    | ``healthy_z_range`` | (0.2, 1.0) | healthy heights of the torso in m |
    | ``terminate_when_unhealthy`` | True | whether falling ends the episode |
    | ``reset_noise_scale`` | 0.1 | of the noise in the first state |
    | ``exclude_current_positions_from_observation`` | True | leave out x and y |
    | ``xml_file`` | "ant.xml" | the model |
    | ``nthread`` | None | threads that step the batch; all cores by default |
    | ``width``, ``height`` | 480 | of a rendered frame, in pixels |

    ## Task distribution
    ``Box(0, 2π, (1,))``: the direction as an angle in radians; 0 is the x axis, π/2 the y axis.
    Uniform; frozen, seeded lists: 100 for training, 30 for test and 30 for validation. There is no
    ``ood``: a circle has no outside.

    ## Adaptation
    After every episode; a trial is two episodes.

    ## Version History
    * v0: initial.
    """

    def __init__(self, num_train_tasks: int | None = 100, **robot: Any) -> None:
        super().__init__(**robot)
        self.task_split = angle_split(num_train=num_train_tasks, num_test=30, seed=2020)

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the direction as an arrow."""
        return in_plane(directions(params))

    def reward_terms(
        self,
        state: RobotState,
        action: Any,
        next_state: RobotState,
        rng: np.random.Generator,
        params: Tasks,
    ) -> dict[str, Any]:
        """Returns velocity along the direction, control cost, and reward for not falling."""
        along = (self.velocity(state, next_state) * directions(params)).sum(axis=1)
        return {"reward_forward": along, **self.standing_terms(action, next_state)}


class AntGoal(_Ant):
    """Ant that has to walk to a goal position.

    ## Description
    A robot with four legs is to walk to a position that it does not see: the task. Definition of
    PEARL, ProMP and VariBAD: Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via
    Probabilistic Context Variables", 2019. The distance is the **L1** norm in all the sources. MAML
    has another: goals from a square, a bonus of 4 and an end when the ant falls.

    ## Action Space
    ``Box(-1, 1, (8,))``: torques at the joints.

    ## Observation Space
    ``Box(-inf, inf, (29,))``: 15 positions, x and y of the torso among them, and 14 velocities. The
    contact forces of Ant-v5 are left out, of the observation and of the reward, as they were always
    zero with MuJoCo 2 before Gymnasium computed them. The sources' contact cost, with forces
    clipped to [-1, 1], is at most 0.039 a step.

    ## Rewards
    * ``reward_goal``: ``-‖xy - goal‖₁`` of the torso after the step, in m.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Starting State
    As in Ant-v5: uniform noise of ``reset_noise_scale`` on the positions, normal noise on the
    velocities.

    ## Episode End
    *Truncated* after ``horizon`` steps; falling does not end the episode by default.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_radius`` | 3.0 | of the disc of goals around the start, in m |
    | ``num_train_tasks`` | 150 | length of the training list; ``None``: the whole disc |
    | ``horizon`` | 200 | steps in an episode |
    | ``frame_skip`` | 5 | steps of MuJoCo (0.01 s) in a step: dt = 0.05 s |
    | ``ctrl_cost_weight`` | 0.1 | of the squared actions |
    | ``healthy_reward`` | 0.0 | for a step that ends healthy |
    | ``healthy_z_range`` | (0.2, 1.0) | healthy heights of the torso in m |
    | ``terminate_when_unhealthy`` | False | whether falling ends the episode |
    | ``reset_noise_scale`` | 0.1 | of the noise in the first state |
    | ``exclude_current_positions_from_observation`` | False | leave out x and y |
    | ``xml_file`` | "ant.xml" | the model |
    | ``nthread`` | None | threads that step the batch; all cores by default |
    | ``width``, ``height`` | 480 | of a rendered frame, in pixels |

    ## Task distribution
    ``Box(-4, 4, (2,))``: the goal in m. As in the sources it is uniform on the disc: radius
    ``goal_radius √U``. Frozen, seeded lists as in PEARL: 150 for training, 30 for test, and 30 for
    validation. ``ood`` is uniform on the ring around the disc whose width is a third of the radius.

    ## Adaptation
    After every episode; a trial is two episodes.

    ## Version History
    * v0: initial.
    """

    camera: ClassVar[dict[str, Any]] = {**_Ant.camera, "distance": 7.0}  # goals are 3 m away

    def __init__(
        self, goal_radius: float = 3.0, num_train_tasks: int | None = 150, **robot: Any
    ) -> None:
        standing = {"healthy_reward": 0.0, "terminate_when_unhealthy": False}
        seen = {"exclude_current_positions_from_observation": False}
        super().__init__(**{**standing, **seen, "ctrl_cost_weight": 0.1, **robot})
        radius = check_weight("goal_radius", goal_radius)
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
        self,
        state: RobotState,
        action: Any,
        next_state: RobotState,
        rng: np.random.Generator,
        params: Tasks,
    ) -> dict[str, Any]:
        """Returns L1 distance from the goal, control cost, and reward for not falling."""
        distance = abs(self.qpos(next_state)[:, :2] - params).sum(axis=1)
        return {"reward_goal": -distance, **self.standing_terms(action, next_state)}
