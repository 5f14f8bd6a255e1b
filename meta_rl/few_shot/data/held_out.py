"""The choice of classes for training, validation and test: by name, by groups, or drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from meta_rl.arguments import check_kind, check_number, check_seed, did_you_mean, plain

PARTS = ("train", "validation", "test")
NAMED = 5
"""Maximum number of classes that an error names."""


class HeldOut(NamedTuple):
    """The arguments that say which classes are held out.

    Attributes:
        fractions: Fractions of the classes (or groups) for training, validation and test, which sum
            to 1. They are the relative sizes of those parts that are not given by name.
        seed: Seed of the draw.
        validation_classes: Names of the validation classes (default: drawn).
        test_classes: Names of the test classes (default: drawn).
        groups: Group of each class, such as its domain, by the class's name. Classes of a group are
            never in different parts.
        validation_groups: Names of the validation groups (default: drawn).
        test_groups: Names of the test groups (default: drawn).
    """

    fractions: Sequence[float] = (0.64, 0.16, 0.2)
    seed: int | None = 0
    validation_classes: Sequence[Any] | None = None
    test_classes: Sequence[Any] | None = None
    groups: Mapping[Any, Any] | None = None
    validation_groups: Sequence[Any] | None = None
    test_groups: Sequence[Any] | None = None


def class_groups(labels: Sequence[Any], groups: Any) -> Mapping[Any, Any] | None:
    """Returns the group of each class.

    Args:
        labels: Label of each example.
        groups: Group of each example, or a dictionary with the group of each class; ``None`` for no
            groups.

    Raises:
        ValueError: There is not one group for each example, or a class is in two groups.
    """
    if groups is None or isinstance(groups, Mapping):
        return groups
    check_kind("groups", plain(groups), (list, tuple), "a list or a dictionary")
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} examples")
    found: dict[Any, Any] = {}
    for label, group in zip(labels, plain(groups), strict=True):
        if not _is_missing(group) and found.setdefault(label, group) != group:
            raise ValueError(
                f"class {label!r} is in two groups, {found[label]!r} and {group!r}: a class is "
                "held out as a whole"
            )
    return found


def _is_missing(group: Any) -> bool:
    """Returns whether a value is ``None`` or NaN, as tables have it where nothing was entered."""
    return group is None or group != group


def divide_classes(labels: Sequence[Any], held_out: HeldOut) -> dict[str, list[Any]]:
    """Divides classes into the parts of a split.

    Args:
        labels: Names of all classes, each once, in a fixed order.
        held_out: Choice of the classes that are held out.

    Returns:
        The classes of ``train``, ``validation`` and ``test``.

    Raises:
        ValueError: A name is unknown or given twice, a class has no group, fractions are not three
            positive numbers that sum to 1, or a part has no classes.
    """
    shares = _check_fractions(held_out.fractions)
    by_class = (held_out.validation_classes, held_out.test_classes)
    if held_out.groups is None:
        for name in ("validation_groups", "test_groups"):
            if getattr(held_out, name) is not None:
                raise ValueError(f"{name}: these classes have no groups; give groups, too")
        named = {"validation": by_class[0], "test": by_class[1]}
        return _divide(labels, named, shares, held_out.seed, "classes")
    if any(names is not None for names in by_class):
        raise ValueError(
            "with groups, whole groups are held out: give validation_groups and test_groups in "
            "place of validation_classes and test_classes"
        )
    check_kind("groups", held_out.groups, Mapping, "a dictionary with the group of each class")
    without = [label for label in labels if _is_missing(held_out.groups.get(label))]
    if without:
        raise ValueError(f"groups has no group of class {in_words(without)}")
    groups = sorted({held_out.groups[label] for label in labels}, key=lambda g: (str(type(g)), g))
    named = {"validation": held_out.validation_groups, "test": held_out.test_groups}
    parts = _divide(groups, named, shares, held_out.seed, "groups")
    of_part = {group: part for part, members in parts.items() for group in members}
    return {
        part: [label for label in labels if of_part[held_out.groups[label]] == part]
        for part in PARTS
    }


def _check_fractions(fractions: Sequence[float]) -> list[float]:
    wanted = f"fractions are three positive numbers that sum to 1, got {fractions}"
    try:
        shares = [check_number("fraction", one, above=0.0) for one in fractions]
    except (TypeError, ValueError) as error:
        raise ValueError(wanted) from error
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(wanted)
    return shares


def _divide(
    units: Sequence[Any],
    named: Mapping[str, Sequence[Any] | None],
    shares: list[float],
    seed: int | None,
    what: str,
) -> dict[str, list[Any]]:
    """Divides classes (or groups): named ones go to their part, the others are drawn."""
    parts: dict[str, list[Any]] = {}
    for part, names in named.items():
        if names is not None:
            taken = [unit for members in parts.values() for unit in members]
            parts[part] = _check_named(names, units, taken, f"{part}_{what}")
    rest = [unit for unit in units if not any(unit in members for members in parts.values())]
    drawn = [part for part in PARTS if part not in parts]
    weights = np.array([shares[PARTS.index(part)] for part in drawn])
    order = np.random.default_rng(check_seed(seed)).permutation(len(rest))
    bounds = np.round(np.cumsum(weights / weights.sum()) * len(rest)).astype(int)
    counts = np.diff(bounds, prepend=0)
    while len(counts) <= len(rest) and (counts == 0).any():  # no part stays empty
        counts[counts.argmax()] -= 1
        counts[counts.argmin()] += 1
    for part, piece in zip(drawn, np.split(order, np.cumsum(counts)[:-1]), strict=True):
        parts[part] = [rest[index] for index in sorted(piece)]
    for part in PARTS:
        if not parts[part]:
            raise ValueError(f"{len(units)} {what} are too few: none is left for {part}")
    return {part: parts[part] for part in PARTS}


def _check_named(names: Any, units: Sequence[Any], taken: list[Any], argument: str) -> list[Any]:
    check_kind(argument, plain(names), (list, tuple, set), "a list of names")
    given = list(plain(names))
    for name in given:
        if name not in units:
            raise ValueError(
                f"{argument}: there is no {name!r}; {did_you_mean(name, [str(u) for u in units])}"
            )
        if name in taken or given.count(name) > 1:
            raise ValueError(f"{argument}: {name!r} is given twice")
    return [unit for unit in units if unit in given]


def check_parts(
    parts: Mapping[str, Sequence[Any]],
    sizes: Mapping[Any, int],
    wanted: Mapping[str, Mapping[str, int]],
    grouped: bool = False,
) -> None:
    """Raises an error for a part with too few classes or examples, and says what mends it.

    Args:
        parts: Classes of each part.
        sizes: Number of examples of each class.
        wanted: Values of ``ways``, ``shots`` and ``queries`` in each part.
        grouped: Whether whole groups of classes are held out.

    Raises:
        ValueError: A part has fewer classes than ``ways``, or a class has fewer examples than
            ``shots + queries``.
    """
    for part, classes in parts.items():
        ways, shots, queries = (wanted[part][name] for name in ("ways", "shots", "queries"))
        if len(classes) < ways:
            total = sum(map(len, parts.values()))
            raise ValueError(
                f"ways={ways}: more than the {len(classes)} classes of the {part} part (the data "
                f"have {total}); {_more_classes(part, wanted, total, grouped)}"
            )
        few = [label for label in classes if sizes[label] < shots + queries]
        if few:
            fewest = min(sizes[label] for label in few)
            mend = f"queries={fewest - shots}" if fewest > shots else f"shots below {fewest}"
            raise ValueError(
                f"shots={shots} and queries={queries}: together more than the {fewest} examples "
                f"of class {in_words(few)} of the {part} part; give {mend}, or leave small classes "
                "out of the data"
            )


def _more_classes(
    part: str,
    wanted: Mapping[str, Mapping[str, int]],
    total: int,
    grouped: bool,
) -> str:
    """Returns a hint on the arguments that give a part more classes."""
    least = [wanted[name]["ways"] for name in PARTS]
    fewer = "train={'ways': ...}" if part == "train" else "a smaller ways"
    if sum(least) > total:
        return f"all parts together need {sum(least)}: give {fewer}, or data of more classes"
    if grouped:
        return f"give {fewer}, more fractions[{PARTS.index(part)}], or more groups by name"
    held = [math.ceil(1000 * count / total) / 1000 for count in least[1:]]
    enough = ", ".join(f"{share:.3f}" for share in (1 - sum(held), *held))
    by_name = "" if part == "train" else f", or {part}_classes=[...]"
    return f"give {fewer}, fractions=({enough}){by_name}"


def in_words(labels: Iterable[Any]) -> str:
    """Returns the first names of a list for an error."""
    names = list(labels)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
