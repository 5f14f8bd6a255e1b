"""Tasks from one's own texts and pictures: held-out classes, errors that help, colour."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from meta_rl.few_shot import FewShotTasks
from meta_rl.few_shot.data.held_out import HeldOut, check_parts, divide_classes

INTENTS = [f"{domain} {verb}" for domain in ("bank", "home", "car", "food") for verb in "abc"]
ROWS = [(f"{intent} please {n}", intent, intent.split()[0]) for intent in INTENTS for n in range(4)]
TEXTS, LABELS, DOMAINS = (list(column) for column in zip(*ROWS, strict=True))


def split(**settings: Any) -> Any:
    return FewShotTasks.from_texts(TEXTS, LABELS, 2, 1, **{"queries": 3, **settings})


def names(tasks: Any) -> dict[str, list[str]]:
    return {part: tasks[part].class_names for part in ("train", "validation", "test")}


def csv_file(path: Path, header: str = "text,label,domain") -> Path:
    lines = [header, *(f'"{text}, now",{label},{domain}' for text, label, domain in ROWS)]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_classes_keep_their_names_and_their_texts() -> None:
    tasks = split()
    assert sorted(itertools.chain(*names(tasks).values())) == sorted(INTENTS)
    for part in ("train", "validation", "test"):
        pool = tasks[part].pool
        assert pool.class_sizes.tolist() == [4] * pool.num_classes
        for number, name in enumerate(tasks[part].class_names):
            wanted = tasks.vocabulary.encode([t for t, y, _ in ROWS if y == name])
            rows = pool.examples[4 * number : 4 * number + 4]
            assert torch.equal(rows, wanted)


def test_held_out_classes_by_name() -> None:
    tasks = split(test_classes=["car b", "bank a"], validation_classes=["home c", "home a"])
    assert names(tasks)["test"] == ["bank a", "car b"]
    assert names(tasks)["validation"] == ["home a", "home c"]
    assert len(names(tasks)["train"]) == 8
    drawn = split(test_classes=["car b", "bank a"], fractions=(0.5, 0.3, 0.2))
    assert names(drawn)["test"] == ["bank a", "car b"]
    assert len(names(drawn)["validation"]) == 4  # 0.3 / 0.8 of the other ten


@pytest.mark.parametrize("groups", [DOMAINS, dict(zip(LABELS, DOMAINS, strict=True))])
def test_whole_groups_are_held_out(groups: Any) -> None:
    tasks = split(groups=groups, test_groups=["car"])
    assert names(tasks)["test"] == ["car a", "car b", "car c"]
    domains = {part: {n.split()[0] for n in found} for part, found in names(tasks).items()}
    assert sorted(itertools.chain(*domains.values())) == ["bank", "car", "food", "home"]
    drawn = [
        {n.split()[0] for n in split(groups=groups, seed=seed).test.class_names}
        for seed in range(6)
    ]
    assert all(len(found) == 1 for found in drawn)
    assert len(set.union(*drawn)) > 1


def test_a_csv_file_equals_its_lists(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "intents.csv")
    tasks = FewShotTasks.from_csv(path, 2, 1, queries=3, groups="domain", test_groups=["food"])
    lists = FewShotTasks.from_texts(
        [f"{t}, now" for t in TEXTS],
        np.array(LABELS),
        2,
        1,
        queries=3,
        groups=DOMAINS,
        test_groups=["food"],
    )
    assert names(tasks) == names(lists)
    for part in names(tasks):
        assert torch.equal(tasks[part].pool.examples, lists[part].pool.examples)
    assert tasks.name == "intents-2w1s"
    other = csv_file(tmp_path / "other.csv", "utterance,intent,domain")
    renamed = FewShotTasks.from_csv(other, 2, 1, queries=3, text="utterance", label="intent")
    assert len(renamed.test.class_names) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_classes": ["car d"]}, r"test_classes: there is no 'car d'; did you mean"),
        ({"test_classes": ["car a", "car a"]}, "test_classes: 'car a' is given twice"),
        (
            {"test_classes": ["car a", "car b"], "validation_classes": ["car a", "home a"]},
            "'car a' is given twice",
        ),
        ({"test_groups": ["car"]}, "test_groups: these classes have no groups; give groups, too"),
        ({"groups": DOMAINS, "test_classes": ["car a"]}, "whole groups are held out"),
        ({"groups": DOMAINS[:-1]}, "47 groups for 48 examples"),
        ({"groups": [*DOMAINS[1:], "bank"]}, "class 'bank c' is in two groups, 'bank' and 'home'"),
        ({"groups": {"bank a": 1}}, "groups has no group of class 'bank b'"),
        ({"groups": [*DOMAINS[:-4], *[None] * 4]}, "groups has no group of class 'food c'"),
        ({"groups": [*DOMAINS[:-4], *[float("nan")] * 4]}, "no group of class 'food c'"),
        ({"queries": 4}, r"4 examples of class .* give queries=3"),
        ({"train": {"ways": 9}}, r"8 classes of the train part .* train={'ways': \.\.\.}"),
    ],
)
def test_errors_name_the_argument(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(**settings)


def test_the_fractions_that_an_error_recommends_work() -> None:
    """For all numbers of classes and ways: what the error says either works, or cannot."""
    mended = 0
    for total, ways in itertools.product(range(3, 70, 3), range(2, 12)):
        sizes = {label: 5 for label in range(total)}
        each = {"ways": ways, "shots": 1, "queries": 4}
        wanted = {part: each for part in ("train", "validation", "test")}
        parts = divide_classes(range(total), HeldOut())
        if all(len(classes) >= ways for classes in parts.values()):
            check_parts(parts, sizes, wanted)
            continue
        with pytest.raises(
            ValueError, match=r"classes of the (train|validation|test) part"
        ) as told:
            check_parts(parts, sizes, wanted)
        found = re.search(r"fractions=\(([^)]*)\)", str(told.value))
        assert (found is None) == (3 * ways > total)
        if found:
            fractions = [float(share) for share in found[1].split(",")]
            check_parts(divide_classes(range(total), HeldOut(fractions)), sizes, wanted)
            mended += 1
    assert mended > 20


def test_other_texts_are_refused(tmp_path: Path) -> None:
    for texts, labels, message in (
        (TEXTS, LABELS[:-1], "48 texts, but 47 labels"),
        ([None, *TEXTS[1:]], LABELS, "example 0 is no text, but None"),
        (["?!", *TEXTS[1:]], LABELS, "no words in '\\?!'"),
    ):
        with pytest.raises(ValueError, match=message):
            FewShotTasks.from_texts(texts, labels, 2, 1, queries=3)
    with pytest.raises(TypeError, match="argument 'test_class'; did you mean"):
        split(test_class=["car a"])
    path = csv_file(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a.csv: no column 'labels'; did you mean label"):
        FewShotTasks.from_csv(path, 2, 1, label="labels")
    path.write_text("text,label\nhello,a\n,b\n")
    with pytest.raises(ValueError, match="line 3 has nothing in column 'text'"):
        FewShotTasks.from_csv(path, 2, 1)
    path.write_bytes(b"text,label\n\xff\xfe,a\n")
    with pytest.raises(ValueError, match=r"a.csv: .*can't decode"):
        FewShotTasks.from_csv(path, 2, 1)
    with pytest.raises(FileNotFoundError, match="no file"):
        FewShotTasks.from_csv(tmp_path / "none.csv", 2, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nhello, world,greeting\n", "line 2 has 3 entries, but there are 2 columns"),
        ("text,label\nhello,a\nhello\n", "line 3 has 1 entries, but there are 2 columns"),
        ("text,label,domain\nhello,a\n", "line 2 has 2 entries, but there are 3 columns"),
        ("text,label,text\nhello,a,bye\n", "2 columns are called 'text'"),
        ('text,label\n"hello,a\n', "unexpected end of data"),
        ("", "there is no row of column names"),
    ],
)
def test_ragged_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    """A comma in a text without quotes would shift all that follows it."""
    path = tmp_path / "ragged.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"ragged.csv: {message}"):
        FewShotTasks.from_csv(path, 2, 1)


def test_empty_lines_are_skipped(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv")
    path.write_text(path.read_text(encoding="utf-8-sig").replace("\n", "\n\n"))
    tasks = FewShotTasks.from_csv(path, 2, 1, queries=3)
    assert sorted(itertools.chain(*names(tasks).values())) == sorted(INTENTS)


def picture_folder(path: Path, modes: str) -> Path:
    """Six classes of three pictures each; the classes' modes are grey (L) or colour (RGB)."""
    for label, mode in enumerate(modes):
        (path / f"class{label}").mkdir(parents=True)
        for i in range(3):
            colour: Any = 40 * label + i if mode == "L" else (40 * label + i, 0, 200)
            image = Image.new("L" if mode == "L" else "RGB", (20, 20), colour)
            image.save(path / f"class{label}" / f"{i}.png")
    return path


