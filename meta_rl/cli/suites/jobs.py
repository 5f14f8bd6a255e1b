"""The jobs of a suite: cells, which are trainings of one seed, and the scores to compare with.

A job is plain data, so that it can be sent to another process or machine as JSON. It is resumable
and knows whether its result is there already.
"""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from meta_rl.cli import Train
from meta_rl.cli.foreign import check_module
from meta_rl.cli.run_folder import RunConfig, RunFolder, learning_columns
from meta_rl.cli.suites.identity import code_digest, digest, file_digest, processor
from meta_rl.cli.suites.references import can_be_compared, reference_results
from meta_rl.cli.suites.tables import Row, Suite
from meta_rl.cli.trainable import trainable
from meta_rl.cli.training import open_tasks, run_config, train
from meta_rl.evaluation import evaluate_adaptation
from meta_rl.files.checksums import checked_json, read_json
from meta_rl.make import make_task_vec
from meta_rl.provenance import git_commit, package_versions, write_atomically
from meta_rl.tasks import TaskSplit
from meta_rl.vector.task_batch import task_batch

EVALUATION_SEED = 0
"""Seed of all evaluations: trainings are tested on the same tasks."""
SECONDS_BETWEEN_LINES = 30.0
"""Least time between two lines of progress."""


@dataclass(frozen=True)
class Cell:
    """One training of one seed, with its evaluations.

    Attributes:
        row: Row of the suite's table.
        seed: Seed of the training.
        device: Device of the networks.
        imports: Modules that are imported first.
        checkpoint_interval: Seconds between two checkpoints, which change no result.
    """

    row: Row
    seed: int
    device: str = "cpu"
    imports: tuple[str, ...] = ()
    checkpoint_interval: float = 30.0

    @property
    def name(self) -> str:
        """Name of the files."""
        return f"{self.row.name}-seed{self.seed}"

    @property
    def minutes(self) -> float:
        """Expected wall time in minutes."""
        return self.row.minutes

    @property
    def command(self) -> Train:
        """The command that trains it; the run folder is to be added."""
        return Train(
            algo=self.row.learner,
            tasks=self.row.tasks,
            param=(self.row.params(),) if self.row.settings else (),
            total_timesteps=self.row.budget,
            seed=self.seed,
            device=self.device,
            eval_tasks=0,
            threads=self.row.cores,
            checkpoint_interval=self.checkpoint_interval,
            quiet=True,
            imports=self.imports,
        )

    def command_line(self) -> str:
        """The same as it is typed."""
        words = ["meta-rl", "train", self.row.learner, self.row.tasks]
        words += ["--param", *self.row.params()] if self.row.settings else []
        words += ["--total-timesteps", str(self.row.budget)] if self.row.budget else []
        words += ["--seed", str(self.seed), "--threads", str(self.row.cores)]
        words += ["--device", self.device]
        for module in self.imports:
            words += ["--import", module]
        return shlex.join(words)

    def config(self) -> RunConfig:
        """All settings of the training.

        Raises:
            ValueError: Unknown names, or settings that do not fit.
        """
        return run_config(self.command)

    def identity(self) -> dict[str, Any]:
        """What its result depends on; a result with the same identity is not computed again."""
        config = {
            name: value
            for name, value in asdict(self.config()).items()
            if name not in ("versions", "commit", "threads", "options")
        }
        evaluation = [self.row.num_tasks, self.row.num_episodes, EVALUATION_SEED]
        return {
            "settings": digest([config, evaluation, self.row.cores, self.device]),
            "code": code_digest(self.imports),
            "versions": package_versions(),
        }

    def result_file(self, out: Path) -> Path:
        """Path of its result."""
        return out / "results" / f"{self.name}.json"

    def is_done(self, out: Path) -> bool:
        """Whether there is a result of the same settings, code and versions."""
        return _identity_in(self.result_file(out)) == self.identity()

    def run(self, out: Path) -> None:
        """Trains, or goes on with the training; evaluates; writes the result."""
        identity = self.identity()
        path = out / "runs" / f"{self.name}-{digest(identity)[:8]}"
        folder, command = RunFolder(path), self.command
        command.out, command.resume = path, RunFolder(path).config_file.exists()
        with _told_progress(self.name, folder):
            train(command)
        began = time.perf_counter()
        evaluations = self._evaluations(folder)
        content = {
            "kind": "cell",
            "name": self.name,
            "identity": identity,
            "row": asdict(self.row),
            "seed": self.seed,
            "command": self.command_line(),
            "config": asdict(folder.config()),
            "code": {"commit": git_commit(), "digest": identity["code"]},
            "processor": processor(),
            "device": self.device,
            **_length_of(folder),
            "evaluation_seconds": time.perf_counter() - began,
            "learning_curve": _learning_curve(folder),
            "checkpoint_sha256": file_digest(folder.checkpoint),
            "evaluations": evaluations,
        }
        write_atomically(self.result_file(out), checked_json(content))

    def _evaluations(self, folder: RunFolder) -> dict[str, Any]:
        """Results on test tasks and, where there are some, on tasks outside the range."""
        config = folder.config()
        model = trainable(config.algorithm).load(folder.checkpoint, device=self.device)
        found = {}
        for split in ("test", "ood"):
            tasks = open_tasks(config)
            if split == "ood" and not _has_ood(tasks.source, tasks.arguments):
                continue
            number = self.row.num_tasks
            if number is None and split == "test":
                number = model.evaluation_size(tasks)
            result = evaluate_adaptation(
                model,
                tasks.source,
                number,
                self.row.num_episodes,
                split=split,
                seed=EVALUATION_SEED,
                **tasks.arguments,
            )
            found[split] = json.loads(result.to_json())
        return found


