"""Takes finished cells of suites into the repository: their results and, where asked, their agents.

The results go to ``benchmarks/results/suites``, in the layout of ``meta-rl benchmark --out``, with
compressed arrays: ``meta-rl report benchmarks/results/suites`` reads them. The tables of README.md
and docs/ come from them (``make docs-tables``). A cell is adopted only if its files are undamaged,
and if all trainings of its row have the same settings and the same code.

    python -m benchmarks.adopt_cells DIR [DIR ...]
    python -m benchmarks.adopt_cells DIR --rows rl2-GridNavigation
    python -m benchmarks.adopt_cells DIR --pretrained rl2-GridNavigation maml-Sinusoid-10s:1

The last line makes pretrained agents of the rows' trainings with seed 0, and of another one with
seed 1.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from meta_rl.cli.report.packed import packed, unpacked
from meta_rl.cli.report.results import Group, read_results
from meta_rl.cli.run_folder import RunConfig
from meta_rl.cli.suites.identity import digest, file_digest
from meta_rl.cli.suites.jobs import tasks_key
from meta_rl.cli.suites.tables import find_suite, shipped_suites
from meta_rl.cli.trainable import trainable
from meta_rl.cli.training import open_tasks
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.files.checksums import ENTRY, checked_json, read_json
from meta_rl.pretrained import FOLDER, Card, file_name
from meta_rl.provenance import write_atomically

ADOPTED = Path(__file__).parent / "results" / "suites"
MOST_BYTES = 20_000_000
"""Largest size of all pretrained agents together."""
NUM_COMPARED = 8
"""Number of tasks on which an agent without its training data is compared with the original."""
LICENCES = {
    "Babi": "bAbI: CC BY 3.0",
    "Clinc150": "CLINC150: CC BY 3.0",
    "MetaWorldML1": "no data; robots and rewards of Meta-World: MIT",
    "Omniglot": "Omniglot: MIT",
}
"""Licences of the data, by data set or family; all others are simulated or drawn."""

Content = dict[str, Any]


@dataclass
class Args:
    """Cells to adopt."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of suites, as `meta-rl benchmark SUITE --out DIR` writes them."""
    rows: tuple[str, ...] = ()
    """Rows to adopt, such as rl2-GridNavigation (default: all rows with a result)."""
    pretrained: tuple[str, ...] = ()
    """Rows whose training with seed 0 becomes a pretrained agent; ROW:SEED takes another seed."""
    different_code: bool = False
    """Adopt rows whose trainings differ in code or versions, which the report then says."""
    out: Path = ADOPTED
    """Folder of the adopted results."""
    agents: Path = FOLDER
    """Folder of the pretrained agents."""


def row_of(name: str) -> str:
    """Returns the name of a cell's row."""
    return name.rpartition("-seed")[0]


def checked_cell(folder: Path, file: Path) -> Content:
    """Reads the result of a cell, and checks it and its checkpoint.

    Args:
        folder: Folder of the suite.
        file: File of the result.

    Raises:
        ValueError: The file is no result, an evaluation or the checkpoint was changed, or the
            checkpoint is absent.
    """
    content, damage = read_json(file)
    if damage:
        raise ValueError(damage)
    if content.get("kind") != "cell":
        raise ValueError(f"{file} is no result of a cell")
    for split, evaluation in content["evaluations"].items():
        there = {name: part for name, part in evaluation.items() if name != ENTRY}
        if json.loads(checked_json(there))[ENTRY] != evaluation[ENTRY]:
            raise ValueError(f"{file}: the evaluation on {split} tasks was changed")
        EvaluationResult.from_content(evaluation)
    checkpoint = checkpoint_of(folder, content)
    if not checkpoint.exists():
        raise ValueError(f"{file} has no checkpoint {checkpoint}")
    if file_digest(checkpoint) != content["checkpoint_sha256"]:
        raise ValueError(f"{checkpoint} is not the one that {file} describes")
    return content


def checkpoint_of(folder: Path, content: Content) -> Path:
    """Returns the path of a cell's checkpoint."""
    run = f"{content['name']}-{digest(content['identity'])[:8]}"
    return folder / "runs" / run / "checkpoint.zip"


