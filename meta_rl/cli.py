"""The command line: ``meta-rl envs``, ``train``, ``evaluate`` and ``plot``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.envs.registration import load_env_creator
from matplotlib.figure import Figure

from meta_rl.algorithm import MetaAlgorithm
from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.few_shot import command as few_shot
from meta_rl.freed_memory import keep_freed_memory
from meta_rl.making import is_python
from meta_rl.options import (
    apply_params,
    check_device,
    check_flags,
    check_settings,
    check_threads,
    find_class,
)
from meta_rl.registration import NAMESPACE, PYTHON_ENVIRONMENTS
from meta_rl.runs import Checkpoints, RunConfig, RunFolder, Validation, learning_columns
from meta_rl.torch_threads import torch_threads
from meta_rl.tuned import find_settings, settings_for

ALGORITHMS = {
    "maml_trpo": "meta_rl.agents.maml_trpo:MAMLTRPO",
    "multi_task_sac": "meta_rl.agents.multi_task_sac:MultiTaskSAC",
    "oracle_sac": "meta_rl.agents.multi_task_sac:OracleSAC",
    "pearl": "meta_rl.agents.pearl:PEARL",
    "ppo": "meta_rl.agents.ppo:PPO",
    "promp": "meta_rl.agents.promp:ProMP",
    "rl2": "meta_rl.agents.rl2:RL2",
    **few_shot.LEARNERS,
}
"""Algorithms by their name on the command line: the one place where agents meet environments."""

SCHEDULES = ("learning_rate", "entropy_coefficient")
"""Settings that may be functions of the remaining progress."""

DEFAULT_TIMESTEPS = 1_000_000


@dataclass
class Envs:
    """List the environments and the few-shot tasks."""


@dataclass
class Train:
    """Meta-train an agent on the training tasks, then evaluate it on held-out ones."""

    algo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGO")]
    """Agents: maml_trpo, multi_task_sac, oracle_sac, pearl, ppo, promp, rl2. Few-shot learners:
    finetune, lstm, maml, mann, matching, memory-network, nearest, ntm, protonet, reptile, scratch,
    siamese."""
    tasks: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASKS")]
    """Environment or few-shot tasks (`meta-rl envs` lists them), or a name of shipped settings."""
    param: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="K=V [K=V ...]"),
    ] = ()
    """Settings to change: of the algorithm (learning_rate=3e-4), of its networks
    (policy.hidden_size=64) or of the environment (env.horizon=100)."""
    total_timesteps: int | None = None
    """Environment steps, or iterations of a few-shot learner; the tuned number by default."""
    seed: int = 0
    """Of everything."""
    out: Path | None = None
    """Run folder; runs/ALGO-TASKS-seedN by default."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder."""
    device: str = "auto"
    """Of the networks: auto, cpu, cuda."""
    eval_tasks: int | None = None
    """Held-out tasks of the evaluation at the end; 0 for none; by default 1,000 (or 50, of 20
    episodes each, for MAML)."""
    checkpoint_interval: float = 30.0
    """Seconds between checkpoints; 0 for one at every iteration."""
    threads: int | None = None
    """Of PyTorch on a CPU; by default as many as it likes. 1 where other work shares the cores."""
    cuda_graph: bool = False
    """Record updates as CUDA graphs, several times as fast on a GPU: maml, mann, pearl, reptile."""
    compile: bool = False
    """Compile updates, which takes a minute and a C++ compiler: maml, reptile."""
    quiet: bool = False
    """No progress bar."""


