"""A point on its way to a fixed goal in a wind that it does not see."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from array_api_compat import device
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.definition import ones_where
from meta_rl.tasks import FiniteTasks, SampledTasks, Tasks, TaskSplit
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

from .point_navigation import MAX_STEP, PlanarPoint, PointState, square_ring

MAX_WIND = 0.08
GOAL = (0.0, 1.0)


class WindNavigation(PlanarPoint):
    """Point navigation to a fixed goal in an unknown wind.

    ## Description
    A point has to reach a goal that is always the same, while a constant wind, the task, moves it
    at every step. Only the goal pays, but a single step reveals the wind. Source: the code of Ni et
    al., "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs", 2022
    (``envs/meta/toy_navigation/wind.py`` of https://github.com/twni2016/pomdp-baselines; the
    environment follows Dorfman et al., "Offline Meta Reinforcement Learning", 2021).

    ## Action Space
    ``Box(-1, 1, (2,))``: the move along x and y in units of 0.1, clipped; the wind is added.

    ## Rewards
    The reward is 1 within ``goal_radius`` of the goal (0, 1) after the move, otherwise 0: info
    ``reward_goal``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 75 | number of steps in an episode |
    | ``episodes_per_trial`` | 1 | number of episodes on one task |
    | ``goal_radius`` | 0.03 | distance from the goal within which it pays |

    ## Task distribution
    ``Box(-0.1, 0.1, (2,))``: the wind, in units of the plane per step. Train and test: the first 40
    and the last 20 of the authors' 60 winds, uniform in [-0.08, 0.08]² (numpy's legacy generator,
    seed 1337). Validation: 20 more, seeded. ``ood``: stronger along at least one axis, up to the
    point's own 0.1.
    """

    picture_centre = (0.0, 0.5)
    picture_half_width = 1.1

    def __init__(
        self, horizon: int = 75, episodes_per_trial: int = 1, goal_radius: float = 0.03
    ) -> None:
        super().__init__(horizon, episodes_per_trial, reach=2 * MAX_STEP * (horizon + 1))
        self.goal_radius = check_number("goal_radius", goal_radius, above=0)
        space = spaces.Box(-MAX_STEP, MAX_STEP, (2,), np.float64)
        published = np.random.RandomState(1337).uniform(-MAX_WIND, MAX_WIND, (60, 2))
        train = FiniteTasks(space, published[:40])
        fresh = SampledTasks(space, _winds)
        self.task_split = TaskSplit(
            train=train,
            validation=FiniteTasks.seeded(fresh, 20, seed=2022),
            test=FiniteTasks(space, published[40:]),
            ood=SampledTasks(space, partial(square_ring, inner=MAX_WIND, outer=MAX_STEP)),
        )

    def goals(self, params: Tasks) -> Any:
        """Returns the goal, which is the same for all tasks."""
        xp = array_namespace(params)
        goal = xp.asarray(GOAL, dtype=params.dtype, device=device(params))
        return xp.broadcast_to(goal, params.shape)

    def transition(self, state: PointState, action: Any, rng: Draws, params: Tasks) -> PointState:
        """Moves by the action and by the wind."""
        moved = super().transition(state, action, rng, params)
        return PointState(moved.position + params)

    def reward_terms(
        self, state: PointState, action: Any, next_state: PointState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns 1 at the goal, otherwise 0."""
        at_goal = self.distance(next_state, params) <= self.goal_radius
        return {"reward_goal": ones_where(at_goal)}

    def goal_radius_drawn(self) -> float:
        """Returns the radius of the zone that pays."""
        return self.goal_radius


def _winds(num: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-MAX_WIND, MAX_WIND, (num, 2))
