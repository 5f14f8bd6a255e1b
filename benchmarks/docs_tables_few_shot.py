"""The documentation's tables of few-shot learners, from the results' JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from docs_tables_agents import minutes
from result_files import papers, result, table, with_interval

CLINC = "All folds but the one that settings were chosen by"


def few_shot_row(setting: str) -> dict[str, Any]:
    """The row of a shipped setting, LEARNER/SETTING, in few_shot_tables.json."""
    return result("few_shot_tables")["rows"][f"{setting}@0"]


def accuracy(row: dict[str, Any], form: str = ".1f", column: int = -1) -> str:
    """An accuracy in % (default: the last one), and its interval."""
    interval = [100 * bound for bound in row["interval"][column]]
    return with_interval(100 * row["mean"][column], interval, form)


def percent(setting: str, column: int = -1) -> str:
    """An accuracy in % alone."""
    return f"{100 * few_shot_row(setting)['mean'][column]:.1f}"


def omniglot_cells(learner: str, end: str, sizes: Sequence[str], of_paper: bool) -> list[str]:
    """Ours and the paper's, for 5 ways with 1 and 5 shots and for 20 ways."""
    cells = []
    for size in ("5w1s", "5w5s", "20w1s"):
        setting = f"{learner}/Omniglot-{size}{end}"
        known = size in sizes
        cells.append(accuracy(few_shot_row(setting)) if known else "")
        cells.append(papers("few-shot")["rows"].get(setting, "") if known and of_paper else "")
    return cells


def omniglot() -> list[str]:
    """Accuracies on Omniglot beside the papers'."""
    one, two = ("5w1s",), ("5w1s", "5w5s")
    lines = []
    for name, learner, end, sizes, of_paper in (
        ("prototypical networks", "protonet", "", (*two, "20w1s"), True),
        ("matching networks", "matching", "", two, True),
        ("MAML, convolutions", "maml", "", two, True),
        ("MAML, fully connected", "maml", "-mlp", one, True),
        (
            "Reptile, plain, its authors' division of the characters",
            "reptile",
            "-random",
            two,
            True,
        ),
        ("Reptile, transductive, the same", "reptile", "-random-transductive", two, True),
        ("Reptile, plain, Vinyals' division", "reptile", "", two, False),
        ("Reptile, transductive, Vinyals' division", "reptile", "-transductive", two, False),
        ("fine-tuning of a head", "finetune", "", one, False),
    ):
        row = few_shot_row(f"{learner}/Omniglot-5w1s{end}")
        time = minutes(row["seconds"]) + " of a GPU" * (row["device"] == "cuda")
        time = "the same" if "trained_as" in row else time
        lines.append([name, *omniglot_cells(learner, end, sizes, of_paper), time])
    heads = ["learner", "5 ways, 1 shot (%)", "paper", "5 ways, 5 shots", "paper"]
    return table([*heads, "20 ways, 1 shot", "paper", "training"], lines)


def rotations() -> list[str]:
    """Accuracies with and without rotated test characters."""
    lines = []
    for name, setting in (
        ("prototypical networks, 5 ways, 1 shot", "protonet/Omniglot-5w1s"),
        ("prototypical networks, 20 ways, 1 shot", "protonet/Omniglot-20w1s"),
        ("MAML, convolutions, 5 ways, 1 shot", "maml/Omniglot-5w1s"),
        ("MAML, convolutions, 5 ways, 5 shots", "maml/Omniglot-5w5s"),
        ("MAML, fully connected, 5 ways, 1 shot", "maml/Omniglot-5w1s-mlp"),
    ):
        without = 100 * few_shot_row(setting)["not_turned"]["mean"][-1]
        lines.append([name, f"{without:.1f}", percent(setting)])
    return table(["learner", "accuracy without rotations (%)", "with rotations (%)"], lines)