@dataclass
class Evaluate:
    """Evaluate a trained agent's adaptation on held-out tasks."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    num_tasks: int | None = None
    """Held-out tasks; by default 1,000 (or 50, of 20 episodes each, for MAML)."""
    num_episodes: int | None = None
    """Episodes on each task; as many as in training by default."""
    split: str = "test"
    """test, validation, ood (where the tasks have one) or train; lake for Lake's one-shot runs of
    Omniglot."""
    seed: int = 0
    """Of the evaluation."""
    deterministic: bool = False
    """Take the most likely actions."""
    device: str = "auto"
    """Of the networks."""
    threads: int | None = None
    """Of PyTorch on a CPU; by default as many as it likes. 1 where other work shares the cores."""


@dataclass
class Plot:
    """Draw learning curves and adaptation of runs, side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""
    out: Path | None = None
    """Picture; plot.png in the first run folder by default."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    commands: dict[str, Callable[..., Any]] = {
        "envs": Envs,
        "train": Train,
        "evaluate": Evaluate,
        "plot": Plot,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="meta-rl", description="Meta-reinforcement learning.", args=arguments
    )
    keep_freed_memory()
    try:
        actions: dict[type, Callable[[Any], Any]]
        actions = {Envs: envs, Train: train, Evaluate: evaluate, Plot: plot}
        with torch_threads(check_threads(command)):
            actions[type(command)](command)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"meta-rl: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"meta-rl: {error}; the last checkpoint is as it was", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmeta-rl: interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def envs(command: Envs) -> None:
    """Print a table of the environments."""
    from rich.console import Console
    from rich.table import Table

    ours = [env_id for env_id in sorted(gym.registry) if env_id.startswith(NAMESPACE)]
    longest = max(map(len, ours))  # ids are never cut, so that they can be copied
    table = Table()
    table.add_column("id", no_wrap=True, min_width=longest)
    for column in ("what", "actions", "horizon", "episodes per trial"):
        table.add_column(column, overflow="fold")
    for env_id in ours:
        python_env = PYTHON_ENVIRONMENTS.get(env_id.removeprefix(NAMESPACE))
        # The class tells enough, and needs no further packages.
        env: Any = load_env_creator(python_env[0]) if python_env else gym.make(env_id).unwrapped
        about = (inspect.getdoc(getattr(env, "definition", env)) or "").partition("\n")[0]
        trial = str(env.episodes_per_trial)
        table.add_row(env_id, about, str(env.action_space), str(env.horizon), trial)
    console = Console(width=max(Console().width, longest + 50))
    console.print(table)
    console.print(few_shot_table())


def few_shot_table() -> Any:
    """The data sets of few-shot tasks, with examples of names."""
    from rich.table import Table

    table = Table()
    for column in ("few-shot tasks", "what", "shipped settings"):
        table.add_column(column, overflow="fold")
    shipped = {name for algo in few_shot.LEARNERS for name in settings_for(algo)}
    for name in few_shot.DATASETS:
        about = (inspect.getdoc(few_shot.dataset_maker(name)) or "").partition("\n")[0]
        ours = sorted(entry for entry in shipped if entry.partition("-")[0] == name)
        table.add_row(name, about, ", ".join(ours))
    return table


def train(command: Train) -> RunFolder:
    """Train as the command says, or go on with it; gives the run folder."""
    if command.algo in few_shot.LEARNERS:
        return few_shot.train(command)
    algorithm = find_class(ALGORITHMS, command.algo)
    config = run_config(command, algorithm)
    folder = RunFolder(
        command.out or Path("runs", f"{config.algorithm}-{config.tasks}-seed{config.seed}")
    )
    folder.check(config, command.resume)
    model = _make_or_resume(algorithm, config, folder, command)
    folder.begin(config, command.resume)
    remaining = config.total_timesteps - model.num_timesteps
    if remaining > 0:
        model.set_logger(folder.logger(model.num_timesteps, verbose=0))
        callbacks = [
            Checkpoints(folder.checkpoint, command.checkpoint_interval),
            Validation(config, _num_tasks(model, config.env_id, 200, 10)),
        ]
        model.learn(
            remaining,
            callbacks,
            reset_num_timesteps=model.num_timesteps == 0,
            progress_bar=not command.quiet,
        )
        model.save(folder.checkpoint)
        model.logger.close()
    num_tasks = command.eval_tasks
    if num_tasks is None:
        num_tasks = _num_tasks(model, config.env_id, 1000, 40)
    if num_tasks:
        result = evaluate_adaptation(model, config.env_id, num_tasks, **config.env_kwargs)
        _report(result, folder)
    print(f"run folder: {folder.path}")
    return folder


def _num_tasks(model: MetaAlgorithm, env_id: str, most: int, least: int) -> int:
    """Tasks of an evaluation: fewer where every task takes many episodes, or long ones."""
    return least if is_python(env_id) else max(least, most // model.envs_per_task)


def _make_or_resume(
    algorithm: type[MetaAlgorithm], config: RunConfig, folder: RunFolder, command: Train
) -> MetaAlgorithm:
    if command.resume and folder.checkpoint.exists():
        return algorithm.load(folder.checkpoint, env=config.env_id, device=command.device)
    try:
        return algorithm(
            env=config.env_id,
            env_kwargs=config.env_kwargs,
            seed=config.seed,
            device=command.device,
            **_with_schedules(config.algorithm_kwargs),
        )
    except (TypeError, AssertionError) as error:  # an unknown name, or a word for a number
        raise ValueError(f"a setting of the wrong name or kind: {error}") from error


def _with_schedules(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Two numbers, where a schedule may stand, fall linearly from the first to the second."""
    from stable_baselines3.common.utils import LinearSchedule

    def schedule(name: str, value: Any) -> Any:
        if name not in SCHEDULES or not isinstance(value, list | tuple):
            return value
        if len(value) != 2:
            raise ValueError(f"{name}: one number, or [first, last], got {value}")
        return LinearSchedule(float(value[0]), float(value[1]), 1.0)

    return {name: schedule(name, value) for name, value in kwargs.items()}


