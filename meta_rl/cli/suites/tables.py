"""The tables of suites: which learners are trained on which tasks, read from TOML files."""

from __future__ import annotations

import importlib.resources
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from meta_rl.arguments import did_you_mean

STRICT = ConfigDict(extra="forbid", strict=True)
Count = Annotated[int, Field(ge=1)]


@validated(frozen=True, config=STRICT)
class Published:
    """A number of a paper, which stands beside ours.

    Attributes:
        score: The paper's score, in the unit of ours.
        source: Paper, year and table.
    """

    score: float
    source: str


@validated(frozen=True, config=STRICT)
class Row:
    """A row of a suite's table: a learner on tasks, trained once for each seed.

    Attributes:
        learner: Name of the algorithm, as on the command line.
        tasks: Environment, few-shot tasks, or a name of shipped settings.
        minutes: Expected wall time of one training with its evaluation, in minutes.
        label: Name of the row (default: learner and tasks); two rows may not share it.
        settings: Settings to change, as in ``meta_rl/settings/*.toml``: those of the algorithm, and
            the tables ``policy`` and ``env``.
        budget: Environment steps, or iterations of a few-shot learner (default: the settings').
        seeds: Number of trainings (default: the suite's).
        cores: Number of CPU cores of a training (default: 1).
        gpus: Number of GPUs of a training, or a share of one (default: 0).
        num_tasks: Number of held-out tasks of an evaluation (default: the learner's).
        num_episodes: Number of episodes on each task of an environment (default: as many as in
            training).
        score: The number that stands for an evaluation: the mean of the ``"last"`` column or the
            ``"total"`` of all columns (default: total for pulls of bandits, last otherwise).
        paper: The paper's number (default: none).
    """

    learner: str
    tasks: str
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)]
    label: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    budget: Count | None = None
    seeds: Count | None = None
    cores: Count = 1
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)] = 0
    num_tasks: Count | None = None
    num_episodes: Count | None = None
    score: Literal["last", "total"] | None = None
    paper: Published | None = None

    @property
    def name(self) -> str:
        """The label, or learner and tasks; the name of files."""
        tasks = self.tasks.removeprefix("meta_rl/").removesuffix("-v0")
        return self.label or f"{self.learner}-{tasks}"

    def params(self) -> tuple[str, ...]:
        """The changed settings as texts for ``--param``: ``"policy.hidden_size=32"``."""
        texts = []
        for key, value in self.settings.items():
            if key in ("policy", "env"):
                texts += [f"{key}.{inner}={part!r}" for inner, part in dict(value).items()]
            else:
                texts.append(f"{key}={value!r}")
        return tuple(texts)


@dataclass(frozen=True)
class Suite:
    """A suite: a table of rows, each to be trained with several seeds.

    Attributes:
        name: Name on the command line, or the path of the file.
        title: Heading of its report.
        about: Purpose of the suite, in a sentence or two.
        seeds: Number of trainings of each row.
        rows: The rows.
    """

    name: str
    title: str
    about: str
    seeds: int
    rows: tuple[Row, ...]

    def with_seeds(self, seeds: int | None) -> Suite:
        """The suite with so many trainings of every row; as it is for ``None``."""
        if seeds is None:
            return self
        return replace(self, seeds=seeds, rows=tuple(replace(row, seeds=None) for row in self.rows))

    def cells(self) -> Iterator[tuple[Row, int]]:
        """Every row with each of its seeds, 0, 1, 2 and so on."""
        for row in self.rows:
            for seed in range(row.seeds or self.seeds):
                yield row, seed


@validated(frozen=True, config=STRICT)
class _Table:
    """The content of a file; see :class:`Suite`."""

    title: str
    cells: tuple[Row, ...]
    about: str = ""
    seeds: Count = 3


def shipped_suites() -> list[str]:
    """The names of the suites that ship with the package."""
    folder = importlib.resources.files("meta_rl") / "suites"
    files = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def find_suite(name: str) -> Suite:
    """Reads a shipped suite by its name, or a file of your own by its path.

    Raises:
        ValueError: The name is unknown, or the file is no table of a suite; the error names the
            row and what is wrong with it.
    """
    if name.endswith(".toml"):
        return read_suite(name, Path(name).read_text(encoding="utf-8"))
    if name not in shipped_suites():
        raise ValueError(
            f"unknown suite {name!r}: {did_you_mean(name, shipped_suites())}; a table of your own "
            "has a path that ends with .toml"
        )
    file = importlib.resources.files("meta_rl") / "suites" / f"{name}.toml"
    return read_suite(name, file.read_text(encoding="utf-8"))


def read_suite(name: str, text: str) -> Suite:
    """Reads the text of a suite's table.

    Args:
        name: Name of the suite, for messages and its report.
        text: TOML.

    Raises:
        ValueError: The text is no table of a suite.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"suite {name} is no TOML: {error}") from error
    known = [field.name for field in fields(Row)]
    for number, row in enumerate(content.get("cells", []), start=1):
        for key in row if isinstance(row, dict) else ():
            if key not in known:
                raise ValueError(
                    f"suite {name}, cell {number}: unknown {key!r}: {did_you_mean(key, known)}"
                )
    try:
        # strict checks of JSON take lists for tuples, and tables for dataclasses
        table = TypeAdapter(_Table).validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ValueError(f"suite {name}{_what_is_wrong(error)}") from error
    names = [row.name for row in table.cells]
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice or not names:
        wrong = f"two cells are called {twice[0]}: give one a label" if twice else "no cells"
        raise ValueError(f"suite {name}: {wrong}")
    for row in table.cells:
        if not all(part.isalnum() or part in "-_." for part in row.name):
            raise ValueError(
                f"suite {name}: {row.name!r} names files: give the cell a label of letters, "
                "digits, '-', '_' and '.'"
            )
    return Suite(name, table.title, table.about, table.seeds, table.cells)


def _what_is_wrong(error: ValidationError) -> str:
    """The first error, with the number of its row."""
    first = error.errors()[0]
    place = list(first["loc"])
    cell = f", cell {int(place[1]) + 1}" if len(place) > 1 and place[0] == "cells" else ""
    names = ".".join(str(part) for part in place[2 if cell else 0 :])
    got = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return f"{cell}: {names}: {first['msg']}{got}"
