"""Pictures of MuJoCo robots, with the goal drawn in the scene, and windows that show them.

Pictures need no screen; a window needs one.
"""

from __future__ import annotations

import importlib
import os
import platform
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import glfw
import mujoco
import numpy as np

from meta_rl.physics.batch import compile_model

GOAL_COLOUR = np.array([0.1, 0.7, 0.2, 0.8], dtype=np.float32)
BACKENDS = ("egl", "osmesa", "glfw")  # MuJoCo's, in the order in which they are tried on Linux
MAX_GEOMS = 1000

Scene = tuple[np.ndarray, np.ndarray | None, np.ndarray | None, int | None]
"""Positions of the joints ``[nq]``, and the marker of the task: an arrow ``[3]`` in m, a point
``[3]`` in m, or the number of a motor."""


class RobotCamera:
    """A camera that draws one robot at a time.

    Args:
        xml_file: Path of the model, which is drawn with its textures.
        width: Width of a frame, in pixels.
        height: Height of a frame, in pixels.
        distance: Distance of the camera from the point that it looks at, in m.
        elevation: Elevation of the camera's direction, in degrees; -90 looks down.
        azimuth: Azimuth of the camera's direction, in degrees; 90 looks along y.
        track: Whether the camera looks at the robot's centre of mass, or at the origin.

    Raises:
        RuntimeError: No OpenGL backend works here; the error states what to install.
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
        self._camera, self._track = mujoco.MjvCamera(), track
        _set_camera(self._camera, distance, elevation, azimuth)

    def draw(
        self,
        qpos: np.ndarray,
        arrow: np.ndarray | None = None,
        point: np.ndarray | None = None,
        motor: int | None = None,
    ) -> np.ndarray:
        """Draws a frame, uint8 ``[height, width, 3]``.

        Args:
            qpos: Positions of the joints, ``[nq]``.
            arrow: Vector ``[3]`` in m, drawn above the first body (default: none).
            point: Position ``[3]`` in m, drawn as a ball (default: none).
            motor: Number of a motor, whose joint gets a small ball (default: none).
        """
        self._gl.make_current()
        _set_pose(self.model, self.data, qpos)
        if self._track:
            _look_at_robot(self._camera, self.data)
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self._options,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        for marker in goal_markers(self.data, arrow, point, motor):
            mujoco.mjv_initGeom(self._scene.geoms[self._scene.ngeom], **marker)
            self._scene.ngeom += 1
        mujoco.mjr_render(self._view, self._scene, self._context)
        frame = np.empty((self._view.height, self._view.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(frame, None, self._view, self._context)
        return frame[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Releases the resources of OpenGL."""
        self._context.free()
        self._gl.free()


class RobotWindow:
    """Gymnasium's window with one robot, with its functions of the keyboard and the mouse.

    Args:
        scenes: Function that takes the states and tasks of a batch and returns its scenes; the
            first scene is shown.
        xml_file: Path of the model.
        width: Width of the window, in pixels.
        height: Height of the window, in pixels.
        distance: Initial distance of the camera from the point that it looks at, in m; the mouse
            changes the view.
        elevation: Initial elevation of the camera's direction, in degrees; -90 looks down.
        azimuth: Initial azimuth of the camera's direction, in degrees; 90 looks along y.
        track: Whether the camera looks at the robot's centre of mass, or at the origin.

    Raises:
        RuntimeError: There is no screen.
    """

    def __init__(
        self,
        scenes: Callable[[Any, Any], Iterable[Scene]],
        xml_file: str,
        width: int,
        height: int,
        *,
        distance: float,
        elevation: float,
        azimuth: float,
        track: bool,
    ) -> None:
        try:
            check_screen()
        except RuntimeError as error:
            raise RuntimeError(
                f'render_mode="human" opens a window, but there is {error}. '
                'render_mode="rgb_array" needs none'
            ) from None
        from gymnasium.envs.mujoco.mujoco_rendering import WindowViewer

        self._scenes, self._track = scenes, track
        self.model = compile_model(xml_file, textures=True)
        self.data = mujoco.MjData(self.model)
        self._viewer: Any = WindowViewer(self.model, self.data, width, height, MAX_GEOMS)
        _set_camera(self._viewer.cam, distance, elevation, azimuth)

    def show(self, state: Any, tasks: Any) -> None:
        """Shows the first robot of a batch."""
        qpos, arrow, point, motor = next(iter(self._scenes(state, tasks)))
        self._viewer.make_context_current()
        # Gymnasium's window would end the process when the user closes it.
        glfw.set_window_should_close(self._viewer.window, False)
        _set_pose(self.model, self.data, qpos)
        if self._track:
            _look_at_robot(self._viewer.cam, self.data)
        for marker in goal_markers(self.data, arrow, point, motor):
            self._viewer.add_marker(**marker)
        self._viewer.render()

    def close(self) -> None:
        """Closes the window."""
        self._viewer.free()


