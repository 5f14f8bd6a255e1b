r"""Speed of the meta-gradient: batched over tasks, against clone-and-loop.

One meta-step is the loss of every task after adaptation, and the exact gradient of their mean by
the initial parameters. Three settings:

* ``sinusoid``: regression with an MLP of 40 and 40 units, 25 tasks, 10 shots, 5 inner steps
  (Finn et al., 2017, section 5.1);
* ``omniglot_mlp``: 32 tasks of 5 ways and 1 shot on 28 × 28 pixels, layers of 256, 128, 64 and 64
  units with batch normalisation, 1 inner step (section 5.2);
* ``conv4``: the same tasks, four convolutions of 64 filters with stride 2.

The contenders take turns in one run on one machine: ``meta_rl.inner_loop.meta_loss`` and
``backward``; ``meta_gradient``, as it is and by ``torch.compile``; a loop that clones the module
for each task and updates the clone by ``autograd.grad(create_graph=True)``, in the style of
learn2learn's ``MAML.clone`` and ``adapt``; and learn2learn itself where ``--learn2learn`` names a
checkout of it. All use the same parameters and data, and their gradients have to agree. Ours write
batch normalisation out, as ``backward`` through ``vmap`` of torch's own is wrong (see
``meta_loss``); the loops use torch's. Pixels are random: they do not matter for the time.

All contenders keep freed memory, as the command line does (``freed_memory``): fast weights
of 32 such MLPs are tens of megabytes, which glibc's malloc would else take from the system and give
back at every operation. ``--no-keep-memory`` measures that.

Writes ``inner_loop_speed.json`` and ``inner_loop_speed.md``.

    python benchmarks/inner_loop_speed.py
    python benchmarks/inner_loop_speed.py --no-keep-memory --no-compile --settings omniglot_mlp \
        --name inner_loop_speed_fresh_pages
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import tyro
from result_files import RESULTS, notes, page, ratios, span, table, take_turns, write
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from meta_rl.compute.freed_memory import keep_freed_memory
from meta_rl.few_shot.networks.batch_norm import BatchNorm
from meta_rl.inner_loop import Params, detached, meta_gradient, meta_loss

Step = Callable[[], list[Tensor]]
"""A meta-step, which returns the gradient, by parameter."""

LOOP, PEER = "clone and loop", "learn2learn"
BACKWARD, BATCHED, COMPILED = "meta_loss, backward", "meta_gradient", "meta_gradient, compiled"


@dataclass
class Args:
    """Settings of the benchmark."""

    settings: tuple[str, ...] = ("sinusoid", "omniglot_mlp", "conv4")
    """Names of the settings: sinusoid, omniglot_mlp, conv4."""
    learn2learn: Path | None = None
    """Folder of a checkout of learn2learn, which is then measured too (default: none)."""
    turns: int = 7
    """Number of measurements of each contender, in turns."""
    seconds: float = 1.0
    """Least number of seconds of a measurement, which has at least one meta-step."""
    compile: bool = True
    """Whether to measure torch.compile (except for convolutions)."""
    threads: int = 1
    """Number of PyTorch CPU threads."""
    keep_memory: bool = True
    """Whether the process keeps freed memory, for every contender."""
    out: Path = RESULTS
    """Folder of NAME.json and NAME.md."""
    name: str = "inner_loop_speed"
    """Name of the result files."""


@dataclass
class Setting:
    """A module, its data, and how it adapts.

    Attributes:
        module: Module of the loops, whose parameters all contenders use.
        loss: Loss function ``loss(outputs, targets)``.
        support: Inputs and targets, ``[M, ...]`` each.
        query: Inputs and targets, ``[M, ...]`` each.
        lr: Step size of the inner loop.
        num_steps: Number of steps of the inner loop.
        chunk_size: Number of tasks that are batched together; ``None`` for all.
        wanted: Ratios to clone-and-loop that we want: batched, and compiled.
    """

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]
    lr: float
    num_steps: int
    chunk_size: int | None
    wanted: tuple[float, ...]

    def ours(self) -> nn.Module:
        """The same network, with batch normalisation written out."""
        module = copy.deepcopy(self.module)
        for name, part in self.module.named_modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                module.set_submodule(name, BatchNorm(part.num_features))
        return module


def sinusoid() -> Setting:
    """Amplitudes in [0.1, 5], phases in [0, π], inputs in [-5, 5]."""
    generator = torch.Generator().manual_seed(0)
    amplitude, phase = torch.rand((2, 25, 1, 1), generator=generator)

    def shots() -> tuple[Tensor, Tensor]:
        x = 10 * torch.rand((25, 10, 1), generator=generator) - 5
        return x, (0.1 + 4.9 * amplitude) * torch.sin(x - torch.pi * phase)

    module = nn.Sequential(
        *(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    )
    return Setting(module, functional.mse_loss, shots(), shots(), 0.01, 5, None, (6.0, 40.0))


def images(module: nn.Module, chunk_size: int | None, wanted: tuple[float, ...]) -> Setting:
    """32 tasks of 5 ways, 1 shot and 1 query image each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).expand(32, 5)
    support, query = torch.rand((2, 32, 5, 1, 28, 28), generator=generator)
    cross_entropy = functional.cross_entropy
    return Setting(
        module, cross_entropy, (support, labels), (query, labels), 0.4, 1, chunk_size, wanted
    )


