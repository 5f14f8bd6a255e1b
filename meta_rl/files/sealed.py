"""The files of agents and of few-shot learners, which run nothing and show every damage.

A file is a zip archive without compression. Its member ``data`` is JSON (see
:mod:`meta_rl.files.plain_data`), and ``tensors.safetensors`` holds the tensors. The archive's
comment, the last bytes of the file, is the SHA-256 of all bytes before it.

Files of the former format are read if they are trusted, and never written. Agents were saved as
Stable-Baselines3 saves, with pickled objects, which can run code. Few-shot learners were saved by
``torch.save``, without checksums.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import safetensors.torch
import torch
from stable_baselines3.common.save_util import load_from_zip_file
from torch import Tensor

from meta_rl.files import whole_file
from meta_rl.files.plain_data import decode, encode

FORMAT = 2
DATA, TENSORS = "data", "tensors.safetensors"
SEAL = b"sha256:%064x"
SEAL_SIZE = len(SEAL % 0)
BLOCK = 1 << 20

LEARNER = "a few-shot learner"
"""Owner of a learner's file, which tells the class only when it is read."""

WRONG_CONTENT = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError),
)
"""Errors, beside ``ValueError``, of agents and learners that are made of wrong content."""


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        owner: Name of the class of the agent or learner.
        content: Its state, as a dictionary.
    """

    owner: str
    content: dict[str, Any]


def with_suffix(path: str | Path) -> Path:
    """Returns the path of a file, whose suffix ``.zip`` may be left out."""
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")


def write_file(path: str | Path | io.BufferedIOBase, saved: Saved) -> None:
    """Writes a file atomically: it is complete, or the former one is left.

    Args:
        path: Path of the file, or a file that is open for writing.
        saved: Owner and content to write.

    Raises:
        UnsavableError: A part of the content cannot be saved; the error names it.
    """
    tensors: dict[str, Tensor] = {}
    content = {name: encode(part, "", tensors) for name, part in saved.content.items()}
    about = {"format": FORMAT, "owner": saved.owner, "content": content}
    members = {DATA: json.dumps(about).encode(), TENSORS: _tensor_bytes(tensors)}
    if isinstance(path, io.BufferedIOBase):
        buffer = io.BytesIO()
        _write_archive(buffer, members)
        path.write(buffer.getbuffer())
        return
    with whole_file(with_suffix(path)) as file:
        _write_archive(file, members)


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Returns tensors as bytes; those that share their memory are written separately."""
    places: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in places:
            tensors[name] = tensor.clone()
        places.add(place)
    return safetensors.torch.save(tensors)


def _write_archive(file: BinaryIO, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)
        archive.comment = SEAL % 0
    file.flush()
    seal = _seal(file)
    file.seek(-SEAL_SIZE, os.SEEK_END)
    file.write(seal)


def _seal(file: BinaryIO) -> bytes:
    """Returns the checksum of all bytes of a file but those of the seal."""
    left = file.seek(0, os.SEEK_END) - SEAL_SIZE
    digest = hashlib.sha256()
    file.seek(0)
    while left > 0:
        block = file.read(min(BLOCK, left))
        digest.update(block)
        left -= len(block)
    return SEAL % int(digest.hexdigest(), 16)


def read_file(
    path: str | Path | io.BufferedIOBase,
    owner: str | None = None,
    *,
    device: torch.device | str = "cpu",
    trust_pickle: bool = False,
) -> Saved:
    """Reads a file. Nothing in the file is run, unless ``trust_pickle`` allows it.

    Args:
        path: Path of the file, or a file that is open for reading.
        owner: Name of the class that the file has to be of (default: any).
        device: Device of the tensors.
        trust_pickle: Whether a file of the former format is read, which may run code.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is of another class, or has the former format without
            ``trust_pickle``.
    """
    if isinstance(path, io.BufferedIOBase):
        return _read(io.BytesIO(path.read()), str(path), owner, device, trust_pickle)
    path = Path(path) if Path(path).is_file() else with_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    with path.open("rb") as file:
        return _read(file, str(path), owner, device, trust_pickle)


