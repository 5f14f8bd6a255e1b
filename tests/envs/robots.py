"""The registered robots, and how the tests make them and draw their tasks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

import meta_rl
from meta_rl.envs.robot import Robot
from meta_rl.task_env import build_definition

# Our id, Gymnasium's id.
ROBOTS = {
    "HalfCheetahVel": "HalfCheetah-v5",
    "HalfCheetahVelMAML": "HalfCheetah-v5",
    "HalfCheetahDir": "HalfCheetah-v5",
    "HalfCheetahDirMAML": "HalfCheetah-v5",
    "AntVel": "Ant-v5",
    "AntDir": "Ant-v5",
    "AntForwardBackward": "Ant-v5",
    "AntGoal": "Ant-v5",
    "Walker2dVel": "Walker2d-v5",
    "HopperVel": "Hopper-v5",
    "HumanoidDir": "Humanoid-v5",
    "ReacherGoal": "Reacher-v5",
    "HalfCheetahCripple": "HalfCheetah-v5",
    "Walker2dRandParams": "Walker2d-v5",
    "HopperRandParams": "Hopper-v5",
}
DYNAMICS = ["HalfCheetahCripple", "Walker2dRandParams", "HopperRandParams"]  # the task is in them
REWARDS = [name for name in ROBOTS if name not in DYNAMICS]  # the task is in the reward
MODELS = [name for name in ROBOTS if "RandParams" in name]


def make_definition(name: str, **kwargs: Any) -> Robot:
    spec = gym.spec(meta_rl.make.find_env_id(name))
    definition = build_definition(spec.kwargs["definition"], {"nthread": 1, **kwargs})
    assert isinstance(definition, Robot)
    return definition


def draw_tasks(definition: Robot, num: int, seed: int = 0) -> Any:
    return definition.task_split.train.sample_tasks(num, np.random.default_rng(seed))


def nominal_tasks(definition: Robot, num: int) -> Any:
    """Tasks that leave the dynamics as they are."""
    tasks = draw_tasks(definition, num)
    return {k: np.ones_like(v) for k, v in tasks.items()} if isinstance(tasks, dict) else tasks
