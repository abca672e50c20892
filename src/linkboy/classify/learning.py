"""The training itself: fresh models, the loss, the loop, and predictions, for one set of options and one recipe."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy.classify.classifier import make_model
from linkboy.classify.dataset import EncodedTexts, Encoder
from linkboy.classify.features import log_odds
from linkboy.classify.metrics import macro_f1
from linkboy.classify.models import NgramClassifier, TextModel
from linkboy.classify.recipe import Recipe, TrainingOptions
from linkboy.embeddings import PretrainedEmbedding
from linkboy.losses import class_weights, focal_loss, logit_adjusted_loss
from linkboy.training import Checkpointer, EarlyStopping, History, fit, predict, process_count

METRIC_KEYS = {"accuracy": "accuracy", "macro-f1": "macro_f1"}
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Learner:
    """Trains models for one encoder and one number of classes.

    Args:
        options: what was asked for.
        recipe: the settings that follow.
        encoder: what the texts were encoded by.
        classes: how many there are.
    """

    def __init__(self, options: TrainingOptions, recipe: Recipe, encoder: Encoder, classes: int) -> None:
        self.options, self.recipe, self.encoder, self.classes = options, recipe, encoder, classes
        self.device = None if options.device == "auto" else options.device

    def new_model(self, rows: EncodedTexts, *, embedding: PretrainedEmbedding | None = None) -> TextModel:
        """Return a model with initial weights, which the seed decides, for training on `rows`."""
        torch.manual_seed(self.options.seed)
        model = make_model(self.options.model, self.encoder, self.classes, embedding=embedding)
        if self.recipe.scaled and isinstance(model, NgramClassifier):
            model.scale = torch.from_numpy(log_odds(rows.pieces(), self.classes, max(len(self.encoder), 1)))
        return model

    def fit(self, model: TextModel, rows: EncodedTexts, valid: EncodedTexts | None, checkpoints: Path) -> History:
        """Train on `rows`; with `valid`, measure after each epoch."""
        options, recipe, processes = self.options, self.recipe, process_count()
        per_process = max(1, recipe.batch_size // processes)
        batches = math.ceil(math.ceil(len(rows) / processes) / per_process)
        steps = recipe.epochs * math.ceil(batches / options.accumulate)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.lr,
            betas=(0.9, recipe.beta2),
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=options.device != "mps",
        )
        metrics = {
            "accuracy": lambda logits, target: (logits.argmax(1) == target).double().mean(),
            "macro_f1": lambda logits, target: macro_f1(target.numpy(), logits.argmax(1).numpy()),
        }
        best = EarlyStopping(METRIC_KEYS[recipe.metric], mode="max", patience=options.early_stopping)
        return fit(
            model,
            self._loss_function(rows),
            optimizer,
            self._weighted(rows).loader(per_process, shuffle=True),
            val_loader=None if valid is None else valid.loader(1024),
            metrics=None if valid is None else metrics,
            epochs=recipe.epochs,
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate_at(step, steps)),
            accumulate=options.accumulate,
            precision=options.precision,
            ema=options.ema,
            compile=options.compile,
            early_stopping=best if recipe.keep == "best" else None,
            checkpoint=Checkpointer(
                checkpoints,
                every_steps=options.checkpoint_every,
                every_minutes=None if options.checkpoint_every else 1,
                keep=1,
            ),
            log=(),  # history.csv is written with the results
            seed=options.seed,
            device=self.device,
        )

    def predict(self, model: TextModel, rows: EncodedTexts) -> Tensor:
        """Return the logits `(rows, C)`."""
        return predict(model, rows.loader(1024), precision=self.options.precision, device=self.device)

    def _weighted(self, rows: EncodedTexts) -> EncodedTexts:
        """Return the rows with their own weights times those of their classes."""
        if self.options.class_weight == "none":
            return rows
        per_class = class_weights(rows.targets, self.options.class_weight, num_classes=self.classes)
        weights = rows.weights * per_class[rows.targets].float()
        return EncodedTexts(rows.encoder, rows.features, rows.targets.numpy(), weights.numpy())

    def _loss_function(self, rows: EncodedTexts) -> LossFunction:
        if self.recipe.loss == "focal":
            gamma = 2.0 if self.options.gamma is None else self.options.gamma
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


def squared_hinge(logits: Tensor, target: Tensor) -> Tensor:
    """Return `(B,)`: over the classes, the sum of the squared shortfall from a margin of 1, each against all others."""
    side = F.one_hot(target, logits.shape[1]) * 2 - 1
    return (1 - side * logits).clamp_min(0).square().sum(1)
