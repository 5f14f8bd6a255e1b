"""Learning curves of PEARL beside its baselines and the published numbers, on held-out tasks.

Trains with a shipped setting, evaluates on the test tasks at intervals (for the curve only: where
something was chosen by it, the table says so), and compares the last agents with soft actor-critic
without context (the same networks, data and number of updates) and, where asked for, with one that
is told the task. Trainings keep a checkpoint with their replay: run the same command again and one
that was cut off goes on; larger ``--total-timesteps`` or ``--minutes`` let a finished one go on.

    python benchmarks/pearl_curves.py SparsePointNavigation --minutes 25
    python benchmarks/pearl_curves.py HalfCheetahVel --seeds 0 1 2 --learners pearl oracle
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from result_files import (
    RESULTS,
    bounds,
    known_interval,
    notes,
    page,
    papers,
    read,
    table,
    with_interval,
)

from meta_rl import make_task_vec
from meta_rl.agents.multi_task_sac import MultiTaskSAC, OracleSAC
from meta_rl.agents.navigation import PointOracle, PointTask
from meta_rl.agents.pearl import PEARL
from meta_rl.cli.settings import find_settings
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.provenance import git_commit, package_versions, versions_text, write_atomically

LEARNERS: dict[str, type[PEARL]] = {
    "pearl": PEARL,
    "multi-task": MultiTaskSAC,
    "oracle": OracleSAC,
    "pearl-later": PEARL,  # begins as the training without context, at its latest checkpoint
}
NAMES = {
    "pearl": "PEARL",
    "multi-task": "SAC without context",
    "oracle": "SAC that is told the task",
    "pearl-later": "PEARL, on top of SAC without context",
}

PUBLISHED: dict[str, list[list[float]]] = papers("PEARL log")["rows"]


@dataclass
class Args:
    """Settings of the run."""

    setting: Annotated[str, tyro.conf.Positional] = "SparsePointNavigation"
    """Name of a setting in meta_rl/settings/pearl.toml."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings."""
    learners: tuple[str, ...] = ("pearl", "multi-task")
    """Learners: pearl, multi-task, oracle (told the task; no upper bound as such), pearl-later."""
    total_timesteps: int | None = None
    """Number of environment steps of each training (default: the setting's)."""
    minutes: float = float("inf")
    """Minutes of each training, over all its parts, without evaluation (default: no limit)."""
    interval: int = 20_000
    """Number of environment steps between two evaluations."""
    explored: int = 2
    """Number of episodes before the one that is compared."""
    num_episodes: int = 0
    """Number of episodes on each task; 0: the family's trial, at least one after exploration."""
    envs_per_task: int = 5
    """Number of sub-environments of each test task; the last evaluation has four times as many."""
    device: str = "cpu"
    """PyTorch device of networks and replay."""
    cuda_graph: bool = False
    """Whether to record updates as CUDA graphs."""
    save_replay: bool = True
    """Whether checkpoints keep the replay, so that a resumed training is as an undisturbed one."""
    tf32: bool = False
    """Whether matrix products of a GPU have 10 bits after the point."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    runs: Path = Path("runs/pearl_curves")
    """Folder of checkpoints and curves."""
    out: Path = RESULTS
    """Folder of pearl_SETTING.json, .md and .png."""


class Training:
    """One training with its checkpoint and its curve.

    Args:
        learner: Name of the learner in :data:`LEARNERS`.
        seed: Seed of the training.
        args: Settings of the command.
    """

    def __init__(self, learner: str, seed: int, args: Args) -> None:
        self.learner, self.seed, self.args = learner, seed, args
        _, self.env_id, settings = find_settings("pearl", args.setting)
        self.env_kwargs = settings.pop("env", {})
        self.total_timesteps = args.total_timesteps or settings.pop("total_timesteps")
        settings.pop("total_timesteps", None)
        self.settings = {"policy_kwargs": settings.pop("policy", {}), **settings}
        folder = args.runs / args.setting / f"{learner}-seed{seed}"
        self.checkpoint, self.file = folder / "checkpoint.zip", folder / "curve.json"
        self.curve: list[dict[str, Any]] = []

    def run(self) -> Iterator[PEARL]:
        """Trains, or goes on; gives the agent after each interval."""
        model = self._begin()
        seconds = self.curve[-1]["seconds"] if self.curve else 0.0
        while model.num_timesteps < self.total_timesteps and seconds < 60.0 * self.args.minutes:
            target = self.args.interval * (model.num_timesteps // self.args.interval + 1)
            began = time.perf_counter()
            steps = min(target, self.total_timesteps) - model.num_timesteps
            model.learn(steps, log_interval=None, reset_num_timesteps=model.num_timesteps == 0)
            seconds += time.perf_counter() - began
            self._record(model, seconds)
            yield model
        yield model

    def _begin(self) -> PEARL:
        algorithm = LEARNERS[self.learner]
        if self.checkpoint.exists():
            self.curve = read(self.file)
            model = algorithm.load(self.checkpoint, env=self.env_id, device=self.args.device)
            self.curve = [row for row in self.curve if row["steps"] <= model.num_timesteps]
            return model
        model = self._made(algorithm)
        if self.learner == "pearl-later":
            without = Training("multi-task", self.seed, self.args)
            model.start_from(without._begin())
            self.curve = without.curve
        return model

    def _made(self, algorithm: type[PEARL]) -> PEARL:
        return algorithm(
            env=self.env_id,
            env_kwargs=self.env_kwargs,
            seed=self.seed,
            device=self.args.device,
            cuda_graph=self.args.cuda_graph,
            save_replay=self.args.save_replay,
            **self.settings,
        )

    def _record(self, model: PEARL, seconds: float) -> None:
        result = self.evaluated(model, 1)
        summary = result.summary()
        row = {
            "steps": model.num_timesteps,
            "updates": model._n_updates,
            "seconds": seconds,
            "mean": summary["mean"].tolist(),
            "interval": [known_interval(interval) for interval in summary["mean_interval"]],
            "values": result.values.round(2).tolist(),  # of each task
        }
        self.curve.append(row)
        write_atomically(self.file, json.dumps(self.curve, indent=1) + "\n")
        model.save(self.checkpoint)
        after = row["mean"][self.args.explored]
        print(
            f"{self.args.setting} {self.learner} seed {self.seed}: {row['steps']:,} steps, "
            f"{row['updates']:,} updates, {seconds / 60:.1f} min: "
            f"{row['mean'][0]:.2f} before, {after:.2f} after {self.args.explored} episodes",
            flush=True,
        )

    def evaluated(self, model: PEARL, times: int) -> EvaluationResult:
        """Evaluates on all test tasks, with actions at their mode."""
        env = make_task_vec(self.env_id, 1, **self.env_kwargs).unwrapped
        episodes = self.args.num_episodes or max(env.episodes_per_trial, self.args.explored + 1)
        return evaluate_adaptation(
            model,
            self.env_id,
            len(env.task_split.test),
            episodes,
            seed=1000,
            envs_per_task=self.args.envs_per_task * times,
            deterministic=True,
            **self.env_kwargs,
        )


class Watched:
    """A learner whose observations are kept, episode by episode.

    Attributes:
        episodes: Observations of each episode, ``[T, N, ...]``.
        tasks: Tasks of the sub-environments.
    """

    def __init__(self, learner: PEARL, env: Any) -> None:
        self.learner, self.env = learner, env
        self.generator, self.rng = learner.generator, learner.rng
        self.episodes: list[list[np.ndarray]] = [[]]

    def predict(self, observation: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        """Acts as the learner does, and keeps the observation."""
        self.tasks = self.env.unwrapped.tasks
        self.episodes[-1].append(observation.copy())
        return self.learner.predict(observation, *args, **kwargs)

    def adapt(self, *args: Any) -> Any:
        """Adapts as the learner does."""
        self.episodes.append([])
        return self.learner.adapt(*args)


class OnePoint(PointOracle):
    """Goes straight to one point and stays: all that can be done without looking for the goal.

    Args:
        point: Coordinates x and y of the point.
    """

    def __init__(self, point: np.ndarray) -> None:
        self.point = point

    def adapt_to_tasks(self, tasks: np.ndarray) -> PointTask:
        """Tells the same point for all tasks ``[N, 2]``."""
        return super().adapt_to_tasks(np.broadcast_to(self.point, tasks.shape))


def without_looking(training: Training) -> dict[str, Any]:
    """Returns of the point among the training goals that is best for them, and of the optimum."""
    env = make_task_vec(training.env_id, 1, **training.env_kwargs).unwrapped

    def evaluated(learner: PointOracle, split: str) -> EvaluationResult:
        num_tasks = len(env.task_split[split])
        return evaluate_adaptation(
            learner, training.env_id, num_tasks, 1, split=split, **training.env_kwargs
        )

    points = [OnePoint(goal) for goal in env.task_split.train.tasks]
    returns = [evaluated(point, "train").values.mean() for point in points]
    summary = evaluated(points[int(np.argmax(returns))], "test").summary()
    return {
        "mean": float(summary["mean"][0]),
        "interval": known_interval(summary["mean_interval"][0]),
        "on_training_goals": float(max(returns)),
        "known_goal": float(evaluated(PointOracle(), "test").values.mean()),
    }


def about_looking(point: dict[str, Any]) -> str:
    """The figures of :func:`without_looking` in words."""
    return (
        "For comparison: without looking for the goal, going straight to the training goal that\n"
        "is best for all of them, and staying there, gives "
        f"{with_interval(point['mean'], point['interval'], '.2f')} in every\n"
        f"episode ({point['on_training_goals']:.2f} on the training goals, of which it was chosen);"
        f" straight to the known goal, {point['known_goal']:.2f}."
    )


def draw_trajectories(training: Training, model: PEARL, path: Path, num_tasks: int = 10) -> None:
    """Paths of the point on held-out goals: first episode, and after more and more of them."""
    env = make_task_vec(training.env_id, num_tasks, **training.env_kwargs)
    watched = Watched(model, env)
    evaluate_adaptation(watched, env, num_tasks, seed=1000, deterministic=True)
    goals = watched.tasks
    paths = [np.stack(episode) for episode in watched.episodes if episode]
    shown = [0, training.args.explored, len(paths) - 1]
    figure = Figure(figsize=(4.0 * len(shown), 2.9), layout="constrained")
    colours = matplotlib.colormaps["tab10"].colors
    for ax, episode in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for goal, track, colour in zip(goals, paths[episode].swapaxes(0, 1), colours, strict=False):
            zone = matplotlib.patches.Circle(goal, 0.2, facecolor=colour, alpha=0.25)
            ax.add_patch(zone)
            ax.plot(*track.T, color=colour, marker=".", markersize=3, linewidth=1)
        ax.set(xlim=(-1.4, 1.4), ylim=(-0.4, 1.4), aspect="equal")
        ax.set_title(f"episode {episode + 1}: after {episode} of adaptation")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def draw_curves(trainings: list[Training], args: Args, path: Path) -> None:
    """Return on test tasks after exploration, over environment steps."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    ax = figure.add_subplot()
    for training in trainings:
        if not training.curve:
            continue
        colour = f"C{list(LEARNERS).index(training.learner)}"
        steps = [row["steps"] for row in training.curve]
        means = [row["mean"][args.explored] for row in training.curve]
        low, high = bounds(means, [row["interval"][args.explored] for row in training.curve])
        label = f"{NAMES[training.learner]}, seed {training.seed}"
        ax.plot(steps, means, color=colour, label=label)
        ax.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    published = PUBLISHED.get(args.setting.removesuffix("-paper"))
    if published:
        ax.plot(*zip(*published, strict=True), "k.--", label="a published log of PEARL")
    ax.set_xlabel("environment steps")
    ax.set_ylabel(f"return of episode {args.explored + 1}, test tasks")
    ax.set_title(args.setting)
    ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def as_rows(
    results: dict[str, EvaluationResult], trainings: list[Training]
) -> dict[str, dict[str, Any]]:
    """Mean and interval of each episode, and the length of the trainings, by learner."""
    rows = {}
    for learner, result in results.items():
        summary = result.summary()
        last = [t.curve[-1] for t in trainings if t.learner == learner and t.curve]
        rows[learner] = {
            "mean": summary["mean"].tolist(),
            "interval": [known_interval(interval) for interval in summary["mean_interval"]],
            "steps": last[0]["steps"],
            "updates": last[0]["updates"],
            "seconds": float(np.mean([row["seconds"] for row in last])),
        }
    return rows


