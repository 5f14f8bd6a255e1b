"""Base classes of the robot families: MuJoCo states, first states with noise, task splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_finite_array, check_number
from meta_rl.definition import TaskFuncEnv
from meta_rl.physics.batch import MujocoBatch, Sensor
from meta_rl.rendering.mujoco_picture import RobotCamera, RobotWindow, Scene
from meta_rl.tasks import (
    FiniteTasks,
    SampledTasks,
    TaskDistribution,
    Tasks,
    TaskSplit,
    check_count,
    count_tasks,
)
from meta_rl.vector.arrays import array_namespace
from meta_rl.vector.streams import Draws

Range = tuple[float, float]


class RobotState(NamedTuple):
    """The state of ``N`` robots.

    Attributes:
        physics: Full physics state of MuJoCo (time, ``qpos``, ``qvel``), ``[N, nstate]``.
        sensors: Measurements of the family's sensors in this state, ``[N, nsensordata]``.
    """

    physics: np.ndarray
    sensors: np.ndarray


class Robot(TaskFuncEnv):
    """Base class of Gymnasium's robots on a batch of tasks; families add tasks, reward and end.

    Args:
        xml_file: Model file that Gymnasium ships, or a path.
        frame_skip: Number of calls of ``mj_step`` in one step of the environment.
        reset_noise_scale: Scale of the noise on the model's own first state, from 0 on.
        sensors: Sensors that are compiled into the model for :attr:`RobotState.sensors`.

    Raises:
        ValueError: An argument is outside its range; the message says which.

    ## Episode End
    The episode is *truncated* after ``horizon`` steps; never terminated.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``horizon`` | 200 | number of steps in an episode |
    | ``nthread`` | None | number of threads that step the batch (default: all cores) |
    | ``width``, ``height`` | 480 | size of a rendered frame, in pixels |

    ## Adaptation
    The agent adapts after every episode; a trial is two episodes.

    ## Version History
    * v0: initial.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    episodes_per_trial = 2
    numpy_only = True  # MuJoCo's batch
    num_excluded_positions = 1
    gaussian_velocity_noise = False
    velocity_limit = math.inf
    camera: ClassVar[dict[str, Any]] = {
        "distance": 4.0,
        "elevation": -20.0,
        "azimuth": 90.0,
        "track": True,
    }

    def __init__(
        self,
        *,
        xml_file: str,
        frame_skip: int,
        reset_noise_scale: float,
        horizon: int = 200,
        exclude_current_positions_from_observation: bool = True,
        nthread: int | None = None,
        width: int = 480,
        height: int = 480,
        sensors: Sequence[Sensor] = (),
    ) -> None:
        super().__init__()
        self.horizon = check_count("horizon", horizon)
        self.reset_noise_scale = check_number("reset_noise_scale", reset_noise_scale, least=0)
        self.exclude_current_positions_from_observation = exclude_current_positions_from_observation
        self.batch = MujocoBatch(xml_file, frame_skip, nthread=nthread, sensors=sensors)
        self.steps_on_threads = self.batch.nthread > 1
        model = self.batch.model
        self._skipped = self.num_excluded_positions * exclude_current_positions_from_observation
        size = model.nq + model.nv - self._skipped
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        # The frame rate depends on frame_skip, which is an argument: the class cannot hold it.
        vars(self)["metadata"] = {**self.metadata, "render_fps": round(1 / self.batch.dt)}
        self.width = check_count("width", width)
        self.height = check_count("height", height)
        self._camera: RobotCamera | None = None

    def initial(self, rng: Draws, params: Tasks) -> RobotState:
        """Returns the model's own first state with noise as Gymnasium draws it."""
        model, scale = self.batch.model, self.reset_noise_scale
        num = count_tasks(params)
        qpos = self.batch.init_qpos + rng.uniform(-scale, scale, (num, model.nq))
        if self.gaussian_velocity_noise:
            qvel = scale * rng.standard_normal((num, model.nv))
        else:
            qvel = rng.uniform(-scale, scale, (num, model.nv))
        return self.state(qpos, qvel)

    def state(self, qpos: np.ndarray, qvel: np.ndarray) -> RobotState:
        """Returns states at time 0 with positions ``[N, nq]`` and velocities ``[N, nv]``."""
        physics = self.batch.physics(qpos, qvel)
        return RobotState(physics, self.batch.sense(physics))

    def transition(self, state: RobotState, action: Any, rng: Draws, params: Tasks) -> RobotState:
        """Takes ``frame_skip`` steps of MuJoCo, natively for the whole batch."""
        control, models = self.control(action, params), self.models(params)
        physics = self.batch.step(state.physics, control, models)
        return RobotState(physics, self.batch.sense(physics))

    def control(self, action: Any, params: Tasks) -> Any:
        """Returns the actuators' input, ``[N, nu]``; by default it is the action itself."""
        return action

    def models(self, params: Tasks) -> list[Any] | None:
        """Returns one ``MjModel`` per sub-environment, where the dynamics depend on the task."""
        return None

    def observation(self, state: RobotState, rng: Draws, params: Tasks) -> Any:
        """Returns positions (without the excluded ones) and clipped velocities, ``[N, ...]``."""
        xp = array_namespace(state.physics)
        velocities = self.qvel(state).clip(-self.velocity_limit, self.velocity_limit)
        return xp.concat([self.qpos(state)[:, self._skipped :], velocities], axis=1)

    def qpos(self, state: RobotState) -> Any:
        """Returns positions of the joints, ``[N, nq]``."""
        return self.batch.qpos(state.physics)

    def qvel(self, state: RobotState) -> Any:
        """Returns velocities of the joints, ``[N, nv]``."""
        return self.batch.qvel(state.physics)

    def velocity(self, state: RobotState, next_state: RobotState) -> Any:
        """Returns the displacement of the root over dt, ``[N, d]`` in m/s; x comes first."""
        axes = self.num_excluded_positions
        moved = self.qpos(next_state)[:, :axes] - self.qpos(state)[:, :axes]
        return moved / self.batch.dt

    def transition_info(
        self, state: RobotState, action: Any, next_state: RobotState, params: Tasks
    ) -> dict[str, Any]:
        """Returns ``x_position`` in m and ``x_velocity`` in m/s, ``[N]`` each, as in Gymnasium."""
        xp = array_namespace(next_state.physics)
        return {
            "x_position": xp.asarray(self.qpos(next_state)[:, 0], copy=True),
            "x_velocity": self.velocity(state, next_state)[:, 0],
        }

    forward_reward_weight = 1.0

    def standing_terms(self, action: Any, next_state: RobotState) -> dict[str, Any]:
        """Returns the terms of the reward that do not depend on the task (default: none)."""
        return {}

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns arrows to draw above the robots, ``[N, 3]`` in m; ``None`` draws nothing."""
        return None

    def goal_points(self, params: Tasks) -> Any:
        """Returns positions to draw a ball at, ``[N, 3]`` in m; ``None`` draws nothing."""
        return None

    def marked_motors(self, params: Tasks) -> Any:
        """Returns motors to draw a small ball at, int ``[N]``; ``None`` draws nothing."""
        return None

    def render_frames(self, state: RobotState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws one frame per sub-environment, uint8 ``[height, width, 3]``, with the goal in it.

        Raises:
            RuntimeError: No OpenGL backend works on this machine.
        """
        if self._camera is None:
            size = self.width, self.height
            self._camera = RobotCamera(self.batch.xml_file, *size, **self.camera)
        return tuple(self._camera.draw(*scene) for scene in self._scenes(state, params))

    def open_window(self) -> RobotWindow:
        """Opens a window with the robot and its goal, in which the mouse turns the camera.

        Raises:
            RuntimeError: There is no screen.
        """
        size = self.width, self.height
        return RobotWindow(self._scenes, self.batch.xml_file, *size, **self.camera)

    def _scenes(self, state: RobotState, params: Tasks) -> Iterable[Scene]:
        qpos = self.qpos(state)
        markers = self.goal_arrows(params), self.goal_points(params), self.marked_motors(params)
        nothing = [None] * len(qpos)
        return zip(qpos, *(nothing if m is None else m for m in markers), strict=True)

    def close(self) -> None:
        """Ends the threads, and releases the renderer."""
        self.batch.close()
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def __getstate__(self) -> dict[str, Any]:
        # OpenGL cannot be pickled or copied: a copy makes its own camera.
        return {**self.__dict__, "_camera": None}


