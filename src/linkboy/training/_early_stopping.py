"""When to stop because nothing improves, and the weights of the best epoch."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

from linkboy._checks import check_choice, check_flag, check_number, did_you_mean
from linkboy.training._placement import snapshot


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stop when a validation figure no longer improves, and restore the weights of the best epoch.

    Args:
        metric: `"val_loss"`, `"train_loss"` or the name of one of `fit`'s metrics.
        mode: `"min"` or `"max"`, whichever is better.
        patience: epochs without improvement after which to stop; `None` never stops early and only restores the best.
        min_delta: a gain must be larger than this to count as an improvement.
        restore_best: whether to leave the model with the weights of the best epoch (of equally good epochs the one with
            the lowest `val_loss`, then the first).

    Raises:
        TypeError: `patience` or `min_delta` is not a number, or `restore_best` not a `bool`.
        ValueError: `mode` is unknown or a number is out of range.

    Examples:
        >>> from linkboy.training import EarlyStopping
        >>> EarlyStopping("accuracy", mode="max", patience=3)
        EarlyStopping(metric='accuracy', mode='max', patience=3, min_delta=0.0, restore_best=True)
    """

    metric: Literal["val_loss", "train_loss"] | str = "val_loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("min", "max"))
        if self.patience is not None:
            check_number("patience", self.patience, minimum=1, integer=True)
        check_number("min_delta", self.min_delta, minimum=0)
        check_flag("restore_best", self.restore_best)


class BestEpoch:
    """The state behind `EarlyStopping`: best value so far, its epoch and weights, epochs without improvement."""

    def __init__(self, rule: EarlyStopping, model: nn.Module) -> None:
        self.rule, self.model = rule, model
        self.value: float | None = None
        self.loss = math.inf
        self.epoch: int | None = None
        self.waited = 0
        self.weights: dict[str, Any] = {}

    @property
    def exhausted(self) -> bool:
        """Whether `patience` epochs have passed without improvement."""
        return self.rule.patience is not None and self.waited >= self.rule.patience

    def see(self, row: Mapping[str, Any]) -> None:
        """Record the row of an epoch, while the model holds the weights that it was measured with."""
        value, loss = float(row[self.rule.metric]), float(row.get("val_loss", math.inf))
        better = self._is_better(value)
        self.waited = 0 if better else self.waited + 1
        # A small validation part soon gives the same accuracy epoch after epoch, while the loss still falls.
        if better or (value == self.value and loss < self.loss):
            self.value, self.loss, self.epoch = value, loss, row["epoch"]
            if self.rule.restore_best:
                self.weights = snapshot(self.model)

    def restore(self) -> None:
        """Leave the weights of the best epoch in the model."""
        if self.weights:
            self.model.load_state_dict(self.weights)

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.value is None:
            return True
        gain = value - self.value if self.rule.mode == "max" else self.value - value
        return gain > self.rule.min_delta


_HIGHER = re.compile(r"acc|f1|auc|precision|recall|iou|dice|bleu|rouge|kappa|mcc|ndcg|(^|_)r2", re.IGNORECASE)
_LOWER = re.compile(r"loss|error|mse|mae|perplexity|ppl|(^|_)[wc]er$", re.IGNORECASE)


def direction_note(figure: str, mode: str, argument: str) -> str | None:
    """Return a note where the name of a figure says that the other direction is better.

    Examples:
        >>> direction_note("accuracy", "min", "early_stopping")
        'early_stopping takes less accuracy for better; pass mode="max" if more is'
        >>> direction_note("accuracy", "max", "early_stopping")
    """
    more, less = bool(_HIGHER.search(figure)), bool(_LOWER.search(figure))
    if more == less or more == (mode == "max"):
        return None
    meant = {"early_stopping": "mode", "keep_best": "best_mode"}[argument]
    one, other = ("less", "more") if more else ("more", "less")
    return f'{argument} takes {one} {figure} for better; pass {meant}="{"max" if more else "min"}" if {other} is'


def check_metric(rule: EarlyStopping, available: Iterable[str]) -> None:
    """Refuse a rule on a figure that no epoch will have."""
    available = list(available)
    if rule.metric not in available:
        raise ValueError(
            f"early_stopping needs one of the epoch's figures {available}, got metric {rule.metric!r}"
            f"{did_you_mean(rule.metric, available)}"
        )
