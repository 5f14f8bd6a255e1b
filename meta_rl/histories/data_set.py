"""Data sets of histories on disk: arrays by memory map, and a JSON file that describes them.

A folder holds ``histories.json`` and one ``NAME.npy`` for each array, ``[histories, T, ...]``:
``observations``, ``actions``, ``rewards``, ``dones``, ``labels`` where an expert was asked, and
``tasks`` ``[histories, ...]``. Parts of a ``Dict`` space are files of their own, such as
``tasks.key.npy``. Nothing in a folder is run when it is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from gymnasium import spaces

from meta_rl.arguments import check_count
from meta_rl.files.checksums import checked_json, read_json
from meta_rl.histories.encoding import History
from meta_rl.provenance import write_atomically

FORMAT = 1
ABOUT = "histories.json"
BLOCK = 1 << 20


class Histories:
    """A data set of histories, read by memory map.

    Args:
        folder: Folder of the data set.
        verify: Whether the checksums are compared, and all numbers have to be finite, which reads
            all of it (default: True).

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
        _check_parts(self.folder / ABOUT, self._arrays, wanted, self.num_steps)
        if verify:
            for name, expected in self.about["sha256"].items():
                if checksum(self.folder / name) != expected:
                    raise ValueError(f"{self.folder / name} is damaged: its checksum differs")
            for name, array in self._arrays.items():
                check_finite_histories(self.folder / f"{name}.npy", array)

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

    def check_fits(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Refuses a data set of other spaces.

        Args:
            observation_space: Space of a single observation.
            action_space: Space of a single action.

        Raises:
            ValueError: An observation, an action or a label is in another space.
        """
        owners = {"observations": observation_space, "actions": action_space}
        if self.has_labels:
            owners["labels"] = action_space
        for what, owner in owners.items():
            arrays = {k: v for k, v in self._arrays.items() if k.partition(".")[0] == what}
            leaves = _leaves(what, owner)
            fits = arrays.keys() == leaves.keys()
            if not fits or not all(_all_in(leaves[name], v) for name, v in arrays.items()):
                first = next(iter(arrays.values()))[0, 0]
                raise ValueError(f"{self.folder}: its {what} are not in {owner}, such as {first}")

    @property
    def has_labels(self) -> bool:
        """Whether an expert labelled the steps."""
        return any(name.partition(".")[0] == "labels" for name in self._arrays)

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
        about, damage = read_json(path)
        if about["format"] != FORMAT:
            raise _OtherFormatError(
                f"{path} has format {about['format']}, and this version reads {FORMAT}"
            )
        check_count("done", about["done"], least=0)
        for name in ("num_histories", "num_steps"):
            check_count(name, about[name])
        names = [*about["arrays"], *about["sha256"]]
        if any(Path(name).name != name or "\\" in name for name in names):
            raise ValueError(f"a name leads out of the folder: {names}")
        if not all(len(kind_and_shape) == 2 for kind_and_shape in about["arrays"].values()):
            raise ValueError("an array has no type and shape")
    except _OtherFormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if damage:
        raise ValueError(damage)
    return about


class _OtherFormatError(ValueError):
    """The file has another format."""


def _check_parts(path: Path, arrays: dict[str, np.ndarray], num: int, steps: int) -> None:
    """Refuses a data set that lacks an array, has an unknown one, or has one of another length."""
    names = {name.partition(".")[0] for name in arrays}
    wanted = {name for name in History._fields if name != "labels"}
    if names - {"labels"} != wanted:
        raise ValueError(f"{path} has the arrays {sorted(names)}, not {sorted(wanted)}")
    for name, array in arrays.items():
        lengths = (num,) if name.startswith("tasks") else (num, steps)
        if array.shape[: len(lengths)] != lengths:
            raise ValueError(f"{path}: {name} has shape {array.shape}, not {lengths} and more")


def check_finite_histories(path: Path, array: np.ndarray, first: int = 0) -> None:
    """Refuses NaN and infinity.

    Args:
        path: File, for the error.
        array: Values, ``[histories, ...]``.
        first: Number of the first of these histories, for the error.

    Raises:
        ValueError: The message names the history.
    """
    if array.dtype.kind not in "fc":
        return
    rows = max(1, BLOCK // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        fine = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not fine.all():
            number = first + start + int(np.argmin(fine))
            raise ValueError(f"{path}: history {number} holds NaN or infinity")


def _leaves(name: str, space: spaces.Space) -> dict[str, spaces.Space]:
    """Returns the spaces in a ``Dict`` by dotted name, or a space that is none."""
    if not isinstance(space, spaces.Dict):
        return {name: space}
    parts = [_leaves(f"{name}.{key}", part) for key, part in space.spaces.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def _all_in(space: Any, array: np.ndarray) -> bool:
    """Tells whether values are in a space; numbers of a ``Box`` may be outside its bounds."""
    if array.shape[2:] != space.shape:
        return False
    if not isinstance(space, spaces.Discrete):
        return array.dtype.kind in "biuf"
    low, high = int(array.min()), int(array.max())
    return array.dtype.kind in "iu" and low >= space.start and high < space.start + space.n


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
        except Exception as error:  # damaged files raise all kinds
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
        _make_room(folder / f"{name}.npy", array.dtype, shape)
        about["arrays"][name] = [array.dtype.str, list(shape)]
    write_about(folder, about)


def _make_room(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Makes an array's file with its room on the disk, so that a full disk is an error now.

    Writing by memory map to a file with holes ends the process where the disk is full.
    """
    try:
        np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes from writing a data set to it.

    Raises:
        ValueError: Another process writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "histories.lock"
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process collects histories in {folder}") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while no other process can hold it
        lock.release()


def write_batch(arrays: dict[str, Any], first: int, history: History) -> None:
    """Writes a batch of histories from number ``first`` on, and waits for the disk."""
    for name, part in _flat(history._asdict()).items():
        rows = part if name.startswith("tasks") else part.swapaxes(0, 1)
        check_finite_histories(Path(f"{name}.npy"), rows, first)
        arrays[name][first : first + len(rows)] = rows
        arrays[name].flush()


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Writes ``histories.json`` atomically."""
    write_atomically(folder / ABOUT, checked_json(about, indent=1))


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
