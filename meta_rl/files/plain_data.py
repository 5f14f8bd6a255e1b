"""Values as JSON and tensors, which can be read back without running code from a file.

Supported values are numbers, texts, lists, tuples, dictionaries, paths, NumPy's arrays, numbers and
generators, PyTorch's tensors, Gymnasium's spaces, and the schedules of Stable-Baselines3. Each
comes back with its own type. No value names a class or a function: a tag chooses one of
:data:`KINDS`.
"""

from __future__ import annotations

import base64
import io
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import Tensor

from meta_rl.arguments import kind_in_words

TAG = "!"
"""Key of the JSON objects that stand for something else than a dictionary."""
ITSELF = (type(None), bool, int, float, str)
"""Types that JSON has; Python's JSON writes every finite float exactly."""


class Kind(NamedTuple):
    """A type of values.

    Attributes:
        owner: Class of the values; subclasses are excluded, as they may hold more.
        parts: Function that takes a value apart into supported values.
        make: Function that makes a value of its parts.
    """

    owner: type
    parts: Callable[[Any], Any]
    make: Callable[[Any], Any]


class UnsavableError(ValueError):
    """An error for a value that no file can hold.

    Args:
        name: Name of the argument or attribute that holds the value.
        why: Reason, for the message.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} cannot be saved: {why}")
        self.name = name


def _array_bytes(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)  # refuses arrays of Python objects
    return base64.b64encode(file.getvalue()).decode()


def _array(text: str) -> np.ndarray:
    content = base64.b64decode(text, validate=True)
    return np.load(io.BytesIO(content), allow_pickle=False)


def _generator(state: dict[str, Any]) -> np.random.Generator:
    kinds = {one.__name__: one for one in BIT_GENERATORS}
    bits = kinds[state["bit_generator"]](0)
    bits.state = state
    return np.random.Generator(bits)


BIT_GENERATORS: tuple[Any, ...] = (
    *(np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937),
    *(np.random.Philox, np.random.SFC64),
)

KINDS: dict[str, Kind] = {
    "tuple": Kind(tuple, list, tuple),
    "deque": Kind(deque, lambda d: [list(d), d.maxlen], lambda p: deque(p[0], p[1])),
    "array": Kind(np.ndarray, _array_bytes, _array),
    "generator": Kind(np.random.Generator, lambda g: g.bit_generator.state, _generator),
    "path": Kind(type(Path()), str, Path),
    "Box": Kind(
        spaces.Box,
        lambda s: [s.low, s.high, s.dtype.str],
        lambda p: spaces.Box(p[0], p[1], dtype=np.dtype(p[2])),
    ),
    "Discrete": Kind(
        spaces.Discrete,
        lambda s: [int(s.n), int(s.start), s.dtype.str],
        lambda p: spaces.Discrete(p[0], start=p[1], dtype=np.dtype(p[2])),
    ),
    "MultiDiscrete": Kind(
        spaces.MultiDiscrete,
        lambda s: [s.nvec, s.start, s.dtype.str],
        lambda p: spaces.MultiDiscrete(p[0], start=p[1], dtype=np.dtype(p[2])),
    ),
    "MultiBinary": Kind(spaces.MultiBinary, lambda s: s.n, spaces.MultiBinary),
    "Dict": Kind(spaces.Dict, lambda s: [[*pair] for pair in s.spaces.items()], spaces.Dict),
    "Tuple": Kind(spaces.Tuple, lambda s: list(s.spaces), spaces.Tuple),
    "ConstantSchedule": Kind(ConstantSchedule, lambda s: s.val, ConstantSchedule),
    "FloatSchedule": Kind(FloatSchedule, lambda s: s.value_schedule, FloatSchedule),
    "LinearSchedule": Kind(
        LinearSchedule,
        lambda s: [s.start, s.end, s.end_fraction],
        lambda p: LinearSchedule(*p),
    ),
}
"""The supported types that JSON does not have, by tag."""

TAGS = {kind.owner: tag for tag, kind in KINDS.items()}


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Returns what JSON can hold of a value.

    Args:
        value: The value.
        name: Name of the value, for the error.
        tensors: Dictionary to which the tensors in the value are added.

    Raises:
        UnsavableError: Something in the value is of another type; the error names it.
    """
    if type(value) in ITSELF:
        return value
    if type(value) is list:
        return [encode(entry, f"{name}[{i}]", tensors) for i, entry in enumerate(value)]
    if isinstance(value, dict):
        return _encode_dict(value, name, tensors)
    if isinstance(value, Tensor) and _is_plain_tensor(value):
        key = f"{len(tensors)} {name}"
        tensors[key] = value.detach().cpu().contiguous()
        return {TAG: "tensor", "value": key}
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return {TAG: "number", "value": _array_bytes(np.asarray(value))}
    tag = TAGS.get(type(value))
    if tag is None or (tag == "array" and value.dtype.hasobject):
        raise UnsavableError(
            name,
            f"files hold no {kind_in_words(value)}, but numbers, texts, lists, dictionaries, "
            "arrays, tensors, spaces and the schedules of stable_baselines3.common.utils",
        )
    return {TAG: tag, "value": encode(KINDS[tag].parts(value), name, tensors)}


def _is_plain_tensor(value: Tensor) -> bool:
    """Tells whether safetensors can hold a tensor."""
    too_wide = value.dtype in (torch.complex128, torch.complex32)
    return value.layout is torch.strided and not value.is_quantized and not too_wide


def _encode_dict(value: dict[Any, Any], name: str, tensors: dict[str, Tensor]) -> Any:
    if all(type(key) is str and key != TAG for key in value):
        inner = f"{name}[{{!r}}]" if name else "{}"
        return {key: encode(entry, inner.format(key), tensors) for key, entry in value.items()}
    pairs = [[key, entry] for key, entry in value.items()]
    return {TAG: "dict", "value": encode(pairs, name, tensors)}


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns the value of which :func:`encode` made JSON.

    Args:
        value: The JSON.
        tensors: The tensors that :func:`encode` added.

    Raises:
        Exception: :func:`encode` has not made this; which error it is depends on the damage.
    """
    if isinstance(value, list):
        return [decode(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: decode(entry, tensors) for key, entry in value.items()}
    tag, parts = value[TAG], decode(value["value"], tensors)
    if tag == "tensor":
        return tensors[parts]
    if tag == "number":
        return _array(parts)[()]
    return dict(parts) if tag == "dict" else KINDS[tag].make(parts)
