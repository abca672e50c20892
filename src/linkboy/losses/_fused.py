"""The loss of one label per sample in few passes and little memory, computed in chunks that stay in the cache.

It needs one call of softmax, over the classes *other* than the target; the results are called shares here. For a sum or a
mean the incoming gradient is known up to one factor, so forward turns the shares into the gradient, and nothing else of the
size of the logits is ever made. For the loss of every sample it is not: forward keeps one number per sample, and backward
computes the shares again. A second derivative, `torch.func` and `torch.compile` go through the differentiable operations of
`_margin.py`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._tensors import transforms_active, values_visible, wide_dtype, work_dtype
from linkboy.losses._margin import focal_of_margin, plain_margin_loss

# Logits of a chunk per thread: what stays in the cache. Measured flat from 2**18 to 2**20 on two cores.
_CHUNK = 2**19
# Samples of a chunk that is worked on in place: only what exists once per sample takes memory, and every operation waits
# for all threads, so fewer chunks are better.
_SAMPLES_IN_PLACE = 2**16
# Up to so many classes the rows are transposed: softmax takes one short row at a time, but many columns.
_SHORT_ROW = 30


def margin_loss(logits: Tensor, target: Tensor, weight: Tensor | None, gamma: float) -> Tensor:
    """Return `w * (1 - p)**gamma * -log(p)`, `(N, S)` wide, of logits `(N, C, S)`, labels and weights `(N, S)`."""
    masked = None if weight is None else weight == 0
    compute = plain_margin_loss if _needs_plain_operations() else _MarginLoss.apply
    values = compute(logits, target, masked, gamma)
    return values if weight is None else values * weight


def margin_loss_sum(
    logits: Tensor, target: Tensor, weight: Tensor | None, divisor: Tensor | float, gamma: float
) -> Tensor:
    """Return the sum of `margin_loss` over `divisor`, a scalar."""
    learned = any(isinstance(factor, Tensor) and factor.requires_grad for factor in (weight, divisor))
    # Half precision: a gradient divided by N before loss scaling has multiplied it would have lost its small entries.
    if learned or logits.dtype.itemsize < 4 or _needs_plain_operations():
        return margin_loss(logits, target, weight, gamma).sum() / divisor
    return _MarginLossSum.apply(logits, target, weight, divisor, gamma)


def pointwise_focal(gap: Tensor, gamma: float) -> Tensor:
    """Return `focal_of_margin(gap, gamma)` of gaps of any shape, in their dtype."""
    if _needs_plain_operations():
        return focal_of_margin(gap.to(wide_dtype(gap.device)), gamma).to(gap.dtype)
    return _PointwiseFocal.apply(gap, gamma)


def _needs_plain_operations() -> bool:
    return torch.compiler.is_compiling() or transforms_active()


class _MarginLoss(torch.autograd.Function):
    """The loss of every sample, 0 where masked; backward computes the shares again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, masked: Tensor | None, gamma: float) -> Tensor:
        values, slopes = (torch.empty_like(target, dtype=wide_dtype(logits.device)) for _ in range(2))
        for part, labels, loss, slope in pieces(logits, target, values, slopes):
            gap = margin_and_shares(_scratch(part), labels)
            for kept, computed in zip((loss, slope), loss_and_slope(gap, gamma), strict=True):
                kept.copy_(computed)
        if masked is not None:
            values.masked_fill_(masked, 0)
            slopes.masked_fill_(masked, 0)
        ctx.save_for_backward(logits, target, masked, slopes)
        ctx.gamma = gamma
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, masked, slopes = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            return _differentiable_gradient(logits, target, masked, ctx.gamma, grad), None, None, None
        result = torch.empty_like(logits)
        in_place = _fits_in_place(result) and result.dtype == work_dtype(logits)
        tensors = (target, masked, slopes, grad, result)
        for part, labels, skip, slope, factor, out in pieces(logits, *tensors, in_place=in_place):
            shares = out.copy_(part) if in_place else _scratch(part)
            shares_of_others(shares, labels)
            write_gradient(out, shares, labels, slope * factor, skip)
            del shares  # before the next one is made
        return result, None, None, None