def check_row(name: str, cells: Sequence[Content], different_code: bool) -> None:
    """Refuses a row whose trainings have different settings, code or versions.

    Args:
        name: Name of the row.
        cells: Results of its trainings.
        different_code: Whether code and versions may differ.
    """
    for part in ("settings", *(() if different_code else ("code", "versions"))):
        found: dict[str, list[int]] = defaultdict(list)
        for cell in cells:
            found[json.dumps(own_identity(cell)[part], sort_keys=True)].append(cell["seed"])
        if len(found) > 1:
            seeds = " against ".join(str(sorted(group)) for group in found.values())
            raise ValueError(f"{name}: trainings have different {part}: seeds {seeds}")


def own_identity(cell: Content) -> Content:
    """The identity of a cell, whose settings do not count its seed."""
    config = {k: v for k, v in cell["config"].items() if k != "seed"}
    for name in ("versions", "commit", "threads"):
        config.pop(name, None)
    row = cell["row"]
    settings = [config, row["num_tasks"], row["num_episodes"], row["cores"], cell["device"]]
    return {**cell["identity"], "settings": settings}


def adopted(out: Path) -> dict[str, Content]:
    """Reads the results that were adopted before, by name.

    Raises:
        ValueError: A file was changed.
    """
    found = {}
    for file in sorted((out / "results").glob("*.json")):
        content, damage = read_json(file)
        if damage:
            raise ValueError(damage)
        found[content["name"]] = unpacked(content)
    return found


def take_results(folder: Path, args: Args) -> list[str]:
    """Adopts the rows of a folder; gives their names.

    Earlier results of a row stay if they have the same settings and code as the new ones.
    """
    rows: dict[str, list[Content]] = defaultdict(list)
    for file in sorted((folder / "results").glob("*.json")):
        if not args.rows or row_of(file.stem) in args.rows:
            cell = checked_cell(folder, file)
            rows[row_of(cell["name"])].append(cell)
    before = adopted(args.out)
    for name, cells in rows.items():
        check_row(name, cells, args.different_code)
        new = {cell["name"] for cell in cells}
        for earlier in [one for one in before.values() if row_of(one["name"]) == name]:
            if earlier["name"] in new:
                continue
            try:
                check_row(name, [*cells, earlier], args.different_code)
            except ValueError as error:
                print(f"{error}: {earlier['name']} is dropped")
                (args.out / "results" / f"{earlier['name']}.json").unlink()
        for cell in cells:
            write_cell(cell, args.out)
        copy_reference(folder, cells[0], args.out)
    return list(rows)


def write_cell(cell: Content, out: Path) -> None:
    """Writes a result with packed arrays, and its scores as numbers that can be read."""
    group = Group(row_of(cell["name"]), [cell])
    scores = {split: score.mean for split in cell["evaluations"] if (score := group.score(split))}
    content = packed({**cell, "scores": scores})
    write_atomically(out / "results" / f"{cell['name']}.json", checked_json(content, indent=1))


