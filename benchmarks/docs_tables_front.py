"""The table of README.md that compares meta_rl with other code, from the results' JSON files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from docs_tables_agents import maml_means, maml_paper
from result_files import ratios, result, table

FOLDER = "benchmarks/results"


def times(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median ratio of two rates, with two digits at least."""
    ratio = float(np.median(ratios(ours, theirs)))
    return f"{ratio:.1f}" if ratio < 20 else f"{ratio:.0f}"


def robots_line() -> list[str]:
    """Steps of robots, against the batches that other code uses."""
    figures = result("throughput")["peers"]["HalfCheetahVel"]
    ours = next(iter(figures.values()))
    cells = [
        f"{times(ours, figures[peer])} × {name}"
        for peer, name in (
            ("EnvPool", "EnvPool"),
            ("SyncVectorEnv", "`SyncVectorEnv`"),
            ("AsyncVectorEnv", "`AsyncVectorEnv`"),
        )
    ]
    return ["steps a second of 64 HalfCheetahs", ", ".join(cells), "throughput"]


def metaworld_line() -> list[str]:
    """Steps of Meta-World, against EnvPool and Meta-World's own batch."""
    cells = []
    for num_envs, peers in ((64, ["EnvPool"]), (16, ["EnvPool", "Meta-World"])):
        rates = metaworld_rates(f"ML1 reach, {num_envs} sub-environments")
        ours = next(iter(rates.values()))
        texts = [
            f"{times(ours, rates[peer])} × {peer if peer == 'EnvPool' else 'its own batch'}"
            for peer in peers
        ]
        cells.append(f"{', '.join(texts)} ({num_envs})")
    return ["steps a second of Meta-World's reach", "; ".join(cells), "metaworld_throughput"]


def metaworld_rates(part: str) -> dict[str, list[float]]:
    """Steps per second of Meta-World's contenders in each turn."""
    rates: dict[str, list[float]] = result("metaworld_throughput")["figures"][part]["rates"]
    return rates


def metaworld_speed() -> list[str]:
    """Steps per second of Meta-World's batches, and the ratio of ours to the others'."""
    heads = ["batch", "meta_rl, native", "EnvPool", "Meta-World's own", "our processes"]
    lines = []
    for part in result("metaworld_throughput")["figures"]:
        rates = metaworld_rates(part)
        ours = rates["meta_rl, native"]
        cells = [part, f"{np.median(ours):,.0f}"]
        for peer in ("EnvPool", "Meta-World", "meta_rl, processes"):
            known = peer in rates
            cells.append(
                f"{np.median(rates[peer]):,.0f} (ours: {times(ours, rates[peer])} ×)"
                if known
                else ""
            )
        lines.append(cells)
    return table(heads, lines)


def recurrent_line() -> list[str]:
    """Training of RL² on trials of ten pulls."""
    figures = result("speed")["training"]["10"]
    ratio = times(figures["meta_rl RL²"], figures["RecurrentPPO, DummyVecEnv"])
    return ["training of RL² on bandits", f"{ratio} × sb3-contrib's `RecurrentPPO`", "speed"]


def pearl_line() -> list[str]:
    """Updates of PEARL on a GPU, against the code of its authors."""
    figures = result("pearl_updates_gpu")["figures"]
    robot, paper = (times(figures[k]["meta_rl"], figures[k]["oyster"]) for k in ("robot", "paper"))
    cell = f"{robot} × its authors' code; {paper} × with the paper's networks"
    return ["updates of PEARL on a GPU", cell, "pearl_updates_gpu"]


def meta_gradient_line() -> list[str]:
    """Meta-gradients of MAML, against learn2learn."""
    content = result("inner_loop_speed")["results"]
    plain, compiled = "meta_gradient", "meta_gradient, compiled"

    def ratio(setting: str, contender: str) -> str:
        figures = content[setting]["milliseconds"]
        return times(figures["learn2learn"], figures[contender])

    cell = (
        f"{ratio('sinusoid', plain)} × learn2learn on sinusoids (compiled "
        f"{ratio('sinusoid', compiled)}), {ratio('omniglot_mlp', plain)} × on Omniglot's MLP "
        f"(compiled {ratio('omniglot_mlp', compiled)}), {ratio('conv4', plain)} × on convolutions"
    )
    return ["meta-gradients of MAML on a CPU", cell, "inner_loop_speed"]


def paper_line() -> list[str]:
    """Returns of MAML-TRPO, beside its paper."""
    ours, paper = maml_means("PointNavigation"), maml_paper("PointNavigation")
    cell = f"{ours[1]:.1f}, {ours[3]:.1f} (paper: {paper[1]:.1f}, {paper[3]:.1f})"
    return ["MAML-TRPO, PointNavigation, return after 1, 3 steps", cell, "maml_PointNavigation"]


def why() -> list[str]:
    """Six lines: what was measured, the ratio or the result, and its file."""
    lines = [robots_line(), metaworld_line(), recurrent_line(), pearl_line()]
    lines += [meta_gradient_line(), paper_line()]
    rows = [[what, cell, f"[{name}]({FOLDER}/{name}.md)"] for what, cell, name in lines]
    return table(["what", "meta_rl", "measured in"], rows)
