"""Where data sets lie on disk, and how they get there: found, or downloaded whole and checked."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True)
class Source:
    """A file of a data set.

    Attributes:
        path: Under the root folder, such as ``omniglot/all_runs.zip``.
        url: To download it from.
        digest: Of the download, ``sha256:...`` or ``md5:...``.
    """

    path: str
    url: str
    digest: str


def cache_folder() -> Path:
    """Where decoded data sets are kept: ``META_RL_CACHE``, or the user's cache folder."""
    if os.environ.get("META_RL_CACHE"):
        return Path(os.environ["META_RL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meta_rl"


def data_roots(root: str | Path | None) -> list[Path]:
    """Folders in which data sets are looked for, first the one that downloads go to.

    These are ``root``, then the environment variable ``META_RL_DATA``, then ``data`` in the cache.
    """
    named = [root, os.environ.get("META_RL_DATA")]
    return [*(Path(place) for place in named if place), cache_folder() / "data"]


def obtain(source: Source, root: str | Path | None = None, download: bool = True) -> Path:
    """The path of a file: where it lies already, or where it was downloaded to.

    Args:
        source: Of the file.
        root: Folder of data sets; see :func:`data_roots`.
        download: Fetch it where it is missing.

    Raises:
        FileNotFoundError: Missing, and not to be downloaded; says where it was looked for and how
            to get it.
        ValueError: What was downloaded has another hash.
    """
    places = [place / source.path for place in data_roots(root)]
    for place in places:
        if place.is_file():
            return place
    why = "it was not to be downloaded"
    if download:
        try:
            return _download(source, places[0])
        except OSError as error:
            why = f"it could not be downloaded: {error}"
    raise FileNotFoundError(
        f"no {source.path}: looked for {', '.join(map(str, places))}, and {why}. Download "
        f"{source.url} to one of these, or set META_RL_DATA to the folder that holds {source.path}"
    )


def _download(source: Source, place: Path) -> Path:
    """Fetch, check and move into place, so that no half file is ever met under its name."""
    algorithm, _, expected = source.digest.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with (
            urllib.request.urlopen(source.url, timeout=TIMEOUT) as answer,
            unfinished.open("wb") as file,
        ):
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != expected:
            raise ValueError(
                f"{source.url} has changed: {algorithm} {digest.hexdigest()}, expected {expected}"
            )
        unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)
    return place


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip file that can be read.

    Raises:
        ValueError: It is broken.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is no readable zip file: {error}; delete it to get it anew"
        ) from (error)


def contents_digest(archive: zipfile.ZipFile, names: Sequence[str]) -> str:
    """SHA-256 over names and checksums of files in a zip: the same however it was packed."""
    lines = [f"{name} {archive.getinfo(name).CRC:08x}\n" for name in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