def clinc() -> list[str]:
    """Accuracies on CLINC150 and their differences to fine-tuning."""
    lines = []
    rows = result("clinc_folds")["results"][CLINC]
    best = [max(row["accuracy"][shots][0] for row in rows.values()) for shots in range(2)]
    for name, learner in (
        ("prototypical networks", "protonet"),
        ("matching networks", "matching"),
        ("MAML (ANIL, empty heads)", "maml"),
        ("fine-tuning of a head", "finetune"),
        ("nearest neighbour", "nearest"),
    ):
        row, cells = rows[learner], [name]
        for shots, (mean, *interval) in enumerate(row["accuracy"]):
            text = with_interval(mean, interval)
            number, _, rest = text.partition(" ")
            cells.append(f"**{number}** {rest}" if mean == best[shots] else text)
            gain = row["gain"][shots] if "gain" in row else None
            cells.append(with_interval(gain[0], gain[1:], "+.1f") if gain else "")
        trained = few_shot_row(f"{learner}/Clinc150-5w1s")
        lines.append([*cells, minutes(trained["seconds"]) if trained["iterations"] else ""])
    heads = ["learner", "1 shot (%)", "less fine-tuning, same tasks", "5 shots"]
    return table([*heads, "less fine-tuning", "training, half a core"], lines)


def compiled_updates() -> list[str]:
    """Gains of compiled updates on one thread."""
    names = {
        "maml/Sinusoid-10s": "MAML, sinusoids",
        "maml/Omniglot-5w1s-mlp": "MAML, Omniglot, fully connected",
        "maml/Omniglot-5w1s": "MAML, Omniglot, convolutions",
        "reptile/Omniglot-5w1s": ("Reptile, Omniglot, convolutions, whose gradient is written out"),
    }
    rows = {r["setting"]: r for r in result("compiled_updates")["rows"] if r["threads"] == 1}
    lines = [
        [name, with_interval(rows[setting]["ratio"], rows[setting]["range"], ".2f")]
        for setting, name in names.items()
    ]
    return table(["learner", "times as fast"], lines)


def learner_results(*learners: str) -> list[str]:
    """All settings of learners in few_shot_tables.json, beside the papers."""
    lines = []
    for key, row in sorted(result("few_shot_tables")["rows"].items()):
        setting = key.removesuffix("@0")
        if setting.partition("/")[0] not in learners or setting == key:
            continue
        shown = setting if len(learners) > 1 else setting.partition("/")[2]
        known = papers("few-shot")["rows"].get(setting, "")
        lines.append([shown, _after(row), known, _remarks(row), _training(row)])
    return table(["setting", "result", "paper", "further", "training"], lines)


def _after(row: dict[str, Any]) -> str:
    """The result at the last point of adaptation, in % for accuracies."""
    point = row["points"][-1]
    number = accuracy(row) if row["measure"] == "accuracy" else _error(row)
    percent_sign = " %" if row["measure"] == "accuracy" else ""
    return f"{number}{percent_sign} after {point} {row['unit']}{'' if point == 1 else 's'}"


def _error(row: dict[str, Any]) -> str:
    return with_interval(row["mean"][-1], row["interval"][-1], ".3f")


def _remarks(row: dict[str, Any]) -> str:
    remarks = []
    if "not_turned" in row:
        remarks.append(f"{100 * row['not_turned']['mean'][-1]:.1f} without rotations")
    if "lake" in row:
        remarks.append(f"Lake's runs {accuracy(row['lake'])} %")
    if "out_of_scope_auroc" in row:
        remarks.append(f"AUROC out of scope {row['out_of_scope_auroc']:.3f}")
    return "; ".join(remarks)


def _training(row: dict[str, Any]) -> str:
    if "trained_as" in row:
        return f"that of {row['trained_as'].partition('/')[2]}"
    if not row["iterations"]:
        return "none"
    place = " of a GPU" * (row["device"] == "cuda")
    return f"{row['iterations']:,} updates, {minutes(row['seconds'])}{place}"