@dataclass(frozen=True)
class Reference:
    """The scores of random actions and of the best known policy on the same test tasks.

    Attributes:
        row: A row of the suite's table; those with the same tasks share the reference.
        imports: Modules that are imported first.
        minutes: Expected wall time in minutes.
    """

    row: Row
    imports: tuple[str, ...] = ()

    minutes: ClassVar[float] = 0.5

    @property
    def cell(self) -> Cell:
        """A cell on these tasks."""
        return Cell(self.row, 0, imports=self.imports)

    @property
    def tasks_key(self) -> str:
        """Digest of the tasks."""
        return tasks_key(asdict(self.cell.config()), asdict(self.row))

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"reference-{self.row.tasks.rpartition('/')[2]}-{self.tasks_key[:8]}"

    def identity(self) -> dict[str, Any]:
        """What its result depends on."""
        settings = {"settings": self.tasks_key}
        return {**settings, "code": code_digest(self.imports), "versions": package_versions()}

    def result_file(self, out: Path) -> Path:
        """Path of its result."""
        return out / "references" / f"{self.name}.json"

    def is_done(self, out: Path) -> bool:
        """Whether there is a result of the same tasks, code and versions."""
        return _identity_in(self.result_file(out)) == self.identity()

    def run(self, out: Path) -> None:
        """Evaluates both, and writes the result."""
        config = self.cell.config()
        row = self.row
        found = reference_results(config, row.num_tasks, row.num_episodes, EVALUATION_SEED)
        content = {
            "kind": "reference",
            "name": self.name,
            "identity": self.identity(),
            "tasks": self.tasks_key,
            **found,
        }
        write_atomically(self.result_file(out), checked_json(content))


Job = Cell | Reference


def tasks_key(config: dict[str, Any], row: dict[str, Any]) -> str:
    """Digest of what is evaluated: environment, its arguments, numbers of tasks and episodes.

    Args:
        config: Configuration of a run as plain data.
        row: Row of a suite's table as plain data.
    """
    numbers = [row["num_tasks"], row["num_episodes"]]
    return digest([config["env_id"], config["env_kwargs"], *numbers])


