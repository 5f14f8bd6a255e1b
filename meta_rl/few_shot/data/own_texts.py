"""Few-shot tasks from your own texts: lists, or a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meta_rl.arguments import check_kind, check_names, did_you_mean, plain
from meta_rl.few_shot.data.held_out import class_groups
from meta_rl.few_shot.data.own_data import DATASET_SETTINGS, split_dataset
from meta_rl.few_shot.tasks import FewShotSplit

_NO_TEXTS = ("dataset", "rotations", "background")
TEXT_SETTINGS = [name for name in DATASET_SETTINGS if name not in _NO_TEXTS]
"""Names of the keyword arguments that :func:`split_texts` passes on, and of its own."""


def split_texts(
    texts: Sequence[str],
    labels: Sequence[Any],
    ways: int,
    shots: int,
    queries: int = 15,
    *,
    groups: Any = None,
    name: str = "texts",
    **settings: Any,
) -> FewShotSplit:
    """Makes few-shot tasks from labelled texts.

    Args:
        texts: Texts.
        labels: Class of each text: a name or a whole number.
        ways: Number of classes in a task.
        shots: Number of support texts of each class.
        queries: Number of query texts of each class.
        groups: Group of each text's class, such as its domain, or a dictionary with the group of
            each class; whole groups are held out.
        name: Name of the data set.
        **settings: Arguments of :func:`.split_dataset`: those that choose the held-out classes
            (``test_classes=["a", "b"]``, ``test_groups``, ``fractions``, ``seed``, ...), ``train``,
            ``length`` and ``num_hashes``.

    Returns:
        The split; ``split.test.class_names`` are the labels of the test classes.

    Raises:
        TypeError: Texts or labels are no lists, or an argument does not exist.
        ValueError: The numbers of texts and labels differ, an example is no text or holds no words,
            or :func:`.split_dataset` raises it.
    """
    check_names(settings, TEXT_SETTINGS, "from_texts")
    texts, labels = _as_list(texts, "texts"), _as_list(labels, "labels")
    if len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts, but {len(labels)} labels")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"example {index} is no text, but {text!r}")
    return split_dataset(
        list(zip(texts, labels, strict=True)),
        ways,
        shots,
        queries,
        groups=class_groups(labels, groups),
        name=name,
        **settings,
    )


def split_csv(
    path: str | Path,
    ways: int,
    shots: int,
    queries: int = 15,
    *,
    text: str = "text",
    label: str = "label",
    groups: str | None = None,
    delimiter: str = ",",
    **settings: Any,
) -> FewShotSplit:
    """Makes few-shot tasks from a CSV file with a row of column names and a text in each other row.

    Args:
        path: Path of the file, in UTF-8.
        ways: Number of classes in a task.
        shots: Number of support texts of each class.
        queries: Number of query texts of each class.
        text: Name of the column of texts.
        label: Name of the column of class names.
        groups: Name of the column of groups, such as domains, of which whole ones are held out
            (default: no groups).
        delimiter: Character between two columns.
        **settings: Further arguments of :func:`split_texts`.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: An argument does not exist.
        ValueError: The file lacks a column, a row has no text, class or group, or
            :func:`split_texts` raises it.
    """
    own = ("text", "label", "delimiter")
    check_names(settings, [*TEXT_SETTINGS, *own], "from_csv")
    check_kind("path", path, (str, Path), "the path of a file")
    columns = [text, label, *([] if groups is None else [groups])]
    read = _read_columns(Path(path), columns, delimiter)
    return split_texts(
        read[text],
        read[label],
        ways,
        shots,
        queries,
        groups=None if groups is None else read[groups],
        **{"name": Path(path).stem, **settings},
    )


def _read_columns(path: Path, columns: list[str], delimiter: str) -> dict[str, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: it has to be a CSV file")
    read: dict[str, list[str]] = {column: [] for column in columns}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            known = next(rows, [])
            if not known:
                raise ValueError("there is no row of column names")
            places = {column: _place(column, known) for column in columns}
            for row in filter(None, rows):  # empty lines are skipped
                if len(row) != len(known):
                    raise ValueError(
                        f"line {rows.line_num} has {len(row)} entries, but there are {len(known)} "
                        'columns (a text with the delimiter in it has to stand in "quotes")'
                    )
                for column, place in places.items():
                    if not row[place].strip():
                        raise ValueError(f"line {rows.line_num} has nothing in column {column!r}")
                    read[column].append(row[place])
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path}: {error}") from error
    return read


def _place(column: str, known: list[str]) -> int:
    """Returns the index of a column, which has to be there once."""
    if known.count(column) > 1:
        raise ValueError(f"{known.count(column)} columns are called {column!r}")
    if column not in known:
        raise ValueError(f"no column {column!r}; {did_you_mean(column, known)}")
    return known.index(column)


def _as_list(values: Any, name: str) -> list[Any]:
    values = values.tolist() if hasattr(values, "tolist") else plain(values)  # pandas, NumPy
    check_kind(name, values, (list, tuple), "a list")
    return list(values)
