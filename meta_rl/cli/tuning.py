"""``meta-rl tune``: a search for settings with Optuna, scored on validation tasks alone."""

from __future__ import annotations

import importlib
import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from meta_rl.arguments import check_count, check_number
from meta_rl.cli.callbacks import BetweenIterations, Validation
from meta_rl.cli.commands import Train, Tune
from meta_rl.cli.preparation import folder_name, make_model, open_tasks, run_config
from meta_rl.cli.progress import shown_progress
from meta_rl.cli.run_folder import RunConfig
from meta_rl.cli.settings import parsed
from meta_rl.cli.suites.identity import digest

CHECKSUMS = "checksums"
"""Attribute of a study with the checksums of its trials."""

DEFAULT_SHARE = 5
"""The length of a trial is the length of a training, divided by this number."""


class Dimension(NamedTuple):
    """A setting and the values that are searched.

    Attributes:
        name: Name of the setting, as for ``--param``.
        values: Choices, or the two ends of a range.
        is_range: Whether the values are the ends of a range.
    """

    name: str
    values: list[Any]
    is_range: bool

    @classmethod
    def of(cls, text: str) -> Dimension:
        """Reads ``k=low..high`` or ``k=a,b,c``.

        Raises:
            ValueError: The text has another form.
        """
        name, equals, given = text.partition("=")
        is_range = ".." in given
        values = [parsed(part) for part in given.split(".." if is_range else ",")]
        if not equals or not name or "" in values or len(values) < 2:
            raise ValueError(f"--search takes k=low..high or k=a,b,c, got {text!r}")
        if is_range:
            numbers = all(type(one) in (int, float) for one in values)
            if len(values) != 2 or not numbers or not values[0] < values[1]:
                raise ValueError(f"--search {name}: a range has two numbers, low..high: {given!r}")
            for value in values:
                check_number(f"--search {name}", value)
        return cls(name, values, is_range)

    def suggest(self, trial: Any) -> Any:
        """Returns the value that Optuna suggests for a trial."""
        if not self.is_range:
            texts = [repr(value) for value in self.values]
            return parsed(trial.suggest_categorical(self.name, texts))
        low, high = self.values
        log = low > 0 and high / low >= 10
        if type(low) is int and type(high) is int:
            return trial.suggest_int(self.name, low, high, log=log)
        return trial.suggest_float(self.name, float(low), float(high), log=log)


def tune(command: Tune) -> Any:
    """Search for settings; prints the best ones as TOML, and gives Optuna's study.

    A trial is a short training. Its score is the mean of the last two validations, and trials that
    are worse than the median of earlier ones at the same point are pruned. The test tasks are never
    used.

    Raises:
        ValueError: Optuna is missing, a setting does not exist, or the file is of another search.
    """
    _optuna()  # refuses a missing package
    check_count("num_trials", command.num_trials)
    config = _trial_config(command, {})
    if not config.total_timesteps:
        raise ValueError(f"{config.algorithm} is not trained, so that there is nothing to tune")
    dimensions = _dimensions(command, config)
    for dimension in dimensions:  # what cannot work is refused before the search
        for value in dimension.values:
            other = _trial_config(command, {dimension.name: value})
            try:
                make_model(other, open_tasks(other), command.device)
            except ValueError as error:
                raise ValueError(f"--search {dimension.name}: {error}") from error
    name = folder_name(config).rpartition("-seed")[0]
    file = command.out or Path("tune", f"{name}.sqlite3")
    file.parent.mkdir(parents=True, exist_ok=True)
    direction = _direction(command, config)
    with _errors_of(file):
        study = _searched(command, config, dimensions, (file, name, direction))
    for line in _report(study, command, file):
        print(line)
    return study


