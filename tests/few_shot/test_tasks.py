"""Few-shot tasks: what a meta-batch may and may not hold, however it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from meta_rl.few_shot import ClassPool, ClassTasks, FewShotTasks, FrozenTasks
from meta_rl.few_shot.tasks import draw_distinct

from .small_data import blob_split


def numbered(num_classes: int = 6, examples: int = 5, turns: int = 1, **pool: Any) -> ClassPool:
    """Images of 2 × 2 pixels that say which example they are; float, so that they stay exact."""
    flat = torch.arange(num_classes * examples, dtype=torch.float32)
    corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    images = (flat + 1)[:, None, None, None] * corner  # the number stands in a corner
    return ClassPool(images, [examples] * num_classes, turns, **pool)


def which(images: torch.Tensor) -> np.ndarray:
    """Numbers of the examples."""
    return (images.flatten(-3).amax(-1) - 1).numpy().astype(int)


class TestDrawDistinct:
    def test_rows_are_distinct_and_below_their_population(self) -> None:
        population = np.tile([3, 4, 50], 200)
        drawn = draw_distinct(population, 3, 600, np.random.default_rng(0))
        assert (np.sort(drawn, axis=1)[:, 1:] > np.sort(drawn, axis=1)[:, :-1]).all()
        assert (drawn < population[:, None]).all()
        assert (drawn >= 0).all()

    def test_every_ordered_draw_is_equally_likely(self) -> None:
        """12 ordered pairs out of 4: counts within five standard deviations of 1,000."""
        drawn = draw_distinct(4, 2, 12_000, np.random.default_rng(1))
        counts = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16).reshape(4, 4)
        assert (np.diag(counts) == 0).all()
        off = counts[~np.eye(4, dtype=bool)]
        assert (abs(off - 1000) < 5 * np.sqrt(1000 * 11 / 12)).all()


class TestClassTasks:
    def test_the_shapes_and_the_order_of_a_meta_batch(self) -> None:
        tasks = ClassTasks(numbered(), ways=3, shots=2, queries=2)
        batch = tasks.sample_tasks(7, np.random.default_rng(0))
        assert batch.support_x.shape == (7, 6, 1, 2, 2)
        assert batch.query_x.shape == (7, 6, 1, 2, 2)
        assert batch.num_tasks == 7
        assert batch.support_y.dtype == torch.int64
        assert (batch.support_y == torch.tensor([0, 1, 2, 0, 1, 2])).all()  # shot by shot
        assert (batch.query_y.sort(dim=1)[0] == torch.tensor([0, 0, 1, 1, 2, 2])).all()
        assert len({tuple(row.tolist()) for row in batch.query_y}) > 3  # shuffled
        one = batch.take(3)
        task = {key: value.numpy() for key, value in one._asdict().items()}
        assert tasks.space.contains(task)

    def test_labels_classes_and_images_fit_together(self) -> None:
        batch = ClassTasks(numbered(), 3, 2, 3).sample_tasks(200, np.random.default_rng(0))
        x = np.concatenate([which(batch.support_x), which(batch.query_x)], axis=1)
        y = np.concatenate([batch.support_y.numpy(), batch.query_y.numpy()], axis=1)
        for numbers, labels in zip(x, y, strict=True):
            assert len(set(numbers)) == 15  # no image twice, so none in support and query
            class_of = dict(zip(labels, numbers // 5, strict=True))
            assert len(set(class_of.values())) == 3  # no class twice
            assert [class_of[label] for label in labels] == list(numbers // 5)

    def test_every_class_gets_every_label(self) -> None:
        batch = ClassTasks(numbered(), 3, 1, 1).sample_tasks(500, np.random.default_rng(0))
        pairs = {
            *zip(
                (which(batch.support_x) // 5).ravel(), batch.support_y.numpy().ravel(), strict=True
            )
        }
        assert len(pairs) == 6 * 3

    def test_the_generator_fixes_the_draw(self) -> None:
        tasks = ClassTasks(numbered(turns=4), 3, 1, 1)
        first, again, other = (
            tasks.sample_tasks(5, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first.support_x, other.support_x)

    def test_turned_classes_are_turned_as_a_whole_and_never_meet_themselves(self) -> None:
        batch = ClassTasks(numbered(turns=4), 6, 2, 3).sample_tasks(50, np.random.default_rng(0))
        images = torch.cat([batch.support_x, batch.query_x], dim=1)
        labels = torch.cat([batch.support_y, batch.query_y], dim=1)
        # rot90 moves the upper left corner to the lower left, lower right, upper right
        turn = images.flatten(-3).argmax(-1).apply_(lambda at: [0, 3, 1, 2][at])
        seen = set()
        for numbers, turns, task_labels in zip(which(images), turn, labels, strict=True):
            for label in range(6):
                mine = task_labels == label
                assert len(set(turns[mine].tolist())) == 1
                assert len(set((numbers // 5)[mine.numpy()])) == 1
                seen.add(int(turns[mine][0]))
            assert len(set(numbers // 5)) == 6
        assert seen == {0, 1, 2, 3}

    def test_classes_of_a_task_come_from_one_group(self) -> None:
        pool = numbered(groups=np.array([0, 0, 0, 1, 1, 2]))
        batch = ClassTasks(pool, 2, 1, 1, within_group=True).sample_tasks(
            100, np.random.default_rng(0)
        )
        drawn = [frozenset(classes) for classes in which(batch.support_x) // 5]
        assert set(drawn) == {*map(frozenset, ([0, 1], [0, 2], [1, 2], [3, 4]))}

    def test_bytes_become_fractions_and_words_stay_whole(self) -> None:
        images = torch.tensor([[0, 51], [255, 102]] * 4, dtype=torch.uint8)
        drawn = ClassPool(images, [4, 4]).gather(np.array([0, 1]))
        assert drawn.tolist() == [[0.0, pytest.approx(0.2)], [1.0, pytest.approx(0.4)]]
        words = ClassPool(images.to(torch.int32), [4, 4]).gather(np.array([[1]]))
        assert words.dtype == torch.int64
        assert words.shape == (1, 1, 2)

    def test_single_examples_carry_the_class_of_the_pool(self) -> None:
        tasks = ClassTasks(numbered(turns=4), 3, 1, 1)
        x, y = tasks.sample_labelled(400, np.random.default_rng(0))
        turn = x.flatten(-3).argmax(-1).apply_(lambda at: [0, 3, 1, 2][at]).numpy()
        assert (y.numpy() == turn * 6 + which(x) // 5).all()
        assert tasks.num_labels == 24
        assert set(y.tolist()) == set(range(24))

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ((7, 1, 1), "ways=7: more than the 6 classes of tasks"),
            ((3, 3, 3), "shots=3 and queries=3: together more than the 5 examples"),
            ((1, 1, 1), "ways has to be a whole number of at least 2"),
            ((3, 0, 1), "shots has to be a whole number of at least 1"),
        ],
    )
    def test_impossible_sizes_are_refused(self, sizes: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ClassTasks(numbered(), *sizes)

    def test_impossible_groups_are_refused(self) -> None:
        with pytest.raises(ValueError, match="these classes have no groups"):
            ClassTasks(numbered(), 2, 1, 1, within_group=True)
        pool = numbered(groups=np.array([0, 0, 0, 1, 1, 2]))
        with pytest.raises(ValueError, match="more than the 3 classes of the largest group"):
            ClassTasks(pool, 4, 1, 1, within_group=True)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: ClassPool(torch.zeros(5, 2), [2, 2]), "5 examples, but classes of sizes"),
            (lambda: ClassPool(torch.zeros(4, 2), [4, 0]), "classes of sizes"),
            (lambda: ClassPool(torch.zeros(4, 2, 3), [4], turns=4), "only square images"),
            (lambda: ClassPool(torch.zeros(4, 2, 2), [4], turns=2), "turns is 1"),
        ],
    )
    def test_impossible_pools_are_refused(self, make: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()


def test_training_may_have_other_sizes_and_parts_are_disjoint() -> None:
    split = blob_split(train={"ways": 5, "shots": None, "queries": 2})
    rng = np.random.default_rng(0)
    train, test = split.train.sample_tasks(40, rng), split.test.sample_tasks(40, rng)
    assert train.support_x.shape == (40, 5, 4)
    assert train.query_x.shape == (40, 10, 4)
    assert test.query_x.shape == (40, 15, 4)
    assert not np.isin(train.support_x.numpy(), test.support_x.numpy()).any()
    assert split.name == "Blobs-3w1s"
    assert split["validation"] is split.validation


def test_a_list_of_tasks_is_met_without_repetition() -> None:
    parts = [torch.arange(6.0).reshape(6, 1, 1) for _ in range(4)]
    frozen = FrozenTasks(FewShotTasks(*parts), None, "list")  # type: ignore[arg-type]
    drawn = frozen.sample_tasks(9, np.random.default_rng(0)).support_x.flatten().tolist()
    assert sorted(drawn[:6]) == list(range(6))
    assert len(set(drawn[6:])) == 3


class TestOwnData:
    def dataset(self, num_classes: int = 10, examples: int = 4) -> list[Any]:
        """Examples in mixed order; the example tells its class."""
        pairs = [
            (np.full(3, 10.0 * label + i, dtype=np.float32), f"class{label}")
            for i in range(examples)
            for label in range(num_classes)
        ]
        return pairs

    def test_a_labelled_dataset(self) -> None:
        split = FewShotTasks.from_dataset(
            self.dataset(), ways=2, shots=1, queries=2, fractions=(0.5, 0.2, 0.3), name="Own"
        )
        classes = {}
        for part, number in (("train", 5), ("validation", 2), ("test", 3)):
            batch = split[part].sample_tasks(200, np.random.default_rng(0))
            x = torch.cat([batch.support_x, batch.query_x], dim=1)[..., 0] // 10
            y = torch.cat([batch.support_y, batch.query_y], dim=1)
            for task_x, task_y in zip(x, y, strict=True):
                assert len({*zip(task_x.tolist(), task_y.tolist(), strict=True)}) == 2
            classes[part] = set(x.flatten().tolist())
            assert len(classes[part]) == number
        assert len(set.union(*classes.values())) == 10  # disjoint
        assert split.name == "Own-2w1s"

    def test_the_seed_chooses_the_classes(self) -> None:
        def test_classes(seed: int) -> set[float]:
            split = FewShotTasks.from_dataset(self.dataset(), 2, 1, queries=1, seed=seed)
            drawn = split.test.sample_tasks(50, np.random.default_rng(0)).support_x[..., 0] // 10
            return set(drawn.flatten().tolist())

        assert test_classes(0) == test_classes(0)
        assert any(test_classes(0) != test_classes(seed) for seed in (1, 2, 3))

    @pytest.mark.parametrize(
        ("dataset", "settings", "message"),
        [
            ([1.0, 2.0], {}, "example 0 is no pair of example and label"),
            ([(np.zeros(2), 1.5)], {}, "label 1.5 is neither a whole number nor a name"),
            ([(np.zeros(2), 0), (np.zeros(3), 1)], {}, r"example 1 has shape \(3,\), the first"),
            ([(np.zeros(2), 0)] * 9, {}, "1 classes are too few: none is left"),
            ([(np.zeros(2), 0)], {"fractions": (0.5, 0.6, 0.1)}, "three positive numbers"),
        ],
    )
    def test_other_data_are_refused(
        self, dataset: Any, settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            FewShotTasks.from_dataset(dataset, 2, 1, queries=1, **settings)

    def folder(self, path: Path) -> Path:
        for label in range(6):
            (path / f"class{label}").mkdir(parents=True)
            for i in range(3):
                pixels = np.full((8, 8), 40 * label, dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"class{label}" / f"{i}.png")
        return path

    def test_a_folder_of_images_by_class(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path / "own")
        split = FewShotTasks.from_folder(
            path, 2, 1, queries=2, size=4, channels=3, fractions=(1 / 3, 1 / 3, 1 / 3)
        )
        batch = split.train.sample_tasks(20, np.random.default_rng(0))
        assert batch.support_x.shape == (20, 2, 3, 4, 4)
        grey = torch.cat([batch.support_x, batch.query_x], 1).mean(dim=(-3, -2, -1)) * 255 / 40
        labels = torch.cat([batch.support_y, batch.query_y], 1)
        for task_grey, task_labels in zip(grey.round().tolist(), labels.tolist(), strict=True):
            assert len({*zip(task_grey, task_labels, strict=True)}) == 2
        assert split.name == "own-2w1s"

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no folder"):
            FewShotTasks.from_folder(tmp_path / "none", 2, 1)
        with pytest.raises(ValueError, match="holds no folders with images"):
            FewShotTasks.from_folder(tmp_path, 2, 1)
        path = self.folder(tmp_path / "own")
        (path / "class0" / "0.png").write_bytes(b"no image")
        for i in (1, 2):
            (path / "class0" / f"{i}.png").unlink()
        with pytest.raises(ValueError, match=r"class0; 1 left out: .*0.png is no readable image"):
            FewShotTasks.from_folder(path, 2, 1)
