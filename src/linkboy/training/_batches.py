"""What a batch is: `(input, target)` or `(input, target, weight)`, and what its losses and weights add up to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from linkboy._checks import describe
from linkboy._tensors import wide_dtype

Parts = tuple[Any, Any, Any]
Unpack = Callable[[Any], tuple[Any, ...]]
SampleWeight = Callable[[Any], Tensor]
Loss = Callable[[Any, Any], Tensor]


def check_functions(**functions: Any) -> None:
    """Raise for the first argument that is neither a function nor `None`."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, got {describe(function)}")


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
    if unpack is None and isinstance(weight, Tensor) and _looks_like_places(weight):
        raise ValueError(
            f"the third part of a batch is its weight, got {describe(weight)} with as many different whole numbers, as places in "
            "a dataset are; pass unpack=, a function of the batch that leaves them out, or weights as floating point"
        )
    if sample_weight is not None:
        if weight is not None:
            raise ValueError("sample_weight cannot be given when the batch already holds a weight as its third part")
        weight = sample_weight(batch)
    return parts[0], parts[1], weight


def _looks_like_places(weight: Tensor) -> bool:
    whole = not (weight.is_floating_point() or weight.dtype is torch.bool or weight.is_complex())
    return whole and weight.numel() >= 4 and weight.unique().numel() == weight.numel()


def inputs_only(batch: Any, unpack: Unpack | None) -> Any:
    """Return the inputs of a batch that may or may not have a target."""
    if unpack is not None:
        parts = unpack(batch)
        if not isinstance(parts, (tuple, list)) or not parts:
            raise ValueError(f"what unpack returns must be (input, ...), got {describe(parts)}")
        return parts[0]
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def check_losses(loss: Any) -> None:
    """Refuse a reduced loss: its weights are gone, and with them the right normalisation."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a tensor with one loss per sample or element, got {describe(loss)}")
    if loss.ndim == 0:
        raise ValueError(
            "loss_fn must return one loss per sample or element, got a scalar; "
            'use reduction="none", the loop divides by the total weight itself'
        )


def weigh(losses: Tensor, weight: Tensor | None, counted: Tensor | None = None) -> tuple[Tensor | float, float]:
    """Return the weights as factors of `losses`, and `sum(w)` over all elements of `losses`.

    `counted` is what each label counts in the mean that the loss would take; the losses hold it as a factor already.

    `weight` has the dimensions of `losses`, each either equal or 1: a `(B,)` weight for `(B, T)` losses could mean two things.
    It is summed where it lies, before it moves to the device, so that no GPU is waited for.
    """
    if counted is not None and counted.shape != losses.shape:
        raise ValueError(f"loss_fn must return one loss per label, labels {describe(counted)}, got {describe(losses)}")
    if weight is None:
        return 1.0, float(losses.numel()) if counted is None else _sum(counted)
    fits = isinstance(weight, Tensor) and weight.ndim == losses.ndim
    if not fits or any(w not in (1, size) for w, size in zip(weight.shape, losses.shape, strict=True)):
        raise ValueError(
            f"weight must have the dimensions of the losses, each equal or 1: the losses are {describe(losses)}, "
            f"weight is {describe(weight)}; where the third part of a batch is something else, pass unpack="
        )
    share = losses.numel() / weight.numel() if weight.numel() else 0.0
    total = _sum(weight) * share if counted is None else _sum(weight.to(counted.device) * counted)
    if not 0 <= total < float("inf"):
        raise ValueError(f"the weights of a batch must add up to a finite number of at least 0, got {total}")
    return weight.to(device=losses.device, dtype=losses.dtype), total


def _sum(tensor: Tensor) -> float:
    return tensor.sum(dtype=wide_dtype(tensor.device)).item()


def weighted_sum(losses: Tensor, weight: Tensor | float) -> Tensor:
    """Return `sum(w * l)` outside the graph, in float64 (float32 on a device without it); a number for `w` is 1."""
    losses = losses.detach()
    return (losses * weight if isinstance(weight, Tensor) else losses).sum(dtype=wide_dtype(losses.device))


def check_trains(losses: Tensor) -> None:
    """Refuse losses that no parameter has a part in."""
    if not losses.requires_grad:
        raise ValueError(
            "the losses depend on no parameter that trains: all of the model is frozen, or the output was detached "
            "or turned into integers on the way to the loss"
        )


def backward(losses: Tensor, weight: Tensor | float, divisor: float) -> None:
    """Back-propagate `sum(w * l) / divisor`: the weights are the gradient of the losses, so the graph needs no sum."""
    check_trains(losses)
    if isinstance(weight, Tensor):
        losses.backward((weight / divisor).expand_as(losses))
    else:
        losses.backward(torch.full_like(losses, weight / divisor))
