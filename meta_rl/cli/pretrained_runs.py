"""Pretrained agents on the command line: their list, and their names in place of run folders."""

from __future__ import annotations

from pathlib import Path

from meta_rl.arguments import near
from meta_rl.cli.run_folder import RunConfig, RunFolder
from meta_rl.pretrained import Card, file_name, pretrained_card, pretrained_names

FOOT = """\
Scores are means over the trainings on held-out tasks, with 95 % intervals; a file is one of the
trainings. Load it by meta_rl.load_pretrained("NAME"), show it by `meta-rl enjoy NAME`, and evaluate
it by `meta-rl evaluate NAME`."""


class PretrainedRun(RunFolder):
    """A pretrained agent in place of a run folder, into which only results are written.

    Args:
        card: The agent's card.
    """

    def __init__(self, card: Card) -> None:
        super().__init__(Path("runs", f"pretrained-{file_name(card.name)}"))
        self.card = card

    def config(self, checked: bool = True) -> RunConfig:
        """The configuration of the training."""
        return RunConfig(**self.card.config)

    def find_checkpoint(self, name: str) -> Path:
        """The checkpoint, of which there is one.

        Raises:
            ValueError: Another one is asked for, or the file is not that of the card.
        """
        if name != "last":
            raise ValueError(f"--checkpoint {name}: {self.card.name} has only its last checkpoint")
        return self.card.checkpoint()


def find_run(path: Path) -> RunFolder:
    """Returns the run that a word of the command line means: a folder, or a pretrained agent.

    Raises:
        ValueError: There is no such folder, and the word is like the name of a pretrained agent.
    """
    name, known = path.as_posix(), pretrained_names()
    if path.exists():
        return RunFolder(path)
    if name in known:
        return PretrainedRun(pretrained_card(name))
    similar = near(name, known)
    if similar:
        raise ValueError(
            f"there is no run folder {path}, and no pretrained agent of this name: did you mean "
            f"{', '.join(similar)}?"
        )
    return RunFolder(path)


def list_pretrained() -> None:
    """Prints a line for each pretrained agent and learner."""
    rows = [("name", "score", "measure", "trainings", "test tasks", "size")]
    for name in pretrained_names():
        card = pretrained_card(name)
        counts = (str(card.num_trainings), str(card.num_tasks))
        rows.append((name, card.score_text(), card.measure, *counts, card.size_text()))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip())
    print(f"\n{FOOT}")
