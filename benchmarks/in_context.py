"""Agents that learn in context from data, on held-out tasks, beside experts and source algorithms.

``DarkRoom``: returns of ten episodes on the held-out goals, of algorithm distillation, of DPT and
of the algorithms that they learned from, beside the shortest path. ``GaussianBandit``: cumulative
regret of DPT beside Thompson sampling with the true prior, on the same 1,000 held-out bandits.
Trains with the shipped settings. A training keeps its checkpoint in the run folder: the same
command goes on where it was cut off. Whether a trained agent draws its actions or takes the
likeliest ones is chosen by the same measure on validation tasks.

    python benchmarks/in_context.py DarkRoom
    python benchmarks/in_context.py GaussianBandit
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from result_files import RESULTS, bounds, notes, page, resumed_training, table, with_interval, write

from meta_rl import TaskVectorEnv, make_task_vec
from meta_rl.agents.algorithm_distillation import AlgorithmDistillation
from meta_rl.agents.dpt import DPT
from meta_rl.agents.experts import find_expert
from meta_rl.agents.in_context import Player
from meta_rl.agents.navigation import GridOracle
from meta_rl.envs.dark_room import DarkRoom
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.histories import play_history

BANDIT: dict[str, Any] = {"num_arms": 5, "horizon": 500, "reward_std": 0.3}
POINTS = (10, 50, 100, 250, 500)
"""Pulls after which the cumulative regret is in the table."""
TRUE_PRIOR = "Thompson sampling, true prior"
SHOWN = (1, 2, 4, 10)
"""Episodes in the picture of a search."""


@dataclass
class Args:
    """Settings of the run."""

    tasks: tyro.conf.Positional[Literal["DarkRoom", "GaussianBandit"]]
    """Family to measure on."""
    agents: tuple[Literal["algorithm_distillation", "dpt"], ...] = ("algorithm_distillation", "dpt")
    """Agents to measure on DarkRoom."""
    seed: int = 0
    """Seed of the trainings; the evaluation has seed 1000."""
    envs_per_task: int = 32
    """Trials on each goal of DarkRoom."""
    num_bandits: int = 1000
    """Number of held-out bandits."""
    runs: Path = Path("runs/in_context")
    """Folder of the run folders."""
    out: Path = RESULTS
    """Folder of in_context_TASKS.json, .md and .png."""
    threads: int = 1
    """Number of PyTorch CPU threads."""


def main(args: Args) -> None:
    """Train, evaluate, and write the table and the picture."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    (dark_room if args.tasks == "DarkRoom" else gaussian_bandit)(args)


def trained(make: Any, algo: str, tasks: str, args: Args) -> tuple[Any, str]:
    """The trained agent, and a text about its training."""
    folder = resumed_training(algo, tasks, args.seed, args.runs / f"{algo}-{tasks}-seed{args.seed}")
    model = make.load(folder.checkpoint, device="cpu")
    minutes = folder.train_seconds() / 60
    return model, f"{model.num_timesteps / 1e6:.1f} M steps, {minutes:.0f} min"


def dark_room(args: Args) -> None:
    """Measure on the held-out goals of DarkRoom."""
    env = make_task_vec("DarkRoom", 1)
    sources: dict[str, Any] = {
        f"source: {name}": find_expert(env, name, np.random.default_rng(0), 200)
        for name in ("psrl", "search")
    }
    classes = {"algorithm_distillation": AlgorithmDistillation, "dpt": DPT}
    agents = {algo: trained(classes[algo], algo, "DarkRoom", args) for algo in args.agents}
    rows = [room_row(name, learner, "", args, None) for name, learner in sources.items()]
    for name, (agent, about) in agents.items():
        ways = [room_row(name, agent, about, args, likeliest) for likeliest in (False, True)]
        best = max(ways, key=lambda row: row["validation"])
        rows += [{**row, "chosen": row is best} for row in ways]
    family = DarkRoom()
    goals = family.task_split.test.tasks
    optimum = GridOracle.optimal_steps_on_goal(goals, (4, 4), family.horizon)
    content = {"rows": rows, "goals": goals.tolist(), "optimum": optimum.tolist()}
    file = args.out / "in_context_DarkRoom.json"
    picture = file.with_suffix(".png")
    draw_rooms(rows, {k: agent for k, (agent, _) in agents.items()}, optimum).savefig(
        picture, dpi=100
    )
    text = room_page(content, args, f"![Returns, and the cells of one trial]({picture.name})", file)
    write(file, content, text)
    print(text)


