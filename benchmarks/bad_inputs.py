"""Wrong inputs over Python and the command line, and the message that each of them gets.

An input passes if it is refused by an error of one clear line: an expected exception from Python,
exit code 2 from the command line. The inputs are lines of `bad_inputs.txt`, and a wrong value of
each number, flag and text of every constructor. Files with a changed bit are not among them
(``tests/robustness``).

    python benchmarks/bad_inputs.py
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import math
import os
import shlex
import signal
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn

import meta_rl
from meta_rl import adapter, append_task, few_shot, histories, making, memory, previous_step, tasks
from meta_rl.agents import oracle
from meta_rl.algorithms import OWN, find_algorithm
from meta_rl.cli import main as meta_rl_command
from meta_rl.few_shot.classifier import FewShotClassifier
from meta_rl.make import ENVIRONMENTS
from meta_rl.physics.batch import MujocoBatch
from meta_rl.provenance import versions_text, write_atomically

INPUTS = Path(__file__).with_name("bad_inputs.txt")
EXPECTED = (ValueError, TypeError, ImportError, OSError, MemoryError, gym.error.Error)
"""Exceptions that tell of a wrong input, among them Gymnasium's own for seeds and ids."""

WRONG: dict[str, list[Any]] = {
    "int": [1.5, "many", math.inf],
    "float": [math.nan, math.inf, "fast"],
    "bool": ["no", 2, math.nan],
    "str": [3, math.nan, ["x"]],
}
"""Wrong values by annotation; constructors take them in turn."""

SECONDS = 60
"""Time after which an input counts as accepted."""

FILES = {
    "bad.toml": "[x]\nlearning_rate = inf\n",
    "broken.toml": "algo = rl2\n",
    "empty.toml": "",
    "infinite.toml": 'algo = "rl2"\ntasks = "BernoulliBandit"\n[policy]\nlog_std_init = inf\n',
    "dates.toml": 'algo = "rl2"\ntasks = "BernoulliBandit"\ndiscount = 1979-05-27\n',
    "lists.toml": 'algo = ["rl2"]\ntasks = "BernoulliBandit"\n',
    "unknown.toml": 'algo = "rl2"\ntasks = "BernoulliBandit"\n[networks]\nhidden_size = 3\n',
    "kinds.toml": 'algo = "rl2"\ntasks = "BernoulliBandit"\nseed = 1.5\n',
    "notes.json": "{}\n",
    "texts.csv": "text,label\n" + "".join(f"some words,{i // 4}\n" for i in range(32)),
    "ragged.csv": "text,label\nhello, world,greeting\n",
    "short.csv": "label,text,domain\na,hello\n",
    "twice.csv": "text,label,text\nhello,a,bye\n",
    "suite/results/one.json": '{"name": "one-seed0", "identity": {}}\n',
}
"""Files beside the inputs, by their names."""

GIVEN = {
    "nearest": "",
    "lstm": "3, 2, ",
    "ntm": "3, 2, ",
    "mann": "3, ",
    "memory-network": "9, ",
    "plda": "",
    "protonet": "Net(), ",
    "nearest-mean": "",
    "logistic": "",
    "matching": "Net(), ",
    "siamese": "Net(), ",
}
"""What a few-shot learner needs first; the others need a classifier."""


@dataclass
class Row:
    """A wrong input.

    Attributes:
        where: Part of the library.
        given: The input, as code or as a command.
        error: Name of the exception, or the exit code; empty if the input was accepted.
        message: The message.
        clear: Whether it was refused by one line.
    """

    where: str
    given: str
    error: str
    message: str
    clear: bool


@dataclass
class Args:
    """Settings of the run."""

    out: Path = Path(__file__).parent / "results"
    """Folder of bad_inputs.json and bad_inputs.md."""


