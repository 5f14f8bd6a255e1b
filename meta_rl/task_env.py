"""The two front ends over a family's definition: the native batch, and the batch of one."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from meta_rl.arguments import check_choice, check_count, check_kind, checked
from meta_rl.definition import TaskFuncEnv
from meta_rl.rendering.window import Window
from meta_rl.tasks import Task, Tasks, TaskSplit, add_task_axis, copy_tasks, take_tasks
from meta_rl.vector.arrays import Arrays
from meta_rl.vector.streams import Draws, draws_of
from meta_rl.vector.task_assignment import TaskAssignment
from meta_rl.vector.task_batch import TaskBatch

Definition = TaskFuncEnv | str | Callable[..., TaskFuncEnv]

# gymnasium.make reads the class's metadata; an environment has the render modes of its family.
ANY_METADATA: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}


class TaskVectorEnv(TaskBatch):
    """A native batch of sub-environments of one family, each on a task of its own.

    Tasks that :meth:`set_tasks` sets persist until its next call. If none are set, tasks are drawn
    from ``split`` at the first reset, at every seeded reset and, with ``resample_tasks``, at the
    end of every trial.

    A *trial* is the sequence of episodes on one task; :attr:`trial_start` tells where it begins.

    With a ``device``, everything that :meth:`reset` and :meth:`step` return is a PyTorch tensor on
    that device, for families in array-API code; actions, tasks and masks may be tensors or arrays.
    ``gymnasium.wrappers.vector.ArrayConversion(env, torch, numpy)`` is its view in numpy arrays.

    Args:
        definition: Definition of the family, its class, or ``"module:Class"``.
        num_envs: Number of sub-environments, ``N`` (default: 1).
        autoreset_mode: Gymnasium's autoreset mode. With ``SAME_STEP`` (default), a step that ends
            an episode returns the first observation of the next episode, and the last observation
            in ``infos["final_obs"]``. The others are ``NEXT_STEP``, and ``DISABLED``, with which
            the caller resets by ``reset(options={"reset_mask": ...})``.
        split: Part of the task split that tasks are drawn from (default: ``"train"``).
        resample_tasks: Whether a new task is drawn after every ``episodes_per_trial`` episodes if
            no task was set (default: False).
        render_mode: Render mode, one of ``metadata["render_modes"]`` (default: none).
        max_episode_steps: Number of steps, at least 1, after which an episode is truncated if the
            family's ``horizon`` is longer (default: the horizon).
        device: PyTorch device of states, rewards, masks, infos and tasks (default: that of the
            definition, which is ``None`` for numpy arrays). Random numbers are drawn there too, but
            those of a list of seeds are numpy's, copied to the device.
        **kwargs: Arguments of the definition, if it is given as a class or a name.

    Raises:
        ValueError: An argument has a value that is not allowed.
    """

    @checked
    def __init__(
        self,
        definition: Definition,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        split: str = "train",
        resample_tasks: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        device: Any = None,
        **kwargs: Any,
    ) -> None:
        self.definition = build_definition(definition, kwargs)
        _check_complete(self.definition)
        if device is not None and self.definition.numpy_only:
            raise ValueError(f"device: {type(self.definition).__name__} works on numpy arrays only")
        self.arrays = Arrays(self.definition.device if device is None else device)
        self.num_envs = check_count("num_envs", num_envs)
        if not isinstance(autoreset_mode, AutoresetMode):
            check_choice("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.definition.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = _check_render_mode(render_mode, self.metadata["render_modes"])
        self.task_split: TaskSplit = self.definition.task_split
        self.horizon = self.definition.horizon
        if max_episode_steps is not None:
            self.horizon = min(self.horizon, check_count("max_episode_steps", max_episode_steps))
        self.episodes_per_trial = self.definition.episodes_per_trial
        self.adaptation_unit = self.definition.adaptation_unit
        self.steps_on_threads = self.definition.steps_on_threads
        self.split = split
        self.resample_tasks = resample_tasks
        self._assignment = TaskAssignment(
            self.num_envs,
            self.task_split[split],
            self.episodes_per_trial,
            resample=resample_tasks,
            arrays=self.arrays,
        )

        self.single_observation_space = self.definition.observation_space
        self.single_action_space = self.definition.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        self._nowhere = self.arrays.zeros(self.num_envs, "bool")
        self._everywhere = ~self._nowhere
        self._own_draws = draws_of(self.arrays, None)  # None: by np_random
        self._state: Any = None
        self._elapsed = self.arrays.zeros(self.num_envs, "int64")
        self._done = self._nowhere
        self._any_done = False
        terminal = getattr(self.definition.terminal, "__func__", None)
        self._has_terminal = terminal is not TaskFuncEnv.terminal

    def set_tasks(self, tasks: Tasks | None) -> None:
        """Sets the tasks from the next reset of each sub-environment on.

        Args:
            tasks: Tasks, one per sub-environment, or one per equal block of them; their number has
                to divide ``num_envs``. ``None`` lets the environment draw tasks again.

        Raises:
            ValueError: A task is outside its space, or the number does not divide ``num_envs``.
        """
        if tasks is None:
            self._assignment.set(None)
            return
        tasks = self._check_tasks(tasks)
        self.definition.check_tasks(tasks)
        self._assignment.set(self._one_for_each(tasks))

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begins new episodes.

        Args:
            seed: Seed of all that follows: first states, transitions and drawn tasks (default: none
                is set). A list has one seed for each sub-environment, which then depends only on
                its own seed, and not on the batch.
            options: Dict with ``"reset_mask"``, bool ``[N]``, for the sub-environments that are
                reset (default: all), and ``"task"``, tasks to set as in :meth:`set_tasks`.

        Returns:
            Observations, and infos with the ``"task"`` of every sub-environment.
        """
        check_kind("options", options, (dict, type(None)), "a dictionary")
        options = options or {}
        unknown = set(options) - {"reset_mask", "task"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}: reset_mask, task exist")
        mask = self._check_mask(options.get("reset_mask"))
        if options.get("task") is not None:
            self.set_tasks(options["task"])
        if seed is not None:
            seed = self._assignment.seed(seed)
            self._own_draws = draws_of(self.arrays, seed)
            if isinstance(seed, int):
                super().reset(seed=seed)
        self._begin(mask, seeded=seed is not None)
        observations = self.definition.observation(self._state, self._draws, self._played)
        return observations, {"task": self._assignment.shown, "_task": self._everywhere}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps every sub-environment.

        Args:
            actions: Actions ``[N, ...]`` in ``action_space``.

        Returns:
            Observations, rewards (float64 ``[N]``), terminations, truncations, and infos with the
            ``"task"`` of every sub-environment. Where an episode ended, it is that of the next one,
            and ``final_info`` has the former.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset or, with autoreset disabled, the episode
                of a sub-environment has ended.
            ValueError: Actions have the wrong shape, lie outside a discrete space, or have NaN or
                infinity in a continuous space.
        """
        actions = self._check_actions(actions)
        waiting, any_waiting = self._done, self._any_done  # with NEXT_STEP, this step resets them
        if self._state is None or (any_waiting and self.autoreset_mode is AutoresetMode.DISABLED):
            raise gym.error.ResetNeeded("step() needs a reset() first: an episode has not begun")
        definition, rng, tasks, xp = self.definition, self._draws, self._played, self.arrays.xp
        state = definition.transition(self._state, actions, rng, tasks)
        terms = definition.reward_terms(self._state, actions, state, rng, tasks)
        if any_waiting:
            terms = {name: xp.where(waiting, 0.0, term) for name, term in terms.items()}
        infos: dict[str, Any] = {**terms, "task": self._assignment.shown}
        infos |= definition.transition_info(self._state, actions, state, tasks)
        rewards = xp.asarray(sum(terms.values()), dtype=xp.float64)
        self._state = state
        self._elapsed = self._elapsed + 1
        self._assignment.step()
        terminated = self.arrays.zeros(self.num_envs, "bool")
        if self._has_terminal:
            terminated = xp.asarray(definition.terminal(state, rng, tasks))
        at_horizon = self._elapsed >= definition.horizon
        if definition.horizon_is_terminal:
            terminated = terminated | at_horizon
        truncated = (self._elapsed >= self.horizon) & ~terminated

        if any_waiting:
            self._begin(waiting)
            terminated, truncated = terminated & ~waiting, truncated & ~waiting
        observations = definition.observation(self._state, rng, self._played)
        self._done = terminated | truncated
        self._any_done = bool(self._done.any())
        if self._any_done and self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos |= {"final_obs": observations, "final_info": {**infos}}
            infos |= {"_final_obs": self._done, "_final_info": self._done}
            self._begin(self._done)
            observations = definition.observation(self._state, rng, self._played)
        infos["task"] = self._assignment.shown
        infos |= {
            f"_{key}": self._everywhere for key in infos if not key.startswith(("_", "final"))
        }
        return observations, rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Renders one frame per sub-environment; :func:`meta_rl.frame_grid` joins the frames."""
        if self.render_mode is None:
            raise ValueError("render() needs a render_mode, given when the environment is made")
        if self._state is None:
            raise gym.error.ResetNeeded("render() needs a reset() first: there is nothing to see")
        return self.definition.render_frames(*self._for_pictures, self.render_mode)

    def close_extras(self, **kwargs: Any) -> None:
        """Releases the definition's resources, such as threads and windows."""
        self.definition.close()

    @property
    def _draws(self) -> Draws:
        return self.np_random if self._own_draws is None else self._own_draws

    @property
    def _for_pictures(self) -> tuple[Any, Tasks]:
        """The state and the tasks, in numpy arrays."""
        return self.arrays.to_numpy((self._state, self._played))

    def _begin(self, mask: Any, seeded: bool = False) -> None:
        """Begin new episodes where ``mask`` says so, on the tasks that are theirs from now on."""
        self._assignment.begin(mask, seeded=seeded)
        if mask.all():
            self._state = self.definition.initial(self._draws, self._played)
            self._elapsed = self.arrays.zeros(self.num_envs, "int64")
            self._done, self._any_done = self._nowhere, False
        else:
            rng = self.np_random if self._own_draws is None else self._own_draws[mask]
            first = self.definition.initial(rng, take_tasks(self._played, mask))
            merged = [copy_tasks(leaf) for leaf in self._state]
            for leaf, new in zip(merged, first, strict=True):
                leaf[mask] = new
            self._state = type(first)(*merged)
            self._elapsed = self._elapsed * ~mask
            self._done = self._done & ~mask
            self._any_done = bool(self._done.any())


