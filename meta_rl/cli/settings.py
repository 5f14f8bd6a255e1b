"""Settings of a training: those that ship with the package, and those of the command line."""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import itertools
import json
import math
import os
import tomllib
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from meta_rl.algorithms import registered_algorithms
from meta_rl.arguments import MOST_RATE, check_number, did_you_mean, near
from meta_rl.make import NAMESPACE, find_env_id

NOT_SETTINGS = (
    *("env", "env_kwargs", "policy_kwargs", "seed", "device", "_init_setup_model"),
    *("observation_space", "action_space", "generator", "network"),
)
"""Arguments of algorithms and networks that are given otherwise."""

MOST_THREADS = 64
"""Largest number of threads that a machine with fewer cores may be asked for."""

# ------------------------------------------------------------------------------- shipped settings


def settings_for(algorithm: str) -> dict[str, dict[str, Any]]:
    """All shipped settings of an algorithm, by the name of their tasks; none where none ship.

    A section with ``like = "another"`` has the other's settings, but for those of its own.

    Args:
        algorithm: Name of the algorithm on the command line.

    Raises:
        FileNotFoundError: The algorithm was registered with a file that does not exist.
        ValueError: The file is no table of settings for each name of tasks.
    """
    known = registered_algorithms().get(algorithm)
    source = algorithm if known is None else known.settings
    shipped = importlib.resources.files("meta_rl") / "settings" / f"{source}.toml"
    own = isinstance(source, Path) or source.endswith(".toml")
    file = Path(source) if own else shipped
    try:
        sections = tomllib.loads(file.read_text(encoding="utf-8")) if own or file.is_file() else {}
        return {tasks: _complete(tasks, sections) for tasks in sections}
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _complete(tasks: str, sections: dict[str, Any], users: tuple[str, ...] = ()) -> dict[str, Any]:
    """A section together with what it takes over from another.

    Args:
        tasks: Name of the section.
        sections: All sections, by name.
        users: Sections that take over this one.

    Raises:
        ValueError: There is no such section, it takes over itself, or something is no table.
    """
    if tasks in users:
        raise ValueError(f"[{tasks}] is like itself: {' -> '.join([*users, tasks])}")
    section = sections.get(tasks)
    if not isinstance(section, dict):
        raise ValueError(
            f"{tasks!r} has to be a section of settings, got {section!r}"
            + (f", in [{users[-1]}]: like" if users else "")
        )
    own = dict(section)
    for table in ("env", "policy"):
        if not isinstance(own.get(table, {}), dict):
            raise ValueError(f"[{tasks}]: {table} has to be a table, got {own[table]!r}")
    if "like" not in own:
        return own
    like = own.pop("like")
    shared = _complete(str(like), sections, (*users, tasks))
    for table in ("env", "policy"):
        if table in own:
            own[table] = shared.get(table, {}) | own[table]
    return shared | own


def find_settings(
    algorithm: str, tasks: str, find: Callable[[str], str] = find_env_id
) -> tuple[str, str, dict[str, Any]]:
    """The settings for tasks: tuned ones where they ship, none (the defaults) elsewhere.

    Args:
        algorithm: Name of the algorithm on the command line.
        tasks: A name in the settings, or any environment id, with or without ``meta_rl/`` and the
            version.
        find: Function that gives the id of the environment (or the data set) of a name, and refuses
            unknown ones.

    Returns:
        The tasks' name, the environment id, and the settings: ``env`` and ``policy`` (arguments of
        the environment and of the networks), the length, and arguments of the algorithm.

    Raises:
        ValueError: Unknown; lists the near matches.
    """
    known = settings_for(algorithm)
    name = tasks.removeprefix(NAMESPACE).removesuffix("-v0")
    if name in known:
        settings = dict(known[name])
        return name, find(settings.pop("env_id", name)), settings
    try:
        return name, find(tasks), {}
    except ValueError as error:
        similar = near(name, known)
        hint = f" (settings of {algorithm} exist for {', '.join(similar)})" if similar else ""
        raise ValueError(f"{error}{hint}") from error


# --------------------------------------------------------------------------- of the command line


def apply_params(params: Iterable[Iterable[str]], parts: dict[str, dict[str, Any]]) -> None:
    """Write the settings of ``--param`` into the parts that they name.

    Args:
        params: Texts ``k=v``, ``env.k=v`` or ``policy.k=v``.
        parts: Settings by the name before the dot, ``""`` for none.

    Raises:
        ValueError: Another form, or another part.
    """
    groups = [list(group) for group in params]
    if not all(groups):
        raise ValueError("--param takes k=v, got nothing")
    for text in itertools.chain.from_iterable(groups):
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--param takes k=v, got {text!r}")
        part, _, key = name.rpartition(".")
        if part not in parts:
            raise ValueError(f"--param {name}: settings are k, env.k or policy.k")
        parts[part][key] = parsed(value)


def parsed(text: str) -> Any:
    """A number, list, True, None, ...; a word where it is none of these.

    ``true`` and ``false`` are as in the files of settings.
    """
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value  # as the run folder has it


