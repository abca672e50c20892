"""The rows of ragged arrays."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ranges(starts: Array, counts: Array) -> Array:
    """Return `starts[0], starts[0]+1, ...` (`counts[0]` of them), then the same for the next, as one array."""
    counts = counts.astype(np.int64, copy=False)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + counts, counts)
