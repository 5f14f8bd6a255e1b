"""Run folders: what a training writes, so that it can be resumed, evaluated and plotted."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from stable_baselines3.common.logger import (
    HumanOutputFormat,
    KVWriter,
    Logger,
)

from meta_rl.cli.events import Events
from meta_rl.cli.run_lock import RunLock
from meta_rl.files.checksums import CheckedLog, checked_json, read_json
from meta_rl.provenance import UNFINISHED, git_commit, package_versions, write_atomically


@dataclass(frozen=True)
class RunConfig:
    """What was asked of a training; a resumed one has to ask the same.

    Attributes:
        algorithm: Name of the algorithm, as on the command line.
        tasks: Name of the tasks, as on the command line.
        env_id: Id of the environment, or name of the data set.
        env_kwargs: Arguments of the environment or data set.
        algorithm_kwargs: Arguments of the algorithm's constructor, as
            :meth:`meta_rl.algorithms.TrainableAlgorithm.run_arguments` gives them.
        total_timesteps: Environment steps, or iterations of a few-shot learner.
        seed: Seed of the training.
        versions: Versions of the packages, at the start.
        commit: Commit of the source tree; ``None`` for an installed package.
        threads: Number of PyTorch CPU threads; ``None`` in older runs.
        options: Options that change rounding, of ``"cuda_graph"`` and ``"compile"``; ``None`` in
            older runs.
    """

    algorithm: str
    tasks: str
    env_id: str
    env_kwargs: dict[str, Any]
    algorithm_kwargs: dict[str, Any]
    total_timesteps: int
    seed: int
    versions: dict[str, str] = field(default_factory=package_versions)
    commit: str | None = field(default_factory=git_commit)
    threads: int | None = None
    options: list[str] | None = None

    def differences(self, other: RunConfig) -> list[str]:
        """Settings that the two ask differently; versions, commit, length and threads may differ.

        Args:
            other: The configuration that is asked.
        """
        mine, theirs = (json.loads(json.dumps(asdict(one))) for one in (self, other))
        free = ["versions", "commit", "total_timesteps", "threads"]
        free += ["options"] if None in (self.options, other.options) else []
        return _differences({k: v for k, v in mine.items() if k not in free}, theirs)


UNSET = "unset"


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """The names in ``there`` whose values differ, and both values."""
    found = []
    for name, value in there.items():
        other = asked.get(name, UNSET)
        if isinstance(value, dict) and isinstance(other, dict):
            both = {key: value.get(key, UNSET) for key in [*value, *other]}
            found += [f"{name}: {text}" for text in _differences(both, other)]
        elif value != other:
            texts = [v if v is UNSET else repr(v) for v in (value, other)]
            found.append(f"{name}: {texts[0]} there, {texts[1]} asked")
    return found


class RunFolder:
    """The files of a run.

    Args:
        path: Path of the folder, which :meth:`begin` makes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.checkpoint = self.path / "checkpoint.zip"
        self.best = self.path / "best.zip"
        self.best_file = self.path / "best.json"
        self.progress = self.path / "progress.csv"
        self.tensorboard = self.path / "tensorboard"
        self.evaluation = self.path / "evaluation.json"

    def evaluations(self) -> list[Path]:
        """The files of all evaluations: that of the training's end, and those by split and size."""
        return sorted(self.path.glob("evaluation*.json"))

    def kept_checkpoint(self, steps: int) -> Path:
        """The file of a checkpoint that is kept."""
        return self.path / f"checkpoint-{steps}.zip"

    def find_checkpoint(self, name: str) -> Path:
        """The file of a checkpoint by its name on the command line.

        Args:
            name: ``"last"``, ``"best"``, or a number of steps.

        Raises:
            ValueError: There is no such checkpoint; those that exist are named.
        """
        known = {"last": self.checkpoint, "best": self.best}
        for file in self.path.glob("checkpoint-*.zip"):
            known[file.stem.removeprefix("checkpoint-")] = file
        if name == "last":
            return self.checkpoint  # the error of loading tells that it is missing
        if name not in known or not known[name].exists():
            have = ", ".join(one for one, file in known.items() if file.exists())
            raise ValueError(f"--checkpoint {name}: {self.path} has {have or 'none'}")
        return known[name]

    def best_score(self) -> dict[str, Any] | None:
        """The score of the best checkpoint, its measure and its steps; ``None`` without one.

        Raises:
            ValueError: The file was changed.
        """
        if not (self.best_file.exists() and self.best.exists()):
            return None
        try:
            content, damage = read_json(self.best_file)
            found: dict[str, Any] = {name: float(content[name]) for name in ("score", "steps")}
            found["measure"] = str(content["measure"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.best_file} is damaged: {error!r}; delete it") from error
        if damage:
            raise ValueError(damage)
        return found

    def description(self) -> list[str]:
        """Lines that say where everything of the run is."""
        lines = [f"run folder: {self.path}", f"  last checkpoint: {self.checkpoint.name}"]
        best = self.best_score()
        if best is not None:
            score = f"validation {best['measure']} {best['score']:.4g} at {best['steps']:,.0f}"
            lines.append(f"  best checkpoint: {self.best.name} ({score})")
        kept = sorted(self.path.glob("checkpoint-*.zip"))
        if kept:
            lines.append(f"  {len(kept)} checkpoints that are kept: checkpoint-STEPS.zip")
        if self.progress.exists():
            lines.append(f"  log: {self.progress.name}, {self.tensorboard.name}/")
        if self.evaluation.exists():
            lines.append(f"  evaluation: {self.evaluation.name}, evaluation.png")
        return lines

    def config(self, checked: bool = True) -> RunConfig:
        """The configuration of the run.

        Args:
            checked: Whether a file with a wrong checksum is refused.

        Raises:
            ValueError: The folder holds no run, or the file was changed.
        """
        try:
            content, damage = read_json(self.config_file)
            RunConfig(**content)  # refuses names that are missing or too many
            config = TypeAdapter(RunConfig).validate_json(json.dumps(content), strict=True)
        except FileNotFoundError as error:
            raise ValueError(f"{self.path} holds no run: there is no {self.config_file}") from error
        except (TypeError, ValueError, RecursionError) as error:
            found = error.errors()[0] if isinstance(error, ValidationError) else None
            why = f"{'.'.join(map(str, found['loc']))}: {found['msg']}" if found else error
            raise ValueError(f"{self.config_file} is no run's configuration: {why}") from error
        if damage and checked:
            raise ValueError(damage)
        return config

    def check(self, config: RunConfig, resume: bool) -> None:
        """Look whether a run may be written here.

        Raises:
            ValueError: There is a run already and it is not to be resumed, or it was asked
                something else; or the path is a file, or no text.
        """
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in str(self.path)):
            raise ValueError(f"{str(self.path)!r} is no name in UTF-8")
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                raise ValueError(f"{place} is a file, and no folder for a run")
        if not self.config_file.exists():
            return
        if not resume:
            raise ValueError(f"{self.path} holds a run: --resume goes on, --out goes elsewhere")
        differences = self.config().differences(config)
        if differences:
            raise ValueError(f"{self.path} cannot be resumed: {'; '.join(differences)}")

    def check_resumable(self) -> None:
        """Look whether there is a run to go on with; before its first checkpoint it begins again.

        Raises:
            ValueError: There is none, or the score of the best checkpoint was changed.
        """
        if not self.config_file.exists():
            raise ValueError(
                f"--resume: {self.path} holds no run to go on with (there is no "
                f"{self.config_file}); without --resume a new one begins"
            )
        self.best_score()  # refuses a damaged file before anything is done

    def check_length(self, config: RunConfig, steps_done: int) -> None:
        """Look whether the wanted length goes on with the run, and tell what else is not the same.

        Args:
            config: Configuration that is asked.
            steps_done: Number of steps that were done.

        Raises:
            ValueError: Fewer steps are wanted than were done.
        """
        there, wanted = self.config(), config.total_timesteps
        if wanted < min(steps_done, there.total_timesteps):
            raise ValueError(
                f"{self.path} cannot be resumed: {steps_done} steps were done, which is more than "
                f"the total of {wanted} that is asked"
            )
        if there.threads not in (None, config.threads):
            print(
                f"meta-rl: {self.path} began with --threads {there.threads} and goes on with "
                f"{config.threads}, which changes the last bits of its results",
                file=sys.stderr,
            )

    def lock(self) -> RunLock:
        """The lock of the folder: while it is held, no other process can write a run here.

        A folder that does not exist yet is made, and locked, when the run begins.
        """
        return RunLock(self.path)

    def begin(self, config: RunConfig, resume: bool) -> None:
        """Check, and write the configuration; of a resumed run, only the length changes.

        The lock has to be held: unfinished files are removed, which a killed process left.
        """
        self.check(config, resume)
        for unfinished in self.path.glob(UNFINISHED.format(name="*", process="*")):
            unfinished.unlink(missing_ok=True)
        if self.config_file.exists():
            config = replace(self.config(), total_timesteps=config.total_timesteps)
        write_atomically(self.config_file, checked_json(asdict(config), indent=2))

    def logger(
        self, num_timesteps: int, verbose: int, steps: str = "time/total_timesteps"
    ) -> Logger:
        """TensorBoard and ``progress.csv``, going on after ``num_timesteps``.

        Args:
            num_timesteps: Steps that the run begins with.
            verbose: 1 prints the log too.
            steps: Name of the logged number that counts the steps.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        formats: list[KVWriter] = [AppendingCSV(self.progress, num_timesteps, steps)]
        formats.append(Events(str(self.tensorboard)))
        if verbose:
            formats.append(HumanOutputFormat(sys.stdout))
        return Logger(str(self.path), formats)

    def learning_curve(self) -> dict[str, list[float]]:
        """Columns of ``progress.csv``, by name; empty entries are left out with their steps.

        Raises:
            ValueError: Nothing was logged yet, the lines are not of one length, numeric and of
                increasing steps, or the file was changed.
        """
        if not self.progress.exists():
            raise ValueError(f"{self.path} has no progress.csv yet")
        text, damage = CheckedLog(self.progress).read()
        names, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        for line, row in enumerate(rows, start=2):
            if len(row) != len(names):
                raise ValueError(
                    f"{self.progress}, line {line}: {len(row)} entries, but {len(names)} columns"
                )
        columns = dict(zip(names, zip(*rows, strict=True), strict=False))
        try:
            curve = {name: [float(v or "nan") for v in column] for name, column in columns.items()}
        except ValueError as error:
            raise ValueError(f"{self.progress} has an entry that is no number: {error}") from error
        name = next((n for n in ("time/total_timesteps", "time/iterations") if n in curve), "")
        if not all(a < b for a, b in pairwise(curve.get(name, []))):
            raise ValueError(f"{self.progress}: {name} does not increase from line to line")
        if damage:
            raise ValueError(damage)
        return curve

    def train_seconds(self) -> float:
        """Wall time of the training, over all its parts: a resumed one begins at 0 again.

        Raises:
            ValueError: Nothing was logged yet.
        """
        elapsed = self.learning_curve()["time/time_elapsed"]
        following = [*elapsed[1:], 0.0]
        return sum(end for end, after in zip(elapsed, following, strict=True) if after < end)


class LearningCurve(NamedTuple):
    """Scores of a training, over its length.

    Attributes:
        steps: Steps at each point.
        trained: Scores on training tasks.
        validated: Scores on validation tasks, nan between; ``None`` where they were not logged.
        unit: Unit of the steps, such as ``"iterations"``.
        measure: Name of the score, such as ``"accuracy"``.
    """

    steps: list[float]
    trained: list[float]
    validated: list[float] | None
    unit: str
    measure: str


def learning_columns(curve: dict[str, list[float]]) -> LearningCurve:
    """The learning curve in the columns of a log.

    Raises:
        ValueError: They have none of the usual names.
    """
    for steps, unit, name, measure in (
        ("time/total_timesteps", "environment steps", "trial_return", "return of a trial"),
        ("time/iterations", "iterations", "accuracy", "accuracy"),
        ("time/iterations", "iterations", "loss", "loss"),
    ):
        trained = curve.get(f"rollout/{name}", curve.get(f"train/{name}"))
        if steps in curve and trained is not None:
            validated = curve.get(f"validation/{name}")
            return LearningCurve(curve[steps], trained, validated, unit, measure)
    raise ValueError(f"a log without a learning curve; it has {', '.join(curve) or 'nothing'}")


class AppendingCSV(KVWriter):
    """A CSV log that a resumed run goes on writing.

    Lines after ``num_timesteps`` were written by a run that was killed past its last checkpoint;
    they are dropped, as they will be written again.

    Args:
        path: Path of the file.
        num_timesteps: Steps that the run begins with.
        steps: Name of the logged number that counts the steps.
    """

    STEPS = "time/total_timesteps"

    def __init__(self, path: Path, num_timesteps: int = 0, steps: str = STEPS) -> None:
        self.log = CheckedLog(path)
        self.names: list[str] = []
        rows: list[dict[str, str]] = []
        if num_timesteps and path.exists():
            text, damage = self.log.read()
            if damage:
                raise ValueError(damage)
            reader = csv.DictReader(io.StringIO(text, newline=""))
            self.names = list(reader.fieldnames or [])
            whole = [r for r in reader if None not in r and None not in r.values()]
            rows = [r for r in whole if _number(r[steps]) <= num_timesteps]
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        heads = dict(zip(self.names, self.names, strict=True))
        self.log.replace(self._lines([heads, *rows] if heads else rows))

    def _lines(self, rows: list[dict[str, Any]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.names).writerows(rows)
        return text.getvalue()

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        """Append a line; a new name rewrites the file with one column more."""
        row = {key: value for key, value in key_values.items() if "csv" not in key_excluded[key]}
        new = sorted(set(row) - set(self.names))
        if new:
            text, _ = self.log.read()
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            self.names += new
            self._rewrite(rows)
        self.log.append(self._lines([row]))

    def close(self) -> None:
        """Nothing is held open."""


def _number(text: str | None) -> float:
    try:
        return float(text or "inf")
    except ValueError:
        return float("inf")