class TaskEnv(gym.Env):
    """One environment on one task: a batch of one of the same definition.

    ``reset(options={"task": task})`` sets the task; without the option it persists. It is reported
    in every ``info["task"]``. If no task was set, it is drawn from ``split`` at the first reset and
    at every seeded reset.

    Args:
        definition: Definition of the family, its class, or ``"module:Class"``.
        render_mode: Render mode, one of ``metadata["render_modes"]`` (default: none). ``"human"``
            shows every step in a window, at the rate ``metadata["render_fps"]``; every family
            with ``"rgb_array"`` has this mode.
        **kwargs: Arguments ``split`` and ``resample_tasks`` of :class:`TaskVectorEnv`, and
            arguments of the definition.
    """

    metadata = ANY_METADATA
    _spec: EnvSpec | None = None

    def __init__(
        self, definition: Definition, *, render_mode: str | None = None, **kwargs: Any
    ) -> None:
        in_window = render_mode == "human"
        self._batch = TaskVectorEnv(
            definition,
            1,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=None if in_window else render_mode,
            **kwargs,
        )
        self.definition = self._batch.definition
        modes = self.definition.metadata["render_modes"]
        modes = ["human", *modes] if "rgb_array" in modes else modes
        self.metadata = {**self.definition.metadata, "render_modes": modes}
        self.render_mode = _check_render_mode(render_mode, modes)
        self._window: Window | None = None
        self._shown = 0.0
        self.task_split = self._batch.task_split
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's specification; its time limit is the horizon unless another was given."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None and spec.max_episode_steps is None:
            spec = replace(spec, max_episode_steps=self.horizon)
        self._spec = spec

    @property
    def task(self) -> Task:
        """The task that is played; ``None`` before the first reset."""
        tasks = self._batch.tasks
        return None if tasks is None else take_tasks(tasks, 0)

    @property
    def horizon(self) -> int:
        """The number of steps in an episode."""
        return self._batch.horizon

    @property
    def episodes_per_trial(self) -> int:
        """The number of episodes in a trial on one task."""
        return self.definition.episodes_per_trial

    @property
    def adaptation_unit(self) -> str:
        """The interval at which a learner may adapt: every ``"episode"`` or every ``"step"``."""
        return self.definition.adaptation_unit

    @property
    def trial_start(self) -> bool:
        """Whether the latest observation is the first one of a new task."""
        return bool(self._batch.trial_start[0])

    def set_task(self, task: Task | None) -> None:
        """Sets the task from the next reset on; ``None`` lets the environment draw tasks again."""
        self._batch.set_tasks(None if task is None else add_task_axis(task))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins a new episode.

        Args:
            seed: Seed of all that follows, and of the task if none was set (default: none is set).
            options: Dict ``{"task": task}``, which sets the task (default: none).

        Returns:
            The observation, and ``{"task": task}``.

        Raises:
            ValueError: The task is outside its space, or an option is unknown.
        """
        super().reset(seed=seed)
        check_kind("options", options, (dict, type(None)), "a dictionary")
        options = dict(options or {})
        if options.get("task") is not None:
            options["task"] = add_task_axis(options["task"])
        self._batch.np_random = self.np_random
        observations, _ = self._batch.reset(seed=seed, options=options)
        if seed is not None:
            self._np_random = self._batch.np_random
        if self.render_mode == "human":
            self._show()
        return _first_observation(observations), {"task": self.task}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Makes one step, as in :class:`gymnasium.Env`."""
        observations, rewards, terminated, truncated, infos = self._batch.step(
            self._batch.arrays.converted(action)[None]
        )
        named = {key: value for key, value in infos.items() if not key.startswith("_")}
        done = bool(terminated[0]), bool(truncated[0])
        if self.render_mode == "human":
            self._show()
        info = {**take_tasks(named, 0), "task": self.task}  # infos share nothing
        return _first_observation(observations), float(rewards[0]), *done, info

    def render(self) -> Any:
        """Renders the current frame; with ``"human"``, shows it in the window instead."""
        if self.render_mode == "human":
            return self._show()
        frames = self._batch.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Closes the window, and releases the definition's resources (threads, cameras)."""
        if self._window is not None:
            self._window.close()
            self._window = None
        self._batch.close()

    def _show(self) -> None:
        if self._window is None:
            self._window = self.definition.open_window()
        wait = self._shown + 1.0 / self.metadata["render_fps"] - time.monotonic()
        time.sleep(max(wait, 0.0))
        self._window.show(*self._batch._for_pictures)
        self._shown = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # A window cannot be pickled or copied: a copy opens its own.
        return {**self.__dict__, "_window": None}


