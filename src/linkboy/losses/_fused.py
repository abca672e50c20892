"""The loss of one label per sample in few passes and little memory, worked in chunks that stay in the cache.

A sum or a mean knows its incoming gradient but for one factor, so forward writes the gradient over the exponentials, and
nothing else of the size of the logits is ever made. The loss of every sample does not: forward keeps three numbers per
sample, and backward makes the exponentials again, straight into the gradient. A second derivative, `torch.func` and
`torch.compile` go through the differentiable operations of `_margin.py`.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy.losses._arguments import transforms_active, wide_dtype, work_dtype
from linkboy.losses._margin import focal_of_margin, plain_margin_loss

# Logits of a chunk per thread: what stays in the cache. Measured flat from 2**18 to 2**21 on two cores.
_CHUNK = 2**19
# Samples of a chunk that several threads work on in place: every operation waits for all of them, so fewer are better,
# and only what exists once per sample takes memory.
_SHARED_CHUNK = 2**16


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
    """The loss of every sample, 0 where masked; backward makes the exponentials again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, masked: Tensor | None, gamma: float) -> Tensor:
        work = work_dtype(logits)
        values = torch.empty(target.shape, dtype=wide_dtype(logits.device), device=logits.device)
        top, share, slope = torch.empty((3, *target.shape), dtype=work, device=logits.device).unbind()
        for part, labels, *results in pieces(logits, target, values, top, share, slope):
            largest, rest, gap = exponentials_of_others(part.to(work, copy=True), labels)
            loss, step = loss_and_slope(gap, gamma)
            for result, computed in zip(results, (loss, largest, step / -rest, step), strict=True):
                result.copy_(computed)
        if masked is not None:
            for per_sample in (values, share, slope):
                per_sample.masked_fill_(masked, 0)
        ctx.save_for_backward(logits, target, masked, top, share, slope)
        ctx.gamma = gamma
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, masked, top, share, slope = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():
            return _differentiable_gradient(logits, target, masked, ctx.gamma, grad), None, None, None
        result = torch.empty_like(logits)
        in_place = result.dtype == top.dtype
        tensors = (logits, target, masked, top, share, slope, grad, result)
        for part, labels, skip, largest, others, own, factor, out in pieces(*tensors, in_place=in_place):
            buffer = out if in_place else torch.empty_like(out, dtype=top.dtype)
            torch.sub(part, largest.unsqueeze(1), out=buffer).exp_()
            write_gradient(buffer, labels, own * factor, others * factor, skip)
            if not in_place:
                out.copy_(buffer)
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
        # `loss.backward()` sends 1: on a CPU looking costs nothing and spares a pass over memory that is in no cache.
        is_one = grad.device.type == "cpu" and grad.item() == 1
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
    for part, labels, factor, out in pieces(logits, target, weight, gradient, in_place=gradient is not None):
        buffer = torch.empty_like(part) if out is None else out
        _, rest, gap = exponentials_of_others(buffer.copy_(part), labels)
        loss, slope = loss_and_slope(gap, gamma)
        masked = None
        if factor is not None:
            masked = factor == 0
            loss, slope = (x.mul_(factor).masked_fill_(masked, 0) for x in (loss, slope))
        total += loss.sum()
        if gradient is not None:
            slope /= divisor
            write_gradient(buffer, labels, slope, slope / -rest, masked)
    return total / divisor


def pieces(logits: Tensor, *others: Tensor | None, in_place: bool = False) -> Iterator[list[Any]]:
    """Yield all tensors, `(N, C, S)` or `(N, S)`, cut to the chunks of `logits`; whole where there is but one."""
    tensors = [logits, *others]
    cuts = list(chunks(logits.shape, in_place=in_place))
    if len(cuts) == 1:
        yield tensors
        return
    for n, s in cuts:
        yield [None if x is None else x[n, :, s] if x.dim() == 3 else x[n, s] for x in tensors]


def chunks(shape: torch.Size, *, in_place: bool = False) -> Iterator[tuple[slice, slice]]:
    """Yield the samples and positions of `(N, C, S)` that are worked on at a time."""
    batch, classes, positions = shape
    threads = torch.get_num_threads()
    limit = _CHUNK * threads
    if in_place and threads > 1:
        limit = max(limit, _SHARED_CHUNK * classes)
    samples = max(1, limit // max(1, classes * positions))
    width = positions if samples > 1 else min(positions, max(1, limit // classes))
    for first in range(0, batch, samples):
        for start in range(0, positions, max(1, width)):
            yield slice(first, first + samples), slice(start, start + width)


def exponentials_of_others(buffer: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn logits `(N, C, S)` into `exp(x - top)`, 0 at the target; return `top`, their sum and the gap, `(N, S)`."""
    index, wide = target.unsqueeze(1), wide_dtype(buffer.device)
    own = buffer.gather(1, index).squeeze(1)
    top = buffer.scatter_(1, index, -torch.inf).amax(1, keepdim=True)
    top.clamp_(min=torch.finfo(top.dtype).min)  # no other class: every exponential below is 0, not exp(inf - inf)
    rest = buffer.sub_(top).exp_().sum(1).to(wide)
    top = top.squeeze(1)
    gap = own.to(wide).sub_(top).sub_(rest.log())
    return top, rest.clamp_(min=1), gap  # the largest gives 1: a sum below that is an empty one


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


def write_gradient(exponentials: Tensor, target: Tensor, slope: Tensor, share: Tensor, masked: Tensor | None) -> None:
    """Turn `exponentials` `(N, C, S)` into the gradient: `slope` at the target, their `share` elsewhere, 0 if masked."""
    slope, share = slope.to(exponentials.dtype), share.to(exponentials.dtype)
    exponentials.mul_(share.unsqueeze(1)).scatter_(1, target.unsqueeze(1), slope.unsqueeze(1))
    if masked is not None:  # 0 * NaN
        exponentials.masked_fill_(masked.unsqueeze(1), 0)
