"""What a batch is: `(input, target)` or `(input, target, weight)`, and how the model is called with it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from linkboy._checks import describe

Parts = tuple[Any, Any, Any]
Unpack = Callable[[Any], tuple[Any, ...]]
SampleWeight = Callable[[Any], Tensor]
Loss = Callable[[Any, Any], Tensor]


def split(batch: Any, unpack: Unpack | None, sample_weight: SampleWeight | None) -> Parts:
    """Return inputs, target and weight (or `None`) of a batch as the loader gave it."""
    parts = batch if unpack is None else unpack(batch)
    if not isinstance(parts, (tuple, list)) or len(parts) not in (2, 3):
        source = "a batch" if unpack is None else "what unpack returns"
        got = f"{type(parts).__name__} of {len(parts)}" if isinstance(parts, (tuple, list)) else describe(parts)
        raise ValueError(
            f"{source} must be (input, target) or (input, target, weight), got {got}; pass unpack=, a function of the batch"
        )
    weight = parts[2] if len(parts) == 3 else None
    if sample_weight is not None:
        if weight is not None:
            raise ValueError("sample_weight cannot be given when the batch already holds a weight as its third part")
        weight = sample_weight(batch)
    return parts[0], parts[1], weight


def inputs_only(batch: Any, unpack: Unpack | None) -> Any:
    """Return the inputs of a batch that may or may not have a target."""
    if unpack is not None:
        return unpack(batch)[0]
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call `model(*inputs)` for a tuple or list, `model(**inputs)` for a mapping, otherwise `model(inputs)`."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)


def move(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on `device`; on a CPU it is returned as it is."""
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device, non_blocking=True)


def check_losses(loss: Any) -> None:
    """Refuse a reduced loss: its weights are gone, and with them the right normalisation."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a tensor with one loss per sample or element, got {describe(loss)}")
    if loss.ndim == 0:
        raise ValueError(
            "loss_fn must return one loss per sample or element, got a scalar; "
            'use reduction="none", the loop divides by the total weight itself'
        )


def weighted_sum(loss: Tensor, weight: Tensor | float | None) -> tuple[Tensor, float]:
    """Return `sum(w * l)` as a scalar tensor in float64 (float32 on a device without it), and `sum(w)`.

    `weight` has the dimensions of `loss`, each either equal or 1: a `(B,)` weight for `(B, T)` losses could mean two things.
    It is summed where it lies, before it moves to the device, so that no GPU is waited for.
    """
    wide = torch.float32 if loss.device.type == "mps" else torch.float64
    if weight is None:
        return loss.sum(dtype=wide), float(loss.numel())
    if not isinstance(weight, Tensor):
        return loss.sum(dtype=wide) * weight, loss.numel() * weight
    if weight.ndim != loss.ndim or any(w not in (1, size) for w, size in zip(weight.shape, loss.shape, strict=True)):
        raise ValueError(
            f"weight must have the dimensions of the losses, each equal or 1: losses have shape {tuple(loss.shape)}, "
            f"weight has shape {tuple(weight.shape)}"
        )
    share = loss.numel() / weight.numel() if weight.numel() else 0.0
    total = weight.sum(dtype=wide).item() * share
    if not 0 <= total < float("inf"):
        raise ValueError(f"the weights of a batch must add up to a finite number of at least 0, got {total}")
    return (loss * weight.to(loss.device)).sum(dtype=wide), total