class FallingRobot(Robot):
    """Base class of robots that may fall, are rewarded for being healthy, and may end the episode.

    Args:
        healthy_z_range: Range of healthy heights of the root, in m.
        ctrl_cost_weight: Weight of the squared actions, from 0 on.
        **robot: Arguments of :class:`Robot`, and those below.

    ## Episode End
    The episode is *terminated* when the robot is unhealthy; *truncated* after ``horizon`` steps.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``healthy_reward`` | 1.0 | reward for a step that ends healthy |
    | ``terminate_when_unhealthy`` | True | whether falling ends the episode |
    """

    def __init__(
        self,
        *,
        healthy_reward: float,
        healthy_z_range: Range,
        ctrl_cost_weight: float,
        terminate_when_unhealthy: bool = True,
        **robot: Any,
    ) -> None:
        super().__init__(**robot)
        self.healthy_reward = check_number("healthy_reward", healthy_reward, least=0)
        self.healthy_z_range = check_range("healthy_z_range", healthy_z_range)
        self.ctrl_cost_weight = check_number("ctrl_cost_weight", ctrl_cost_weight, least=0)
        self.terminate_when_unhealthy = terminate_when_unhealthy

    def is_healthy(self, state: RobotState) -> Any:
        """Returns which robots have not fallen, bool ``[N]``."""
        raise NotImplementedError

    def terminal(self, state: RobotState, rng: Draws, params: Tasks) -> Any:
        """Returns whether the robot is unhealthy and ``terminate_when_unhealthy`` is set."""
        return self.terminate_when_unhealthy & ~self.is_healthy(state)

    def standing_terms(self, action: Any, next_state: RobotState) -> dict[str, Any]:
        """Returns the terms that do not depend on the task: ``reward_ctrl``, ``reward_survive``."""
        return {
            "reward_ctrl": control_cost(self.ctrl_cost_weight, action),
            "reward_survive": self.healthy_reward * self.is_healthy(next_state),
        }


