"""Memory-augmented learners beside the numbers of their papers: NTM, MANN, memory networks.

Trainings keep checkpoints: run the same command again and one that was cut off, or stopped by
``--max-minutes``, goes on; one that is finished is only evaluated. Results are written as soon as
they are there, beside those of earlier calls.

    python benchmarks/memory_tables.py --parts copy            # NTM and LSTM, and the pictures
    python benchmarks/memory_tables.py --parts mann
    python benchmarks/memory_tables.py --parts babi --babi-tasks 1 4 6 --restarts 10
    python benchmarks/memory_tables.py --parts babi --version en-10k --restarts 1
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from result_files import RESULTS, add_to_table, notes, page, papers, read, span, table

from meta_rl.compute.device_work import FasterUpdates
from meta_rl.few_shot import Omniglot
from meta_rl.few_shot.data.babi import NUM_TASKS, Babi
from meta_rl.few_shot.data.sequences import CopyTasks
from meta_rl.few_shot.evaluation import final_scores
from meta_rl.few_shot.learner import FewShotLearner, task_loss
from meta_rl.few_shot.learners.mann import MANN
from meta_rl.few_shot.learners.memory_network import MemoryNetworkLearner
from meta_rl.few_shot.learners.sequence_learner import LSTMLearner, NTMLearner
from meta_rl.provenance import git_commit, write_atomically

LENGTHS = (20, 40, 80, 120)
PAPER_MANN = {int(time): share for time, share in papers("MANN")["rows"].items()}
PAPER_BABI = papers("memory networks")
EVALUATION_SEED = 1000


@dataclass
class Args:
    """Settings of the run."""

    parts: tuple[str, ...] = ("copy", "mann", "babi")
    """Parts to run: copy, mann, babi."""
    seed: int = 0
    """Seed of the training; restarts on bAbI count on from it. The evaluation has seed 1000."""
    copy_iterations: int = 20_000
    """Number of updates of NTM and LSTM, each on 16 sequences."""
    controller: str = "lstm"
    """Controller of the NTM: lstm or feedforward."""
    mann_iterations: int = 100_000
    """Number of updates of MANN, each on 16 episodes."""
    babi_epochs: int = 100
    """Number of passes over the training questions of bAbI."""
    babi_tasks: tuple[int, ...] = ()
    """Tasks of bAbI (default: all, without 3 in en-10k, whose training file is missing)."""
    version: str = "en"
    """Version of bAbI: en (1,000 questions) or en-10k."""
    restarts: int = 10
    """Number of trainings for each task of bAbI; that of the lowest training loss is tested."""
    num_tasks: int = 500
    """Number of test sequences of each length, and of test episodes."""
    max_minutes: float = 90.0
    """Minutes of each training in this call."""
    root: Path | None = None
    """Folder of data sets (default: META_RL_DATA)."""
    runs: Path = Path("runs/memory_tables")
    """Folder of the checkpoints."""
    out: Path = RESULTS
    """Folder of memory_tables.json, memory_tables.md and the pictures."""
    device: str = "auto"
    """PyTorch device of the learners; auto takes a GPU where there is one."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    cuda_graph: bool = False
    """Whether to record updates of MANN as CUDA graphs."""


def trained(
    name: str, make: Callable[[], FewShotLearner], tasks: Any, iterations: int, args: Args
) -> tuple[Any, dict[str, Any]]:
    """A learner, trained or trained on, and what there is to say about it."""
    path, clock = args.runs / f"{name}.zip", args.runs / f"{name}.seconds.json"
    learner = make()
    if path.exists():
        learner = type(learner).load(path, device=args.device)
    before = read(clock, 0.0)
    began = saved = time.monotonic()

    def watch(learner: FewShotLearner) -> bool:
        nonlocal saved
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            keep()
        return time.monotonic() - began < 60 * args.max_minutes

    def keep() -> None:
        learner.save(path)
        write_atomically(clock, json.dumps(before + time.monotonic() - began))

    remaining = iterations - learner.num_iterations
    if remaining > 0:
        learner.learn(
            tasks,
            remaining,
            callback=watch,
            log_interval=None,
            reset_num_iterations=False,
            cuda_graph=args.cuda_graph and isinstance(learner, FasterUpdates),
        )
        keep()
    about = {
        "iterations": learner.num_iterations,
        "iterations_wanted": iterations,
        "minutes": read(clock, 0.0) / 60,
        "device": str(learner.device),
        "threads": args.threads,
        "seed": args.seed,
        "commit": git_commit(),
    }
    return learner, about


