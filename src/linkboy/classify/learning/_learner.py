"""The training itself: fresh models, the loss, the loop, and predictions, for one set of options and one recipe."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkboy.classify.encoding._dataset import EncodedTexts, Encoder
from linkboy.classify.encoding._features import log_odds
from linkboy.classify.judging.metrics import macro_f1
from linkboy.classify.judging.multilabel import macro_f1_of_labels, micro_f1
from linkboy.classify.models._kinds import make_model
from linkboy.classify.models._models import NgramClassifier, TextModel
from linkboy.classify.recipe import Recipe, TrainingOptions
from linkboy.embeddings import PretrainedEmbedding
from linkboy.losses import binary_focal_loss, class_weights, focal_loss, logit_adjusted_loss
from linkboy.training import Checkpointer, EarlyStopping, History, TrainingState, fit, predict, process_count
from linkboy.training._placement import default_device

METRIC_KEYS = {"accuracy": "accuracy", "macro-f1": "macro_f1", "micro-f1": "micro_f1"}
LossFunction = Callable[[Tensor, Tensor], Tensor]
CLASS_METRICS: Mapping[str, Callable[[Tensor, Tensor], Any]] = {
    "accuracy": lambda logits, target: (logits.argmax(1) == target).double().mean(),
    "macro_f1": lambda logits, target: macro_f1(target.numpy(), logits.argmax(1).numpy()),
}
LABEL_METRICS: Mapping[str, Callable[[Tensor, Tensor], Any]] = {
    "micro_f1": lambda logits, target: micro_f1(target.numpy(), (logits > 0).numpy()),
    "macro_f1": lambda logits, target: macro_f1_of_labels(target.numpy(), (logits > 0).numpy()),
}


@dataclasses.dataclass(frozen=True)
class Learner:
    """Trains models for one encoder and one number of classes.

    Args:
        options: what was asked for.
        recipe: the settings that follow.
        encoder: what the texts were encoded by.
        classes: how many there are.
        embedding: pretrained vectors to begin with, for a `cnn`; each model gets its own copy.
    """

    options: TrainingOptions
    recipe: Recipe
    encoder: Encoder
    classes: int
    embedding: PretrainedEmbedding | None = None

    def new_model(self) -> TextModel:
        """Return a model with initial weights, which the seed decides."""
        torch.manual_seed(self.options.seed)
        return make_model(self.options.model, self.encoder, self.classes, embedding=copy.deepcopy(self.embedding))

    def fit(
        self,
        model: TextModel,
        rows: EncodedTexts,
        valid: EncodedTexts | None,
        checkpoints: Path,
        *,
        latest: float | None = None,
    ) -> History:
        """Train on `rows`; with `valid`, measure after each epoch.

        With `latest`, a time of `time.perf_counter`, training ends by then: the rate falls with the time that is left where
        that runs out before the steps do.
        """
        options, recipe = self.options, self.recipe
        if recipe.scaled and isinstance(model, NgramClassifier):
            model.scale = torch.from_numpy(log_odds(rows.pieces(), self.classes, max(len(self.encoder), 1)))
        per_process = max(1, recipe.batch_size // process_count())
        optimizer = torch.optim.AdamW(
            self.parameters_of(model),
            lr=recipe.lr,
            betas=(0.9, recipe.beta2),
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=options.device != "mps",
        )
        schedule = Schedule(recipe, self._steps(len(rows), per_process), latest)
        metrics = LABEL_METRICS if rows.targets.ndim == 2 else CLASS_METRICS
        best = EarlyStopping(METRIC_KEYS[recipe.metric], mode="max", patience=options.early_stopping)
        return fit(
            model,
            self._loss_function(rows),
            optimizer,
            self.weighted(rows).loader(per_process, shuffle=True),
            val_loader=None if valid is None else valid.loader(1024),
            metrics=None if valid is None else metrics,
            epochs=recipe.epochs,
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate),
            accumulate=options.accumulate,
            precision=options.precision,
            ema=options.ema,
            compile=options.compile,
            early_stopping=best if recipe.keep == "best" else None,
            callbacks=() if latest is None else (schedule.stop_in_time,),
            checkpoint=Checkpointer(
                checkpoints,
                every_steps=options.checkpoint_every,
                every_minutes=None if options.checkpoint_every else 1,
                keep=1,
            ),
            log=(),  # history.csv is written with the results
            seed=options.seed,
            device=_device(self.options),
            progress=latest is None,  # under a budget there are many trainings, each reported in one line
        )

    def parameters_of(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the groups of parameters that the optimizer takes."""
        return [{"params": list(model.parameters())}]

    def _steps(self, rows: int, per_process: int) -> int:
        batches = math.ceil(math.ceil(rows / process_count()) / per_process)
        return self.recipe.epochs * math.ceil(batches / self.options.accumulate)

    def predict(self, model: TextModel, rows: EncodedTexts) -> Tensor:
        """Return the logits `(rows, C)`."""
        return logits_by(self.options, model, rows)

    def weighted(self, rows: EncodedTexts) -> EncodedTexts:
        """Return the rows with their own weights times those of their classes."""
        if self.options.class_weight == "none":
            return rows
        per_class = class_weights(rows.targets, self.options.class_weight, num_classes=self.classes)
        weights = rows.weights * per_class[rows.targets].float()
        return EncodedTexts(rows.encoder, rows.features, rows.targets.numpy(), weights.numpy())

    def _loss_function(self, rows: EncodedTexts) -> LossFunction:
        gamma = 2.0 if self.options.gamma is None else self.options.gamma
        if rows.targets.ndim == 2 and self.recipe.loss != "squared-hinge":
            gamma = gamma if self.recipe.loss == "focal" else 0.0  # without it, the binary cross-entropy
            return lambda logits, target: binary_focal_loss(logits, target, gamma=gamma, reduction="none").sum(1)
        if self.recipe.loss == "focal":
            return lambda logits, target: focal_loss(logits, target, gamma=gamma, reduction="none")
        if self.recipe.loss == "squared-hinge":
            return squared_hinge
        if self.recipe.loss == "logit-adjusted":
            counts = torch.from_numpy(np.bincount(rows.targets.numpy(), minlength=self.classes))
            # A class without training rows cannot be predicted; counted as one row it gets a finite prior.
            priors = counts.clamp_min(1).float()
            return lambda logits, target: logit_adjusted_loss(logits, target, priors=priors, reduction="none")
        smoothing = self.recipe.label_smoothing
        return lambda logits, target: F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")