def omniglot_mlp() -> Setting:
    """The fully connected network of the MAML paper."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in ((784, 256), (256, 128), (128, 64), (64, 64)):
        norm = nn.BatchNorm1d(after, track_running_stats=False)
        layers += [nn.Linear(before, after), norm, nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(64, 5))
    return images(module, None, (2.0, 2.5))


def conv4() -> Setting:
    """The convolutional network of the MAML paper: 28, 14, 7, 4, 2 pixels, then their mean."""
    layers: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(channels, 64, 3, stride=2, padding=1), norm, nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)]
    return images(nn.Sequential(*layers, *head), 4, (1.0,))


SETTINGS = {"sinusoid": sinusoid, "omniglot_mlp": omniglot_mlp, "conv4": conv4}


def batched(setting: Setting, compiled: bool = False, backward: bool = False) -> Step:
    """Our meta-step: as it is, compiled, or by ``backward`` through the loss."""
    module = setting.ours()

    def loss(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        return setting.loss(functional_call(module, params, (data[0],)), data[1])

    kwargs: dict[str, Any] = {
        "lr": setting.lr,
        "num_steps": setting.num_steps,
        "chunk_size": setting.chunk_size,
    }
    data = setting.support, setting.query
    own = dict(setting.module.named_parameters())
    if backward:
        return lambda: by_backward(meta_loss(loss, loss, own, *data, **kwargs).mean(), setting)
    step: Any = partial(meta_gradient, loss, loss, **kwargs)
    if compiled:
        step = torch.compile(step)
    params = detached(own)
    return lambda: list(step(params, *data)[0].values())


def cloned(module: nn.Module) -> nn.Module:
    """A module of the same structure whose parameters are functions of the original's."""
    clone = copy.copy(module)
    clone._parameters = {
        name: None if value is None else value.clone() for name, value in module._parameters.items()
    }
    clone._modules = {name: cloned(part) for name, part in module._modules.items() if part}
    return clone