def build_definition(definition: Definition, kwargs: dict[str, Any]) -> TaskFuncEnv:
    """Builds a definition from a class or ``"module:Class"``, or returns one that is built.

    Raises:
        ValueError: There are arguments, but the definition is built already.
        TypeError: The result is not a :class:`TaskFuncEnv`.
    """
    if isinstance(definition, TaskFuncEnv):
        if kwargs:
            raise ValueError(f"{definition} is built already; it takes no {sorted(kwargs)}")
        return definition
    if isinstance(definition, str):
        module, _, name = definition.partition(":")
        if not name:
            raise ValueError(f"a definition's name is 'module:Class', got {definition!r}")
        definition = getattr(importlib.import_module(module), name)
    other = isinstance(definition, type) and not issubclass(definition, TaskFuncEnv)
    built = definition(**kwargs) if callable(definition) and not other else definition
    if not isinstance(built, TaskFuncEnv):
        raise TypeError(f"expected a TaskFuncEnv, its class or 'module:Class', got {definition!r}")
    return built


def _check_complete(definition: TaskFuncEnv) -> None:
    needed = ("observation_space", "action_space", "task_split", "horizon")
    missing = [name for name in needed if not hasattr(definition, name)]
    if missing:
        raise ValueError(f"{type(definition).__name__} has to declare {', '.join(missing)}")


def _check_render_mode(render_mode: str | None, modes: list[str]) -> str | None:
    if render_mode is not None and render_mode not in modes:
        known = f"only {', '.join(modes)}" if modes else "nothing is rendered"
        raise ValueError(f"no render_mode {render_mode!r}: {known}")
    return render_mode


def _first_observation(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: _first_observation(value) for key, value in observations.items()}
    return observations[0]