def room_page(content: dict[str, Any], args: Args, shown: str, file: Path) -> str:
    """The page of DarkRoom."""
    goals = len(content["goals"])
    head = (
        f"`python benchmarks/in_context.py DarkRoom`: the {goals} held-out goals, "
        f"{args.envs_per_task} trials of ten episodes on each. The shortest path earns "
        f"{np.mean(content['optimum']):.2f} an episode. Of drawn and likeliest actions, **chosen** "
        "are those with the larger share of the optimum in the tenth episode on the validation "
        "goals. Wall times are of a core that was shared with other work."
    )
    heads = ["learner", "episode 1", "episode 5", "episode 10", "of the optimum"]
    heads += ["worst goal", "goals of 90 %", "on validation goals", "training"]
    cells = [
        [
            f"**{row['learner']}**" if row.get("chosen") else row["learner"],
            *(f"{row['episodes'][k]:.2f}" for k in (0, 4, 9)),
            f"{row['share']:.1%}",
            f"{min(row['share_by_goal']):.1%}",
            f"{sum(share >= 0.9 for share in row['share_by_goal'])} of {goals}",
            "" if row["validation"] is None else f"{row['validation']:.1%}",
            row["training"],
        ]
        for row in content["rows"]
    ]
    title = "Agents that learn in context on DarkRoom"
    return page(title, head, table(heads, cells), shown, notes(file))


def room_row(
    name: str, learner: Any, about: str, args: Args, likeliest: bool | None
) -> dict[str, Any]:
    """Returns of all episodes, and shares of the optimum in the last one, by goal.

    Args:
        name: Name of the learner.
        learner: Learner.
        about: Text about its training.
        args: Settings of the run.
        likeliest: Whether its likeliest actions are taken; ``None`` for a learner without a
            choice, which is not measured on the validation goals.
    """
    test, best = room_returns(learner, "test", args, bool(likeliest))
    shares = test[:, -1] / best
    valid = None
    if likeliest is not None:
        found, reachable = room_returns(learner, "validation", args, likeliest)
        valid = float(found[:, -1].sum() / reachable.sum())
    ways = {None: name, False: f"{name}, drawn actions", True: f"{name}, likeliest actions"}
    return {
        "learner": ways[likeliest],
        "episodes": test.mean(axis=0).tolist(),
        "share": float(test[:, -1].sum() / best.sum()),
        "share_by_goal": shares.tolist(),
        "validation": valid,
        "training": about,
    }


