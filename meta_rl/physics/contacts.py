"""The possible contacts of a MuJoCo model, listed as pairs of geoms when it is compiled.

At every step MuJoCo searches for bodies that may touch (its broad phase). For a robot that can
touch only the floor, the search takes a fifth of the step. Listed pairs of geoms need no search,
and give the same contacts in the same order: trajectories are equal to the last bit.
"""

from __future__ import annotations

import warnings
from functools import cache
from itertools import count

import mujoco
import numpy as np


def list_contacts(spec: mujoco.MjSpec) -> tuple[mujoco.MjModel, bool]:
    """Compiles a model, and lists its possible contacts as pairs where this saves time.

    Contacts are not listed where the search is faster (more than two pairs for each geom), and
    where they depend on features that this module does not handle: pairs or exclusions in the
    file, flexes, gaps, priorities, or mixing weights.

    Args:
        spec: Specification of the model. It is changed: unnamed geoms get a name, and pairs replace
            the bits (``contype``, ``conaffinity``) that allow geoms to touch.

    Returns:
        The model, and whether its contacts are listed.
    """
    names = {geom.name for geom in spec.geoms}
    free = (name for name in map("geom {}".format, count()) if name not in names)
    for geom in spec.geoms:
        geom.name = geom.name or next(free)
    model = compile_spec(spec)
    special = model.npair + model.nexclude + model.nflex + model.geom_gap.any()
    alike = all(len(set(field)) <= 1 for field in (model.geom_priority, model.geom_solmix))
    pairs = _possible_contacts(model)
    if special or not alike or len(pairs) > 2 * model.ngeom:
        return model, False
    for first, second in pairs:
        spec.add_pair(geomname1=model.geom(first).name, geomname2=model.geom(second).name)
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
    model = compile_spec(spec)
    mix_geoms(model)
    return model, True


def compile_spec(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compiles a model; hides MuJoCo 4's warnings of old attributes in Gymnasium's files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated")
        return spec.compile()


def mix_geoms(model: mujoco.MjModel) -> None:
    """Sets the parameters of listed pairs, which MuJoCo would mix from those of their geoms.

    It has to be called again after the geoms of a model from :func:`list_contacts` have changed.
    The rules are those of MuJoCo's documentation (Computation, Collision, Contact parameters), for
    geoms of equal priority and weight.
    """
    first, second = model.pair_geom1, model.pair_geom2
    model.pair_dim[:] = np.maximum(model.geom_condim[first], model.geom_condim[second])
    friction = np.maximum(model.geom_friction[first], model.geom_friction[second])
    model.pair_friction[:] = friction[:, [0, 0, 1, 2, 2]]  # sliding, torsional, rolling
    one, other = model.geom_solref[first], model.geom_solref[second]
    standard = (one[:, :1] > 0) & (other[:, :1] > 0)  # negative: direct stiffness and damping
    model.pair_solref[:] = np.where(standard, (one + other) / 2, np.minimum(one, other))
    model.pair_solimp[:] = (model.geom_solimp[first] + model.geom_solimp[second]) / 2
    combine = np.add if _margins_add() else np.maximum
    model.pair_margin[:] = combine(model.geom_margin[first], model.geom_margin[second])


def _possible_contacts(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Returns the pairs of geoms that MuJoCo's filters allow to touch, in MuJoCo's order."""
    weld = model.body_weldid
    parent = weld[model.body_parentid[weld]]
    pairs = []
    for first in range(model.ngeom):
        for second in range(first + 1, model.ngeom):
            one, other = model.geom_bodyid[[first, second]]
            allowed = (
                model.geom_contype[first] & model.geom_conaffinity[second]
                or model.geom_contype[second] & model.geom_conaffinity[first]
            )
            related = weld[one] and weld[other] and weld[one] == parent[other]
            related |= weld[one] and weld[other] and weld[other] == parent[one]
            if allowed and weld[one] != weld[other] and not related:
                pairs.append((first, second))
    return pairs


@cache
def _margins_add() -> bool:
    """Tells whether this version of MuJoCo adds two geoms' margins; older ones take the larger."""
    sphere = '<body pos="{} 0 0"><freejoint/><geom size="1" margin="0.1"/></body>'
    bodies = sphere.format(0) + sphere.format(2.15)  # 0.15 apart
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return bool(data.ncon)
