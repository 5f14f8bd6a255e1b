"""The view of a batch of tensors in numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import ArrayConversion

from meta_rl.vector.arrays import NUMPY
from meta_rl.vector.task_batch import batch_arrays


class NumpyView(ArrayConversion):
    """A batch of tensors with numpy arrays in and out: Gymnasium's ``ArrayConversion``.

    Args:
        env: Batch of task environments, which works with tensors.
    """

    arrays = NUMPY

    def __init__(self, env: VectorEnv) -> None:
        arrays: Any = batch_arrays(env)
        super().__init__(env, arrays.xp, np, env_device=arrays.device)


def numpy_view(env: VectorEnv) -> VectorEnv:
    """Returns the batch itself if it works with numpy arrays, otherwise its view."""
    return env if batch_arrays(env).xp is np else NumpyView(env)
