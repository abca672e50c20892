"""The loss of one label per sample as torch.compile sees it: three loops over the logits, of which backward has one.

`q / p`, the odds against the target, come from the sum of the other classes' exponentials; value and slope of a sample are
computed from the odds in float64, once. Backward takes the exponentials again, which is less work than keeping them.
"""

from typing import Any

import torch
from torch import Tensor

from linkboy._tensors import wide_dtype, work_dtype
from linkboy.losses._arguments import along_classes

# From here on q is 1 in that dtype, and the loss the straight line `log(odds)`; the exponential is still finite.
_STRAIGHT_FROM = {torch.float64: 600.0, torch.float32: 80.0}


class TracedMarginLoss(torch.autograd.Function):
    """`(1 - p)**gamma * -log(p)` of every sample, 0 where masked, in the wide dtype."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, masked: Tensor | None, gamma: float) -> Tensor:
        wide = wide_dtype(logits.device)
        work = logits.to(work_dtype(logits))
        others = work.masked_fill(_is_target(target, work), -torch.inf)
        top = others.amax(1)
        rest = (others - top.unsqueeze(1)).exp().sum(1)
        rest = torch.where(top == -torch.inf, 1.0, rest)  # no other class: the exponential below is 0
        own = work.gather(1, target.unsqueeze(1)).squeeze(1)
        loss, slope = _loss_and_slope(top.to(wide) - own.to(wide), rest, gamma)
        if masked is not None:
            loss, slope, rest = loss.masked_fill(masked, 0), slope.masked_fill(masked, 0), rest.masked_fill(masked, 1)
        ctx.save_for_backward(logits, target, top, rest, slope)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, top, rest, slope = ctx.saved_tensors
        (grad,) = grads
        work = logits.to(work_dtype(logits))
        slope = slope * grad
        factor = (slope / rest).to(work.dtype).unsqueeze(1)
        shares = _exponential_beside(work, top.unsqueeze(1)) * factor
        shares = torch.where(factor == 0, 0.0, shares)  # a masked sample may hold a NaN
        gradient = torch.where(_is_target(target, work), -slope.to(work.dtype).unsqueeze(1), shares)
        return gradient.to(logits.dtype), None, None, None


def _is_target(target: Tensor, logits: Tensor) -> Tensor:
    """Return where the classes of `(N, C, ...)` are the targets; a comparison joins the loops there are, a scatter adds one."""
    classes = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    return along_classes(classes, logits) == target.to(torch.int32).unsqueeze(1)


def _loss_and_slope(above: Tensor, rest: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the loss of odds `rest * exp(above)`, and its derivative by their logarithm."""
    most = _STRAIGHT_FROM[above.dtype]
    odds = rest * above.clamp(max=most).exp()
    loss, excess = odds.log1p(), (above - most).clamp(min=0)
    p = 1 / (1 + odds)
    q = odds * p
    if gamma == 0:
        return loss + excess, q
    factor = q * q if gamma == 2 else q.pow(gamma)
    return factor * (loss + excess), factor * (q + gamma * p * loss)


def _exponential_beside(numbers: Tensor, top: Tensor) -> Tensor:
    """Return `exp(numbers - top)` with what the difference loses by rounding: of 40 it would be two millionths."""
    numbers = numbers.clamp(min=torch.finfo(numbers.dtype).min)  # inf - inf
    gap = numbers - top
    back = gap - numbers
    lost = (numbers - (gap - back)) - (top + back)
    return gap.exp() * (1 + lost)
