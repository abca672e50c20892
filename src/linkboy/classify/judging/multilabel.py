"""How good predictions are where a text may have several labels: F1 in three means, average precision, all labels right."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from linkboy._report import Block, Report, Table, format_count, format_percent, plural
from linkboy.classify.judging.metrics import f1_of_counts, shown_of

Flags = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class LabelMetrics:
    """How good the decisions about one label are.

    Attributes:
        label: the name of the label.
        precision: share of the rows that were given the label and have it; `nan` if none was given it.
        recall: share of the rows with the label that were given it; `nan` if no row has it.
        f1: harmonic mean of the two; `nan` if no row has it and none was given it.
        average_precision: the mean precision over the recalls, whatever the threshold; `nan` if no row has the label.
        threshold: the probability from which on a text is given the label.
        support: the number of rows that have the label.
        predicted_count: the number of rows that were given the label.
    """

    label: str
    precision: float
    recall: float
    f1: float
    average_precision: float
    threshold: float
    support: int
    predicted_count: int


@dataclasses.dataclass(frozen=True)
class MultilabelMetrics(Report):
    """Predicted sets of labels compared with the true ones.

    Attributes:
        row_count: the number of rows.
        micro_f1: F1 over all pairs of a row and a label; `nan` if no label is true and none predicted.
        macro_f1: mean F1 over the labels that occur in the truth or among the predictions.
        sample_f1: mean F1 over the rows; 1 for a row without labels that was given none.
        mean_average_precision: mean average precision over the labels that some row has.
        subset_accuracy: share of the rows whose labels are all right, and no other was given.
        constant_f1: micro-F1 of giving each row the same labels, the best such choice.
        labels_each: true labels of a row in the mean.
        predicted_each: predicted labels of a row in the mean.
        per_class: one entry for each label.
        notes: labels of the rows that the classifier does not have.
    """

    row_count: int
    micro_f1: float
    macro_f1: float
    sample_f1: float
    mean_average_precision: float
    subset_accuracy: float
    constant_f1: float
    labels_each: float
    predicted_each: float
    per_class: Sequence[LabelMetrics]
    notes: tuple[str, ...] = ()

    def _blocks(self) -> Iterator[Block]:
        shown, title = shown_of(self.per_class)
        yield Table(
            ("label", "precision", "recall", "F1", "average precision", "threshold", "rows"),
            [
                (
                    c.label,
                    format_percent(c.precision),
                    format_percent(c.recall),
                    format_percent(c.f1),
                    format_percent(c.average_precision),
                    format_percent(c.threshold),
                    format_count(c.support),
                )
                for c in shown
            ],
            title,
        )
        yield "\n".join(self.notes)
        if not self.is_better_than_guessing:
            yield (
                "this is not better than guessing: giving each text the same labels has a micro-F1 of "
                f"{format_percent(self.constant_f1)}"
            )
        yield self.summary

    @property
    def summary(self) -> str:
        """The three means of F1, mean average precision and the share of rows that are right in all labels, in one line."""
        return (
            f"micro-F1 {format_percent(self.micro_f1)} (the same labels for all: {format_percent(self.constant_f1)})   "
            f"macro-F1 {format_percent(self.macro_f1)}   sample-F1 {format_percent(self.sample_f1)}   mean average precision "
            f"{format_percent(self.mean_average_precision)}   all labels right {format_percent(self.subset_accuracy)}   "
            f"{plural(self.row_count, 'row')}"
        )

    @property
    def is_better_than_guessing(self) -> bool:
        """Whether the micro-F1 is above that of giving each row the same labels."""
        return self.micro_f1 > self.constant_f1


def multilabel_metrics(
    target: Flags,
    predicted: Flags,
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    *,
    thresholds: Sequence[float] | None = None,
) -> MultilabelMetrics:
    """Measure predicted sets of labels against the true ones.

    Args:
        target: `(N, C)`, whether a row has a label, N at least 1.
        predicted: `(N, C)`, whether a row was given it.
        probabilities: `(N, C)`, or any scores that order the rows of a label, for the average precision.
        class_names: the C names.
        thresholds: from which probability on each label was given; 0.5 by default.

    Returns:
        F1 over all pairs, labels and rows, mean average precision, the share of rows that are right in all labels, and the
        figures of each label.

    Examples:
        >>> import numpy as np
        >>> target = np.array([[1, 0], [1, 1], [0, 0]], dtype=bool)
        >>> scores = np.array([[0.9, 0.2], [0.8, 0.4], [0.1, 0.3]])
        >>> metrics = multilabel_metrics(target, scores > 0.5, scores, ["a", "b"])
        >>> metrics.micro_f1, metrics.subset_accuracy, metrics.mean_average_precision
        (0.8, 0.6666666666666666, 1.0)
    """
    right, taken, support = (target & predicted).sum(0), predicted.sum(0), target.sum(0)
    precision, recall, f1 = f1_of_counts(right, taken, support)
    average = [average_precision(target[:, n], probabilities[:, n]) for n in range(len(class_names))]
    right_of_row, size_of_row = (target & predicted).sum(1), target.sum(1) + predicted.sum(1)
    columns = zip(
        class_names,
        precision.tolist(),
        recall.tolist(),
        f1.tolist(),
        average,
        thresholds or [0.5] * len(class_names),
        support.tolist(),
        taken.tolist(),
        strict=True,
    )
    return MultilabelMetrics(
        row_count=len(target),
        micro_f1=_ratio(2 * int(right.sum()), int(taken.sum() + support.sum())),
        macro_f1=_mean(f1),
        sample_f1=float(np.where(size_of_row > 0, 2 * right_of_row / np.maximum(size_of_row, 1), 1.0).mean()),
        mean_average_precision=_mean(np.array(average)),
        subset_accuracy=float((target == predicted).all(1).mean()),
        constant_f1=_constant_f1(support, len(target)),
        labels_each=float(support.sum() / len(target)),
        predicted_each=float(taken.sum() / len(target)),
        per_class=tuple(LabelMetrics(*column) for column in columns),
    )


def micro_f1(target: Flags, predicted: Flags) -> float:
    """Return F1 over all pairs of a row and a label; 0 where there is neither a true nor a predicted one."""
    total = int(target.sum() + predicted.sum())
    return 2 * int((target & predicted).sum()) / total if total else 0.0


def macro_f1_of_labels(target: Flags, predicted: Flags) -> float:
    """Return the mean F1 over the labels that occur in the truth or among the predictions; 0 where none does."""
    f1 = f1_of_counts((target & predicted).sum(0), predicted.sum(0), target.sum(0))[2]
    return 0.0 if np.isnan(f1).all() else float(np.nanmean(f1))


def average_precision(target: Flags, scores: NDArray[np.floating]) -> float:
    """Return the mean precision over the recalls of a ranking by scores; equal scores are taken together.

    Args:
        target: `(N,)`, which rows count.
        scores: `(N,)`, finite.

    Source: Manning, Raghavan & Schuetze 2008, "Introduction to Information Retrieval", section 8.4.
    """
    if not target.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(target[order]), scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    gained = np.diff(hits[ends], prepend=0)
    return float((gained * hits[ends] / (ends + 1)).sum() / hits[-1])


def _constant_f1(support: NDArray[np.int64], rows: int) -> float:
    """Return the best micro-F1 of giving the k most frequent labels to each row."""
    kept = np.cumsum(np.sort(support)[::-1])
    return float((2 * kept / (rows * np.arange(1, len(support) + 1) + support.sum())).max())


def _mean(values: NDArray[np.float64]) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
