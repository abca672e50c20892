"""A loss whose gradient is made in forward, beside its sum: of a sum or a mean it is known up to one factor."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from linkboy._compat import plain_apply


class Summed(Protocol):
    """A batch and all that its sum takes, as a named tuple: first the logits, then the labels."""

    @property
    def logits(self) -> Tensor:
        """What the gradient is for."""
        ...

    @property
    def visible(self) -> bool:
        """Whether looking at values is free."""
        ...

    def sum_and_gradient(self, *, wanted: bool) -> tuple[Tensor | float, Any]:
        """Return the sum, and its derivative by the logits if that is `wanted`; either may be wrong if the sum is not finite.

        A sum that is a number already belongs to a batch on a CPU.
        """
        ...

    def plain_sum(self, logits: Tensor) -> Tensor:
        """Return the sum by operations that torch differentiates, to any order."""
        ...


def loss_sum(batch: Summed, dtype: torch.dtype) -> Tensor:
    """Return the sum in `dtype`; to autograd it is a function of the logits alone."""
    if batch.logits.requires_grad and torch.is_grad_enabled():
        return _apply(batch.logits, batch, dtype)
    return _in_dtype(sum_and_gradient(batch, wanted=False)[0], dtype)


def sum_and_gradient(batch: Summed, *, wanted: bool) -> tuple[Tensor | float, Any]:
    """Return the sum, and its derivative by the logits if that is `wanted`."""
    total, gradient = batch.sum_and_gradient(wanted=wanted)
    if batch.visible and not math.isfinite(total.item() if isinstance(total, Tensor) else total):
        # A label of probability 0, a broken row: rare, and the plain operations know them all.
        with torch.enable_grad():
            leaf = batch.logits.detach().requires_grad_(wanted)
            total = batch.plain_sum(leaf)
            gradient = torch.autograd.grad(total, leaf)[0] if wanted else None
        total = total.detach()
    return total, gradient


def _in_dtype(total: Tensor | float, dtype: torch.dtype) -> Tensor:
    if isinstance(total, Tensor):
        return total.to(dtype)
    return torch.scalar_tensor(total, dtype=dtype, device="cpu")


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, batch: Any, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(logits, batch[1])  # what a second pass must find unchanged
        ctx.kind, ctx.rest, ctx.visible = type(batch), batch[2:], batch.visible
        total, ctx.gradient = sum_and_gradient(batch, wanted=True)
        return _in_dtype(total, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        # The buffer is handed over, scaled in place, and belongs to the caller from then on: a second pass over a
        # retained graph makes a new one.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None or torch.is_grad_enabled():
            batch = ctx.kind(*ctx.saved_tensors, *ctx.rest)
            if torch.is_grad_enabled():
                total = batch.plain_sum(batch.logits)
                return *torch.autograd.grad(total, batch.logits, grad.to(total.dtype), create_graph=True), None, None
            _, gradient = sum_and_gradient(batch, wanted=True)
        # `loss.backward()` passes 1: on a CPU reading it is free and saves a pass over memory that is not in a cache.
        try:
            is_one = ctx.visible and grad.item() == 1
        except RuntimeError:  # many incoming gradients at once, under vmap
            return gradient * grad, None, None
        return gradient if is_one else gradient.mul_(grad), None, None


_apply = plain_apply(_LossSum)
