"""Meta-World's simulators, each of which is shared by any number of episodes."""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import mujoco
import numpy as np

from meta_rl.rendering.mujoco_picture import make_gl_context

STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value  # everything that the next step depends on
DRAWS = 2  # largest number of goals that a reset of Meta-World may ask for
MAX_BEGINNINGS = 256  # kept by one simulator, about 10 kB each


@dataclass(eq=False)
class Episode:
    """State of an episode that it does not share with others.

    Attributes:
        env: Environment object of Meta-World, with the simulator's model and data.
        physics: State ``mjSTATE_INTEGRATION``, out of date while the episode is active.
        body_pos: Positions of the model's bodies, ``[nbody, 3]``, some of which Meta-World moves.
        site_pos: Positions of the model's sites, ``[nsite, 3]``.
        observation: First observation, as Meta-World returns it.
    """

    env: Any
    physics: np.ndarray
    body_pos: np.ndarray
    site_pos: np.ndarray
    observation: np.ndarray


class Arm:
    """Simulator of one of Meta-World's environments.

    A model takes 20 MB and a third of a second, so that episodes share one. When another episode
    becomes active, the physics and the model's positions are exchanged; all other state of
    Meta-World is in attributes, and each episode has its own object with those. The beginning of an
    episode depends on the goal alone. It is simulated once (500 steps of MuJoCo) and kept.

    Args:
        name: Name of the environment, such as ``"reach-v3"``.
        render_mode: Mode of rendering, ``None`` or ``"rgb_array"``.
    """

    def __init__(self, name: str, render_mode: str | None) -> None:
        family = importlib.import_module("metaworld").ALL_V3_ENVIRONMENTS[name]
        self._env = family(render_mode=render_mode)
        self.model, self.data = self._env.model, self._env.data
        self._initial = self._snapshot(self._env, np.empty(0))
        self._active: Episode | None = None
        self._positions: np.ndarray | None = None  # current positions of the model
        self._beginning = functools.lru_cache(MAX_BEGINNINGS)(self._simulated_beginning)

    def begin(self, goal: np.ndarray) -> Episode:
        """Begins a new episode.

        Args:
            goal: Goal, which is Meta-World's ``rand_vec``, in the bounds of the environment.

        Raises:
            ValueError: Meta-World does not accept the goal.
        """
        first = self._beginning(tuple(goal))
        return replace(first, env=_shallow_copy(first.env), physics=first.physics.copy())

    def step(self, episode: Episode, action: np.ndarray) -> tuple[Any, ...]:
        """Takes a step and returns what Meta-World's ``step`` returns."""
        self._activate(episode)
        result: tuple[Any, ...] = episode.env.step(action)
        return result

    def render(self, episode: Episode) -> Any:
        """Returns the current frame, uint8 ``[height, width, 3]``."""
        self._activate(episode)
        mujoco.mj_getState(self.model, self.data, episode.physics, STATE)
        mujoco.mj_forward(self.model, self.data)  # may change the solver's start
        mujoco.mj_setState(self.model, self.data, episode.physics, STATE)
        # Gymnasium would try a screen first, although none is wanted.
        with mock.patch.dict(os.environ, {"MUJOCO_GL": _working_backend()}):
            return episode.env.render()

    def close(self) -> None:
        """Releases the cameras."""
        self._env.close()

    def _simulated_beginning(self, goal: tuple[float, ...]) -> Episode:
        """Simulates the reset of a new environment of Meta-World, and returns its episode."""
        self._activate(self._initial)
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, self._initial.physics, STATE)
        mujoco.mj_forward(self.model, self.data)
        self._active = self._positions = None  # the initial state is not overwritten
        env = _shallow_copy(self._env)
        env._set_task_called = True
        env._get_state_rand_vec = _FixedGoal(env, np.array(goal))
        observation, _ = env.reset()
        del env._get_state_rand_vec
        return self._snapshot(env, observation)

    def _snapshot(self, env: Any, observation: np.ndarray) -> Episode:
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        positions = self.model.body_pos.copy(), self.model.site_pos.copy()
        return Episode(env, physics, *positions, observation)

    def _activate(self, episode: Episode) -> None:
        if self._active is episode:
            return
        if self._active is not None:
            mujoco.mj_getState(self.model, self.data, self._active.physics, STATE)
        self._active = episode
        mujoco.mj_setState(self.model, self.data, episode.physics, STATE)
        if self._positions is not episode.body_pos:  # an episode of another goal was active
            self.model.body_pos[:] = self._positions = episode.body_pos
            self.model.site_pos[:] = episode.site_pos


class Arms:
    """The simulators of a process, which its sub-environments share; made at their first use."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str | None], Arm] = {}

    def __len__(self) -> int:
        return len(self._made)

    def find(self, name: str, render_mode: str | None) -> Arm:
        """Returns the arm of that name; makes it at its first use."""
        key = name, render_mode
        if key not in self._made:
            self._made[key] = Arm(name, render_mode)
        return self._made[key]

    def close(self) -> None:
        """Releases all simulators."""
        for arm in self._made.values():
            arm.close()
        self._made = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Arms, ()  # another process makes its own simulators


class _FixedGoal:
    """Function that returns the goal when Meta-World draws one, and fails if it is refused."""

    def __init__(self, env: Any, goal: np.ndarray) -> None:
        self.env, self.goal, self.left = env, goal, DRAWS

    def __call__(self) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise ValueError(
                f"goal {self.goal}: {type(self.env).__name__} does not accept it, for the object "
                "begins too near to where it has to get to"
            )
        return self.goal


def _shallow_copy(env: Any) -> Any:
    """Returns a shallow copy that shares the simulator; setting its attributes changes no other."""
    copy = object.__new__(type(env))
    copy.__dict__.update(env.__dict__)
    return copy


@functools.cache
def _working_backend() -> str:
    """Returns the name of MuJoCo's backend that draws on this machine, which may have no screen."""
    context = make_gl_context(64, 64)
    context.free()
    return type(context).__module__.rpartition(".")[2]
