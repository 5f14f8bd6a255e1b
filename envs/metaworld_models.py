"""Meta-World's models, compiled for a batch: one for all goals of an environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from meta_rl.physics.batch import FULL_PHYSICS
from meta_rl.physics.contacts import compile_spec
from meta_rl.physics.shared_rollout import Rollouts, SharedRollout

STATE = mujoco.mjtState
CONTROLS = int(STATE.mjSTATE_CTRL.value | STATE.mjSTATE_MOCAP_POS.value | STATE.mjSTATE_MOCAP_QUAT)
WELD = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0])
HAND_ROTATION = np.array([1.0, 0.0, 1.0, 0.0])
FRAME_SKIP = 5
TOUCH_DISTANCE = 0.001  # in m: a pad that feels a force and is this near touches the object

OBJECTS = {
    "body": mujoco.mjtObj.mjOBJ_XBODY,
    "quat": mujoco.mjtObj.mjOBJ_XBODY,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "joint": mujoco.mjtObj.mjOBJ_JOINT,
}
AXES = (
    mujoco.mjtSensor.mjSENS_FRAMEXAXIS,
    mujoco.mjtSensor.mjSENS_FRAMEYAXIS,
    mujoco.mjtSensor.mjSENS_FRAMEZAXIS,
)
ARM = (
    *("body:hand", "body:rightclaw", "body:leftclaw", "site:rightEndEffector"),
    *("site:leftEndEffector", "body:rightpad", "body:leftpad"),
)
"""What is measured in every environment."""


class ArmModel:
    """The model of one of Meta-World's environments, and its steps for any number of copies.

    The body that a goal moves is driven as a mocap body, so that one model serves all goals. The
    actions move another mocap body, which the hand is welded to.

    Measurements have names ``kind:name``: ``body``, ``geom`` and ``site`` are positions,
    ``quat`` a body's quaternion, ``joint`` a joint's position, and ``axes:body:name`` (or of a
    geom or a site) the three axes of its frame, 9 numbers, which are the columns of its rotation
    matrix.

    Args:
        file: Name of the model's file in Meta-World's assets, without its folder.
        measured: Names of the measurements, besides those of the arm (:data:`ARM`).
        moved: Name of the body that a goal moves (default: none).
        touched: Name of the geom whose contact with both pads is measured (default: none).

    Attributes:
        model: The compiled model.
        places: Columns of each measurement, by its name.
        home: Position of the moved body in the file, ``[3]``; zeros if there is none.
    """

    def __init__(
        self,
        file: str,
        measured: tuple[str, ...] = (),
        *,
        moved: str | None = None,
        touched: str | None = None,
    ) -> None:
        self.touched = touched
        self._sizes = f"{file} {moved} {touched} {measured}"
        names = tuple(dict.fromkeys(ARM + measured))
        spec = _read_spec(file, {name.rpartition(":")[2] for name in names})
        if moved:
            spec.body(moved).mocap = True
        for name in names:
            _add_measurement(spec, name)
        if touched:
            _add_touch(spec, touched)
        self.model = compile_spec(spec)
        welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
        self.model.eq_data[welds, : len(WELD)] = (
            WELD  # later versions of MuJoCo have one number more
        )
        body = self.model.body(moved).id if moved else 0
        self.home, self._rotation = self.model.body_pos[body], self.model.body_quat[body]
        self.places = _columns(names)
        self.size = mujoco.mj_stateSize(self.model, FULL_PHYSICS)
        self._hand = int(self.model.body_mocapid[self.model.body("mocap").id])
        self._work: tuple[Any, ...] | None = None

    def joints(self, name: str) -> int:
        """Returns the first place of a joint in the positions."""
        return int(self.model.joint(name).qposadr[0])

    def step(
        self,
        roll_out: SharedRollout,
        physics: np.ndarray,
        controls: np.ndarray,
        *,
        warmstarts: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Takes a step of the environment in every copy.

        Meta-World makes five steps, and measures. ``mj_step`` measures before it integrates: a
        sixth one has the measurements.

        Args:
            roll_out: Engine that computes the steps, which several batches may share.
            physics: States, ``[N, nstate]``.
            controls: Inputs from :meth:`controls`, ``[N, number of inputs]``.
            warmstarts: Accelerations that the solver starts from, ``[N, nv]`` (default: zeros).

        Returns:
            The states after five steps, and the measurements in these states.
        """
        states, measured = self._rolled(roll_out, physics, controls, FRAME_SKIP + 1, warmstarts)
        return states[:, -2].copy(), measured[:, -1].copy()

    def measure(
        self, roll_out: SharedRollout, physics: np.ndarray, controls: np.ndarray
    ) -> np.ndarray:
        """Returns the measurements in states, ``[N, M]``."""
        return self._rolled(roll_out, physics, controls, 1)[1][:, -1].copy()

    def settle(
        self, roll_out: SharedRollout, controls: np.ndarray, num_steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lets every copy settle, from MuJoCo's first state on.

        Args:
            roll_out: Engine that computes the steps, which several batches may share.
            controls: Inputs, ``[N, number of inputs]``.
            num_steps: Number of calls of ``mj_step``.

        Returns:
            The states before and after the last call, ``[N, nstate]`` each.
        """
        physics = np.zeros((len(controls), self.size))
        physics[:, 1 : 1 + self.model.nq] = self.model.qpos0
        states, _ = self._rolled(roll_out, physics, controls, num_steps)
        return states[:, -2].copy(), states[:, -1].copy()

    def _rolled(
        self,
        roll_out: SharedRollout,
        physics: np.ndarray,
        controls: np.ndarray,
        num_steps: int,
        warmstarts: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns states and measurements of all steps; the next call overwrites them."""
        num = len(physics)
        if self._work is None or self._work[0].shape[:2] != (num, num_steps):
            self._work = (
                np.empty((num, num_steps, controls.shape[1])),
                np.empty((num, num_steps, self.size)),
                np.empty((num, num_steps, self.model.nsensordata)),
                [self.model] * num,
            )
        repeated, states, measured, models = self._work
        repeated[:] = controls[:, None]
        work = Rollouts(models, np.ascontiguousarray(physics), num_steps, repeated, states)
        work.sensordata, work.control_spec, work.warmstarts = measured, CONTROLS, warmstarts
        work.sizes = self._sizes
        roll_out(work)
        return states, measured

    def controls(self, grip: Any, hand: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Returns the inputs of a step.

        Args:
            grip: Torque of the gripper, ``[N]``.
            hand: Positions that the hand is drawn to, ``[N, 3]``.
            place: Positions of the body that a goal moves, ``[N, 3]``; ignored if there is none.
        """
        num, bodies = len(hand), self.model.nmocap
        inputs = np.empty((num, 2 + 7 * bodies))
        inputs[:, 0], inputs[:, 1] = grip, -grip
        positions = inputs[:, 2 : 2 + 3 * bodies].reshape(num, bodies, 3)
        rotations = inputs[:, 2 + 3 * bodies :].reshape(num, bodies, 4)
        for body in range(bodies):
            drawn = body == self._hand
            positions[:, body] = hand if drawn else place
            rotations[:, body] = HAND_ROTATION if drawn else self._rotation
        return inputs

    def touches(self, measured: np.ndarray) -> np.ndarray:
        """Tells whether both pads touch the object, bool ``[N]``; False if none is measured."""
        if self.touched is None:
            return np.zeros(len(measured), dtype=bool)
        forces, distances = measured[:, -4:-2], measured[:, -2:]
        touching = (forces > 0) & (distances < TOUCH_DISTANCE)
        return np.asarray(touching.all(axis=1))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_work": None}


def asset(file: str) -> Path:
    """Returns the path of a model file of the installed package, without importing it.

    Raises:
        ImportError: The package is missing.
    """
    found = importlib.util.find_spec("metaworld")
    if found is None or found.origin is None:
        raise ImportError("the package metaworld is missing")
    return Path(found.origin).parent / "assets" / "sawyer_xyz" / file


def _read_spec(file: str, used: set[str]) -> mujoco.MjSpec:
    """Reads a model without what is only to be seen, which takes most of the time to compile.

    The compiler would discard it, too, after it has processed the meshes.
    """
    spec = mujoco.MjSpec.from_file(str(asset(file)))
    for texture in spec.textures:
        texture.width = texture.height = 1
    spec.compiler.discardvisual = True
    _delete_visual(spec, spec.worldbody, used, moves=False)
    meshes = {geom.meshname for geom in spec.geoms}
    for mesh in list(spec.meshes):
        if mesh.name not in meshes:
            _delete(spec, mesh)
    return spec


def _delete_visual(spec: mujoco.MjSpec, body: Any, used: set[str], *, moves: bool) -> None:
    """Deletes the geoms that touch nothing, unless they give a moving body its inertia."""
    moves = moves or bool(list(body.joints))
    for geom in list(body.geoms):
        touches = geom.contype or geom.conaffinity or geom.name in used
        if not touches and (body.explicitinertial or not moves):
            _delete(spec, geom)
    for child in list(body.bodies):
        _delete_visual(spec, child, used, moves=moves)


def _delete(spec: mujoco.MjSpec, part: Any) -> None:
    """Deletes a part of a specification; later versions of MuJoCo ask the specification."""
    if hasattr(spec, "delete"):
        spec.delete(part)
    else:
        part.delete()


def _add_measurement(spec: mujoco.MjSpec, name: str) -> None:
    kind, _, rest = name.partition(":")
    if kind == "axes":
        kind, _, rest = rest.partition(":")
        for axis in AXES:
            spec.add_sensor(type=axis, objtype=OBJECTS[kind], objname=rest)
        return
    sensor = {"quat": mujoco.mjtSensor.mjSENS_FRAMEQUAT, "joint": mujoco.mjtSensor.mjSENS_JOINTPOS}
    measured = sensor.get(kind, mujoco.mjtSensor.mjSENS_FRAMEPOS)
    spec.add_sensor(type=measured, objtype=OBJECTS[kind], objname=rest)


def _add_touch(spec: mujoco.MjSpec, touched: str) -> None:
    """Adds the forces on both pads, and their distances from the object."""
    for pad in ("leftpad", "rightpad"):
        ball = {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "size": [0.1, 0.1, 0.1]}
        spec.body(pad).add_site(name=f"touch of {pad}", **ball)
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_TOUCH,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname=f"touch of {pad}",
        )
    body = spec.geom(touched).parent
    body.name = body.name or "touched"
    for pad in ("leftpad", "rightpad"):  # bodies of one geom: discarding renumbers geoms
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_GEOMDIST,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=pad,
            reftype=mujoco.mjtObj.mjOBJ_BODY,
            refname=body.name,
            cutoff=0.1,
        )


def _columns(names: tuple[str, ...]) -> dict[str, slice]:
    sizes = {"quat": 4, "joint": 1, "axes": 9}
    columns, end = {}, 0
    for name in names:
        begin, end = end, end + sizes.get(name.partition(":")[0], 3)
        columns[name] = slice(begin, end)
    return columns
