"""A point that looks for a goal on a half circle, with a sparse reward."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_number
from meta_rl.tasks import FiniteTasks, SampledTasks, Tasks, TaskSplit
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

from .point_navigation import MAX_STEP, PlanarPoint, PointState


class SparsePointNavigation(PlanarPoint):
    """Point navigation with a sparse reward on a half circle.

    ## Description
    A point at the centre of a half circle looks for a goal on it, and is paid only near the goal.
    It has to search in the first episodes, and to return to the goal in the later ones.

    There are two sources. The default is that of the code of Rakelly et al., "Efficient Off-Policy
    Meta-Reinforcement Learning via Probabilistic Context Variables" (PEARL), 2019
    (``SparsePointEnv`` of https://github.com/katerakelly/oyster): 20 steps and a fixed list of
    goals. PEARL trains the policy with the dense reward (``reward="dense"``), while context and
    evaluation have the sparse one. For the version of Zintgraf et al., "VariBAD", 2020
    (https://github.com/lmzintgraf/varibad), use ``horizon=100, episodes_per_trial=3,
    continuous_goals=True``: the reward is always sparse, and goals are uniform on the half circle.

    ## Rewards
    The reward ``"sparse"`` is 1 minus the distance to the goal where that is at most
    ``goal_radius``, otherwise 0: info ``reward_goal``. The reward ``"dense"`` is the negative
    distance: info ``reward_distance``. Infos hold both, as ``sparse_reward`` and ``dense_reward``.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 20 | number of steps in an episode |
    | ``episodes_per_trial`` | 6 | number of episodes on one task (PEARL explores in the first 5) |
    | ``goal_radius`` | 0.2 | distance from the goal within which the sparse reward is paid |
    | ``reward`` | ``"sparse"`` | reward that is paid, ``"sparse"`` or ``"dense"`` |
    | ``continuous_goals`` | ``False`` | whether to train on the half circle, not on PEARL's list |

    ## Task distribution
    ``Box(-1, 1, (2,))``: the goal, at distance 1 from the origin, with y not negative. Train and
    test: the first 80 and the last 20 of 100 equally spaced goals, in PEARL's order (numpy's legacy
    generator, seed 1337); neighbours are 0.03 apart, so that nearly every test goal lies within the
    radius of a training goal. Validation: 20 more, seeded. With ``continuous_goals``, train is
    uniform on the half circle. ``ood``: uniform on the other half (y negative).
    """

    picture_half_width = 1.3

    def __init__(
        self,
        horizon: int = 20,
        episodes_per_trial: int = 6,
        goal_radius: float = 0.2,
        reward: str = "sparse",
        continuous_goals: bool = False,
    ) -> None:
        super().__init__(horizon, episodes_per_trial, reach=MAX_STEP * (horizon + 1))
        self.goal_radius = check_number("goal_radius", goal_radius, above=0)
        if reward not in ("sparse", "dense"):
            raise ValueError(f"reward has to be 'sparse' or 'dense', got {reward!r}")
        self.reward_kind = reward
        space = spaces.Box(-1.0, 1.0, (2,), np.float64)
        published = on_circle(np.linspace(0.0, np.pi, 100))
        np.random.RandomState(1337).shuffle(published)
        half_circle = SampledTasks(space, _upper_half)
        self.task_split = TaskSplit(
            train=half_circle if continuous_goals else FiniteTasks(space, published[:80]),
            validation=FiniteTasks.seeded(half_circle, 20, seed=2019),
            test=FiniteTasks(space, published[80:]),
            ood=SampledTasks(space, _lower_half),
        )

    def sparse_reward(self, distance: Any) -> Any:
        """Returns 1 minus the distance within the radius, otherwise 0, ``[N]``."""
        xp = array_namespace(distance)
        return xp.where(distance <= self.goal_radius, 1.0 - distance, 0.0)

    def reward_terms(
        self, state: PointState, action: Any, next_state: PointState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns the sparse or the dense reward after the move, as ``reward`` says."""
        distance = self.distance(next_state, params)
        if self.reward_kind == "dense":
            return {"reward_distance": -distance}
        return {"reward_goal": self.sparse_reward(distance)}

    def transition_info(
        self, state: PointState, action: Any, next_state: PointState, params: Tasks
    ) -> dict[str, Any]:
        """Returns both rewards, whichever is paid."""
        distance = self.distance(next_state, params)
        return {"sparse_reward": self.sparse_reward(distance), "dense_reward": -distance}

    def goal_radius_drawn(self) -> float:
        """Returns the radius of the zone that pays."""
        return self.goal_radius


def on_circle(angles: Any) -> np.ndarray:
    """Returns points at distance 1 from the origin, ``[N, 2]``, at angles ``[N]`` in radians."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _upper_half(num: int, rng: np.random.Generator) -> np.ndarray:
    return on_circle(rng.uniform(0.0, np.pi, num))


def _lower_half(num: int, rng: np.random.Generator) -> np.ndarray:
    return on_circle(rng.uniform(-np.pi, 0.0, num))
