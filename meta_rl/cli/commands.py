"""The commands of ``meta-rl`` and their flags; what they do is imported when they run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from meta_rl.algorithms import algorithms_by_kind


def _algorithm() -> Any:
    """The argument ALGO, whose help lists what is registered when it is parsed."""
    kinds = algorithms_by_kind().items()
    names = " ".join(f"{kind.capitalize()}: {', '.join(names)}." for kind, names in kinds)
    return tyro.conf.arg(metavar="ALGO", help=f"Name of the algorithm. {names}")


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

ALL_TASKS = "all of a list; fewer where environments are slow"


@dataclass
class Envs:
    """List the environments and the few-shot tasks, with the settings that ship for them."""


@dataclass
class Train:
    """Meta-train an algorithm on the training tasks, then evaluate it on held-out ones."""

    algo: Annotated[str, tyro.conf.Positional, _algorithm()]
    tasks: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASKS")]
    """Environment or few-shot tasks (`meta-rl envs` lists them), or a name of shipped settings."""
    param: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="K=V [K=V ...]"),
    ] = ()
    """Settings to change: of the algorithm (learning_rate=3e-4), of its networks
    (policy.hidden_size=64) or of the environment or data set (env.horizon=100)."""
    total_timesteps: Annotated[int | None, _default("the tuned number, or the run's")] = None
    """Environment steps, or iterations of a few-shot learner."""
    seed: int = 0
    """Seed of the weights, the training tasks and all other randomness."""
    out: Annotated[Path | None, _default("runs/ALGO-TASKS-seedN")] = None
    """Run folder."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder, with the same settings."""
    device: str = "auto"
    """Device of the networks: auto, cpu or cuda."""
    eval_tasks: Annotated[int | None, _default(ALL_TASKS)] = None
    """Number of held-out tasks in the evaluation at the end; 0 for no evaluation."""
    checkpoint_interval: float = 30.0
    """Seconds between checkpoints; 0 saves one at every iteration."""
    threads: Annotated[int | None, _default("PyTorch's choice")] = None
    """Number of PyTorch CPU threads. Give 1 where other work shares the cores."""
    cuda_graph: bool = False
    """Record updates as CUDA graphs, which is several times as fast on a GPU."""
    compile: bool = False
    """Compile updates, which takes a minute and a C++ compiler."""
    quiet: bool = False
    """Show no progress bar."""
    imports: IMPORTED = ()


@dataclass
class Evaluate:
    """Evaluate the adaptation of a trained algorithm on held-out tasks."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    num_tasks: Annotated[int | None, _default(ALL_TASKS)] = None
    """Number of held-out tasks."""
    num_episodes: Annotated[int | None, _default("as many as in training")] = None
    """Number of episodes on each task of an environment."""
    split: str = "test"
    """Part of the split (test, validation, ood, train), or a list of the data set's own (lake)."""
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
    """Draw learning curves and adaptation of runs, side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""
    out: Annotated[Path | None, _default("plot.png in the first run folder")] = None
    """Path of the picture."""


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
class Report:
    """Write the report of a suite's results: one HTML page, and Markdown."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the suite."""
    out: Annotated[Path | None, _default("report.html in the folder")] = None
    """Path of the page; the Markdown is written beside it."""


COMMANDS = {
    "envs": Envs,
    "train": Train,
    "evaluate": Evaluate,
    "plot": Plot,
    "convert": Convert,
    "benchmark": Benchmark,
    "report": Report,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after ``meta-rl`` (default: those that the process was started with).

    Returns:
        The exit code: 0 for success, 2 for bad input, 1 for a training that failed, 130 for one
        that was interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        from meta_rl import __version__

        print(f"meta-rl {__version__}")
        return 0
    command = tyro.extras.subcommand_cli_from_dict(
        dict(COMMANDS),
        prog="meta-rl",
        description="Meta-reinforcement learning and few-shot learning. `meta-rl --version` prints "
        "the version.",
        args=arguments,
    )
    from meta_rl.cli.interruption import FailedCellsError, FailedWriteError

    try:
        run(command)
    except (ValueError, OSError, ImportError) as error:
        print(f"meta-rl: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"meta-rl: too little memory: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, FailedWriteError) as error:
        print(f"meta-rl: {error}; the last checkpoint is as it was", file=sys.stderr)
        return 1
    except FailedCellsError as error:
        print(f"meta-rl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"\nmeta-rl: {error or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def run(command: Any) -> None:
    """Import what a command needs, and do it."""
    if isinstance(command, Envs):
        from meta_rl.cli.listing import envs

        return envs()
    if isinstance(command, Plot):
        from meta_rl.cli.pictures import plot

        plot(command)
        return None
    if isinstance(command, Report):
        from meta_rl.cli.report.page import write_report

        write_report(command.folder, command.out)
        return None
    from meta_rl.cli.foreign import convert, import_modules

    import_modules(command.imports)
    if isinstance(command, Convert):
        convert(command)
        return None
    if isinstance(command, Benchmark):
        from meta_rl.cli.suites.running import benchmark

        benchmark(command)
        return None
    from meta_rl.cli.settings import check_threads
    from meta_rl.cli.training import evaluate, train
    from meta_rl.compute.freed_memory import keep_freed_memory
    from meta_rl.compute.torch_state import torch_threads

    keep_freed_memory()
    with torch_threads(check_threads(command)):
        if isinstance(command, Train):
            train(command)
        else:
            evaluate(command)
    return None
