"""Replay buffer of many tasks in one tensor, so that a meta-batch is one gather."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import torch
from torch import Tensor

from meta_rl.arguments import check_count
from meta_rl.compute import ranks
from meta_rl.rollout import Rollout

LARGE = 2 * 2**30
"""Size in bytes above which a buffer warns of the memory that it takes."""


class TaskReplay:
    """Replay buffer with a ring of transitions for each task, the recent ones being its context.

    A row holds ``observation | action | context reward | next observation | reward | terminal``, so
    that encoder and critics read slices of one row. The context reward is the one at test time; the
    reward is the one that the critics learn from, which may differ (PEARL on sparse point
    navigation).

    The context of a task is the part of its ring that was added since :meth:`begin_context`
    (Rakelly et al., 2019, section 5.3: context from recently collected data, reinforcement learning
    from all of them). It is stored as a start and a length, without a copy.

    Letters: M tasks of a meta-batch, B transitions of each, D numbers in a row.

    Args:
        num_tasks: Number of training tasks.
        buffer_size: Number of transitions over all tasks; each task has an equal share.
        observation_size: Number of values in an observation.
        action_size: Number of values in an action.
        device: Device of the tensor.

    Attributes:
        capacity: Number of transitions that each task's ring holds.
        nbytes: Size of the tensor in bytes; the system gives the memory as rows are written.

    Raises:
        ValueError: A count is below one, or there are fewer transitions than tasks.
    """

    def __init__(
        self,
        num_tasks: int,
        buffer_size: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_tasks = check_count("num_tasks", num_tasks)
        self.capacity = check_count("buffer_size", buffer_size, least=num_tasks) // num_tasks
        sizes = [observation_size, action_size, 1, observation_size, 1, 1]
        ends = [0, *np.cumsum(sizes).tolist()]
        self.columns = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.row_size = ends[-1]
        self.nbytes = 4 * self.num_tasks * self.capacity * self.row_size
        if self.nbytes > LARGE:
            warnings.warn(
                f"the replay buffer takes up to {self.nbytes / 2**30:.1f} GiB: {self.num_tasks} "
                f"tasks x {self.capacity:,} transitions x {self.row_size} numbers; a smaller "
                "buffer_size takes less",
                stacklevel=2,
            )
        self.device = torch.device(device)
        self.data = torch.zeros(self.num_tasks * self.capacity, self.row_size, device=device)
        self.written = np.zeros(self.num_tasks, dtype=np.int64)  # since the start
        self.context_start = np.zeros(self.num_tasks, dtype=np.int64)  # counted like `written`
        self.context_length = np.zeros(self.num_tasks, dtype=np.int64)
        self._counts_changed()

    @property
    def is_empty(self) -> bool:
        """Whether some task has no transition yet."""
        return bool((self.written == 0).any())

    def begin_context(self, tasks: np.ndarray) -> None:
        """Forgets the context of the tasks ``[M]``, but not their transitions."""
        self.context_start[tasks] = self.written[tasks]
        self.context_length[tasks] = 0
        self._counts_changed()

    def add(self, tasks: np.ndarray, rows: Tensor, to_context: bool) -> None:
        """Appends transitions; the oldest of a full ring are overwritten.

        Args:
            tasks: Task of each column, ``[N]``; several columns of a task are appended one after
                the other.
            rows: Transitions, ``[T, N, D]``.
            to_context: Whether the transitions belong to the tasks' contexts.

        Raises:
            ValueError: There are more transitions than a ring holds, or the tasks have got other
                transitions since the end of their contexts.
        """
        steps, num_columns, _ = rows.shape
        same = tasks[:, None] == tasks[None]
        earlier = np.tril(same, -1).sum(axis=1)  # columns of the same task to the left
        added = steps * same.sum(axis=1)
        if added.max() > self.capacity:
            raise ValueError(
                f"{added.max()} transitions of a task at once, but each of {self.num_tasks} tasks "
                f"has room for {self.capacity}: make buffer_size larger"
            )
        ends = self.context_start + self.context_length
        if to_context and (ends[tasks] != self.written[tasks]).any():
            raise ValueError("a context can grow only before other transitions of its task come")
        first = self.written[tasks] + earlier * steps
        place = (first[:, None] + np.arange(steps)) % self.capacity + tasks[:, None] * self.capacity
        flat = torch.from_numpy(place.reshape(-1)).to(self.device)
        self.data[flat] = rows.transpose(0, 1).reshape(steps * num_columns, -1)
        self.written[tasks] += added
        if to_context:
            self.context_length[tasks] += added
        lost = np.maximum(self.written - self.capacity - self.context_start, 0)  # overwritten
        self.context_start += lost
        self.context_length = np.maximum(self.context_length - lost, 0)
        self._counts_changed()

    def sample(self, tasks: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Draws from all transitions of each task, with replacement.

        Each rank draws for all tasks, and gets the rows of its share of them.

        Args:
            tasks: Indices of tasks, int64 ``[M]``, on the device.
            num: Number of transitions of each task, B.
            generator: Generator on the device.

        Returns:
            Rows ``[M, B, D]``.
        """
        return self._gather(*ranks.own((tasks, self._draw(self._sizes[tasks], num, generator))))

    def sample_context(
        self, tasks: Tensor, num: int, generator: torch.Generator, *, in_order: bool = False
    ) -> Tensor:
        """Draws from the context of each task; ranks share the tasks as in :meth:`sample`.

        Args:
            tasks: Indices of tasks, int64 ``[M]``, on the device.
            num: Number of transitions of each task.
            generator: Generator on the device.
            in_order: Whether to draw consecutive transitions, for recurrent encoders (at most as
                many as the shortest of these contexts has), and not independently with replacement.

        Returns:
            Rows ``[M, num, D]``.
        """
        lengths = self._context_lengths[tasks]
        if in_order:
            num = min(num, int(lengths.min()))
            offsets = torch.arange(num, device=self.device)
            drawn = self._draw(lengths - num + 1, 1, generator) + offsets
        else:
            drawn = self._draw(lengths, num, generator)
        places = (self._context_starts[tasks, None] + drawn) % self.capacity
        return self._gather(*ranks.own((tasks, places)))

    def _draw(self, sizes: Tensor, num: int, generator: torch.Generator) -> Tensor:
        """Draws whole numbers below ``sizes`` ``[M]``: ``[M, num]``."""
        drawn = torch.rand(len(sizes), num, generator=generator, device=self.device)
        return torch.minimum((drawn * sizes[:, None]).long(), sizes[:, None] - 1)  # if rounded up

    def _gather(self, tasks: Tensor, places: Tensor) -> Tensor:
        flat = (places + tasks[:, None] * self.capacity).view(-1)
        return self.data.index_select(0, flat).view(*places.shape, self.row_size)

    def _counts_changed(self) -> None:
        self._sizes = torch.from_numpy(np.minimum(self.written, self.capacity)).to(self.device)
        self._context_starts = torch.from_numpy(self.context_start.copy()).to(self.device)
        self._context_lengths = torch.from_numpy(self.context_length.copy()).to(self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns copies of the rows that were written, and the counts."""
        filled = int(min(self.written.max(), self.capacity))
        counts = np.stack([self.written, self.context_start, self.context_length])
        data = self.data.view(self.num_tasks, self.capacity, -1)[:, :filled]
        return {"data": data.clone(), "counts": torch.from_numpy(counts)}

    def load_state_dict(self, state: dict[str, Tensor], strict: bool = True) -> None:
        """Restores a state that :meth:`state_dict` returned.

        Raises:
            RuntimeError: The state has another size (as in torch's modules).
        """
        self.check_fits(state)
        data, counts = state["data"], state["counts"].cpu().numpy()
        self.data.view(self.num_tasks, self.capacity, -1)[:, : data.shape[1]] = data
        self.written, self.context_start, self.context_length = counts.copy()
        self._counts_changed()

    def check_fits(self, state: dict[str, Tensor]) -> None:
        """Refuses a state that :meth:`load_state_dict` cannot restore.

        Raises:
            RuntimeError: The state has another size.
        """
        counts = state["counts"].cpu().numpy()
        num_tasks, filled, row_size = state["data"].shape
        fits = (num_tasks, row_size) == (self.num_tasks, self.row_size)
        wrapped = counts[0].max() > filled  # a full ring: positions depend on its size
        if not fits or filled > self.capacity or (wrapped and filled != self.capacity):
            raise RuntimeError(
                f"a replay buffer of {num_tasks} tasks x {filled} rows of {row_size} does not fit "
                f"into {self.num_tasks} x {self.capacity} rows of {self.row_size}"
            )


def as_rows(
    rollout: Rollout, actions: np.ndarray, rewards: np.ndarray, training_rewards: np.ndarray
) -> Tensor:
    """Makes rows ``[T, N, D]`` of a rollout.

    Args:
        rollout: Rollout whose observations and terminal states are taken.
        actions: Actions as the critics read them, in [-1, 1], ``[T, N, A]``.
        rewards: Rewards for the context, ``[T, N]``.
        training_rewards: Rewards for the critics, ``[T, N]``.
    """
    parts = [
        rollout.observations,
        actions,
        rewards,
        rollout.next_observations,
        training_rewards,
        rollout.terminated,
    ]
    flat = [np.asarray(part, dtype=np.float32).reshape(*rewards.shape, -1) for part in parts]
    return torch.from_numpy(np.concatenate(flat, axis=-1))
