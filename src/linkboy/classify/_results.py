"""What a finished run leaves behind: how good the classifier is, and the files that say so."""

import dataclasses
import io
from collections.abc import Mapping

from torch import Tensor

from linkboy._report import json_text
from linkboy.classify._charts import as_file, confusion_chart, learning_curves
from linkboy.classify._parts import Parts
from linkboy.classify.calibration import Calibration
from linkboy.classify.classifier import CONFIG, WEIGHTS, Classifier
from linkboy.classify.metrics import ClassificationMetrics
from linkboy.classify.search import SearchReport
from linkboy.classify.suspects import SuspectedLabels
from linkboy.training import History
from linkboy.training.report import rows_as_csv

CONFUSION_TITLE = "True class by row, predicted class by column"
CONTENTS = {
    "report.html": "all of this as one page, with the most confident mistakes and what led to them",
    CONFIG: "classes, encoder, settings",
    WEIGHTS: "weights",
    "metrics.json": "metrics of the train, valid and test part",
    "history.csv": "one row per epoch",
    "predictions.csv": "each test text with its prediction",
    "suspects.csv": "held-out rows whose label may be wrong",
    "curves.svg": "loss and metric over the epochs",
    "confusion.svg": "which classes are confused",
}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How good a classifier is: logits and metrics of each part, and what the held-out parts tell beyond that."""

    logits: Mapping[str, Tensor]
    metrics: Mapping[str, ClassificationMetrics]
    without_overlap: ClassificationMetrics | None
    calibration: Calibration
    suspects: SuspectedLabels
    before_refit: ClassificationMetrics | None = None
    search: SearchReport | None = None


def result_files(
    classifier: Classifier, parts: Parts, judged: Judgement, history: History, metric: str, page: bytes
) -> dict[str, bytes]:
    """Return the files of a finished run by name; `metric` is the key of the one that chose the epoch."""
    test = judged.metrics["test"]
    figures = {
        **judged.metrics,
        "test_without_overlap": judged.without_overlap,
        "test_before_refit": judged.before_refit,
        "calibration": judged.calibration,
        "suspected_labels": judged.suspects.suspect_count,
        "budget": judged.search,
    }
    return {
        **classifier.files(),
        "report.html": page,
        "metrics.json": json_text(figures, indent=1).encode(),
        "history.csv": rows_as_csv(history.rows).encode(),
        "predictions.csv": _predictions_csv(parts, judged.logits["test"]),
        "suspects.csv": judged.suspects.as_csv(),
        "curves.svg": as_file(learning_curves(history.rows, metric, history.best_epoch)),
        "confusion.svg": as_file([(CONFUSION_TITLE, confusion_chart(test.confusion, parts.class_names), ())]),
    }


def _predictions_csv(parts: Parts, logits: Tensor) -> bytes:
    import polars as pl

    best = logits.float().softmax(1).max(1)
    frame = pl.DataFrame(
        {
            "text": parts.texts["test"].texts,
            "label": [parts.class_names[target] for target in parts.targets["test"]],
            "predicted": [parts.class_names[target] for target in best.indices.tolist()],
            "probability": best.values.numpy(),
        }
    )
    buffer = io.BytesIO()
    frame.write_csv(buffer, float_precision=6)
    return buffer.getvalue()
