"""The loss of one label per sample in few kernels and little memory.

It needs one call of softmax, over the classes *other* than the target; the results are called shares here. For a sum or a
mean the incoming gradient is known up to one factor, so forward turns the shares into the gradient, and nothing else of the
size of the logits is ever made. For the loss of every sample it is not: forward keeps one number per sample, and backward
computes the shares again. A second derivative and `torch.func` go through the differentiable operations of `_margin.py`,
`torch.compile` through `_traced.py`, and many long rows on a CPU through `_core_in_graph.py`.

Small batches on a CPU are computed with NumPy (`_small.py`). All others are computed in float32 and in chunks that stay in
the cache.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._tensors import transforms_active, wide_dtype, work_dtype
from linkboy.losses._arguments import SampleRows, is_learned, plain_operations_needed
from linkboy.losses._margin import focal_of_margin, plain_margin_loss
from linkboy.losses._small import SHORT_ROW, label_sum, label_sum_by_core, sum_by_arrays, sum_by_core
from linkboy.losses._sums import loss_sum
from linkboy.losses._traced import TracedMarginLoss

# Logits of a batch up to which NumPy takes less time than torch.
_SMALL = 2**19
# Logits of a chunk per thread: what stays in the cache. Measured flat from 2**18 to 2**20 on two cores.
_CHUNK = 2**19
# Samples of a chunk that is worked on in place: only what exists once per sample takes memory, and every operation waits
# for all threads, so fewer chunks are better.
_SAMPLES_IN_PLACE = 2**16


def margin_loss(rows: SampleRows, gamma: float) -> Tensor:
    """Return `w * (1 - p)**gamma * -log(p)` of every sample, in the shape of the target and the wide dtype."""
    rows = rows.by_class_of_target().shifted()
    weight, masked = rows.weight, rows.masked()
    if not plain_operations_needed():
        values = _MarginLoss.apply(rows.logits, rows.target, masked, gamma)
    elif transforms_active():
        values = plain_margin_loss(rows.logits, rows.target, masked, gamma)
    elif weight is not None and weight.requires_grad:
        values = TracedMarginLoss.apply(rows.logits, rows.target, (weight != 0).to(weight.dtype), gamma)
    else:
        return TracedMarginLoss.apply(rows.logits, rows.target, weight, gamma)
    return values if weight is None else values * weight


def margin_loss_sum(rows: SampleRows, divisor: Tensor | float, gamma: float, dtype: torch.dtype) -> Tensor:
    """Return the sum of `margin_loss` over `divisor`, a scalar in `dtype`."""
    # Half precision: a gradient divided by N before loss scaling has multiplied it would have lost its small entries.
    if (
        plain_operations_needed()
        or rows.logits.dtype.itemsize < 4
        or (is_learned(rows.weight) or is_learned(rows.class_weight) or is_learned(rows.shift) or is_learned(divisor))
    ):
        return (margin_loss(rows, gamma).sum() / divisor).to(dtype)
    return loss_sum(LabelBatch(*rows, divisor, gamma), dtype)


def pointwise_focal(gap: Tensor, gamma: float) -> Tensor:
    """Return `focal_of_margin(gap, gamma)` of gaps of any shape, in their dtype."""
    if plain_operations_needed():
        return focal_of_margin(gap.to(wide_dtype(gap.device)), gamma).to(gap.dtype)
    return _PointwiseFocal.apply(gap, gamma)


class _MarginLoss(torch.autograd.Function):
    """The loss of every sample, 0 where masked; backward computes the shares again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, masked: Tensor | None, gamma: float) -> Tensor:
        values, slopes = (torch.empty_like(target, dtype=wide_dtype(logits.device)) for _ in range(2))
        for part, labels, skip, loss, slope in pieces(logits, target, masked, values, slopes):
            shares = _scratch(part, skip)
            computed = loss_and_slope(deficit_and_shares(shares, flat_index(labels, shares.shape[1])), gamma)
            loss.copy_(computed[0])
            slope.copy_(computed[1])
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
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        in_place = _fits_in_place(result) and result.dtype == work_dtype(logits)
        tensors = (target, masked, slopes, grad, result)
        for part, labels, skip, slope, factor, out in pieces(logits, *tensors, in_place=in_place):
            shares = _scratch(part, skip, out if in_place else None)
            index = flat_index(labels, shares.shape[1])
            deficit_and_shares(shares, index)
            write_gradient(out, shares, index, slope * factor)
            del shares  # before the next one is made
        return result, None, None, None


