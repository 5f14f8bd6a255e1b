"""Small data sets and networks for the tests of few-shot learning."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from meta_rl.few_shot import ClassPool, FewShotNetwork, FewShotSplit
from meta_rl.few_shot.tasks import class_split

DATA = Path(os.environ.get("META_RL_DATA") or Path(__file__).parents[3] / "shared" / "data")


def real_data(folder: str) -> Path:
    """The folder of data sets, or a skip where it does not hold ``folder``."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {folder} data in {DATA}; META_RL_DATA names another folder")
    return DATA


def blobs(num_classes: int, examples: int = 20, dim: int = 4, seed: int = 0) -> ClassPool:
    """Classes are far apart along the first two axes; along the others there is only noise."""
    rng = np.random.default_rng(seed)
    centres = np.zeros((num_classes, 1, dim))
    centres[..., :2] = rng.normal(0.0, 3.0, (num_classes, 1, 2))
    noise = np.array([0.3, 0.3] + [3.0] * (dim - 2))
    points = centres + noise * rng.normal(0.0, 1.0, (num_classes, examples, dim))
    flat = torch.from_numpy(points.reshape(-1, dim).astype(np.float32))
    return ClassPool(flat, [examples] * num_classes)


def blob_split(
    ways: int = 3, shots: int = 1, queries: int = 5, train: dict[str, int | None] | None = None
) -> FewShotSplit:
    pools = {
        part: blobs(12, seed=seed) for seed, part in enumerate(("train", "validation", "test"))
    }
    return class_split(pools, ways, shots, queries, name="Blobs", train=train)


def mlp(ways: int | None, dim: int = 4, hidden: int = 16, seed: int = 0) -> FewShotNetwork:
    """A small network over points; not one of the shipped ones."""
    with torch.random.fork_rng(devices=[]):
        body = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh())
        return _network(body, hidden, ways, dim, seed)


def _network(body: nn.Module, hidden: int, ways: int | None, dim: int, seed: int) -> FewShotNetwork:
    return FewShotNetwork(
        body,
        hidden,
        ways,
        ways=ways,
        input_shape=(dim,),
        recipe=None,
        generator=torch.Generator().manual_seed(seed),
    )


class Linear1(nn.Module):
    """``y = w x``: every gradient is known in closed form. A regression network."""

    ways = None
    input_shape = (1,)

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[w]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Same(nn.Module):
    """The embedding that changes nothing."""

    def __init__(self, features: int = 2) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x
