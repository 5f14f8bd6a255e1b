"""The result tables of README.md and of the pages in docs/, made from the results' JSON files.

A table stands between two lines of its page, ``<!-- table: NAME -->`` and
``<!-- end of table -->``; this script fills it with the table of that name. Every number comes from
``benchmarks/results/*.json`` or, for the papers, from ``benchmarks/papers.json``. A test fails
where a page differs.

    python benchmarks/docs_tables.py    # or: make docs-tables
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from docs_tables_agents import (
    last_success,
    linked,
    maml_mark,
    maml_means,
    maml_paper,
    maml_returns,
    maml_rows,
    maml_text,
    metaworld_reach,
    pearl_cell,
    pearl_returns,
    pearl_rows,
    published_log,
    rl2_form,
    rl2_rewards,
    rl2_row,
    with_error,
)
from docs_tables_few_shot import (
    CLINC,
    accuracy,
    clinc,
    compiled_updates,
    few_shot_row,
    learner_results,
    omniglot,
    percent,
    rotations,
)
from docs_tables_front import metaworld_speed, why
from docs_tables_pretrained import pretrained, pretrained_trainings
from docs_tables_suites import is_adopted, suites, suites_front
from result_files import marked, papers, ratios, result, span, table, with_interval
from rl2_table import of_paper

from meta_rl.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"^( *)<!-- table: (.*?) -->\n(?:.*?\n)??\1<!-- end of table -->$", re.MULTILINE | re.DOTALL
)
OPENING = "<!-- table: "


class Row(NamedTuple):
    """A row of the main results.

    Attributes:
        what: Name of what was measured.
        ours: Our number.
        theirs: The paper's or the optimum.
        name: Name of the result.
        suites: Rows of suites in whose place this one stands until all of them are adopted.
        trainings: Number of trainings of this row, which those have to have.
    """

    what: str
    ours: str
    theirs: str
    name: str
    suites: tuple[str, ...] = ()
    trainings: int = 1


def missed(ours: float, bound: float) -> str:
    """A remark where our number is below the one that it is compared with."""
    return " (missed)" if ours < bound else ""


def coverage() -> list[str]:
    """Least and largest coverage of intervals."""
    names = {
        "mean": "mean",
        "iqm": "IQM",
        "over_trainings": "Student's over trainings",
        "bootstrap": "bootstrap over tasks",
    }
    rows = [row for row in result("interval_coverage")["means"] if row["trainings"] > 1]
    lines = [
        [kind, *(span(row[name] for row in rows if row["values"] == kind) for name in names)]
        for kind in dict.fromkeys(row["values"] for row in rows)
    ]
    return table(["values", *names.values()], lines)


def ratio_cells(ours: Sequence[float], theirs: Sequence[float], form: str) -> list[str]:
    """The median ratio and its range over turns."""
    gains = ratios(ours, theirs)
    return [f"{np.median(gains):{form}}", span(gains, form)]


def speed() -> list[str]:
    """Ratios to the peers' steps and training."""
    content = result("speed")
    stepping, training = content["stepping"], content["training"]
    batch, single = "RecurrentPPO, our batch", "RecurrentPPO, DummyVecEnv"
    same = "the same, `RecurrentPPO` on our batched environment"
    lines = [
        [
            "steps of 1,024 Bernoulli bandits, against Gymnasium's `SyncVectorEnv`",
            *ratio_cells(*stepping.values(), ".0f"),
        ]
    ]
    for pulls, against in (
        ("10", "RL² against sb3-contrib's `RecurrentPPO` on its `DummyVecEnv`"),
        ("100", "against `RecurrentPPO` on its `DummyVecEnv`"),
    ):
        figures = training[pulls]
        ours, text = figures["meta_rl RL²"], f"training on trials of {pulls} pulls, {against}"
        lines.append([text, *ratio_cells(ours, figures[single], ".1f")])
        lines.append([same, *ratio_cells(ours, figures[batch], ".1f")])
    return table(["what", "ratio", "range of three turns"], lines)


def robots() -> list[str]:
    """Ratios of steps per second to the peers' robots."""
    content, names = result("throughput"), ("HalfCheetahVel", "AntForwardBackward")
    lines = []
    for text, part, peer, form in (
        ("EnvPool's HalfCheetah-v5, Ant-v5", "peers", "EnvPool", ".2f"),
        ("Gymnasium's `SyncVectorEnv`", "peers", "SyncVectorEnv", ".1f"),
        ("Gymnasium's `AsyncVectorEnv`", "peers", "AsyncVectorEnv", ".1f"),
        (
            "bare `mj_step`, one thread each (which lets MuJoCo's profiler read the clock)",
            "bare",
            "bare mj_step",
            ".2f",
        ),
    ):
        cells = [text]
        for name in names:
            figures = content[part][name]
            cells += ratio_cells(next(iter(figures.values())), figures[peer], form)
        lines.append(cells)
    return table(["against", names[0], "range", names[1], "range"], lines)


