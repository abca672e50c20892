"""New words, thousands at a time, from symbols to pieces with their spans."""

from typing import NamedTuple

import numpy as np

from linkboy.text._arrays import Array, ranges
from linkboy.text._symbols import DROPPED, SymbolTable
from linkboy.text._trie import PieceTrie

CUT_AT_ONCE = 1 << 13  # words: bounds the memory that cutting takes
PIECE = np.dtype([("id", np.int32), ("start", np.int32), ("end", np.int32)])  # the span counts characters of the word


class CutWords(NamedTuple):
    """Per word its first id (-1 where it has no piece) and its number of pieces; then all pieces, word by word."""

    first_id: Array
    piece_count: Array
    pieces: Array  # PIECE


class _Letters(NamedTuple):
    """The letters of words, one word after the other: number of the word, place of the character in it, symbol."""

    word: Array
    place: Array
    symbol: Array


class WordCutter:
    """Cuts words into the pieces of a vocabulary.

    Args:
        table: gives what a symbol unfolds to.
        trie: finds the longest pieces.
        unknown_id: the id of a word that has no cut.
        limit: characters, after folding, above which a word is unknown.
    """

    def __init__(self, table: SymbolTable, trie: PieceTrie, unknown_id: int, limit: int) -> None:
        self._table, self._trie, self._unknown_id, self._limit = table, trie, unknown_id, limit

    def cut(self, symbols: Array, starts: Array, lengths: Array) -> CutWords:
        """Cut words, given as ranges of an array of symbols."""
        runs = [
            self._cut_run(symbols, starts[first : first + CUT_AT_ONCE], lengths[first : first + CUT_AT_ONCE])
            for first in range(0, len(starts), CUT_AT_ONCE)
        ]
        return CutWords(*(np.concatenate(column) for column in zip(*runs, strict=True)))

    def _cut_run(self, symbols: Array, starts: Array, lengths: Array) -> CutWords:
        place = ranges(np.zeros_like(lengths), lengths)
        word = np.repeat(np.arange(len(starts)), lengths)
        raw = _Letters(word, place, symbols[np.repeat(starts, lengths) + place])
        folded = self._unfold(raw)
        size = np.bincount(folded.word, minlength=len(starts))
        owner, pieces, without = self._match(folded, size)
        unknown = np.union1d(np.flatnonzero(size > self._limit), without)
        owner = np.concatenate([owner, unknown])
        pieces = np.concatenate([pieces, self._unknown_pieces(raw, unknown)])
        pieces = pieces.take(np.argsort(owner, kind="stable"))
        count = np.bincount(owner, minlength=len(starts))
        first_id = np.full(len(starts), -1, np.int32)
        some = count > 0
        first_id[some] = pieces["id"][(np.cumsum(count) - count)[some]]
        return CutWords(first_id, count, pieces)

    def _unfold(self, letters: _Letters) -> _Letters:
        """Replace each symbol by the symbols that it folds to; a dropped character folds to none."""
        word, place, symbol = letters
        widths = self._table.widths[symbol]
        if (widths == 1).all():
            return letters
        part = ranges(np.zeros(len(symbol), np.int64), widths)
        unfolded = self._table.parts[np.repeat(symbol, widths), part]
        return _Letters(np.repeat(word, widths), np.repeat(place, widths), unfolded)

    def _match(self, letters: _Letters, size: Array) -> tuple[Array, Array, Array]:
        """Return the pieces of all words within the limit, the word that owns each, and the words without a cut."""
        within = np.flatnonzero((size > 0) & (size <= self._limit))
        # A zero after each word stops the match there; so word `i` lies `i` further on than in `letters`.
        ends = np.cumsum(size + 1) - 1
        stopped = np.zeros(len(letters.symbol) + len(size), np.uint16)
        stopped[np.arange(len(letters.symbol)) + letters.word] = letters.symbol
        found, failed = self._trie.match(stopped, (ends - size)[within], ends[within])
        owner = within[found.word]
        start, end = letters.place[found.start - owner], letters.place[found.end - 1 - owner] + 1
        return owner, _make_pieces(found.id, start, end), within[failed]

    def _unknown_pieces(self, raw: _Letters, unknown: Array) -> Array:
        """Return one piece for each of these words, from the first to the last of its characters not dropped."""
        kept = raw.symbol != DROPPED
        word, place = raw.word[kept], raw.place[kept]
        first = place[np.searchsorted(word, unknown)]
        last = place[np.searchsorted(word, unknown, "right") - 1]
        return _make_pieces(np.full(len(unknown), self._unknown_id), first, last + 1)


def _make_pieces(id: Array, start: Array, end: Array) -> Array:
    pieces = np.empty(len(id), PIECE)
    pieces["id"], pieces["start"], pieces["end"] = id, start, end
    return pieces