class LabelBatch(NamedTuple):
    """One label per sample."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    class_weight: Tensor | None
    zeros: bool | None
    visible: bool
    shift: Tensor | None
    divisor: Tensor | float
    gamma: float

    def rows(self) -> SampleRows:
        """Return the rows with all weights in one, and nothing to add to the logits."""
        return SampleRows(*self[:7]).by_class_of_target().shifted()

    def sum_and_gradient(self, *, wanted: bool) -> tuple[Tensor | float, Tensor | None]:
        logits, target, weight, class_weight, _, visible, shift, divisor, gamma = self
        known = not isinstance(divisor, Tensor)
        if known and sum_by_core(logits, visible=visible):
            weights = weight, class_weight
            return label_sum_by_core(logits, target, weights, shift, divisor, gamma, wanted=wanted)
        rows = self.rows()
        if not (known and sum_by_arrays(logits, _SMALL, visible=visible)):
            return of_chunks(rows, divisor, gamma, wanted=wanted)
        logits, weight = rows.logits, rows.weight
        total, gradient = label_sum(logits, target, weight, divisor, gamma, wanted=wanted)
        if rows.zeros is not False and not math.isfinite(total):
            masked = rows.masked()
            if masked is not None:  # a NaN there changes no digit of the others
                clean = logits.masked_fill(masked.unsqueeze(1), 0)
                return label_sum(clean, target, weight, divisor, gamma, wanted=wanted)
        return total, gradient

    def plain_sum(self, logits: Tensor) -> Tensor:
        rows = SampleRows(logits, *self[1:7]).by_class_of_target().shifted()
        values = plain_margin_loss(rows.logits, rows.target, rows.masked(), self.gamma)
        return (values if rows.weight is None else values * rows.weight).sum() / self.divisor


class _PointwiseFocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gap: Tensor, gamma: float) -> Tensor:
        loss, slope = (torch.empty_like(gap, memory_format=torch.contiguous_format) for _ in range(2))
        # As in the sums of _binary.py in float64 on a CPU, and in pieces, so that little of it exists at a time.
        dtype = torch.float64 if gap.device.type == "cpu" else gap.dtype
        for part, *out in zip(*(x.reshape(-1).split(_CHUNK) for x in (gap, loss, slope)), strict=True):
            for to, numbers in zip(out, loss_and_slope(part.to(dtype).neg(), gamma), strict=True):
                to.copy_(numbers)
        ctx.save_for_backward(gap, slope.neg_())
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


def of_chunks(rows: SampleRows, divisor: Tensor | float, gamma: float, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return sum and gradient, computed chunk by chunk."""
    logits, target, weight, masked = rows.logits, rows.target, rows.weight, rows.masked()
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format) if wanted else None
    total = torch.zeros((), dtype=wide_dtype(logits.device), device=logits.device)
    in_place = gradient is not None and _fits_in_place(gradient)
    for part, labels, factor, skip, out in pieces(logits, target, weight, masked, gradient, in_place=in_place):
        shares = _scratch(part, skip, out if in_place else None)
        index = flat_index(labels, shares.shape[1])
        loss, slope = loss_and_slope(deficit_and_shares(shares, index), gamma)
        if skip is not None:
            loss.masked_fill_(skip, 0)
            slope.masked_fill_(skip, 0)
        if factor is not None:
            loss.mul_(factor)
            slope.mul_(factor)
        total += loss.sum()
        if out is not None:
            write_gradient(out, shares, index, slope.div_(divisor))
        del shares  # before the next one is made
    return total.div_(divisor), gradient


