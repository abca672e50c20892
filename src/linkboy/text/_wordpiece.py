"""WordPiece for one word after the other: the specification, and the faster way for one or two texts."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from linkboy.text._character_table import CharacterTable, DependsOnNeighboursError
from linkboy.text._characters import Rules, scan

WORDS_KEPT = 1 << 17

Pieces = list[tuple[int, int, int]]  # id, and the span in the text


def cut_word(word: str, vocabulary: Mapping[str, int], unknown_id: int, limit: int) -> Pieces:
    """Return the pieces of a word, longest match first, as `(id, start, end)`; one unknown piece where there is no cut."""
    unknown = [(unknown_id, 0, len(word))]
    if len(word) > limit:
        return unknown
    pieces: Pieces = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            number = vocabulary.get(prefix + word[start:end])
            if number is not None:
                pieces.append((number, start, end))
                start = end
                break
        else:
            return unknown
    return pieces


class TextReader:
    """Cuts one text at a time.

    Args:
        vocabulary: token to id.
        rules: what a character becomes.
        unknown_id: the id of words without a cut.
        limit: characters above which a word is unknown.
        never_split: tokens that stay whole where they stand between spaces.
        special: tokens that are matched in the raw text before anything else.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        rules: Rules,
        *,
        unknown_id: int,
        limit: int,
        never_split: frozenset[str] = frozenset(),
        special: Iterable[str] = (),
    ) -> None:
        self._vocabulary, self._rules, self._unknown_id, self._limit = vocabulary, rules, unknown_id, limit
        self._never_split = never_split
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        # Dropped characters may stand inside a token that stays whole, so its first character is searched for.
        self._first_characters = frozenset(token[0] for token in never_split)
        hints = [re.escape(hint) for hint in (*longest_first, *sorted(self._first_characters))]
        self.literal = re.compile("|".join(hints)) if hints else None
        self._characters = CharacterTable(rules)
        self._words = _WordTable(self)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        if self._special is None or not self._special.search(text):
            return self._part_ids(text)
        ids: list[int] = []
        for start, end, special in self._parts(text):
            ids += [self._vocabulary[special]] if special else self._part_ids(text[start:end])
        return ids

    def read(self, text: str) -> Pieces:
        """Return id and span in the text of every piece, character by character as the rules say."""
        pieces: Pieces = []
        for start, end, special in self._parts(text):
            pieces += [(self._vocabulary[special], start, end)] if special else self._read_part(text[start:end], start)
        return pieces

    def _parts(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield the special tokens in a text and the stretches between them, these with no name."""
        position = 0
        for match in self._special.finditer(text) if self._special else ():
            yield position, match.start(), ""
            yield *match.span(), match.group()
            position = match.end()
        yield position, len(text), ""

    def _part_ids(self, text: str) -> list[int]:
        if not self._first_characters or self._first_characters.isdisjoint(text):
            try:
                words = text.translate(self._characters).split()
            except DependsOnNeighboursError:
                pass
            else:
                return list(itertools.chain.from_iterable(map(self._words.__getitem__, words)))
        return [piece[0] for piece in self._read_part(text, 0)]

    def cut(self, word: str) -> Pieces:
        """Return the pieces of a word."""
        return cut_word(word, self._vocabulary, self._unknown_id, self._limit)

    def _read_part(self, text: str, origin: int) -> Pieces:
        pieces: Pieces = []
        for word in scan(text, self._rules, self._never_split):
            whole = (self._vocabulary.get(word.text, self._unknown_id), 0, len(word.text))
            for number, start, end in [whole] if word.verbatim else self.cut(word.text):
                sources = word.sources[start:end]  # canonical order may have shuffled them
                pieces.append((number, origin + min(sources), origin + max(sources) + 1))
        return pieces


class _WordTable(dict[str, tuple[int, ...]]):
    """Word to ids, cut when first seen; emptied when it grows large."""

    def __init__(self, reader: TextReader) -> None:
        super().__init__()
        self._reader = reader

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= WORDS_KEPT:
            self.clear()
        value = self[word] = tuple(piece[0] for piece in self._reader.cut(word))
        return value
