"""HalfCheetah with a goal velocity, a goal direction, or a joint that does not move."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.tasks import FiniteTasks, Tasks, TaskSplit
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

from .robot import (
    GoalVelocity,
    Range,
    Robot,
    RobotState,
    TwoDirections,
    control_cost,
)


class _HalfCheetah(Robot):
    """Base class of Gymnasium's HalfCheetah, with its control cost.

    ## Action Space
    ``Box(-1, 1, (6,))``: torques at the joints. MuJoCo clips the motors' input; the control cost is
    computed from the action before clipping.

    ## Observation Space
    ``Box(-inf, inf, (17,))``: 8 positions (without x) and 9 velocities, as in HalfCheetah-v5. (The
    code of MAML adds the position of the torso.)

    ## Starting State
    The start of HalfCheetah-v5: uniform noise of ``reset_noise_scale`` on the positions, normal
    noise on the velocities.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``frame_skip`` | 5 | number of MuJoCo steps (0.01 s) in a step; dt = 0.05 s |
    | ``forward_reward_weight`` | 1.0 | weight of the velocity |
    | ``ctrl_cost_weight`` | 0.05 | weight of the squared actions |
    | ``reset_noise_scale`` | 0.1 | scale of the noise in the first state |
    | ``xml_file`` | "half_cheetah.xml" | file of the MuJoCo model |
    | ``exclude_current_positions_from_observation`` | True | whether x is left out |
    """

    gaussian_velocity_noise = True

    def __init__(
        self, *, forward_reward_weight: float = 1.0, ctrl_cost_weight: float = 0.05, **robot: Any
    ) -> None:
        defaults = {"xml_file": "half_cheetah.xml", "frame_skip": 5, "reset_noise_scale": 0.1}
        super().__init__(**{**defaults, **robot})
        self.forward_reward_weight = check_number(
            "forward_reward_weight", forward_reward_weight, least=0
        )
        self.ctrl_cost_weight = check_number("ctrl_cost_weight", ctrl_cost_weight, least=0)

    def standing_terms(self, action: Any, next_state: RobotState) -> dict[str, Any]:
        """Returns the control cost."""
        return {"reward_ctrl": control_cost(self.ctrl_cost_weight, action)}


class HalfCheetahVel(GoalVelocity, _HalfCheetah):
    """HalfCheetah that has to run at a goal velocity.

    ## Description
    A planar robot with six joints has to run at the task's velocity, which it does not see.
    Definition of PEARL, ProMP and VariBAD: Rakelly et al., "Efficient Off-Policy Meta-Reinforcement
    Learning via Probabilistic Context Variables", 2019. The sources disagree: MAML draws the goal
    from [0, 2] and simulates 0.01 s a step (``HalfCheetahVelMAML-v0``); garage has the range of
    MAML with the steps of PEARL. Many of them append the position of the torso to the observation;
    here, as in ProMP and in Gymnasium, it is left out.

    ## Rewards
    * ``reward_forward``: ``-forward_reward_weight |v - goal|``, where v is the displacement in x
      over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``forward_reward_weight`` | 1.0 | weight of the distance from the goal velocity |

    ## Task distribution
    ``Box(0, 4, (1,))``: the goal in m/s, uniform in ``goal_velocity_range``. Frozen, seeded lists
    as in PEARL: 100 for training, 30 for test, and 30 for validation. ``ood`` is uniform over a
    third of the range's width above it: [3, 4].

    ## Adaptation
    The agent adapts after every episode; a trial is two episodes, as in VariBAD.
    """

    split_seed = 2019

    def __init__(
        self,
        goal_velocity_range: Range = (0.0, 3.0),
        num_train_tasks: int | None = 100,
        **robot: Any,
    ) -> None:
        super().__init__(goal_velocity_range, num_train_tasks, **robot)


class HalfCheetahVelMAML(HalfCheetahVel):
    """HalfCheetahVel with the timing and the goals of the MAML paper.

    ## Description
    This is ``HalfCheetahVel-v0`` with one MuJoCo step per step (dt = 0.01 s, so an episode is 2 s
    and not 10 s) and goals from [0, 2]. Source: Finn et al., "Model-Agnostic Meta-Learning for Fast
    Adaptation of Deep Networks", 2017. Its code takes the velocity of the torso's centre of mass at
    the end of the step; here it is the displacement of the torso over dt. Returns are not
    comparable with those of ``HalfCheetahVel-v0``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_velocity_range`` | (0, 2) | range of the goals, in m/s |
    | ``num_train_tasks`` | None | length of the training list; ``None``: the whole range |
    | ``frame_skip`` | 1 | number of MuJoCo steps (0.01 s) in a step; dt = 0.01 s |

    ## Task distribution
    ``Box(0, 2.667, (1,))``: the goal in m/s, uniform in [0, 2]. Frozen, seeded lists of 30 tasks
    for test and for validation. ``ood`` is uniform in [2, 2.667].

    ## Adaptation
    The agent adapts after every episode; a trial is two episodes.
    """

    def __init__(
        self,
        goal_velocity_range: Range = (0.0, 2.0),
        num_train_tasks: int | None = None,
        **robot: Any,
    ) -> None:
        super().__init__(goal_velocity_range, num_train_tasks, **{"frame_skip": 1, **robot})


class HalfCheetahDir(TwoDirections, _HalfCheetah):
    """HalfCheetah that has to run forward or backward.

    ## Description
    A planar robot with six joints has to run fast in the task's direction, which it does not see.
    Source: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017;
    PEARL, ProMP and VariBAD have the same with dt = 0.05 s, as here (MAML: 0.01 s, which is
    ``HalfCheetahDirMAML-v0``).

    ## Rewards
    * ``reward_forward``: ``forward_reward_weight * direction * v``, where v is the displacement in
      x over dt, in m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    """


class HalfCheetahDirMAML(HalfCheetahDir):
    """HalfCheetahDir with the timing of the MAML paper.

    ## Description
    This is ``HalfCheetahDir-v0`` with one MuJoCo step per step (dt = 0.01 s, so an episode is 2 s
    and not 10 s). Source: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", 2017. Its code takes the velocity of the torso's centre of mass at the end of the
    step; here it is the displacement of the torso over dt. Returns are not comparable with those of
    ``HalfCheetahDir-v0``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``frame_skip`` | 1 | number of MuJoCo steps (0.01 s) in a step; dt = 0.01 s |
    """

    def __init__(self, **robot: Any) -> None:
        super().__init__(**{"frame_skip": 1, **robot})


class HalfCheetahCripple(_HalfCheetah):
    """HalfCheetah with a joint whose motor is dead.

    ## Description
    A planar robot with six joints has to run forward. The motor of one joint gives no torque; which
    one, the task, the robot does not see. Source: Nagabandi et al., "Learning to Adapt in Dynamic,
    Real-World Environments Through Meta-Reinforcement Learning", 2019. The split of the joints is
    that of Lee et al., "Context-aware Dynamics Model for Generalization in Model-Based
    Reinforcement Learning", 2020. The first source simulates 0.01 s a step, the second 0.05 s, as
    here.

    ## Action Space
    ``Box(-1, 1, (6,))``: torques at the joints. The dead motor's action costs nothing.

    ## Rewards
    * ``reward_forward``: ``forward_reward_weight v``, where v is the displacement in x over dt, in
      m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``, without the dead motor.

    ## Task distribution
    ``Discrete(6)``: the dead motor, which is the hip (0), knee (1) or foot (2) of the back leg, or
    that of the front leg (3, 4, 5). Training and validation have 0, 1, 2 and 3; test has 4 and 5.
    """

    def __init__(self, **robot: Any) -> None:
        super().__init__(**robot)
        space = spaces.Discrete(6)
        train = FiniteTasks(space, np.arange(4))
        self.task_split = TaskSplit(train, train, FiniteTasks(space, np.arange(4, 6)))

    def marked_motors(self, params: Tasks) -> Any:
        """Returns the dead motor."""
        return params

    def control(self, action: Any, params: Tasks) -> Any:
        """Returns the actions, with 0 for the dead motor."""
        xp = array_namespace(action)
        joints = xp.arange(action.shape[1], device=device(action))
        return xp.where(joints == params[:, None], 0.0, action)

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns velocity along x, and control cost."""
        forward = self.velocity(state, next_state)[:, 0]
        return {
            "reward_forward": self.forward_reward_weight * forward,
            "reward_ctrl": control_cost(self.ctrl_cost_weight, self.control(action, params)),
        }
