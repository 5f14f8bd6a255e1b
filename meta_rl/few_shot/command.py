"""Few-shot learners on the command line: data sets and networks by name, run folders."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meta_rl.evaluation import EvaluationResult, evaluate_adaptation
from meta_rl.few_shot.evaluation import final_scores
from meta_rl.options import apply_params, check_device, check_flags, check_settings, find_class
from meta_rl.runs import RunConfig, RunFolder
from meta_rl.tuned import find_settings

LEARNERS = {
    "finetune": "meta_rl.few_shot.baselines:FineTune",
    "lstm": "meta_rl.few_shot.sequence_learner:LSTMLearner",
    "maml": "meta_rl.few_shot.maml:MAML",
    "mann": "meta_rl.few_shot.mann:MANN",
    "matching": "meta_rl.few_shot.matching:MatchingNet",
    "memory-network": "meta_rl.few_shot.memory_network:MemoryNetworkLearner",
    "nearest": "meta_rl.few_shot.baselines:NearestNeighbour",
    "ntm": "meta_rl.few_shot.sequence_learner:NTMLearner",
    "protonet": "meta_rl.few_shot.protonet:ProtoNet",
    "reptile": "meta_rl.few_shot.reptile:Reptile",
    "scratch": "meta_rl.few_shot.baselines:FromScratch",
    "siamese": "meta_rl.few_shot.siamese:Siamese",
}
"""Few-shot learners by their name on the command line."""

DATASETS: dict[str, tuple[str, str | None]] = {
    "AssociativeRecall": ("meta_rl.few_shot.sequences:recall_split", None),
    "Babi": ("meta_rl.few_shot.babi:Babi", None),
    "Clinc150": ("meta_rl.few_shot.clinc150:Clinc150", "text_encoder"),
    "Copy": ("meta_rl.few_shot.sequences:copy_split", None),
    "ImageFolder": ("meta_rl.few_shot.own_data:split_folder", "conv4"),
    "Omniglot": ("meta_rl.few_shot.omniglot:Omniglot", "conv4"),
    "RepeatCopy": ("meta_rl.few_shot.sequences:repeat_copy_split", None),
    "Sinusoid": ("meta_rl.few_shot.sinusoid:Sinusoid", "sinusoid_mlp"),
}
"""Data sets by name, each with the network that is usual for it.

