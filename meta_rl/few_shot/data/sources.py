"""Files of data sets: they are found on disk, or downloaded and checked."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

TIMEOUT = 30.0
"""Time without an answer after which a download stops, in seconds."""


@dataclass(frozen=True)
class Source:
    """A file of a data set.

    Attributes:
        path: Path below the root folder, such as ``omniglot/all_runs.zip``.
        url: Address of the download.
        digest: Hash of the download, ``sha256:...`` or ``md5:...``.
    """

    path: str
    url: str
    digest: str


def cache_folder() -> Path:
    """Returns the folder of decoded data sets: ``META_RL_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("META_RL_CACHE") or pooch.os_cache("meta_rl"))


def data_roots(root: str | Path | None) -> list[Path]:
    """Returns the folders in which data sets are searched; downloads go to the first one.

    They are ``root``, the environment variable ``META_RL_DATA``, and ``data`` in the cache folder.
    """
    named = [root, os.environ.get("META_RL_DATA")]
    return [*(Path(place) for place in named if place), cache_folder() / "data"]


def obtain(source: Source, root: str | Path | None = None, download: bool = True) -> Path:
    """Returns the path of a file, and downloads the file if it is missing.

    Args:
        source: Source of the file.
        root: Folder of data sets; see :func:`data_roots`.
        download: Whether a missing file is downloaded.

    Raises:
        FileNotFoundError: The file is missing and was not downloaded; the message says where it was
            searched and how to get it.
        ValueError: The download has another hash.
    """
    places = [place / source.path for place in data_roots(root)]
    for place in places:
        if place.is_file():
            return place
    why = "it was not downloaded (download=False)"
    if download:
        try:
            path, name = places[0].parent, places[0].name
            downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
            pooch.retrieve(source.url, source.digest, name, path, downloader=downloader)
            return places[0]
        except OSError as error:
            why = f"it could not be downloaded: {error}"
    raise FileNotFoundError(
        f"no {source.path}: looked for {', '.join(map(str, places))}, and {why}. Download "
        f"{source.url} to one of these, or set META_RL_DATA to the folder that holds {source.path}"
    )


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip file.

    Raises:
        ValueError: The file is broken.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is no readable zip file: {error}; delete it to get it anew"
        ) from (error)


def contents_digest(archive: zipfile.ZipFile, names: Sequence[str]) -> str:
    """Returns the SHA-256 of names and checksums in a zip file; packing does not change it."""
    lines = [f"{name} {archive.getinfo(name).CRC:08x}\n" for name in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
