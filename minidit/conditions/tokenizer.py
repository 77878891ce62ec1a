"""Words as numbers, for a vocabulary that is known beforehand: texts as a network is told them."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from minidit._validate import check_positive


class Tokenizer:
    """Words to numbers 1, 2, …; the vocabulary is closed, and 0 is padding."""

    def __init__(self, words: Sequence[str], length: int) -> None:
        check_positive(length=length)
        self.words, self.length = tuple(words), length
        self.ids = {word: k for k, word in enumerate(self.words, 1)}
        bad = [w for w in self.words if not isinstance(w, str) or _split(w) != [w]]
        if bad or not self.words or len(self.ids) < len(self.words):
            told = f"words={list(words)[:5]}…: {bad[:1] or 'they'} must be single"
            raise ValueError(f"{told}, different words in lower case, at least one")

    def encode(self, texts: str | Sequence[str]) -> Tensor:
        """One text or b → (b, length) int64, padded; ValueError for unknown words or long texts."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in zip(ids, texts):
            words = _split(text)
            unknown = [word for word in words if word not in self.ids]
            if unknown:
                known = " ".join(sorted(self.words))
                told = f"{text!r}: the word {unknown[0]!r} is unknown"
                raise ValueError(f"{told}; known are: {known}")
            if len(words) > self.length:
                raise ValueError(f"{text!r} has {len(words)} words; at most {self.length} are read")
            row[: len(words)] = torch.tensor([self.ids[word] for word in words], dtype=torch.int64)
        return ids


def _split(text: str) -> list[str]:
    return re.findall(r"[^\s.,;:!?]+", text.lower())