class TwoDirections(Robot):
    """Base class of robots whose task is to run forward or backward along x.

    ## Task distribution
    ``Box(-1, 1, (1,))``: -1 (backward) or +1 (forward), and no other value. There are only two
    tasks: validation and test equal train, as in all the sources.
    """

    def __init__(self, **robot: Any) -> None:
        super().__init__(**robot)
        both = FiniteTasks(spaces.Box(-1.0, 1.0, (1,), np.float64), [[-1.0], [1.0]])
        self.task_split = TaskSplit(train=both, validation=both, test=both)

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses directions other than -1 and +1."""
        wrong = np.abs(tasks[:, 0]) != 1.0
        if wrong.any():
            task = int(np.argmax(wrong))
            raise ValueError(f"task {task} has to be -1 or +1, got {tasks[task]}")

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the direction as an arrow."""
        return along_x(params)

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns velocity in the task's direction, and :meth:`standing_terms`."""
        along = self.velocity(state, next_state)[:, 0] * params[:, 0]
        terms = self.standing_terms(action, next_state)
        return {"reward_forward": self.forward_reward_weight * along, **terms}


class GoalVelocity(Robot):
    """Base class of robots whose task is a goal velocity along x.

    Tasks are velocities in m/s, ``Box(low, high + (high - low) / 3, (1,))``: uniform within the
    range; ``ood`` is uniform above it, over a third of its width.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``goal_velocity_range`` | (0, 3) | range of the goals, in m/s |
    | ``num_train_tasks`` | 100 | length of the training list; ``None``: the whole range |
    """

    split_seed: ClassVar[int]
    reward_at_goal = 0.0

    def __init__(
        self, goal_velocity_range: Range, num_train_tasks: int | None = 100, **robot: Any
    ) -> None:
        super().__init__(**robot)
        low, high = check_range("goal_velocity_range", goal_velocity_range)
        check_finite_array("goal_velocity_range", [low, high])
        beyond = high + (high - low) / 3
        space = spaces.Box(low, beyond, (1,), np.float64)
        self.task_split = listed_split(
            SampledTasks(space, partial(_uniform, low, high)),
            num_train=num_train_tasks,
            num_test=30,
            seed=self.split_seed,
            ood=SampledTasks(space, partial(_uniform, high, beyond)),
        )

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the goal velocity as an arrow, half a metre long for 1 m/s."""
        return along_x(0.5 * params)

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns distance from the goal velocity, and :meth:`standing_terms`."""
        miss = abs(self.velocity(state, next_state)[:, 0] - params[:, 0])
        forward = self.reward_at_goal - self.forward_reward_weight * miss
        return {"reward_forward": forward, **self.standing_terms(action, next_state)}


