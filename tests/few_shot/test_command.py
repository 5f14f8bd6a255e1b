"""Few-shot learners on the command line: run folders, resuming, refusals; the page's snippet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from meta_rl.algorithms import (
    RunTasks,
    algorithms_by_kind,
    registered_algorithms,
)
from meta_rl.cli import Train, main, run_config
from meta_rl.cli.run_folder import RunFolder
from meta_rl.cli.settings import settings_for
from meta_rl.cli.trainable import trainable
from meta_rl.cli.training import Validation, open_tasks
from meta_rl.few_shot import MAML, FewShotLearner, sinusoid_mlp
from meta_rl.few_shot.data.datasets import DATASETS, find_dataset, numbers_in
from meta_rl.few_shot.networks.feed_forward import RECIPES

from .small_data import real_data

TRAIN = ["train", "maml", "Sinusoid-5s", "--quiet", "--device", "cpu", "--eval-tasks", "12"]
SMALL = ["--param", "policy.hidden=[4]", "env.num_test=12", "meta_batch_size=2"]
PAGE = Path(__file__).parents[2] / "docs" / "few-shot.md"


def test_train_resume_evaluate_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([*TRAIN, *SMALL, "--total-timesteps", "20", "--out", str(run)]) == 0
    assert (
        "MAML, 1 training x 12 test tasks of Sinusoid-5s: mean squared error"
        in capsys.readouterr().out
    )
    resume = ["--total-timesteps", "40", "--out", str(run), "--resume"]
    assert main([*TRAIN, *SMALL, *resume]) == 0
    assert main([*TRAIN, *SMALL, "--total-timesteps", "40", "--out", str(whole)]) == 0
    first, second = (MAML.load(path / "checkpoint.zip", device="cpu") for path in (run, whole))
    assert (first.num_iterations, second.num_iterations) == (40, 40)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.params.values(), second.params.values(), strict=True)
    )
    curve = RunFolder(run).learning_curve()
    assert curve["time/iterations"] == sorted(curve["time/iterations"])
    assert curve["time/iterations"][-1] == 40
    assert "train/loss" in curve
    assert "validation/loss" in curve
    assert main(["evaluate", str(run), "--num-tasks", "7", "--split", "validation"]) == 0
    assert json.loads((run / "evaluation-validation-7.json").read_text())["split"] == "validation"
    assert main(["plot", str(run), str(whole)]) == 0
    for picture in ("plot.png", "evaluation.png"):
        with Image.open(run / picture) as image:
            assert image.size[0] > 100


def test_a_learner_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(9):
        (tmp_path / "own" / str(label)).mkdir(parents=True)
        for i in range(3):
            file = tmp_path / "own" / str(label) / f"{i}.png"
            Image.new("L", (8, 8), 20 * label).save(file)
    arguments = ["train", "nearest", "ImageFolder-3w1s", "--eval-tasks", "5", "--quiet"]
    params = [f"env.path={tmp_path / 'own'}", "env.queries=1", "env.fractions=[0.34,0.33,0.33]"]
    run = ["--out", str(tmp_path / "run")]
    assert main([*arguments, *run, "--param", *params]) == 0
    least = 0.025 ** (1 / 5)  # with all of five tasks right, by Clopper and Pearson
    told = f"1.000 (95 % interval {least:.3f} to 1.000 over tasks of one training) after 1 shot\n"
    assert told in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--num-tasks", "3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "maml", "Omnigloth-5w1s"], "unknown few-shot tasks .* did you mean Omniglot"),
        (["train", "mmal", "Omniglot-5w1s"], "unknown algorithm 'mmal': did you mean maml"),
        ([*TRAIN, "--param", "lrr=1"], "MAML has no setting 'lrr': did you mean lr"),
        ([*TRAIN, "--param", "lr=fast"], "lr takes float, got 'fast'"),
        ([*TRAIN, "--param", "meta_lr=fast"], "meta_lr takes a number or"),
        ([*TRAIN, "--param", "policy.size=3"], "sinusoid_mlp has no setting 'policy.size'"),
        ([*TRAIN, "--param", "env.way=3"], "Sinusoid has no setting 'env.way'"),
        ([*TRAIN, "--param", "network=resnet"], "network is one of conv4"),
        ([*TRAIN, "--param", "env.shots=0"], "shots has to be a whole number"),
        ([*TRAIN, "--total-timesteps", "-1"], "must not be negative"),
        ([*TRAIN, "--seed", "-1"], "--seed must not be negative"),
        ([*TRAIN, "--param", "env.device=cuda"], "env.device: tasks are drawn on the learner's"),
        (
            [*TRAIN, "--device", "cpu", "--cuda-graph"],
            "a CUDA graph needs a GPU, but the device is",
        ),
        ([*TRAIN, "--cuda-graph", "--compile"], "--cuda-graph and --compile exclude each other"),
        (
            ["train", "scratch", "Sinusoid-5s", "--device", "cpu", "--compile"],
            "--compile is not for scratch: maml and reptile have it",
        ),
        (["train", "nearest", "Sinusoid-5s"], "NearestNeighbour learns labels"),
        (["train", "ntm", "Sinusoid-5s"], "NTMLearner does not learn Sinusoid, which has no input"),
        (["train", "mann", "Copy"], "MANN does not learn Copy, which has no ways"),
        (["train", "memory-network", "Babi", "--param", "env.task=a"], "tasks of bAbI are 1 to 20"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_names_tell_ways_and_shots() -> None:
    assert find_dataset("Omniglot-20w5s-mlp") == "Omniglot"
    assert numbers_in("Omniglot-20w5s-mlp") == {"ways": 20, "shots": 5}
    assert numbers_in("Sinusoid-10s") == {"shots": 10}
    assert numbers_in("Omniglot") == {}


@pytest.mark.parametrize("name", algorithms_by_kind()["few-shot learners"])
def test_shipped_settings_name_what_there_is(name: str) -> None:
    """The learner and its network take every key; the data set takes its own, by its signature."""
    sizes = SimpleNamespace(ways=5, input_size=9, output_size=8)
    train = SimpleNamespace(pool=SimpleNamespace(examples=torch.ones(2, 9)))
    stub = SimpleNamespace(train=train, test=sizes, vocabulary=range(20))
    for tasks, settings in settings_for(name).items():
        assert find_dataset(tasks) in DATASETS
        assert settings.get("network", "conv4") in RECIPES
        config = run_config(Train(name, tasks))
        assert config.env_kwargs.get("shots", 1) in (1, 5, 10)
        algorithm: Any = trainable(name)
        assert issubclass(algorithm, FewShotLearner)
        run_tasks = RunTasks(config.env_id, stub, {})
        learner = algorithm.for_tasks(run_tasks, config.algorithm_kwargs, seed=0, device="cpu")
        assert type(learner).__name__ == registered_algorithms()[name].home.partition(":")[2]


def test_learners_that_make_their_own_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    command = ["train", "ntm", "Copy", "--total-timesteps", "2", "--eval-tasks", "3", "--quiet"]
    sizes = ["slots=6", "width=4", "hidden=8", "env.lengths=[1, 2]", "env.test_length=3"]
    params = [part for size in sizes for part in ("--param", size)]
    assert main([*command, *params, "--out", out]) == 0
    assert main(["evaluate", out, "--num-tasks", "4"]) == 0
    assert "Copy-3" in capsys.readouterr().out
    assert main(["train", "maml", "Copy", "--out", str(tmp_path / "other")]) == 2
    assert "MAML needs a network, and none is known for Copy" in capsys.readouterr().err
    refused = ["train", "ntm", "Copy", "--param", "policy.ways=3", "--out", str(tmp_path / "other")]
    assert main(refused) == 2
    assert "makes its own network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "sizes", "named"),
    [
        ("RepeatCopy", ["env.test_length=2", "env.test_repeats=3"], "RepeatCopy-2x3"),
        ("AssociativeRecall", ["env.items=[2,3]", "env.test_items=4"], "AssociativeRecall-4"),
    ],
)
def test_sequences_by_name(
    tasks: str, sizes: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "lstm", tasks, "--total-timesteps", "1", "--eval-tasks", "3", "--quiet"]
    params = ["--param", "hidden=4", "layers=1", *sizes]
    assert main([*command, *params, "--out", str(tmp_path / "run")]) == 0
    assert named in capsys.readouterr().out


def test_runs_of_lake_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A nearest neighbour has the paper's error there, whatever split it is asked for."""
    root = f"env.root={real_data('omniglot')}"
    out = str(tmp_path / "run")
    train = ["train", "nearest", "Omniglot-20w1s", "--eval-tasks", "0", "--param", root]
    assert main([*train, "--out", out]) == 0
    assert main(["evaluate", out, "--split", "lake"]) == 0
    printed = capsys.readouterr().out
    assert (
        "NearestNeighbour, 1 training x 20 given tasks of Omniglot-Lake: mean accuracy 0.050"
        in printed
    )
    assert "0.210 (95 % interval" in printed
    assert main([*TRAIN, *SMALL, "--total-timesteps", "0", "--out", str(tmp_path / "maml")]) == 0
    assert main(["evaluate", str(tmp_path / "maml"), "--split", "lake"]) == 2
    assert "Lake's one-shot runs are of Omniglot" in capsys.readouterr().err