def run_copy(args: Args) -> Iterator[dict[str, Any]]:
    """Bits per sequence at all lengths, of NTM, then of LSTM, and the pictures."""
    tasks = CopyTasks((1, 20))
    sizes = (tasks.input_size, tasks.output_size)
    shared: dict[str, Any] = {"meta_lr": [1e-3, 1e-4], "seed": args.seed}
    makers: dict[str, Callable[[], FewShotLearner]] = {
        f"NTM ({args.controller})": lambda: NTMLearner(
            *sizes, controller=args.controller, device=args.device, **shared
        ),
        "LSTM": lambda: LSTMLearner(*sizes, device=args.device, **shared),
    }
    rows: dict[str, Any] = {}
    for name, make in makers.items():
        file = f"copy-{name.lower().replace(' ', '-')}-seed{args.seed}"
        learner, about = trained(file, make, tasks, args.copy_iterations, args)
        bits = [
            learner.bits_per_sequence(
                CopyTasks((length, length)), args.num_tasks, np.random.default_rng(EVALUATION_SEED)
            )
            for length in LENGTHS
        ]
        row = {f"{name}@{args.seed}": about | {"bits": bits, "num_tasks": args.num_tasks}}
        rows |= row
        if isinstance(learner, NTMLearner):
            picture_of_attention(learner, args.out / "ntm_attention.png")
        picture_of_lengths(rows, args.out / "ntm_copy.png")
        yield row


def picture_of_attention(learner: NTMLearner, path: Path) -> None:
    """Weights of the writing and of the reading head over the slots, in a copy of length 20."""
    batch = CopyTasks((20, 20)).sample_tasks(1, np.random.default_rng(EVALUATION_SEED))
    weights = learner.attention(batch)[0].cpu().numpy()
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    for column, (head, title) in enumerate(((1, "writing head"), (0, "reading head"))):
        axes = figure.add_subplot(1, 2, column + 1)
        axes.imshow(weights[:, head].T, aspect="auto", cmap="gray", vmin=0, vmax=1)
        axes.axvline(20.5, color="tab:orange", linewidth=1)
        axes.set(title=title, xlabel="step (line: the end marker)", ylabel="slot of the memory")
    figure.savefig(path, dpi=120)


