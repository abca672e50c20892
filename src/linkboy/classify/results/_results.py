"""What a finished run leaves behind: how good the classifier is, and the files that say so."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from linkboy._report import Table, json_text
from linkboy.classify.judging._scored import Scored
from linkboy.classify.judging._several import ScoredLabels, held_names
from linkboy.classify.judging.corrections import LabelCorrections
from linkboy.classify.judging.decisions import DecisionCurve
from linkboy.classify.judging.metrics import ClassificationMetrics
from linkboy.classify.judging.multilabel import MultilabelMetrics
from linkboy.classify.judging.suspects import SuspectedLabels
from linkboy.classify.learning._outcome import Outcome
from linkboy.classify.learning.calibration import Calibration
from linkboy.classify.learning.folds import CrossValidation
from linkboy.classify.linear._linear import LinearReport
from linkboy.classify.reading._json import cell_text
from linkboy.classify.reading._parts import Parts
from linkboy.classify.results._charts import as_file, confusion_chart, learning_curves
from linkboy.classify.saved._classifier_files import CONFIG, WEIGHTS
from linkboy.classify.saved.classifier import Classifier
from linkboy.training.report import rows_as_csv

CONFUSION_TITLE = "True class by row, predicted class by column"
CONTENTS = {
    "report.html": "all of this as one page, with the most confident mistakes and what led to them",
    CONFIG: "classes, encoder, settings",
    WEIGHTS: "weights",
    "encoder": "the fine-tuned encoder, as sentence-transformers saves one",
    "metrics.json": "metrics of the train, valid and test part",
    "history.csv": "one row per epoch",
    "predictions.csv": "each test text with its prediction",
    "suspects.csv": "held-out rows whose label may be wrong",
    "curves.svg": "loss and metric over the epochs",
    "confusion.svg": "which classes are confused",
}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How good a classifier is: metrics of each part, and what the held-out parts tell beyond that.

    Args:
        scored: the test part.
        before: the test part before a temperature was chosen; `None` where none was.
        metrics: of each part.
        without_overlap: of the test rows whose text does not occur in training.
        calibration: with the errors of the held-out parts.
        suspects: rows whose label may be wrong.
        macro_f1_point: of the test part, if macro-F1 were asked for.
        outcome: the model.
        decisions: precision against coverage of the validation part, where a text has one class.
        test_decisions: the same of the test part.
        by_class: what a threshold does for each class, the weakest first.
        cross_validation: of all rows of the training file; `None` without folds.
        corrections: the labels that were replaced before training; `None` where none were to be.
    """

    scored: Scored | ScoredLabels
    before: Scored | None
    metrics: Mapping[str, Any]
    without_overlap: ClassificationMetrics | MultilabelMetrics | None
    calibration: Calibration
    suspects: SuspectedLabels
    macro_f1_point: ClassificationMetrics | None
    outcome: Outcome
    decisions: DecisionCurve | None = None
    test_decisions: DecisionCurve | None = None
    by_class: Table | None = None
    cross_validation: CrossValidation | None = None
    corrections: LabelCorrections | None = None


def result_files(classifier: Classifier, parts: Parts, judged: Judgement, metric: str, page: bytes) -> dict[str, bytes]:
    """Return the files of a finished run by name; `metric` is the key of the one that chose the epoch."""
    test, history = judged.metrics["test"], judged.outcome.history
    figures = {
        **judged.metrics,
        "test_without_overlap": judged.without_overlap,
        "test_for_macro_f1": judged.macro_f1_point,
        "calibration": judged.calibration,
        "suspected_labels": judged.suspects.suspect_count,
        "budget": judged.outcome.search,
        "cross_validation": judged.cross_validation,
        "linear": judged.outcome.settings if isinstance(judged.outcome.settings, LinearReport) else None,
    }
    confusion = getattr(test, "confusion", ())  # empty for very many classes, and where a text may have several labels
    drawn = {}
    if confusion:
        chart = (CONFUSION_TITLE, confusion_chart(confusion, parts.class_names), ())
        drawn["confusion.svg"] = as_file([chart])
    of_epochs = (
        {}
        if history is None
        else {
            "history.csv": rows_as_csv(history.rows).encode(),
            "curves.svg": as_file(learning_curves(history.rows, metric, history.best_epoch)),
        }
    )
    return {
        **classifier.files(),
        "report.html": page,
        "metrics.json": json_text(figures, indent=1).encode(),
        **of_epochs,
        "predictions.csv": _predictions_csv(parts, judged.scored),
        "suspects.csv": judged.suspects.as_csv(),
        **drawn,
    }


def _predictions_csv(parts: Parts, scored: Scored | ScoredLabels) -> bytes:
    import polars as pl

    if isinstance(scored, ScoredLabels):
        return _label_predictions_csv(parts, scored)
    columns = {
        "text": parts.texts["test"].texts,
        "label": [parts.class_names[target] for target in parts.targets["test"]],
        "predicted": [parts.class_names[target] for target in scored.predicted.tolist()],
        "probability": scored.confidence,
    }
    return pl.DataFrame(columns).write_csv(float_precision=6).encode()


def _label_predictions_csv(parts: Parts, scored: ScoredLabels) -> bytes:
    """Write each test text with its labels and those it was given, as lists, which are read again as such."""
    import polars as pl

    target, given = (
        [cell_text(held_names(parts.class_names, row)) for row in table] for table in (scored.target, scored.given)
    )
    columns = {"text": parts.texts["test"].texts, "labels": target, "predicted": given}
    return pl.DataFrame(columns).write_csv().encode()
