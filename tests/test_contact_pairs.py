"""Listed contacts are those that MuJoCo would have found."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.mujoco_env import expand_model_path

from meta_rl.physics.batch import compile_model
from meta_rl.physics.contacts import list_contacts, mix_geoms

LISTED = {"ant.xml": 13, "half_cheetah.xml": 8, "hopper.xml": 7, "walker2d_v5.xml": 7}

# Two spheres and a box over a floor: names are missing, parameters differ, bodies are related.
WORLD = """
<mujoco>
  <worldbody>
    <geom type="plane" size="5 5 1" friction="0.4 0.01 0.002" margin="0.02" condim="1"/>
    <body pos="0 0 0.2">
      <freejoint/>
      <geom name="geom 0" size="0.1" friction="0.9 0.005 0.003" solref="0.01 0.8" margin="0.03"/>
      <body pos="0.15 0 0">
        <joint axis="0 1 0"/>
        <geom size="0.1" solref="-1000 -10" solimp="0.8 0.9 0.01 0.4 3" condim="6"/>
      </body>
    </body>
    <body pos="0 0.05 0.45">
      <freejoint/>
      <geom type="box" size="0.1 0.1 0.1" {}/>
    </body>
  </worldbody>
  {}
</mujoco>
"""


def roll(model: mujoco.MjModel, num_steps: int = 300) -> tuple[np.ndarray, set[Any]]:
    """Where a robot with random controls goes, and which geoms touch on the way."""
    rng, data = np.random.default_rng(0), mujoco.MjData(model)
    data.qvel[:] = rng.standard_normal(model.nv)
    states, touched = [], set()
    for _ in range(num_steps):
        data.ctrl[:] = rng.uniform(-1, 1, model.nu)
        mujoco.mj_step(model, data)
        states.append(np.concatenate([data.qpos, data.qvel]))
        touched |= {(c.geom1, c.geom2, c.dim) for c in data.contact}
    return np.array(states), touched


@pytest.mark.parametrize("file", LISTED)
def test_robots_go_where_they_went(file: str) -> None:
    path = expand_model_path(file)
    model, listed = list_contacts(mujoco.MjSpec.from_file(path))
    assert listed
    assert model.npair == LISTED[file]
    assert not (model.geom_contype | model.geom_conaffinity).any()
    (states, touched), (expected, others) = roll(model), roll(compile_model(path))
    assert touched == others
    assert touched
    np.testing.assert_array_equal(states, expected)


def test_parameters_are_mixed_as_by_mujoco() -> None:
    """And geoms without a name are found, also where the name they would get is taken."""
    xml = WORLD.format("", "")
    model, listed = list_contacts(mujoco.MjSpec.from_string(xml))
    assert listed
    assert model.npair == 5  # of six: the spheres are parent and child
    (states, touched), (expected, others) = roll(model), roll(mujoco.MjModel.from_xml_string(xml))
    assert touched == others
    assert {dim for _, _, dim in touched} == {3, 6}
    np.testing.assert_array_equal(states, expected)


@pytest.mark.parametrize(
    ("geom", "more"),
    [
        ('gap="0.01"', ""),
        ('priority="1"', ""),
        ('solmix="2"', ""),
        ("", '<contact><exclude body1="world" body2="falling"/></contact>'),
        ("", '<contact><pair geom1="geom 0" geom2="box"/></contact>'),
    ],
)
def test_unusual_models_are_left_alone(geom: str, more: str) -> None:
    xml = WORLD.format(f'name="box" {geom}', more).replace(
        '<body pos="0 0.05', '<body name="falling" pos="0 0.05'
    )
    model, listed = list_contacts(mujoco.MjSpec.from_string(xml))
    assert not listed
    expected = mujoco.MjModel.from_xml_string(xml)
    assert model.npair == expected.npair
    np.testing.assert_array_equal(roll(model)[0], roll(expected)[0])


def test_a_humanoid_has_too_many() -> None:
    model, listed = list_contacts(mujoco.MjSpec.from_file(expand_model_path("humanoid.xml")))
    assert not listed
    assert model.npair == 0


def test_pairs_follow_their_geoms() -> None:
    """Other frictions, given to the geoms of the listed model, act as in the searching one."""
    path = expand_model_path("hopper.xml")
    model, _ = list_contacts(mujoco.MjSpec.from_file(path))
    other = compile_model(path)
    nominal, _ = roll(other)
    for each in (model, other):
        each.geom_friction[:] *= np.linspace(0.2, 0.6, each.ngeom)[:, None]
    mix_geoms(model)
    np.testing.assert_array_equal(roll(model)[0], roll(other)[0])
    assert (roll(other)[0] != nominal).any()
