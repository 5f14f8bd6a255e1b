"""The entry point of ``meta-rl``, which imports what a command needs when the command runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro

from meta_rl.cli.commands import (
    COMMANDS,
    Benchmark,
    Compare,
    Convert,
    Enjoy,
    Envs,
    Evaluate,
    Plot,
    Pretrained,
    Report,
    Train,
)
from meta_rl.cli.number_flags import NUMBERS, NoNumberError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

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
    return execute(lambda: parsed(arguments))


def execute(command: Callable[[], Any]) -> int:
    """Runs a command, and reports an error in one line.

    Args:
        command: Function that returns the command; its errors are reported, too.

    Returns:
        The exit code of :func:`main`.
    """
    from meta_rl.cli.interruption import FailedTrainingsError, FailedWriteError, SilentExitError

    try:
        run(command())
    except FileNotFoundError as error:
        missing = f"no file {error.filename}" if error.strerror else str(error)
        print(f"meta-rl: {missing}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        print(f"meta-rl: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"meta-rl: too little memory: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, FailedWriteError) as error:
        print(f"meta-rl: {error}; the last checkpoint is as it was", file=sys.stderr)
        return 1
    except FailedTrainingsError as error:
        print(f"meta-rl: {error}", file=sys.stderr)
        return 1
    except SilentExitError:
        return 1
    except KeyboardInterrupt as error:
        print(f"\nmeta-rl: {error or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def parsed(arguments: list[str]) -> Any:
    """Returns the command that the words after ``meta-rl`` ask for.

    Raises:
        ValueError: A flag that takes a number got something else.
    """
    try:
        with NUMBERS:
            return tyro.extras.subcommand_cli_from_dict(
                dict(COMMANDS),
                prog="meta-rl",
                description="Meta-reinforcement learning and few-shot learning. "
                "`meta-rl --version` prints the version.",
                args=arguments,
            )
    except NoNumberError as error:
        raise ValueError(error.message(arguments)) from None


def run(command: Any) -> None:
    """Imports what a command needs, and runs it."""
    if isinstance(command, Envs):
        from meta_rl.cli.listing import envs

        return envs()
    if isinstance(command, Pretrained):
        from meta_rl.cli.pretrained_runs import list_pretrained

        list_pretrained()
        return None
    if isinstance(command, Plot):
        from meta_rl.cli.pictures import plot

        plot(command)
        return None
    if isinstance(command, Compare):
        from meta_rl.cli.comparison import compare

        compare(command)
        return None
    if isinstance(command, Report):
        from meta_rl.cli.report.page import write_report

        write_report(command.folder, command.out)
        return None
    from meta_rl.cli.foreign import convert, import_modules

    import_modules(command)
    if isinstance(command, Convert):
        convert(command)
        return None
    if isinstance(command, Benchmark):
        from meta_rl.cli.suites.running import benchmark

        benchmark(command)
        return None
    _work(command)
    return None


def _work(command: Any) -> None:
    """Runs a command that plays or trains, with its number of threads."""
    from meta_rl.cli.settings import check_threads
    from meta_rl.compute import ranks
    from meta_rl.compute.freed_memory import keep_freed_memory
    from meta_rl.compute.torch_state import torch_threads

    if ranks.launched() and (not isinstance(command, Train) or command.seeds):
        raise ValueError("torchrun is for `train` without --seeds; start other commands without it")
    keep_freed_memory()
    with torch_threads(check_threads(command)):
        if isinstance(command, Train):
            from meta_rl.cli.training import train_on_ranks, train_several

            if command.seeds:
                train_several(command, execute)
            else:
                train_on_ranks(command)
        elif isinstance(command, Evaluate):
            from meta_rl.cli.training import evaluate

            evaluate(command)
        elif isinstance(command, Enjoy):
            from meta_rl.cli.showing import enjoy

            enjoy(command)
        else:
            from meta_rl.cli.tuning import tune

            tune(command)
