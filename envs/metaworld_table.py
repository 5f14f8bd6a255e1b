"""Meta-World's 50 environments as a table: models, measurements, first states and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import metaworld_mechanism_rewards as mechanisms
from . import metaworld_object_rewards as objects
from . import metaworld_starts as starts
from . import metaworld_tool_rewards as tools
from .metaworld_environment import Environment, Seen, Triple
from .metaworld_starts import at, level

LOW_TABLE = -0.15  # lowest height of the hand, in m, where it may get below the table's top


def _first(goals: np.ndarray) -> np.ndarray:
    return goals[:, :3]


def _last(goals: np.ndarray) -> np.ndarray:
    return goals[:, -3:]


def _single(x: float, y: float, z: float) -> Triple:
    """A position that Meta-World keeps in single precision."""
    return tuple(float(np.float32(value)) for value in (x, y, z))  # type: ignore[return-value]


MIDDLE = _single(0.0, 0.6, 0.2)
BACK = _single(0.0, 0.4, 0.2)
BACK_EXACT = (0.0, 0.4, 0.2)

PUCK = (Seen("body:obj", "axes:geom:objGeom"),)
PUCK_GEOM = (Seen("geom:objGeom", "axes:geom:objGeom"),)
BLOCK = (Seen("body:obj", "quat:obj"),)
PLATE = (Seen("geom:puck", "axes:geom:puck"),)
NUT = (Seen("site:RoundNut-8", "quat:RoundNut"),)
FRONT_BUTTON = (Seen("body:button", "quat:button", (0.0, -0.193, 0.0)),)
TOP_BUTTON = (Seen("body:button", "quat:button", (0.0, 0.0, 0.193)),)
MUG = (Seen("body:obj", "axes:geom:mug"),)
DOOR = (Seen("geom:handle", "axes:geom:handle"),)
BUTTON_SITES = ("site:hole", "site:buttonStart")

_button_box: dict[str, Any] = {"moved": "box", "place": _first, "hand": BACK, "also": BUTTON_SITES}
_puck: dict[str, Any] = {"touched": "objGeom", "apart": 0.15}

ENVIRONMENTS: dict[str, Environment] = {
    "assembly-v3": Environment(
        "sawyer_assembly_peg.xml",
        NUT,
        starts.as_given,
        tools.assembly,
        moved="peg",
        place=lambda goals: at(_last(goals), z=-0.05),
        hand=MIDDLE,
        also=("site:RoundNut",),
        apart=0.1,
    ),
    "basketball-v3": Environment(
        "sawyer_basketball.xml",
        (Seen("body:bsktball", "quat:bsktball"),),
        starts.basketball,
        objects.basketball,
        moved="basket_goal",
        place=_last,
        hand=MIDDLE,
        also=("site:goal",),
        apart=0.15,
    ),
    "bin-picking-v3": Environment(
        "sawyer_bin_picking.xml",
        BLOCK,
        starts.bin_picking,
        objects.bin_picking,
        low=(-0.5, 0.4, 0.07),
        also=("body:bin_goal",),
    ),
    "box-close-v3": Environment(
        "sawyer_box.xml",
        (Seen("body:top_link", "quat:top_link"),),
        starts.at_height(float(np.float32(0.02))),
        tools.box_close,
        moved="boxbody",
        place=lambda goals: level(_last(goals), np.nan),
        hand=MIDDLE,
        apart=0.25,
        more_steps=5,
        settles_alike=False,
    ),
    "button-press-topdown-v3": Environment(
        "sawyer_button_press_topdown.xml",
        TOP_BUTTON,
        starts.button(2, set_joint=False),
        mechanisms.button_press_topdown,
        **_button_box,
    ),
    "button-press-topdown-wall-v3": Environment(
        "sawyer_button_press_topdown_wall.xml",
        TOP_BUTTON,
        starts.button(2, set_joint=False),
        mechanisms.button_press_topdown_wall,
        **_button_box,
    ),
    "button-press-v3": Environment(
        "sawyer_button_press.xml",
        FRONT_BUTTON,
        starts.button(1, set_joint=True),
        mechanisms.button_press,
        **_button_box,
    ),
    "button-press-wall-v3": Environment(
        "sawyer_button_press_wall.xml",
        FRONT_BUTTON,
        starts.button(1, set_joint=True),
        mechanisms.button_press_wall,
        **_button_box,
    ),
    "coffee-button-v3": Environment(
        "sawyer_coffee.xml",
        (Seen("site:buttonStart", "unit"),),
        starts.coffee_button,
        mechanisms.coffee_button,
        moved="coffee_machine",
        place=_first,
        hand=BACK_EXACT,
    ),
    "coffee-pull-v3": Environment(
        "sawyer_coffee.xml",
        MUG,
        starts.coffee_mug,
        objects.coffee_mug,
        moved="coffee_machine",
        place=lambda goals: at(_first(goals), y=0.22),
        hand=BACK_EXACT,
        apart=0.15,
    ),
    "coffee-push-v3": Environment(
        "sawyer_coffee.xml",
        MUG,
        starts.coffee_mug,
        objects.coffee_mug,
        moved="coffee_machine",
        place=lambda goals: at(_last(goals), y=0.22),
        hand=BACK_EXACT,
        apart=0.15,
    ),
    "dial-turn-v3": Environment(
        "sawyer_dial.xml",
        (Seen("dial", "quat:dial"),),
        starts.dial_turn,
        mechanisms.dial_turn,
        moved="dial",
        place=_first,
        hand=MIDDLE,
        also=("body:dial", "joint:knob_Joint_1"),
    ),
    "disassemble-v3": Environment(
        "sawyer_assembly_peg.xml",
        NUT,
        starts.disassemble,
        tools.disassemble,
        moved="peg",
        place=lambda goals: at(_first(goals), z=0.03),
        hand=BACK,
        also=("site:RoundNut",),
        apart=0.1,
        settles_alike=False,
    ),
    "door-close-v3": Environment(
        "sawyer_door_pull.xml",
        DOOR,
        starts.door(-1.5708, 0.2, -0.2),
        mechanisms.door_close,
        moved="door",
        place=_first,
        hand=_single(-0.5, 0.6, 0.2),
    ),
    "door-lock-v3": Environment(
        "sawyer_door_lock.xml",
        (Seen("site:lockStartLock", "quat:door_link"),),
        starts.door_lock,
        mechanisms.door_lock,
        moved="door",
        place=_first,
        hand=MIDDLE,
        low=(-0.5, 0.4, LOW_TABLE),
        also=("body:lock_link",),
        more_steps=5,
        settles_alike=False,
    ),
    "door-open-v3": Environment(
        "sawyer_door_pull.xml",
        DOOR,
        starts.door(0.0, -0.3, -0.45),
        mechanisms.door_open,
        moved="door",
        place=_first,
        also=("joint:doorjoint",),
    ),
    "door-unlock-v3": Environment(
        "sawyer_door_lock.xml",
        (Seen("site:lockStartUnlock", "quat:door_link"),),
        starts.door_unlock,
        mechanisms.door_unlock,
        moved="door",
        place=_first,
        hand=MIDDLE,
        low=(-0.5, 0.4, LOW_TABLE),
        also=("body:lock_link",),
        settles_alike=False,
    ),
    "drawer-close-v3": Environment(
        "sawyer_drawer.xml",
        (Seen("body:drawer_link", None, (0.0, -0.16, 0.05)),),
        starts.drawer_close,
        mechanisms.drawer_close,
        moved="drawer",
        place=_first,
        hand=MIDDLE,
    ),
    "drawer-open-v3": Environment(
        "sawyer_drawer.xml",
        (Seen("body:drawer_link", "quat:drawer_link", (0.0, -0.16, 0.0)),),
        starts.drawer_open,
        mechanisms.drawer_open,
        moved="drawer",
        place=_first,
        hand=MIDDLE,
    ),
    "faucet-close-v3": Environment(
        "sawyer_faucet.xml",
        (Seen("site:handleStartClose", "quat:faucetBase", (0.0, 0.0, -0.01)),),
        starts.faucet(-0.175, measure=True),
        mechanisms.faucet_close,
        moved="faucetBase",
        place=_first,
        hand=BACK_EXACT,
        low=(-0.5, 0.4, LOW_TABLE),
    ),
    "faucet-open-v3": Environment(
        "sawyer_faucet.xml",
        (Seen("site:handleStartOpen", "quat:faucetBase", (0.0, 0.0, -0.01)),),
        starts.faucet(0.175, measure=False),
        mechanisms.faucet_open,
        moved="faucetBase",
        place=_first,
        hand=BACK_EXACT,
        low=(-0.5, 0.4, LOW_TABLE),
    ),
    "hammer-v3": Environment(
        "sawyer_hammer.xml",
        (Seen("body:hammer", "quat:hammer"), Seen("body:nail_link", "quat:nail_link")),
        starts.hammer,
        tools.hammer,
        moved="box",
        place=lambda goals: np.repeat([[0.24, 0.85, 0.0]], len(goals), axis=0),
        hand=BACK_EXACT,
        also=("site:goal", "joint:NailSlideJoint"),
    ),
    "hand-insert-v3": Environment(
        "sawyer_table_with_hole.xml",
        BLOCK,
        starts.at_height(0.05),
        objects.hand_insert,
        hand=MIDDLE,
        low=(-0.5, 0.4, LOW_TABLE),
        **_puck,
    ),
    "handle-press-side-v3": Environment(
        "sawyer_handle_press_sideways.xml",
        (Seen("site:handleStart"),),
        starts.handle(-0.001, "site:goalPress"),
        mechanisms.handle_press,
        moved="box",
        place=_first,
        also=("site:goalPress",),
        settles_alike=False,
    ),
    "handle-press-v3": Environment(
        "sawyer_handle_press.xml",
        (Seen("site:handleStart"),),
        starts.handle(-0.001, "site:goalPress"),
        mechanisms.handle_press,
        moved="box",
        place=_first,
        also=("site:goalPress",),
        settles_alike=False,
    ),
    "handle-pull-side-v3": Environment(
        "sawyer_handle_press_sideways.xml",
        (Seen("site:handleCenter"),),
        starts.handle(-0.1, "site:goalPull"),
        mechanisms.handle_pull_side,
        moved="box",
        place=_first,
        also=("site:goalPull",),
        settles_alike=False,
    ),
    "handle-pull-v3": Environment(
        "sawyer_handle_press.xml",
        (Seen("site:handleRight"),),
        starts.handle(-0.1, "site:goalPull"),
        mechanisms.handle_pull,
        moved="box",
        place=_first,
        also=("site:goalPull",),
        settles_alike=False,
    ),
    "lever-pull-v3": Environment(
        "sawyer_lever_pull.xml",
        (Seen("site:leverStart", "axes:geom:objGeom"),),
        starts.lever_pull,
        mechanisms.lever_pull,
        moved="lever",
        place=_first,
        hand=BACK,
        low=(-0.5, 0.4, LOW_TABLE),
        also=("joint:LeverAxis",),
        settles_alike=False,
    ),
    "peg-insert-side-v3": Environment(
        "sawyer_peg_insertion_side.xml",
        (Seen("site:pegGrasp", "axes:site:pegGrasp"),),
        starts.peg_insert_side,
        tools.peg_insert_side,
        moved="box",
        place=_last,
        also=(
            "site:pegHead",
            *(
                f"site:{corner}_corner_collision_box_{box}"
                for corner in ("bottom_right", "top_left")
                for box in (1, 2)
            ),
        ),
        apart=0.1,
    ),
    "peg-unplug-side-v3": Environment(
        "sawyer_peg_unplug_side.xml",
        (Seen("site:pegEnd", "quat:plug1"),),
        starts.peg_unplug_side,
        tools.peg_unplug_side,
        moved="box",
        place=_first,
        settles_alike=False,
    ),
    "pick-out-of-hole-v3": Environment(
        "sawyer_pick_out_of_hole.xml",
        BLOCK,
        starts.as_given,
        objects.pick_out_of_hole,
        low=(-0.5, 0.4, -0.05),
        apart=0.15,
    ),
    "pick-place-v3": Environment(
        "sawyer_pick_place_v3.xml", PUCK, starts.as_given, objects.pick_place, **_puck
    ),
    "pick-place-wall-v3": Environment(
        "sawyer_pick_place_wall_v3.xml",
        PUCK_GEOM,
        starts.as_given,
        objects.pick_place_wall,
        **_puck,
    ),
    "plate-slide-back-side-v3": Environment(
        "sawyer_plate_slide_sideway.xml",
        PLATE,
        starts.plate(-0.15, 0.0),
        objects.plate_slide_on_table,
        moved="puck_goal",
        place=_first,
        hand=MIDDLE,
    ),
    "plate-slide-back-v3": Environment(
        "sawyer_plate_slide.xml",
        PLATE,
        starts.plate(0.0, 0.15),
        objects.plate_slide_on_table,
        hand=MIDDLE,
    ),
    "plate-slide-side-v3": Environment(
        "sawyer_plate_slide_sideway.xml",
        PLATE,
        starts.plate(0.0, 0.0),
        objects.plate_slide_on_table,
        hand=MIDDLE,
    ),
    "plate-slide-v3": Environment(
        "sawyer_plate_slide.xml",
        PLATE,
        starts.plate(0.0, 0.0),
        objects.plate_slide,
        moved="puck_goal",
        place=_last,
        hand=MIDDLE,
    ),
    "push-back-v3": Environment(
        "sawyer_push_back_v3.xml",
        PUCK_GEOM,
        starts.at_height_of("geom:objGeom"),
        objects.push_back,
        hand=MIDDLE,
        **_puck,
    ),
    "push-v3": Environment(
        "sawyer_push_v3.xml", PUCK, starts.at_height_of("body:obj"), objects.push, **_puck
    ),
    "push-wall-v3": Environment(
        "sawyer_push_wall_v3.xml",
        PUCK_GEOM,
        starts.at_height_of("geom:objGeom"),
        objects.push_wall,
        **_puck,
    ),
    "reach-v3": Environment(
        "sawyer_reach_v3.xml", PUCK, starts.as_given, objects.reach, apart=0.15
    ),
    "reach-wall-v3": Environment(
        "sawyer_reach_wall_v3.xml", PUCK, starts.as_given, objects.reach_wall, apart=0.15
    ),
    "shelf-place-v3": Environment(
        "sawyer_shelf_placing.xml",
        PUCK,
        starts.shelf_place,
        objects.shelf_place,
        moved="shelf",
        place=lambda goals: at(_last(goals), z=-0.3),
        hand=MIDDLE,
        touched="objGeom",
        apart=0.1,
    ),
    "soccer-v3": Environment(
        "sawyer_soccer.xml",
        (Seen("body:soccer_ball", "axes:body:soccer_ball"),),
        starts.at_height(0.03),
        objects.soccer,
        moved="goal_whole",
        place=_last,
        **_puck,
    ),
    "stick-pull-v3": Environment(
        "sawyer_stick_obj.xml",
        (Seen("body:stick", "axes:body:stick"), Seen("site:insertion")),
        starts.stick_pull,
        tools.stick_pull,
        low=(-0.5, 0.35, 0.05),
        also=("body:object", "site:stick_end"),
        touched="objGeom",
        apart=0.1,
    ),
    "stick-push-v3": Environment(
        "sawyer_stick_obj.xml",
        (Seen("body:stick", "axes:body:stick"), Seen("site:insertion", None, (0.0, 0.09, 0.0))),
        starts.stick_push,
        tools.stick_push,
        also=("body:object",),
        touched="objGeom",
        apart=0.1,
    ),
    "sweep-into-v3": Environment(
        "sawyer_table_with_hole.xml",
        PUCK,
        starts.sweep_into,
        objects.sweep_into,
        apart_from=(0.0, 0.84),
        **_puck,
    ),
    "sweep-v3": Environment(
        "sawyer_sweep_v3.xml", BLOCK, starts.sweep, objects.sweep, touched="objGeom"
    ),
    "window-close-v3": Environment(
        "sawyer_window_horizontal.xml",
        (Seen("site:handleCloseStart"),),
        starts.window(0.2, 0.0, "site:handleCloseStart", 0.2),
        mechanisms.window_close,
        moved="window",
        place=_first,
        hand=BACK,
    ),
    "window-open-v3": Environment(
        "sawyer_window_horizontal.xml",
        (Seen("site:handleOpenStart"),),
        starts.window(0.0, 0.2, "site:handleOpenStart", 0.0),
        mechanisms.window_open,
        moved="window",
        place=_first,
        hand=BACK,
    ),
}
