"""Whether probabilities mean what they say: how often a classifier is right beside how sure it claims to be."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from linkboy._report import Block, Report, Table, format_count, format_percent

BINS = 15


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose probability is above `low` and at most `high`: how many, their mean confidence, their accuracy."""

    low: float
    high: float
    row_count: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Reliability(Report):
    """How the probabilities of the predicted classes compare with how often they are right.

    Attributes:
        bins: bins of equal width over (0, 1]; those without rows have `nan` for confidence and accuracy.
        confidence: mean probability of the predicted class.
        accuracy: share of the rows that are predicted right.
        calibration_error: expected calibration error: the mean over the rows of the distance between the accuracy of a bin
            and its confidence.
        chance_error: the expected calibration error that so few rows would show on average if the probabilities were exact.
    """

    bins: Sequence[ReliabilityBin]
    confidence: float
    accuracy: float
    calibration_error: float
    chance_error: float

    def _blocks(self) -> Iterator[Block]:
        rows = [
            (
                f"{b.low:.0%} to {b.high:.0%}",
                format_count(b.row_count),
                format_percent(b.confidence),
                format_percent(b.accuracy),
            )
            for b in self.bins
            if b.row_count
        ]
        yield Table(("probability", "rows", "mean confidence", "accuracy"), rows)
        yield (
            f"expected calibration error {format_percent(self.calibration_error)} (by chance alone "
            f"{format_percent(self.chance_error)}): "
            f"mean confidence {format_percent(self.confidence)}, accuracy {format_percent(self.accuracy)}"
        )


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], *, bins: int = BINS) -> Reliability:
    """Compare the confidence of a classifier with its accuracy.

    Args:
        confidence: `(N,)`, the probability of the predicted class, N at least 1.
        right: `(N,)`, whether the prediction was right.
        bins: how many bins of equal width.

    Source: Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599.
    """
    confidence = confidence.astype(np.float64)
    number = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(np.int64)
    rows = np.bincount(number, minlength=bins)
    with np.errstate(invalid="ignore"):
        sure = np.bincount(number, confidence, minlength=bins) / rows
        hit = np.bincount(number, right, minlength=bins) / rows
    # The distance in a bin is then nearly half-normal, of the variance of a sum of independent hits.
    spread = np.sqrt(np.bincount(number, confidence * (1 - confidence), minlength=bins))
    edges = np.linspace(0, 1, bins + 1).tolist()
    columns = zip(edges, edges[1:], rows.tolist(), sure.tolist(), hit.tolist(), strict=False)
    return Reliability(
        bins=tuple(ReliabilityBin(*column) for column in columns),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        calibration_error=float(np.nansum(rows * np.abs(sure - hit)) / len(right)),
        chance_error=float(math.sqrt(2 / math.pi) * spread.sum() / len(right)),
    )
