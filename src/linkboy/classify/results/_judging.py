"""How good a model is on every part, and what the held-out parts tell beyond that."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy.classify.judging._scored import Scored, evenly, in_pieces
from linkboy.classify.judging._several import ScoredLabels, doubtful_labels
from linkboy.classify.judging.decisions import DecisionCurve, thresholds_by_class, thresholds_by_label
from linkboy.classify.judging.metrics import MOST_IN_TABLE, classification_metrics
from linkboy.classify.judging.suspects import SuspectedLabels, suspected_labels
from linkboy.classify.learning._candidate import traits_of
from linkboy.classify.learning._inputs import TrainingInputs
from linkboy.classify.learning._learner import logits_by
from linkboy.classify.learning._outcome import Outcome
from linkboy.classify.learning.calibration import towards_rare_classes
from linkboy.classify.reading._parts import PARTS
from linkboy.classify.results._results import Judgement

MOST_PAIRS = 2**25  # of a row and a label, of the training part
MOST_MEASURED = 100_000  # training rows, evenly drawn, that the figures of the training part are from


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The rows of each part that are measured, and their logits.

    Args:
        inputs: what the model was made from.
        outcome: the model.
        rows: of each part.
    """

    inputs: TrainingInputs
    outcome: Outcome
    rows: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, inputs: TrainingInputs, outcome: Outcome, most: int) -> "_Measured":
        """Take all held-out rows that the model has not learned from, and at most so many training rows."""
        rows = {part: np.arange(len(inputs.parts.targets[part])) for part in PARTS}
        rows["train"] = evenly(rows["train"], most)
        if outcome.valid_rows is not None:
            rows["valid"] = outcome.valid_rows
        return cls(inputs, outcome, rows)

    def targets(self, part: str) -> NDArray:
        """Return the targets of the rows of a part."""
        return self.inputs.parts.targets[part][self.rows[part]]

    def logits(self, part: str) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits of the rows of a part in pieces that fit the memory, with where they belong."""

        def logits_of(chosen: NDArray[np.int64]) -> Tensor:
            chosen = self.rows[part][chosen]
            if part == "valid":
                return self.outcome.valid(chosen)
            return logits_by(self.inputs.options, self.outcome.model, self.inputs.data[part].take(chosen))

        return in_pieces(len(self.rows[part]), len(self.inputs.parts.class_names), logits_of)


def judge(inputs: TrainingInputs, outcome: Outcome) -> Judgement:
    """Measure a model on every part."""
    return (_judge_labels if inputs.parts.several else _judge_classes)(inputs, outcome)


def _judge_classes(inputs: TrainingInputs, outcome: Outcome) -> Judgement:
    """Measure a model that chooses one class."""
    most = MOST_MEASURED if outcome.valid_rows is None else len(outcome.valid_rows)
    measured, parts, calibration = _Measured.of(inputs, outcome, most), inputs.parts, outcome.calibration
    targets, shift = {part: measured.targets(part) for part in PARTS}, _shift_for_macro_f1(measured)
    scored = {part: Scored.unfilled(len(targets[part])) for part in PARTS}
    undone = () if calibration.temperature is None else ("valid", "test")
    before = {part: Scored.unfilled(len(targets[part])) for part in undone}
    moved = None if shift is None else np.empty(len(targets["test"]), np.int64)
    for part in PARTS:
        for where, z in measured.logits(part):
            target = targets[part][where]
            scored[part].fill(where, z, target)
            if part in before:
                before[part].fill(where, calibration.undo(z.double()), target)
            if moved is not None and shift is not None and part == "test":
                moved[where] = (z.double() + shift).argmax(1).numpy()
    names, held_out, valid = parts.class_names, {part: scored[part] for part in ("valid", "test")}, scored["valid"]
    predicted, clean = {part: rows.predicted for part, rows in scored.items()}, ~parts.overlap["test"]
    metrics = {part: classification_metrics(targets[part], predicted[part], names) for part in PARTS}
    useful = metrics["test"].is_better_than_guessing
    return Judgement(
        scored=scored["test"],
        before=before.get("test"),
        metrics=metrics,
        without_overlap=classification_metrics(targets["test"][clean], predicted["test"][clean], names)
        if 0 < clean.sum() < len(clean)
        else None,
        calibration=calibration.measured(before, held_out),
        suspects=suspected_labels(parts, held_out, measured.rows) if useful else SuspectedLabels(0, 0, ()),
        macro_f1_point=None if moved is None else classification_metrics(targets["test"], moved, names),
        outcome=outcome,
        decisions=DecisionCurve.of(valid.confidence, valid.right),
        test_decisions=DecisionCurve.of(scored["test"].confidence, scored["test"].right),
        by_class=thresholds_by_class(valid.predicted, valid.confidence, valid.right, metrics["test"].per_class),
    )


def _shift_for_macro_f1(measured: _Measured) -> Tensor | None:
    """Return what macro-F1 would add to the logits, by the rows that would choose it; `None` where nobody would ask for it."""
    parts, outcome = measured.inputs.parts, measured.outcome
    if (
        measured.inputs.options.metric != "auto"
        or not traits_of(parts).tailed
        or len(parts.class_names) > MOST_IN_TABLE
    ):
        return None
    logits, targets = outcome.judged or (outcome.valid(measured.rows["valid"]), measured.targets("valid"))
    return torch.tensor(towards_rare_classes(logits, targets, parts.class_counts).shift)


def _judge_labels(inputs: TrainingInputs, outcome: Outcome) -> Judgement:
    """Measure a model that gives any number of labels."""
    parts, thresholds = inputs.parts, outcome.thresholds or ()
    names = parts.class_names
    measured = _Measured.of(inputs, outcome, min(MOST_MEASURED, MOST_PAIRS // len(names)))
    scored: dict[str, ScoredLabels] = {}
    for part in PARTS:
        shares = np.empty((len(measured.rows[part]), len(names)), np.float32)
        for where, z in measured.logits(part):
            shares[where] = z.sigmoid().numpy()
        scored[part] = ScoredLabels(measured.targets(part), shares, shares >= np.array(thresholds))
    test, clean = scored["test"], ~parts.overlap["test"]
    without = ScoredLabels(test.target[clean], test.shares[clean], test.given[clean])
    metrics = {part: each.metrics(names, thresholds) for part, each in scored.items()}
    held_out = {part: scored[part] for part in ("valid", "test")}
    useful = metrics["test"].is_better_than_guessing
    return Judgement(
        scored=test,
        before=None,
        metrics=metrics,
        without_overlap=without.metrics(names, thresholds) if 0 < clean.sum() < len(clean) else None,
        calibration=dataclasses.replace(
            outcome.calibration,
            temperature=None,
            calibration_error_after={part: each.reliability().calibration_error for part, each in held_out.items()},
        ),
        suspects=doubtful_labels(parts, held_out, measured.rows) if useful else SuspectedLabels(0, 0, ()),
        macro_f1_point=None,
        outcome=outcome,
        by_class=thresholds_by_label(metrics["test"]),
    )