class GoalDirection(Robot):
    """Base class of robots whose task is a direction in the plane.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``num_train_tasks`` | 100 | length of the training list; ``None``: all directions |

    ## Task distribution
    ``Box(0, 2π, (1,))``: the direction as an angle in radians; 0 is the x axis, π/2 the y axis.
    Uniform; frozen, seeded lists as in PEARL: 100 for training, 30 for test, and 30 for validation.
    There is no ``ood``, since all directions are in the training range.
    """

    split_seed: ClassVar[int]

    def __init__(self, num_train_tasks: int | None = 100, **robot: Any) -> None:
        super().__init__(**robot)
        space = spaces.Box(0.0, 2 * np.pi, (1,), np.float64)
        tasks = SampledTasks(space, partial(_uniform, 0.0, 2 * np.pi))
        self.task_split = listed_split(
            tasks, num_train=num_train_tasks, num_test=30, seed=self.split_seed
        )

    def goal_arrows(self, params: Tasks) -> Any:
        """Returns the direction as an arrow."""
        return in_plane(directions(params))

    def reward_terms(
        self, state: RobotState, action: Any, next_state: RobotState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns velocity along the direction, and :meth:`standing_terms`."""
        along = (self.velocity(state, next_state) * directions(params)).sum(axis=1)
        terms = self.standing_terms(action, next_state)
        return {"reward_forward": self.forward_reward_weight * along, **terms}


def control_cost(weight: float, action: Any) -> Any:
    """Returns ``-weight ‖a‖²``, ``[N]``; actions are not clipped first, as in Gymnasium."""
    xp = array_namespace(action)
    action = xp.astype(action, xp.float64)
    return -weight * xp.sum(action * action, axis=1)


def is_within(values: Any, limits: Range) -> Any:
    """Returns whether values lie strictly between the limits, bool ``[N]``; nan does not."""
    return (limits[0] < values) & (values < limits[1])


def directions(angles: Any) -> Any:
    """Returns unit vectors ``[N, 2]`` at angles ``[N, 1]`` in radians, from x (0) to y (π/2)."""
    xp = array_namespace(angles)
    return xp.concat([xp.cos(angles), xp.sin(angles)], axis=1)


def along_x(lengths: Any) -> Any:
    """Returns vectors ``[N, 3]`` along the x axis, of lengths ``[N, 1]``."""
    xp = array_namespace(lengths)
    return xp.concat([lengths, xp.zeros_like(lengths), xp.zeros_like(lengths)], axis=1)


def in_plane(vectors: Any, height: float = 0.0) -> Any:
    """Appends a height in m to vectors in the plane, ``[N, 2]``: ``[N, 3]``."""
    xp = array_namespace(vectors)
    return xp.concat([vectors, xp.full_like(vectors[:, :1], height)], axis=1)


def check_range(name: str, value: Range) -> Range:
    """Returns ``value`` as two increasing floats.

    Raises:
        ValueError: It is not two increasing numbers.
    """
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not low < high:
        raise ValueError(f"{name} has to be (low, high) with low < high, got {value!r}")
    return low, high


def listed_split(
    tasks: TaskDistribution,
    *,
    num_train: int | None,
    num_test: int,
    seed: int,
    ood: TaskDistribution | None = None,
) -> TaskSplit:
    """Makes frozen, seeded lists of tasks; validation is a list as long as the test list.

    Args:
        tasks: Distribution that the lists are drawn from.
        num_train: Length of the training list; ``None`` trains on the distribution itself.
        num_test: Length of the test list.
        seed: Seed of the three lists.
        ood: Distribution out of the training range, for the split (default: none).
    """
    if num_train is not None:
        check_count("num_train_tasks", num_train)
    train, validation, test = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
    return TaskSplit(
        train=tasks if num_train is None else FiniteTasks.seeded(tasks, num_train, train),
        validation=FiniteTasks.seeded(tasks, num_test, validation),
        test=FiniteTasks.seeded(tasks, num_test, test),
        ood=ood,
    )


def uniform_on_ring(inner: float, outer: float) -> Callable[..., np.ndarray]:
    """Returns a sampler of points that are uniform between two circles, ``[num_tasks, 2]``."""
    return partial(_on_ring, inner, outer)


def _on_ring(inner: float, outer: float, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
    radius = np.sqrt(rng.uniform(inner**2, outer**2, (num_tasks, 1)))
    return radius * directions(rng.uniform(0.0, 2 * np.pi, (num_tasks, 1)))


def _uniform(low: float, high: float, num_tasks: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(low, high, (num_tasks, 1))