def pieces(logits: Tensor, *others: Tensor | None, in_place: bool = False) -> Iterator[list[Any]]:
    """Yield all tensors cut to chunks of the logits: rows `(n, C)` with `(n,)`, or columns `(n, C, s)` with `(n, s)`."""
    tensors: list[Tensor | None] = [logits, *others]
    dims, shape = logits.dim(), logits.shape
    if dims == 2 and shape[1] <= SHORT_ROW:
        tensors = [None if x is None else x.transpose(0, -1).unsqueeze(0) for x in tensors]
    elif dims > 3:
        tensors = [None if x is None else x.flatten(2 if x.dim() == dims else 1) for x in tensors]
    (shape,) = (x.shape for x in tensors[:1] if x is not None)
    cuts = list(chunks(shape, in_place=in_place))
    if len(cuts) == 1:
        yield tensors
        return
    for n, s in cuts:
        yield [None if x is None else x[n] if len(shape) == 2 else x[n][..., s] for x in tensors]


def chunks(shape: torch.Size, *, in_place: bool = False) -> Iterator[tuple[slice, slice]]:
    """Yield the samples and positions of `(N, C)` or `(N, C, S)` that are worked on at a time."""
    batch, classes, positions = (*shape, 1)[:3]
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
    return gradient.dim() == 2 and gradient.shape[1] > SHORT_ROW


def _scratch(part: Tensor, masked: Tensor | None, buffer: Tensor | None = None) -> Tensor:
    """Return a contiguous copy in the dtype of the arithmetic, small enough for the cache; masked samples are 0 in it."""
    if buffer is None:
        buffer = part.to(work_dtype(part), copy=True, memory_format=torch.contiguous_format)
    else:
        buffer.copy_(part)
    # Masked before the arithmetic: afterwards 0 * NaN would be left.
    return buffer if masked is None else buffer.masked_fill_(masked.unsqueeze(1), 0)


def flat_index(target: Tensor, classes: int) -> Tensor:
    """Return where the targets `(n,)` or `(n, s)` lie in contiguous logits `(n, C)` or `(n, C, s)`, taken as one row.

    An index into one dimension is several times as quick as one along a dimension of two or three.
    """
    positions, device = (1 if target.dim() == 1 else target.shape[1]), target.device
    step = classes * positions
    start = torch.arange(0, target.shape[0] * step, step, device=device)
    if target.dim() == 1:
        return start.add_(target)
    index = torch.mul(target, positions).add_(torch.arange(positions, device=device))
    return index.add_(start.unsqueeze(1)).view(-1)


def deficit_and_shares(logits: Tensor, index: Tensor) -> Tensor:
    """Return `logsumexp(x_j, j != t) - x_t`, wide, of contiguous logits; these turn into their softmax without the target.

    Where there is no other class (all of them masked with -inf) it is -inf, and the loss 0.
    """
    wide = wide_dtype(logits.device)
    entries = logits.view(-1)
    own = entries.index_select(0, index)
    entries.scatter_(0, index, -torch.inf)
    top = logits.amax(1)
    # The softmax of such a row would be 0 / 0: the target's place takes all of it.
    entries.scatter_(0, index, torch.zeros_like(top).masked_fill_(top > -torch.inf, -torch.inf).view(-1))
    torch.softmax(logits, 1, out=logits)
    # The largest of the others has the exponential 1, so its share is 1 over their sum.
    return top.to(wide).sub_(own.view_as(top)).sub_(logits.amax(1).to(wide).log_())


def loss_and_slope(deficit: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return `focal_of_margin(-deficit)` and its derivative by the deficit, `q**gamma * (q + gamma * p * -log(p))`."""
    loss = F.softplus(deficit, threshold=40.0)
    q = deficit.sigmoid_()
    if gamma == 0:
        return loss, q
    factor = q.square() if gamma == 2 else q.pow(gamma)
    # p * log(p) is 0 at p = 0, where the loss may be infinite
    slope = torch.addcmul(q, torch.rsub(q, 1), loss.clamp(max=1e30), value=gamma).mul_(factor)
    return loss.mul_(factor), slope


def write_gradient(out: Tensor, shares: Tensor, index: Tensor, slope: Tensor) -> None:
    """Fill `out`: `slope` times the `shares`, minus `slope` at the target. The shares may be `out` itself."""
    shares.view(-1).scatter_(0, index, -1.0)
    torch.mul(shares, slope.to(shares.dtype).unsqueeze(1), out=out)