@pytest.mark.parametrize(
    ("modes", "channels", "wanted"),
    [("LLLLLL", None, 1), ("CCCCCC", None, 3), ("LLLCLL", None, 3), ("CCCCCC", 1, 1)],
)
def test_colour_stays_colour(modes: str, channels: int | None, wanted: int, tmp_path: Path) -> None:
    tasks = FewShotTasks.from_folder(
        picture_folder(tmp_path / "own", modes),
        2,
        1,
        queries=2,
        size=16,
        channels=channels,
        test_classes=["class3", "class1"],
        fractions=(0.4, 0.3, 0.3),
    )
    assert tasks.test.pool.example_shape == (wanted, 16, 16)
    assert tasks.test.class_names == ["class1", "class3"]
    colours = tasks.test.pool.examples[:, :, 0, 0].tolist()
    if wanted == 3:
        assert colours[3] == [120, 0, 200]
        assert colours[0] == ([40, 0, 200] if modes[1] == "C" else [40, 40, 40])


def test_a_folder_with_too_small_a_part_names_it(tmp_path: Path) -> None:
    path = picture_folder(tmp_path / "own", "L" * 6)
    with pytest.raises(ValueError, match=r"ways=2: more than the 1 classes of the validation part"):
        FewShotTasks.from_folder(path, 2, 1, queries=2)
