"""WordPiece for one word after the other: the specification, and what cuts single texts where there is no compiled core."""

import itertools
from collections.abc import Callable, Mapping

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
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        rules: Rules,
        *,
        unknown_id: int,
        limit: int,
        never_split: frozenset[str] = frozenset(),
    ) -> None:
        self.vocabulary, self.rules, self.unknown_id, self.limit = vocabulary, rules, unknown_id, limit
        self._never_split = never_split
        # Dropped characters may stand inside a token that stays whole, so its first character is searched for.
        self.first_characters = frozenset(token[0] for token in never_split)
        self.characters = CharacterTable(rules)
        self._words = WordTable(self.cut_ids)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        if not self.first_characters or self.first_characters.isdisjoint(text):
            try:
                words = text.translate(self.characters).split()
            except DependsOnNeighboursError:
                pass
            else:
                return list(itertools.chain.from_iterable(map(self._words.__getitem__, words)))
        return [piece[0] for piece in self.read(text)]

    def cut(self, word: str) -> Pieces:
        """Return the pieces of a word."""
        return cut_word(word, self.vocabulary, self.unknown_id, self.limit)

    def cut_ids(self, word: str) -> tuple[int, ...]:
        """Return the ids of the pieces of a word."""
        return tuple(piece[0] for piece in self.cut(word))

    def read(self, text: str) -> Pieces:
        """Return id and span in the text of every piece, character by character as the rules say."""
        pieces: Pieces = []
        for word in scan(text, self.rules, self._never_split):
            whole = (self.vocabulary.get(word.text, self.unknown_id), 0, len(word.text))
            for number, start, end in [whole] if word.verbatim else self.cut(word.text):
                sources = word.sources[start:end]  # canonical order may have shuffled them
                pieces.append((number, min(sources), max(sources) + 1))
        return pieces


class WordTable(dict[str, tuple[int, ...]]):
    """Word to ids, cut when first seen; emptied when it grows large.

    Args:
        cut: returns the ids of a word.
    """

    def __init__(self, cut: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self._cut = cut

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= WORDS_KEPT:
            self.clear()
        value = self[word] = self._cut(word)
        return value
