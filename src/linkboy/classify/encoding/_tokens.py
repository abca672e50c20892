"""Texts as sequences of token ids, for models that look at the order of tokens."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from linkboy.classify.encoding._features import FlatFeatures
from linkboy.text import BertTokenizer, train_wordpiece

VOCABULARY_SIZE = 8000
MAX_LENGTH = 400


@dataclasses.dataclass(frozen=True)
class TokenEncoder:
    """WordPiece tokens: single Han characters, words and pieces of words elsewhere.

    Args:
        tokenizer: turns texts into ids; what the model sees is one more, so that 0 is free for padding.
        max_length: tokens of a text beyond this many are cut off.
    """

    tokenizer: BertTokenizer
    max_length: int = MAX_LENGTH

    def __len__(self) -> int:
        return self.tokenizer.vocab_size + 1

    @classmethod
    def fit(cls, texts: Sequence[str], *, vocab: str | os.PathLike[str] | None = None) -> Self:
        """Learn a vocabulary from the texts, or take that of the file `vocab`."""
        if vocab is not None:
            return cls(BertTokenizer(vocab))
        learned = train_wordpiece(texts, VOCABULARY_SIZE)
        # What fills up the vocabulary of few texts would be embeddings that nothing ever trains.
        return cls(BertTokenizer([token for token in learned if not token.startswith("[unused")]))

    def encode(self, texts: Sequence[str]) -> FlatFeatures:
        """Turn texts into token ids."""
        if not texts:
            return FlatFeatures(np.zeros(0, np.int64), None, np.zeros(1, np.int64))
        rows = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=self.max_length, return_tensors="flat"
        )
        return FlatFeatures(rows["input_ids"].numpy() + 1, None, rows["row_splits"].numpy().astype(np.int64))

    def collate(self, rows: FlatFeatures) -> tuple[Tensor, ...]:
        """Return ids `(B, T)`, padded to the longest row."""
        lengths = np.diff(rows.offsets)
        padded = np.zeros((len(rows), max(int(lengths.max(initial=0)), 1)), np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = rows.ids
        return (torch.from_numpy(padded),)

    def settings(self) -> dict[str, Any]:
        """Return what JSON can hold of the encoder."""
        tokens = [self.tokenizer.id_to_token(number) for number in range(self.tokenizer.vocab_size)]
        return {"vocabulary": tokens, "max_length": self.max_length}

    def arrays(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder."""
        return {}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, Tensor]) -> Self:
        """Build the encoder that `settings` and `arrays` were taken from."""
        vocabulary, max_length = settings["vocabulary"], settings["max_length"]
        # A string would be read as the path of a file, and a configuration must not make us open one.
        if not isinstance(vocabulary, list) or not isinstance(max_length, int) or max_length < 1:
            raise TypeError("the encoder needs a list of tokens and a max_length of at least 1")
        return cls(BertTokenizer(vocabulary), max_length)
