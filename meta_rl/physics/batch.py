"""Batched MuJoCo physics: many robots are stepped at once, on several threads.

:class:`MujocoBatch` is the physics of the robot families. It takes and returns arrays of states,
and holds no state of its own, so that the definitions that use it stay pure.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import expand_model_path

from meta_rl.arguments import check_count
from meta_rl.physics.contacts import compile_spec, list_contacts, mix_geoms
from meta_rl.physics.shared_rollout import Rollouts, SharedRollout
from meta_rl.vector.process_blocks import count_cores

FULL_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS.value

Sensor = tuple[mujoco.mjtSensor, mujoco.mjtObj, str]
"""Type of a sensor, type of the object that it is fixed to, and name of that object."""


class MujocoBatch:
    """The physics of any number ``N`` of copies of a model, stepped by ``mujoco.rollout``.

    A physics state is a row of ``mjSTATE_FULLPHYSICS``: time, ``qpos``, ``qvel`` and, where the
    model has them, activations. A step depends on nothing else: MuJoCo's solver starts each step
    anew, and not from the accelerations of the step before, which a rollout cannot read. The next
    state is Gymnasium's, up to the tolerance of the solver (relative deviation below 1e-6:
    `benchmarks/physics_equality.py`).

    Args:
        xml_file: Name of a file that Gymnasium ships (``"half_cheetah.xml"``), or path that starts
            with ``.``, ``/`` or ``~``.
        frame_skip: Number of calls of ``mj_step`` in one step.
        nthread: Number of threads, the calling one included (default: number of cores that the
            process may use). The others start at the first step of more than one robot.
        sensors: Sensors for :meth:`sense`, in the order of its result (default: none).
        chunk_size: Number of robots that a thread takes at a time (default: about 32, and a tenth
            of the thread's share in large batches).

    Attributes:
        model: Compiled ``MjModel``, with textures of one pixel, so that a copy per task is small.
        lists_contacts: Whether the model's contacts are listed as pairs of geoms
            (:mod:`meta_rl.physics.contacts`).
        dt: Duration of one step, in simulated seconds.
        init_qpos: Initial positions of the model, ``[nq]``.

    Raises:
        OSError: The file does not exist.
        ValueError: A number is not whole and positive, or a sensor is on an unknown object.
    """

    def __init__(
        self,
        xml_file: str,
        frame_skip: int,
        *,
        nthread: int | None = None,
        sensors: Sequence[Sensor] = (),
        chunk_size: int | None = None,
    ) -> None:
        self.xml_file = expand_model_path(xml_file)
        self.frame_skip = check_count("frame_skip", frame_skip)
        self.nthread = check_count("nthread", count_cores() if nthread is None else nthread)
        self.chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)
        self.model, self.lists_contacts = list_contacts(_read_model(self.xml_file))
        _switch_off_unneeded_work(self.model)
        self.sensing_model = _sensing_model(self.xml_file, sensors) if sensors else None
        self.dt = self.model.opt.timestep * self.frame_skip
        self.init_qpos = self.model.qpos0.copy()
        num_qpos, num_qvel = self.model.nq, self.model.nv
        self._qpos = slice(1, 1 + num_qpos)  # after the time
        self._qvel = slice(1 + num_qpos, 1 + num_qpos + num_qvel)
        self._size = mujoco.mj_stateSize(self.model, FULL_PHYSICS)
        self._roll_out = SharedRollout(self.nthread, self.chunk_size)
        self._work: tuple[np.ndarray, np.ndarray, list[mujoco.MjModel]] | None = None

    def qpos(self, physics: Any) -> Any:
        """Returns the positions, ``[N, nq]``, as a view."""
        return physics[:, self._qpos]

    def qvel(self, physics: Any) -> Any:
        """Returns the velocities, ``[N, nv]``, as a view."""
        return physics[:, self._qvel]

    def physics(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Makes physics states at time 0 with these positions and velocities, ``[N, nstate]``."""
        states = np.zeros((len(qpos), self._size))
        states[:, self._qpos] = qpos
        states[:, self._qvel] = qvel
        return states

    def step(
        self,
        physics: np.ndarray,
        control: np.ndarray,
        models: Sequence[mujoco.MjModel] | None = None,
    ) -> np.ndarray:
        """Steps every robot ``frame_skip`` times with constant control.

        Args:
            physics: Physics states, ``[N, nstate]``; they are not written to.
            control: Controls, ``[N, nu]``, which MuJoCo clips to the range of the actuators.
            models: One model per robot, all with the sizes of :attr:`model` (default:
                :attr:`model` for all).

        Returns:
            The states after the steps, in a new array.
        """
        num = len(physics)
        if self._work is None or len(self._work[0]) != num:
            self._work = (
                np.empty((num, self.frame_skip, self.model.nu)),
                np.empty((num, self.frame_skip, self._size)),
                [self.model] * num,
            )
        controls, states, same = self._work
        controls[:] = control[:, None]
        models = list(models) if models else same
        physics = np.ascontiguousarray(physics)
        self._roll_out(Rollouts(models, physics, self.frame_skip, controls, states))
        return states[:, -1].copy()

    def sense(self, physics: np.ndarray) -> np.ndarray:
        """Returns the measurements of the sensors in these states, ``[N, nsensordata]``.

        MuJoCo's own sensor data after a step belong to the state before the last ``mj_step``. These
        belong to the given states. Contacts and actuators are left out of the computation: sensors
        of positions and velocities do not depend on them; forces and accelerations would.
        """
        model = self.sensing_model
        if model is None:
            return np.zeros((len(physics), 0))
        measured = np.empty((len(physics), 1, model.nsensordata))
        physics = np.ascontiguousarray(physics)
        self._roll_out(Rollouts([model] * len(physics), physics, 1, sensordata=measured))
        return measured[:, 0]

    def close(self) -> None:
        """Ends the threads; the next step starts them again."""
        self._roll_out.close()
        self._work = None

    def __getstate__(self) -> dict[str, Any]:
        # Threads cannot be pickled or copied: a copy starts its own.
        return {**self.__dict__, "_roll_out": None, "_work": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._roll_out = SharedRollout(self.nthread, self.chunk_size)


class ModelPerTask:
    """A model for every task of a batch: copies of one model, with values that the task multiplies.

    A copy is written again only where its task has changed, and always from the nominal values, so
    that rounding errors do not add up. ``mj_setConst`` then updates the fields that depend on
    masses and inertias.

    Args:
        nominal: Model that is copied; it is not changed.
        varied: Names of the model's fields, and the entries of each that the task multiplies.
        lists_contacts: Whether the model's contacts are listed as pairs, whose parameters then
            follow those of the geoms (default: False).
    """

    def __init__(
        self, nominal: mujoco.MjModel, varied: dict[str, slice], *, lists_contacts: bool = False
    ) -> None:
        self.nominal = nominal
        self.lists_contacts = lists_contacts
        self.varied = varied
        self._scratch = mujoco.MjData(nominal)
        self._models: list[mujoco.MjModel] = []
        self._written: dict[str, np.ndarray] = {}

    def scaled(self, multipliers: dict[str, np.ndarray]) -> list[mujoco.MjModel]:
        """Returns one model per task.

        Args:
            multipliers: Factors ``[N, ...]`` of the entries of every varied field, by its name.

        Returns:
            ``N`` models, valid until the next call.
        """
        num = len(next(iter(multipliers.values())))
        if len(self._models) != num:
            self._models = [copy.copy(self.nominal) for _ in range(num)]
            changed = np.ones(num, dtype=bool)
        else:
            changed = np.zeros(num, dtype=bool)
            for name, factors in multipliers.items():
                different = factors != self._written[name]
                changed |= different.reshape(num, -1).any(axis=1)
        for i in np.flatnonzero(changed):
            self._write_scaled_fields(
                self._models[i], {name: multipliers[name][i] for name in self.varied}
            )
        if changed.any():
            self._written = {name: factors.copy() for name, factors in multipliers.items()}
        return self._models

    def _write_scaled_fields(self, model: mujoco.MjModel, factors: dict[str, np.ndarray]) -> None:
        for name, index in self.varied.items():
            getattr(model, name)[index] = getattr(self.nominal, name)[index] * factors[name]
        mujoco.mj_setConst(model, self._scratch)
        if self.lists_contacts:
            mix_geoms(model)


def compile_model(
    xml_file: str, sensors: Sequence[Sensor] = (), *, textures: bool = False
) -> mujoco.MjModel:
    """Compiles a model file.

    Args:
        xml_file: Path of the file.
        sensors: Sensors that are added after those of the file (default: none).
        textures: Whether textures are kept, for pictures (default: False). They take half a
            megabyte for each copy of a model.

    Raises:
        ValueError: A sensor is on an object that the model does not have.
    """
    spec = _read_model(xml_file, textures=textures)
    for kind, object_kind, name in sensors:
        spec.add_sensor(type=kind, objtype=object_kind, objname=name)
    return compile_spec(spec)


def _read_model(xml_file: str, *, textures: bool = False) -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(xml_file)
    if not textures:
        for texture in spec.textures:
            texture.width = texture.height = 1
    return spec


def _switch_off_unneeded_work(model: mujoco.MjModel) -> None:
    """Switches off work of MuJoCo that cannot change a rollout beyond rounding.

    A robot's constraints are one problem, so that a search for islands of constraints finds only
    one. A rollout has no earlier accelerations to start the solver from, so that comparing them
    with the unconstrained ones is not needed: the Newton solver converges from either. The slow
    solver of Humanoid (PGS) keeps this warm start.
    """
    # MuJoCo 3.3.0 searches for islands only where a flag asks for it, and has no such bit.
    model.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND", 0))
    if model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON:
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)


def _sensing_model(xml_file: str, sensors: Sequence[Sensor]) -> mujoco.MjModel:
    """Makes a model that is stepped only for its sensors, without constraints and actuators."""
    model = compile_model(xml_file, sensors)
    off = mujoco.mjtDisableBit
    model.opt.disableflags |= int(off.mjDSBL_CONSTRAINT | off.mjDSBL_ACTUATION)
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    return model
