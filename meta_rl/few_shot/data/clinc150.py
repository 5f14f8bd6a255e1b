"""CLINC150: few-shot classification of short utterances by their intent.

Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP
2019. The data set has 150 intents in 10 domains, with 150 utterances each, and 1,200 utterances
that belong to no intent (out of scope).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meta_rl.arguments import check_count, check_number
from meta_rl.few_shot.data.encoders import as_encoder
from meta_rl.few_shot.data.preparation import Preparation, Vectors, Words
from meta_rl.few_shot.data.sources import Source, obtain
from meta_rl.few_shot.data.texts import PADDING, Vocabulary
from meta_rl.few_shot.tasks import ClassPool, ClassTasks, FewShotSplit, FewShotTasks, class_split

HOME = "https://raw.githubusercontent.com/clinc/oos-eval/master/data"
UTTERANCES = Source(
    "clinc150/data_full.json",
    f"{HOME}/data_full.json",
    "sha256:36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
)
DOMAINS = Source(
    "clinc150/domains.json",
    f"{HOME}/domains.json",
    "sha256:b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
)
FOLDS = (
    ("credit_cards", "travel"),
    ("auto_and_commute", "utility"),
    ("banking", "home"),
    ("kitchen_and_dining", "meta"),
    ("small_talk", "work"),
)
"""Pairs of domains that are held out together, by fold."""


class UnknownWords(ClassTasks):
    """Few-shot tasks on texts in which each task replaces some known words by unknown ones.

    A new domain has many unknown words, and this lets meta-training meet them: in each task, a
    known word is replaced with the given probability by an unknown word, the same one wherever it
    occurs in the task.

    Args:
        pool: Pool of encoded texts.
        vocabulary: Vocabulary that encoded the texts.
        probability: Probability that a word is replaced, in [0, 1].
        **sizes: Further arguments of :class:`ClassTasks`.

    Raises:
        ValueError: The probability lies outside [0, 1], or :class:`ClassTasks` raises it.
    """

    def __init__(
        self, pool: ClassPool, vocabulary: Vocabulary, probability: float, **sizes: Any
    ) -> None:
        super().__init__(pool, **sizes)
        self.vocabulary = vocabulary
        self.probability = check_number("probability", probability, least=0.0, most=1.0)

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> FewShotTasks:
        """Draws tasks on the device of the pool."""
        batch = super().sample_tasks(num_tasks, rng)
        known = 1 + len(self.vocabulary.known)
        shape = (num_tasks, known)
        unknown = known + rng.integers(self.vocabulary.num_hashes, size=shape)
        replaced = rng.random(shape) < self.probability
        replaced[:, PADDING] = False
        numbers = np.where(replaced, unknown, np.arange(known))
        table = torch.from_numpy(numbers).to(batch.support_x.device)

        def renumbered(x: Tensor) -> Tensor:
            return table.gather(1, x.flatten(1)).view_as(x)

        return batch._replace(
            support_x=renumbered(batch.support_x), query_x=renumbered(batch.query_x)
        )


def domains_of(fold: int) -> dict[str, tuple[str, ...]]:
    """Returns the domains of each part of the split.

    Args:
        fold: Fold of the test domains, 0 to 4; the next fold has the validation domains.

    Raises:
        ValueError: There is no such fold.
    """
    if check_count("fold", fold, least=0) >= len(FOLDS):
        raise ValueError(f"fold is 0 to {len(FOLDS) - 1}, got {fold}")
    following = (fold + 1) % len(FOLDS)
    others = [pair for k, pair in enumerate(FOLDS) if k not in (fold, following)]
    return {
        "train": tuple(domain for pair in others for domain in pair),
        "validation": FOLDS[following],
        "test": FOLDS[fold],
    }


class Clinc150(FewShotSplit):
    """Few-shot intent classification on held-out domains.

    Inputs are word numbers ``[length]``, padded with 0, or vectors of an encoder. Six domains (90
    intents) are for training, two (30) for validation, two (30) for testing.

    Results on two domains say little about other domains: the best learner differs between folds.
    ``fold`` chooses which two of the ten domains are the test domains (:data:`FOLDS`).

    Args:
        root: Folder that holds ``clinc150/``, or into which it is downloaded (default:
            ``META_RL_DATA``, then the user's cache folder).
        ways: Number of intents in a task.
        shots: Number of support utterances of each intent.
        queries: Number of query utterances of each intent; with the shots at most 150.
        train_ways: Number of intents in a training task (default: ``ways``).
        train_shots: Number of support utterances in training (default: ``shots``).
        train_queries: Number of query utterances in training (default: ``queries``).
        unknown_words: Probability that a training task replaces a word by an unknown one, in
            [0, 1] (default: 0.3, and none with an encoder); see :class:`UnknownWords`.
        num_hashes: Number of word numbers for words that the training domains do not have.
        length: Number of words that are kept of an utterance.
        fold: Number of the fold that is held out, 0 to 4.
        encoder: Pre-trained encoder of texts, as for :func:`.split_dataset`: inputs are its vectors
            (default: word numbers). They are computed once, and kept in the cache.
        device: Device of the utterances.
        download: Whether missing files are downloaded.

    Attributes:
        vocabulary: Vocabulary of the training domains; empty with an encoder.
        preparation: Function from texts to inputs.
        out_of_scope: Utterances that belong to no intent, ``[1200, ...]``.

    Raises:
        FileNotFoundError: There are no data; the message says how to get them.
        ValueError: The files have other contents, there are fewer intents or utterances than asked
            for, or there is no such fold.
    """

    vocabulary: Vocabulary | tuple[()]
    preparation: Preparation
    out_of_scope: Tensor

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
        unknown_words: float | None = None,
        num_hashes: int = 2048,
        length: int = 28,
        fold: int = 0,
        encoder: Any = None,
        device: torch.device | str = "cpu",
        download: bool = True,
    ) -> None:
        split = domains_of(fold)
        if unknown_words is not None:
            check_number("unknown_words", unknown_words, least=0.0, most=1.0)
            if encoder is not None:
                raise ValueError("unknown_words are for word numbers, not for an encoder's vectors")
        try:
            by_intent, out_of_scope = _utterances(_read(UTTERANCES, root, download))
            domains = _read(DOMAINS, root, download)
            intents = {
                part: [i for d in names for i in domains[d]] for part, names in split.items()
            }
            texts = {part: [by_intent[intent] for intent in intents[part]] for part in split}
        except (KeyError, TypeError) as error:
            raise ValueError(f"the files of CLINC150 have other contents: {error!r}") from error
        training = [text for group in texts["train"] for text in group]
        prepare: Words | Vectors
        if encoder is None:
            prepare = Words(Vocabulary(training, num_hashes, length))
        else:
            prepare = Vectors(as_encoder(encoder))
            prepare.encoder.fit(training)

        def pool(part: str) -> ClassPool:
            examples = prepare([text for group in texts[part] for text in group])
            sizes = [len(domains[domain]) for domain in split[part]]
            groups = np.repeat(np.arange(len(sizes)), sizes)
            return ClassPool(examples, [len(g) for g in texts[part]], groups=groups).to(device)

        tasks = class_split(
            {part: pool(part) for part in split},
            ways,
            shots,
            queries,
            name="Clinc150",
            train={"ways": train_ways, "shots": train_shots, "queries": train_queries},
        )
        train = tasks.train
        if isinstance(prepare, Words):
            train = _with_unknown_words(train, prepare.vocabulary, unknown_words)
        super().__init__(train, tasks.validation, tasks.test)
        words = isinstance(prepare, Words)
        self.__dict__.update(  # dataclass is frozen
            vocabulary=prepare.vocabulary if isinstance(prepare, Words) else (),
            preparation=prepare,
            out_of_scope=prepare(out_of_scope).to(device, torch.int64 if words else torch.float32),
        )


def _with_unknown_words(
    plain: Any, vocabulary: Vocabulary, probability: float | None
) -> UnknownWords:
    """Returns training tasks in which words are replaced by unknown ones."""
    return UnknownWords(
        plain.pool,
        vocabulary,
        0.3 if probability is None else probability,
        ways=plain.ways,
        shots=plain.shots,
        queries=plain.queries,
        name="Clinc150",
    )


def _read(source: Source, root: str | Path | None, download: bool) -> Any:
    path = obtain(source, root, download)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _utterances(content: dict[str, list[list[str]]]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the utterances by intent, and the utterances out of scope."""
    by_intent: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        for text, intent in content[part]:
            by_intent.setdefault(intent, []).append(text)
    return by_intent, [
        text for part in ("train", "val", "test") for text, _ in content[f"oos_{part}"]
    ]