``None``: for learners that make their own.
"""

DEFAULT_ITERATIONS = 10_000
DEFAULT_TEST_TASKS = 600
VALIDATION_TASKS = 40
STEPS = "time/iterations"


def find_dataset(name: str) -> str:
    """The data set of a name such as ``Omniglot-5w1s``.

    Raises:
        ValueError: Unknown; lists the near matches.
    """
    dataset = name.partition("-")[0]
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"{', '.join(DATASETS)} exist"
        raise ValueError(f"unknown few-shot tasks {name!r}: {hint}, as in Omniglot-5w1s")
    return dataset


def dataset_maker(name: str) -> Callable[..., Any]:
    """What makes the tasks of a data set."""
    module, _, attribute = DATASETS[name][0].partition(":")
    return getattr(importlib.import_module(module), attribute)


def numbers_in(name: str) -> dict[str, int]:
    """Ways and shots in a name: ``Omniglot-5w1s``, ``Sinusoid-10s``; others mean nothing."""
    found = re.search(r"-(?:(\d+)w)?(\d+)s(?:-|$)", name)
    if found is None:
        return {}
    ways = {} if found[1] is None else {"ways": int(found[1])}
    return {**ways, "shots": int(found[2])}


def few_shot_config(command: Any) -> RunConfig:
    """The shipped settings for the tasks, changed by ``--param``.

    ``env.k=v`` are arguments of the data set, ``policy.k=v`` of the network.

    Raises:
        ValueError: Unknown tasks or settings.
    """
    learner = find_class(LEARNERS, command.algo)
    tasks, dataset, settings = find_settings(command.algo, command.tasks, find_dataset)
    env_kwargs = {**numbers_in(tasks), **settings.pop("env", {})}
    policy_kwargs = dict(settings.pop("policy", {}))
    iterations = int(settings.pop("num_iterations", DEFAULT_ITERATIONS))
    apply_params(command.param, {"": settings, "env": env_kwargs, "policy": policy_kwargs})
    if "device" in env_kwargs:
        raise ValueError("env.device: tasks are drawn on the learner's device; give --device")
    network = settings.pop("network", DATASETS[dataset][1])
    check_settings(learner, "", settings)
    check_settings(dataset_maker(dataset), "env.", env_kwargs)
    _check_network(learner, dataset, network, policy_kwargs)
    check_flags(command)
    if command.total_timesteps is not None:
        iterations = command.total_timesteps
    if not _trains(learner):
        iterations = 0
    settings |= {"network": network, "policy_kwargs": policy_kwargs}
    return RunConfig(command.algo, tasks, dataset, env_kwargs, settings, iterations, command.seed)


def train(command: Any) -> RunFolder:
    """Train as the command says, or go on with it; gives the run folder."""
    config = few_shot_config(command)
    default = Path("runs", f"{config.algorithm}-{config.tasks}-seed{config.seed}")
    folder = RunFolder(command.out or default)
    folder.check(config, command.resume)
    tasks = make_tasks(config)
    if command.resume and folder.checkpoint.exists():
        learner_class = find_class(LEARNERS, config.algorithm)
        learner = learner_class.load(folder.checkpoint, device=command.device)
    else:
        learner = make_learner(config, tasks, command.device)
    check_fit(learner, tasks)
    if command.cuda_graph:
        learner.check_can_record()
    if command.compile:
        learner.check_can_compile()
    folder.begin(config, command.resume)
    train_into(
        folder,
        learner,
        tasks,
        config,
        command.checkpoint_interval,
        not command.quiet,
        cuda_graph=command.cuda_graph,
        compile=command.compile,
    )
    num_tasks = DEFAULT_TEST_TASKS if command.eval_tasks is None else command.eval_tasks
    if num_tasks:
        report(evaluate_adaptation(learner, tasks, num_tasks), folder)
    print(f"run folder: {folder.path}")
    return folder


def check_fit(learner: Any, tasks: Any) -> None:
    """Refuse tasks that the learner does not take, before there is a run folder.

    Raises:
        ValueError: As :meth:`meta_rl.few_shot.learner.FewShotLearner.adapt`.
    """
    from meta_rl.few_shot.learner import FewShotLearner

    draws_tasks = type(learner).draw is FewShotLearner.draw and _trains(type(learner))
    for part in ("train", "test") if draws_tasks else ("test",):
        batch = tasks[part].sample_tasks(1, np.random.default_rng(0))
        learner.check_batch(batch.to(learner.device))


def train_into(
    folder: RunFolder,
    learner: Any,
    tasks: Any,
    config: RunConfig,
    checkpoint_interval: float = 30.0,
    progress_bar: bool = False,
    callbacks: Sequence[Callable[[Any], bool | None]] = (),
    cuda_graph: bool = False,
    compile: bool = False,
) -> None:
    """Train up to the iterations of the configuration, with log and checkpoints in the folder.

    Args:
        folder: Of the run.
        learner: Fresh, or from the run's checkpoint.
        tasks: Of the run.
        config: Of the run.
        checkpoint_interval: Seconds between checkpoints.
        progress_bar: Show one.
        callbacks: More of them, such as one that stops the training.
        cuda_graph: As in :meth:`meta_rl.few_shot.learner.FewShotLearner.learn`.
        compile: Likewise.
    """
    remaining = config.total_timesteps - learner.num_iterations
    if remaining > 0:
        logger = folder.logger(learner.num_iterations, 0, STEPS)
        learner.set_logger(logger)
        learner.learn(
            tasks,
            remaining,
            callback=[
                _Validation(tasks, config.total_timesteps),
                _Checkpoints(folder.checkpoint, checkpoint_interval),
                *callbacks,
            ],
            log_interval=max(1, min(100, config.total_timesteps // 20)),
            reset_num_iterations=False,
            progress_bar=progress_bar,
            cuda_graph=cuda_graph,
            compile=compile,
        )
        logger.close()
    if remaining > 0 or not folder.checkpoint.exists():
        learner.save(folder.checkpoint)


def evaluate(command: Any, folder: RunFolder) -> EvaluationResult:
    """Evaluate a run's last checkpoint; writes ``evaluation.json`` and the picture."""
    check_device(command.device)
    config = folder.config()
    if command.num_episodes is not None:
        raise ValueError("--num-episodes is for environments: few-shot tasks have none")
    learner_class = find_class(LEARNERS, config.algorithm)
    learner = learner_class.load(folder.checkpoint, device=command.device)
    tasks, num_tasks = make_tasks(config), DEFAULT_TEST_TASKS
    if command.split == "lake":
        tasks = _lake_runs(config, tasks)
        num_tasks = len(tasks)
    num_tasks = num_tasks if command.num_tasks is None else command.num_tasks
    result = evaluate_adaptation(learner, tasks, num_tasks, split=command.split, seed=command.seed)
    report(result, folder)
    return result


def _lake_runs(config: RunConfig, tasks: Any) -> Any:
    if config.env_id != "Omniglot":
        raise ValueError("--split lake: Lake's one-shot runs are of Omniglot")
    from meta_rl.few_shot.omniglot import lake_runs

    return lake_runs(config.env_kwargs.get("root"), size=tasks.test.pool.example_shape[-1])