def test_plots_of_learners_with_and_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterations on the axis; a baseline that learns nothing before the tasks has no curve."""
    maml, scratch = str(tmp_path / "maml"), str(tmp_path / "scratch")
    assert main([*TRAIN, *SMALL, "--total-timesteps", "20", "--out", maml]) == 0
    small = ["--param", "policy.hidden=[4]", "env.num_test=12", "eval_steps=2"]
    command = ["train", "scratch", *TRAIN[2:]]
    assert main([*command, *small, "--out", scratch]) == 0
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *args: object, **kwargs: object) -> None:
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", kept)
    assert main(["plot", scratch, maml]) == 0
    learning, adaptation = drawn[-1].axes
    assert learning.get_xlabel() == "iterations"
    assert learning.get_ylabel() == "loss (dots: validation tasks)"
    assert [text.get_text() for text in learning.get_legend().get_texts()] == [
        "maml Sinusoid-5s seed 0"
    ]
    assert adaptation.get_ylabel() == "mean squared error"
    trained, validated = learning.lines
    assert trained.get_color() == validated.get_color() == adaptation.lines[1].get_color()
    assert adaptation.lines[0].get_color() != adaptation.lines[1].get_color()
    assert main(["plot", scratch]) == 0


def snippet() -> str:
    """The block of the example on the page about few-shot learning."""
    text = PAGE.read_text(encoding="utf-8").partition("## An example")[2]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, "the page has no example"
    return found[1]


def test_the_snippet_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands there, but for the folder, and with fewer iterations and tasks."""
    program = snippet()
    for text, shorter in (
        ('root="data"', f"root={str(real_data('omniglot'))!r}"),
        ("num_iterations=1000", "num_iterations=1"),
        ("num_tasks=600", "num_tasks=2"),
    ):
        assert text in program
        program = program.replace(text, shorter)
    names: dict[str, object] = {}
    exec(program, names)
    assert names["labels"].shape == (75,)  # type: ignore[attr-defined]
    assert (
        "MAML, 1 training x 2 test tasks of Omniglot-5w1s: mean accuracy" in capsys.readouterr().out
    )


def test_a_learner_that_the_user_made_is_validated() -> None:
    """It lacks the members of the command line."""
    config = run_config(Train("maml", "Sinusoid-5s", total_timesteps=4, device="cpu"))
    learner = MAML(sinusoid_mlp(), 0.01, seed=0, device="cpu")
    logged: list[set[str]] = []

    def look(one: MAML) -> None:
        logged.append(set(one.logger.name_to_value))
        one.logger.name_to_value.clear()

    watch = Validation(config, num_tasks=2, num_points=2)
    learner.learn(open_tasks(config).source, 4, callback=[watch, look], log_interval=None)
    assert logged == [set(), {"validation/loss"}] * 2
