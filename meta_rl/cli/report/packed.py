"""Results of cells in few bytes: the arrays of their evaluations as compressed text.

Nothing is lost: :func:`unpacked` gives what :func:`packed` was given.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

ARRAYS = {
    **dict.fromkeys(("values", "success"), np.float64),
    **dict.fromkeys(("trainings", "tasks", "task_seeds"), np.int64),
}
"""Arrays of an evaluation, and their types."""
SMALLER = ("int8", "int16", "int32", "float32", "float64", "int64")
"""Types, of which the first that holds all numbers exactly is used."""


def packed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a result's file with packed arrays."""
    return _with_evaluations(content, _packed_array)


def unpacked(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a result's file with lists; what is not packed stays.

    Raises:
        ValueError: A packed array is damaged.
    """
    return _with_evaluations(content, _unpacked_array)


def _with_evaluations(content: dict[str, Any], change: Any) -> dict[str, Any]:
    """Returns the content, a cell's or a reference's, with changed arrays in its evaluations."""
    found = {}
    for name, part in content.items():
        if name == "evaluations":
            found[name] = {
                split: _changed(evaluation, change) for split, evaluation in part.items()
            }
        elif name in ("random", "best") and isinstance(part, dict):
            found[name] = _changed(part, change)
    return {**content, **found}


def _changed(evaluation: dict[str, Any], change: Any) -> dict[str, Any]:
    there = {name: kind for name, kind in ARRAYS.items() if evaluation.get(name) is not None}
    return {**evaluation, **{name: change(evaluation[name], kind) for name, kind in there.items()}}


def _packed_array(values: Any, kind: Any) -> dict[str, Any]:
    array = np.asarray(values, dtype=kind)
    with np.errstate(all="ignore"):  # numbers that do not fit
        dtype = next(d for d in SMALLER if _holds(d, array))
    stored = np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<"))
    text = base64.b64encode(zlib.compress(stored.tobytes(), level=9)).decode()
    return {"shape": list(array.shape), "type": dtype, "zlib_base64": text}


def _holds(dtype: str, array: np.ndarray) -> bool:
    """Whether the numbers come back from a type with the same bits, the sign of zero included."""
    return bool(array.astype(dtype).astype(array.dtype).tobytes() == array.tobytes())


def _unpacked_array(stored: Any, kind: Any) -> Any:
    if not isinstance(stored, dict):
        return stored
    try:
        content = zlib.decompress(base64.b64decode(stored["zlib_base64"], validate=True))
        flat = np.frombuffer(content, dtype=np.dtype(stored["type"]).newbyteorder("<"))
        return flat.reshape(stored["shape"]).astype(kind).tolist()
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise ValueError(f"an array is damaged: {error!r}") from error