def suite_jobs(suite: Suite, device: str = "cpu", imports: tuple[str, ...] = ()) -> list[Job]:
    """All jobs of a suite: cells, and a reference for all cells on the same tasks.

    Raises:
        ValueError: A row has unknown names or settings; the error names the row.
    """
    jobs: list[Job] = []
    references: dict[str, Reference] = {}
    for row, seed in suite.cells():
        if seed == 0:
            reference = Reference(row, imports)
            try:
                check_module("it", row.tasks, imports)
                if can_be_compared(reference.cell.config()):
                    references.setdefault(reference.tasks_key, reference)
            except (ValueError, ImportError) as error:
                raise ValueError(f"suite {suite.name}, cell {row.name}: {error}") from error
        jobs.append(Cell(row, seed, device, imports))
    return [*jobs, *references.values()]


def to_text(job: Job) -> str:
    """The job as JSON."""
    return json.dumps({"kind": type(job).__name__, **asdict(job)})


def from_text(text: str) -> Job:
    """The job of :func:`to_text`."""
    content = json.loads(text)
    kind = {"Cell": Cell, "Reference": Reference}[content.pop("kind")]
    content["row"] = TypeAdapter(Row).validate_json(json.dumps(content["row"]))
    content["imports"] = tuple(content["imports"])
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in names})


def _identity_in(file: Path) -> Any:
    """Returns the identity in a result; ``None`` without one, or if the file is damaged."""
    try:
        content, damage = read_json(file)
        return None if damage else content["identity"]
    except (FileNotFoundError, ValueError, KeyError, RecursionError):
        return None


def _has_ood(source: Any, arguments: dict[str, Any]) -> bool:
    """Whether there are tasks outside the training range."""
    if isinstance(source, TaskSplit):
        return source.ood is not None
    if not isinstance(source, str):
        return False
    env = make_task_vec(source, 1, 1, **arguments)
    try:
        return task_batch(env).task_split.ood is not None
    finally:
        env.close()


def _length_of(folder: RunFolder) -> dict[str, Any]:
    """Number of steps, and seconds of training; none for learners that are not trained."""
    config = folder.config()
    seconds = folder.train_seconds() if folder.progress.exists() else 0.0
    return {"steps": config.total_timesteps, "train_seconds": seconds}


def _learning_curve(folder: RunFolder) -> dict[str, Any] | None:
    """Validation scores over steps and seconds; ``None`` where nothing was logged."""
    if not folder.progress.exists():
        return None
    columns = folder.learning_curve()
    try:
        curve = learning_columns(columns)
    except ValueError:
        return None
    scores = curve.trained if curve.validated is None else curve.validated
    seconds = _total_seconds(columns["time/time_elapsed"])
    points = zip(curve.steps, seconds, scores, strict=True)
    kept = [point for point in points if point[2] == point[2]]
    names = ("steps", "seconds", "scores")
    table = dict(zip(names, map(list, zip(*kept, strict=True)), strict=False))
    return {"unit": curve.unit, "measure": curve.measure, **table} if kept else None


def _total_seconds(elapsed: list[float]) -> Iterator[float]:
    """Seconds of training so far; those of a resumed part begin at 0 again."""
    before = last = 0.0
    for seconds in elapsed:
        if seconds < last:
            before += last
        last = seconds
        yield before + last


@contextmanager
def _told_progress(
    name: str, folder: RunFolder, say: Callable[[str], None] = print
) -> Iterator[None]:
    """Prints the last logged step now and then within the context."""
    over = threading.Event()

    def tell() -> None:
        said = ""
        while not over.wait(SECONDS_BETWEEN_LINES):
            try:
                columns = folder.learning_curve()
                counted = columns.get("time/total_timesteps") or columns.get("time/iterations")
                length = folder.config().total_timesteps
            except ValueError:  # nothing was logged yet, or a line is being written
                continue
            line = f"{name}: {counted[-1]:,.0f} of {length:,}" if counted else ""
            if line != said:
                say(line)
                said = line

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
