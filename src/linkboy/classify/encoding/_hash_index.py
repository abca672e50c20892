"""A dictionary in arrays, whose sorted 64-bit keys are looked up by thousands at once."""

import numpy as np
from numpy.typing import NDArray

MOST_PREFIX_BITS, MOST_IN_A_BUCKET = 22, 64


class HashIndex:
    """Finds hashes in a sorted array: a table over their first bits gives the place to begin, mostly the right one.

    `numpy.searchsorted` takes five times as long, most of it waiting for memory.

    Args:
        hashes: `(V,)` uint64, sorted.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        bits = min(len(hashes).bit_length() + 1, MOST_PREFIX_BITS)
        self._shift = np.uint64(64 - bits)
        prefixes = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._begin = np.searchsorted(hashes, prefixes)
        # A last entry that nothing exceeds ends every search; its place shows that it is not a real one.
        self._hashes = np.append(hashes, np.uint64(2**64 - 1))
        # Hashes are spread evenly, so a bucket holds a few. Those of a forged file may not be, and get a binary search.
        self._even = np.diff(self._begin, append=len(hashes)).max() <= MOST_IN_A_BUCKET

    def __len__(self) -> int:
        return len(self._hashes) - 1

    def look_up(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each hash, -1 where it is not there."""
        if self._even:
            place = self._begin[hashes >> self._shift]
            short = np.flatnonzero(self._hashes[place] < hashes)
            while len(short):
                place[short] += 1
                short = short[self._hashes[place[short]] < hashes[short]]
        else:
            place = np.searchsorted(self._hashes[:-1], hashes)
        place[(self._hashes[place] != hashes) | (place == len(self))] = -1
        return place
