"""Checks of arguments.

Each check takes the name of an argument and its value. It refuses a wrong value with an error of
one line, which states the name, the value and the allowed values. NumPy's numbers count as Python's
own; a bool is not a number.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

MOST_RATE = 1e37
"""Largest step size: Adam's bias correction of a larger one overflows in single precision."""


def plain(value: Any) -> Any:
    """Converts NumPy's numbers and arrays to Python's own; returns other values unchanged."""
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
    """Checks a whole number from ``least`` to ``most``, and returns it as an ``int``.

    A float without a fraction is accepted, such as ``3.0``.
    """
    number = value if type(value) is int else plain(value)  # torch.compile has no NumPy types
    if not _is_number(number) or number % 1 or number < least:
        raise ValueError(f"{name} has to be a whole number of at least {least}, got {value!r}")
    if most is not None and number > most:
        raise ValueError(f"{name} has to be at most {most}, got {value!r}")
    return int(number)


def check_counts(name: str, values: Any) -> list[int]:
    """Checks a sequence of whole numbers of at least 1, such as the sizes of layers."""
    if not isinstance(values, list | tuple | np.ndarray):
        raise ValueError(f"{name} has to be a sequence of whole numbers, got {values!r}")
    return [check_count(f"{name}[{i}]", value) for i, value in enumerate(values)]


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float = -math.inf,
    most: float = math.inf,
    below: float | None = None,
) -> float:
    """Checks a finite number, and returns it as a ``float``.

    The bounds ``least`` and ``most`` are allowed values; ``above`` and ``below`` are not.
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
    bounds = {"above": above, "at least": least, "at most": most, "below": below}
    known = {k: bound for k, bound in bounds.items() if bound is not None and math.isfinite(bound)}
    return " and ".join(f"{k} {bound:g}" for k, bound in known.items())


def check_rate(name: str, rate: Any) -> Any:
    """Checks a positive rate, or the first and the last value of a linear schedule.

    The last of two values may be 0. Two values are returned as a list. A rate is at
    most :data:`MOST_RATE`.
    """
    given = plain(rate)
    values = list(given) if isinstance(given, list | tuple) else [given]
    numbers = all(_is_number(value) and math.isfinite(value) for value in values)
    if not numbers or len(values) not in (1, 2) or values[0] <= 0 or values[-1] < 0:
        raise ValueError(f"{name} is a positive number, or [first, last], got {rate!r}")
    if max(values) > MOST_RATE:
        raise ValueError(f"{name} has to be at most {MOST_RATE:g}, got {rate!r}")
    return [float(value) for value in values] if isinstance(given, list | tuple) else given


def check_seed(seed: Any, name: str = "seed") -> int | None:
    """Checks a seed, and returns an ``int``; ``None`` means a seed from the system's entropy."""
    return None if seed is None else check_count(name, seed, least=0)


def check_flag(name: str, value: Any) -> bool:
    """Checks a flag, and returns it as a ``bool``; a text such as "no" would be true."""
    flag = plain(value)
    if not isinstance(flag, bool):
        raise ValueError(f"{name} has to be True or False, got {value!r}")
    return flag


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Checks that a value is one of several names, and returns it."""
    if not isinstance(value, str) or value not in choices:
        hint = f"; {did_you_mean(value, choices)}" if near(value, choices) else ""
        raise ValueError(f"{name} is one of {', '.join(choices)}, got {value!r}{hint}")
    return value


def check_finite_array(name: str, values: Any) -> None:
    """Refuses arrays, or nested lists, with NaN or infinity."""
    array = np.asarray(values)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        broken = array[~np.isfinite(array)][0]
        raise ValueError(f"{name} has to hold finite numbers, got {broken}")


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuses an object of another class; the error describes the classes by ``wanted``.

    Raises:
        TypeError: The object is of another class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} has to be {wanted}, got {kind_in_words(value)}")


def check_has(name: str, value: Any, methods: Iterable[str], wanted: str) -> None:
    """Refuses an object that lacks a method; the error describes such objects by ``wanted``.

    Raises:
        TypeError: A method is missing, or the value is a class instead of an object.
    """
    lacks = [method for method in methods if not callable(getattr(value, method, None))]
    if lacks or isinstance(value, type):
        raise TypeError(f"{name} has to be {wanted}, got {kind_in_words(value)}")


def kind_in_words(value: Any) -> str:
    """Returns the kind of an object for an error: ``None``, a class, or its type's name."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuses names of arguments that a function does not have, and lists similar names.

    Raises:
        TypeError: A name does not exist.
    """
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"{what}() got an unexpected keyword argument {name!r}; {hint}")


def near(name: Any, known: Iterable[str]) -> list[str]:
    """Returns the known names that are spelled like this one, at most three."""
    return difflib.get_close_matches(str(name), list(known), n=3)


def did_you_mean(name: Any, known: Collection[str]) -> str:
    """Returns a hint for an error: the similar names as a question, or all names."""
    found = near(name, known)
    return f"did you mean {', '.join(found)}?" if found else f"{', '.join(known)} exist"


def keyword_names(parameters: Mapping[str, Any]) -> list[str]:
    """Returns the names of a signature's parameters that can be given by keyword."""
    by_name = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")
    return [name for name, one in parameters.items() if one.kind.name in by_name and name != "self"]