def headline() -> list[str]:
    """One row for each of the main results."""
    rows = [*headline_of_agents(), *headline_of_few_shot(), *headline_of_memory()]
    lines = [
        [row.what, row.ours, row.theirs, linked(row.name, row.name)]
        for row in rows
        if not row.suites or not is_adopted(*row.suites, trainings=row.trainings)
    ]
    return table(["what", "ours", "paper or optimum", "files"], lines)


def headline_of_agents() -> list[Row]:
    """Main rows of the agents."""
    ten, hundred = "BernoulliBandit", "BernoulliBandit-n100-k10"
    mdps = "TabularMDP"
    rewards = [with_error(rl2_row(name)["fresh"], rl2_form(name)) for name in (ten, hundred)]
    optimum, rl2 = result("rl2_GridNavigation")["rows"]
    third = {key: rl2[key][2] for key in ("mean", "standard_error")}
    counts = rl2["num_tasks"], rl2.get("distinct_tasks", rl2["num_tasks"])
    velocity, walkers = pearl_rows("HalfCheetahVel")["pearl"], pearl_rows("Walker2dRandParams")
    ours, without = (walkers[name] for name in ("pearl-later", "multi-task"))
    return [
        Row(
            "RL², bandits: total reward of 10 pulls of 10 arms",
            rewards[0],
            f"{of_paper(ten)}",
            "rl2_table",
            (f"rl2-{ten}",),
        ),
        Row(
            "RL², bandits: total reward of 100 pulls of 10 arms",
            rewards[1],
            f"{of_paper(hundred)}",
            "rl2_table",
            (f"rl2-{hundred}",),
        ),
        Row(
            "RL², tabular MDPs, 10 episodes",
            with_error(rl2_row(mdps)["fresh"], rl2_form(mdps)),
            f"{of_paper(mdps)}",
            "rl2_table",
            (f"rl2-{mdps}",),
        ),
        Row(
            marked("RL², GridNavigation, third episode", *counts),
            with_error(third, ".2f"),
            f"{optimum['mean'][2]:.2f}, Bayes-optimal",
            "rl2_GridNavigation",
            ("rl2-GridNavigation",),
        ),
        headline_of_maml("PointNavigation", "PointNavigation"),
        headline_of_maml("HalfCheetahDirMAML", "HalfCheetah forward or backward, MAML's timing"),
        headline_of_maml("HalfCheetahVelMAML", "HalfCheetah's velocity, MAML's timing"),
        Row(
            f"PEARL, HalfCheetah's velocity, after two episodes, {velocity['steps']:,} steps",
            pearl_cell(velocity, 2),
            f"{published_log('HalfCheetahVel', velocity['steps']).split()[-1]}, a published log",
            "pearl_HalfCheetahVel",
            ("pearl-HalfCheetahVel",),
        ),
        Row(
            "PEARL, Walker2d with random dynamics, against no context",
            f"{pearl_cell(ours, 2)}, {without['mean'][2]:.0f} without"
            + missed(ours["mean"][2], without["mean"][2]),
            "",
            "pearl_Walker2dRandParams",
            ("pearl-Walker2dRandParams", "multi_task_sac-Walker2dRandParams"),
        ),
        Row(
            "RL², Meta-World's ML1 reach, success in the third episode",
            " ".join(last_success("rl2", ".0f")),
            "",
            "metaworld_reach",
            ("rl2-MetaWorldML1-reach",),
        ),
    ]


def headline_of_maml(setting: str, name: str) -> Row:
    """The row of MAML-TRPO on a setting."""
    ours, theirs = maml_means(setting)[[1, 3]], np.array(maml_paper(setting))[[1, 3]]
    seeds = len(maml_rows(setting))
    end = f" ({seeds} seeds)" if seeds > 1 else maml_mark(setting)
    return Row(
        f"MAML-TRPO, {name}, after 1 and 3 steps{end}",
        maml_text(setting, ours) + (missed(max(ours - theirs), 0.0)),
        maml_text(setting, theirs),
        f"maml_{setting}",
        (f"maml_trpo-{setting}",),
        seeds,
    )