def logits_by(options: TrainingOptions, model: TextModel, rows: EncodedTexts) -> Tensor:
    """Return the logits `(rows, C)` of a model, computed where and how the options say."""
    return predict(model, rows.loader(1024), precision=options.precision, device=_device(options))


def _device(options: TrainingOptions) -> str | None:
    return None if options.device == "auto" else options.device


def place_of(options: TrainingOptions) -> torch.device:
    """Return the device of this process."""
    own = default_device()
    return own if options.device in ("auto", own.type) else torch.device(options.device)


class Schedule:
    """The rate of each step of a recipe, and an end of training in time.

    Args:
        recipe: how the rate goes over the steps.
        steps: how many there are.
        latest: when training must end, on the clock of `time.perf_counter`.
    """

    def __init__(self, recipe: Recipe, steps: int, latest: float | None) -> None:
        self.recipe, self.steps = recipe, steps
        self.begun, self.latest = time.perf_counter(), latest

    def rate(self, step: int) -> float:
        """Return the share of the peak rate for a step, further on where the time runs out before the steps do."""
        if self.latest is not None:
            gone = (time.perf_counter() - self.begun) / max(self.latest - self.begun, 1e-9)
            step = min(max(step, int(gone * self.steps)), self.steps)
        return self.recipe.rate_at(step, self.steps)

    def stop_in_time(self, event: str, state: TrainingState) -> None:
        """End the training once it is time."""
        if event == "step" and self.latest is not None and time.perf_counter() >= self.latest:
            state.stop()


def squared_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return `(B,)`: over the classes, the sum of the squared shortfall from a margin of 1, each against all others."""
    side = (target.long() if target.ndim == 2 else F.one_hot(target, logits.shape[1])) * 2 - 1
    return (1 - side * logits).clamp_min(0).square().sum(1)
