"""What an agent's file says about itself."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any


def read_description(path: str | Path | io.BufferedIOBase) -> dict[str, Any]:
    """What a checkpoint says about itself, without running anything in it.

    Args:
        path: Path of the file; ``.zip`` may be left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A corrupt checkpoint.
    """
    if not isinstance(path, io.BufferedIOBase):
        path = Path(path)
        path = path if path.exists() or path.suffix else path.with_suffix(".zip")
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"{broken!r} in it is damaged")
            about: dict[str, Any] = json.loads(archive.read("data"))
            if not isinstance(about, dict):
                raise ValueError("'data' in it describes nothing")
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        KeyError,
        ValueError,
        EOFError,
        OSError,
    ) as error:
        raise ValueError(f"{path} is a corrupt checkpoint: {error}") from error
    if not isinstance(path, Path):
        path.seek(0)
    return about
