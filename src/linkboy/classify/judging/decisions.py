"""When to decide and when to abstain: how right the confident predictions are on rows that the model has not learned from."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkboy._checks import check_number
from linkboy._report import Block, Report, Table, format_count, format_percent, plural
from linkboy.classify.judging.metrics import ClassMetrics, weakest_first, wilson_interval
from linkboy.classify.judging.multilabel import MultilabelMetrics

MOST_POINTS = 1000
LEAST_DIGITS, MOST_DIGITS = 3, 15  # behind the point of a threshold
WANTED = 0.95  # precision of the table by class
SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class OperatingPoint(Report):
    """What a threshold does: texts whose likeliest class is below it get none.

    Attributes:
        threshold: the least probability of the likeliest class.
        precision: share of the texts at or above it that are predicted right; `nan` if there are none.
        coverage: share of the texts that are at or above it.
        row_count: rows that this was counted on, which the model has not learned from.
    """

    threshold: float
    precision: float
    coverage: float
    row_count: int

    def _blocks(self) -> Iterator[Block]:
        covered, interval = round(self.coverage * self.row_count), ""
        if covered:
            low, high = wilson_interval(self.precision, covered)
            interval = f" (95% interval {100 * low:.1f} to {100 * high:.1f})"
        yield (
            f"from a probability of {written_probability(self.threshold)} on: precision {format_percent(self.precision)}"
            f"{interval}, coverage {format_percent(self.coverage)}, on {plural(self.row_count, 'row')} that the model has not "
            "learned from"
        )


@dataclasses.dataclass(frozen=True)
class DecisionCurve(Report):
    """Precision against coverage, over all thresholds.

    Attributes:
        row_count: rows that this was counted on, which the model has not learned from.
        thresholds: probabilities, falling, at most a thousand, each with as few digits as tell which rows it covers.
        covered: for each threshold, the rows whose likeliest class is at least as probable.
        right: for each threshold, how many of these are predicted right.
    """

    row_count: int
    thresholds: tuple[float, ...]
    covered: tuple[int, ...]
    right: tuple[int, ...]

    def _blocks(self) -> Iterator[Block]:
        points = [self.at(threshold) for threshold in SHOWN]
        yield Table(
            ("threshold", "coverage", "precision"),
            [(f"{p.threshold:g}", format_percent(p.coverage), format_percent(p.precision)) for p in points],
            f"Decide only from a threshold on ({plural(self.row_count, 'row')})",
        )

    def at(self, threshold: float) -> OperatingPoint:
        """Return what a threshold does."""
        place = int(np.searchsorted(-np.array(self.thresholds), -threshold, "right")) - 1
        covered, right = (0, 0) if place < 0 else (self.covered[place], self.right[place])
        return OperatingPoint(
            threshold, right / covered if covered else float("nan"), covered / self.row_count, self.row_count
        )

    def for_precision(self, precision: float) -> OperatingPoint:
        """Return the threshold that covers most rows with at least that precision.

        Raises:
            ValueError: `precision` is not above 0 and at most 1, or no threshold reaches it; the message says what can be.
        """
        check_number("abstain", precision, above=0, maximum=1)
        shares = np.array(self.right) / np.array(self.covered)
        reached = np.flatnonzero(shares >= precision)
        if not len(reached):
            best = int(shares.argmax())
            raise ValueError(
                f"abstain={precision:g} cannot be reached: the highest precision on {format_count(self.row_count)} validation "
                f"rows is {format_percent(float(shares[best]))}, at a coverage of "
                f"{format_percent(self.covered[best] / self.row_count)}; ask for less"
            )
        return self.at(self.thresholds[int(reached[-1])])

    @classmethod
    def of(cls, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> "DecisionCurve":
        """Count rows by the probability of their likeliest class.

        Args:
            confidence: `(N,)`, that probability, N at least 1.
            right: `(N,)`, whether the likeliest class is the right one.

        Returns:
            Covered and right rows for each threshold.
        """
        order = np.argsort(-confidence, kind="stable")
        ranked, hits = confidence[order], np.cumsum(right[order])
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal rows are covered together
        if len(ends) > MOST_POINTS:
            ends = ends[np.unique(np.linspace(0, len(ends) - 1, MOST_POINTS).astype(np.int64))]
        thresholds = _shortest(ranked[ends], np.append(ranked, -1.0)[ends + 1])
        return cls(len(confidence), *map(tuple, (thresholds.tolist(), (ends + 1).tolist(), hits[ends].tolist())))

    @classmethod
    def restore(cls, saved: object) -> "DecisionCurve | None":
        """Return a curve from what JSON holds of it; `None` where it is none, as in classifiers of earlier versions."""
        if not isinstance(saved, Mapping):
            return None
        rows, columns = saved.get("row_count"), [saved.get(name) for name in ("thresholds", "covered", "right")]
        lists = [column for column in columns if isinstance(column, list) and all(map(_is_number, column))]
        if (
            not isinstance(rows, int)
            or rows < 1
            or len(lists) < 3
            or not len(lists[0]) == len(lists[1]) == len(lists[2]) > 0
        ):
            return None
        if min(lists[1]) < 1:
            return None
        return cls(rows, *map(tuple, lists))


def _shortest(high: NDArray[np.float64], low: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers with the fewest digits that are above `low` and at most `high`.

    A threshold is read and typed again: rounded, it would cover other rows, all of them where the logits have a cap, under
    which many probabilities differ in the fifth digit.
    """
    found, is_open = high.copy(), np.ones(len(high), bool)
    for digits in range(LEAST_DIGITS, MOST_DIGITS + 1):
        shorter = np.floor(high * 10.0**digits) / 10.0**digits
        fits = is_open & (low < shorter) & (shorter <= high)
        found[fits] = shorter[fits]
        is_open &= ~fits
    return found


