"""A cache of the vectors of encoders, by the content of what was encoded."""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from contextlib import closing
from typing import Any, Self

import numpy as np
from torch import Tensor

from meta_rl.few_shot.data.sources import cache_folder

READ_AT_ONCE = 500
SEAL_SIZE = hashlib.sha256().digest_size
TIMEOUT = 60.0
"""Time that a process waits for another one that writes, in seconds."""


def content_key(example: Any) -> bytes:
    """Returns a hash of a text, or of the shape, type and values of a tensor."""
    if isinstance(example, Tensor):
        head = f"{tuple(example.shape)} {example.dtype} ".encode()
        return hashlib.sha256(head + example.contiguous().numpy().tobytes()).digest()
    return hashlib.sha256(str(example).encode("utf-8", "surrogatepass")).digest()


class VectorCache:
    """The vectors of one encoder in an SQLite file of the cache folder.

    Several processes may read and write it. If the file cannot be used, a warning says so, and
    vectors are computed anew.

    Args:
        identity: Hash of all that the vectors depend on; ``None`` keeps nothing.
    """

    def __init__(self, identity: str | None) -> None:
        self.file = None if identity is None else cache_folder() / "vectors" / f"{identity}.sqlite"
        self._open: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        """Opens the file."""
        if self.file is not None:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._open = sqlite3.connect(self.file, timeout=TIMEOUT)
                self._open.execute(
                    "CREATE TABLE IF NOT EXISTS checked (key BLOB PRIMARY KEY, value BLOB)"
                )
            except (OSError, sqlite3.Error) as error:
                self._give_up(error)
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes the file."""
        if self._open is not None:
            self._open.close()

    def read(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        """Returns the vectors that are kept, by their key; damaged ones are left out."""
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), READ_AT_ONCE):
            if self._open is None:
                break
            part = keys[start : start + READ_AT_ONCE]
            marks = ", ".join("?" * len(part))
            query = f"SELECT key, value FROM checked WHERE key IN ({marks})"
            try:
                with closing(self._open.execute(query, part)) as rows:
                    whole = [(key, _unsealed(key, value)) for key, value in rows]
                found |= {key: np.frombuffer(value, np.float32) for key, value in whole if value}
            except (sqlite3.Error, ValueError) as error:
                self._give_up(error)
        return found

    def write(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Adds vectors."""
        if self._open is None:
            return
        rows = [(key, _seal(key, vector.tobytes())) for key, vector in vectors.items()]
        try:
            with self._open:
                self._open.executemany("INSERT OR REPLACE INTO checked VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        warnings.warn(f"vectors are not kept, {self.file} cannot be used: {error}", stacklevel=4)
        if self._open is not None:
            self._open.close()
        self._open = None


def _seal(key: bytes, value: bytes) -> bytes:
    """Returns a value behind the checksum of itself and its key."""
    return hashlib.sha256(key + value).digest() + value


def _unsealed(key: Any, sealed: Any) -> bytes:
    """Returns the value; nothing if it is damaged, even in its type."""
    if not isinstance(key, bytes) or not isinstance(sealed, bytes):
        return b""
    value = sealed[SEAL_SIZE:]
    return value if sealed == _seal(key, value) else b""
