"""The documentation's tables of agents: RL², MAML-TRPO and PEARL, from the results' JSON files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from docs_tables_suites import is_adopted
from result_files import REPEATED, papers, result, span, table, with_interval
from rl2_table import SETTINGS, of_paper

MAML_SETTINGS = {
    "PointNavigation": "",
    "HalfCheetahDirMAML": "",
    "HalfCheetahVelMAML": "",
    "HalfCheetahDir": "",
    "HalfCheetahVel": "",
    "AntDir": " (still rising)",
    "AntVel": " (cut off)",
}
"""Settings of MAML-TRPO, and a remark on their returns."""


def with_error(figures: Mapping[str, float], form: str) -> str:
    """A mean and its standard error."""
    return f"{figures['mean']:{form}} ± {figures['standard_error']:{form}}"


def minutes(seconds: float) -> str:
    """A wall time."""
    return f"{seconds / 60:.0f} min"


def millions(steps: float, form: str = ".0f") -> str:
    """A number of environment steps."""
    return f"{steps / 1e6:{form}} M"


def linked(text: str, name: str, folder: str = "../benchmarks/results") -> str:
    """A link to the page of a result."""
    return f"[{text}]({folder}/{name}.md)"


def rl2_row(setting: str) -> dict[str, Any]:
    """The row of a setting in rl2_table.json."""
    (row,) = (row for row in result("rl2_table") if row["setting"] == setting)
    return row


def rl2_form(setting: str) -> str:
    """The format of a setting's rewards: short trials have two digits after the point."""
    return ".2f" if SETTINGS[setting][1].startswith("10 pulls") else ".1f"


def rl2_rewards() -> list[str]:
    """Rewards of RL² beside the Gittins index and the paper."""
    rows = []
    for setting, (name, column, _) in SETTINGS.items():
        if is_adopted(f"rl2-{setting}"):
            continue
        row, form = rl2_row(setting), rl2_form(setting)
        rows.append(
            [
                column if "bandits" in name else f"tabular MDPs, {column}",
                with_error(row["fresh"], form),
                with_error(row["gittins_fresh"], form) if "gittins_fresh" in row else "",
                f"{of_paper(setting)}",
                millions(row["total_timesteps"]),
                minutes(row["train_seconds"]),
            ]
        )
    heads = ["setting", "RL²", "Gittins index, same tasks", "RL² in the paper"]
    return table([*heads, "steps", "wall time"], rows)


def maml_rows(setting: str) -> list[dict[str, Any]]:
    """The trainings of MAML on a setting."""
    return [row for row in result(f"maml_{setting}") if row["learner"] == "maml"]


def maml_means(setting: str) -> np.ndarray:
    """Returns after 0 to 3 gradient steps, means over the trainings."""
    return np.mean([row["evaluation"]["mean"] for row in maml_rows(setting)], axis=0)


def maml_paper(setting: str) -> list[float]:
    """The paper's returns after 0 to 3 gradient steps; none where it has no such setting."""
    return papers("MAML-TRPO")["rows"].get(setting, {}).get("maml", [])


def maml_mark(setting: str) -> str:
    """The mark of an evaluation that counts tasks several times."""
    figures = [row["evaluation"] for row in maml_rows(setting)]
    repeated = any(f.get("distinct_tasks", f["num_tasks"]) < f["num_tasks"] for f in figures)
    return f" {REPEATED}" if repeated else ""


def maml_text(setting: str, returns: Sequence[float]) -> str:
    """Returns as text; those of the point have a digit after the point."""
    form = ".1f" if setting == "PointNavigation" else ".0f"
    return ", ".join(f"{value:{form}}" for value in returns)


def maml_returns() -> list[str]:
    """Returns of MAML-TRPO after 0 to 3 gradient steps, beside the paper."""
    lines = []
    for setting, remark in MAML_SETTINGS.items():
        rows = maml_rows(setting)
        if is_adopted(f"maml_trpo-{setting}", trainings=len(rows)):
            continue
        times = sorted({minutes(row["seconds"]) for row in rows})
        lines.append(
            [
                linked(setting, f"maml_{setting}") + maml_mark(setting),
                f"{len(rows)}",
                maml_text(setting, maml_means(setting)) + remark,
                maml_text(setting, maml_paper(setting)),
                millions(rows[0]["timesteps"]),
                " to ".join(times).replace(" min to", " to"),
            ]
        )
    return table(["setting", "seeds", "ours", "the paper", "steps", "wall time"], lines)


