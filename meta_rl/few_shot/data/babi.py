"""bAbI: twenty kinds of questions about short stories, read directly from the archive.

Weston et al., "Towards AI-complete question answering", 2015 (arXiv:1502.05698).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from meta_rl.arguments import check_count, check_number, check_seed, plain
from meta_rl.few_shot.data.sources import data_roots, tar_files
from meta_rl.few_shot.data.texts import words
from meta_rl.few_shot.tasks import FewShotSplit, FewShotTasks, FrozenTasks

ARCHIVES = {
    "en": ("babi_en_v1-2.tar.gz", "tasks_1-20_v1-2.tar.gz"),
    "en-10k": ("babi_en-10k_v1-2_minus_qa3train.tar.gz", "tasks_1-20_v1-2.tar.gz"),
}
"""Names of the archives of each version, below ``babi/``; the last one is the authors' archive."""
HOME = "https://s3.amazonaws.com/text-datasets/babi_tasks_1-20_v1-2.tar.gz"
NUM_TASKS = 20
PADDING = 0


class Question(NamedTuple):
    """A question about a story.

    Attributes:
        story: Words of each sentence before the question, oldest first.
        question: Words of the question.
        answer: Answer: a word, or several words joined by commas, which count as one word.
    """

    story: list[list[str]]
    question: list[str]
    answer: str


def parse(text: str, name: str = "text") -> list[Question]:
    """Returns the questions of a bAbI file.

    Its lines are numbered, from 1 in each story. A question has tabs, a sentence has none.

    Args:
        text: Contents of the file.
        name: Name of the file in error messages.

    Raises:
        ValueError: A line is neither a sentence nor a question, or the file has no questions.
    """
    questions: list[Question] = []
    story: list[list[str]] = []
    for index, line in enumerate(text.splitlines(), start=1):
        found = re.fullmatch(r"(\d+) ([^\t]+)(?:\t([^\t]+)(?:\t[^\t]*)?)?", line.rstrip(" "))
        if found is None:
            raise ValueError(
                f"line {index} of {name} is no numbered sentence or question: {line!r}"
            )
        if found[1] == "1":
            story = []
        if found[3] is None:
            story.append(words(found[2]))
        else:
            questions.append(Question(list(story), words(found[2]), found[3].strip().lower()))
    if not questions:
        raise ValueError(f"{name} holds no questions")
    return questions


def find_archive(version: str, root: str | Path | None = None) -> Path:
    """Returns the path of the archive of a version.

    Args:
        version: ``"en"`` or ``"en-10k"``.
        root: Folder of data sets; see :func:`meta_rl.few_shot.data.sources.data_roots`.

    Raises:
        FileNotFoundError: There is no archive; the message says how to get it.
        ValueError: The version is unknown.
    """
    if version not in ARCHIVES:
        raise ValueError(f"version is one of {', '.join(ARCHIVES)}, got {version!r}")
    places = [root / "babi" / name for root in data_roots(root) for name in ARCHIVES[version]]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"no bAbI ({version}): looked for {', '.join(map(str, places))}. Download {HOME} to "
        f"babi/{ARCHIVES[version][1]} in one of these folders, or set META_RL_DATA"
    )


def read_questions(path: Path, version: str, task: int) -> dict[str, list[Question]]:
    """Returns the questions of a task by part, ``train`` and ``test``.

    Args:
        path: Path of the archive.
        version: ``"en"`` or ``"en-10k"``.
        task: Number of the task, 1 to 20.

    Raises:
        ValueError: The archive is broken, or has no training or test file of this task.
    """
    pattern = re.compile(rf"(?:.*/)?{re.escape(version)}/qa{task}_[^/]*_(train|test)\.txt")
    parts: dict[str, list[Question]] = {}
    for found, content in tar_files(path, pattern):
        parts[found[1]] = parse(content.decode("utf-8"), found[0])
    missing = [part for part in ("train", "test") if part not in parts]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)} file of task {task} ({version})"
        )
    return parts


@dataclass(frozen=True)
class _ArraySizes:
    """Sizes of the arrays: number of sentences in a story, and of words in a sentence."""

    sentences: int
    words: int


