"""Texts as sequences of token ids, for models that look at the order of tokens."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from linkboy.classify.features import FlatFeatures
from linkboy.text import BasicTokenizer

PAD, UNKNOWN = 0, 1


@dataclasses.dataclass(frozen=True)
class TokenEncoder:
    """BERT's basic tokens under a learned vocabulary: single Han characters, words and punctuation elsewhere.

    Args:
        vocabulary: the tokens; ids begin behind those of padding (0) and of unknown tokens (1).
        max_length: tokens of a text beyond this many are cut off.
    """

    vocabulary: Sequence[str]
    max_length: int

    def __len__(self) -> int:
        return len(self.vocabulary) + 2

    @classmethod
    def fit(cls, texts: Sequence[str], *, min_df: int = 2, max_length: int = 400) -> Self:
        """Learn the vocabulary: all tokens that occur in at least `min_df` of the texts."""
        df = Counter(token for tokens in BasicTokenizer().tokenize_batch(texts) for token in set(tokens))
        return cls(sorted(token for token, count in df.items() if count >= min_df), max_length)

    def encode(self, texts: Sequence[str]) -> FlatFeatures:
        """Turn texts into token ids."""
        id_of = {token: number for number, token in enumerate(self.vocabulary, 2)}
        rows = [
            [id_of.get(token, UNKNOWN) for token in tokens[: self.max_length]]
            for tokens in BasicTokenizer().tokenize_batch(texts)
        ]
        ids = np.fromiter((number for row in rows for number in row), np.int64)
        return FlatFeatures(ids, None, np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64))))

    def collate(self, rows: FlatFeatures) -> tuple[Tensor, ...]:
        """Return ids `(B, T)`, padded to the longest row."""
        lengths = np.diff(rows.offsets)
        padded = np.full((len(rows), max(int(lengths.max(initial=0)), 1)), PAD, np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = rows.ids
        return (torch.from_numpy(padded),)

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of the encoder."""
        return {"vocabulary": list(self.vocabulary), "max_length": self.max_length}

    def arrays(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder."""
        return {}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, Tensor]) -> Self:
        """Build the encoder that `settings` and `arrays` were taken from."""
        return cls(settings["vocabulary"], settings["max_length"])