# ------------------------------------------------------------- all arguments of a constructor


def _constructors(cls: type) -> list[list[inspect.Parameter]]:
    """Returns the parameters of a class's constructors, up to the first without ``**kwargs``."""
    found = []
    for init in [vars(one)["__init__"] for one in cls.__mro__ if "__init__" in vars(one)]:
        found.append([*inspect.signature(init).parameters.values()][1:])
        if all(one.kind is not one.VAR_KEYWORD for one in found[-1]):
            break
    return found


class CheckedArguments:
    """A base class that checks the names and kinds of a constructor's arguments before it runs.

    Kinds are those of the annotations: a number has to be finite, ``int`` takes whole numbers,
    ``bool`` takes ``True`` and ``False``. An argument is not checked if its annotation has other
    parts, such as ``Annotated[float, "a number, or infinity"]``.

    Raises:
        TypeError: A name does not exist (similar names are listed), or an object is of the wrong
            kind.
        ValueError: A number, a flag or a text is of the wrong kind, or a number is not finite.
    """

    __signature__: ClassVar[inspect.Signature]  # that of __new__ says nothing
    _known: ClassVar[Mapping[str, inspect.Parameter]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Checks the arguments."""
        given = cls.__signature__.bind_partial(*args).arguments | kwargs
        _check_given(given, cls._known, cls.__name__)
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Finds the arguments: those of the constructor, and those that it passes on."""
        super().__init_subclass__(**kwargs)
        constructors = _constructors(cls)
        cls.__signature__ = inspect.Signature(constructors[0])
        closed = all(one.kind is not one.VAR_KEYWORD for one in constructors[-1])
        known = {one.name: one for parameters in reversed(constructors) for one in parameters}
        cls._known = {
            name: one for name, one in known.items() if not (closed and one.kind is one.VAR_KEYWORD)
        }


class PassedOnArguments(CheckedArguments):
    """A base class whose subclasses may pass arguments of their base on as ``**settings``.

    The signature lists the keywords of the base classes in place of ``**settings``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Completes the signature."""
        super().__init_subclass__(**kwargs)
        own, *passed_on = _constructors(cls)
        found = {one.name: one for one in own if one.kind is not one.VAR_KEYWORD}
        for one in (one for parameters in passed_on for one in parameters):
            if one.kind is one.KEYWORD_ONLY:
                found.setdefault(one.name, one)
        cls.__signature__ = inspect.Signature([*found.values()])
        cls._known = found


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function, whose arguments are checked as :class:`CheckedArguments` does."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind_partial(*args).arguments | kwargs
        _check_given(given, signature.parameters, function.__qualname__.removesuffix(".__init__"))
        return function(*args, **kwargs)

    return checking


def _check_given(
    given: Mapping[str, Any], known: Mapping[str, inspect.Parameter], what: str
) -> None:
    """Checks names, unless ``known`` has further ones (``**kwargs``), and kinds."""
    if all(one.kind is not one.VAR_KEYWORD for one in known.values()):
        public = [name for name in keyword_names(known) if name[0] != "_"]
        check_names((name for name in given if name not in known), public, what)
    for name, value in given.items():
        if name in known and known[name].kind is not known[name].VAR_POSITIONAL:
            check_annotated(name, value, known[name].annotation)


_NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda v: _is_finite(v) and v % 1 == 0, "a whole number"),
    "float": (lambda v: _is_finite(v), "a finite number"),
    "bool": (lambda v: isinstance(v, bool), "True or False"),
    "str": (lambda v: isinstance(v, str | os.PathLike), "a text"),
    "None": (lambda v: v is None, "None"),
}
_OBJECTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dict": (lambda v: isinstance(v, Mapping), "a dictionary"),
    "Sequence": (lambda v: isinstance(v, list | tuple), "a sequence"),
    "Schedule": (callable, "a function of the remaining progress"),
}


def check_annotated(name: str, value: Any, annotation: Any) -> None:
    """Checks that a value has one of the plain kinds in an annotation, such as ``int | None``.

    An annotation with other parts is not checked.

    Raises:
        TypeError: The value is of another kind, and an object is allowed.
        ValueError: The value is of another kind, or a number that is not finite.
    """
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    while text != (shorter := re.sub(r"\[[^\[\]]*\]", "", text)):
        text = shorter
    parts, known = [part.strip() for part in text.split("|")], _NUMBERS | _OBJECTS
    given = plain(value)
    if any(part not in known for part in parts) or any(known[part][0](given) for part in parts):
        return
    wanted = " or ".join(known[part][1] for part in parts)
    numbers = [part for part in parts if part in ("int", "float", "bool")]
    about_numbers = numbers and (_is_number(given) or {*parts} <= {*numbers, "None"})
    error = ValueError if about_numbers else TypeError
    raise error(f"{name} has to be {wanted}, got {value!r}")


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)
