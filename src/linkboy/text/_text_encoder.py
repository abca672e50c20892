"""Texts to flat ids with spans: the one layer between the tokenizer and the engine that cuts plain text."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from linkboy.text._added_tokens import AddedToken, AddedTokens
from linkboy.text._array_encoder import ArrayEncoder
from linkboy.text._arrays import Array
from linkboy.text._characters import Rules
from linkboy.text._flat import MARK, Engine, FlatIds, continuing_ids, join_parts, word_numbers
from linkboy.text._wordpiece import TextReader

# Up to so many ASCII characters the readable path is faster; one beyond ASCII, such as a Han character, costs it as much as
# several.
SMALL, WIDE = 4000, 6


class TextEncoder:
    """Finds the added tokens, gives the rest to the engine, and joins what comes back.

    Nothing above this class knows how text is cut, and the engine knows nothing of what is above: it takes plain texts and
    returns `FlatIds`.

    Args:
        vocabulary: token to id, without the added tokens.
        rules: what a character becomes.
        unknown_id: the id of words without a cut.
        limit: characters above which a word is unknown.
        never_split: tokens that stay whole where they stand between spaces.
        added: the tokens that are found in the text before anything else, and their ids.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        rules: Rules,
        *,
        unknown_id: int,
        limit: int,
        never_split: frozenset[str],
        added: Mapping[AddedToken, int],
    ) -> None:
        self.rules = rules
        self.reader = TextReader(vocabulary, rules, unknown_id=unknown_id, limit=limit, never_split=never_split)
        self.engine: Engine = ArrayEncoder(vocabulary, rules, unknown_id=unknown_id, limit=limit, reader=self.reader)
        self._vocabulary = vocabulary
        self._find(added)

    def with_added(self, added: Mapping[AddedToken, int]) -> Self:
        """Return an encoder with other added tokens over the same engine."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._find(added)
        return other

    def _find(self, added: Mapping[AddedToken, int]) -> None:
        self._added = AddedTokens(added, self.rules) if added else None
        self._size = max([*self._vocabulary.values(), *added.values()]) + 1
        self._continues: Array | None = None
        self._numbers: Array | None = None

    def ids(self, text: str) -> list[int]:
        """Return the ids of one text."""
        if not is_short((text,)):
            return self.numbers.take(self.encode([text]).ids[1:-1]).tolist()
        if self._added is None or not self._added.occur_in(text):
            return self.reader.ids(text)
        return self._read(text)

    def encode(self, texts: Sequence[str], *, spans: bool = False) -> FlatIds:
        """Return the ids of many texts, and where each came from."""
        if not spans and is_short(texts):
            return _flat_rows([self.ids(text) for text in texts])
        cut = self._added.cut(texts) if self._added is not None else None
        if cut is None:
            return self.engine.encode(texts, spans=spans)
        flat = join_parts(self.engine.encode(cut.parts, spans=spans), cut.owners, cut.origins, cut.between)
        if flat.spans is None or cut.sources is None:
            return flat
        owners = np.repeat(np.arange(len(texts)), flat.end - flat.begin + 1)
        given = cut.to_given(flat.spans, owners)
        given[flat.begin] = given[flat.end] = 0
        return flat._replace(spans=given)

    @property
    def numbers(self) -> Array:
        """All ids as Python numbers, so that lists of them need not make new ones."""
        if self._numbers is None:
            self._numbers = np.arange(self._size).astype(object)
        return self._numbers

    def word_numbers(self, flat: FlatIds) -> Array:
        """Return for each id the number of its word in its text: each sign, Han character and added token is one."""
        if self._continues is None:
            self._continues = continuing_ids(self._vocabulary, self._size)
        return word_numbers(flat, self._continues)

    def _read(self, text: str) -> list[int]:
        """Return the ids of a short text with added tokens in it."""
        cut = self._added.cut([text]) if self._added is not None else None
        if cut is None:
            return self.reader.ids(text)
        ids = self.reader.ids(cut.parts[0])
        for number, part in zip(cut.between.ids.tolist(), cut.parts[1:], strict=True):
            ids += [number, *self.reader.ids(part)]
        return ids


def is_short(texts: Sequence[str]) -> bool:
    """Return whether the readable path is the faster one for these texts."""
    if len(texts) > 16:
        return False
    size = 0
    for text in texts:
        size += len(text) if text.isascii() else WIDE * len(text)
    return size <= SMALL


def _flat_rows(rows: list[list[int]]) -> FlatIds:
    rows = [[MARK, *row, MARK] for row in rows]
    ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
    ids = np.array(list(itertools.chain.from_iterable(rows)), np.int32)
    return FlatIds(ids, np.append(0, ends)[:-1], ends - 1)