class Babi(FewShotSplit):
    """Questions of one or several bAbI tasks; a "task" of the few-shot interface is one question.

    The support data are the sentences of the story, ``[M, S, L]`` word numbers, padded with 0.
    Their labels are their times, ``[M, S]``: 1 is the last sentence before the question, 0 is
    padding. The query is the question ``[M, 1, L]``, and its label is the word number of the
    answer, ``[M, 1]``.

    Args:
        task: Number of a task, 1 to 20, or a list of them, which are trained jointly.
        version: ``"en"`` (1,000 training questions) or ``"en-10k"``.
        root: Folder of data sets, which holds ``babi/`` (default: ``META_RL_DATA``).
        memories: Maximum number of sentences that are kept of a story, the last ones.
        validation: Fraction of the training questions that is held out, in (0, 1).
        seed: Seed of the draw of held-out questions.

    Attributes:
        vocabulary: Words and answers by their number; number 0 is padding.

    Raises:
        FileNotFoundError: There is no archive.
        ValueError: The task or version is unknown, or the archive is broken.
    """

    def __init__(
        self,
        task: int | Sequence[int] = 1,
        version: str = "en",
        root: str | Path | None = None,
        *,
        memories: int = 50,
        validation: float = 0.1,
        seed: int = 0,
    ) -> None:
        numbers = _check_tasks(task)
        memories = check_count("memories", memories)
        validation = check_number("validation", validation, above=0.0, below=1.0)
        path = find_archive(version, root)
        read = [read_questions(path, version, number) for number in numbers]
        told = {part: [q for parts in read for q in parts[part]] for part in ("train", "test")}
        order = np.random.default_rng(check_seed(seed)).permutation(len(told["train"]))
        held = max(1, round(validation * len(order)))
        training = [told["train"][index] for index in order]
        everything = told["train"] + told["test"]
        vocabulary = vocabulary_of(everything)
        sizes = _ArraySizes(
            min(memories, max(len(question.story) for question in everything)),
            max(len(one) for question in everything for one in _sentences_of(question)),
        )
        name = f"Babi-{version}-qa{'+'.join(map(str, numbers))}"
        train, kept, test = (
            _encode_frozen(questions, vocabulary, sizes, name)
            for questions in (training[held:], training[:held], told["test"])
        )
        super().__init__(train, kept, test)
        object.__setattr__(self, "vocabulary", vocabulary)

    vocabulary: tuple[str, ...]


def vocabulary_of(questions: Sequence[Question]) -> tuple[str, ...]:
    """Returns words and answers in alphabetical order, after an empty word for padding."""
    found = {word for question in questions for text in _sentences_of(question) for word in text}
    return ("", *sorted(found | {question.answer for question in questions}))


def encode(
    questions: Sequence[Question], vocabulary: Sequence[str], sentences: int, length: int
) -> FewShotTasks:
    """Returns questions as word numbers.

    Args:
        questions: Questions; their number is M.
        vocabulary: Words by their number.
        sentences: Number of sentences in a story, S; the last S sentences of longer ones are kept.
        length: Number of words in a sentence, L; at least the length of the longest sentence.
    """
    number = {word: index for index, word in enumerate(vocabulary)}
    shape = (len(questions), sentences)
    story, times = np.zeros((*shape, length), np.int64), np.zeros(shape, np.int64)
    asked, answers = np.zeros((shape[0], 1, length), np.int64), np.zeros((shape[0], 1), np.int64)
    for row, question in enumerate(questions):
        kept = question.story[-sentences:]
        for place, sentence in enumerate(kept):
            story[row, place, : len(sentence)] = [number[word] for word in sentence]
            times[row, place] = len(kept) - place
        asked[row, 0, : len(question.question)] = [number[word] for word in question.question]
        answers[row, 0] = number[question.answer]
    return FewShotTasks(*(torch.from_numpy(part) for part in (story, times, asked, answers)))


def _sentences_of(question: Question) -> list[list[str]]:
    return [*question.story, question.question]


def _encode_frozen(
    questions: Sequence[Question], vocabulary: Sequence[str], sizes: _ArraySizes, name: str
) -> FrozenTasks:
    tasks = encode(questions, vocabulary, sizes.sentences, sizes.words)
    numbers = len(vocabulary) - 1
    space = spaces.Dict(
        {
            part: spaces.Box(0, max(numbers, sizes.sentences), values.shape[1:], np.int64)
            for part, values in tasks._asdict().items()
        }
    )
    return FrozenTasks(tasks, space, name)


def _check_tasks(task: int | Sequence[int]) -> list[int]:
    given = plain(task)
    numbers = list(given) if isinstance(given, list | tuple) else [given]
    if not numbers or any(n not in range(1, NUM_TASKS + 1) for n in numbers):
        raise ValueError(f"tasks of bAbI are 1 to {NUM_TASKS}, got {task!r}")
    return [int(number) for number in numbers]