def as_markdown(
    content: dict[str, Any], results: dict[str, EvaluationResult], args: Args, notes: list[str]
) -> str:
    """The committed page.

    Args:
        content: Content of the JSON file.
        results: Evaluations of the last agents, by learner.
        args: Settings of the command.
        notes: Lines that the table needs to be read with.
    """
    explored = args.explored
    one = next(iter(results.values()))
    shown = sorted({0, explored, one.values.shape[1] - 1})
    lines = [
        [
            NAMES[learner],
            *(with_interval(row["mean"][k], row["interval"][k], ".2f") for k in shown),
            f"{row['steps']:,}",
            f"{row['updates']:,}",
            f"{row['seconds'] / 60:.0f} min",
        ]
        for learner, row in content["rows"].items()
    ]
    heads = ["learner", "first episode", *(f"after {k}" for k in shown[1:])]
    log, published = "", PUBLISHED.get(args.setting.removesuffix("-paper"))
    if published:
        points = ", ".join(f"{value} at {steps / 1e3:.0f} k" for steps, value in published)
        log = f"A published log of PEARL (one seed): {points} steps."
    device = f"{args.threads} thread(s)" if args.device == "cpu" else args.device
    return page(
        f"PEARL on {args.setting}",
        [
            f"`{command(args)}`,",
            "shipped setting; mean return of an episode on the "
            f"{one.num_tasks} test tasks ({one.envs_per_task} sub-environments each),",
            f"with 95 % intervals over {one.design.over}; seeds {', '.join(map(str, args.seeds))}.",
        ],
        table([*heads, "steps", "updates", "wall time"], lines),
        *differences(results, explored),
        about_looking(content["one_point"]) if "one_point" in content else "",
        notes,
        log,
        f"{device}; {versions_text()}.",
        versions=False,
    )


