"""Omniglot: handwritten characters of 50 alphabets, and Lake's official one-shot runs.

Lake et al., "Human-level concept learning through probabilistic program induction", Science 350,
2015. The data set has 1,623 characters with 20 images each, drawn by 20 people.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image, UnidentifiedImageError

from meta_rl.arguments import check_count, check_flag
from meta_rl.few_shot.data.sources import Source, cache_folder, contents_digest, obtain, open_zip
from meta_rl.few_shot.tasks import ClassPool, FewShotSplit, FewShotTasks, FrozenTasks, class_split
from meta_rl.files.sealed import WRONG_CONTENT, Saved, read_file, write_file

LAKE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
SPLIT = (
    "https://raw.githubusercontent.com/tristandeleu/pytorch-meta/master/torchmeta/datasets/assets/"
    "omniglot"
)
IMAGES = {
    "background": Source(
        "omniglot/images_background.zip",
        f"{LAKE}/images_background.zip",
        "md5:68d2efa1b9178cc56df9314c21c6e718",
    ),
    "evaluation": Source(
        "omniglot/images_evaluation.zip",
        f"{LAKE}/images_evaluation.zip",
        "md5:6b91aef0f799c5bb55b94e3f2daec811",
    ),
}
CONTENTS = {
    "background": "b11afd925e2b0cfcc853b608f8d4f9338d3d6835cec794a6a5b7ebc68184bab4",
    "evaluation": "fb37f0c0907846d9b7039995405ae9ace15b3d96497efa6e26b46e9d0ab6043c",
}
"""Digests of the images in the zip files; they do not depend on the packing."""
RUNS = Source(
    "omniglot/all_runs.zip",
    f"{LAKE}/one-shot-classification/all_runs.zip",
    "sha256:437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
)
VINYALS = {
    "train": Source(
        "omniglot/vinyals_split/train.json",
        f"{SPLIT}/train.json",
        "sha256:3432d95c10f2959c3894a2bebe63f70600b5c567a912d13200699b0634d7b191",
    ),
    "validation": Source(
        "omniglot/vinyals_split/val.json",
        f"{SPLIT}/val.json",
        "sha256:4aca6cbef626e818dace533b4c46363830eaaa158f2d06e29beb3e9772258d5f",
    ),
    "test": Source(
        "omniglot/vinyals_split/test.json",
        f"{SPLIT}/test.json",
        "sha256:c3604a268c3e6bfb5f010e839dd986d0f149bfc81a93cf5de239a0543effea86",
    ),
}
FULL_SIZE = 105
IMAGES_OF_A_CLASS = 20
CACHE = "decoded Omniglot"
"""Owner of the files of decoded images."""
NUM_LAKE_VALIDATION = 5


class Characters(NamedTuple):
    """All characters of Omniglot.

    Attributes:
        names: Sorted names ``part/alphabet/character``, ``[C]``.
        images: Images ``[C, 20, 1, size, size]``, uint8; ink is 255, paper is 0.
    """

    names: list[str]
    images: torch.Tensor


class Omniglot(FewShotSplit):
    """Few-shot classification of Omniglot characters.

    Images are inverted (ink 1, paper 0), resized with an anti-aliasing filter, and returned as
    floats ``[1, size, size]``. All are decoded once, kept in the user's cache folder, and held as
    one uint8 tensor.

    Args:
        root: Folder that holds ``omniglot/``, or into which it is downloaded (default:
            ``META_RL_DATA``, then the user's cache folder).
        ways: Number of classes in a task.
        shots: Number of support images of each class.
        queries: Number of query images of each class; with the shots at most 20.
        train_ways: Number of classes in a training task (default: ``ways``).
        train_shots: Number of support images in training (default: ``shots``).
        train_queries: Number of query images in training (default: ``queries``).
        split: Division of the characters. ``"vinyals"`` has 1,028 training, 172 validation and 423
            test characters (Vinyals et al., "Matching networks for one shot learning", 2016, in the
            division of the pytorch-meta project). ``"random"`` draws as many of each from all
            alphabets, as the codes of MAML and Reptile do; the test is easier, since its alphabets
            were seen in training. ``"lake"`` has 25 background alphabets for training, 5 for
            validation, and the 20 evaluation alphabets, from which Lake's runs come, for testing.
        split_seed: Seed of the random division.
        train_on_validation: Whether training uses the validation characters too, as the papers do
            (1,200 characters of Vinyals' split). Validation scores are then meaningless, so use it
            for final trainings only.
        rotations: Whether training classes are rotated by multiples of 90 degrees.
        test_rotations: Whether validation and test classes are rotated too, as in the codes of MAML
            and of prototypical networks; the test is then easier.
        within_alphabet: Whether all classes of a task come from one alphabet.
        size: Height and width of the images, in pixels.
        device: Device of the images.
        download: Whether missing files are downloaded.

    Raises:
        FileNotFoundError: There are no data; the message says how to get them.
        ValueError: There are fewer classes or images than asked for, or a zip file is broken or has
            other contents.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        *,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        split: str = "vinyals",
        split_seed: int = 0,
        train_on_validation: bool = False,
        rotations: bool = True,
        test_rotations: bool = False,
        within_alphabet: bool = False,
        size: int = 28,
        device: torch.device | str = "cpu",
        download: bool = True,
    ) -> None:
        for flag, value in (
            ("train_on_validation", train_on_validation),
            *(("rotations", rotations), ("test_rotations", test_rotations)),
        ):
            check_flag(flag, value)
        characters = load_characters(root, size, download)
        if split == "vinyals":
            parts = _vinyals_parts(characters.names, root, download)
        elif split == "lake":
            parts = _lake_parts(characters.names)
        elif split == "random":
            parts = _random_parts(len(characters.names), split_seed)
        else:
            raise ValueError(f"split is 'vinyals', 'random' or 'lake', got {split!r}")
        if train_on_validation:
            parts["train"] = np.union1d(parts["train"], parts["validation"])
        turned = {"train": rotations, "validation": test_rotations, "test": test_rotations}
        pools = {
            part: _pool(characters, classes, 4 if turned[part] else 1).to(device)
            for part, classes in parts.items()
        }
        tasks = class_split(
            pools,
            ways,
            shots,
            queries,
            name="Omniglot",
            train={"ways": train_ways, "shots": train_shots, "queries": train_queries},
            within_group=within_alphabet,
        )
        super().__init__(tasks.train, tasks.validation, tasks.test)


def _pool(characters: Characters, classes: np.ndarray, turns: int) -> ClassPool:
    alphabets = [characters.names[index].rpartition("/")[0] for index in classes]
    groups = np.unique(alphabets, return_inverse=True)[1]
    images = characters.images[torch.from_numpy(classes)]
    return ClassPool(images.flatten(0, 1), [images.shape[1]] * len(classes), turns, groups)


def _vinyals_parts(
    names: list[str], root: str | Path | None, download: bool
) -> dict[str, np.ndarray]:
    index = {name: position for position, name in enumerate(names)}
    parts = {}
    for part, source in VINYALS.items():
        path = obtain(source, root, download)
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            listed = [
                index[f"{where}/{alphabet}/{character}"]
                for where, alphabets in tree.items()
                for alphabet, characters in alphabets.items()
                for character in characters
            ]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no split of these characters: {error!r}") from error
        parts[part] = np.array(sorted(listed))
    return parts


def _random_parts(num: int, seed: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng(check_count("split_seed", seed, least=0)).permutation(num)
    ends = [round(num * end / 1623) for end in (1028, 1200)]
    parts = np.split(order, ends)
    return {part: np.sort(found) for part, found in zip(VINYALS, parts, strict=True)}


def _lake_parts(names: list[str]) -> dict[str, np.ndarray]:
    alphabets = sorted({n.split("/")[1] for n in names if n.startswith("background/")})
    held_out = set(alphabets[-NUM_LAKE_VALIDATION:])
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for position, name in enumerate(names):
        where, alphabet, _ = name.split("/")
        background = "validation" if alphabet in held_out else "train"
        parts["test" if where == "evaluation" else background].append(position)
    return {part: np.array(classes) for part, classes in parts.items()}


def load_characters(
    root: str | Path | None = None, size: int = 28, download: bool = True
) -> Characters:
    """Loads all 1,623 characters from the cache, or decodes the zip files and caches them.

    Args:
        root: Folder of data sets; see :class:`Omniglot`.
        size: Height and width of the images, in pixels.
        download: Whether missing files are downloaded.

    Raises:
        FileNotFoundError: There are no data.
        ValueError: A zip file is broken, or has other contents.
    """
    size = check_count("size", size)
    key = "".join(CONTENTS[part][:8] for part in IMAGES)
    cached = cache_folder() / f"omniglot-{size}-{key}.zip"
    try:
        return _read_cache(cached)
    except (OSError, ValueError, zlib.error, *WRONG_CONTENT):
        pass  # the cache is missing or damaged: decode again
    decoded = [item for part in IMAGES for item in _decode(part, root, size, download)]
    decoded.sort(key=lambda item: item[0])
    names = [name for name, _ in decoded]
    images = np.stack([image for _, image in decoded])[:, :, None]
    characters = Characters(names, torch.from_numpy(images))
    _write_cache(cached, characters)
    return characters


def _read_cache(path: Path) -> Characters:
    content = read_file(path, CACHE).content
    shape = content["shape"]
    size = math.prod(shape)
    packed = content["packed"].numpy().tobytes()
    images = bytearray(zlib.decompressobj().decompress(packed, size))
    return Characters(content["names"], torch.frombuffer(images, dtype=torch.uint8).view(shape))


def _write_cache(path: Path, characters: Characters) -> None:
    """Writes the cache atomically, and ignores a cache folder that cannot be written."""
    packed = zlib.compress(characters.images.numpy().tobytes())
    content = {
        "names": characters.names,
        "shape": list(characters.images.shape),
        "packed": torch.frombuffer(bytearray(packed), dtype=torch.uint8),
    }
    with contextlib.suppress(OSError):
        write_file(path, Saved(CACHE, content))


def _decode(
    part: str, root: str | Path | None, size: int, download: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and the images ``[20, size, size]`` of each character of a zip file."""
    path = obtain(IMAGES[part], root, download)
    with open_zip(path) as archive:
        folder = f"images_{part}/"
        files = [n for n in archive.namelist() if n.startswith(folder) and n.endswith(".png")]
        if contents_digest(archive, files) != CONTENTS[part]:
            raise ValueError(f"{path} does not hold Omniglot's {part} images; delete it")
        classes: dict[str, list[np.ndarray]] = {}
        for name in sorted(files):
            character = name.rpartition("/")[0].removeprefix("images_")
            classes.setdefault(character, []).append(_read_image(archive, name, size))
    for character, images in classes.items():
        if len(images) != IMAGES_OF_A_CLASS:
            raise ValueError(f"{path}: {len(images)} images of {character}, expected 20")
        yield character, np.stack(images)


def _read_image(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(archive.read(name)))
        image.load()
    except (UnidentifiedImageError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{archive.filename}: {name} is damaged: {error}") from error
    if image.size != (FULL_SIZE, FULL_SIZE):
        raise ValueError(
            f"{archive.filename}: {name} has {image.size} pixels, expected {(FULL_SIZE, FULL_SIZE)}"
        )
    # PIL resizes one-bit images without a filter, so the image is converted to grey first.
    grey = image.convert("L")
    if size != FULL_SIZE:
        grey = grey.resize((size, size), Image.Resampling.LANCZOS)
    return 255 - np.asarray(grey, dtype=np.uint8)


def lake_runs(root: str | Path | None = None, size: int = 28, download: bool = True) -> FrozenTasks:
    """Loads Lake's one-shot classification: 20 runs with 20 ways from an alphabet, 20 queries.

    Train on the ``"lake"`` split for it: the runs' characters belong to the evaluation alphabets,
    and Vinyals' training classes contain some of them.

    Args:
        root: Folder of data sets; see :class:`Omniglot`.
        size: Height and width of the images, in pixels.
        download: Whether missing files are downloaded.

    Raises:
        FileNotFoundError: There are no data.
        ValueError: The zip file is broken.
    """
    size = check_count("size", size)
    path = obtain(RUNS, root, download, True)
    with open_zip(path) as archive:
        labels = [name for name in archive.namelist() if name.endswith("class_labels.txt")]
        if not labels:
            raise ValueError(f"{path} holds no runs")
        try:
            runs = [_read_run(archive, name, size) for name in sorted(labels)]
        except (KeyError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    tasks = FewShotTasks(*(torch.stack(part) for part in zip(*runs, strict=True)))
    ways, queries = tasks.support_y.shape[1], tasks.query_y.shape[1]
    shape = (1, size, size)
    space = spaces.Dict(
        support_x=spaces.Box(0.0, 1.0, (ways, *shape), np.float32),
        support_y=spaces.MultiDiscrete([ways] * ways),
        query_x=spaces.Box(0.0, 1.0, (queries, *shape), np.float32),
        query_y=spaces.MultiDiscrete([ways] * queries),
    )
    return FrozenTasks(tasks, space, "Omniglot-Lake")


def _read_run(archive: zipfile.ZipFile, labels: str, size: int) -> tuple[torch.Tensor, ...]:
    pairs = [line.split() for line in archive.read(labels).decode().splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{archive.filename}: {labels} holds no pairs of images")
    classes = sorted(drawn for _, drawn in pairs)

    def images(names: list[str]) -> torch.Tensor:
        stacked = np.stack([_read_image(archive, name, size) for name in names])[:, None]
        return torch.from_numpy(stacked.astype(np.float32) / 255)

    queries = torch.tensor([classes.index(drawn) for _, drawn in pairs])
    drawn_again = images([item for item, _ in pairs])
    return images(classes), torch.arange(len(classes)), drawn_again, queries