def goal_markers(
    data: mujoco.MjData, arrow: np.ndarray | None, point: np.ndarray | None, motor: int | None
) -> list[dict[str, Any]]:
    """Makes the markers of the goal, as arguments of ``mjv_initGeom``.

    Args:
        data: Data of the robot in its current pose.
        arrow: Vector ``[3]`` in m, drawn above the first body; none if its length is 0.
        point: Position ``[3]`` in m, drawn as a ball.
        motor: Number of a motor, whose joint gets a small ball.
    """
    markers = []
    if arrow is not None and np.linalg.norm(arrow) > 1e-6:
        start = data.xpos[1] + np.array([0.0, 0.0, 0.6])
        kind, geom = mujoco.mjtGeom.mjGEOM_ARROW, mujoco.MjvGeom()
        mujoco.mjv_initGeom(geom, kind, np.zeros(3), np.zeros(3), np.eye(3).ravel(), GOAL_COLOUR)
        mujoco.mjv_connector(geom, kind, 0.08, start, start + arrow)
        markers.append(_marker(kind, geom.size, geom.pos, geom.mat))
    if point is not None:
        markers.append(_ball(0.15, point))
    if motor is not None:
        markers.append(_ball(0.1, data.xanchor[data.model.actuator_trnid[motor, 0]]))
    return markers


def _ball(radius: float, position: Any) -> dict[str, Any]:
    return _marker(mujoco.mjtGeom.mjGEOM_SPHERE, [radius, 0.0, 0.0], position, np.eye(3))


def _marker(kind: Any, size: Any, position: Any, frame: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "size": np.array(size, dtype=np.float64),
        "pos": np.array(position, dtype=np.float64),
        "mat": np.array(frame, dtype=np.float64).ravel(),
        "rgba": GOAL_COLOUR,
    }


def _set_camera(
    camera: mujoco.MjvCamera, distance: float, elevation: float, azimuth: float
) -> None:
    """Sets a camera that looks at the origin."""
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.distance, camera.elevation, camera.azimuth = distance, elevation, azimuth
    camera.lookat[:] = 0.0


def _look_at_robot(camera: mujoco.MjvCamera, data: mujoco.MjData) -> None:
    """Turns a camera to the robot's centre of mass.

    MuJoCo's own tracking camera lags one frame behind, at least in 3.3: it would look at the robot
    of the frame before, which may be that of another sub-environment.
    """
    camera.lookat[:] = data.subtree_com[1]


def _set_pose(model: mujoco.MjModel, data: mujoco.MjData, qpos: np.ndarray) -> None:
    """Sets the joint positions, and computes the quantities that a picture needs."""
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)  # cameras and lights depend on it
    mujoco.mj_camlight(model, data)


def check_screen() -> None:
    """Checks that a window can be opened.

    Raises:
        RuntimeError: GLFW finds no screen.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GLFW warns of the same problem
        if not glfw.init() or glfw.get_primary_monitor() is None:
            raise RuntimeError("no screen (on Linux, DISPLAY or WAYLAND_DISPLAY names one)")


def make_gl_context(width: int, height: int) -> Any:
    """Makes an OpenGL context without a window, and makes it current.

    The environment variable ``MUJOCO_GL`` names the backend; otherwise all are tried in turn.

    Raises:
        RuntimeError: No backend works; the error states why, and what to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    backends = (chosen,) if chosen in BACKENDS else _backends()
    failures = []
    for backend in backends:
        try:
            if backend == "glfw":
                check_screen()  # without a screen, it makes a context that fails later
            context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            context.make_current()
        except Exception as error:  # each backend raises other exceptions
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
