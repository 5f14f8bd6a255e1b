"""The replay of many tasks against a plain loop over lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from meta_rl import task_replay
from meta_rl.agents.pearl.replay import TaskReplay


def numbered(steps: int, columns: int, first: int, size: int = 6) -> torch.Tensor:
    """Rows ``[T, N, D]`` that all differ, and say who they are in every number."""
    numbers = torch.arange(first, first + steps * columns, dtype=torch.float32)
    return numbers.view(steps, columns, 1).expand(-1, -1, size).clone()


class Plain:
    """The same in lists, one transition at a time."""

    def __init__(self, num_tasks: int, capacity: int) -> None:
        self.capacity = capacity
        self.all: list[list[float]] = [[] for _ in range(num_tasks)]
        self.context: list[list[float]] = [[] for _ in range(num_tasks)]

    def add(self, tasks: np.ndarray, rows: torch.Tensor, to_context: bool) -> None:
        for column, task in enumerate(tasks):
            for row in rows[:, column]:
                self.all[task] = [*self.all[task], row[0].item()][-self.capacity :]
                if to_context:
                    self.context[task].append(row[0].item())


class TestAgainstAPlainLoop:
    @pytest.fixture
    def filled(self) -> tuple[TaskReplay, Plain]:
        """Rings of ten that have wrapped, with a task twice in a batch."""
        replay, plain = TaskReplay(3, 30, 1, 1), Plain(3, 10)
        first = 0
        for tasks, steps, to_context in (
            ([0, 1], 4, True),
            ([2, 1], 3, True),
            ([0, 2], 9, True),
            ([0, 0], 3, True),
            ([0, 2], 2, False),
        ):
            index = np.array(tasks)
            if to_context:
                replay.begin_context(index)
                for task in tasks:
                    plain.context[task] = []
            rows = numbered(steps, 2, first)
            replay.add(index, rows, to_context)
            plain.add(index, rows, to_context)
            first += 100
        # What was overwritten is in no context either.
        plain.context = [
            [x for x in c if x in a] for c, a in zip(plain.context, plain.all, strict=True)
        ]
        return replay, plain

    def test_samples_come_from_everything_that_a_task_has(
        self, filled: tuple[TaskReplay, Plain]
    ) -> None:
        """Each transition of the task, about equally often, and no other."""
        replay, plain = filled
        tasks = torch.tensor([2, 0, 1, 0])
        rows = replay.sample(tasks, 4000, torch.Generator().manual_seed(0))
        assert rows.shape == (4, 4000, 6)
        assert len(plain.all[0]) == 10
        for task, drawn in zip(tasks.tolist(), rows, strict=True):
            assert (drawn == drawn[:, :1]).all()
            values, counts = drawn[:, 0].unique(return_counts=True)
            assert values.tolist() == sorted(plain.all[task])
            expected = 4000 / len(values)
            assert (counts - expected).abs().max() < 5 * expected**0.5

    def test_gather_equals_indexing_one_by_one(self, filled: tuple[TaskReplay, Plain]) -> None:
        replay, _ = filled
        places = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(0))
        rows = replay._gather(torch.tensor([1, 2]), places)
        data = replay.data.view(3, 10, 6)
        for i, task in enumerate((1, 2)):
            for j in range(5):
                assert torch.equal(rows[i, j], data[task, places[i, j]])

    def test_context_is_what_was_collected_last_for_it(
        self, filled: tuple[TaskReplay, Plain]
    ) -> None:
        replay, plain = filled
        tasks = torch.arange(3)
        rows = replay.sample_context(tasks, 1000, torch.Generator().manual_seed(0))
        for task in range(3):
            assert rows[task, :, 0].unique().tolist() == sorted(plain.context[task])
        assert [len(part) for part in plain.context] == [6, 3, 8]

    def test_context_in_order(self, filled: tuple[TaskReplay, Plain]) -> None:
        """Stretches as they were collected, from every possible beginning."""
        replay, plain = filled
        generator = torch.Generator().manual_seed(0)
        begun = set()
        for _ in range(50):
            rows = replay.sample_context(torch.tensor([2, 0]), 5, generator, in_order=True)
            for task, stretch in zip((2, 0), rows[..., 0].tolist(), strict=True):
                start = plain.context[task].index(stretch[0])
                assert stretch == plain.context[task][start : start + 5]
                begun.add((task, start))
        assert begun == {(2, i) for i in range(4)} | {(0, i) for i in range(2)}
        shortest = replay.sample_context(torch.arange(3), 5, generator, in_order=True)
        assert shortest.shape[1] == 3

    def test_state_comes_back(self, filled: tuple[TaskReplay, Plain]) -> None:
        replay, _ = filled
        other = TaskReplay(3, 30, 1, 1)
        other.load_state_dict(replay.state_dict())
        assert torch.equal(other.data, replay.data)
        for name in ("written", "context_start", "context_length"):
            np.testing.assert_array_equal(getattr(other, name), getattr(replay, name))
        draws = [
            r.sample(torch.arange(3), 9, torch.Generator().manual_seed(1)) for r in (replay, other)
        ]
        assert torch.equal(*draws)


class TestLimits:
    def test_only_what_is_written_is_saved(self) -> None:
        replay = TaskReplay(2, 2000, 1, 1)
        replay.add(np.array([0, 1]), numbered(3, 2, 1), True)
        assert replay.state_dict()["data"].shape == (2, 3, 6)
        larger = TaskReplay(2, 4000, 1, 1)
        larger.load_state_dict(replay.state_dict())  # not yet full: the size does not matter
        assert larger.written.tolist() == [3, 3]

    def test_state_of_another_size_is_refused(self) -> None:
        replay = TaskReplay(2, 20, 1, 1)
        replay.add(np.array([0, 1]), numbered(8, 2, 1), True)
        replay.add(np.array([0, 1]), numbered(8, 2, 1), False)
        for other in (TaskReplay(3, 30, 1, 1), TaskReplay(2, 10, 1, 1), TaskReplay(2, 40, 1, 1)):
            with pytest.raises(RuntimeError, match="does not fit into"):
                other.load_state_dict(replay.state_dict())

    def test_memory_is_stated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """4 bytes for each of 1 + 1 + 1 + 1 + 1 + 1 numbers of 2 x 10 transitions."""
        assert TaskReplay(2, 20, 1, 1).nbytes == 2 * 10 * 6 * 4
        monkeypatch.setattr(task_replay, "LARGE", 400)
        with pytest.warns(UserWarning, match=r"takes up to 0.0 GiB: 2 tasks x 10 transitions x 6"):
            TaskReplay(2, 20, 1, 1)

    def test_too_much_at_once(self) -> None:
        replay = TaskReplay(2, 20, 1, 1)
        with pytest.raises(ValueError, match=r"12 transitions of a task at once, .* room for 10"):
            replay.add(np.array([0, 0]), numbered(6, 2, 0), True)

    def test_a_context_has_no_gap(self) -> None:
        replay = TaskReplay(2, 20, 1, 1)
        replay.add(np.array([0]), numbered(2, 1, 0), True)
        replay.add(np.array([0]), numbered(2, 1, 0), False)
        with pytest.raises(ValueError, match="before other transitions"):
            replay.add(np.array([0]), numbered(2, 1, 0), True)

    def test_less_room_than_tasks(self) -> None:
        with pytest.raises(ValueError, match="buffer_size has to be a whole number of at least 3"):
            TaskReplay(3, 2, 1, 1)