def picture_of_lengths(rows: dict[str, Any], path: Path) -> None:
    """Bits per sequence over length."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, row in rows.items():
        axes.plot(LENGTHS, row["bits"], marker="o", label=name.partition("@")[0])
    axes.plot(LENGTHS, [8 * length for length in LENGTHS], "k:", label="guessing")
    axes.set(xlabel="length (trained up to 20)", ylabel="bits per sequence", yscale="symlog")
    axes.legend()
    figure.savefig(path, dpi=120)


def run_mann(args: Args) -> Iterator[dict[str, Any]]:
    """Accuracy by presentation on held-out characters."""
    tasks = Omniglot(args.root, ways=5, shots=1, queries=9, size=20, train_on_validation=True)
    learner, about = trained(
        f"mann-seed{args.seed}",
        lambda: MANN(5, seed=args.seed, device=args.device),
        tasks,
        args.mann_iterations,
        args,
    )
    rng = np.random.default_rng(EVALUATION_SEED)
    test = tasks.test.to(learner.device)
    rates = learner.accuracy_by_presentation(test, args.num_tasks, rng)
    yield {f"MANN@{args.seed}": about | {"accuracy": rates.tolist(), "num_tasks": args.num_tasks}}


def run_babi(args: Args) -> Iterator[dict[str, Any]]:
    """Test error of the restart with the lowest training loss, for each task."""
    missing = {3} if args.version == "en-10k" else set()
    wanted = args.babi_tasks or tuple(sorted(set(range(1, NUM_TASKS + 1)) - missing))
    for number in wanted:
        tasks = Babi(number, args.version, args.root)
        tries = [
            babi_restart(number, tasks, args.seed + index, args) for index in range(args.restarts)
        ]
        best = min(tries, key=lambda row: row["train_loss"])
        errors = [row["error"] for row in tries]
        print(f"bAbI {args.version} task {number}: {best['error']:.1f} %", flush=True)
        yield {f"{args.version}-{number}": best | {"restarts": args.restarts, "errors": errors}}


def babi_restart(number: int, tasks: Babi, seed: int, args: Args) -> dict[str, Any]:
    """One training on a task."""
    learner, about = trained(
        f"babi-{args.version}-qa{number}-seed{seed}",
        lambda: MemoryNetworkLearner(len(tasks.vocabulary), seed=seed, device=args.device),
        tasks,
        -(-args.babi_epochs * len(tasks.train) // 32),
        args,
    )
    drawn = tasks.train.tasks.to(learner.device)
    with torch.no_grad():
        logits = learner.outputs(drawn.query_x, learner.adapt(drawn.support))
        loss = float(task_loss(logits, drawn.query_y))
    scores = final_scores(learner, tasks.test, len(tasks.test), seed=EVALUATION_SEED)
    return about | {"seed": seed, "train_loss": loss, "error": 100 * float(1 - scores.mean())}


def markdown(rows: dict[str, dict[str, Any]], file: Path) -> str:
    """The page of all results so far.

    Args:
        rows: Rows by part and name.
        file: Path of the JSON file, which has the notes beside it.
    """
    return page(
        "Memory-augmented learners beside their papers",
        "By `python benchmarks/memory_tables.py`. Iterations done, of those wanted.",
        *_copy_blocks(rows.get("copy", {}), file),
        *_mann_blocks(rows.get("mann", {})),
        *_babi_blocks(rows.get("babi", {}), file),
        versions=False,
    )


def _copy_blocks(rows: dict[str, Any], file: Path) -> list[str | list[str]]:
    if not rows:
        return []
    lines = [
        [name.partition("@")[0], *(f"{value:.3f}" for value in row["bits"]), _training(row)]
        for name, row in sorted(rows.items())
    ]
    lengths = [f"length {length}" for length in LENGTHS]
    return [
        "## Copy: bits per sequence",
        table(["learner", *lengths, "training"], lines),
        notes(file, "copy"),
    ]


def _mann_blocks(rows: dict[str, Any]) -> list[str | list[str]]:
    if not rows:
        return []
    lines = [["paper", *(f"{value:.1f}" for value in PAPER_MANN.values()), "100,000 episodes"]]
    for row in rows.values():
        ours = [f"{100 * row['accuracy'][time - 1]:.1f}" for time in PAPER_MANN]
        lines.append(["ours", *ours, _training(row)])
    heads = ["", *map(str, PAPER_MANN), "training"]
    return ["## MANN on Omniglot: accuracy (%) by presentation", table(heads, lines)]


def _babi_blocks(rows: dict[str, Any], file: Path) -> list[str | list[str]]:
    blocks: list[str | list[str]] = []
    alone, full = PAPER_BABI["PE"], PAPER_BABI["PE LS RN"]
    for version, paper_mean in PAPER_BABI["means"].items():
        parts = {key.rpartition("-")[::2]: row for key, row in rows.items()}
        ours = {int(number): row for (of, number), row in parts.items() if of == version}
        if not ours:
            continue
        lines = [
            [
                f"{n}",
                f"{row['error']:.1f}",
                f"{span(row['errors'], '.1f')} ({row['restarts']})",
                f"{full[n - 1]:.1f}" if n <= len(full) else "",
                f"{alone[n - 1]:.1f}",
                _training(row),
            ]
            for n, row in sorted(ours.items())
        ]
        heads = ["task", "ours", "all restarts", "paper, 1k: PE + LS + RN", "paper, 1k: PE"]
        mean = float(np.mean([row["error"] for row in ours.values()]))
        blocks += [
            f"## bAbI {version}: test error (%), best of restarts by training loss",
            table([*heads, "training"], lines),
            notes(file, f"babi {version}"),
            f"Mean over {len(ours)} tasks: {mean:.1f}; the paper's over all: {paper_mean}.",
        ]
    return blocks


def _training(row: dict[str, Any]) -> str:
    return (
        f"{row['iterations']} of {row['iterations_wanted']} iterations, seed {row['seed']}, "
        f"{row['minutes']:.1f} min, {row['device']}"
    )


def main(args: Args) -> None:
    """Runs the parts."""
    parts = {"copy": run_copy, "mann": run_mann, "babi": run_babi}
    unknown = sorted(set(args.parts) - set(parts))
    if unknown:
        raise SystemExit(f"parts are {', '.join(parts)}, got {', '.join(unknown)}")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "memory_tables.json"
    for part in args.parts:
        for rows in parts[part](args):
            add_to_table(file, rows, partial(markdown, file=file), part)
    print(file.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(tyro.cli(Args))