def report(result: EvaluationResult, folder: RunFolder) -> None:
    """Write an evaluation and its picture, and print a line."""
    from matplotlib.figure import Figure

    result.save(folder.evaluation)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    result.plot(figure.add_subplot())
    figure.savefig(folder.picture, dpi=150)
    print(f"{result}\nevaluation: {folder.evaluation}\npicture: {folder.picture}")


def make_tasks(config: RunConfig) -> Any:
    """The data set of a run."""
    try:
        return dataset_maker(config.env_id)(**config.env_kwargs)
    except TypeError as error:
        raise ValueError(f"a setting of the wrong name or kind: {error}") from error


def make_learner(config: RunConfig, tasks: Any, device: str = "auto") -> Any:
    """The learner of a run, and its network with weights drawn by the run's seed."""
    learner = find_class(LEARNERS, config.algorithm)
    settings = dict(config.algorithm_kwargs)
    network, policy_kwargs = settings.pop("network"), settings.pop("policy_kwargs")
    about = {
        "ways": getattr(tasks.test, "ways", None),
        "vocabulary_size": len(getattr(tasks, "vocabulary", ())) or None,
        **_shapes(tasks.test),
    }
    try:
        takes = inspect.signature(learner).parameters
        if "network" not in takes:
            known = {key: about[key] for key in about if key in takes}
            _check_tells(learner, config.env_id, {**known, **settings})
            return learner(**{**known, **settings}, seed=config.seed, device=device)
        wanted = inspect.signature(_network_maker(network)).parameters
        known = {key: about[key] for key in about if key in wanted}
        if not _classifies(learner):
            known.pop("ways", None)
        generator = torch.Generator().manual_seed(config.seed)
        made = _network_maker(network)(**{**known, **policy_kwargs}, generator=generator)
        return learner(made, **settings, seed=config.seed, device=device)
    except TypeError as error:
        raise ValueError(f"a setting of the wrong name or kind: {error}") from error


def _check_tells(learner: Any, dataset: str, known: dict[str, Any]) -> None:
    """Learners that make their own network need to know sizes that only some tasks have."""
    parameters = inspect.signature(learner).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and known.get(p.name) is None]
    if needed:
        raise ValueError(
            f"{learner.__name__} does not learn {dataset}, which has no {' and no '.join(needed)}"
        )


def _shapes(tasks: Any) -> dict[str, Any]:
    """Of the inputs and outputs, for learners that make their own network."""
    known = {key: getattr(tasks, key, None) for key in ("input_size", "output_size")}
    if hasattr(tasks, "pool"):
        known["input_shape"] = list(tasks.pool.example_shape)
    return {key: value for key, value in known.items() if value is not None}


def _check_network(
    learner: type, dataset: str, network: str | None, policy_kwargs: dict[str, Any]
) -> None:
    """Settings of the network, where the learner is given one.

    Raises:
        ValueError: Unknown settings, or a learner and tasks that do not go together.
    """
    if network is not None:
        check_settings(_network_maker(network), "policy.", policy_kwargs)
    elif "network" in inspect.signature(learner).parameters:
        raise ValueError(f"{learner.__name__} needs a network, and none is known for {dataset}")
    elif policy_kwargs:
        raise ValueError(f"{learner.__name__} makes its own network: no policy. settings")


def _classifies(learner: type) -> bool:
    """Whether the learner's network has a head for the classes."""
    from meta_rl.few_shot.gradient import GradientLearner

    return issubclass(learner, GradientLearner)


def _trains(learner: Any) -> bool:
    from meta_rl.few_shot.baselines import Untrained

    return not issubclass(learner, Untrained)


def _network_maker(name: Any) -> Callable[..., Any]:
    from meta_rl.few_shot.networks import RECIPES

    if name not in RECIPES:
        raise ValueError(f"network is one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]


class _Checkpoints:
    """Save the learner every so many seconds; 0 saves at every iteration."""

    def __init__(self, path: Path, interval: float) -> None:
        self.path = path
        self.interval = interval
        self.saved = time.monotonic()

    def __call__(self, learner: Any) -> None:
        if time.monotonic() - self.saved >= self.interval:
            learner.save(self.path)
            self.saved = time.monotonic()


class _Validation:
    """Log what the learner earns on validation tasks once adapted, ten times in a run."""

    def __init__(self, tasks: Any, total_iterations: int, num_points: int = 10) -> None:
        self.tasks = tasks
        self.every = max(1, total_iterations // num_points)

    def __call__(self, learner: Any) -> None:
        if learner.num_iterations % self.every:
            return
        scores = final_scores(learner, self.tasks.validation, VALIDATION_TASKS)
        name = "loss" if learner.regression else "accuracy"
        learner.logger.record(f"validation/{name}", float(np.mean(scores)))
