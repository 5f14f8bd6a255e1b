"""Meta-World's benchmarks for meta-learning, with tasks as data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from meta_rl.adapter import TaskVectorAdapter
from meta_rl.task_env import TaskEnv, TaskVectorEnv
from meta_rl.tasks import Task, add_task_axis, as_task, check_count, copy_tasks, take_tasks
from meta_rl.vector.task_assignment import TaskAssignment
from meta_rl.vector.task_batch import TaskBatch, check_actions

from .metaworld_arms import Arm, Arms, Episode
from .metaworld_goals import (
    MAX_HORIZON,
    METADATA,
    benchmark_goals,
    check_goal,
    check_horizon,
    check_rewards,
    import_metaworld,
    observation_space,
    split_goals,
)

NATIVE = "meta_rl.envs.metaworld_native:MetaWorld"  # imported by name: it needs the package
_ALL = np.ones(1, dtype=bool)
INFOS = (
    *("success", "near_object", "grasp_success", "grasp_reward", "in_place_reward"),
    *("obj_to_target", "unscaled_reward"),
)
SEEN = 36  # numbers of Meta-World's 39: the others are the goal's place


class MetaWorldTask(gym.Env):
    """Meta-World's robot arm with hidden goals or tasks: ML1, ML10, ML25, ML45.

    ## Description
    A Sawyer arm with a gripper has to manipulate an object (a puck, a door, a drawer, a button,
    ...). Source: Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta
    Reinforcement Learning", 2019; McLean et al., "Meta-World+: An Improved, Standardized, RL
    Benchmark", 2025; package ``metaworld`` 3.1.1.

    The ids are ``meta_rl/MetaWorldML1-v0`` (one environment, ``env_name``, whose goals differ),
    ``meta_rl/MetaWorldML10-v0``, ``meta_rl/MetaWorldML25-v0`` and ``meta_rl/MetaWorldML45-v0`` (10,
    25 or 45 training environments, and 5 others for testing).

    All 50 environments step natively: one compiled model of each serves every goal, MuJoCo's own
    threads step the whole batch, and observations, rewards and infos are computed for the batch at
    once. From the same state and the same start of MuJoCo's solver, a step equals Meta-World's own
    (``benchmarks/results/metaworld_parity.md``). MuJoCo's rollouts begin each step without the
    solver's last result, so that courses with contacts drift apart; how often scripted policies
    succeed stays the same.

    ``native=False`` steps Meta-World's own environments, unchanged, for comparison: in blocks of
    sub-environments, each in its own process, ``num_processes`` of them, by default one for each
    core (``asynchronous=False``: all in this process). Sub-environments of a process share the
    simulators. Trajectories do not depend on the sharing or on the number of processes.

    ``pip install "meta-rl[metaworld]"`` brings MuJoCo 3.3.0, which the package pins, and thus wants
    a virtual environment of its own. Native batches need only its models and goals:
    ``pip install --no-deps metaworld==3.1.1`` adds it to an environment with a later MuJoCo, whose
    physics differs a little.

    ## Action Space
    ``Box(-1, 1, (4,))``: the displacement of the hand (cm along x, y and z), and the torque of the
    gripper.

    ## Observation Space
    ``Box((36,))``: position of the hand, opening of the gripper, positions and quaternions of up to
    two objects (zeros where there are fewer): 18 numbers, now and one step ago. The goal is hidden:
    the three zeros that Meta-World puts in its place are left out.

    ## Rewards
    The reward is Meta-World's (version ``v2``), between 0 and 10 in each step: info
    ``reward_task``. The info ``success`` tells whether the goal is reached in this step, 0.0 or
    1.0. Meta-World's other infos are there too: ``near_object``, ``grasp_success``,
    ``grasp_reward``, ``in_place_reward``, ``obj_to_target`` and ``unscaled_reward``. Version 1 of
    the rewards is refused.

    ## Starting State
    The task determines the first state; first state and transitions have no other randomness. The
    first state of a task is simulated once, and kept.

    ## Episode End
    The episode is *truncated* after ``horizon`` steps; success does not end it.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | ``env_name`` | ``"reach-v3"`` | environment of ML1; the others take none |
    | ``goal_seed`` | 0 | seed of Meta-World's lists of goals |
    | ``horizon`` | 500 | number of steps in an episode; at most 500 |
    | ``episodes_per_trial`` | 10 | number of episodes on one task, as in Meta-World+ |
    | ``reward_function_version`` | ``"v2"`` | version of the rewards; there is no other |
    | ``split`` | ``"train"`` | part of the task split that self-chosen tasks come from |
    | ``native`` | True | whether MuJoCo's threads step, or Meta-World's own environments |
    | ``nthread`` | None | number of threads of a native batch (default: all cores) |
    | ``num_processes`` | None | largest number of processes, for ``native=False`` |

    ## Task distribution
    A task is a dict of ``env``, ``Discrete``, an index into the attribute ``env_names``; and
    ``goal``, ``Box``, Meta-World's ``rand_vec`` of positions in m. It has 3 numbers for some
    environments and 6 for others (mostly the object's first and last position); in ML10, ML25 and
    ML45, 3 numbers are followed by three zeros. A goal has to lie in the bounds of its own
    environment, and Meta-World has to accept it: many environments require some distance between
    object and goal.

    The lists are Meta-World's own for ``goal_seed``: 50 goals of every training and test
    environment (ML1: the test goals are those of the next seed). The last ten training goals of
    each environment are the validation tasks, the other forty the training tasks. ML25 lists
    ``basketball-v3`` on both sides: a fifth of its test tasks are of an environment that it trains
    on.

    ## Adaptation
    The agent adapts after every episode.

    ## Version History
    * v0: initial, with Meta-World 3.1.1.
    * v0, after 0.1.0: native batches; Meta-World's own environments by ``native=False``.
    """

    metadata = METADATA
    action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    observation_space: spaces.Box
    horizon = MAX_HORIZON
    episodes_per_trial = 10
    adaptation_unit = "episode"

    def __init__(
        self,
        benchmark: str = "ML1",
        env_name: str | None = None,
        goal_seed: int = 0,
        horizon: int = MAX_HORIZON,
        episodes_per_trial: int = 10,
        split: str = "train",
        reward_function_version: str = "v2",
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: ['rgb_array'] exist")
        self.horizon = check_horizon(horizon)
        check_rewards(reward_function_version)
        self.episodes_per_trial = check_count("episodes_per_trial", episodes_per_trial)
        self.render_mode = render_mode
        import_metaworld()
        goals = benchmark_goals(benchmark, env_name, check_count("goal_seed", goal_seed, least=0))
        self.env_names, self._bounds = goals.names, goals.bounds
        self.task_split = split_goals(goals)
        self._assignment = TaskAssignment(1, self.task_split[split], self.episodes_per_trial)
        self.arms = Arms()
        self._arm: Arm | None = None
        self._episode: Episode | None = None
        self.observation_space = observation_space()
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._steps = 0

    @property
    def task(self) -> Task:
        """The task that is played; ``None`` before the first reset."""
        played = self._assignment.played
        return None if played is None else copy_tasks(take_tasks(played, 0))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins a new episode, as :meth:`meta_rl.TaskEnv.reset` does.

        Raises:
            ValueError: The task is outside its space or its environment's bounds, Meta-World does
                not accept it, or an option is unknown.
        """
        super().reset(seed=seed)
        unknown = set(options or {}) - {"task"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}: task exists")
        given = (options or {}).get("task")
        before = copy.deepcopy(self._assignment)
        try:
            if given is not None:
                self._assignment.set(add_task_axis(as_task(self.task_split.space, given)))
            if seed is not None:
                self._assignment.seed(seed)
            self._assignment.begin(_ALL, seeded=seed is not None)
            observation = self._begin(self.task)
        except ValueError:
            self._assignment = before  # a refused task changes nothing
            raise
        self._steps = 0
        return observation, {"task": self.task}

    def _begin(self, task: Task) -> np.ndarray:
        """Puts Meta-World's environment at the beginning of the task."""
        index = int(task["env"])
        goal = check_goal(self.env_names[index], self._bounds[index], task["goal"])
        arm = self.arms.find(self.env_names[index], self.render_mode)
        self._episode = arm.begin(goal)
        self._arm = arm
        space = self.observation_space
        return np.clip(self._episode.observation[:SEEN], space.low, space.high)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Takes one step, as in :class:`gymnasium.Env`; NaN and infinity are refused."""
        if self._arm is None or self._episode is None or self._steps >= self.horizon:
            raise gym.error.ResetNeeded("step() needs a reset() first: an episode has not begun")
        checked = check_actions(np.asarray(action)[None], self.action_space, 1)[0]
        observation, reward, _, _, info = self._arm.step(self._episode, checked)
        self._steps += 1
        self._assignment.step()
        infos = {"reward_task": float(reward), **{name: float(info[name]) for name in INFOS}}
        seen = observation[:SEEN]  # only the first observation can lie outside the space
        return seen, float(reward), False, self._steps >= self.horizon, infos

    def render(self) -> Any:
        """Returns the current frame, uint8 ``[height, width, 3]``, with the goal as a dot."""
        if self.render_mode is None:
            return None
        if self._arm is None or self._episode is None:
            raise gym.error.ResetNeeded("render() needs a reset() first: there is nothing to see")
        return self._arm.render(self._episode)

    def close(self) -> None:
        """Releases the simulators."""
        self._arm = self._episode = None
        self.arms.close()


def make_one(*, native: bool = True, **kwargs: Any) -> gym.Env:
    """Makes one environment.

    Args:
        native: Whether it is a native batch of one (default), or Meta-World's own simulator.
        **kwargs: Arguments of :class:`MetaWorldTask`.
    """
    if not native:
        return MetaWorldTask(**kwargs)
    import_metaworld(pinned=False)
    return TaskEnv(NATIVE, **kwargs)


make_one.metadata = METADATA  # type: ignore[attr-defined]  # gymnasium.make reads it


def make_batch(
    num_envs: int = 1,
    *,
    native: bool | None = None,
    asynchronous: bool | None = None,
    num_processes: int | None = None,
    split: str = "train",
    resample_tasks: bool = False,
    **kwargs: Any,
) -> TaskBatch:
    """Makes a batch: a native :class:`meta_rl.TaskVectorEnv`, or Meta-World's own environments.

    Args:
        num_envs: Number of sub-environments, N.
        native: Whether MuJoCo's threads step the batch, or processes step Meta-World's own
            environments (default: native, unless one of the next two arguments is given).
        asynchronous: Whether blocks of Meta-World's environments step in processes (default), and
            not all in this one; for ``native=False``.
        num_processes: Largest number of these processes (default: one for each core); for
            ``native=False``.
        split: Part of the task split, as in :class:`meta_rl.TaskVectorEnv`.
        resample_tasks: Whether tasks are drawn anew, as in :class:`meta_rl.TaskVectorEnv`.
        **kwargs: Arguments of :class:`MetaWorldTask`; for a native batch also ``nthread``, and
            those of :class:`meta_rl.TaskVectorEnv`.

    Raises:
        ValueError: An argument is for the other kind of batch.
    """
    num_envs = check_count("num_envs", num_envs)
    of_processes = [
        name
        for name, given in (("asynchronous", asynchronous), ("num_processes", num_processes))
        if given is not None
    ]
    drawn: dict[str, Any] = {"split": split, "resample_tasks": resample_tasks}
    if native or (native is None and not of_processes):
        if of_processes:
            raise ValueError(f"{of_processes[0]} is for native=False: no processes step this batch")
        import_metaworld(pinned=False)
        return TaskVectorEnv(NATIVE, num_envs, **drawn, **kwargs)
    if "nthread" in kwargs:
        raise ValueError("nthread is for a native batch; num_processes is for native=False")
    # All sub-environments get the same maker, so that those of a process share its simulators.
    makers: list[Callable[[], gym.Env]] = [_Maker(kwargs)] * num_envs
    asynchronous = asynchronous is None or asynchronous
    return TaskVectorAdapter(
        makers, asynchronous=asynchronous, num_processes=num_processes, **drawn
    )


class _Maker:
    """Picklable maker of environments, which share their simulators within a process."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        self.kwargs, self.arms = kwargs, Arms()

    def __call__(self) -> gym.Env:
        env = MetaWorldTask(**self.kwargs)
        env.arms = self.arms
        return env
