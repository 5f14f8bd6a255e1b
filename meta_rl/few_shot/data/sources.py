"""Files of data sets: they are found on disk, or downloaded and checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch

TIMEOUT = 30.0
"""Time without an answer after which a download stops, in seconds."""


LARGEST = 1 << 30
"""Most bytes of the files in an archive of a data set, unpacked."""


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


def obtain(
    source: Source, root: str | Path | None = None, download: bool = True, compare: bool = False
) -> Path:
    """Returns the path of a file, and downloads the file if it is missing.

    Args:
        source: Source of the file.
        root: Folder of data sets; see :func:`data_roots`.
        download: Whether a missing file is downloaded.
        compare: Whether the hash of a file that was found is compared, as that of a download is.

    Raises:
        FileNotFoundError: The file is missing and was not downloaded; the message says where it was
            searched and how to get it.
        ValueError: The file has another hash.
    """
    places = [place / source.path for place in data_roots(root)]
    for place in places:
        if place.is_file():
            if compare:
                _compare(source, place)
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


def _compare(source: Source, place: Path) -> None:
    algorithm, _, expected = source.digest.partition(":")
    found = pooch.file_hash(str(place), algorithm)
    if found != expected:
        raise ValueError(
            f"{place} is not the file of {source.url}: {algorithm} {found}, expected {expected}; "
            "delete it to get it anew"
        )


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip file.

    Raises:
        ValueError: The file is broken, or :class:`ArchiveCheck` refuses a member.
    """
    check = ArchiveCheck(path)
    try:
        archive = zipfile.ZipFile(path)
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & 1
            check.member(info.filename, info.file_size, plain)
        return archive
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is no readable zip file: {error}; delete it to get it anew"
        ) from (error)


def contents_digest(archive: zipfile.ZipFile, names: Sequence[str]) -> str:
    """Returns the SHA-256 of names and checksums in a zip file; packing does not change it."""
    lines = [f"{name} {archive.getinfo(name).CRC:08x}\n" for name in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class ArchiveCheck:
    """A check of the members of an archive that somebody has put into a folder of data sets.

    Args:
        path: Path of the archive, for errors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total = 0

    def member(self, name: str, size: int, plain: bool) -> None:
        """Refuses a link, a path that leads out of the archive, and too many bytes.

        Args:
            name: Path of the member.
            size: Size of the member, unpacked, in bytes.
            plain: Whether it is a file or a folder that can be read.

        Raises:
            ValueError: The member is refused; the error names it.
        """
        self.total += size
        windows = PureWindowsPath(name)
        if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
            raise ValueError(f"{self.path}: the path of {name!r} leads out of the archive")
        if not plain:
            raise ValueError(f"{self.path}: {name!r} is no plain file but a link or the like")
        if self.total > LARGEST:
            raise ValueError(
                f"{self.path} is too large: its files have more than {LARGEST} bytes by {name!r}"
            )


class _Bounded(gzip.GzipFile):
    """A file that refuses to read too much at once, as headers of a tar file may tell it to."""

    def read(self, size: int | None = -1) -> bytes:
        """Reads some bytes; a negative size is refused too."""
        if size is None or not 0 <= size <= LARGEST:
            raise ValueError(f"{self.name} is too large: {size} bytes at once")
        return super().read(size)


def tar_files(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the names and the contents of some files in a tar.gz file.

    Args:
        path: Path of the archive.
        pattern: Pattern that the names of the wanted files match.

    Raises:
        ValueError: The file is broken, or :class:`ArchiveCheck` refuses a member.
    """
    check = ArchiveCheck(path)
    try:
        with (
            _Bounded(path) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as archive,
        ):
            for member in archive:
                check.member(member.name, member.size, member.isfile() or member.isdir())
                found = pattern.fullmatch(member.name)
                file = archive.extractfile(member) if found else None
                if found and file:
                    yield found, file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is no readable tar.gz file: {error}") from error