def _read(
    file: BinaryIO, name: str, owner: str | None, device: torch.device | str, trust_pickle: bool
) -> Saved:
    damage = _damage(file)
    try:
        about = {"owner": former_owner(file)} if damage else _about(file)
        if about["owner"] is None:
            raise ValueError(damage)
        _check_owner(name, about["owner"], owner)
        if damage and not trust_pickle:
            raise _OtherFileError(
                f"{name} has the former format, in which a file can run code. If you trust the "
                "file, rewrite it by `meta-rl convert OLD NEW`, or load it with trust_pickle=True"
            )
        if not damage:
            return Saved(about["owner"], _content(file, about, device))
        saved = Saved(*read_former(file, device))
        _check_owner(name, saved.owner, owner)
        return saved
    except _OtherFileError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # files that were made up raise all kinds
        raise ValueError(f"{name} is a corrupt checkpoint: {error}") from error


class _OtherFileError(Exception):
    """A whole file that is not the wanted one."""


def _check_owner(name: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found not in (wanted, LEARNER):
        raise _OtherFileError(f"{name} is a checkpoint of {found}, not of {wanted}")


def _damage(file: BinaryIO) -> str | None:
    """Returns what is wrong with a file's checksum; ``None`` if nothing is."""
    size = file.seek(0, os.SEEK_END)
    if size <= SEAL_SIZE:
        return f"it has only {size} bytes"
    seal = _seal(file)
    file.seek(-SEAL_SIZE, os.SEEK_END)
    found = file.read()
    return None if found == seal else "its checksum is missing or differs"


def _about(file: BinaryIO) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if names != [DATA, TENSORS]:
            raise ValueError(f"expected the members {DATA} and {TENSORS}, got {names}")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("expected members without compression")
        about = json.loads(archive.read(DATA))
    if about["format"] != FORMAT:
        raise ValueError(f"it has format {about['format']}, and this version reads {FORMAT}")
    return about


def _content(file: BinaryIO, about: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        tensors = safetensors.torch.load(archive.read(TENSORS))
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    return decode(about["content"], moved)


def former_owner(file: BinaryIO) -> str | None:
    """Returns whose file of the former format this is, without running anything in it.

    Args:
        file: File that is open for reading.

    Returns:
        Name of the agent's class, ``"another library"``, or :data:`LEARNER`; ``None`` for a file
        that does not have the former format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if any(name.endswith("/data.pkl") for name in names):
                return LEARNER
            if "_stable_baselines3_version" not in names:
                return None
            if archive.getinfo("data").compress_type != zipfile.ZIP_STORED:
                return None
            return str(json.loads(archive.read("data")).get("algorithm", "another library"))
    except Exception:  # damaged files raise all kinds
        return None


def read_former(file: BinaryIO, device: torch.device | str) -> tuple[str, dict[str, Any]]:
    """Reads a file of the former format; an agent's file may run code.

    Args:
        file: File that is open for reading.
        device: Device of the tensors.

    Returns:
        The name of the class, and the content in today's layout. The policy of an agent is a class
        in place of a name.
    """
    file.seek(0)
    if former_owner(file) == LEARNER:
        file.seek(0)
        content = torch.load(file, map_location=device, weights_only=True)
        del content["format"]
        return content.pop("learner"), content
    attributes, parameters, _ = load_from_zip_file(cast(io.BufferedIOBase, file), device=device)
    if attributes is None:
        raise ValueError("it describes no agent")
    if "entropy_schedule" in attributes:
        attributes["entropy_coefficient"] = attributes.pop("entropy_schedule")
    attributes.pop("lr_schedule", None)
    owner = attributes.pop("algorithm")
    return owner, {"attributes": attributes, "parameters": parameters, "left_out": []}
