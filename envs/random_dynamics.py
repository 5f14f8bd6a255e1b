"""Walker2d and Hopper whose masses, inertias, frictions and dampings are the task."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.physics.batch import ModelPerTask, MujocoBatch
from meta_rl.tasks import SampledTasks, Tasks, TaskSplit
from meta_rl.vector.streams import Draws

from .robot import FallingRobot, RobotState, listed_split
from .walkers import Hopper, Walker2d

BASES = {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}
# The world has no mass, and the three coordinates of the root have no damping.
VARIED = {
    "body_mass": slice(1, None),
    "body_inertia": slice(1, None),
    "geom_friction": slice(None),
    "dof_damping": slice(3, None),
}


class _RandomDynamics(FallingRobot):
    """Base class of robots that run forward with dynamics that the task scales.

    ## Rewards
    * ``reward_forward``: ``forward_reward_weight v``, where v is the displacement in x over dt, in
      m/s.
    * ``reward_ctrl``: ``-ctrl_cost_weight ‖action‖²``.
    * ``reward_survive``: ``healthy_reward`` while healthy.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``num_train_tasks`` | 40 | length of the training list; ``None``: the whole range |
    | ``log_scale_limit`` | 3.0 | largest absolute exponent of a multiplier |
    | ``physically_consistent`` | False | whether inertia scales with mass |
    | ``frame_skip`` | 8 | number of MuJoCo steps (0.002 s) in a step; dt = 0.016 s |
    """

    def __init__(
        self,
        *,
        num_train_tasks: int | None = 40,
        log_scale_limit: float = 3.0,
        physically_consistent: bool = False,
        forward_reward_weight: float = 1.0,
        **robot: Any,
    ) -> None:
        super().__init__(**{"frame_skip": 8, **robot})
        self.forward_reward_weight = check_number(
            "forward_reward_weight", forward_reward_weight, least=0
        )
        self.physically_consistent = physically_consistent
        self._models = ModelPerTask(
            self.batch.model, VARIED, lists_contacts=self.batch.lists_contacts
        )
        self.task_split = _dynamics_split(
            self.batch, log_scale_limit, physically_consistent, num_train_tasks
        )

    def models(self, params: Tasks) -> list[Any]:
        """Returns the model of each task, which is compiled anew only where a task has changed."""
        if self.physically_consistent:
            params = {**params, "body_inertia": params["body_mass"][:, :, None]}
        return self._models.scaled(params)

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns velocity along x, control cost, and reward for not falling."""
        forward = self.forward_reward_weight * self.velocity(state, next_state)[:, 0]
        return {"reward_forward": forward, **self.standing_terms(action, next_state)}


class Walker2dRandParams(_RandomDynamics, Walker2d):
    """Walker2d with random masses, inertias, frictions and dampings.

    ## Description
    A planar robot with two legs has to walk forward. Its dynamics, which it does not see, are the
    task. Source: the rand_param_envs of Rakelly et al., "Efficient Off-Policy Meta-Reinforcement
    Learning via Probabilistic Context Variables", 2019, after ProMP. Its robot is an old model with
    a control step of 0.016 s and foot frictions of 0.9; here it is Walker2d-v5 (friction 1.9) with
    the same step. As in the source, inertia varies independently of mass, which no rigid body can
    do; ``physically_consistent=True`` scales a body's inertia with its mass.

    ## Task distribution
    A ``Dict`` of multipliers of the model's values, one for each element: ``body_mass`` ``[7]``,
    ``body_inertia`` ``[7, 3]`` (not if ``physically_consistent``) and ``geom_friction`` ``[8, 3]``
    are 1.5 to the power of u, ``dof_damping`` ``[6]`` is 1.3 to the power of u, with u uniform in
    ``[-log_scale_limit, log_scale_limit]``. Quantities that MuJoCo derives from them are computed
    anew. Frozen, seeded lists as in PEARL: 40 for training, 10 for test, and 10 for validation.
    ``ood`` has exponents with absolute values between 3 and 4.
    """


class HopperRandParams(_RandomDynamics, Hopper):
    """Hopper with random masses, inertias, frictions and dampings.

    ## Description
    A planar robot with one leg has to hop forward. Its dynamics, which it does not see, are the
    task. Source: the rand_param_envs of Rakelly et al., "Efficient Off-Policy Meta-Reinforcement
    Learning via Probabilistic Context Variables", 2019, after ProMP. Its robot is an old model with
    a control step of 0.016 s; here it is Hopper-v5 with the same step. As in the source, inertia
    varies independently of mass, which no rigid body can do; ``physically_consistent=True`` scales
    a body's inertia with its mass.

    ## Task distribution
    A ``Dict`` of multipliers of the model's values, one for each element: ``body_mass`` ``[4]``,
    ``body_inertia`` ``[4, 3]`` (not if ``physically_consistent``) and ``geom_friction`` ``[5, 3]``
    are 1.5 to the power of u, ``dof_damping`` ``[3]`` is 1.3 to the power of u, with u uniform in
    ``[-log_scale_limit, log_scale_limit]``. Quantities that MuJoCo derives from them are computed
    anew. Frozen, seeded lists as in PEARL: 40 for training, 10 for test, and 10 for validation.
    ``ood`` has exponents with absolute values between 3 and 4.
    """


def _dynamics_split(
    batch: MujocoBatch, limit: float, physically_consistent: bool, num_train: int | None
) -> TaskSplit:
    limit = check_number("log_scale_limit", limit, least=0)
    beyond = limit * 4 / 3
    shapes = {name: getattr(batch.model, name)[index].shape for name, index in VARIED.items()}
    if physically_consistent:
        del shapes["body_inertia"]
    space = spaces.Dict(
        {
            name: spaces.Box(BASES[name] ** -beyond, BASES[name] ** beyond, shape, np.float64)
            for name, shape in shapes.items()
        }
    )
    return listed_split(
        SampledTasks(space, partial(_multipliers, shapes, 0.0, limit)),
        num_train=num_train,
        num_test=10,
        seed=2026,
        ood=SampledTasks(space, partial(_multipliers, shapes, limit, beyond)),
    )


def _multipliers(
    shapes: dict[str, tuple[int, ...]],
    least: float,
    most: float,
    num_tasks: int,
    rng: np.random.Generator,
) -> Tasks:
    """Returns powers of the bases with absolute exponents between ``least`` and ``most``."""
    tasks = {}
    for name, shape in shapes.items():
        exponents = rng.uniform(least, most, (num_tasks, *shape))
        signs = rng.choice([-1.0, 1.0], exponents.shape)
        tasks[name] = BASES[name] ** (signs * exponents)
    return tasks