def copy_reference(folder: Path, cell: Content, out: Path) -> None:
    """Copies the scores of random actions and of the best known policy on the same tasks."""
    key = tasks_key(cell["config"], cell["row"])
    for file in sorted((folder / "references").glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["tasks"] == key:
            text = checked_json(packed(content), indent=1)
            write_atomically(out / "references" / file.name, text)


def write_plan(out: Path) -> None:
    """Writes what the report begins with: the order of the cells is that of the shipped suites."""
    order = [row.name for name in shipped_suites() for row in find_suite(name).rows]
    names = sorted(
        (file.stem for file in (out / "results").glob("*.json")),
        key=lambda name: (order.index(row_of(name)) if row_of(name) in order else len(order), name),
    )
    plan = {
        "name": "suites",
        "title": "Results of all suites",
        "about": "All trainings whose results are in the repository (benchmarks/results/suites).",
        "rows": [],
        "jobs": names,
        "failed": {},
    }
    write_atomically(out / "suite.json", checked_json(plan, indent=1))


def licence_of(config: Content) -> str:
    """Returns the licence of a training's data."""
    family = config["env_id"].removeprefix("meta_rl/").removesuffix("-v0")
    return LICENCES.get(family, "no data: tasks are drawn, and environments are simulated")


def write_agent(checkpoint: Path, config: RunConfig, out: Path) -> None:
    """Copies a checkpoint, without trials or transitions that the agent keeps for its training.

    Args:
        checkpoint: Checkpoint of the training.
        config: Configuration of the training.
        out: Path of the copy.

    Raises:
        ValueError: The agent without them acts in another way.
    """
    model: Any = trainable(config.algorithm).load(checkpoint, device="cpu")
    if hasattr(model, "recent"):  # trials of VariBAD
        model.recent = model.recent[:0, :0, :0]
    elif hasattr(model, "save_replay"):  # transitions of PEARL
        model.save_replay = False
    else:
        shutil.copyfile(checkpoint, out)
        return
    model.save(out)
    tasks = open_tasks(config)
    values = [
        evaluate_adaptation(one, tasks.source, NUM_COMPARED, **tasks.arguments).values
        for one in (model, trainable(config.algorithm).load(out, device="cpu"))
    ]
    if not np.array_equal(*values):
        raise ValueError(f"{out} acts in another way than {checkpoint}")


def card_of(group: Group, training: Content, file: Path) -> Card:
    """Makes the card of a pretrained agent from its row's result."""
    score = group.score()
    assert score is not None
    own = EvaluationResult.from_content(training["evaluations"]["test"])
    values = own.total if group.totals else own.values[:, -1]
    config = training["config"]
    return Card(
        name=f"{config['algorithm']}/{config['tasks']}",
        config=config,
        command=training["command"],
        commit=training["code"]["commit"],
        processor=training["processor"],
        train_seconds=round(training["train_seconds"], 1),
        measure=group.measure,
        split=own.split,
        totals=group.totals,
        num_tasks=own.num_tasks,
        num_episodes=training["row"]["num_episodes"],
        num_trainings=len(group.trainings),
        mean=score.mean,
        interval=None if score.interval is None else list(score.interval),
        before=score.before,
        own_mean=float(values.mean()),
        own_deviation=float(np.std(values, ddof=1)),
        licence=licence_of(config),
        size=file.stat().st_size,
        sha256=file_digest(file),
        result_sha256=training["checkpoint_sha256"],
    )


def take_agent(word: str, args: Args) -> None:
    """Makes a pretrained agent of an adopted row.

    Args:
        word: ``"ROW"`` or ``"ROW:SEED"``.
        args: Folders.

    Raises:
        ValueError: There is no such row or training, or the file is too large.
    """
    name, _, seed = word.partition(":")
    groups = [group for group in read_results(args.out).groups if group.name == name]
    found = [t for group in groups for t in group.trainings if t["seed"] == int(seed or 0)]
    if not found:
        raise ValueError(f"--pretrained {word}: there is no such training in {args.out}")
    places = [checkpoint_of(folder, found[0]) for folder in args.folders]
    checkpoint = next((place for place in places if place.exists()), None)
    if checkpoint is None:
        raise ValueError(f"--pretrained {word}: none of {', '.join(map(str, places))} exists")
    if file_digest(checkpoint) != found[0]["checkpoint_sha256"]:
        raise ValueError(f"{checkpoint} is not the one of the adopted result")
    config = RunConfig(**found[0]["config"])
    base = args.agents / file_name(f"{config.algorithm}/{config.tasks}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "agent.zip")
        write_agent(checkpoint, config, file)
        card = card_of(groups[0], found[0], file)
        others = sum(f.stat().st_size for f in args.agents.glob("*.zip") if f.stem != base.name)
        if others + card.size > MOST_BYTES:
            raise ValueError(f"{checkpoint} has {card.size_text()}, too much for the package")
        args.agents.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, f"{base}.zip")
    write_atomically(f"{base}.json", card.to_json())
    print(f"pretrained {card.name}: {card.measure} {card.score_text()}, {card.size_text()}")


def main(args: Args) -> int:
    """Adopts cells, and prints the core-hours of each row; gives the exit code."""
    try:
        for folder in args.folders:
            for name in take_results(folder, args):
                cells = [c for c in adopted(args.out).values() if row_of(c["name"]) == name]
                hours = Group(name, cells).core_hours
                print(f"{name}: {len(cells)} trainings, {hours:.2f} core-hours")
        write_plan(args.out)
        for word in args.pretrained:
            take_agent(word, args)
    except (ValueError, OSError, KeyError) as error:
        print(f"adopt_cells: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
