"""Settings from the command line: read, and checked against what takes them."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import torch

NO_SETTINGS = (
    *("env", "env_kwargs", "policy_kwargs", "seed", "device", "_init_setup_model"),
    *("observation_space", "action_space", "generator", "network"),
)
"""Arguments of algorithms and networks that are given otherwise."""

KINDS: dict[str, Any] = {
    "int": Real,
    "float": Real,
    "bool": bool,
    "str": str,
    "None": type(None),
    "Schedule": (list, tuple),
    "Rate": (Real, list, tuple),
}
"""What a setting may be on the command line, by the parts of its annotation."""


def find_class(homes: Mapping[str, str], name: str) -> Any:
    """The class of an algorithm, by its name on the command line.

    Args:
        homes: ``module:class`` by name.
        name: Of the algorithm.

    Raises:
        ValueError: Unknown; lists the near matches.
    """
    if name not in homes:
        near = difflib.get_close_matches(name.lower(), homes, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"{', '.join(homes)} exist"
        raise ValueError(f"unknown algorithm {name!r}: {hint}")
    module, _, attribute = homes[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def apply_params(params: Iterable[Iterable[str]], parts: dict[str, dict[str, Any]]) -> None:
    """Write the settings of ``--param`` into the parts that they name.

    Args:
        params: Texts ``k=v``, ``env.k=v`` or ``policy.k=v``.
        parts: Settings by the name before the dot, ``""`` for none.

    Raises:
        ValueError: Another form, or another part.
    """
    for text in itertools.chain.from_iterable(params):
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--param takes k=v, got {text!r}")
        part, _, key = name.rpartition(".")
        if part not in parts:
            raise ValueError(f"--param {name}: settings are k, env.k or policy.k")
        parts[part][key] = parsed(value)


def check_flags(command: Any) -> None:
    """Refuse negative numbers, unknown devices, and flags that exclude each other.

    Raises:
        ValueError: Names the flag.
    """
    for flag in ("total_timesteps", "eval_tasks", "checkpoint_interval", "seed"):
        value = getattr(command, flag)
        if value is not None and value < 0:
            raise ValueError(f"--{flag.replace('_', '-')} must not be negative, got {value}")
    if command.cuda_graph and command.compile:
        raise ValueError("--cuda-graph and --compile exclude each other")
    check_device(command.device)


def check_device(device: str) -> None:
    """Refuse a device that there is not.

    Raises:
        ValueError: Names the device.
    """
    try:
        if device != "auto":
            torch.Generator(device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).partition("\n")[0]
        raise ValueError(f"--device {device}: auto, cpu or cuda; {message}") from error


def check_threads(command: Any) -> int | None:
    """The threads of a command; ``None`` where it has none, or leaves them to PyTorch.

    Raises:
        ValueError: Less than one.
    """
    threads: int | None = getattr(command, "threads", None)
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    return threads


def check_settings(owner: Callable[..., Any] | None, prefix: str, given: dict[str, Any]) -> None:
    """Refuse names and kinds of values that ``owner`` does not take, as far as it tells.

    Raises:
        ValueError: Names the setting, and those near it.
    """
    parameters = inspect.signature(owner).parameters if owner is not None else {}
    if owner is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if prefix == "env." or name not in NO_SETTINGS]
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = (
                f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(known))}"
            )
            raise ValueError(f"{owner.__name__} has no setting {prefix + name!r}: {hint}")
        kinds = str(parameters[name].annotation).split(" | ")
        if set(kinds) <= set(KINDS) and not isinstance(value, tuple(KINDS[k] for k in kinds)):
            allowed = " or ".join(kinds).replace("Schedule", "[first, last]")
            allowed = allowed.replace("Rate", "a number or [first, last]")
            raise ValueError(f"{prefix}{name} takes {allowed}, got {value!r}")


def parsed(text: str) -> Any:
    """A number, list, True, None, ...; a word where it is none of these.

    ``true`` and ``false`` are as in the files of settings.
    """
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value  # as the run folder has it
