"""How good predictions are: accuracy, precision, recall and F1 by class, and which classes are confused."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from linkboy._report import Block, Report, Table, format_count, format_percent, plural

MOST_IN_TABLE = 2000  # classes
MOST_CONFUSED = 100
MOST_SHOWN, WEAKEST = 200, 20  # classes of a table that is shown whole, and of one that is not


class _HasF1(Protocol):
    @property
    def f1(self) -> float: ...  # of a class, or of a label


Figures = TypeVar("Figures", bound=_HasF1)


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """How good the predictions of one class are.

    Attributes:
        label: the name of the class.
        precision: share of the rows predicted as the class that belong to it; `nan` if there are none.
        recall: share of the rows of the class that are predicted as it; `nan` if there are none.
        f1: harmonic mean of the two; `nan` if the class occurs neither in the truth nor among the predictions.
        support: the number of rows that belong to the class.
        predicted_count: the number of rows that are predicted as the class.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted_count: int


@dataclasses.dataclass(frozen=True)
class ClassificationMetrics(Report):
    """Predictions compared with the truth.

    Attributes:
        row_count: the number of rows.
        accuracy: share of the rows that are predicted right.
        macro_f1: mean F1 over the classes that occur in the truth or among the predictions.
        weighted_f1: mean F1, weighted by the rows of each class.
        per_class: one entry for each class.
        confused: pairs (true class, predicted class, rows) that go wrong most often, at most a hundred.
        confusion: `confusion[true][predicted]`, counts of rows; empty for more than 2,000 classes.
    """

    row_count: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    per_class: Sequence[ClassMetrics]
    confused: Sequence[tuple[str, str, int]]
    confusion: Sequence[Sequence[int]]

    def class_table(self) -> Table:
        """Return precision, recall and F1 of each class; of very many, the weakest."""
        shown, title = shown_of(self.per_class)
        rows = [(c.label, *map(format_percent, (c.precision, c.recall, c.f1)), format_count(c.support)) for c in shown]
        return Table(("class", "precision", "recall", "F1", "rows"), rows, title)

    def _blocks(self) -> Iterator[Block]:
        yield self.class_table()
        confused = self.most_confused()
        if confused:
            yield "most confused: " + ", ".join(f"{true} -> {predicted} {count}" for true, predicted, count in confused)
        if not self.is_better_than_guessing:
            yield (
                "this is not better than guessing: labels drawn at random in the same proportions would agree with "
                f"{format_percent(self.chance_accuracy)} of the predictions"
            )
        yield self.summary

    @property
    def summary(self) -> str:
        """Accuracy with its interval, the share of the largest class, and macro-F1, in one line."""
        low, high = self.interval
        return (
            f"accuracy {format_percent(self.accuracy)} (95% interval {100 * low:.1f} to {100 * high:.1f}; largest class "
            f"{format_percent(self.largest_share)})   macro-F1 {format_percent(self.macro_f1)}   "
            f"{plural(self.row_count, 'row')}"
        )

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy on other rows of the same kind lies, with 95% confidence (Wilson)."""
        return wilson_interval(self.accuracy, self.row_count)

    @property
    def largest_share(self) -> float:
        """Share of the largest class: the accuracy of always answering that class."""
        return max(c.support for c in self.per_class) / self.row_count

    @property
    def chance_accuracy(self) -> float:
        """The accuracy to expect if the same predictions were dealt out to the rows at random."""
        true, taken = self._shares()
        return float((true * taken).sum())

    @property
    def is_better_than_guessing(self) -> bool:
        """Whether predictions and labels agree more often than by chance, at the level of 1% (one-sided).

        Source: the variance of Cohen's kappa without agreement, Fleiss, Cohen & Everitt 1969, Psychological Bulletin 72.
        """
        true, taken = self._shares()
        chance = float((true * taken).sum())
        variance = (chance + chance**2 - float((true * taken * (true + taken)).sum())) / self.row_count
        return self.accuracy > chance + 2.326348 * float(np.sqrt(max(variance, 0.0)))

    def _shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the share of each class among the labels and among the predictions."""
        counts = np.array([(c.support, c.predicted_count) for c in self.per_class]) / self.row_count
        return counts[:, 0], counts[:, 1]

    def most_confused(self, count: int = 5) -> list[tuple[str, str, int]]:
        """Return the pairs (true class, predicted class, rows) that go wrong most often."""
        return list(self.confused[:count])


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return where the share of other rows of the same kind lies, with 95% confidence.

    Source: Wilson 1927, the score interval, which also holds near 0 and 1 and for few rows.
    """
    z = 1.959964
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def weakest_first(per_class: Iterable[Figures]) -> list[Figures]:
    """Return the figures of the classes, the lowest F1 first; those without one are last."""
    return sorted(per_class, key=lambda c: (math.isnan(c.f1), c.f1))


def shown_of(per_class: Sequence[Figures]) -> tuple[Sequence[Figures], str]:
    """Return the classes that a table shows, and its title: of more classes than anybody reads, the weakest."""
    if len(per_class) <= MOST_SHOWN:
        return per_class, ""
    title = f"the {WEAKEST} weakest of {format_count(len(per_class))} classes by F1; per_class has all"
    return weakest_first(per_class)[:WEAKEST], title


def macro_f1(target: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that occur in `target` or in `predicted`.

    Args:
        target: `(N,)` class indices.
        predicted: `(N,)` class indices.
    """
    _, _, f1 = f1_of_counts(*_counts(target, predicted, int(max(target.max(), predicted.max())) + 1))
    return float(np.nanmean(f1))