class Net(nn.Linear):
    """A network of one's own, over four numbers."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.ways = 3


def without_folders(message: str) -> str:
    """Returns a message without the folder in which packages are installed on this machine."""
    installed = {sysconfig.get_path("purelib"), str(Path(gym.__file__).parents[1])}
    for folder in installed:
        message = message.replace(folder, "site-packages")
    return message


def names() -> dict[str, Any]:
    """The names in the inputs."""
    found = {name: getattr(meta_rl, name) for name in meta_rl.__all__ if name[0] != "_"}
    found |= {name: getattr(few_shot, name) for name in few_shot.__all__}
    for module in (adapter, append_task, histories, making, memory, oracle, previous_step, tasks):
        found |= {k: v for k, v in vars(module).items() if callable(v) and k[0] != "_"}
    classes = [find_algorithm(name) for kind in OWN.values() for name in kind]
    found |= {kind.__name__: kind for kind in classes}
    found |= {env_id: resolve_name(home) for env_id, home in families().items()}
    bandit = {"env": "BernoulliBandit", "device": "cpu"}
    point = {"env": "PointRobot", "device": "cpu"}
    vec = making.make_task_vec("PointRobot", 4)
    env = gym.make("meta_rl/PointRobot-v0")
    vec.reset(seed=0)
    env.reset(seed=0)
    return found | {
        "np": np,
        "torch": torch,
        "gym": gym,
        "Net": Net,
        "FewShotClassifier": FewShotClassifier,
        "MujocoBatch": MujocoBatch,
        "nan": math.nan,
        "inf": math.inf,
        "box": gym.spaces.Box(0, 1, (2,)),
        "rng": np.random.default_rng(0),
        "rl2": found["RL2"](meta_batch_size=8, **bandit),
        "maml_trpo": found["MAMLTRPO"](meta_batch_size=2, envs_per_task=2, **point),
        "pearl": found["PEARL"](**point),
        "maml": found["MAML"](few_shot.sinusoid_mlp(hidden=(4,)), 0.1, device="cpu"),
        "sinusoid": few_shot.Sinusoid(3, num_test=20),
        "vec": vec,
        "env": env,
    }


def families() -> dict[str, str]:
    """The homes of all families, by a name that code can have."""
    return {name.removesuffix("-v0"): home for name, home in ENVIRONMENTS.items()}


def lines() -> dict[str, list[str]]:
    """The inputs of the file, by the part of the library."""
    found: dict[str, list[str]] = {}
    for line in INPUTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            part = found.setdefault(line.removeprefix("# "), [])
        elif line:
            part.append(line)
    return found


def constructors() -> Iterator[tuple[str, str]]:
    """A wrong value of every argument of every constructor, with the name of the argument."""
    starts = {name: f"{name}(" for name in families()}
    for name in OWN["agents"]:
        env = "BernoulliBandit" if name in ("rl2", "ppo") else "PointRobot"
        starts[name] = f"{find_algorithm(name).__name__}(env={env!r}, "
    for name in OWN["few-shot learners"]:
        starts[name] = f"{find_algorithm(name).__name__}({GIVEN.get(name, 'Net(), ')}"
    turn = 0
    for name, start in starts.items():
        made = resolve_name(families()[name]) if name in families() else find_algorithm(name)
        for argument in inspect.signature(made).parameters.values():
            kinds = [part.strip() for part in str(argument.annotation).split("|")]
            kind = next((kind for kind in kinds if kind in WRONG), None)
            if kind is None or argument.name[0] == "_" or argument.name in ("policy", "env"):
                continue
            given = f"{argument.name}={WRONG[kind][turn % 3]!r})"
            if f"{argument.name}=" not in start and argument.default is not argument.empty:
                yield argument.name, start + given
                turn += 1


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Ends an input that is not refused within :data:`SECONDS`."""

    def end(*_: Any) -> None:
        raise AcceptedError(f"not refused within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class AcceptedError(Exception):
    """An input was not refused in time."""


def try_python(where: str, code: str, scope: dict[str, Any], name: str = "") -> Row:
    """Evaluates an input; a message has to have the name of the argument, if it is given."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), limited():
        warnings.simplefilter("ignore")
        try:
            eval(code, scope)
        except Exception as error:
            message = without_folders(str(error))
            clear = isinstance(error, EXPECTED) and "\n" not in message and name in message
            return Row(where, code, type(error).__name__, message, clear)
    return Row(where, code, "", "", clear=False)


def try_command(line: str) -> Row:
    """Calls a command; errors of the parser come in a frame, of which the first sentence counts."""
    out, err, error = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with limited():
                code: Any = meta_rl_command(shlex.split(line))
        except SystemExit as end:
            code, error = end.code, end
        except Exception as other:
            code = f"traceback of {type(other).__name__}: {other}"
    text = err.getvalue() or out.getvalue()
    said = [part.strip("|│ ") for part in text.splitlines() if part.strip("╭─╮-|│+ ")]
    message = without_folders(text.removesuffix("\n").removeprefix("meta-rl: "))
    if isinstance(error, SystemExit) and len(said) > 1:
        message = said[0] if said[1] in said[0] else f"{said[0]}: {said[1]}"
    clear = code == 2 and bool(message) and "\n" not in message
    return Row("command line", f"meta-rl {line}", str(code), message, clear)


def make_files() -> None:
    """Makes the files and the two runs that inputs name."""
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    few = ["--total-timesteps", "0", "--eval-tasks", "0", "--device", "cpu"]
    with contextlib.redirect_stdout(io.StringIO()):
        meta_rl_command(["train", "maml", "Sinusoid-5s", "--out", "run", *few])
        meta_rl_command(["train", "rl2", "PointRobot", "--out", "agent", *few])


def table(every: int = 1) -> list[Row]:
    """Tries the inputs in an empty folder.

    Args:
        every: Distance between the inputs that are tried (default: 1, all of them).
    """
    scope, rows, parts = names(), [], lines()
    commands = parts.pop("command line")
    with contextlib.chdir(tempfile.mkdtemp()):
        make_files()
        for where, codes in parts.items():
            rows += [try_python(where, code, scope) for code in codes[::every]]
        for name, code in list(constructors())[::every]:
            rows.append(try_python("constructors", code, scope, name))
        rows += [try_command(line) for line in commands[::every]]
    return rows


def markdown(rows: list[Row]) -> str:
    """The table of all inputs."""
    refused = sum(row.clear for row in rows)
    kinds = {where: sum(row.where == where for row in rows) for where in lines_of(rows)}
    counts = ", ".join(f"{count} {where}" for where, count in kinds.items())
    text = [
        "# Wrong inputs and their messages\n",
        f"{len(rows)} wrong inputs ({counts}): {refused} are refused by one clear line, "
        f"{len(rows) - refused} are not.\n",
    ]
    for where in kinds:
        text += [f"## {where}\n", "| input | error | message |", "| --- | --- | --- |"]
        for row in (row for row in rows if row.where == where):
            mark = "" if row.clear else "**not clear** "
            cells = [f"`{row.given}`", mark + row.error, f"`{row.message}`"]
            text.append("| " + " | ".join(one_line(cell) for cell in cells) + " |")
        text.append("")
    return "\n".join([*text, f"Made by `python benchmarks/bad_inputs.py`; {versions_text()}.\n"])


def lines_of(rows: list[Row]) -> list[str]:
    """The parts of the library, in the order of the rows."""
    return list(dict.fromkeys(row.where for row in rows))


def one_line(cell: str) -> str:
    """A cell that does not break the table."""
    return cell.replace("|", "\\|").replace("\n", " ").replace("](", "] (")


def main(args: Args) -> None:
    """Tries all inputs, and writes the table."""
    rows = [
        Row(**{k: v.replace(os.getcwd(), ".") if isinstance(v, str) else v for k, v in r.items()})
        for r in map(asdict, table())
    ]
    content = json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False)
    write_atomically(args.out / "bad_inputs.json", content + "\n")
    write_atomically(args.out / "bad_inputs.md", markdown(rows))
    for row in rows:
        if not row.clear:
            print(f"{row.given}: {row.error} {row.message}")
    print(f"{sum(row.clear for row in rows)} of {len(rows)} are refused by one clear line")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