def run_config(command: Train, algorithm: type[MetaAlgorithm]) -> RunConfig:
    """The shipped settings for the tasks, changed by ``--param``.

    Raises:
        ValueError: Unknown tasks or settings.
    """
    tasks, env_id, settings = find_settings(command.algo, command.tasks)
    env_kwargs = dict(settings.pop("env", {}))
    policy_kwargs = dict(settings.pop("policy", {}))
    total_timesteps = int(settings.pop("total_timesteps", DEFAULT_TIMESTEPS))
    apply_params(command.param, {"": settings, "env": env_kwargs, "policy": policy_kwargs})
    networks = algorithm.policy_aliases.get(str(settings.get("policy", "MlpPolicy")))
    if command.cuda_graph:
        if "cuda_graph" not in inspect.signature(algorithm).parameters:
            raise ValueError(f"--cuda-graph is not for {command.algo}: pearl has it")
        settings["cuda_graph"] = True
    if command.compile:
        raise ValueError(f"--compile is not for {command.algo}: maml and reptile have it")
    check_settings(algorithm, "", settings)
    check_settings(networks, "policy.", policy_kwargs)
    check_settings(_env_maker(env_id), "env.", env_kwargs)
    if policy_kwargs:
        settings["policy_kwargs"] = policy_kwargs
    if command.total_timesteps is not None:
        total_timesteps = command.total_timesteps
    check_flags(command)
    return RunConfig(
        command.algo, tasks, env_id, env_kwargs, settings, total_timesteps, command.seed
    )


def _env_maker(env_id: str) -> Callable[..., Any] | None:
    """What takes an environment's arguments; ``None`` where that is not known."""
    definition = gym.spec(env_id).kwargs.get("definition") if env_id in gym.registry else None
    if env_id.removeprefix(NAMESPACE) in PYTHON_ENVIRONMENTS:
        definition = gym.spec(env_id).entry_point
    if isinstance(definition, str):
        definition = load_env_creator(definition)
    return definition if callable(definition) else None


def evaluate(command: Evaluate) -> EvaluationResult:
    """Evaluate a run's last checkpoint; writes ``evaluation.json`` and the picture."""
    check_device(command.device)
    folder = RunFolder(command.run)
    config = folder.config()
    if config.algorithm in few_shot.LEARNERS:
        return few_shot.evaluate(command, folder)
    model = find_class(ALGORITHMS, config.algorithm).load(folder.checkpoint, device=command.device)
    num_tasks = command.num_tasks
    if num_tasks is None:
        num_tasks = _num_tasks(model, config.env_id, 1000, 40)
    result = evaluate_adaptation(
        model,
        config.env_id,
        num_tasks,
        command.num_episodes,
        split=command.split,
        seed=command.seed,
        deterministic=command.deterministic,
        **config.env_kwargs,
    )
    _report(result, folder)
    return result


def _report(result: EvaluationResult, folder: RunFolder) -> None:
    result.save(folder.evaluation)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    result.plot(figure.add_subplot())
    figure.savefig(folder.picture, dpi=150)
    summary = result.summary()
    last = result.values.shape[1] - 1
    print(
        f"{result.learner}, {result.counts_text()} of {result.environment}: "
        f"total {summary['total_mean']:.2f} "
        f"({result.interval_text(summary['total_mean_interval'], digits=2)}); "
        f"{result.unit} 1: {summary['mean'][0]:.3f}, {result.unit} {last + 1}: "
        f"{summary['mean'][last]:.3f}" + result.success_text()
    )
    print(f"evaluation: {folder.evaluation}\npicture: {folder.picture}")


def plot(command: Plot) -> Path:
    """Draw learning curves and adaptation of all runs into one picture; gives its path.

    Raises:
        ValueError: No run given, or one without anything to draw.
    """
    if not command.runs:
        raise ValueError("plot needs a run folder")
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    learning, adaptation = figure.subplots(1, 2)
    curves = []
    for index, path in enumerate(command.runs):
        folder = RunFolder(path)
        config = folder.config()
        color = f"C{index % 10}"  # a run has one in both pictures
        label = f"{config.algorithm} {config.tasks} seed {config.seed}"
        if folder.evaluation.exists():
            EvaluationResult.load(folder.evaluation).plot(adaptation, label=label, color=color)
            if not config.total_timesteps:
                continue  # nothing was learned before the tasks
        curve = learning_columns(folder.learning_curve())
        curves.append(curve)
        learning.plot(curve.steps, curve.trained, label=label, color=color)
        if curve.validated is not None:
            points = np.array([curve.steps, curve.validated])
            points = points[:, ~np.isnan(points[1])]
            learning.plot(*points, ".", markeredgecolor="black", color=color)
    if curves:
        learning.set_xlabel(" or ".join(sorted({curve.unit for curve in curves})))
        measures = " or ".join(sorted({curve.measure for curve in curves}))
        learning.set_ylabel(f"{measures} (dots: validation tasks)")
        learning.legend()
    learning.set_title("Meta-training")
    out = command.out or command.runs[0] / "plot.png"
    figure.savefig(out, dpi=150)
    print(f"picture: {out}")
    return out


if __name__ == "__main__":
    sys.exit(main())
