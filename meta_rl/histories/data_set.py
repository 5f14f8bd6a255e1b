"""Data sets of histories on disk: arrays by memory map, and a JSON file that describes them.

A folder holds ``histories.json`` and one ``NAME.npy`` for each array, ``[histories, T, ...]``:
``observations``, ``actions``, ``rewards``, ``dones``, ``labels`` where an expert was asked, and
``tasks`` ``[histories, ...]``. Parts of a ``Dict`` space are files of their own, such as
``tasks.key.npy``. Nothing in a folder is run when it is read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from meta_rl.arguments import check_count
from meta_rl.histories.encoding import History
from meta_rl.provenance import write_atomically

FORMAT = 1
ABOUT = "histories.json"
BLOCK = 1 << 20


class Histories:
    """A data set of histories, read by memory map.

    Args:
        folder: Folder of the data set.
        verify: Whether the checksums are compared, which reads all of it (default: True).

    Attributes:
        about: Content of ``histories.json``: the environment, the learner, the seed, the numbers.

    Raises:
        FileNotFoundError: There is no such data set.
        ValueError: The data set is damaged or not complete.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        done, wanted = self.about["done"], self.about["num_histories"]
        if done < wanted:
            raise ValueError(
                f"{self.folder} is not complete: {done} of {wanted} histories. Call "
                "collect_histories again with the same arguments, and it goes on"
            )
        self._arrays = open_arrays(self.folder, self.about)
        if verify:
            for name, expected in self.about["sha256"].items():
                if checksum(self.folder / name) != expected:
                    raise ValueError(f"{self.folder / name} is damaged: its checksum differs")

    def __len__(self) -> int:
        return int(self.about["num_histories"])

    @property
    def num_steps(self) -> int:
        """The number of steps of a history, T."""
        return int(self.about["num_steps"])

    def batch(self, index: Any) -> History:
        """Reads histories into memory, time-major.

        Args:
            index: Numbers of the histories, ``[N]``.
        """
        places = np.asarray(index)
        taken = {name: np.asarray(array[places]) for name, array in self._arrays.items()}
        parts = _nested(
            {k: v if k.startswith("tasks") else v.swapaxes(0, 1) for k, v in taken.items()}
        )
        return History(**parts)

    def draw(self, num: int, rng: np.random.Generator) -> History:
        """Draws histories with replacement.

        Args:
            num: Number of histories, N.
            rng: Generator of the draws.
        """
        return self.batch(rng.integers(len(self), size=check_count("num", num)))


def read_about(folder: Path) -> dict[str, Any]:
    """Reads and checks ``histories.json``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or of another format.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f"no data set of histories in {folder}: it has no {ABOUT}")
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = about["format"]
        for name in ("arrays", "done", "num_histories", "num_steps", "sha256"):
            about[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if found != FORMAT:
        raise ValueError(f"{path} has format {found}, and this version reads {FORMAT}")
    return about


def open_arrays(folder: Path, about: dict[str, Any], mode: Any = "r") -> dict[str, np.ndarray]:
    """Opens all arrays by memory map, by name.

    Raises:
        ValueError: A file is missing, damaged, or has another shape than ``histories.json`` says.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, (kind, shape) in about["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode=mode)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is missing or damaged: {error}") from error
        if array.dtype.str != kind or list(array.shape) != shape:
            raise ValueError(
                f"{path}: expected {kind} of shape {shape}, got {array.dtype.str} of shape "
                f"{list(array.shape)}"
            )
        arrays[name] = array
    return arrays


def create(folder: Path, about: dict[str, Any], first: History) -> None:
    """Makes the files of a data set, with room for all histories, and ``histories.json`` last.

    Args:
        folder: Folder; made where it is missing.
        about: Content of ``histories.json``, without the arrays.
        first: A batch of histories, which tells types and shapes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num, steps = about["num_histories"], about["num_steps"]
    about["arrays"] = {}
    for name, array in _flat(first._asdict()).items():
        shape = (
            (num, *array.shape[1:]) if name.startswith("tasks") else (num, steps, *array.shape[2:])
        )
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", array.dtype, shape).flush()
        about["arrays"][name] = [array.dtype.str, list(shape)]
    write_about(folder, about)


def write_batch(arrays: dict[str, Any], first: int, history: History) -> None:
    """Writes a batch of histories from number ``first`` on, and waits for the disk."""
    for name, part in _flat(history._asdict()).items():
        rows = part if name.startswith("tasks") else part.swapaxes(0, 1)
        arrays[name][first : first + len(rows)] = rows
        arrays[name].flush()


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Writes ``histories.json`` atomically."""
    write_atomically(folder / ABOUT, json.dumps(about, indent=1) + "\n")


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _flat(parts: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns arrays by dotted name; parts that are ``None`` are left out."""
    found: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        if isinstance(part, dict):
            found |= _flat(part, f"{prefix}{name}.")
        elif part is not None:
            found[prefix + name] = np.asarray(part)
    return found


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns parts by name, from arrays by dotted name."""
    parts: dict[str, Any] = {}
    for name, array in arrays.items():
        *owners, last = name.split(".")
        place = parts
        for owner in owners:
            place = place.setdefault(owner, {})
        place[last] = array
    return parts
