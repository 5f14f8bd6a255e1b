"""Regression tasks: sine waves, or a mix of sine waves, steps and lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces

from meta_rl.arguments import check_count, check_seed
from meta_rl.few_shot.tasks import FewShotSplit, FewShotTasks, FrozenTasks, check_rng

FAMILIES = ("sine", "step", "linear")
LOW, HIGH = -5.0, 5.0


class FunctionTasks:
    """Regression tasks on functions of one number; inputs are uniform on [-5, 5].

    * ``sine``: ``A sin(x - φ)``, A uniform on [0.1, 5], φ on [0, π] (Finn et al., 2017).
    * ``linear``: ``a x + b``, both uniform on [-3, 3] (Finn et al., "Probabilistic model-agnostic
      meta-learning", 2018).
    * ``step``: ``A sign(x - c)``, A uniform on [0.1, 5], c on [-2.5, 2.5].

    Args:
        shots: Number of support points.
        queries: Number of query points.
        families: Names of the families of functions, which are equally likely.
        name: Name of the data set; the number of shots is appended.

    Raises:
        ValueError: A count is below one, or a family is unknown.
    """

    def __init__(
        self, shots: int, queries: int, families: Sequence[str] = ("sine",), name: str = "Sinusoid"
    ) -> None:
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown or not families:
            raise ValueError(f"families are some of {FAMILIES}, got {tuple(families)}")
        self.shots = check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.families = tuple(families)
        self.name = f"{name}-{self.shots}s"
        self.device: torch.device | str = "cpu"

    @property
    def space(self) -> spaces.Dict:
        """Space of one task."""
        parts: dict[str, spaces.Space] = {}
        for part, number in (("support", self.shots), ("query", self.queries)):
            parts[f"{part}_x"] = spaces.Box(LOW, HIGH, (number, 1), np.float32)
            parts[f"{part}_y"] = spaces.Box(-18.0, 18.0, (number, 1), np.float32)
        return spaces.Dict(parts)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        """Draws functions and points."""
        num_tasks = check_count("num_tasks", num_tasks)
        check_rng(rng)
        x = rng.uniform(LOW, HIGH, (num_tasks, self.shots + self.queries))
        y = np.empty_like(x)
        chosen = rng.integers(len(self.families), size=num_tasks)
        for index, family in enumerate(self.families):
            rows = chosen == index
            y[rows] = _values(family, x[rows], rng)
        both = (torch.from_numpy(values.astype(np.float32)[..., None]) for values in (x, y))
        inputs, targets = (values.to(self.device) for values in both)
        k = self.shots
        return FewShotTasks(inputs[:, :k], targets[:, :k], inputs[:, k:], targets[:, k:])

    def to(self, device: torch.device | str) -> FunctionTasks:
        """Returns the same tasks, which are drawn on a device."""
        moved = FunctionTasks(self.shots, self.queries, self.families)
        moved.name, moved.device = self.name, device
        return moved


def _values(family: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the values of one function of the family for each row of ``x``."""

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (len(x), 1))

    if family == "sine":
        return uniform(0.1, 5.0) * np.sin(x - uniform(0.0, np.pi))
    if family == "linear":
        return uniform(-3.0, 3.0) * x + uniform(-3.0, 3.0)
    return uniform(0.1, 5.0) * np.sign(x - uniform(-2.5, 2.5))


class Sinusoid(FewShotSplit):
    """Few-shot regression of functions of one number.

    Training tasks are drawn anew each time; validation and test tasks are fixed, seeded lists.

    Args:
        shots: Number of support points.
        queries: Number of query points of training tasks.
        families: Families of functions: ``("sine",)``, or a mix with ``"step"`` and ``"linear"``.
        test_queries: Number of query points of validation and test tasks.
        num_test: Number of validation tasks, and of test tasks.
        seed: Seed of the lists of validation and test tasks.

    Raises:
        ValueError: A count is below one, or a family is unknown.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        families: Sequence[str] = ("sine",),
        *,
        test_queries: int = 100,
        num_test: int = 1000,
        seed: int = 0,
    ) -> None:
        name = "Sinusoid" if tuple(families) == ("sine",) else "Functions"
        num_test = check_count("num_test", num_test)
        test_queries = check_count("test_queries", test_queries)
        fresh = FunctionTasks(shots, test_queries, families, name)
        seeds = np.random.SeedSequence(check_seed(seed)).spawn(2)
        validation, test = (
            FrozenTasks(
                fresh.sample_tasks(num_test, np.random.default_rng(stream)), fresh.space, fresh.name
            )
            for stream in seeds
        )
        super().__init__(FunctionTasks(shots, queries, families, name), validation, test)
