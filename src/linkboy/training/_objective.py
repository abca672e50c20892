"""How a batch becomes losses: by a loss function, or by the model itself, as those of transformers do."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from linkboy._calls import tensors_in
from linkboy._checks import describe
from linkboy._tensors import values_visible
from linkboy.training import _batches
from linkboy.training._label_weights import LabelWeights

_IGNORED = -100  # what labels of transformers have where they do not count


class Objective:
    """The way from a batch to its losses and to what each of them counts.

    Args:
        model: the model, which says whether it shifts its labels by one.
        loss_fn: function of `(output, target)`; `None` where the model returns its loss.
        unpack: function of the batch, as `fit` takes it.
        sample_weight: function of the batch, as `fit` takes it.
        by_model: a model without a loss function must return a loss; otherwise it may.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: _batches.Loss | None,
        unpack: _batches.Unpack | None,
        sample_weight: _batches.SampleWeight | None,
        *,
        by_model: bool,
    ) -> None:
        self.loss_fn, self.unpack, self.sample_weight, self.by_model = loss_fn, unpack, sample_weight, by_model
        self.label_weights = LabelWeights(loss_fn)
        # transformers: such a model predicts each token from those before it, so that the first label has no loss.
        self.shifts = getattr(model, "loss_type", None) == "ForCausalLM"

    def split(self, batch: Any) -> _batches.Parts:
        """Return inputs, target and weight (or `None`) of a batch."""
        as_it_is = self.unpack is None and (self.by_model or isinstance(batch, Mapping))
        if self.loss_fn is not None or not as_it_is:
            return _batches.split(batch, self.unpack, self.sample_weight)
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        weight = None if self.sample_weight is None else torch.as_tensor(self.sample_weight(batch))
        return batch, batch if labels is None else labels, weight

    def losses(self, output: Any, target: Any) -> Tensor:
        """Return the losses of a batch, not reduced but for a model's own; nothing where it may and does not return one."""
        if self.loss_fn is not None:
            try:
                losses = self.loss_fn(output, target)
            except Exception as error:
                error.add_note(f"loss_fn was called with {describe(output)} and {describe(target)}{_range_of(target)}")
                raise
            _batches.check_losses(losses)
            return losses
        loss = loss_of(output)
        if loss is None and not self.by_model:
            return torch.zeros(0)
        if loss is None:
            raise ValueError(no_loss(output))
        return loss.reshape(1) if loss.ndim == 0 else loss

    def counted(
        self, losses: Tensor, target: Any, weight: Tensor | None, rows: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the weight of the batch, and what each label counts in the mean of the loss.

        A model's own loss is the mean over the labels that are not ignored: their number is its weight.
        """
        if self.loss_fn is not None:
            return weight, self.label_weights(target, weighted=weight is not None)
        if weight is not None:
            return weight.reshape(1) if weight.ndim == 0 else weight, None
        if losses.numel() != 1:
            return None, None
        if not isinstance(target, Tensor):
            return torch.tensor([float(rows)]), None
        labels = target[..., 1:] if self.shifts and target.ndim > 1 else target
        count = labels.numel() if labels.is_floating_point() else int((labels != _IGNORED).sum())
        return torch.tensor([float(count)]), None


def no_loss(output: Any) -> str:
    """Return what to say of an output without a loss."""
    return (
        "without loss_fn the model must return its loss, as `output.loss`, `output['loss']` or the one scalar of a tuple, got "
        f"{describe(output)}; pass loss_fn, give the model its labels as an input, or wrap it in a module that returns the loss"
    )


def rows_of(value: Any) -> int:
    """Return the number of rows of the first tensor in a batch or an output that has dimensions, 0 where none has."""
    return next((tensor.shape[0] for tensor in tensors_in(value) if tensor.ndim), 0)


def without_loss(output: Any, rows: int) -> Any:
    """Return the parts of an output that have one row per sample, in its class: what a metric can use."""
    if not isinstance(output, Mapping):
        return output
    kept = {
        name: value
        for name, value in output.items()
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == rows
    }
    return type(output)(**kept) if len(kept) < len(output) else output  # type: ignore[call-arg]


def _range_of(target: Any) -> str:
    """Return what integer labels are from and to, since most errors of a loss are about them."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype is torch.bool or not target.numel():
        return ""
    if target.is_complex() or not values_visible(target):
        return ""
    low, high = target.aminmax()
    return f" from {low.item()} to {high.item()}"


def loss_of(output: Any) -> Tensor | None:
    """Return the loss that a model has put into its output, `None` where it does not say which part that is."""
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(output, (tuple, list)):
        # (loss, logits) of transformers, (logits, loss) of others; DataParallel makes a row of the losses of its devices
        scalars = [part for part in output if isinstance(part, Tensor) and part.ndim == 0]
        rows = [part for part in output[:1] if isinstance(part, Tensor) and part.ndim == 1]
        loss = scalars[0] if len(scalars) == 1 else rows[0] if rows and not scalars else None
    if loss is None and isinstance(output, Tensor) and output.ndim == 0:
        loss = output
    return loss if isinstance(loss, Tensor) and loss.is_floating_point() else None