def command(args: Args) -> str:
    """The command line, with what differs from the defaults."""
    limit = f" --minutes {args.minutes:g}" if args.minutes < float("inf") else ""
    limit += f" --interval {args.interval}" if args.interval != Args.interval else ""
    limit += f" --learners {' '.join(args.learners)}" if args.learners != Args.learners else ""
    limit += f" --device {args.device}" if args.device != Args.device else ""
    limit += " --cuda-graph" * args.cuda_graph + " --tf32" * args.tf32
    return f"python benchmarks/pearl_curves.py {args.setting}{limit}"


def differences(results: dict[str, EvaluationResult], explored: int) -> list[str]:
    """How much the first learner is above each other one, task by task."""
    (first, ours), *others = results.items()
    lines = []
    for learner, theirs in others:
        summary = replace(ours, values=ours.values - theirs.values).summary()
        interval = known_interval(summary["mean_interval"][explored])
        lines.append(
            f"{NAMES[first]} less {NAMES[learner]}, on the same tasks, after {explored} episodes: "
            f"{with_interval(summary['mean'][explored], interval, '+.2f')}."
        )
    return lines


def report(trainings: list[Training], models: dict[tuple[str, int], PEARL], args: Args) -> None:
    """Evaluates the last agents and writes everything."""
    results: dict[str, EvaluationResult] = {}
    for learner in args.learners:
        evaluated = [
            t.evaluated(models[t.learner, t.seed], 4) for t in trainings if t.learner == learner
        ]
        results[learner] = EvaluationResult.merged(evaluated)
    first, file = trainings[0], args.out / f"pearl_{args.setting}.json"
    content = {
        "setting": args.setting,
        "settings": first.settings,
        "curves": {f"{t.learner}-seed{t.seed}": t.curve for t in trainings},
        "rows": as_rows(results, trainings),
        "values": {learner: result.values.tolist() for learner, result in results.items()},
        "versions": package_versions(),
        "commit": git_commit(),
    }
    if args.setting.startswith("SparsePointNavigation"):
        content["one_point"] = without_looking(first)
        path = file.with_name(f"{file.stem}_trajectories.png")
        draw_trajectories(first, models[first.learner, first.seed], path)
    text = as_markdown(content, results, args, notes(file))
    write_atomically(file, json.dumps(content) + "\n")
    write_atomically(file.with_suffix(".md"), text)
    draw_curves(trainings, args, file.with_suffix(".png"))
    print(text)


def main(args: Args) -> None:
    """Trains all learners, then writes the report."""
    unknown = set(args.learners) - set(LEARNERS)
    if unknown:
        raise SystemExit(f"unknown learners {sorted(unknown)}: {', '.join(LEARNERS)} exist")
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    trainings = [Training(name, seed, args) for name in args.learners for seed in args.seeds]
    models: dict[tuple[str, int], PEARL] = {}
    for training in trainings:
        for model in training.run():
            models[training.learner, training.seed] = model
            draw_curves(trainings, args, args.runs / args.setting / "curves.png")
    report(trainings, models, args)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
