"""The commands of ``meta-rl`` and their flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from meta_rl.algorithms import algorithms_by_kind


def _algorithm(hint: str | None = None) -> Any:
    """The argument ALGO, whose help lists what is registered when it is parsed."""
    kinds = algorithms_by_kind().items()
    names = " ".join(f"{kind.capitalize()}: {', '.join(names)}." for kind, names in kinds)
    text = f"Name of the algorithm. {names}"
    return tyro.conf.arg(metavar="ALGO", help=text, help_behavior_hint=hint)


def _default(text: str) -> Any:
    """An argument whose help says so in place of ``(default: None)``."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


IMPORTED = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(
        name="import",
        metavar="MODULE",
        help="Module to import first, which registers environments or algorithms of your own. "
        "Give the flag again for another module.",
    ),
]

TASKS = tyro.conf.arg(metavar="TASKS")
IN_FILE = "(required; the file of --config can name it)"
ALL_TASKS = "all of a list; fewer where environments are slow"


@dataclass
class Envs:
    """List the environments and the few-shot tasks, with the settings that ship for them."""


@dataclass
class Pretrained:
    """List the pretrained agents and learners that ship, with the results of their cards."""


@dataclass
class Train:
    """Meta-train an algorithm on the training tasks, then evaluate it on held-out ones."""

    algo: Annotated[str | None, tyro.conf.Positional, _algorithm(IN_FILE)] = None
    tasks: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TASKS", help_behavior_hint=IN_FILE),
    ] = None
    """Environment or few-shot tasks (`meta-rl envs` lists them), a name of shipped settings, or
    `my_module:MyTask-v0` with a module in the current folder."""
    param: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="K=V [K=V ...]"),
    ] = ()
    """Settings to change: of the algorithm (learning_rate=3e-4), of its networks
    (policy.hidden_size=64) or of the environment or data set (env.horizon=100)."""
    total_timesteps: Annotated[int | None, _default("the tuned number, or the run's")] = None
    """Environment steps, or iterations of a few-shot learner."""
    seed: Annotated[int | None, _default("0, or the file's")] = None
    """Seed of the weights, the training tasks and all other randomness."""
    seeds: Annotated[tuple[int, ...], _default("one training")] = ()
    """Seeds of several trainings, each in a process of its own, as many at a time as there are
    cores. A training that fails ends alone; --resume goes on with all of them."""
    config: Annotated[Path | None, _default("the shipped settings")] = None
    """TOML file with settings, or the config.json of a run, whose settings are used again.
    The other flags take precedence over the file."""
    out: Annotated[Path | None, _default("runs/ALGO-TASKS-seedN")] = None
    """Run folder; with --seeds, the folder of the run folders seedN."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder, with the same settings."""
    device: str = "auto"
    """Device of the networks: auto, cpu or cuda."""
    eval_tasks: Annotated[int | None, _default(ALL_TASKS)] = None
    """Number of held-out tasks in the evaluation at the end; 0 for no evaluation."""
    checkpoint_interval: float = 30.0
    """Seconds between saves of the last checkpoint; 0 saves it at every iteration."""
    checkpoint_every: Annotated[int | None, _default("none are kept")] = None
    """Environment steps (or iterations) between checkpoints that are kept, checkpoint-STEPS.zip."""
    threads: Annotated[int | None, _default("PyTorch's choice")] = None
    """Number of PyTorch CPU threads. Give 1 where other work shares the cores."""
    cuda_graph: bool = False
    """Record updates as CUDA graphs, which is several times as fast on a GPU."""
    compile: bool = False
    """Compile updates, which takes a minute and a C++ compiler."""
    track: bool = False
    """Log to Weights & Biases too, which has to be installed (pip install wandb)."""
    quiet: bool = False
    """Show no progress."""
    imports: IMPORTED = ()


@dataclass
class Evaluate:
    """Evaluate the adaptation of a trained algorithm on held-out tasks."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or name of a pretrained agent, such as varibad/GridNavigation."""
    num_tasks: Annotated[int | None, _default(ALL_TASKS)] = None
    """Number of held-out tasks."""
    num_episodes: Annotated[int | None, _default("as many as in training")] = None
    """Number of episodes on each task of an environment."""
    split: str = "test"
    """Part of the split (test, validation, ood, train), or a list of the data set's own (lake)."""
    checkpoint: str = "last"
    """Checkpoint to evaluate: last, best (by the validation tasks), or a number of steps."""
    seed: int = 0
    """Seed of the evaluation."""
    out: Annotated[Path | None, _default("evaluation-SPLIT-TASKS.json in the run folder")] = None
    """New JSON file for the result; its picture is written beside it."""
    deterministic: bool = False
    """Take the most likely actions."""
    device: str = "auto"
    """Device of the networks: auto, cpu or cuda."""
    threads: Annotated[int | None, _default("PyTorch's choice")] = None
    """Number of PyTorch CPU threads. Give 1 where other work shares the cores."""
    imports: IMPORTED = ()