def headline_of_few_shot() -> list[Row]:
    """Main rows of few-shot learners."""
    paper = {name: text.split()[0] for name, text in papers("few-shot")["rows"].items()}
    proto = [f"protonet/Omniglot-{size}" for size in ("5w1s", "5w5s", "20w1s")]
    maml = [f"maml/Omniglot-{size}" for size in ("5w1s", "5w5s")]
    plain = [f"reptile/Omniglot-{size}-random" for size in ("5w1s", "5w5s")]
    transductive = [f"{name}-transductive" for name in plain]
    siamese = "siamese/Omniglot-20w1s-lake"
    number, _, interval = accuracy(few_shot_row(siamese)["lake"]).partition(" ")
    clinc_row = result("clinc_folds")["results"][CLINC]["matching"]
    gain = clinc_row["gain"][0]

    def listed(text: Callable[[str], str], first: list[str], others: list[str]) -> str:
        parts = [", ".join(map(text, names)) for names in (first, others) if names]
        return "; ".join(parts)

    tables = "few_shot_tables"
    return [
        Row(
            "Prototypical networks, Omniglot: 5 ways 1 shot, 5 shots; 20 ways 1 shot",
            listed(percent, proto[:2], proto[2:]) + " %",
            listed(paper.__getitem__, proto[:2], proto[2:]),
            tables,
            tuple(name.replace("/", "-") for name in proto),
        ),
        Row(
            "MAML, Omniglot, 5 ways, 1 and 5 shots",
            listed(percent, maml, []) + " %",
            listed(paper.__getitem__, maml, []),
            tables,
            tuple(name.replace("/", "-") for name in maml),
        ),
        Row(
            "Reptile, Omniglot, its authors' division, 5 ways, 1 and 5 shots, plain; transductive",
            listed(percent, plain, transductive) + " %",
            listed(paper.__getitem__, plain, transductive),
            tables,
        ),
        Row(
            "Siamese networks, Lake's 20-way one-shot runs",
            f"{number} % {interval}",
            paper[siamese],
            tables,
        ),
        Row(
            "Matching networks, CLINC150's held-out domains, 1 shot, against fine-tuning",
            f"{clinc_row['accuracy'][0][0]:.1f} %, {with_interval(gain[0], gain[1:], '+.1f')}",
            "",
            "clinc_folds",
        ),
    ]


def headline_of_memory() -> list[Row]:
    """Main rows of learners with a memory."""
    rows = result("memory_tables")["rows"]
    presentations = (2, 5)
    rates = rows["mann"]["MANN@0"]["accuracy"]
    paper = papers("MANN")["rows"]
    errors = [row["error"] for name, row in rows["babi"].items() if not name.startswith("en-10k")]
    if len(errors) != 20:
        raise ValueError(f"the mean error on bAbI is of 20 tasks, memory_tables has {len(errors)}")
    return [
        Row(
            "MANN, Omniglot, second and fifth presentation",
            ", ".join(f"{100 * rates[time - 1]:.1f}" for time in presentations) + " %",
            ", ".join(f"{paper[str(time)]}" for time in presentations),
            "memory_tables",
        ),
        Row(
            "Memory networks, bAbI, 1,000 questions, mean error",
            f"{np.mean(errors):.1f} %",
            f"{papers('memory networks')['means']['en']}",
            "memory_tables",
        ),
    ]


TABLES: dict[str, Callable[[], list[str]]] = {
    "why": why,
    "headline": headline,
    "rl2 rewards": rl2_rewards,
    "maml returns": maml_returns,
    "pearl returns": pearl_returns,
    "metaworld reach": metaworld_reach,
    "metaworld speed": metaworld_speed,
    "omniglot": omniglot,
    "rotations": rotations,
    "clinc": clinc,
    "compiled updates": compiled_updates,
    "coverage": coverage,
    "speed": speed,
    "robots": robots,
    **{
        f"results of {', '.join(learners)}": partial(learner_results, *learners)
        for learners in (
            ("maml",),
            ("reptile",),
            ("protonet",),
            ("matching",),
            ("siamese",),
            ("finetune", "scratch", "nearest"),
        )
    },
    "suites front": suites_front,
    "suites": suites,
    "pretrained": pretrained,
    "pretrained trainings": pretrained_trainings,
}
"""The tables by the names in their pages."""


def filled(text: str) -> str:
    """A page with its tables filled in.

    Raises:
        ValueError: A table has no end, or no table has the name.
    """

    def block(match: re.Match[str]) -> str:
        indent, name = match.groups()
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
        lines = [f"{OPENING}{name} -->", "", *TABLES[name](), "", "<!-- end of table -->"]
        return "\n".join(indent + line if line else "" for line in lines)

    found, count = BLOCK.subn(block, text)
    if count != text.count(OPENING):
        raise ValueError(f"{text.count(OPENING) - count} of the page's tables have no end")
    return found


def pages() -> list[Path]:
    """The pages that have tables."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [file for file in files if OPENING in file.read_text(encoding="utf-8")]


def main() -> None:
    """Fills the tables of all pages."""
    for file in pages():
        write_atomically(file, filled(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
