"""The loss of one label per sample as torch.compile sees it: three loops over the logits, of which backward has one.

`q / p`, the odds against the target, come from the sum of the other classes' exponentials; value and slope of a sample are
computed from the odds in float64, once. Backward takes the exponentials again, which is less work than keeping them.
"""

from typing import Any

import torch
from torch import Tensor

from linkboy._compat import SAYS_WHEN_IT_COMPILES
from linkboy._tensors import wide_dtype, work_dtype
from linkboy.losses._arguments import along_classes
from linkboy.losses._margin import plain_margin_loss

# From here on q is 1 in every dtype, and the loss the straight line `log(odds)`; the exponential is still finite.
_STRAIGHT_FROM = 60.0
# The float32 numbers of the longest vectors that a CPU has.
_VECTOR = 16


class TracedMarginLoss(torch.autograd.Function):
    """`w * (1 - p)**gamma * -log(p)` of every sample, 0 where the weight is 0, in the wide dtype; `w` gets no gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, gamma: float) -> Tensor:
        wide, given = wide_dtype(logits.device), weight
        work = logits.to(work_dtype(logits))
        others = work.masked_fill(_is_target(target, work), -torch.inf)
        top = others.amax(1, keepdim=True)
        rest = _sum_over_classes((others - top).exp(), wide)
        rest = torch.where(top == -torch.inf, 1.0, rest)  # no other class: the exponential below is 0
        own = work.gather(1, target.unsqueeze(1))
        loss, slope = _loss_and_slope(top.to(wide) - own.to(wide), rest, gamma, work.dtype)
        if weight is not None:
            # Here and not by the caller: backward then needs no weight, whose mask is slow to store and to read.
            weight = weight.unsqueeze(1)
            masked = weight == 0
            loss, slope = torch.where(masked, 0.0, weight * loss), torch.where(masked, 0.0, weight * slope)
            rest = torch.where(masked, 1.0, rest)
        ctx.save_for_backward(logits, target, top, slope.to(work.dtype), (slope / rest).to(work.dtype))
        ctx.weight, ctx.gamma = given, gamma
        return loss.squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, top, slope, factor = ctx.saved_tensors
        if SAYS_WHEN_IT_COMPILES and torch.is_grad_enabled():
            # A second derivative inside the graph: to autograd, what forward made and saved is constant.
            weight = ctx.weight
            values = plain_margin_loss(logits, target, None if weight is None else weight == 0, ctx.gamma)
            values = values if weight is None else values * weight
            return *torch.autograd.grad(values, logits, grads[0], create_graph=True), None, None, None
        grad = grads[0].unsqueeze(1).to(slope.dtype)
        work = logits.to(work_dtype(logits))
        own, others = -slope * grad, factor * grad
        shares = _exponential_beside(work, top) * others
        shares = torch.where(others == 0, 0.0, shares)  # a masked sample may hold a NaN
        return torch.where(_is_target(target, work), own, shares).to(logits.dtype), None, None, None


def _is_target(target: Tensor, logits: Tensor) -> Tensor:
    """Return where the classes of `(N, C, ...)` are the targets; a comparison joins the loops there are, a scatter adds one."""
    if _in_vectors(logits):  # a constant is loaded, where inductor would make each number of arange on its own
        classes = torch.tensor(list(range(logits.shape[1])), dtype=torch.int32)
    else:
        classes = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    return along_classes(classes, logits) == target.to(torch.int32).unsqueeze(1)


def _in_vectors(logits: Tensor) -> bool:
    """Return whether inductor's loops over the classes take a vector of them at a time: long rows on a CPU."""
    classes = logits.shape[1]
    return logits.device.type == "cpu" and logits.dim() == 2 and isinstance(classes, int) and classes >= _VECTOR


def _loss_and_slope(above: Tensor, rest: Tensor, gamma: float, work: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the loss of odds `rest * exp(above)`, and its derivative by their logarithm.

    Only what is taken to the power of `gamma` needs more digits than the dtype `work` has.
    """
    odds = rest * above.clamp(max=_STRAIGHT_FROM).exp()
    loss, excess = odds.to(work).log1p().to(odds.dtype), (above - _STRAIGHT_FROM).clamp(min=0)
    p = 1 / (1 + odds)
    q = odds * p
    if gamma == 0:
        return loss + excess, q
    factor = q * q if gamma == 2 else q.pow(gamma)
    return factor * (loss + excess), factor * (q + gamma * p * loss)


def _sum_over_classes(shares: Tensor, wide: torch.dtype) -> Tensor:
    """Return the sum over dimension 1 of numbers from 0 to 1; a power of `gamma` would make its rounding several times as large.

    Float64 costs nothing where a loop on a CPU takes one class at a time, and half of the whole loss elsewhere. Multiples of
    2**-12 add without rounding in float32 up to 4096, and what is left over is small.
    """
    if shares.dtype == wide or (shares.device.type == "cpu" and not _in_vectors(shares)):
        return shares.sum(1, keepdim=True, dtype=wide)
    coarse = (shares + 3072) - 3072  # from 2048 to 4096, float32 has the multiples of 2**-12
    return coarse.sum(1, keepdim=True).to(wide) + (shares - coarse).sum(1, keepdim=True).to(wide)


def _exponential_beside(numbers: Tensor, top: Tensor) -> Tensor:
    """Return `exp(numbers - top)` with what the difference loses by rounding: of 40 it would be two millionths."""
    numbers = numbers.clamp(min=torch.finfo(numbers.dtype).min)  # inf - inf
    gap = numbers - top
    back = gap - numbers
    lost = (numbers - (gap - back)) - (top + back)
    return gap.exp() * (1 + lost)
