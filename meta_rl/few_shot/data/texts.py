"""Conversion of texts to word numbers."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from meta_rl.arguments import check_count

PADDING = 0


class Vocabulary:
    """Word numbers of training texts, with hashes for all other words.

    An unknown word always has the same number, above those of known words: its embedding is never
    trained, but a word that occurs twice is recognised.

    Args:
        texts: Texts with the known words.
        num_hashes: Number of word numbers for unknown words.
        length: Number of words that are kept of a text; shorter texts are padded with 0.
    """

    def __init__(self, texts: Sequence[str], num_hashes: int = 2048, length: int = 28) -> None:
        counts = Counter(word for text in texts for word in words(text))
        known = sorted(counts, key=lambda word: (-counts[word], word))
        self._set(known, num_hashes, length)

    def _set(self, known: Sequence[str], num_hashes: int, length: int) -> None:
        self.known = {word: index + 1 for index, word in enumerate(known)}
        self.num_hashes = check_count("num_hashes", num_hashes)
        self.length = check_count("length", length)

    @classmethod
    def from_known(cls, known: Sequence[str], num_hashes: int, length: int) -> Self:
        """Returns a vocabulary with these known words, in the order of their numbers."""
        vocabulary = cls.__new__(cls)
        vocabulary._set(known, num_hashes, length)
        return vocabulary

    def __len__(self) -> int:
        return 1 + len(self.known) + self.num_hashes

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the word numbers of texts, ``[N, length]``, int32.

        Raises:
            ValueError: A text has no words.
        """
        tokens = torch.full((len(texts), self.length), PADDING, dtype=torch.int32)
        for row, text in enumerate(texts):
            numbers = [self._number(word) for word in words(text)][: self.length]
            if not numbers:
                raise ValueError(f"no words in {text!r}")
            tokens[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int32)
        return tokens

    def _number(self, word: str) -> int:
        unknown = 1 + len(self.known) + zlib.crc32(word.encode()) % self.num_hashes
        return self.known.get(word, unknown)


def words(text: str) -> list[str]:
    """Returns the words of a text, in lower case and without punctuation."""
    return re.findall(r"[\w']+", text.lower())