class _MarginLossSum(torch.autograd.Function):
    """The weighted sum over `divisor`; the gradient is written in forward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, divisor: Any, gamma: float) -> Tensor:
        ctx.gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(logits, target, weight)
        ctx.divisor, ctx.gamma = divisor, gamma
        return sum_and_gradient(logits, target, weight, divisor, gamma, ctx.gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, weight = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            masked = None if weight is None else weight == 0
            each = grad / ctx.divisor * (torch.ones_like(target, dtype=grad.dtype) if weight is None else weight)
            return _differentiable_gradient(logits, target, masked, ctx.gamma, each), None, None, None, None
        # The buffer is handed over, scaled in place, and belongs to the caller from then on: a second pass over a
        # retained graph fills a new one.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = torch.empty_like(logits)
            sum_and_gradient(logits, target, weight, ctx.divisor, ctx.gamma, gradient)
        # `loss.backward()` passes 1: on a CPU reading it is free and saves a pass over memory that is not in a cache.
        is_one = values_visible(grad) and grad.item() == 1
        return gradient if is_one else gradient.mul_(grad), None, None, None, None


class _PointwiseFocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gap: Tensor, gamma: float) -> Tensor:
        loss, slope = loss_and_slope(gap.clone(), gamma)
        ctx.save_for_backward(gap, slope)
        ctx.gamma = gamma
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        gap, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return grads[0] * slope, None
        loss = focal_of_margin(gap, ctx.gamma)
        return torch.autograd.grad(loss, gap, grads[0], create_graph=True)[0], None


def _differentiable_gradient(
    logits: Tensor, target: Tensor, masked: Tensor | None, gamma: float, grad: Tensor
) -> Tensor:
    values = plain_margin_loss(logits, target, masked, gamma)
    return torch.autograd.grad(values, logits, grad, create_graph=True)[0]


def sum_and_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    divisor: Tensor | float,
    gamma: float,
    gradient: Tensor | None,
) -> Tensor:
    """Return the weighted sum over `divisor` and fill `gradient` with its derivative, unless it is `None`."""
    total = torch.zeros((), dtype=wide_dtype(logits.device), device=logits.device)
    in_place = gradient is not None and _fits_in_place(gradient)
    for part, labels, factor, out in pieces(logits, target, weight, gradient, in_place=in_place):
        total += _sum_of_chunk(part, labels, factor, divisor, gamma, out, in_place=in_place)
    return total / divisor


def _sum_of_chunk(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    divisor: Tensor | float,
    gamma: float,
    out: Tensor | None,
    *,
    in_place: bool,
) -> Tensor:
    """Return the weighted sum of a chunk, which is undivided, and fill `out`, which is divided."""
    shares = out.copy_(logits) if in_place and out is not None else _scratch(logits)
    loss, slope = loss_and_slope(margin_and_shares(shares, target), gamma)
    masked = None
    if weight is not None:
        masked = weight == 0
        loss, slope = (x.mul_(weight).masked_fill_(masked, 0) for x in (loss, slope))
    if out is not None:
        write_gradient(out, shares, target, slope.div_(divisor), masked)
    return loss.sum()


def pieces(logits: Tensor, *others: Tensor | None, in_place: bool = False) -> Iterator[list[Any]]:
    """Yield all tensors, `(N, C, S)` or `(N, S)`, cut to the chunks of `logits`; short rows as `(1, C, N)`."""
    tensors = [logits, *others]
    if logits.shape[2] == 1 and logits.shape[1] <= _SHORT_ROW:
        tensors = [None if x is None else x.transpose(0, -1) for x in tensors]
        logits = logits.transpose(0, 2)
    cuts = list(chunks(logits.shape, in_place=in_place))
    if len(cuts) == 1:
        yield tensors
        return
    for n, s in cuts:
        yield [None if x is None else x[n, :, s] if x.dim() == 3 else x[n, s] for x in tensors]


def chunks(shape: torch.Size, *, in_place: bool = False) -> Iterator[tuple[slice, slice]]:
    """Yield the samples and positions of `(N, C, S)` that are worked on at a time."""
    batch, classes, positions = shape
    limit = _CHUNK * torch.get_num_threads()
    if in_place:
        limit = max(limit, _SAMPLES_IN_PLACE * classes)
    samples = max(1, limit // max(1, classes * positions))
    width = positions if samples > 1 else min(positions, max(1, limit // classes))
    for first in range(0, batch, samples):
        for start in range(0, positions, max(1, width)):
            yield slice(first, first + samples), slice(start, start + width)


def _fits_in_place(gradient: Tensor) -> bool:
    """Return whether softmax can work in the gradient itself: long rows, one after the other."""
    return gradient.shape[2] == 1 and gradient.shape[1] > _SHORT_ROW and gradient.is_contiguous()


def _scratch(part: Tensor) -> Tensor:
    """Return a contiguous copy in the dtype of the arithmetic: small enough for the cache, where a view is not."""
    return torch.empty(part.shape, dtype=work_dtype(part), device=part.device).copy_(part)


def margin_and_shares(logits: Tensor, target: Tensor) -> Tensor:
    """Return the gap `x_t - logsumexp(x_j, j != t)`, `(N, S)` wide, of `(N, C, S)`, which turn into `shares_of_others`."""
    wide = wide_dtype(logits.device)
    own = logits.gather(1, target.unsqueeze(1)).squeeze(1).to(wide)
    top = shares_of_others(logits, target)
    # The largest of the others has the exponential 1, so its share is 1 over their sum.
    return own.sub_(top).add_(logits.amax(1).to(wide).log_())


def shares_of_others(logits: Tensor, target: Tensor) -> Tensor:
    """Turn logits `(N, C, S)` into their softmax without the target, which gets 0; return the largest, `(N, S)`.

    Where there is no other class (C = 1, or all of them masked) the shares are 1: the slope they are multiplied by is 0.
    """
    top = logits.scatter_(1, target.unsqueeze(1), -torch.inf).amax(1)
    rows = logits.squeeze(2) if logits.shape[2] == 1 else logits  # one kernel for the last dimension, one for others
    torch.softmax(rows, 1, out=rows)
    if not (values_visible(top) and top.amin().item() > -torch.inf):
        logits.masked_fill_((top == -torch.inf).unsqueeze(1), 1)
    return top


def loss_and_slope(gap: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return `focal_of_margin` and its derivative `-q**gamma * (q + gamma * p * -log(p))`: no power below `gamma`."""
    loss = F.softplus(gap.neg_(), threshold=40.0)
    q = gap.sigmoid_()
    if gamma == 0:
        return loss, q.neg_()
    factor = q.square() if gamma == 2 else q.pow(gamma)
    # p * log(p) is 0 at p = 0, where the loss may be infinite
    slope = torch.addcmul(q, 1 - q, loss.clamp(max=1e30), value=gamma).mul_(factor).neg_()
    return loss.mul_(factor), slope


def write_gradient(out: Tensor, shares: Tensor, target: Tensor, slope: Tensor, masked: Tensor | None) -> None:
    """Fill `out` `(N, C, S)`: `slope` at the target, minus its `shares` elsewhere, 0 if masked."""
    slope = slope.to(shares.dtype).unsqueeze(1)
    torch.mul(shares, slope.neg(), out=out).scatter_(1, target.unsqueeze(1), slope.to(out.dtype))
    if masked is not None:  # 0 * NaN
        out.masked_fill_(masked.unsqueeze(1), 0)
