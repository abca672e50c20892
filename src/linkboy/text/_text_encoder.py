"""Texts to flat ids with spans: the one layer between the tokenizer and the engine that cuts plain text."""

import copy
from collections.abc import Mapping
from typing import Self

import numpy as np

from linkboy.text._added_tokens import AddedToken, AddedTokens
from linkboy.text._arrays import Array
from linkboy.text._characters import Rules
from linkboy.text._engines import CoreEngine, Engine, make_engine
from linkboy.text._flat import FlatIds, continuing_ids, join_parts, word_numbers
from linkboy.text._wordpiece import TextReader


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
        self.reader = TextReader(vocabulary, rules, unknown_id=unknown_id, limit=limit, never_split=never_split)
        self._plain = make_engine(self.reader)
        self._find(added)

    def with_added(self, added: Mapping[AddedToken, int]) -> Self:
        """Return an encoder with other added tokens over the same engine."""
        other = copy.copy(self)
        other._find(added)
        return other

    def _find(self, added: Mapping[AddedToken, int]) -> None:
        whole = self._plain.with_literals(added) if added and isinstance(self._plain, CoreEngine) else None
        self.engine: Engine = whole or self._plain
        self._added = AddedTokens(added, self.reader.rules) if added and whole is None else None
        # The compiled engine, where it does all of the work: where no added token is looked for outside of it.
        self.core = self.engine if isinstance(self.engine, CoreEngine) and self._added is None else None
        self._size = max([*self.reader.vocabulary.values(), *added.values()]) + 1
        self._continues: Array | None = None
        self._numbers: Array | None = None

    def ids(self, text: str) -> list[int]:
        """Return the ids of one text."""
        if self._added is None or not self._added.occur_in(text) or (cut := self._added.cut([text])) is None:
            return self.engine.lists([text])[0]
        first, *rest = self.engine.lists(cut.parts)
        for number, part in zip(cut.between.ids.tolist(), rest, strict=True):
            first += [number, *part]
        return first

    def encode(self, texts: list[str], *, spans: bool = False) -> FlatIds:
        """Return the ids of many texts, and where each came from."""
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
            self._continues = continuing_ids(self.reader.vocabulary, self._size)
        return word_numbers(flat, self._continues)
