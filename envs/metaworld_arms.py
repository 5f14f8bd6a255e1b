"""Meta-World's simulators, each of which any number of episodes use in turn."""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import mujoco
import numpy as np

from meta_rl.mujoco_picture import make_gl_context

STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value  # all that the next step depends on
DRAWS = 2  # of the goal in a reset of Meta-World's, which asks on for as long as it refuses it
MAX_BEGINNINGS = 256  # of one simulator, about 10 kB each


@dataclass(eq=False)
class Episode:
    """What an episode has to itself.

    Attributes:
        env: Meta-World's object; its model and data are the simulator's.
        physics: ``mjSTATE_INTEGRATION``, out of date while it is the episode's turn.
        body_pos: Where the bodies of the model are, ``[nbody, 3]``: Meta-World moves some.
        site_pos: The same of sites.
        observation: The first, as Meta-World gives it.
    """

    env: Any
    physics: np.ndarray
    body_pos: np.ndarray
    site_pos: np.ndarray
    observation: np.ndarray


class Arm:
    """One of Meta-World's environments.

    A model takes 20 MB and a third of a second, so that episodes share one. At a change of turns
    the physics and the positions that belong to the model are exchanged; everything else that
    Meta-World remembers is attributes, and each episode has its own object with those. How an
    episode begins depends on the goal alone. It is simulated once (500 steps of MuJoCo) and kept.

    Args:
        name: Of the environment, such as ``"reach-v3"``.
        render_mode: ``None`` or ``"rgb_array"``.
    """

    def __init__(self, name: str, render_mode: str | None) -> None:
        family = importlib.import_module("metaworld").ALL_V3_ENVIRONMENTS[name]
        self._env = family(render_mode=render_mode)
        self.model, self.data = self._env.model, self._env.data
        self._new = self._kept(self._env, np.empty(0))
        self._turn: Episode | None = None
        self._placed: np.ndarray | None = None  # what the positions of the model were set to
        self._beginning = functools.lru_cache(MAX_BEGINNINGS)(self._simulated_beginning)

    def begin(self, goal: np.ndarray) -> Episode:
        """Begins a new episode.

        Args:
            goal: Meta-World's ``rand_vec``, in the bounds of the environment.

        Raises:
            ValueError: A goal that Meta-World does not accept.
        """
        first = self._beginning(tuple(goal))
        return replace(first, env=_twin(first.env), physics=first.physics.copy())

    def step(self, episode: Episode, action: np.ndarray) -> tuple[Any, ...]:
        """Takes a step and returns what Meta-World's ``step`` returns."""
        self._take_turns(episode)
        result: tuple[Any, ...] = episode.env.step(action)
        return result

    def render(self, episode: Episode) -> Any:
        """Returns the current frame, uint8 ``[height, width, 3]``."""
        self._take_turns(episode)
        mujoco.mj_getState(self.model, self.data, episode.physics, STATE)
        mujoco.mj_forward(self.model, self.data)  # may write where the solver starts from
        mujoco.mj_setState(self.model, self.data, episode.physics, STATE)
        # Gymnasium would try a screen first, where none was asked for.
        with mock.patch.dict(os.environ, {"MUJOCO_GL": _working_backend()}):
            return episode.env.render()

    def close(self) -> None:
        """Releases the cameras."""
        self._env.close()

    def _simulated_beginning(self, goal: tuple[float, ...]) -> Episode:
        """Simulates the reset of a new environment of Meta-World, and returns its episode."""
        self._take_turns(self._new)
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, self._new.physics, STATE)
        mujoco.mj_forward(self.model, self.data)
        self._turn = self._placed = None  # what is new stays as it is
        env = _twin(self._env)
        env._set_task_called = True
        env._get_state_rand_vec = _Asked(env, np.array(goal))
        observation, _ = env.reset()
        del env._get_state_rand_vec
        return self._kept(env, observation)

    def _kept(self, env: Any, observation: np.ndarray) -> Episode:
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        positions = self.model.body_pos.copy(), self.model.site_pos.copy()
        return Episode(env, physics, *positions, observation)

    def _take_turns(self, episode: Episode) -> None:
        if self._turn is episode:
            return
        if self._turn is not None:
            mujoco.mj_getState(self.model, self.data, self._turn.physics, STATE)
        self._turn = episode
        mujoco.mj_setState(self.model, self.data, episode.physics, STATE)
        if self._placed is not episode.body_pos:  # by an episode of another goal
            self.model.body_pos[:] = self._placed = episode.body_pos
            self.model.site_pos[:] = episode.site_pos


class Arms:
    """Those of one process, which its sub-environments share; each is made at its first use."""

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
        return Arms, ()  # another process makes its own


class _Asked:
    """The goal, when Meta-World asks for it; it would ask for ever where it refuses it."""

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


def _twin(env: Any) -> Any:
    """Returns a shallow copy that shares the simulator; setting its attributes changes no other."""
    twin = object.__new__(type(env))
    twin.__dict__.update(env.__dict__)
    return twin


@functools.cache
def _working_backend() -> str:
    """Returns the name of MuJoCo's backend that draws on this machine, which may have no screen."""
    context = make_gl_context(64, 64)
    context.free()
    return type(context).__module__.rpartition(".")[2]
