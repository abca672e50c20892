"""The words met so far and their pieces, found again by thousands at a time."""

import os
import threading
import weakref
from typing import NamedTuple

import numpy as np

from linkboy.text._hash_table import Array, Growing, HashTable, ranges
from linkboy.text._symbols import DROPPED, SymbolTable
from linkboy.text._trie import PieceTrie

WORDS_KEPT = 1 << 18
CUT_AT_ONCE = 1 << 13  # new words: bounds the memory that cutting takes
MIX = np.uint64(0xD6E8FEB86659FD93)
# Keeps the first 0, 1, 2, 3 or 4 of the four 16-bit symbols in a 64-bit chunk.
KEEP = np.array([0, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF], np.uint64)


# What is kept of a word: one row, so that one look at the memory fetches it all.
FIRST_CHUNK, LENGTH, LATER_AT, FIRST_ID, COUNT, AT = range(6)
COLUMNS = 6


class Found(NamedTuple):
    """Per word its first id (-1: no piece) and number of pieces; `pieces[at + k]` are all of them.

    `collided` holds the words whose key belongs to another word: nothing said about them here is true.
    """

    first: Array
    counts: Array
    at: Array
    pieces: Array  # (number, 3): id, and the span in characters of the word
    collided: Array


class Keys(NamedTuple):
    """Words as 64-bit chunks of four symbols: all words' first chunks, then those of ever fewer, longer words."""

    hashes: Array
    lengths: Array
    first: Array
    later: list[tuple[Array, Array]]  # the words that have this chunk, and the chunk


def make_keys(symbols: Array, starts: Array, lengths: Array) -> Keys:
    """Pack words into chunks and mix these into one hash each; a word of up to four symbols is its own hash."""
    chunks = np.ndarray((len(symbols) - 3,), "<u8", symbols, strides=(2,))  # overlapping; `symbols` ends in padding
    first = chunks[starts] & KEEP.take(np.minimum(lengths, 4))
    hashes, later = first.copy(), []
    word, done = np.flatnonzero(lengths > 4), 4
    while word.size:
        left = lengths[word] - done
        chunk = chunks[starts[word] + done] & KEEP.take(np.minimum(left, 4))
        later.append((word, chunk))
        mixed = hashes[word] * MIX
        hashes[word] = (mixed ^ (mixed >> np.uint64(31))) + chunk
        word, done = word[left > 4], done + 4
    return Keys(hashes, lengths, first, later)


