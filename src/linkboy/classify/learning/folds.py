"""Cross-validation: every row is judged by a model that has not seen its text."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._report import Block, Report, Table, format_count, format_percent
from linkboy.classify.judging._scored import Scored, in_pieces
from linkboy.classify.judging.metrics import ClassificationMetrics, classification_metrics
from linkboy.classify.judging.suspects import SuspectedLabels, suspected_labels
from linkboy.classify.learning._encoding import encoded_by, encoder_of
from linkboy.classify.learning._inputs import TrainingInputs
from linkboy.classify.learning._learner import logits_by
from linkboy.classify.learning._outcome import solve
from linkboy.classify.linear._linear import folds
from linkboy.classify.reading._parts import Parts, keys_of, parts_of_fold, targets_of
from linkboy.classify.reading.labelled import LabelledTexts
from linkboy.classify.recipe import TrainingOptions

FEWEST_TEXTS = 4  # of two classes, so that a validation part can be cut from the rest of each of two folds


@dataclasses.dataclass(frozen=True)
class CrossValidation(Report):
    """Metrics of all rows of a file, each judged by a model that was trained on the other folds.

    Attributes:
        metrics: metrics of all rows together.
        fold_count: the number of folds.
        row_counts: the rows of each fold.
        accuracies: the accuracy of each fold.
        macro_f1s: the macro-F1 of each fold.

    Source: the standard error is that of the mean of the folds. Their training rows overlap, so it tends to be too small;
        without bias it cannot be estimated (Bengio & Grandvalet 2004, JMLR 5).
    """

    metrics: ClassificationMetrics
    fold_count: int
    row_counts: Sequence[int]
    accuracies: Sequence[float]
    macro_f1s: Sequence[float]

    @property
    def accuracy_standard_error(self) -> float:
        """The standard error of the accuracy over the folds."""
        return _standard_error(self.accuracies)

    @property
    def macro_f1_standard_error(self) -> float:
        """The standard error of macro-F1 over the folds."""
        return _standard_error(self.macro_f1s)

    def _blocks(self) -> Iterator[Block]:
        low, high = self.metrics.interval
        rows = [
            (str(number), format_count(count), format_percent(accuracy), format_percent(f1))
            for number, (count, accuracy, f1) in enumerate(
                zip(self.row_counts, self.accuracies, self.macro_f1s, strict=True), 1
            )
        ]
        yield Table(
            ("fold", "rows", "accuracy", "macro-F1"),
            rows,
            f"Cross-validation: each of {format_count(self.metrics.row_count)} rows judged by a model that has not seen its text",
        )
        yield (
            f"all rows: accuracy {format_percent(self.metrics.accuracy)} ± {100 * self.accuracy_standard_error:.2f} (95% "
            f"interval {100 * low:.1f} to {100 * high:.1f}), macro-F1 {format_percent(self.metrics.macro_f1)} ± "
            f"{100 * self.macro_f1_standard_error:.2f}; ± is the standard error over {self.fold_count} folds"
        )
        yield self.metrics.class_table()  # a rare class has few rows in a tenth of the file, and all of them here


def check_folds(options: TrainingOptions, rows: LabelledTexts, parts: Parts) -> None:
    """Raise if the rows cannot be cut into the folds that were asked for.

    Raises:
        ValueError: texts have several labels, or there are too few of a class.
    """
    if options.folds is None:
        return
    if parts.several:
        raise ValueError("folds is for texts of one class, and these may have several labels; leave folds out")
    targets = targets_of(rows, parts.class_names, "train", numbered=parts.numbered)
    leaders = np.unique(keys_of(rows.texts), return_index=True)[1]
    second, needed = np.sort(np.bincount(targets[leaders], minlength=2))[-2], max(FEWEST_TEXTS, options.folds)
    if second < needed:
        raise ValueError(
            f"folds={options.folds} needs two classes with at least {needed} different texts each, and the second largest has "
            f"{second}; pass fewer folds, or add rows"
        )


def cross_validate(
    options: TrainingOptions, rows: LabelledTexts, parts: Parts, count: int
) -> tuple[CrossValidation, SuspectedLabels]:
    """Judge every row by a model that is trained like the one to keep, on the rows of the other folds.

    Args:
        options: what to train and how.
        rows: all rows of the training file; equal texts come into one fold.
        parts: what the model to keep was trained on; given validation and test rows have no part in the folds.
        count: the number of folds.
    """
    targets = targets_of(rows, parts.class_names, "train", numbered=parts.numbered)
    splits = folds(targets, keys_of(rows.texts), options.seed, count)
    pieces, of_fold = [], []
    for learned, judged in splits:
        fold = parts_of_fold(rows, parts, learned, judged, seed=options.seed)
        pieces.append(_scored(options, fold, np.unique(targets[learned]), targets[judged], len(parts.class_names)))
        of_fold.append(classification_metrics(targets[judged], pieces[-1].predicted, parts.class_names))
    order = np.argsort(np.concatenate([judged for _, judged in splits]), kind="stable")
    scored = Scored.joined(pieces).take(order)
    made = CrossValidation(
        classification_metrics(targets, scored.predicted, parts.class_names),
        len(splits),
        tuple(len(judged) for _, judged in splits),
        tuple(each.accuracy for each in of_fold),
        tuple(each.macro_f1 for each in of_fold),
    )
    if not made.metrics.is_better_than_guessing:
        return made, SuspectedLabels(0, 0, (), by_folds=True)
    everything = dataclasses.replace(parts, texts={"train": rows}, targets={"train": targets})
    return made, dataclasses.replace(suspected_labels(everything, {"train": scored}), by_folds=True)


def _scored(
    options: TrainingOptions, parts: Parts, held: NDArray[np.int64], targets: NDArray[np.int64], classes: int
) -> Scored:
    """Train on the training and validation part of a fold, and score its test part.

    Args:
        options: what to train and how.
        parts: of the fold.
        held: the classes that the fold has, among all of them.
        targets: of the test part, among all classes.
        classes: how many there are; one that the fold does not have is never predicted.
    """
    encoder = encoder_of(options, parts, solved=True)
    data = encoded_by(encoder, parts)
    unused = Path()  # for checkpoints, of a model that is trained in epochs
    outcome = solve(TrainingInputs(options, parts, encoder, data, unused, None, lambda block: None))

    def logits_of(chosen: NDArray[np.int64]) -> Tensor:
        logits = torch.full((len(chosen), classes), -torch.inf)
        logits[:, torch.from_numpy(held)] = logits_by(options, outcome.model, data["test"].take(chosen)).float()
        return logits

    scored = Scored.unfilled(len(targets))
    for where, z in in_pieces(len(targets), classes, logits_of):
        scored.fill(where, z, targets[where])
    return scored


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
