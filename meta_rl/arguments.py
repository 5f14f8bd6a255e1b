"""Checks of arguments.

Each check refuses a wrong value in one line, which has the argument's name, the value and what is
allowed. NumPy's numbers are taken as Python's own; a bool is no number.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's own, which checkpoints hold; others as they are."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(plain(entry) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(plain(entry) for entry in value)
    return value


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Gives a whole number as an ``int``.

    Args:
        name: The name of the argument, for the error.
        value: The argument. Floats without a fraction are taken, such as ``3.0``.
        least: The smallest value that is allowed.
        most: The largest value that is allowed; any by default.

    Raises:
        ValueError: It is not a whole number, or out of this range.
    """
    number = value if type(value) is int else plain(value)  # torch.compile knows no NumPy kinds
    if not _is_number(number) or number % 1 or number < least:
        raise ValueError(f"{name} has to be a whole number of at least {least}, got {value!r}")
    if most is not None and number > most:
        raise ValueError(f"{name} has to be at most {most}, got {value!r}")
    return int(number)


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float = -math.inf,
    most: float = math.inf,
    below: float | None = None,
) -> float:
    """Gives a finite number in a range, as a ``float``.

    Args:
        name: The name of the argument, for the error.
        value: The argument.
        above: The number has to be larger than this.
        least: The smallest value that is allowed.
        most: The largest value that is allowed.
        below: The number has to be smaller than this.

    Raises:
        ValueError: It is no number, not finite, or out of this range.
    """
    number = plain(value)
    allowed = _range_in_words(above, least, most, below)
    if not _is_number(number) or not math.isfinite(number):
        wanted = " ".join(["a finite number", *([allowed] if allowed else [])])
        raise ValueError(f"{name} has to be {wanted}, got {value!r}")
    too_low = number < least or (above is not None and number <= above)
    too_high = number > most or (below is not None and number >= below)
    if too_low or too_high:
        raise ValueError(f"{name} has to be {allowed}, got {value!r}")
    return float(number)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _range_in_words(above: float | None, least: float, most: float, below: float | None) -> str:
    if math.isfinite(least) and math.isfinite(most):
        return f"in [{least:g}, {most:g}]"
    parts = [
        f"above {above:g}" if above is not None else "",
        f"at least {least:g}" if math.isfinite(least) else "",
        f"at most {most:g}" if math.isfinite(most) else "",
        f"below {below:g}" if below is not None else "",
    ]
    return " and ".join(filter(None, parts))


def check_rate(name: str, rate: Any) -> Any:
    """Gives a rate, or the first and the last value of one that falls or rises linearly.

    Args:
        name: The name of the argument, for the error.
        rate: A positive number, or two of them; the last of two may be 0.

    Returns:
        A ``float``, or a list of two.

    Raises:
        ValueError: It is neither.
    """
    given = plain(rate)
    values = list(given) if isinstance(given, list | tuple) else [given]
    numbers = all(_is_number(value) and math.isfinite(value) for value in values)
    if not numbers or len(values) not in (1, 2) or values[0] <= 0 or values[-1] < 0:
        raise ValueError(f"{name} is a positive number, or [first, last], got {rate!r}")
    return [float(value) for value in values] if isinstance(given, list | tuple) else given


def check_seed(seed: Any, name: str = "seed") -> int | None:
    """Gives a seed as an ``int``, or ``None`` for one from the system's entropy.

    Raises:
        ValueError: It is neither ``None`` nor a whole number of at least 0.
    """
    return None if seed is None else check_count(name, seed, least=0)


def check_flag(name: str, value: Any) -> bool:
    """Gives a choice of yes or no as a ``bool``.

    Raises:
        ValueError: It is not ``True`` or ``False``; a text such as "no" would count as true.
    """
    flag = plain(value)
    if not isinstance(flag, bool):
        raise ValueError(f"{name} has to be True or False, got {value!r}")
    return flag


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Gives one of several names.

    Raises:
        ValueError: It is none of them; the error lists the near ones, or all.
    """
    if not isinstance(value, str) or value not in choices:
        hint = f"; {did_you_mean(value, choices)}" if near(value, choices) else ""
        raise ValueError(f"{name} is one of {', '.join(choices)}, got {value!r}{hint}")
    return value


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuses an object of the wrong kind.

    Args:
        name: The name of the argument, for the error.
        value: The argument.
        kind: The class that it has to be of, or several.
        wanted: What these classes are, in words.

    Raises:
        TypeError: It is of another kind.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} has to be {wanted}, got {_kind_in_words(value)}")


def check_has(name: str, value: Any, methods: Iterable[str], wanted: str) -> None:
    """Refuses an object that lacks a method.

    Args:
        name: The name of the argument, for the error.
        value: The argument.
        methods: Names of the methods that it has to have.
        wanted: What such an object is, in words.

    Raises:
        TypeError: It has not all of them, or it is a class where an object is wanted.
    """
    lacks = [method for method in methods if not callable(getattr(value, method, None))]
    if lacks or isinstance(value, type):
        raise TypeError(f"{name} has to be {wanted}, got {_kind_in_words(value)}")


def _kind_in_words(value: Any) -> str:
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuses names of arguments that do not exist, as Python does, and lists the near ones.

    Args:
        given: The names.
        known: All names that exist.
        what: The function that takes them, for the error.

    Raises:
        TypeError: A name does not exist.
    """
    for name in given:
        if name not in known:
            raise TypeError(f"{what} has no argument {name!r}; {did_you_mean(name, known)}")


def near(name: Any, known: Iterable[str]) -> list[str]:
    """Names that are spelled nearly like this one, at most three."""
    return difflib.get_close_matches(str(name), list(known), n=3)


def did_you_mean(name: Any, known: Collection[str]) -> str:
    """The near names as a question, or all of them."""
    found = near(name, known)
    return f"did you mean {', '.join(found)}?" if found else f"{', '.join(known)} exist"


def keyword_names(parameters: Mapping[str, Any]) -> list[str]:
    """Names of the parameters of a signature that can be given by name."""
    by_name = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")
    return [name for name, one in parameters.items() if one.kind.name in by_name and name != "self"]
