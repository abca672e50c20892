"""A dictionary in arrays: thousands of 64-bit keys are looked up or put in at once."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, the golden ratio's bits: the top bits of the product are the slot


class HashTable:
    """`uint64` keys to non-negative `int32` values, open addressing with linear probing, never more than half full."""

    def __init__(self, expected: int = 0) -> None:
        self.count = 0
        self._allocate(max(8, (2 * expected).bit_length()))

    def _allocate(self, bits: int) -> None:
        self._shift, self._mask = np.uint64(64 - bits), (1 << bits) - 1
        self.keys = np.zeros(1 << bits, np.uint64)
        self.values = np.full(1 << bits, -1, np.int32)

    def _home(self, keys: Array) -> Array:
        return ((keys * SPREAD) >> self._shift).view(np.int64)

    def find(self, keys: Array) -> Array:
        """Return the value of each key, -1 where it is not in the table."""
        slots = self._home(keys)
        values = self.values.take(slots, mode="clip")
        other = np.flatnonzero((self.keys.take(slots, mode="clip") != keys) & (values >= 0))
        while other.size:
            slots[other] = step = (slots[other] + 1) & self._mask
            values[other] = seen = self.values[step]
            other = other[(self.keys[step] != keys[other]) & (seen >= 0)]
        return values

    def insert(self, keys: Array, values: Array) -> None:
        """Put in keys that are distinct and new, each with a value that no other key has."""
        self.count += len(keys)
        if 2 * self.count > self._mask:
            old = self.values >= 0
            old_keys, old_values = self.keys[old], self.values[old]
            self._allocate((2 * self.count).bit_length() + 1)
            self._place(old_keys, old_values)
        self._place(keys, values)

    def _place(self, keys: Array, values: Array) -> None:
        slots, values = self._home(keys), values.astype(np.int32)
        waiting = np.arange(len(keys))
        while waiting.size:
            slot = slots[waiting]
            free = self.values[slot] < 0
            self.values[slot[free]] = values[waiting[free]]
            # Several may have claimed one slot: whoever is read back has won, and the others step on.
            lost = self.values[slot] != values[waiting]
            won = ~lost
            self.keys[slot[won]] = keys[waiting[won]]
            waiting = waiting[lost]
            slots[waiting] = (slots[waiting] + 1) & self._mask


class Growing:
    """An array that is appended to; a reader's slice of an earlier state stays valid."""

    def __init__(self, dtype: Any, columns: int = 1) -> None:
        self._data, self.size = np.empty((64, columns) if columns > 1 else 64, dtype), 0

    @property
    def data(self) -> Array:
        """What was put in so far."""
        return self._data[: self.size]

    def extend(self, values: Array) -> None:
        """Put values at the end."""
        end = self.size + len(values)
        if end > len(self._data):
            larger = np.empty((max(end, 2 * len(self._data)), *self._data.shape[1:]), self._data.dtype)
            larger[: self.size] = self.data
            self._data = larger
        self._data[self.size : end] = values
        self.size = end


def ranges(starts: Array, counts: Array) -> Array:
    """Return `starts[0], starts[0]+1, ...` (`counts[0]` of them), then the same for the next, as one array."""
    counts = counts.astype(np.int64, copy=False)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + counts, counts)