class WordCache:
    """Words, as symbols, to pieces. Bounded; safe with threads and forks; a hash decides nothing without a comparison.

    Args:
        table: gives what a symbol unfolds to.
        trie: cuts new words.
        unknown_id: the id of a word that has no cut.
        limit: characters, after folding, above which a word is unknown.
    """

    def __init__(self, table: SymbolTable, trie: PieceTrie, unknown_id: int, limit: int) -> None:
        self._table, self._trie, self._unknown_id, self._limit = table, trie, unknown_id, limit
        self._lock = threading.Lock()
        self._clear()
        _CACHES.add(self)

    def recover(self) -> None:
        """Free the locks in a process just forked; what another thread of the parent was busy changing is forgotten."""
        if self._lock.locked():
            self._clear()
        self._lock = threading.Lock()
        self._table.recover()

    def _clear(self) -> None:
        self._numbers = HashTable(1024)
        self._words = Growing(np.int64, COLUMNS)
        self._later_chunks = Growing(np.uint64)
        self._pieces = Growing(np.int32, 3)

    def __len__(self) -> int:
        return self._words.size

    def find(self, symbols: Array, starts: Array, lengths: Array) -> Found:
        """Look up words, given as ranges of a symbol array that ends in four zeros; learn those not met before."""
        keys = make_keys(symbols, starts, lengths)
        with self._lock:
            numbers = self._numbers.find(keys.hashes)
            new = np.flatnonzero(numbers < 0)
            if new.size:
                unique, one, which = np.unique(keys.hashes[new], return_index=True, return_inverse=True)
                if len(self) + len(unique) > WORDS_KEPT and len(self):
                    self._clear()
                    numbers[:] = -1
                    new = np.arange(len(starts))
                    unique, one, which = np.unique(keys.hashes, return_index=True, return_inverse=True)
                numbers[new] = len(self) + which
                self._learn(symbols, starts, keys, unique, new[one])
            words = self._words.data.take(numbers, axis=0)
            wrong = self._collisions(keys, words)
            return Found(words[:, FIRST_ID], words[:, COUNT], words[:, AT], self._pieces.data, wrong)

    def _collisions(self, keys: Keys, words: Array) -> Array:
        wrong = (words[:, LENGTH] != keys.lengths) | (words[:, FIRST_CHUNK] != keys.first.view(np.int64))
        later = self._later_chunks.data
        for level, (word, chunk) in enumerate(keys.later):
            at = words[word, LATER_AT] + level
            if wrong.any():
                at[wrong[word]] = 0  # may belong to a word without so many chunks
            if later.size:
                wrong[word] |= later.take(at) != chunk
        return np.flatnonzero(wrong)

    def _learn(self, symbols: Array, starts: Array, keys: Keys, hashes: Array, words: Array) -> None:
        """Cut `words`, one for each of the new `hashes`, and store key and pieces under the next numbers."""
        lengths = keys.lengths[words]
        size = len(self)
        chunks = -(-lengths // 4) - 1  # beyond the first
        later = np.zeros(int(chunks.sum()), np.uint64)
        at = np.cumsum(chunks) - chunks
        row = np.full(len(starts), -1, np.int64)
        row[words] = np.arange(len(words))
        for level, (word, chunk) in enumerate(keys.later):
            mine = row[word] >= 0
            later[at[row[word[mine]]] + level] = chunk[mine]
        parts = [
            self._cut(symbols, starts[words[i : i + CUT_AT_ONCE]], lengths[i : i + CUT_AT_ONCE])
            for i in range(0, len(words), CUT_AT_ONCE)
        ]
        first, count, pieces = (np.concatenate(column) for column in zip(*parts, strict=True))
        rows = np.empty((len(words), COLUMNS), np.int64)
        rows[:, FIRST_CHUNK] = keys.first[words].view(np.int64)
        rows[:, LENGTH], rows[:, LATER_AT] = lengths, self._later_chunks.size + at
        rows[:, FIRST_ID], rows[:, COUNT] = first, count
        rows[:, AT] = self._pieces.size + np.cumsum(count) - count
        self._later_chunks.extend(later)
        self._pieces.extend(pieces)
        self._words.extend(rows)
        self._numbers.insert(hashes, size + np.arange(len(words)))

    def _cut(self, symbols: Array, starts: Array, lengths: Array) -> tuple[Array, Array, Array]:
        """Return per word its first id and number of pieces, and `(id, start, end)` of all pieces in order."""
        source = ranges(np.zeros_like(lengths), lengths)  # which character of its word
        word = np.repeat(np.arange(len(starts)), lengths)
        raw = symbols[np.repeat(starts, lengths) + source]
        kept = raw != DROPPED
        kept_word, kept_source = word[kept], source[kept]
        folded, widths = raw, self._table.widths[raw]
        if (widths != 1).any():
            part = ranges(np.zeros(len(raw), np.int64), widths)
            folded = self._table.parts[np.repeat(raw, widths), part]
            source, word = np.repeat(source, widths), np.repeat(word, widths)
        size = np.bincount(word, minlength=len(starts))
        regular = np.flatnonzero((size > 0) & (size <= self._limit))
        # A zero after each word stops the match there; so word `i` lies `i` further on than in `folded`.
        ends = np.cumsum(size + 1) - 1
        stopped = np.zeros(len(folded) + len(starts), np.uint16)
        stopped[np.arange(len(folded)) + word] = folded
        cut, without = self._trie.match(stopped, (ends - size)[regular], ends[regular])
        owner = regular[cut.word]
        begin, end = source[cut.start - owner], source[cut.end - 1 - owner] + 1
        # A word without a cut is unknown from the first to the last of the characters that are not dropped.
        unknown = np.union1d(np.flatnonzero(size > self._limit), regular[without])
        first = kept_source[np.searchsorted(kept_word, unknown)]
        last = kept_source[np.searchsorted(kept_word, unknown, "right") - 1]
        pieces = np.concatenate(
            [
                np.column_stack([cut.id, begin, end]),
                np.column_stack([np.full(len(unknown), self._unknown_id), first, last + 1]),
            ]
        ).astype(np.int32)
        owner = np.concatenate([owner, unknown])
        pieces = pieces[np.argsort(owner, kind="stable")]
        count = np.bincount(owner, minlength=len(starts))
        first_id = np.full(len(starts), -1, np.int32)
        some = count > 0
        first_id[some] = pieces[(np.cumsum(count) - count)[some], 0]
        return first_id, count, pieces


_CACHES: weakref.WeakSet[WordCache] = weakref.WeakSet()


def _recover_after_fork() -> None:
    for cache in _CACHES:
        cache.recover()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recover_after_fork)
