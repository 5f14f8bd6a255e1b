"""Pictures of MuJoCo robots, with the goal drawn in the scene, on machines with no screen too."""

from __future__ import annotations

import importlib
import os
import platform
import warnings
from typing import Any

import mujoco
import numpy as np

from meta_rl.mujoco_batch import compile_model

GOAL_COLOUR = np.array([0.1, 0.7, 0.2, 0.8], dtype=np.float32)
BACKENDS = ("egl", "osmesa", "glfw")  # of MuJoCo, in the order in which they are tried on Linux
MAX_GEOMS = 1000


class RobotCamera:
    """Draws one robot at a time.

    Args:
        xml_file: A path to the model, whose textures are wanted here.
        width: Of a frame, in pixels.
        height: Of a frame, in pixels.
        distance: Of the camera from what it looks at, in m.
        elevation: Of the camera's direction, in degrees: -90 looks down.
        azimuth: Of the camera's direction, in degrees: 90 looks along y.
        track: Look at the robot's centre of mass; otherwise at the origin.

    Raises:
        RuntimeError: No OpenGL backend works here; says what can be done.
    """

    def __init__(
        self,
        xml_file: str,
        width: int,
        height: int,
        *,
        distance: float,
        elevation: float,
        azimuth: float,
        track: bool,
    ) -> None:
        self._gl = make_gl_context(width, height)
        self.model = compile_model(xml_file, textures=True)
        shown = self.model.vis.global_
        shown.offwidth, shown.offheight = max(shown.offwidth, width), max(shown.offheight, height)
        self.data = mujoco.MjData(self.model)
        self._view = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(self.model, MAX_GEOMS)
        self._options, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.elevation = distance, elevation
        self._camera.azimuth = azimuth
        self._camera.lookat[:] = 0.0
        self._track = track

    def draw(
        self, qpos: np.ndarray, arrow: np.ndarray | None = None, point: np.ndarray | None = None
    ) -> np.ndarray:
        """A frame, uint8 ``[height, width, 3]``.

        Args:
            qpos: Positions of the joints, ``[nq]``.
            arrow: A vector ``[3]`` in m, drawn above the first body.
            point: A position ``[3]`` in m, drawn as a ball.
        """
        self._gl.make_current()
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)  # where the camera and the lights are
        mujoco.mj_camlight(self.model, self.data)
        if self._track:
            # MuJoCo's tracking camera lags behind, up to 3.3 at least: a frame would show where the
            # last one was taken, of another sub-environment even.
            self._camera.lookat[:] = self.data.subtree_com[1]
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self._options,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        if arrow is not None:
            self._add_arrow(self.data.xpos[1] + np.array([0.0, 0.0, 0.6]), arrow)
        if point is not None:
            self._add_ball(point)
        mujoco.mjr_render(self._view, self._scene, self._context)
        frame = np.empty((self._view.height, self._view.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(frame, None, self._view, self._context)
        return frame[::-1].copy()  # OpenGL starts at the bottom

    def close(self) -> None:
        """Release what OpenGL holds."""
        self._context.free()
        self._gl.free()

    def _add_arrow(self, start: np.ndarray, vector: np.ndarray) -> None:
        if np.linalg.norm(vector) > 1e-6:  # else there is no direction to draw
            geom = self._add(mujoco.mjtGeom.mjGEOM_ARROW, np.zeros(3), np.zeros(3))
            kind = mujoco.mjtGeom.mjGEOM_ARROW
            mujoco.mjv_connector(geom, kind, 0.08, start, start + vector)

    def _add_ball(self, point: np.ndarray) -> None:
        self._add(mujoco.mjtGeom.mjGEOM_SPHERE, np.array([0.15, 0.0, 0.0]), point)

    def _add(self, kind: mujoco.mjtGeom, size: np.ndarray, position: np.ndarray) -> Any:
        geom = self._scene.geoms[self._scene.ngeom]
        mujoco.mjv_initGeom(geom, kind, size, position, np.eye(3).ravel(), GOAL_COLOUR)
        self._scene.ngeom += 1
        return geom


def make_gl_context(width: int, height: int) -> Any:
    """A current OpenGL context without a window.

    ``MUJOCO_GL`` names the backend; where it is not set, they are tried one by one.

    Raises:
        RuntimeError: None works; says why, and what can be done.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    backends = (chosen,) if chosen in BACKENDS else _backends()
    failures = []
    for backend in backends:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of glfw, where there is no screen
                context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
                context.make_current()
        except Exception as error:  # each backend fails in a way of its own
            failures.append(f"{backend}: {type(error).__name__}: {error}")
        else:
            return context
    raise RuntimeError(
        "rendering needs OpenGL, and no backend of MuJoCo works here. Without a screen, install "
        "EGL (libegl1) and set MUJOCO_GL=egl, or OSMesa (libosmesa6) and MUJOCO_GL=osmesa. Tried "
        + "; ".join(failures)
    )


def _backends() -> tuple[str, ...]:
    if platform.system() == "Darwin":
        return ("cgl",)
    if platform.system() == "Windows":
        return ("glfw",)
    return BACKENDS
