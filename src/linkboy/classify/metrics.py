"""How good predictions are: accuracy, precision, recall and F1 by class, and which classes are confused."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from linkboy._report import Block, Report, Table, format_count, format_percent


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """How good the predictions of one class are.

    Attributes:
        label: the name of the class.
        precision: share of the rows predicted as the class that belong to it; `nan` if there are none.
        recall: share of the rows of the class that are predicted as it; `nan` if there are none.
        f1: harmonic mean of the two; `nan` if the class occurs neither in the truth nor among the predictions.
        support: the number of rows that belong to the class.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclasses.dataclass(frozen=True)
class ClassificationMetrics(Report):
    """Predictions compared with the truth.

    Attributes:
        row_count: the number of rows.
        accuracy: share of the rows that are predicted right.
        macro_f1: mean F1 over the classes that occur in the truth or among the predictions.
        weighted_f1: mean F1, weighted by the rows of each class.
        per_class: one entry for each class.
        confusion: `confusion[true][predicted]`, counts of rows.
    """

    row_count: int
    accuracy: float
    macro_f1: float
    weighted_f1: float
    per_class: Sequence[ClassMetrics]
    confusion: Sequence[Sequence[int]]

    def _blocks(self) -> Iterator[Block]:
        yield Table(
            ("class", "precision", "recall", "F1", "rows"),
            [
                (
                    c.label,
                    format_percent(c.precision),
                    format_percent(c.recall),
                    format_percent(c.f1),
                    format_count(c.support),
                )
                for c in self.per_class
            ],
        )
        confused = self.most_confused()
        if confused:
            yield "most confused: " + ", ".join(f"{true} -> {predicted} {count}" for true, predicted, count in confused)
        yield self.summary

    @property
    def summary(self) -> str:
        """Accuracy and macro-F1 in one line, with the standard error of the accuracy."""
        beside = f" (standard error {self.standard_error:.2%})" if self.standard_error else ""
        return (
            f"accuracy {format_percent(self.accuracy)}{beside}   macro-F1 {format_percent(self.macro_f1)}   "
            f"{format_count(self.row_count)} rows"
        )

    @property
    def standard_error(self) -> float | None:
        """Standard error of the accuracy, as a share of independent rows; `None` at 0 and 1, where the formula fails."""
        error = float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.row_count))
        return error or None

    def most_confused(self, count: int = 5) -> list[tuple[str, str, int]]:
        """Return the pairs (true class, predicted class, rows) that go wrong most often."""
        table = np.array(self.confusion)
        np.fill_diagonal(table, 0)
        names = [c.label for c in self.per_class]
        order = np.argsort(table, axis=None, kind="stable")[::-1][:count]
        pairs = [(int(cell) // len(names), int(cell) % len(names)) for cell in order]
        return [(names[true], names[other], int(table[true, other])) for true, other in pairs if table[true, other]]


def macro_f1(target: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that occur in `target` or in `predicted`.

    Args:
        target: `(N,)` class indices.
        predicted: `(N,)` class indices.
    """
    _, _, f1 = _precision_recall_f1(_confusion(target, predicted, int(max(target.max(), predicted.max())) + 1))
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
    confusion = _confusion(target, predicted, len(class_names))
    precision, recall, f1 = _precision_recall_f1(confusion)
    support = confusion.sum(1)
    return ClassificationMetrics(
        row_count=len(target),
        accuracy=float((target == predicted).mean()),
        macro_f1=float(np.nanmean(f1)),
        weighted_f1=float(np.nansum(f1 * support) / support.sum()),
        per_class=tuple(
            ClassMetrics(name, float(p), float(r), float(f), int(n))
            for name, p, r, f, n in zip(class_names, precision, recall, f1, support, strict=True)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _confusion(target: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return np.bincount(target * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _precision_recall_f1(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    right = np.diag(confusion).astype(np.float64)
    predicted, support = confusion.sum(0), confusion.sum(1)
    # F1 straight from counts: 0 for a class that occurs but is never hit, nan only for one that occurs nowhere.
    with np.errstate(invalid="ignore"):
        return right / predicted, right / support, 2 * right / (predicted + support)
