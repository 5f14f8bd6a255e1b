"""Checks of settings against the annotations of what takes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from stable_baselines3.common.utils import LinearSchedule

from meta_rl.cli.settings import annotated_type, check_settings, with_schedules

if TYPE_CHECKING:
    from nowhere import Unknown

Schedule = Callable[[float], float]
Rate = Annotated[float | Sequence[float], "a number or [first, last]"]


class Taker:
    """Takes one of each kind; ``unknown`` has an annotation for type checkers only."""

    def __init__(
        self,
        whole: int = 0,
        number: float = 0.0,
        flag: bool = False,
        word: Literal["a", "b"] = "a",
        text: str | None = None,
        file: str | Path = "",
        schedule: float | Schedule = 0.0,
        rate: Rate = 0.0,
        sizes: Sequence[int] = (),
        unknown: Unknown | None = None,
        bare=None,
    ) -> None: ...


@pytest.mark.parametrize(
    "given",
    [
        {"whole": 3},
        {"whole": 1e3},
        {"number": 3},
        {"number": 0.5},
        {"flag": True},
        {"word": "b"},
        {"text": None},
        {"text": "abc"},
        {"file": "folder/file"},
        {"schedule": 0.1},
        {"schedule": [1.0, 0.5]},
        {"rate": 1},
        {"rate": [1e-3, 0]},
        {"sizes": [1, 2]},
        {"unknown": object},
        {"bare": "anything"},
    ],
    ids=str,
)
def test_values_of_the_right_kind(given: dict[str, Any]) -> None:
    check_settings(Taker, "", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"whole": 0.5}, "whole takes int, got 0.5"),
        ({"whole": "3"}, "whole takes int, got '3'"),
        ({"number": "abc"}, "number takes float, got 'abc'"),
        ({"number": None}, "number takes float, got None"),
        ({"flag": 1}, "flag takes bool, got 1"),
        ({"flag": "no"}, "flag takes bool, got 'no'"),
        ({"word": "c"}, r"word takes Literal\['a', 'b'\], got 'c'"),
        ({"text": 3}, "text takes str or None, got 3"),
        ({"file": 3}, "file takes str or Path, got 3"),
        ({"schedule": "abc"}, r"schedule takes float or \[first, last\], got 'abc'"),
        ({"schedule": ["a", 1]}, r"schedule takes float or \[first, last\], got \['a', 1\]"),
        ({"rate": "abc"}, r"rate takes a number or \[first, last\], got 'abc'"),
        ({"whole": {1, 2}}, r"whole takes int, got \{1, 2\}"),
        ({"hole": 3}, "Taker has no setting 'x.hole': did you mean whole"),
    ],
    ids=str,
)
def test_values_of_the_wrong_kind(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("'x.hole'", r"'x\.hole'")):
        check_settings(Taker, "x.", given)


def test_what_is_not_known_is_not_checked() -> None:
    def anything(**kwargs: Any) -> None: ...

    check_settings(anything, "", {"what": object})
    check_settings(None, "", {"what": object})
    assert annotated_type(Taker, "unknown") is Any
    assert annotated_type(Taker, "whole") is int


@pytest.mark.parametrize(
    ("old", "name", "home"),
    [
        ("meta_rl.cli.settings", "find_settings", "meta_rl.cli.settings"),
        ("meta_rl.cli.settings", "check_settings", "meta_rl.cli.settings"),
        ("meta_rl.runs", "RunFolder", "meta_rl.cli.run_folder"),
        ("meta_rl.runs", "Validation", "meta_rl.cli.callbacks"),
    ],
)
def test_old_modules_still_import(old: str, name: str, home: str) -> None:
    assert getattr(importlib.import_module(old), name).__module__ == home


def test_two_numbers_become_a_schedule_where_a_function_is_taken() -> None:
    given = {"schedule": [1.0, 0.5], "rate": [1.0, 0.5], "sizes": [3, 4]}
    made = with_schedules(Taker, given)
    assert isinstance(made["schedule"], LinearSchedule)
    assert (made["schedule"](1.0), made["schedule"](0.0)) == (1.0, 0.5)
    assert (made["rate"], made["sizes"]) == (given["rate"], given["sizes"])
    with pytest.raises(ValueError, match=r"schedule: one number, or \[first, last\], got \[1\]"):
        with_schedules(Taker, {"schedule": [1]})