def classification_metrics(
    target: NDArray[np.int64], predicted: NDArray[np.int64], class_names: Sequence[str]
) -> ClassificationMetrics:
    """Measure predictions against the truth.

    Args:
        target: `(N,)` class indices, N at least 1.
        predicted: `(N,)` class indices.
        class_names: the names that the indices stand for.

    Returns:
        Accuracy, macro-F1, and precision, recall and F1 of each class.
    """
    right, taken, support = _counts(target, predicted, len(class_names))
    precision, recall, f1 = f1_of_counts(right, taken, support)
    columns = zip(class_names, precision, recall, f1, support.tolist(), taken.tolist(), strict=True)
    return ClassificationMetrics(
        row_count=len(target),
        accuracy=float((target == predicted).mean()),
        macro_f1=float(np.nanmean(f1)),
        weighted_f1=float(np.nansum(f1 * support) / support.sum()),
        per_class=tuple(ClassMetrics(name, float(p), float(r), float(f), *n) for name, p, r, f, *n in columns),
        confused=_confused(target, predicted, class_names),
        confusion=_confusion(target, predicted, len(class_names)) if len(class_names) <= MOST_IN_TABLE else (),
    )


def _counts(target: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], ...]:
    """Return for each class how many rows are right, how many are predicted as it, and how many belong to it."""
    right = np.bincount(target[target == predicted], minlength=classes)
    return right, np.bincount(predicted, minlength=classes), np.bincount(target, minlength=classes)


def _confusion(target: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> tuple[tuple[int, ...], ...]:
    table = np.bincount(target * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(row) for row in table.tolist())


def _confused(
    target: NDArray[np.int64], predicted: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[tuple[str, str, int], ...]:
    wrong, classes = target != predicted, len(class_names)
    cells, rows = np.unique(target[wrong] * classes + predicted[wrong], return_counts=True)
    # Of pairs that are equally frequent the last ones come first, as in a table that is sorted and turned round.
    order = np.argsort(rows, kind="stable")[::-1][:MOST_CONFUSED]
    pairs = zip(cells[order].tolist(), rows[order].tolist(), strict=True)
    return tuple((str(class_names[int(c) // classes]), str(class_names[int(c) % classes]), int(n)) for c, n in pairs)


def f1_of_counts(
    right: NDArray[np.int64], taken: NDArray[np.int64], support: NDArray[np.int64]
) -> tuple[NDArray[np.float64], ...]:
    """Return precision, recall and F1 of each class from its rows that are right, predicted as it, and labelled with it."""
    # F1 straight from counts: 0 for a class that occurs but is never hit, nan only for one that occurs nowhere.
    with np.errstate(invalid="ignore"):
        return right / taken, right / support, 2 * right / (taken + support)
