"""Points on a plane that look for a goal that they do not see, with a dense reward."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_count, check_number
from meta_rl.definition import TaskFuncEnv, zeros_for
from meta_rl.rendering import map_picture as picture
from meta_rl.tasks import FiniteTasks, SampledTasks, Tasks, TaskSplit
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

MAX_STEP = 0.1
"""Distance that an action of 1 moves the point along its axis."""


class PointState(NamedTuple):
    """Position of each point.

    Attributes:
        position: Position (x, y), float64 ``[N, 2]``.
    """

    position: np.ndarray


class PlanarPoint(TaskFuncEnv):
    """Base class of points on a plane, which start at the origin and are moved by actions.

    Args:
        horizon: Number of steps in an episode.
        episodes_per_trial: Number of episodes on one task.
        reach: Largest distance from the origin along an axis, for the observation space.

    ## Action Space
    ``Box(-1, 1, (2,))``: the move along x and y in units of 0.1, clipped.

    ## Observation Space
    ``Box((2,))``: x and y of the point.

    ## Starting State
    The point starts at the origin.

    ## Episode End
    The episode is *truncated* after ``horizon`` steps.

    ## Adaptation
    The agent adapts after every episode; a trial is ``episodes_per_trial`` episodes.

    ## Version History
    * v0: initial.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    picture_centre = (0.0, 0.0)
    picture_half_width = 1.5

    def __init__(self, horizon: int, episodes_per_trial: int, reach: float) -> None:
        super().__init__()
        self.horizon = check_count("horizon", horizon)
        self.episodes_per_trial = check_count("episodes_per_trial", episodes_per_trial)
        self.observation_space = spaces.Box(-reach, reach, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def goals(self, params: Tasks) -> Any:
        """Returns the goals of the points, ``[N, 2]``; by default they are the tasks."""
        return params

    def initial(self, rng: Draws, params: Tasks) -> PointState:
        """Returns states at the origin."""
        return PointState(zeros_for(params, (2,)))

    def transition(self, state: PointState, action: Any, rng: Draws, params: Tasks) -> PointState:
        """Moves by ``MAX_STEP`` times the action, clipped to [-1, 1]."""
        return PointState(state.position + MAX_STEP * action.clip(-1.0, 1.0))

    def observation(self, state: PointState, rng: Draws, params: Tasks) -> Any:
        """Returns the position."""
        return array_namespace(state.position).asarray(state.position, copy=True)

    def distance(self, state: PointState, params: Tasks) -> Any:
        """Returns the Euclidean distance to the goal, ``[N]``."""
        xp = array_namespace(state.position)
        return xp.linalg.vector_norm(state.position - self.goals(params), axis=-1)

    def reward_terms(
        self, state: PointState, action: Any, next_state: PointState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns the negative distance after the move."""
        return {"reward_distance": -self.distance(next_state, params)}

    def goal_radius_drawn(self) -> float:
        """Returns the drawn radius of the goal's zone, in units of the plane; 0 for no zone."""
        return 0.0

    def render_frames(self, state: PointState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws the plane from above: origin grey, goal green (its zone paler), point blue."""
        pixels = partial(
            picture.plane_pixels, centre=self.picture_centre, half_width=self.picture_half_width
        )
        per_unit = picture.PLANE_PIXELS / (2.0 * self.picture_half_width)
        frames = picture.empty_planes(len(params))
        goals = pixels(self.goals(params))
        if self.goal_radius_drawn():
            zone = self.goal_radius_drawn() * per_unit
            frames = picture.paint_discs(frames, goals, zone, picture.ZONE)
        frames = picture.paint_discs(frames, pixels(np.zeros(2)), 2.5, picture.START)
        frames = picture.paint_discs(frames, goals, 5.5, picture.GOAL)
        frames = picture.paint_discs(frames, pixels(state.position), 4.5, picture.AGENT)
        return tuple(frames)


def square_ring(num: int, rng: np.random.Generator, inner: float, outer: float) -> np.ndarray:
    """Draws points uniformly between two squares around the origin, ``[num, 2]``.

    Args:
        num: Number of points.
        rng: Generator that draws them.
        inner: Half the side of the inner square.
        outer: Half the side of the outer square.
    """
    # Each point is on the border of a square of half side h, whose area grows with h²: one
    # coordinate is ±h, and the other lies between.
    half = np.sqrt(rng.uniform(inner**2, outer**2, num))
    points = np.stack([half * rng.choice([-1.0, 1.0], num), half * rng.uniform(-1, 1, num)], axis=1)
    return np.where(rng.random(num)[:, None] < 0.5, points, points[:, ::-1])


def _square(num: int, rng: np.random.Generator, half: float) -> np.ndarray:
    return rng.uniform(-half, half, (num, 2))


class PointNavigation(PlanarPoint):
    """Point navigation of the MAML paper.

    ## Description
    A point on a plane has to go to a goal that it does not see. It has to infer the goal from the
    reward. Source: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", 2017, section 5.3 (2D navigation), and the authors' code
    (``maml_examples/point_env_randgoal.py`` of https://github.com/cbfinn/maml_rl).

    ## Action Space
    ``Box(-1, 1, (2,))``: the move along x and y in units of 0.1, clipped. (The paper's space is
    [-0.1, 0.1], which its code normalises to [-1, 1] before the agent acts.)

    ## Rewards
    The reward is the negative Euclidean distance to the goal after the move: info
    ``reward_distance``. (The paper states the negative squared distance, but its code, which the
    published numbers come from, uses the distance.)

    ## Episode End
    The episode is *terminated* where the distances to the goal along x and along y are both below
    ``goal_tolerance``; *truncated* after ``horizon`` steps.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 100 | number of steps in an episode |
    | ``episodes_per_trial`` | 5 | number of episodes on a task (in the paper, 0 to 4 steps) |
    | ``goal_range`` | 0.5 | largest absolute x and y of the goal in training |
    | ``goal_tolerance`` | 0.01 | distance along both axes below which the episode ends |

    ## Task distribution
    ``Box((2,))``: the goal; uniform in the square [-0.5, 0.5]². Test: the 40 goals of the paper's
    code (numpy's legacy generator, seed 1). Validation: 40 more, seeded. ``ood``: between that
    square and the one of twice the side. The best possible return is -0.54 on average over the
    paper's goals (``meta_rl.agents.navigation``); the paper's policy that is told the goal has
    -2.29.
    """

    picture_half_width = 1.1

    def __init__(
        self,
        horizon: int = 100,
        episodes_per_trial: int = 5,
        goal_range: float = 0.5,
        goal_tolerance: float = 0.01,
    ) -> None:
        super().__init__(horizon, episodes_per_trial, reach=MAX_STEP * (horizon + 1))
        goal_range = check_number("goal_range", goal_range, above=0)
        self.goal_tolerance = check_number("goal_tolerance", goal_tolerance, above=0)
        space = spaces.Box(-2 * goal_range, 2 * goal_range, (2,), np.float64)
        train = SampledTasks(space, partial(_square, half=goal_range))
        # The published list was drawn by numpy's legacy generator.
        published = np.random.RandomState(1).uniform(-goal_range, goal_range, (40, 2))
        self.task_split = TaskSplit(
            train=train,
            validation=FiniteTasks.seeded(train, 40, seed=2017),
            test=FiniteTasks(space, published),
            ood=SampledTasks(space, partial(square_ring, inner=goal_range, outer=2 * goal_range)),
        )

    def terminal(self, state: PointState, rng: Draws, params: Tasks) -> Any:
        """Returns whether the point is at the goal."""
        xp = array_namespace(state.position)
        return xp.all(xp.abs(state.position - params) < self.goal_tolerance, axis=-1)


class PointRobot(PlanarPoint):
    """Point robot of PEARL's code, with a dense reward.

    ## Description
    A point on a plane has to go to a goal that it does not see. Unlike in ``PointNavigation``, the
    point starts anywhere, episodes are short, and nothing ends them early. Source: the code of
    Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
    Variables", 2019 (``rlkit/envs/point_robot.py`` of https://github.com/katerakelly/oyster).

    ## Action Space
    ``Box(-1, 1, (2,))``: the move along x and y in units of 0.1, clipped (as the authors' training
    normalises the space [-0.1, 0.1]).

    ## Rewards
    The reward is the negative Euclidean distance to the goal after the move: info
    ``reward_distance``.

    ## Starting State
    The start is uniform in the square [-1, 1]².

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 20 | number of steps in an episode |
    | ``episodes_per_trial`` | 3 | number of episodes on one task |

    ## Task distribution
    ``Box(-2, 2, (2,))``: the goal. Train and test: the first 80 and the last 20 of the authors' 100
    goals, uniform in [-1, 1]² (numpy's legacy generator, seed 1337). Validation: 20 more, seeded.
    ``ood``: between that square and the one of twice the side.
    """

    picture_half_width = 2.1

    def __init__(self, horizon: int = 20, episodes_per_trial: int = 3) -> None:
        super().__init__(horizon, episodes_per_trial, reach=1.0 + MAX_STEP * (horizon + 1))
        space = spaces.Box(-2.0, 2.0, (2,), np.float64)
        published = np.random.RandomState(1337).uniform(-1.0, 1.0, (100, 2))
        self.task_split = TaskSplit(
            train=FiniteTasks(space, published[:80]),
            validation=FiniteTasks.seeded(
                SampledTasks(space, partial(_square, half=1.0)), 20, seed=2019
            ),
            test=FiniteTasks(space, published[80:]),
            ood=SampledTasks(space, partial(square_ring, inner=1.0, outer=2.0)),
        )

    def initial(self, rng: Draws, params: Tasks) -> PointState:
        """Draws a start anywhere in the square."""
        return PointState(rng.uniform(-1.0, 1.0, (len(params), 2)))
