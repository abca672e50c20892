"""From encoded parts to a model that is trained in epochs, calibrated, and judged on the validation part."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from linkboy.classify.encoding._dataset import EncodedTexts
from linkboy.classify.judging.multilabel import micro_f1
from linkboy.classify.learning._learner import Learner
from linkboy.classify.learning.calibration import SCORES, Calibration, calibrate, calibrate_labels
from linkboy.classify.models._models import TextModel
from linkboy.classify.reading._parts import Parts
from linkboy.classify.recipe import DataTraits, Recipe
from linkboy.training import History

SIGNALS = ("SIGINT", "SIGTERM")


class TrainingStoppedError(Exception):
    """A signal has stopped the training; what was learned is saved."""

    def __init__(self, history: History) -> None:
        super().__init__(history.stopped)
        self.history = history


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that was trained by a recipe, calibrated, and judged on the validation part.

    Attributes:
        recipe: the settings used.
        model: gives calibrated logits.
        history: the record of the training loop.
        calibration: the calibration that was built into the model.
        logits: `(rows, C)`, calibrated logits of the validation part.
        score: the metric of the recipe on the validation part.
        seconds: how long the training took.
    """

    recipe: Recipe
    model: TextModel
    history: History
    calibration: Calibration
    logits: Tensor
    score: float
    seconds: float


def train_candidate(
    learner: Learner, data: Mapping[str, EncodedTexts], parts: Parts, checkpoints: Path, *, latest: float | None = None
) -> Candidate:
    """Train one model on the training part and judge it on the validation part.

    Args:
        learner: holds the recipe.
        data: the encoded parts.
        parts: the same before encoding.
        checkpoints: a directory.
        latest: when training must end, on the clock of `time.perf_counter`.

    Raises:
        TrainingStoppedError: a signal came.
    """
    started = time.perf_counter()
    model = learner.new_model()
    history = learner.fit(model, data["train"], data["valid"], checkpoints, latest=latest)
    if history.stopped in SIGNALS:
        raise TrainingStoppedError(history)
    seconds, target = time.perf_counter() - started, parts.targets["valid"]
    if parts.several:
        calibration = calibrate_labels(learner.predict(model, data["valid"]), target, data["valid"].weights)
        calibration.build_into(model)
        logits = learner.predict(model, data["valid"])
        return Candidate(
            learner.recipe, model, history, calibration, logits, micro_f1(target, (logits > 0).numpy()), seconds
        )
    calibration = calibrate(
        learner.predict(model, data["valid"]),
        target,
        parts.class_counts,
        metric=learner.recipe.metric,
        adjust=learner.recipe.metric == "macro-f1",
        weights=data["valid"].weights.numpy(),
    )
    calibration.build_into(model)
    logits = learner.predict(model, data["valid"])
    _, score = SCORES[learner.recipe.metric]
    return Candidate(
        learner.recipe, model, history, calibration, logits, score(target, logits.argmax(1).numpy()), seconds
    )


def traits_of(parts: Parts) -> DataTraits:
    """Return what the settings follow from."""
    counts = parts.class_counts
    rows = len(parts.targets["train"])
    return DataTraits(rows, len(counts), int(counts.max()), int(counts.min()), parts.several)
