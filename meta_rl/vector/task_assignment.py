"""Which task each sub-environment plays, and which one its next reset brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from meta_rl.tasks import Tasks, copy_tasks, put_tasks, repeat_tasks, take_tasks
from meta_rl.vector.arrays import NUMPY, Arrays

if TYPE_CHECKING:
    from meta_rl.tasks import TaskDistribution


class TaskAssignment:
    """The tasks of a batch: those that are set, or those that it draws for itself.

    The rules are the same for native batches, adapted ones and Meta-World:

    * Tasks that were set persist. Each sub-environment begins to play its own at its next reset.
    * Where none were set, tasks are drawn at the first reset, at every seeded one and, with
      ``resample``, when a trial of ``episodes_per_trial`` episodes is over. An episode without a
      step does not count.

    Args:
        num_envs: Number of sub-environments, N.
        distribution: Distribution of the tasks that are drawn.
        episodes_per_trial: Number of episodes on one task.
        resample: Whether a new task is drawn after every trial.
        arrays: Kind of the arrays of masks and tasks (default: numpy's).

    Attributes:
        played: The tasks that are played, ``[N, ...]``; ``None`` before the first reset.
        shown: A copy of them for infos, which are free to change it.
        trial_start: Whether an episode has just begun on a new task, bool ``[N]``.
    """

    def __init__(
        self,
        num_envs: int,
        distribution: TaskDistribution,
        episodes_per_trial: int,
        *,
        resample: bool = False,
        arrays: Arrays = NUMPY,
    ) -> None:
        self.num_envs = num_envs
        self.distribution = distribution
        self.episodes_per_trial = episodes_per_trial
        self.resample = resample
        self.arrays = arrays
        self.played: Tasks = None
        self.shown: Tasks = None
        self._nowhere = arrays.zeros(num_envs, "bool")
        self._everywhere = ~self._nowhere
        self.trial_start = arrays.zeros(num_envs, "bool")
        self._given: Tasks = None  # what was set
        self._due = self._nowhere  # where no reset has brought it yet
        self._ahead: Tasks = None  # what was drawn ahead
        self._is_ahead = self._nowhere  # where it has not been played yet
        self._episodes = arrays.zeros(num_envs, "int64")  # ended in the current trial
        self._stepped = self._nowhere  # in the current episode
        self.num_calls = 0  # of set, step and begin
        self._seeds: int | list[int] | None = None
        self._rngs: list[np.random.Generator] | None = None  # made when they are first needed

    @property
    def pending(self) -> Tasks | None:
        """The tasks that were set and that some sub-environment does not play yet."""
        return copy_tasks(self._given) if self._due.any() else None

    def set(self, tasks: Tasks | None) -> None:
        """Sets one task for each sub-environment; with ``None``, tasks are drawn again."""
        self.num_calls += 1
        self._given = None if tasks is None else copy_tasks(self.arrays.converted(tasks))
        self._due = self._nowhere if tasks is None else self._everywhere

    def seed(self, seed: int | Sequence[int]) -> int | list[int]:
        """Seeds the draws: together, or each sub-environment's by its own seed.

        Tasks have streams of their own, so that a task given or drawn shifts nothing else.

        Returns:
            The seed or the seeds, checked.

        Raises:
            ValueError: A wrong number of seeds, or seeds that are no whole numbers from 0.
        """
        seeds = np.asarray(seed)
        if seeds.shape not in ((), (self.num_envs,)) or seeds.dtype.kind not in "iu":
            raise ValueError(
                f"seed: expected a whole number, or {self.num_envs} of them, one for each "
                f"sub-environment; got {seed!r}"
            )
        if np.any(seeds < 0):
            raise ValueError(f"seed: expected whole numbers from 0, got {seed!r}")
        self._seeds = int(seeds) if seeds.ndim == 0 else [int(own) for own in seeds]
        self._rngs = None
        self._is_ahead = self._nowhere  # what was drawn ahead came from other seeds
        return self._seeds

    def step(self) -> None:
        """Records that every sub-environment takes a step."""
        self.num_calls += 1
        self._stepped = self._everywhere
        self.trial_start = self.arrays.zeros(self.num_envs, "bool")

    def prepare(
        self, mask: np.ndarray, *, seeded: bool = False, stepped: bool = False
    ) -> tuple[np.ndarray, Tasks]:
        """Draws the tasks of the next resets ahead.

        Args:
            mask: The sub-environments that are to be reset, bool ``[N]``.
            seeded: Whether the reset has a seed.
            stepped: Whether they will have taken a step by then, as before an automatic reset.

        Returns:
            Where a new task waits, bool ``[N]``, and the tasks ``[N, ...]``, which are meaningful
            there.
        """
        if self._given is not None:
            return self._due & mask, self._given
        due = mask & self._everywhere
        if self.played is not None and not seeded:
            ended = self._episodes + (self._stepped | stepped)
            due = mask & (self.resample & (ended >= self.episodes_per_trial))
        draw = due & ~self._is_ahead
        if draw.all():
            self._ahead = self._drawn(draw)
        elif draw.any():
            self._ahead = copy_tasks(self.played if self._ahead is None else self._ahead)
            put_tasks(self._ahead, draw, self._drawn(draw))
        self._is_ahead = self._is_ahead | draw
        return due, self._ahead

    def begin(self, mask: np.ndarray, *, seeded: bool = False) -> None:
        """Begins new episodes where ``mask`` is true.

        Raises:
            ValueError: The first reset is not one of all sub-environments.
        """
        self.num_calls += 1
        if self.played is None and not mask.all():
            raise ValueError("the first reset has to be one of all sub-environments")
        new, coming = self.prepare(mask, seeded=seeded)
        if new.all():
            self.played = copy_tasks(coming)
        elif new.any():
            self.played = copy_tasks(self.played)  # earlier infos keep theirs
            put_tasks(self.played, new, take_tasks(coming, new))
        if new.any():
            self.shown = copy_tasks(self.played)
        if self._given is not None:
            self._due = self._due & ~new
        else:
            self._is_ahead = self._is_ahead & ~new
        self._episodes = (self._episodes + (mask & self._stepped)) * ~new
        self._stepped = self._stepped & ~mask
        self.trial_start = new

    def _drawn(self, mask: Any) -> Tasks:
        """Draws for the sub-environments where ``mask``, in their order."""
        return self.arrays.converted(self._sampled(self.arrays.xp.nonzero(mask)[0].tolist()))

    def _sampled(self, chosen: list[int]) -> Tasks:
        seeds = self._seeds
        if not isinstance(seeds, list):
            if self._rngs is None:
                self._rngs = [np.random.default_rng(None if seeds is None else [seeds, 1])]
            return self.distribution.sample_tasks(len(chosen), self._rngs[0])
        if self._rngs is None:
            self._rngs = [np.random.default_rng([own, 1]) for own in seeds]
        tasks = None
        for place, i in enumerate(chosen):
            own = self.distribution.sample_tasks(1, self._rngs[i])
            tasks = repeat_tasks(own, len(chosen)) if tasks is None else tasks
            put_tasks(tasks, slice(place, place + 1), own)
        return tasks
