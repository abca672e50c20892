"""The words seen so far and their pieces, looked up by thousands at a time."""

import os
import threading
import weakref
from typing import NamedTuple

import numpy as np

from linkboy.text._arrays import Array, Growing
from linkboy.text._hash_table import HashTable
from linkboy.text._symbols import SymbolTable
from linkboy.text._trie import PieceTrie
from linkboy.text._word_cutter import PIECE, WordCutter
from linkboy.text._word_keys import WordKeys, make_keys

WORDS_KEPT = 1 << 18

# What is kept of a word: one record, so that one look at the memory fetches it all. The first chunk, the length and
# the later chunks from `later_at` on are the word itself; pieces `at` to `at + count` are what it was cut into.
WORD = np.dtype(
    [
        ("first_chunk", np.uint64),
        ("length", np.int64),
        ("later_at", np.int64),
        ("first_id", np.int64),
        ("count", np.int64),
        ("at", np.int64),
    ]
)


class FoundWords(NamedTuple):
    """Per word its first id (-1: no piece) and number of pieces; `pieces[at + k]` are all of them.

    `collided` holds the words whose hash belongs to another word: the other fields are wrong for them.
    """

    first_id: Array
    piece_count: Array
    at: Array
    pieces: Array  # PIECE
    collided: Array


class WordCache:
    """Words, as symbols, to pieces. Bounded; safe with threads and forks; every hash found is compared with its word.

    Args:
        table: gives what a symbol unfolds to.
        trie: finds the longest pieces.
        unknown_id: the id of a word that has no cut.
        limit: characters, after folding, above which a word is unknown.
    """

    def __init__(self, table: SymbolTable, trie: PieceTrie, unknown_id: int, limit: int) -> None:
        self._table, self._cutter = table, WordCutter(table, trie, unknown_id, limit)
        self._lock = threading.Lock()
        self._clear()
        _CACHES.add(self)

    def recover(self) -> None:
        """Free the locks in a process that was just forked; forget what another thread of the parent was changing."""
        if self._lock.locked():
            self._clear()
        self._lock = threading.Lock()
        self._table.recover()

    def _clear(self) -> None:
        self._numbers = HashTable(1024)  # hash of a word to its place in the other three
        self._words = Growing(WORD)
        self._later_chunks = Growing(np.uint64)
        self._pieces = Growing(PIECE)

    def __len__(self) -> int:
        return self._words.size

    def find(self, symbols: Array, starts: Array, lengths: Array) -> FoundWords:
        """Look up words, given as ranges of a symbol array that ends in four zeros; learn those not seen before."""
        keys = make_keys(symbols, starts, lengths)
        with self._lock:
            numbers = self._numbers.find(keys.hashes)
            new = np.flatnonzero(numbers < 0)
            if new.size:
                self._learn(symbols, starts, keys, numbers, new)
            words = self._words.data.take(numbers)
            collided = self._collisions(keys, words)
            return FoundWords(words["first_id"], words["count"], words["at"], self._pieces.data, collided)

    def _collisions(self, keys: WordKeys, words: Array) -> Array:
        """Return the numbers of the words that differ from the record found for them."""
        wrong = (words["length"] != keys.lengths) | (words["first_chunk"] != keys.first)
        later, later_at = self._later_chunks.data, words["later_at"]
        for level, (word, chunk) in enumerate(keys.later):
            at = later_at[word] + level
            if wrong.any():
                at[wrong[word]] = 0  # the record may belong to a word without so many chunks
            if later.size:
                wrong[word] |= later.take(at) != chunk
        return np.flatnonzero(wrong)

    def _learn(self, symbols: Array, starts: Array, keys: WordKeys, numbers: Array, new: Array) -> None:
        """Store each different word among `new` once, and enter its place for all of them in `numbers`."""
        hashes, example, which = np.unique(keys.hashes[new], return_index=True, return_inverse=True)
        if len(self) and len(self) + len(hashes) > WORDS_KEPT:
            self._clear()
            new = np.arange(len(starts))
            hashes, example, which = np.unique(keys.hashes, return_index=True, return_inverse=True)
        numbers[new] = len(self) + which
        self._store(symbols, starts, keys, hashes, new[example])

    def _store(self, symbols: Array, starts: Array, keys: WordKeys, hashes: Array, words: Array) -> None:
        """Cut `words`, one for each of the new `hashes`, and put what is kept of them at the end."""
        cut = self._cutter.cut(symbols, starts[words], keys.lengths[words])
        later_chunks, later_at = keys.later_chunks(words)
        records = np.empty(len(words), WORD)
        records["first_chunk"], records["length"] = keys.first[words], keys.lengths[words]
        records["later_at"] = self._later_chunks.size + later_at
        records["first_id"], records["count"] = cut.first_id, cut.piece_count
        records["at"] = self._pieces.size + np.cumsum(cut.piece_count) - cut.piece_count
        first_number = len(self)
        self._later_chunks.extend(later_chunks)
        self._pieces.extend(cut.pieces)
        self._words.extend(records)
        self._numbers.insert(hashes, first_number + np.arange(len(words)))


_CACHES: weakref.WeakSet[WordCache] = weakref.WeakSet()


def _recover_after_fork() -> None:
    for cache in _CACHES:
        cache.recover()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recover_after_fork)
