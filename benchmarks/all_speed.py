"""All measurements of speed in one command, each ratio beside the committed one.

Runs throughput.py, speed.py, inner_loop_speed.py, pearl_updates.py, stages_speed.py and, where
Meta-World is installed, metaworld_throughput.py, one after the other: each compares contenders that
take turns on this machine, so that ratios can be compared with those of another machine, which
steps per second cannot. A script that fails (a peer is not installed) leaves the others alone.

    python -m benchmarks.all_speed --short    # minutes; without it, about half an hour
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from meta_rl.provenance import package_versions, versions_text, write_atomically

FOLDER = Path(__file__).resolve().parent
SHORT: dict[str, list[str]] = {
    "throughput": ["--seconds", "0.5", "--repeats", "3", "--scaling", "64"],
    "speed": ["--num-steps", "10000"],
    "inner_loop_speed": ["--settings", "sinusoid", "--no-compile", "--turns", "3"],
    "pearl_updates": ["--sizes", "point", "medium", "--seconds", "1"],
    "stages_speed": ["--seconds", "1", "--agents", "RL², bandits of 10 arms"],
    "metaworld_throughput": ["--seconds", "2", "--repeats", "3", "--crowd", "16"],
}
"""Flags of each script for a short run."""


@dataclass
class Args:
    """Settings of the run."""

    scripts: tuple[str, ...] = tuple(SHORT)
    """Names of the scripts, without .py."""
    short: bool = False
    """Whether to measure for a short time: ratios are less certain."""
    out: Path = Path("runs") / "speed"
    """Folder of all_speed.json, all_speed.md and the scripts' own results."""


class Ratio(NamedTuple):
    """Our speed over a peer's.

    Attributes:
        what: Name of the measured quantity, and the peer.
        turns: The ratio in each turn.
    """

    what: str
    turns: np.ndarray

    @property
    def median(self) -> float:
        """Median over turns."""
        return float(np.median(self.turns))


def against_first(what: str, figures: dict[str, list[float]], power: int = 1) -> Iterator[Ratio]:
    """The ratios of the first contender to the others.

    Args:
        what: Name of the measured quantity.
        figures: Figures of each contender, by turn.
        power: 1 for speeds, -1 for times.
    """
    (_, ours), *others = figures.items()
    for name, theirs in others:
        if len(theirs) == len(ours):
            yield Ratio(f"{what}: against {name}", (np.array(ours) / np.array(theirs)) ** power)


def of_throughput(content: dict[str, Any]) -> Iterator[Ratio]:
    """Steps of robots."""
    for part in ("peers", "bare"):
        for name, figures in content[part].items():
            yield from against_first(f"steps, {name}", figures)


def of_speed(content: dict[str, Any]) -> Iterator[Ratio]:
    """Steps and trainings of bandits."""
    yield from against_first("steps, 1,024 bandits", content["stepping"])
    for pulls, figures in content["training"].items():
        yield from against_first(f"training RL² on {pulls} pulls", figures)


def of_inner_loop(content: dict[str, Any]) -> Iterator[Ratio]:
    """Meta-steps: times, in place of speeds."""
    for name, setting in content["results"].items():
        loop, *others = setting["milliseconds"].items()
        for ours in others:
            if ours[0].startswith("meta"):  # the others are peers
                pair = dict([ours, loop])
                yield from against_first(f"meta-step, {name}, {ours[0]}", pair, power=-1)


def of_stages(content: dict[str, Any]) -> Iterator[Ratio]:
    """What remains of the speed of steps with acting, and with training."""
    for name, figures in content["figures"].items():
        for stage in ("acting", "training"):
            pair = {stage: figures[stage], "steps alone": figures["steps"]}
            yield from against_first(f"{name}, {stage}", pair)


def of_pearl(content: dict[str, Any]) -> Iterator[Ratio]:
    """Updates of PEARL."""
    for name, figures in content["figures"].items():
        yield from against_first(f"updates of PEARL, {name}", figures)


def of_metaworld(content: dict[str, Any]) -> Iterator[Ratio]:
    """Steps of Meta-World."""
    for name, figures in content["figures"].items():
        yield from against_first(f"steps of Meta-World, {name}", figures["rates"])


RATIOS: dict[str, Callable[[dict[str, Any]], Iterator[Ratio]]] = {
    "throughput": of_throughput,
    "speed": of_speed,
    "inner_loop_speed": of_inner_loop,
    "pearl_updates": of_pearl,
    "stages_speed": of_stages,
    "metaworld_throughput": of_metaworld,
}
"""Functions that give the ratios in the result of each script."""


def run(script: str, args: Args) -> tuple[list[Ratio], str]:
    """Runs a script; gives its ratios, and the last line of what went wrong (empty: nothing)."""
    flags = SHORT[script] if args.short else []
    command = [sys.executable, str(FOLDER / f"{script}.py"), *flags, "--out", str(args.out)]
    print(" ".join(command), flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout or "nothing was printed").strip().splitlines()
        return [], lines[-1]
    content = json.loads((args.out / f"{script}.json").read_text(encoding="utf-8"))
    return list(RATIOS[script](content)), ""


def committed(script: str) -> dict[str, float]:
    """The medians in the committed result of a script, by what is measured."""
    file = FOLDER / "results" / f"{script}.json"
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return {ratio.what: ratio.median for ratio in RATIOS[script](content)}


def as_rows(script: str, ratios: list[Ratio]) -> list[dict[str, Any]]:
    """The ratios of a script beside the committed ones, as plain data."""
    known = committed(script)
    return [
        {
            "script": script,
            "what": ratio.what,
            "ratio": ratio.median,
            "turns": ratio.turns.tolist(),
            "committed": known.get(ratio.what),
        }
        for ratio in ratios
    ]


def as_markdown(rows: list[dict[str, Any]], failed: dict[str, str], args: Args) -> str:
    """The page."""
    length = "for a short time" if args.short else "in full"
    lines = [
        "# Speed",
        "",
        f"`python -m benchmarks.all_speed`, measured {length}. A ratio is our speed over the "
        "peer's in the same turn: median and range over turns. The scripts' own pages are beside "
        "this one; stages_speed.md has steps, acting and training in three columns.",
        "",
        "| what | ratio | range | committed | now / committed |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        then = row["committed"]
        cells = [row["what"], f"{row['ratio']:.3g}"]
        cells.append(f"{min(row['turns']):.3g} to {max(row['turns']):.3g}")
        cells += ["", ""] if then is None else [f"{then:.3g}", f"{row['ratio'] / then:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{name}.py was not measured: {why}" for name, why in failed.items())]
    return "\n".join([*lines, "", f"{versions_text()}.", ""])


def main(args: Args) -> int:
    """Runs all scripts, and writes the table; gives 1 where none could be measured."""
    unknown = [name for name in args.scripts if name not in SHORT]
    if unknown:
        print(f"scripts are {', '.join(SHORT)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for script in args.scripts:
        ratios, wrong = run(script, args)
        rows += as_rows(script, ratios)
        failed |= {script: wrong} if wrong else {}
    text = as_markdown(rows, failed, args)
    content = {"rows": rows, "failed": failed, "versions": package_versions()}
    write_atomically(args.out / "all_speed.json", json.dumps(content, indent=1) + "\n")
    write_atomically(args.out / "all_speed.md", text)
    print(text)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
