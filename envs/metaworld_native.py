"""Meta-World as a native batch: all 50 environments, stepped by MuJoCo's own threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from meta_rl.arguments import check_count
from meta_rl.definition import TaskFuncEnv
from meta_rl.physics.shared_rollout import SharedRollout
from meta_rl.tasks import Tasks, count_tasks
from meta_rl.vector.process_blocks import count_cores
from meta_rl.vector.streams import Draws

from .metaworld_arms import Arms
from .metaworld_environment import HIGH, Environment, Seen
from .metaworld_goals import (
    MAX_HORIZON,
    METADATA,
    benchmark_goals,
    check_goal,
    check_horizon,
    check_rewards,
    observation_space,
    split_goals,
)
from .metaworld_models import ArmModel
from .metaworld_rewards import Outcome, Step, distance
from .metaworld_starts import Start, dial
from .metaworld_table import ENVIRONMENTS

ACTION_SCALE = 0.01  # m
PHYSICS_SIZE = 48  # of the state's rows; the largest environment needs 36
MAX_BEGINNINGS = 4096  # of each environment, about 1 kB each
OPEN_WIDTH = 0.1  # in m, between the claws


class ArmState(NamedTuple):
    """The state of ``N`` arms.

    Attributes:
        physics: Full physics state of MuJoCo, padded by zeros, ``[N, 48]``.
        hand: Positions that the hand is drawn to, ``[N, 3]``.
        place: Positions of the body that the goal moves, ``[N, 3]``.
        seen: Observations, neither stacked nor clipped, ``[N, 18]``.
        before: Those of the step before.
        target: Positions that the object or the hand has to get to, ``[N, 3]``.
        object_first: First positions of the object, ``[N, 3]``.
        tcp_first: First centres of the fingers, ``[N, 3]``.
        more: Further values that rewards need, ``[N, 3]``.
        first_distance: Distances of object and target after the first step; NaN before, ``[N]``.
        outcome: Reward and infos of the last step, in the order of :class:`Outcome`, ``[N, 7]``.
    """

    physics: np.ndarray
    hand: np.ndarray
    place: np.ndarray
    seen: np.ndarray
    before: np.ndarray
    target: np.ndarray
    object_first: np.ndarray
    tcp_first: np.ndarray
    more: np.ndarray
    first_distance: np.ndarray
    outcome: np.ndarray

    def rows(self, chosen: Any) -> ArmState:
        """Returns the state of some of the arms."""
        return ArmState(*(leaf[chosen] for leaf in self))


class NativeArm:
    """One of Meta-World's environments, stepped for any number of episodes.

    Args:
        name: Name of the environment, such as ``"reach-v3"``.
        space: Space of observations, ``[36]``.
    """

    def __init__(self, name: str, space: spaces.Box) -> None:
        self.name = name
        self.environment: Environment = ENVIRONMENTS[name]
        own = self.environment
        measured = tuple(n for n in own.measured if ":" in n)
        self.arm = ArmModel(own.file, measured, moved=own.moved, touched=own.touched)
        if self.arm.size > PHYSICS_SIZE:
            raise ValueError(f"{name}: a state has {self.arm.size} numbers, over {PHYSICS_SIZE}")
        self._low, self._high = space.low[:18], space.high[:18]
        self._hand = np.array(own.hand)
        self._bounds = np.array([own.low, HIGH])
        self._beginnings: OrderedDict[bytes, ArmState] = OrderedDict()

    def begin(self, roll_out: SharedRollout, goals: np.ndarray) -> ArmState:
        """Returns the first states of episodes; those of known goals are kept.

        Args:
            roll_out: Engine that computes the steps, which several batches may share.
            goals: Goals, ``[N, 3 or 6]``.
        """
        keys = [goal.tobytes() for goal in goals]
        new = {key: place for place, key in enumerate(keys) if key not in self._beginnings}
        if new:
            first = self._simulated(roll_out, goals[list(new.values())])
            for row, key in enumerate(new):
                self._beginnings[key] = first.rows(slice(row, row + 1))
        found = [self._beginnings[key] for key in keys]
        while len(self._beginnings) > MAX_BEGINNINGS:
            self._beginnings.popitem(last=False)
        return ArmState(*(np.concatenate(leaves) for leaves in zip(*found, strict=True)))

    def _simulated(self, roll_out: SharedRollout, goals: np.ndarray) -> ArmState:
        own, num = self.environment, len(goals)
        place = np.zeros((num, 3)) if own.place is None else own.place(goals)
        place = np.where(np.isnan(place), self.arm.home, place)
        start = Start(
            self.arm,
            roll_out,
            goals,
            self._hand,
            place,
            own.more_steps,
            alike=own.settles_alike,
        )
        own.arrange(start)
        seen = self.observe(start.measured)
        physics = np.zeros((num, PHYSICS_SIZE))
        physics[:, : self.arm.size] = start.physics
        hand = np.tile(self._hand, (num, 1))
        frozen = start.target, start.object, start.tcp, start.more
        unknown, nothing = np.full(num, np.nan), np.zeros((num, len(Outcome._fields)))
        return ArmState(physics, hand, place, seen, seen, *frozen, unknown, nothing)

    def step(
        self,
        roll_out: SharedRollout,
        state: ArmState,
        action: np.ndarray,
        warmstarts: np.ndarray | None = None,
    ) -> ArmState:
        """Takes a step in every episode.

        Args:
            roll_out: Engine that computes the steps, which several batches may share.
            state: States.
            action: Actions, ``[N, 4]``.
            warmstarts: Accelerations that MuJoCo's solver starts from, ``[N, nv]``: Meta-World's
                are those of the step before, which a rollout does not tell (default: zeros).
        """
        moved = state.hand + action[:, :3].clip(-1.0, 1.0) * ACTION_SCALE
        hand = moved.clip(*self._bounds)
        physics = state.physics.copy()
        controls = self.arm.controls(action[:, 3], hand, state.place)
        physics[:, : self.arm.size], measured = self.arm.step(
            roll_out, state.physics[:, : self.arm.size], controls, warmstarts=warmstarts
        )
        seen = self.observe(measured)
        state = state._replace(physics=physics, hand=hand, seen=seen, before=state.seen)
        return self._rewarded(state, action, measured)

    def _rewarded(self, state: ArmState, action: np.ndarray, measured: np.ndarray) -> ArmState:
        now = state.seen[:, 4:7]
        first = np.isnan(state.first_distance)
        first_distance = np.where(first, distance(now, state.target), state.first_distance)
        step = Step(
            state.seen.clip(self._low, self._high),
            action,
            measured,
            self.arm.places,
            state.target,
            state.object_first,
            state.tcp_first,
            state.more,
            first_distance,
            self.arm.touches(measured),
            self._hand,
        )
        outcome = np.empty_like(state.outcome)
        for column, part in enumerate(self.environment.reward(step)):
            outcome[:, column] = part
        return state._replace(first_distance=first_distance, outcome=outcome)

    def observe(self, measured: np.ndarray) -> np.ndarray:
        """Returns observations, ``[N, 18]``: hand, gripper, and up to two objects."""
        places = self.arm.places
        seen = np.zeros((len(measured), 18))
        seen[:, :3] = measured[:, places["body:hand"]]
        right, left = (measured[:, places[f"body:{side}claw"]] for side in ("right", "left"))
        seen[:, 3] = (distance(right, left) / OPEN_WIDTH).clip(0.0, 1.0)
        for number, shown in enumerate(self.environment.seen):
            begin = 4 + 7 * number
            seen[:, begin : begin + 3] = self._position(measured, shown)
            if shown.rotation is not None:
                seen[:, begin + 3 : begin + 7] = self._rotation(measured, shown.rotation)
        return seen

    def _position(self, measured: np.ndarray, shown: Seen) -> np.ndarray:
        if shown.position == "dial":
            return dial(measured, self.arm.places)
        position: np.ndarray = measured[:, self.arm.places[shown.position]] + np.array(shown.offset)
        return position

    def _rotation(self, measured: np.ndarray, name: str) -> np.ndarray:
        if name == "unit":
            return np.array([1.0, 0.0, 0.0, 0.0])
        rotation = measured[:, self.arm.places[name]]
        if not name.startswith("axes:"):
            return rotation
        return quaternions(rotation)


def quaternions(axes: np.ndarray) -> np.ndarray:
    """Returns unit quaternions, real part last, whose largest part is positive, ``[N, 4]``.

    ``scipy.spatial.transform.Rotation.from_matrix(...).as_quat()`` gives the same, and takes a
    tenth of the step of a batch of 64, mostly to check that the axes are orthogonal.

    Args:
        axes: Axes of frames, which are the columns of their rotation matrices, ``[N, 9]``.
    """
    (a, d, g), (b, e, h), (c, f, i) = axes.T.reshape(3, 3, -1)  # the matrix has rows abc, def, ghi
    trace = a + e + i
    # Each row of this matrix is the quaternion, times four times one of its parts.
    parts = np.array(
        [
            [1 - trace + 2 * a, d + b, g + c, h - f],
            [b + d, 1 - trace + 2 * e, h + f, c - g],
            [c + g, f + h, 1 - trace + 2 * i, d - b],
            [h - f, c - g, d - b, 1 + trace],
        ]
    )
    largest = np.array([a, e, i, trace]).argmax(axis=0)
    chosen = parts[largest, :, np.arange(len(axes))]
    found: np.ndarray = chosen / np.sqrt(np.einsum("ij,ij->i", chosen, chosen))[:, None]
    return found


class MetaWorld(TaskFuncEnv):
    """Meta-World's robot arm with hidden goals or tasks, as a native batch.

    What it is, and its arguments, are in :class:`meta_rl.envs.metaworld.MetaWorldTask`. One model
    of each environment serves all of its goals. A step of the batch is one call of
    ``mujoco.rollout`` for each environment that is played.

    Args:
        benchmark: ``"ML1"``, ``"ML10"``, ``"ML25"`` or ``"ML45"``.
        env_name: Environment of ML1 (default: ``"reach-v3"``).
        goal_seed: Seed of Meta-World's lists of goals (default: 0).
        horizon: Number of steps in an episode, at most 500 (default: 500).
        episodes_per_trial: Number of episodes on one task (default: 10).
        reward_function_version: Version of the rewards; only ``"v2"`` exists here.
        nthread: Number of threads that step the batch (default: all cores).

    Raises:
        ImportError: The package metaworld is missing.
        ValueError: An argument has a value that is not allowed.
    """

    metadata: ClassVar[dict[str, Any]] = METADATA
    numpy_only = True
    observation_space: spaces.Box
    horizon = MAX_HORIZON
    episodes_per_trial = 10

    def __init__(
        self,
        benchmark: str = "ML1",
        env_name: str | None = None,
        goal_seed: int = 0,
        horizon: int = MAX_HORIZON,
        episodes_per_trial: int = 10,
        reward_function_version: str = "v2",
        nthread: int | None = None,
    ) -> None:
        super().__init__()
        self.horizon = check_horizon(horizon)
        self.episodes_per_trial = check_count("episodes_per_trial", episodes_per_trial)
        check_rewards(reward_function_version)
        goals = benchmark_goals(benchmark, env_name, check_count("goal_seed", goal_seed, least=0))
        self.family = f"meta_rl/MetaWorld{benchmark}-v0"
        self.env_names, self._bounds = goals.names, goals.bounds
        self.task_split = split_goals(goals)
        self.observation_space = observation_space()
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        threads = check_count("nthread", count_cores() if nthread is None else nthread)
        self.nthread, self.steps_on_threads = threads, threads > 1
        self._roll_out = SharedRollout(threads)
        self._arms: dict[int, NativeArm] = {}
        self._cameras: Arms | None = None

    def arm(self, index: int) -> NativeArm:
        """Returns an environment; its model is compiled at its first use."""
        if index not in self._arms:
            self._arms[index] = NativeArm(self.env_names[index], self.observation_space)
        return self._arms[index]

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuses goals outside the bounds of their environment, and those it does not accept."""
        for env, goal in zip(tasks["env"], tasks["goal"], strict=True):
            name = self.env_names[int(env)]
            own = check_goal(name, self._bounds[int(env)], goal)
            environment = ENVIRONMENTS[name]
            target = environment.apart_from or own[3:5]
            if environment.apart and np.hypot(*(own[:2] - target)) < environment.apart:
                raise ValueError(
                    f"goal {goal}: {name} does not accept it, for the object begins too near to "
                    "where it has to get to"
                )

    def _groups(self, params: Tasks) -> Iterator[tuple[NativeArm, Any]]:
        """Yields each environment that is played, and the rows that play it."""
        played = np.asarray(params["env"])
        if (played == played[0]).all():
            yield self.arm(int(played[0])), slice(None)
            return
        for index in np.unique(played):
            yield self.arm(int(index)), np.flatnonzero(played == index)

    def initial(self, rng: Draws, params: Tasks) -> ArmState:
        """Returns the first states, which the tasks determine."""
        goals = np.asarray(params["goal"])
        parts = []
        for arm, rows in self._groups(params):
            size = self._bounds[self.env_names.index(arm.name)].shape[1]
            parts.append((rows, arm.begin(self._roll_out, goals[rows][:, :size])))
        return _joined(parts, count_tasks(params))

    def transition(self, state: ArmState, action: Any, rng: Draws, params: Tasks) -> ArmState:
        """Takes a step, natively for all arms of each environment."""
        parts = [
            (rows, arm.step(self._roll_out, state.rows(rows), action[rows]))
            for arm, rows in self._groups(params)
        ]
        return _joined(parts, count_tasks(params))

    def observation(self, state: ArmState, rng: Draws, params: Tasks) -> Any:
        """Returns what is seen now and was seen one step ago, ``[N, 36]``; the goal is hidden."""
        space = self.observation_space
        seen = np.concatenate([state.seen, state.before], axis=1)
        return seen.clip(space.low, space.high)

    def reward_terms(
        self, state: ArmState, action: Any, next_state: ArmState, rng: Draws, params: Tasks
    ) -> dict[str, Any]:
        """Returns Meta-World's reward."""
        return {"reward_task": next_state.outcome[:, 0].copy()}

    def transition_info(
        self, state: ArmState, action: Any, next_state: ArmState, params: Tasks
    ) -> dict[str, Any]:
        """Returns Meta-World's infos, by its names, ``[N]`` each."""
        return dict(zip(Outcome._fields, next_state.outcome.T.copy(), strict=True))

    def render_frames(self, state: ArmState, params: Tasks, render_mode: str) -> tuple[Any, ...]:
        """Draws a frame of each arm as Meta-World draws it, uint8 ``[480, 480, 3]``."""
        self._cameras = self._cameras or Arms()
        frames = []
        for env, goal, physics in zip(params["env"], params["goal"], state.physics, strict=True):
            index = int(env)
            camera = self._cameras.find(self.env_names[index], render_mode)
            episode = camera.begin(goal[: self._bounds[index].shape[1]])
            size = self.arm(index).arm.size
            episode.physics[:size] = physics[:size]
            frames.append(camera.render(episode))
        return tuple(frames)

    def close(self) -> None:
        """Ends the threads, and releases the cameras."""
        self._roll_out.close()
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None

    def __getstate__(self) -> dict[str, Any]:
        # Threads and cameras cannot be pickled or copied: a copy makes its own.
        return {**self.__dict__, "_roll_out": None, "_cameras": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._roll_out = SharedRollout(self.nthread)


def _joined(parts: list[tuple[Any, ArmState]], num: int) -> ArmState:
    """Joins states of groups of rows."""
    if len(parts) == 1:
        return parts[0][1]
    leaves = [np.empty((num, *leaf.shape[1:])) for leaf in parts[0][1]]
    for rows, part in parts:
        for leaf, own in zip(leaves, part, strict=True):
            leaf[rows] = own
    return ArmState(*leaves)
