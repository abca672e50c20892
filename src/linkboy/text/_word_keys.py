"""Words as 64-bit numbers: four symbols to a chunk, and one hash of all chunks to look the word up by."""

from typing import NamedTuple

import numpy as np

from linkboy.text._arrays import Array

SYMBOLS_PER_CHUNK = 4
MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)  # odd, so that multiplying by it loses nothing modulo 2**64
# Keeps the first 0, 1, 2, 3 or 4 of the four 16-bit symbols in a chunk.
KEEP = np.array([0, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF], np.uint64)


class WordKeys(NamedTuple):
    """What tells words apart.

    Attributes:
        hashes: the hash of each word.
        lengths: the number of symbols of each word.
        first: the first chunk of each word.
        later: level by level, the numbers of the words that are long enough to have this chunk, and the chunk.
    """

    hashes: Array
    lengths: Array
    first: Array
    later: list[tuple[Array, Array]]

    def later_chunks(self, words: Array) -> tuple[Array, Array]:
        """Return the later chunks of some words, one word after the other, and where those of each word begin."""
        counts = -(-self.lengths[words] // SYMBOLS_PER_CHUNK) - 1
        begins = np.cumsum(counts) - counts
        chunks = np.zeros(int(counts.sum()), np.uint64)
        rank = np.full(len(self.lengths), -1, np.int64)  # of each word among `words`
        rank[words] = np.arange(len(words))
        for level, (word, chunk) in enumerate(self.later):
            asked = rank[word] >= 0
            chunks[begins[rank[word[asked]]] + level] = chunk[asked]
        return chunks, begins


def make_keys(symbols: Array, starts: Array, lengths: Array) -> WordKeys:
    """Pack words into chunks and mix these into one hash each; a word of up to four symbols is its own hash.

    Args:
        symbols: `uint16`, ending in at least three zeros, so that a chunk can be read at every symbol.
        starts: where each word begins in `symbols`.
        lengths: how many symbols each word has.

    Returns:
        The keys, in the order of the words.
    """
    chunks = np.ndarray((len(symbols) - 3,), "<u8", symbols, strides=(2,))  # overlapping
    first = chunks[starts] & KEEP.take(np.minimum(lengths, SYMBOLS_PER_CHUNK))
    hashes, later = first.copy(), []
    word, done = np.flatnonzero(lengths > SYMBOLS_PER_CHUNK), SYMBOLS_PER_CHUNK
    while word.size:
        left = lengths[word] - done
        chunk = chunks[starts[word] + done] & KEEP.take(np.minimum(left, SYMBOLS_PER_CHUNK))
        later.append((word, chunk))
        mixed = hashes[word] * MULTIPLIER
        hashes[word] = (mixed ^ (mixed >> np.uint64(31))) + chunk
        word, done = word[left > SYMBOLS_PER_CHUNK], done + SYMBOLS_PER_CHUNK
    return WordKeys(hashes, lengths, first, later)
