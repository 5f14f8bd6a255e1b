"""The tasks of an evaluation: each one once, in an order that does not depend on their number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meta_rl.arguments import check_count
from meta_rl.tasks import FiniteTasks, TaskDistribution, Tasks, take_tasks

DRAWN_TASKS = 100
"""Default number of tasks that an evaluation draws from a distribution without a list."""


def distinct_tasks(
    tasks: TaskDistribution, num_tasks: int | None, seed: int, *, name: str = "these tasks"
) -> tuple[Tasks, np.ndarray]:
    """Returns distinct tasks of a distribution: each task of a list at most once, or new draws.

    The tasks of a list come in an order that is the same for every seed and every number; draws
    depend on the seed. In both cases the first tasks do not depend on the requested number.

    Args:
        tasks: List of tasks (:class:`FiniteTasks`) or another distribution.
        num_tasks: Number of tasks, M; ``None`` for all of a list, or for up to 100 draws.
        seed: Seed of the draws.
        name: Name of the tasks in errors (default: ``"these tasks"``).

    Returns:
        The tasks, and their positions in the list ``[M]`` (for draws: 0, 1, 2, ...).

    Raises:
        ValueError: There are fewer distinct tasks.
    """
    wanted = DRAWN_TASKS if num_tasks is None else check_count("num_tasks", num_tasks)
    if isinstance(tasks, FiniteTasks):
        order = order_of_list(len(tasks))
        found = order[_first_places(take_tasks(tasks.tasks, order))]
        wanted = len(found) if num_tasks is None else wanted
        drawn = tasks.tasks
    else:
        drawn, found = _distinct_draws(tasks, wanted, seed)
        wanted = min(wanted, len(found)) if num_tasks is None else wanted
    if wanted > len(found):
        raise ValueError(
            f"num_tasks={wanted}: {name} hold {len(found)} distinct tasks, and each counts once; "
            f"ask for at most {len(found)}, and for more episodes of each by envs_per_task"
        )
    found = found[:wanted]
    index = found if isinstance(tasks, FiniteTasks) else np.arange(wanted)
    return take_tasks(drawn, found), index


def order_of_list(num_tasks: int) -> np.ndarray:
    """Returns the order, always the same, in which an evaluation takes the tasks of a list."""
    return np.random.default_rng(0).permutation(num_tasks)


def _distinct_draws(
    distribution: TaskDistribution, wanted: int, seed: int
) -> tuple[Tasks, np.ndarray]:
    """Draws seeded blocks until enough tasks are distinct, or until long nothing new has come."""
    parts: list[Tasks] = []
    places: dict[bytes, int] = {}
    drawn = latest = 0  # draws so far, and up to the latest new task
    while len(places) < wanted and drawn - latest <= 10 * (len(places) + DRAWN_TASKS):
        stream = np.random.SeedSequence(seed, spawn_key=(0, len(parts)))
        parts.append(distribution.sample_tasks(DRAWN_TASKS, np.random.default_rng(stream)))
        for place, row in enumerate(_as_bytes(parts[-1]), start=drawn):
            if places.setdefault(row, place) == place:
                latest = place
        drawn += DRAWN_TASKS
    return _concatenate_tasks(parts), np.array(list(places.values()), dtype=np.int64)


def _concatenate_tasks(parts: list[Tasks]) -> Tasks:
    if isinstance(parts[0], Mapping):
        return {key: _concatenate_tasks([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _first_places(tasks: Tasks) -> np.ndarray:
    """Returns the position of each distinct task's first occurrence, in ascending order."""
    rows = _as_bytes(tasks)
    places: dict[bytes, int] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, place)
    return np.fromiter(places.values(), dtype=np.int64, count=len(places))


def _as_bytes(tasks: Tasks) -> list[bytes]:
    if isinstance(tasks, Mapping):
        parts = [_as_bytes(tasks[key]) for key in sorted(tasks)]
        return [b"".join(row) for row in zip(*parts, strict=True)]
    array = np.ascontiguousarray(tasks)
    array = array + 0.0 if array.dtype.kind == "f" else array  # -0.0 and 0.0 are one number
    return [row.tobytes() for row in array]