def check_flags(command: Any) -> None:
    """Refuse negative numbers, unknown devices, and flags that exclude each other.

    Raises:
        ValueError: Names the flag.
    """
    for flag in ("total_timesteps", "eval_tasks", "checkpoint_interval", "seed"):
        value = getattr(command, flag)
        if value is not None and not 0 <= value < math.inf:
            wrong = "must not be negative" if value < 0 else "must be finite"
            raise ValueError(f"--{flag.replace('_', '-')} {wrong}, got {value}")
    if command.checkpoint_every is not None and command.checkpoint_every < 1:
        raise ValueError(f"--checkpoint-every must be at least 1, got {command.checkpoint_every}")
    if command.cuda_graph and command.compile:
        raise ValueError("--cuda-graph and --compile exclude each other")
    check_device(command.device)


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: Names the device.
    """
    import torch

    try:
        if device != "auto":
            torch.Generator(device)
    except (RuntimeError, AssertionError) as error:
        message = str(error).partition("\n")[0]
        raise ValueError(f"--device {device}: auto, cpu or cuda; {message}") from error


def check_threads(command: Any) -> int | None:
    """The threads of a command; ``None`` where it has none, or leaves them to PyTorch.

    Raises:
        ValueError: Less than one, or so many that the process could not start them.
    """
    threads: int | None = getattr(command, "threads", None)
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise ValueError(f"--threads must be from 1 to {most}, got {threads}")
    return threads


# ------------------------------------------------------------------------------- names and kinds


def check_settings(owner: Callable[..., Any] | None, prefix: str, given: dict[str, Any]) -> None:
    """Refuse names that a callable does not take, and values of another type than annotated.

    Settings are plain data, as JSON has them: a list stands for any sequence, a text for a path.
    Sequences are left to the callable, whose errors say more; but for types with a text of their
    own, ``Annotated[float | Sequence[float], "a number or [first, last]"]``.

    Args:
        owner: Callable that takes the settings; ``None``, or a callable with ``**kwargs``, is not
            checked.
        prefix: Text before the names in messages, such as ``"policy."``.
        given: The settings.

    Raises:
        ValueError: Names the setting, and those near it or the allowed types.
    """
    for name, value in given.items():
        if owner is None or get_origin(annotated_type(owner, name)) is not Annotated:
            _check_finite(prefix + name, value)  # the text of an Annotated one allows infinity
    parameters = inspect.signature(owner).parameters if owner is not None else {}
    if owner is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if prefix == "env." or name not in NOT_SETTINGS]
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, sorted(known))
            raise ValueError(f"{owner.__name__} has no setting {prefix + name!r}: {hint}")
        kind = annotated_type(owner, name)
        if _is_plain(kind) and not _is_a(value, kind):
            raise ValueError(
                f"a setting of the wrong name or kind: {prefix}{name} takes {_described(kind)}, "
                f"got {value!r}"
            )


def _check_finite(name: str, value: Any) -> None:
    """Refuse NaN and infinity, which ``1e999`` is too, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} has to hold finite numbers, got {value}")
    for part in value if isinstance(value, list | tuple) else []:
        _check_finite(name, part)


def annotated_type(owner: Callable[..., Any], name: str) -> Any:
    """The type of an argument, from its annotation; ``Any`` where that cannot be told.

    Other arguments may have annotations that only type checkers can read.
    """
    functions = [vars(one).get("__init__") for one in getattr(owner, "__mro__", [])] or [owner]
    for function in functions:  # that of a base class, where a class passes the argument on
        annotations = getattr(function, "__annotations__", {})
        if name in annotations:
            alone = types.SimpleNamespace(__annotations__={name: annotations[name]})
            names = getattr(function, "__globals__", {})
            try:
                return get_type_hints(alone, names, include_extras=True)[name]
            except (NameError, AttributeError, TypeError):
                return Any
    return Any


def with_schedules(owner: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Two numbers become a schedule, which falls linearly, where the argument may be a function.

    Raises:
        ValueError: A list of another length, or a number that is not finite or below 0.
    """
    from stable_baselines3.common.utils import LinearSchedule

    made = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, list) and _takes_function(annotated_type(owner, name)):
            if len(value) != 2:
                raise ValueError(f"{name}: one number, or [first, last], got {value}")
            first, last = (
                check_number(f"{name}[{i}]", number, least=0.0, most=MOST_RATE)
                for i, number in enumerate(value)
            )
            made[name] = LinearSchedule(first, last, 1.0)
    return made


def _takes_function(kind: Any) -> bool:
    """Whether a type is that of functions, such as Stable-Baselines3's schedules, or has it."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_takes_function(part) for part in get_args(kind))
    return get_origin(kind) is Callable


def _is_plain(kind: Any) -> bool:
    """Whether a type has no parts but those of a union, or brings a text of its own."""
    if get_origin(kind) is Annotated:
        return any(isinstance(part, str) for part in kind.__metadata__) or _is_plain(
            kind.__origin__
        )
    if get_origin(kind) in (Union, types.UnionType):
        return all(map(_is_plain, get_args(kind)))
    return (kind is not Any and get_origin(kind) in (None, Literal)) or _takes_function(kind)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether plain data has a type; True where pydantic does not know the type."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    if _takes_function(kind):
        kind = Union[kind, list[float]]  # noqa: UP007 - of types that are known only here
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3 is a whole number
    try:
        adapter = TypeAdapter[Any](kind, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError):
        return False
    except PydanticUserError:
        return True
    return True


def _described(kind: Any) -> str:
    """A type as text for messages; ``Annotated`` types bring their own."""
    if get_origin(kind) is Annotated:
        texts = [part for part in kind.__metadata__ if isinstance(part, str)]
        return texts[0] if texts else _described(kind.__origin__)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_described(part) for part in get_args(kind))
    if _takes_function(kind):
        return "[first, last]"
    if kind is types.NoneType:
        return "None"
    if inspect.isclass(kind) and get_origin(kind) is None:
        return kind.__name__
    return inspect.formatannotation(kind).replace("collections.abc.", "")