def room_returns(
    learner: Any, split: str, args: Args, likeliest: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns by goal of a split and episode, and of the shortest path by goal."""
    result: EvaluationResult = evaluate_adaptation(
        learner,
        "DarkRoom",
        seed=1000,
        split=split,
        envs_per_task=args.envs_per_task,
        deterministic=likeliest,
    )
    family = DarkRoom()
    goals = getattr(family.task_split, split).tasks
    back = np.argsort(np.asarray(result.tasks))  # the evaluation has an order of its own
    return result.values[back], GridOracle.optimal_steps_on_goal(goals, (4, 4), family.horizon)


def draw_rooms(rows: list[dict[str, Any]], agents: dict[str, Any], best: np.ndarray) -> Figure:
    """Draws returns by episode and, for each agent, the visited cells in a trial."""
    figure = Figure(figsize=(10, 2.6 * (1 + len(agents))), layout="constrained")
    parts = figure.subfigures(1 + len(agents), 1)
    ax = np.atleast_1d(parts)[0].subplots()
    for row in rows:
        style = "--" if row["learner"].startswith("source") else "-"
        ax.plot(range(1, 11), row["episodes"], style, label=row["learner"])
    ax.axhline(best.mean(), color="black", linewidth=0.8, label="shortest path")
    ax.set(xlabel="episode on a held-out goal", ylabel="steps on the goal")
    ax.legend()
    for part, (name, agent) in zip(np.atleast_1d(parts)[1:], agents.items(), strict=True):
        draw_trial(part, name, agent)
    return figure


def draw_trial(part: Any, name: str, learner: Any) -> None:
    """Draws how often each cell was visited in episodes of one trial, for the farthest goal."""
    goals = DarkRoom().task_split.test.tasks
    goal = goals[np.abs(goals - 4).sum(axis=1).argmax()]
    env = TaskVectorEnv(DarkRoom, 1)
    env.set_tasks(goal[None])
    learner.generator.manual_seed(0)
    cells = play_history(learner, env, 200, seed=0).observations[:, 0].reshape(10, 20)
    part.suptitle(f"{name}: visits of the cells in one trial, goal (star)")
    for ax, episode in zip(part.subplots(1, len(SHOWN)), SHOWN, strict=True):
        visits = np.bincount(cells[episode - 1], minlength=81).reshape(9, 9)
        ax.imshow(visits, origin="lower", vmin=0, vmax=5)
        ax.plot(*goal, "*", color="white", markersize=9, markeredgecolor="black")
        ax.set(xticks=[], yticks=[], title=f"episode {episode}")


def gaussian_bandit(args: Args) -> None:
    """Measure the cumulative regret on held-out Gaussian bandits."""
    env = make_task_vec("GaussianBandit", 1, **BANDIT)
    thompson = find_expert(env, "thompson", np.random.default_rng(0), BANDIT["horizon"])
    agent, about = trained(DPT, "dpt", "GaussianBandit-n500-k5", args)
    players = {
        "DPT, drawn actions": Player(agent.policy),
        "DPT, likeliest actions": Player(agent.policy, likeliest=True),
    }
    validation = {name: regret(player, "validation", args) for name, player in players.items()}
    chosen = min(validation, key=lambda name: validation[name][:, -1].mean())
    curves = {TRUE_PRIOR: regret(thompson, "test", args)}
    curves |= {name: regret(player, "test", args) for name, player in players.items()}
    rows = [
        {
            "learner": name,
            "training": "" if name == TRUE_PRIOR else about,
            "chosen": name == chosen,
            "validation": float(validation[name][:, -1].mean()) if name in validation else None,
            **interval(part),
        }
        for name, part in curves.items()
    ]
    gap = interval(curves[chosen] - curves[TRUE_PRIOR])
    content = {"rows": rows, "difference": gap, "num_bandits": args.num_bandits, "env": BANDIT}
    file = args.out / "in_context_GaussianBandit.json"
    draw_regrets(rows).savefig(file.with_suffix(".png"), dpi=100)
    text = bandit_page(content, file)
    write(file, content, text)
    print(text)


def draw_regrets(rows: list[dict[str, Any]]) -> Figure:
    """Draws cumulative regrets, with their intervals."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    for row in rows:
        low, high = bounds(row["mean"], row["interval"])
        ax.plot(range(1, len(low) + 1), row["mean"], label=row["learner"])
        ax.fill_between(range(1, len(low) + 1), low, high, alpha=0.2)
    ax.set(xlabel="pull on a held-out bandit", ylabel="cumulative regret")
    ax.legend()
    return figure


def bandit_page(content: dict[str, Any], file: Path) -> str:
    """The page of Gaussian bandits."""
    heads = ["learner", *(f"after {n} pulls" for n in POINTS), "on validation bandits", "training"]
    cells = [
        [
            f"**{row['learner']}**" if row["chosen"] else row["learner"],
            *points(row),
            "" if row["validation"] is None else f"{row['validation']:.2f}",
            row["training"],
        ]
        for row in content["rows"]
    ]
    cells.append(["DPT as chosen, minus Thompson sampling", *points(content["difference"]), "", ""])
    fewer = "" if content["num_bandits"] == 1000 else f" --num-bandits {content['num_bandits']}"
    head = (
        f"`python benchmarks/in_context.py GaussianBandit{fewer}`: cumulative regret on "
        f"{content['num_bandits']:,} held-out bandits (5 arms with means N(0, 1), rewards with "
        "σ = 0.3), mean and 95 % interval over the bandits. Regret counts the mean rewards of the "
        "arms. Of drawn and likeliest actions, **chosen** are those with the smaller regret after "
        "500 pulls on as many validation bandits. Wall times are those of a core that was shared "
        "with much other work."
    )
    shown = f"![Cumulative regret by pull]({file.stem}.png)"
    return page("DPT on Gaussian bandits", head, table(heads, cells), shown, notes(file))


def regret(learner: Any, split: str, args: Args) -> np.ndarray:
    """The cumulative regret of each bandit of a split after each pull, ``[bandits, 500]``."""
    env = make_task_vec("GaussianBandit", args.num_bandits, **BANDIT)
    means = getattr(env.unwrapped.task_split, split).tasks[: args.num_bandits]
    env.unwrapped.set_tasks(means)
    if isinstance(learner, Player):
        learner.policy.generator.manual_seed(1000)
    actions = play_history(learner, env, BANDIT["horizon"], seed=1000).actions.T
    pulled = np.take_along_axis(means, actions, axis=1)
    curves: np.ndarray = (means.max(axis=1, keepdims=True) - pulled).cumsum(axis=1)
    return curves


def interval(curves: np.ndarray) -> dict[str, Any]:
    """Mean and 95 % interval over bandits, after each pull."""
    mean, error = curves.mean(axis=0), 1.96 * curves.std(axis=0, ddof=1) / len(curves) ** 0.5
    return {"mean": mean.tolist(), "interval": np.stack([mean - error, mean + error], 1).tolist()}


def points(row: dict[str, Any]) -> list[str]:
    """The cells of the table."""
    return [with_interval(row["mean"][n - 1], row["interval"][n - 1], ".2f") for n in POINTS]


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
