"""Trained agents and learners that ship with the package.

``load_pretrained("varibad/GridNavigation")`` gives a ready one. Each is the checkpoint of a
committed result, ``pretrained_agents/ALGO--TASKS.zip``, beside a card of the same name, ``.json``,
which says how it was made and what it earned.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.algorithms import find_algorithm
from meta_rl.arguments import checked, did_you_mean
from meta_rl.files.checksums import check_annotations, checked_json, read_json

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent / "pretrained_agents"
"""Folder of the checkpoints and of their cards."""


@dataclass(frozen=True)
class Card:
    """The card of a pretrained agent or learner: how it was made, and what it earned.

    Attributes:
        name: Name for :func:`load_pretrained`, ``"ALGO/TASKS"``.
        config: Algorithm, tasks, their arguments, length and seed of the training, as a run
            folder's ``config.json`` has them.
        command: Command that trains it.
        commit: Commit of the code that trained it; ``None`` for an installed package.
        processor: Processor of the training.
        train_seconds: Wall time of the training in seconds.
        measure: Name of the score, such as ``"total reward of a trial"``.
        split: Part of the task split that was evaluated.
        totals: Whether the score is the total of all adaptation points, and not the last one.
        num_tasks: Number of tasks of the evaluation.
        num_episodes: Number of episodes on each task; ``None`` for the environment's default.
        num_trainings: Number of trainings of the result, of which this is one.
        mean: Mean score over the trainings.
        interval: 95 % interval of the mean; ``None`` where there is none.
        before: Mean score before adaptation; ``None`` for totals.
        own_mean: Mean score of this training.
        own_deviation: Standard deviation of this training's scores over the tasks.
        licence: Licence of the data of the training.
        size: Size of the checkpoint in bytes.
        sha256: SHA-256 of the checkpoint.
        result_sha256: SHA-256 of the checkpoint in the committed result. It differs where the agent
            keeps trials or transitions of its training, which are left out here.
    """

    name: str
    config: dict[str, Any]
    command: str
    commit: str | None
    processor: str
    train_seconds: float
    measure: str
    split: str
    totals: bool
    num_tasks: int
    num_episodes: int | None
    num_trainings: int
    mean: float
    interval: list[float] | None
    before: float | None
    own_mean: float
    own_deviation: float
    licence: str
    size: int
    sha256: str
    result_sha256: str

    @property
    def algorithm(self) -> str:
        """Name of the algorithm, as on the command line."""
        return str(self.config["algorithm"])

    def checkpoint(self) -> Path:
        """Returns the path of the checkpoint.

        Raises:
            FileNotFoundError: The package lacks the file.
            ValueError: The file is not the one that the card describes.
        """
        path = FOLDER / f"{file_name(self.name)}.zip"
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise ValueError(f"{path} is not the checkpoint of its card: its SHA-256 differs")
        return path

    def score_text(self) -> str:
        """Returns the mean score with its interval: ``"6.73 (6.68 to 6.79)"``."""
        digits = 1 if abs(self.mean) >= 30 else 2 if abs(self.mean) >= 1 else 3
        text = f"{self.mean:.{digits}f}"
        if self.interval is None:
            return f"{text} (no interval)"
        low, high = self.interval
        return f"{text} ({low:.{digits}f} to {high:.{digits}f})"

    def size_text(self) -> str:
        """Returns the size of the checkpoint: ``"412 kB"``."""
        return f"{self.size / 1e6:.1f} MB" if self.size >= 1e6 else f"{self.size / 1e3:.0f} kB"

    def to_json(self) -> str:
        """Returns the text of the card's file."""
        return checked_json(asdict(self), indent=1)


def file_name(name: str) -> str:
    """Returns the name of a pretrained agent's files, without their endings."""
    return name.replace("/", "--")


def pretrained_names() -> list[str]:
    """Returns the names of all pretrained agents and learners, sorted."""
    return sorted(file.stem.replace("--", "/") for file in FOLDER.glob("*.json"))


@checked
def pretrained_card(name: str) -> Card:
    """Returns the card of a pretrained agent or learner.

    Args:
        name: Its name, such as ``"varibad/GridNavigation"``.

    Raises:
        ValueError: The name is unknown; similar names are listed. Or the card was changed.
    """
    known = pretrained_names()
    if name not in known:
        raise ValueError(f"unknown pretrained agent {name!r}: {did_you_mean(name, known)}")
    path = FOLDER / f"{file_name(name)}.json"
    content, damage = read_json(path)
    if damage:
        raise ValueError(damage)
    check_annotations(content, Card)
    return Card(**content)


@checked
def load_pretrained(name: str, env: Any = None, device: torch.device | str = "auto") -> Any:
    """Loads an agent or a few-shot learner that ships with the package.

    It is ready to adapt, to predict and to be evaluated, and further training goes on from its
    checkpoint. Its tasks are in its card, :func:`pretrained_card`.

    Args:
        name: Its name, such as ``"varibad/GridNavigation"``; ``meta-rl pretrained`` lists all.
        env: Environment of an agent, for further training, as in ``load`` of its class (default:
            none).
        device: Device of the networks: ``"auto"`` (default), ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: The name is unknown; similar names are listed. Or a few-shot learner is given
            an environment.
    """
    card = pretrained_card(name)
    found = find_algorithm(card.algorithm)
    if env is None:
        return found.load(card.checkpoint(), device=device)
    if not hasattr(found, "set_env"):
        raise ValueError(f"{name} is a few-shot learner, which has no environment")
    return found.load(card.checkpoint(), env=env, device=device)
