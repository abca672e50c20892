"""After training, on the validation part: lift rare classes by their priors, and make probabilities mean what they say."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from linkboy._report import Block, Report, format_percent
from linkboy.classify.judging._scored import Scored
from linkboy.classify.judging.metrics import macro_f1
from linkboy.classify.linear._mixing import label_biases, mix
from linkboy.classify.models._models import TextModel

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.int64], NDArray[np.int64]], float]

SCORES: Mapping[str, tuple[str, Score]] = {
    "accuracy": ("accuracy", lambda target, predicted: float((target == predicted).mean())),
    "macro-f1": ("macro-F1", macro_f1),
}
TAUS = tuple(0.125 * step for step in range(-8, 17))
RESAMPLES = 100


@dataclasses.dataclass(frozen=True)
class LogitAdjustment(Report):
    """How far the logits are moved by the priors of the classes: `logits - tau * log(prior)`.

    Attributes:
        metric: the metric by which `tau` was chosen.
        tau: how far; 0 leaves the logits unchanged.
        before: the metric without an adjustment, on the rows by which it was chosen: those of the validation part, or all that
            judged an n-gram model.
        after: the metric with the best adjustment, which is used only if its gain is above the standard error.
        standard_error: standard error of the gain, by resampling the rows.
    """

    metric: str
    tau: float
    before: float
    after: float
    standard_error: float

    def _blocks(self) -> Iterator[Block]:
        name, _ = SCORES[self.metric]
        gain = (
            f"{name} of the judged rows {format_percent(self.before)} -> {format_percent(self.after)}, "
            f"standard error of the gain {format_percent(self.standard_error)}"
        )
        if self.tau:
            yield f"class priors: {self.tau:g} * log(prior) is subtracted from each logit, chosen by {gain}"
        elif self.standard_error:
            yield f"class priors: no adjustment, since the gain of the best one is within its standard error ({gain})"
        else:
            yield f"class priors: no adjustment; none is better ({name} of the judged rows {format_percent(self.before)})"


@dataclasses.dataclass(frozen=True)
class Calibration(Report):
    """What was done to the logits after training; it is part of the saved weights.

    Attributes:
        temperature: the number that the logits were divided by; `None` for the n-gram model, whose mix sets the scale.
        adjustment: how the logits were moved by the priors of the classes; `None` without a long tail.
        shift: `(C,)`, added to the logits before they were divided.
        calibration_error_before: expected calibration error of each part before calibration.
        calibration_error_after: expected calibration error of each part after it.
    """

    temperature: float | None
    adjustment: LogitAdjustment | None
    shift: tuple[float, ...] = dataclasses.field(repr=False)
    calibration_error_before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration_error_after: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def _blocks(self) -> Iterator[Block]:
        if self.adjustment is not None:
            yield from self.adjustment._blocks()
        if self.temperature is None:
            errors = ", ".join(
                f"{part} {format_percent(after)}" for part, after in self.calibration_error_after.items()
            )
            yield f"probabilities: expected calibration error {errors}" if errors else ""
            return
        errors = ", ".join(
            f"{part} {format_percent(self.calibration_error_before[part])} -> {format_percent(after)}"
            for part, after in self.calibration_error_after.items()
        )
        yield f"probabilities: temperature {self.temperature:.3g} from the validation part" + (
            f"; expected calibration error {errors}" if errors else ""
        )

    @property
    def _divisor(self) -> float:
        return 1.0 if self.temperature is None else self.temperature

    def build_into(self, model: TextModel) -> None:
        """Change the weights of a model so that it gives calibrated logits."""
        model.adjust_(torch.tensor(self.shift), self._divisor)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits `(N, C)` for those of the model as it left training."""
        return (logits + torch.tensor(self.shift).to(logits)) / self._divisor

    def undo(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of the model as it left training for calibrated ones."""
        return logits * self._divisor - torch.tensor(self.shift).to(logits)

    def measured(self, before: Mapping[str, Scored], after: Mapping[str, Scored]) -> "Calibration":
        """Return the same with the errors of the parts before and after it."""
        errors = [
            {part: scored.reliability().calibration_error for part, scored in parts.items()}
            for parts in (before, after)
        ]
        return dataclasses.replace(self, calibration_error_before=errors[0], calibration_error_after=errors[1])


def calibrate(
    logits: torch.Tensor,
    target: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    metric: str,
    adjust: bool,
    weights: NDArray[np.float32] | None = None,
) -> Calibration:
    """Choose adjustment and temperature on the validation part.

    Args:
        logits: `(N, C)`, what the model gives for the validation part.
        target: `(N,)` class indices.
        counts: `(C,)` training rows of each class.
        metric: `"accuracy"` or `"macro-f1"`, by which the adjustment is chosen.
        adjust: whether the logits may be adjusted by the priors at all.
        weights: `(N,)`, of the validation rows, for the temperature.
    """
    raw = logits.double().numpy()
    scale = best_temperature(raw, target, weights)
    prior = np.log(np.maximum(counts, 1) / max(counts.sum(), 1))
    adjustment, shift = None, np.zeros(len(counts))
    if adjust:
        # Smoothed and margin losses give logits on scales of their own; tau is 1 in theory on that of log-probabilities.
        adjustment = choose_adjustment(raw / scale, target, prior, metric=metric)
        shift = -scale * adjustment.tau * (prior - prior.mean())
    return Calibration(best_temperature(raw + shift, target, weights), adjustment, tuple(shift.tolist()))


def calibrate_labels(logits: torch.Tensor, target: NDArray[np.bool_], weights: torch.Tensor) -> Calibration:
    """Choose a temperature, and what to add to the logits of each label, on the validation part.

    Args:
        logits: `(N, C)`, what the model gives for the validation part.
        target: `(N, C)`, whether a row has a label.
        weights: `(N,)`, of the validation rows.
    """
    table, weights = torch.from_numpy(target), weights.double()
    scale = max(float(mix([logits], table, weights)), 1e-6)
    biases = label_biases(logits * scale, table, weights)
    return Calibration(1 / scale, None, tuple((biases / scale).tolist()))


def towards_rare_classes(logits: torch.Tensor, target: NDArray[np.int64], counts: NDArray[np.int64]) -> Calibration:
    """Return how far to move calibrated logits for the best macro-F1, without another temperature.

    Args:
        logits: `(N, C)` of rows that the model has not learned from.
        target: `(N,)` class indices.
        counts: `(C,)` training rows of each class.
    """
    prior = np.log(np.maximum(counts, 1) / max(counts.sum(), 1))
    adjustment = choose_adjustment(logits.double().numpy(), target, prior, metric="macro-f1")
    return Calibration(None, adjustment, tuple((-adjustment.tau * (prior - prior.mean())).tolist()))


def choose_adjustment(logits: Floats, target: NDArray[np.int64], log_prior: Floats, *, metric: str) -> LogitAdjustment:
    """Choose `tau` by a metric of rows that the model has not learned from, and 0 unless the gain is above its standard error.

    Below 0 it lifts the frequent classes, which takes back what an adjusted loss or class weights did too much of.

    Source: Menon et al. 2021, section 4.1, https://arxiv.org/abs/2007.07314.
    """
    _, score = SCORES[metric]
    predicted = {tau: (logits - tau * log_prior).argmax(1) for tau in TAUS}
    scores = {tau: score(target, rows) for tau, rows in predicted.items()}
    best = max(TAUS, key=lambda tau: scores[tau])
    gain = scores[best] - scores[0.0]
    standard_error = gain_standard_error(target, predicted[0.0], predicted[best], score) if gain > 0 else 0.0
    return LogitAdjustment(metric, best if gain > standard_error else 0.0, scores[0.0], scores[best], standard_error)


def gain_standard_error(
    target: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64], score: Score
) -> float:
    """Return the standard error of `score(target, after) - score(target, before)`, by a bootstrap over the rows."""
    generator = np.random.default_rng(0)
    gains = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(target), len(target))
        gains.append(score(target[rows], after[rows]) - score(target[rows], before[rows]))
    return float(np.std(gains))


def best_temperature(logits: Floats, target: NDArray[np.int64], weights: NDArray[np.float32] | None = None) -> float:
    """Return what to divide the logits by so that the likelihood of the rows is largest.

    A weak prior around 1, worth one row, keeps a validation part without mistakes from asking for certainty.

    Source: Guo et al. 2017, section 4.2, https://arxiv.org/abs/1706.04599.
    """
    centred = logits - logits.max(1, keepdims=True)
    own = centred[np.arange(len(target)), target]
    row_weights = np.ones(len(target)) if weights is None else weights.astype(np.float64)

    def slope(log_scale: float) -> float:
        """Derivative of the penalised log-likelihood by the logarithm of the scale, the reciprocal of the temperature."""
        scale = np.exp(log_scale)
        exponentials = np.exp(centred * scale)
        expected = (centred * exponentials).sum(1) / exponentials.sum(1)
        return float(scale * (row_weights * (own - expected)).sum() - log_scale)

    low, high = -7.0, 7.0
    for _ in range(40):  # the slope falls through zero once
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))