def parameters_of(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The places of the parameters: the module that holds each, and its name there."""
    return [
        (part, name)
        for part in module.modules()
        for name, value in part._parameters.items()
        if value is not None
    ]


def clone_and_loop(setting: Setting) -> Step:
    """A clone for each task, stepped by autograd."""

    def step() -> list[Tensor]:
        total = torch.zeros(())
        for x, y, query_x, query_y in zip(*setting.support, *setting.query, strict=True):
            learner = cloned(setting.module)
            places = parameters_of(learner)
            for _ in range(setting.num_steps):
                loss = setting.loss(learner(x), y)
                values = [part._parameters[name] for part, name in places]
                gradients = torch.autograd.grad(loss, values, create_graph=True)
                for (part, name), value, gradient in zip(places, values, gradients, strict=True):
                    part._parameters[name] = value - setting.lr * gradient
            total = total + setting.loss(learner(query_x), query_y)
        return by_backward(total / len(setting.support[0]), setting)

    return step


def learn2learn_loop(setting: Setting, checkout: Path) -> Step:
    """The same with learn2learn's own MAML.

    Its package does not import without its compiled parts and old libraries: the one file is read
    without what the packages around it do at their import.
    """
    if not (checkout / "learn2learn/algorithms/maml.py").is_file():
        raise SystemExit(f"{checkout} is no checkout of learn2learn")
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    maml = importlib.import_module("learn2learn.algorithms.maml").MAML(
        setting.module, lr=setting.lr, first_order=False
    )

    def step() -> list[Tensor]:
        total = torch.zeros(())
        for x, y, query_x, query_y in zip(*setting.support, *setting.query, strict=True):
            learner = maml.clone()
            for _ in range(setting.num_steps):
                learner.adapt(setting.loss(learner(x), y))
            total = total + setting.loss(learner(query_x), query_y)
        return by_backward(total / len(setting.support[0]), setting)

    return step


def by_backward(mean: Tensor, setting: Setting) -> list[Tensor]:
    """The gradient, as a training loop gets it."""
    setting.module.zero_grad()
    mean.backward()
    return [p.grad for p in setting.module.parameters() if p.grad is not None]


def measure(step: Step, seconds: float) -> float:
    """Milliseconds of a meta-step, the median of as many as fit."""
    times, began = [], time.perf_counter()
    while not times or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def compare(name: str, args: Args) -> dict[str, Any]:
    """Milliseconds of each contender, turn by turn, and the seconds that compiling took."""
    torch.manual_seed(0)  # of the first weights
    setting = SETTINGS[name]()
    steps = {
        LOOP: clone_and_loop(setting),
        BACKWARD: batched(setting, backward=True),
        BATCHED: batched(setting),
    }
    wanted = dict.fromkeys((BACKWARD, BATCHED), setting.wanted[0])
    if args.compile and len(setting.wanted) > 1:
        steps[COMPILED] = batched(setting, compiled=True)
        wanted[COMPILED] = setting.wanted[1]
    if args.learn2learn is not None:
        steps[PEER] = learn2learn_loop(setting, args.learn2learn)
    expected, first_call = None, {}
    for contender, step in steps.items():
        began = time.perf_counter()
        gradient = [part.detach().clone() for part in step()]
        first_call[contender] = time.perf_counter() - began
        expected = gradient if expected is None else expected
        torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)
    times = take_turns(
        {name: partial(measure, step, args.seconds) for name, step in steps.items()}, args.turns
    )
    return {"milliseconds": times, "first_call_seconds": first_call, "wanted": wanted}


def rows(name: str, result: dict[str, Any]) -> list[list[str]]:
    """The rows of a setting in the table."""
    times, lines = result["milliseconds"], []
    for contender, turns in times.items():
        gains = ratios(times[LOOP], turns)
        wanted = result["wanted"].get(contender)
        lines.append(
            [
                name,
                contender,
                f"{np.median(turns):.2f} ({span(turns)})",
                f"**{np.median(gains):.1f}** ({span(gains, '.1f')})",
                "" if wanted is None else f"{wanted:g}",
                f"{result['first_call_seconds'][contender]:.1f}",
            ]
        )
    return lines


def main(args: Args) -> None:
    """Measures, and writes the table."""
    torch.set_num_threads(args.threads)
    kept = args.keep_memory and keep_freed_memory()
    torch.compiler.config.force_disable_caches = True  # so that the first call does compile
    results = {name: compare(name, args) for name in args.settings}
    option = "" if args.keep_memory else " --no-keep-memory"
    file = args.out / f"{args.name}.json"
    text = page(
        "Speed of the meta-gradient",
        f"`python benchmarks/inner_loop_speed.py{option}`: medians (and ranges) of "
        f"{args.turns} turns of at least {args.seconds:g} s each; torch with {args.threads} "
        f"thread(s) on {os.cpu_count()} cores. Freed memory is "
        f"{'kept' if kept else 'left to malloc'}, for all contenders. The ratio is the time of "
        "clone-and-loop by that of the contender, turn by turn. The first call of the compiled "
        "step compiles it.",
        table(
            ["setting", "contender", "ms a meta-step", "ratio", "wanted", "first call, s"],
            [row for name, result in results.items() for row in rows(name, result)],
        ),
        notes(file),
    )
    print(text)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "name")}
    write(file, {"results": results, "settings": settings}, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
