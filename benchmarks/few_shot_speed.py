"""Speed of drawing meta-batches of Omniglot, against a pipeline of single images.

The pipeline is the usual one: a ``Dataset`` that opens an image file, resizes and turns it, a
batch sampler that picks the classes and images of a task, and a ``DataLoader`` that stacks them;
here with the files in the operating system's cache, and without worker processes or with two. Both
make the same meta-batches: 32 tasks, 5 ways, 1 shot, 15 queries.

    python benchmarks/few_shot_speed.py
"""

from __future__ import annotations

import io
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from result_files import RESULTS, page, span, table, take_turns, write
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from meta_rl.few_shot import Omniglot
from meta_rl.few_shot.data.omniglot import IMAGES
from meta_rl.few_shot.data.sources import obtain


@dataclass
class Args:
    """Settings of the run."""

    meta_batch_size: int = 32
    """Number of tasks in a meta-batch."""
    seconds: float = 5.0
    """Seconds of each measurement."""
    repeats: int = 3
    """Number of turns; the median is reported."""
    out: Path = RESULTS
    """Folder of few_shot_speed.json and few_shot_speed.md."""


class Images(Dataset):
    """One image at a time from its file, as tutorials do it."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        index, turns = key
        with Image.open(self.files[index]) as image:
            grey = image.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
        pixels = 1 - np.asarray(grey, dtype=np.float32) / 255
        return torch.from_numpy(np.rot90(pixels, turns).copy())[None]


class TaskSampler(Sampler):
    """Indices of the images of a meta-batch, task by task."""

    def __init__(self, num_classes: int, meta_batch_size: int, rng: np.random.Generator) -> None:
        self.num_classes = num_classes
        self.meta_batch_size = meta_batch_size
        self.rng = rng

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        while True:
            keys = []
            for _ in range(self.meta_batch_size):
                for cls in self.rng.choice(self.num_classes, 5, replace=False):
                    turns = int(self.rng.integers(4))
                    for image in self.rng.choice(20, 16, replace=False):
                        keys.append((int(cls) * 20 + int(image), turns))
            yield keys


def rate(step: Callable[[], object], seconds: float) -> float:
    """Steps per second."""
    step()  # warm up
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - began)


def main(args: Args) -> None:
    """Measures in turn, so that a busy machine is busy for all, and writes the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    tasks = Omniglot(ways=5, shots=1, queries=15)
    with tempfile.TemporaryDirectory() as folder:
        archive = zipfile.ZipFile(io.BytesIO(obtain(IMAGES["background"]).read_bytes()))
        archive.extractall(folder)
        images = Images(Path(folder))
        pipelines = {}
        for workers in (0, 2):
            sampler = TaskSampler(len(images) // 20, args.meta_batch_size, rng)
            loader = DataLoader(images, batch_sampler=sampler, num_workers=workers)
            pipelines[f"DataLoader, {workers} workers"] = iter(loader)
        steps: dict[str, Callable[[], object]] = {
            "Omniglot": lambda: tasks.train.sample_tasks(args.meta_batch_size, rng),
            **{name: (lambda stream=stream: next(stream)) for name, stream in pipelines.items()},
        }
        rates = take_turns(
            {name: partial(rate, step, args.seconds) for name, step in steps.items()}, args.repeats
        )
    median = {name: float(np.median(values)) for name, values in rates.items()}
    text = page(
        "Speed of drawing meta-batches",
        f"By `python benchmarks/few_shot_speed.py`: batches of {args.meta_batch_size} tasks, 5 "
        "ways, 1 shot, 15 queries of Omniglot, one thread; median (and range) of "
        f"{args.repeats} turns of {args.seconds:g} s.",
        table(
            ["", "meta-batches per second", "ratio"],
            [
                [
                    name,
                    f"{median[name]:.2f} ({span(values)})",
                    f"{median['Omniglot'] / median[name]:.0f}",
                ]
                for name, values in rates.items()
            ],
        ),
    )
    write(args.out / "few_shot_speed.json", {"rates": rates}, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