@dataclass
class Convert:
    """Rewrite a checkpoint of the former format, which can run code; only for files you trust."""

    old: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OLD")]
    """Checkpoint of the former format."""
    new: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="NEW")]
    """Checkpoint to write."""
    imports: IMPORTED = ()


@dataclass
class Plot:
    """Draw learning curves and adaptation of runs; seeds of the same settings are one curve."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""
    out: Annotated[Path | None, _default("plot.png in the first run folder")] = None
    """Path of the picture."""


@dataclass
class Compare:
    """Compare runs: a table, CSV files and a picture of means over seeds, with intervals."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""
    by: Literal["settings", "algorithm"] = "settings"
    """Runs that are one group: those that differ by their seed alone, or all of an algorithm."""
    out: Path = Path("comparison")
    """Folder of comparison.png, evaluations.csv and curves.csv."""


@dataclass
class Enjoy:
    """Show a trained agent on held-out tasks, before and after adaptation, side by side."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or name of a pretrained agent, such as varibad/GridNavigation."""
    video: Annotated[Path | None, _default("enjoy.gif in the run folder")] = None
    """Video to write: a file that ends with .gif or .mp4."""
    task: Annotated[str | None, _default("tasks of the split")] = None
    """Task to show, as a number, a list or a dictionary, such as [1.5]."""
    num_tasks: int = 2
    """Number of tasks of the split that are shown, one below the other."""
    num_episodes: Annotated[int | None, _default("as many as in training")] = None
    """Number of episodes; the first and the last one are shown."""
    split: str = "test"
    """Part of the split that the tasks come from."""
    checkpoint: str = "last"
    """Checkpoint to show: last, best (by the validation tasks), or a number of steps."""
    seed: int = 0
    """Seed of the episodes."""
    deterministic: bool = False
    """Take the most likely actions."""
    device: str = "cpu"
    """Device of the networks: auto, cpu or cuda."""
    imports: IMPORTED = ()


@dataclass
class Benchmark:
    """Train and evaluate all learners of a suite with several seeds, and write a report."""

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """Name of a suite (quick, bandits, mdps, navigation, robots, dynamics, few-shot, texts, memory,
    meta-world), or path of a TOML table of your own."""
    seeds: Annotated[int | None, _default("the suite's")] = None
    """Number of trainings of each cell."""
    workers: Annotated[int | None, _default("as many as there are cores")] = None
    """Number of trainings at a time; with --ray, number of cores of a new local cluster."""
    ray: Annotated[str | None, _default("processes of this machine")] = None
    """Address of a Ray cluster; auto takes the one that runs here, or starts a local one."""
    out: Annotated[Path | None, _default("runs/suite-SUITE")] = None
    """Folder of the results and of the report; with --ray, on storage that all machines share."""
    dry_run: bool = False
    """Print the trainings and their expected times, and do nothing."""
    device: str = "cpu"
    """Device of the networks: auto, cpu or cuda."""
    imports: IMPORTED = ()


@dataclass
class Tune:
    """Search for settings that score best on the validation tasks; needs Optuna."""

    algo: Annotated[str, tyro.conf.Positional, _algorithm()]
    tasks: Annotated[str, tyro.conf.Positional, TASKS]
    """Environment or few-shot tasks, as for train."""
    search: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="K=RANGE [K=RANGE ...]"),
    ] = ()
    """Settings to search: learning_rate=1e-4..1e-2 (logarithmic where it spans a factor of ten),
    num_epochs=1..8 (whole numbers), policy.core=gru,lstm (choices). The default is the learning
    rate, from a tenth of its setting to ten times it."""
    param: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="K=V [K=V ...]"),
    ] = ()
    """Settings that are the same in all trials, as for train."""
    num_trials: int = 20
    """Number of trials in all; a study that is resumed counts those that it has."""
    total_timesteps: Annotated[int | None, _default("a fifth of the tuned number")] = None
    """Environment steps, or iterations, of a trial."""
    out: Annotated[Path | None, _default("tune/ALGO-TASKS.sqlite3")] = None
    """SQLite file of the study; the search goes on where the file is."""
    seed: int = 0
    """Seed of the search; trial N trains with the seed SEED + N."""
    device: str = "auto"
    """Device of the networks: auto, cpu or cuda."""
    threads: Annotated[int | None, _default("PyTorch's choice")] = None
    """Number of PyTorch CPU threads. Give 1 where other work shares the cores."""
    quiet: bool = False
    """Show no progress."""
    imports: IMPORTED = ()


@dataclass
class Report:
    """Write the report of a suite's results: one HTML page, and Markdown."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the suite."""
    out: Annotated[Path | None, _default("report.html in the folder")] = None
    """Path of the page; the Markdown is written beside it."""


COMMANDS = {
    "envs": Envs,
    "pretrained": Pretrained,
    "train": Train,
    "evaluate": Evaluate,
    "enjoy": Enjoy,
    "plot": Plot,
    "compare": Compare,
    "tune": Tune,
    "convert": Convert,
    "benchmark": Benchmark,
    "report": Report,
}