def written_probability(probability: float) -> str:
    """Return a probability with all its digits, as it is to be typed."""
    return repr(float(probability)).removesuffix(".0")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def thresholds_by_class(
    predicted: NDArray[np.int64],
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    per_class: Sequence[ClassMetrics],
) -> Table:
    """Return for each class the threshold from which on its predictions have the wanted precision, the weakest class first.

    Args:
        predicted: `(N,)`, the likeliest class of rows that the model has not learned from.
        confidence: `(N,)`, its probability.
        right: `(N,)`, whether it is the class of the label.
        per_class: the figures of all classes on the test part, in the order of their numbers.
    """
    rows, numbers = [], {figures.label: number for number, figures in enumerate(per_class)}
    for figures in weakest_first(per_class):
        own = predicted == numbers[figures.label]
        threshold = kept = "-"
        if own.any():
            curve = DecisionCurve.of(confidence[own], right[own])
            shares = np.array(curve.right) / np.array(curve.covered)
            if (shares >= WANTED).any():
                point = curve.for_precision(WANTED)
                threshold, kept = written_probability(point.threshold), format_percent(point.coverage)
        precision = format_percent(float(right[own].mean())) if own.any() else "-"
        count = format_count(int(own.sum()))
        rows.append((figures.label, format_percent(figures.f1), count, precision, threshold, kept))
    return Table(("class", "F1", "predicted rows", "precision", "threshold for precision 0.95", "kept then"), rows)


def thresholds_by_label(metrics: MultilabelMetrics) -> Table:
    """Return the threshold of each label, the weakest label first."""
    rows = [
        (
            c.label,
            format_percent(c.f1),
            format_count(c.predicted_count),
            format_percent(c.precision),
            f"{c.threshold:.3f}",
        )
        for c in weakest_first(metrics.per_class)
    ]
    return Table(("class", "F1", "predicted rows", "precision", "threshold"), rows)
