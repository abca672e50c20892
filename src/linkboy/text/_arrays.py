"""Arrays that grow, and the rows of ragged arrays."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Growing:
    """An array that grows; a slice taken from it earlier stays valid."""

    def __init__(self, dtype: Any) -> None:
        self._data, self.size = np.empty(64, dtype), 0

    @property
    def data(self) -> Array:
        """The values appended so far."""
        return self._data[: self.size]

    def extend(self, values: Array) -> None:
        """Append values."""
        end = self.size + len(values)
        if end > len(self._data):
            larger = np.empty(max(end, 2 * len(self._data)), self._data.dtype)
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
