"""Whether two parts have the classes in the same proportions."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_DIFFERENCE = 0.05  # of the rows: the difference that is worth a note


def other_proportions(counts: NDArray[Any], others: NDArray[Any]) -> bool:
    """Return whether other rows have clearly other proportions of classes than the rows that were counted first.

    By a likelihood ratio, four standard deviations above what equal proportions give.
    """
    shares = others[others > 0] / others.sum()
    expected = (np.maximum(counts, 1) / counts.sum())[others > 0]
    ratio = 2 * float((others[others > 0] * np.log(shares / expected)).sum())
    freedom = max(len(counts) - 1, 1)
    return ratio > freedom + 4 * math.sqrt(2 * freedom)


def most_different(counts: NDArray[Any], others: NDArray[Any]) -> tuple[int, float, float] | None:
    """Return the class whose share differs most, with both its shares; `None` where the proportions are much the same."""
    if not others.sum():
        return None
    first, second = counts / counts.sum(), others / others.sum()
    difference = np.abs(first - second)
    if difference.sum() / 2 < LEAST_DIFFERENCE or not other_proportions(counts, others):
        return None
    most = int(difference.argmax())
    return most, float(first[most]), float(second[most])
