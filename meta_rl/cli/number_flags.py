"""Numbers on the command line: a word that is no number is refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

NUMBERS = ConstructorRegistry()
"""Rules by which tyro reads numbers; they hold within ``with NUMBERS:``."""

_IN_WORDS = {int: "a whole number", float: "a number"}


class NoNumberError(Exception):
    """A word of the command line that is no number of the wanted kind.

    It is no ``ValueError``, since tyro prints those in a box of its own.

    Args:
        word: The word.
        wanted: The wanted kind, in words.
    """

    def __init__(self, word: str, wanted: str) -> None:
        super().__init__(word, wanted)
        self.word = word
        self.wanted = wanted

    def message(self, arguments: Sequence[str]) -> str:
        """Returns the error in one line, with the flag that the word belongs to."""
        flag = ""
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if argument == self.word or (equals and value == self.word):
                flag = name if equals else flag
                break
            if argument.startswith("--"):
                flag = name
        return f"{flag or 'an argument'} has to be {self.wanted}, got {self.word!r}"


def _whole(word: str) -> int:
    """Reads a whole number, which may be written as ``1e6``."""
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer():  # NaN and infinity are none either
            raise
        return int(number)


@NUMBERS.primitive_rule
def _number(type_info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    kind: Any = type_info.type
    if kind not in _IN_WORDS:
        return None

    def read(words: list[str]) -> Any:
        try:
            return _whole(words[0]) if kind is int else float(words[0])
        except ValueError:
            raise NoNumberError(words[0], _IN_WORDS[kind]) from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, kind) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )
