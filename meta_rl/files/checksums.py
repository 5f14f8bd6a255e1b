"""Checksums of the text files of a run folder, by which damage is seen.

A JSON file carries the SHA-256 of its content as its first entry, ``checksum``; spaces and the
order of entries do not count. A log that grows has its checksums in a file beside it. Files of
earlier versions have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from meta_rl.files import write_atomically

ENTRY = "checksum"


def checked_json(content: dict[str, Any], indent: int | None = None) -> str:
    """Returns the text of a JSON file with a checksum.

    Args:
        content: Content of the file; a checksum in it is replaced.
        indent: Number of spaces before an entry; ``None`` writes a single line.
    """
    plain = json.loads(json.dumps({key: part for key, part in content.items() if key != ENTRY}))
    return json.dumps({ENTRY: _checksum(plain), **plain}, indent=indent) + "\n"


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """Reads a JSON file, and looks at its checksum if it has one.

    Args:
        path: Path of the file.

    Returns:
        The content without the checksum, and what is wrong with the checksum: nothing (``""``), or
        a text for an error.

    Raises:
        ValueError: The file is no JSON object.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    found = content.pop(ENTRY, None)
    if found is None or found == _checksum(content):
        return content, ""
    return content, (
        f"{path} was changed after it was written, as its checksum differs: take the original file "
        f'again or, if you changed it on purpose, delete the entry "{ENTRY}" from it'
    )


def check_annotations(content: dict[str, Any], kind: type) -> None:
    """Refuses entries of another type than a dataclass wants; unknown ones are left to it.

    Args:
        content: Content of a JSON file.
        kind: The dataclass.

    Raises:
        ValueError: Names the entry.
    """
    wanted = get_type_hints(kind)
    for name in content.keys() & wanted.keys():
        try:
            TypeAdapter(wanted[name]).validate_json(json.dumps(content[name]), strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}") from error


def _checksum(content: Any) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class CheckedLog:
    """A text file to which lines are appended, with checksums in a second file.

    The second file is written first, and has the checksum of the log before and after a write: a
    process that is killed in between leaves a log that has one of both.

    Args:
        path: Path of the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checksums = path.with_name(f"{path.name}.sha256")
        self._digest = hashlib.sha256()

    def read(self) -> tuple[str, str]:
        """Reads the log, to which another process may be writing.

        Returns:
            The text, and what is wrong with its checksum: nothing (``""``), or a text for an error.
        """
        content = self.path.read_bytes()
        while not self._fits(content):
            again = self.path.read_bytes()
            if again == content:
                return content.decode(errors="replace"), (
                    f"{self.path} was changed after it was written, as its checksum differs: take "
                    f"the original file again or, if you changed it on purpose, delete "
                    f"{self.checksums}"
                )
            content = again
        return content.decode(errors="replace"), ""

    def replace(self, text: str) -> None:
        """Writes the whole log anew, atomically."""
        try:
            before = hashlib.sha256(self.path.read_bytes())
        except FileNotFoundError:
            before = hashlib.sha256()
        self._announce(before, hashlib.sha256(text.encode()))
        write_atomically(self.path, text)

    def append(self, text: str) -> None:
        """Appends whole lines.

        Raises:
            OSError: They could not be written; no part of them stays.
        """
        before, after = self._digest, self._digest.copy()
        after.update(text.encode())
        self._announce(before, after)
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
        except OSError as error:  # a full disk
            self._digest = before
            with self.path.open("r+b") as file:
                file.truncate(size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _announce(self, *digests: Any) -> None:
        lines = [f"{digest.hexdigest()}  {self.path.name}\n" for digest in digests]
        write_atomically(self.checksums, "".join(lines), synced=False)  # as the log itself
        self._digest = digests[-1]

    def _fits(self, content: bytes) -> bool:
        """Returns whether the whole lines have one of the checksums, if there are any.

        After a loss of power, the file of checksums may be empty.
        """
        try:
            known = self.checksums.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return True
        whole = content[: content.rfind(b"\n") + 1]
        return not known or hashlib.sha256(whole).hexdigest() in known
