"""Few-shot data sets by name, for the command line; none is imported before it is opened."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meta_rl.arguments import did_you_mean


@dataclass(frozen=True)
class DataSet:
    """An entry of the table of data sets: the callables that make its tasks.

    Attributes:
        home: ``"module:maker"`` of the split.
        network: Name of the default network; ``None`` if learners make their own network.
        lists: Further lists of image tasks for evaluation, by name. Each entry has a description
            and the ``"module:maker"``, which takes the data set's ``root`` and the ``size`` of the
            images.
        arguments: Arguments of the maker where the name states none.
    """

    home: str
    network: str | None
    lists: dict[str, tuple[str, str]] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


DATASETS: dict[str, DataSet] = {
    "AssociativeRecall": DataSet("meta_rl.few_shot.data.sequences:recall_split", None),
    "Babi": DataSet("meta_rl.few_shot.data.babi:Babi", None),
    "Clinc150": DataSet("meta_rl.few_shot.data.clinc150:Clinc150", "text_encoder"),
    "Copy": DataSet("meta_rl.few_shot.data.sequences:copy_split", None),
    "Csv": DataSet(
        "meta_rl.few_shot.data.own_texts:split_csv",
        "text_encoder",
        arguments={"ways": 5, "shots": 1},
    ),
    "ImageFolder": DataSet(
        "meta_rl.few_shot.data.own_data:split_folder",
        "conv4",
        arguments={"ways": 5, "shots": 1},
    ),
    "Omniglot": DataSet(
        "meta_rl.few_shot.data.omniglot:Omniglot",
        "conv4",
        {"lake": ("Lake's one-shot runs", "meta_rl.few_shot.data.omniglot:lake_runs")},
    ),
    "RepeatCopy": DataSet("meta_rl.few_shot.data.sequences:repeat_copy_split", None),
    "Sinusoid": DataSet("meta_rl.few_shot.data.sinusoid:Sinusoid", "sinusoid_mlp"),
}
"""Data sets by name."""

FROM_TEXTS = "meta_rl.few_shot.data.own_texts:split_texts"
"""The maker of the tasks from lists of texts, ``"module:maker"``."""
FROM_DATASET = "meta_rl.few_shot.data.own_data:split_dataset"
"""The maker of the tasks from a labelled data set of the user's own, ``"module:maker"``."""


def find_dataset(name: str) -> str:
    """Returns the data set in a name such as ``Omniglot-5w1s``.

    Raises:
        ValueError: The data set is unknown; the message lists similar names.
    """
    dataset = name.partition("-")[0]
    if dataset not in DATASETS:
        hint = did_you_mean(dataset, DATASETS)
        raise ValueError(f"unknown few-shot tasks {name!r}: {hint}, as in Omniglot-5w1s")
    if re.match(r"\w+-\d", name) and not numbers_in(name):
        raise ValueError(f"unknown few-shot tasks {name!r}: a name is as Omniglot-5w1s")
    return dataset


def dataset_maker(name: str) -> Callable[..., Any]:
    """Imports the callable that makes the tasks of a data set."""
    return import_attribute(DATASETS[name].home)


def arguments_in(name: str) -> dict[str, Any]:
    """Returns the arguments in a name such as ``Omniglot-5w1s``; for data of one's own, 5w1s."""
    return {**DATASETS[find_dataset(name)].arguments, **numbers_in(name)}


def numbers_in(name: str) -> dict[str, int]:
    """Returns ways and shots in a name such as ``Omniglot-5w1s`` or ``Sinusoid-10s``."""
    found = re.search(r"-(?:(\d+)w)?(\d+)s(?:-|$)", name)
    if found is None:
        return {}
    ways = {} if found[1] is None else {"ways": int(found[1])}
    return {**ways, "shots": int(found[2])}


def open_dataset(name: str, arguments: dict[str, Any], split: str) -> Any:
    """Opens the tasks of a data set, or one of its further lists if ``split`` names one.

    Args:
        name: Name of the data set.
        arguments: Arguments of its maker.
        split: Name of the part of the split that is evaluated, or of a list.

    Raises:
        ValueError: The list belongs to another data set, or arguments are outside their range.
        TypeError: The maker does not take an argument.
    """
    owners = [other for other, dataset in DATASETS.items() if split in dataset.lists]
    if not owners:
        return dataset_maker(name)(**arguments)
    if name not in owners:
        what = DATASETS[owners[0]].lists[split][0]
        raise ValueError(f"--split {split}: {what} are of {' and '.join(owners)}")
    size = dataset_maker(name)(**arguments).test.pool.example_shape[-1]
    return import_attribute(DATASETS[name].lists[split][1])(arguments.get("root"), size=size)


def import_attribute(home: str) -> Callable[..., Any]:
    """Imports what ``"module:name"`` names."""
    module, _, attribute = home.partition(":")
    return getattr(importlib.import_module(module), attribute)