def pearl_rows(setting: str) -> dict[str, Any]:
    """The rows of the learners; without intervals where the test tasks are two directions."""
    content = result(f"pearl_{setting}")
    for learner, row in content["rows"].items():
        if len(content["values"][learner]) == 2:
            row["interval"] = [None] * len(row["mean"])
    return content["rows"]


def pearl_cell(row: dict[str, Any], episode: int, form: str = ".0f") -> str:
    """The return of an episode with its interval, where it has one."""
    mean, interval = row["mean"][episode], row["interval"][episode]
    return f"{mean:{form}}" if interval is None else with_interval(mean, interval, form)


def published_log(setting: str, steps: int) -> str:
    """The last return of the published log up to a number of steps; none where it has none."""
    points = papers("PEARL log")["rows"].get(setting, [])
    known = [(at, earned) for at, earned in points if at <= steps]
    if not known:
        return ""
    at, earned = known[-1]
    return f"published log {earned:.0f}" + (f" at {at:,} steps" if at != steps else "")


def others_of_pearl(rows: dict[str, Any], steps: int) -> list[str]:
    """The learners beside PEARL, after two episodes."""
    texts = []
    for learner, name in (("multi-task", "without context"), ("oracle", "told the task")):
        if learner in rows:
            other = rows[learner]
            at = f" at {other['steps']:,} steps" if other["steps"] != steps else ""
            texts.append(f"{name} {pearl_cell(other, 2)}{at}")
    return texts


def pearl_returns() -> list[str]:
    """Returns of PEARL before and after two episodes of exploration."""
    folder, lines = "../../benchmarks/results", [pearl_point()]
    for setting in (
        "HalfCheetahVel",
        "HalfCheetahVel-paper",
        "HalfCheetahDir-paper",
        "Walker2dRandParams",
        "Walker2dRandParams-paper",
    ):
        name = setting.removesuffix("-paper")
        rows = pearl_rows(setting)
        pearl = rows["pearl"]
        compared = [*others_of_pearl(rows, pearl["steps"]), published_log(name, pearl["steps"])]
        label = name + ", paper's sizes" * setting.endswith("-paper")
        lines.append(
            [
                linked(label, f"pearl_{setting}", folder),
                f"{pearl['steps']:,}",
                f"{pearl['mean'][0]:.0f}",
                pearl_cell(pearl, 2),
                "; ".join(filter(None, compared)),
            ]
        )
    heads = ["environment", "steps", "first episode", "after two episodes", "for comparison"]
    return table(heads, lines)


def pearl_point() -> list[str]:
    """The row of SparsePointNavigation, whose paths to a fixed point are compared too."""
    name = "pearl_SparsePointNavigation"
    content = result(name)
    pearl, without = (content["rows"][learner] for learner in ("pearl", "multi-task"))
    point = content["one_point"]
    return [
        linked("SparsePointNavigation", name, "../../benchmarks/results"),
        f"{pearl['steps']:,}",
        f"{pearl['mean'][0]:.2f}",
        f"{pearl_cell(pearl, 2, '.2f')}; after five {pearl_cell(pearl, 5, '.2f')}",
        f"without context {without['mean'][2]:.2f}; the best single training goal "
        f"{with_interval(point['mean'], point['interval'], '.2f')}; the known goal "
        f"{point['known_goal']:.2f}",
    ]


def metaworld_row(agent: str) -> dict[str, Any]:
    """The row of an agent in metaworld_reach.json."""
    (row,) = (row for row in result("metaworld_reach") if row["agent"] == agent)
    return row


def last_success(agent: str, form: str = ".1f") -> tuple[str, str]:
    """Success in the last episode, in %, and the bounds of its interval."""
    row = metaworld_row(agent)
    bounds = [100 * bound for bound in row["success_interval"][-1]]
    return f"{100 * row['success'][-1]:{form}} %", f"({span(bounds, form)})"


def metaworld_reach() -> list[str]:
    """Success of the agents in each episode."""
    lines = []
    for agent, name, remark in (
        ("rl2", "RL²", ""),
        ("maml_trpo", "MAML-TRPO, a gradient step after every episode", " (cut off)"),
        ("pearl", "PEARL", ""),
    ):
        row = metaworld_row(agent)
        first = ", ".join(f"{100 * share:.1f} %" for share in row["success"][:-1])
        last, interval = last_success(agent)
        steps = millions(row["timesteps"], ".1f") + remark
        lines.append([name, f"{first}, {last} {interval}", steps, minutes(row["seconds"])])
    return table(["agent", "success", "steps", "wall time"], lines)