def _searched(
    command: Tune, config: RunConfig, dimensions: list[Dimension], of: tuple[Path, str, str]
) -> Any:
    """Opens the study, and does the trials that are missing."""
    optuna = _optuna()
    file, name, direction = of
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _errors_of(file, LookupError):  # of damaged names
        study = optuna.create_study(
            study_name=name,
            storage=f"sqlite:///{file.resolve()}",
            direction=direction,
            sampler=optuna.samplers.TPESampler(seed=command.seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
            load_if_exists=True,
        )
        _check_same_search(study, config, file)
        _check_trials(study, file)
    with shown_progress(quiet=command.quiet) as shown:
        while (done := _num_done(study)) < command.num_trials:
            shown.update("trials", done / command.num_trials, _state(study))
            study.optimize(_Objective(command, dimensions), n_trials=1)
            study.set_user_attr(CHECKSUMS, _checksums(study))
        shown.update("trials", 1.0, _state(study))
    return study


@contextmanager
def _errors_of(file: Path, *others: type[Exception]) -> Iterator[None]:
    """Turns errors of the database, such as a full disk, into errors of one line.

    Args:
        file: File of the study.
        *others: Further kinds of errors that are the file's.

    Raises:
        ValueError: The file is no study, it is damaged, or it cannot be written.
    """
    optuna, sqlalchemy = _optuna(), importlib.import_module("sqlalchemy.exc")
    try:
        yield
    except (optuna.exceptions.OptunaError, sqlalchemy.SQLAlchemyError, *others) as error:
        why = getattr(error, "orig", None) or error.__cause__ or error
        reason = str(why).partition("\n")[0]
        raise ValueError(f"{file} cannot be used as a study of Optuna: {reason}") from error


def _checksums(study: Any) -> dict[str, str]:
    """Returns the checksum of each trial that is over, by its number."""
    return {
        str(one.number): digest(
            [
                *(one.state.name, one.values, one.params, repr(one.distributions)),
                *(sorted(one.intermediate_values.items()), one.user_attrs),
            ]
        )
        for one in study.trials
        if one.state.is_finished()
    }


def _check_trials(study: Any, file: Path) -> None:
    """Refuses a study of which a trial was changed after it was written."""
    found = _checksums(study)
    for number, known in study.user_attrs.get(CHECKSUMS, {}).items():
        if found.get(number) != known:
            raise ValueError(
                f"{file}: trial {number} was changed after it was written, as its checksum "
                "differs: take the original file again, or give --out another one"
            )


class _Objective:
    """The score of a trial."""

    def __init__(self, command: Tune, dimensions: list[Dimension]) -> None:
        self.command = command
        self.dimensions = dimensions

    def __call__(self, trial: Any) -> float:
        optuna = _optuna()
        chosen = {one.name: one.suggest(trial) for one in self.dimensions}
        seed = self.command.seed + trial.number
        config = replace(_trial_config(self.command, chosen), seed=seed)
        tasks = open_tasks(config)
        try:
            model = make_model(config, tasks, self.command.device)
            scores = _Scores(config, tasks, trial)
            model.set_logger(_no_logger())
            model.train_until(config.total_timesteps, tasks, [scores])
        except _PrunedError as error:
            raise optuna.TrialPruned from error
        except (FloatingPointError, ValueError) as error:  # diverged, or settings that do not fit
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned from error
        if not scores.found:
            raise ValueError("the trials are too short for a validation: give --total-timesteps")
        last = scores.found[-2:]
        return sum(last) / len(last)


class _PrunedError(Exception):
    """The trial is not worth going on."""


class _Scores(BetweenIterations):
    """Callback that validates, and that ends trials which Optuna prunes."""

    def __init__(self, config: RunConfig, tasks: Any, trial: Any) -> None:
        super().__init__()
        self.found: list[float] = []
        self._trial = trial
        self._validation = Validation(config, tasks=tasks, num_points=10, told=self._note)

    def _note(self, name: str, score: float, steps: int) -> None:
        self.found.append(score)
        self._trial.report(score, len(self.found))
        if self._trial.should_prune():
            raise _PrunedError

    def __call__(self, learner: Any) -> None:
        """Validates a few-shot learner if a point lies in its last iteration."""
        self._validation(learner)

    def _init_callback(self) -> None:
        self._validation.init_callback(self.model)

    def _on_rollout_start(self) -> None:
        self._validation.on_rollout_start()

    def _on_rollout_end(self) -> None:
        self._validation.on_rollout_end()


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise ValueError('tune needs Optuna: pip install "meta-rl[tune]"') from error


def _no_logger() -> Any:
    from stable_baselines3.common.logger import Logger

    return Logger(None, [])


def _trial_config(command: Tune, chosen: dict[str, Any]) -> RunConfig:
    """The configuration of a trial with chosen settings."""
    extra = tuple(f"{name}={value!r}" for name, value in chosen.items())
    train = Train(
        command.algo,
        command.tasks,
        param=(*command.param, *([extra] if extra else [])),
        total_timesteps=command.total_timesteps,
        seed=command.seed,
        device=command.device,
    )
    config = run_config(train)
    if command.total_timesteps is None:
        config = replace(config, total_timesteps=config.total_timesteps // DEFAULT_SHARE)
    return config


def _dimensions(command: Tune, config: RunConfig) -> list[Dimension]:
    texts = list(itertools.chain.from_iterable(command.search))
    if texts:
        found = [Dimension.of(text) for text in texts]
        if len({one.name for one in found}) < len(found):
            raise ValueError("--search has a setting twice")
        return found
    rate = config.algorithm_kwargs.get("learning_rate", 1e-3)
    first = float(rate[0] if isinstance(rate, list) else rate)
    return [Dimension("learning_rate", [first / 10, first * 10], True)]


def _direction(command: Tune, config: RunConfig) -> str:
    """``"minimize"`` for the loss of regression tasks, otherwise ``"maximize"``."""
    model = make_model(config, open_tasks(config), command.device)  # refuses wrong settings too
    return "minimize" if getattr(model, "regression", False) else "maximize"


def _check_same_search(study: Any, config: RunConfig, file: Path) -> None:
    """Refuses to go on with a study of other settings or another length."""
    asked = {
        "settings": repr(sorted(config.algorithm_kwargs.items(), key=str)),
        "environment": repr(sorted(config.env_kwargs.items())),
        "length": config.total_timesteps,
        "seed": config.seed,
    }
    for name, value in asked.items():
        there = study.user_attrs.get(name, value)
        if there != value:
            raise ValueError(f"{file} is a study with other {name}; give --out another file")
        study.set_user_attr(name, value)


def _num_done(study: Any) -> int:
    return sum(trial.state.is_finished() for trial in study.trials)


def _complete(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.value is not None]


def _state(study: Any) -> str:
    return f"best {study.best_value:.4g}" if _complete(study) else "first trial"


def _report(study: Any, command: Tune, file: Path) -> list[str]:
    """The lines at the end: the best settings as TOML, and how to train with them."""
    pruned = len(study.trials) - len(_complete(study))
    lines = [f"study: {file} ({len(study.trials)} trials, {pruned} of them pruned)"]
    failed = [one.user_attrs["error"] for one in study.trials if "error" in one.user_attrs]
    if failed:
        lines.append(f"# {len(failed)} of them failed, the last by: {failed[-1]}")
    if not _complete(study):
        return [*lines, "all trials were pruned; more trials or a longer training may help"]
    best = study.best_trial
    chosen = {name: _value(value) for name, value in best.params.items()}
    lines += [f"# best validation score {best.value:.4g}, trial {best.number}"]
    lines += [f'algo = "{command.algo}"', f'tasks = "{command.tasks}"']
    tables: dict[str, dict[str, Any]] = {"": {}, "env": {}, "policy": {}}
    fixed = [text.partition("=")[::2] for text in itertools.chain.from_iterable(command.param)]
    for name, value in [*((name, parsed(text)) for name, text in fixed), *chosen.items()]:
        table, _, key = name.rpartition(".")
        tables[table][key] = value
    for table, settings in tables.items():
        lines += ["", f"[{table}]"] if table and settings else []
        lines += [f"{name} = {toml_value(value)}" for name, value in settings.items()]
    words = shlex.join(["meta-rl", "train", "--config", "best.toml"])
    return [*lines, "", f"# train with it: save these lines as best.toml; {words}"]


def _value(value: Any) -> Any:
    return parsed(value) if isinstance(value, str) else value


def toml_value(value: Any) -> str:
    """Returns a plain value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
