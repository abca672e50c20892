"""Soft targets: every class of a sample contributes, and only the largest can have a probability above 1/2."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._tensors import wide_dtype
from linkboy.losses._arguments import SampleRows, along_classes, is_learned, plain_operations_needed
from linkboy.losses._margin import focal_of_margin, margin
from linkboy.losses._small import share_sum_by_core, sum_by_core
from linkboy.losses._sums import loss_sum


class ShareBatch(NamedTuple):
    """Shares of classes: of soft targets, or of labels that are smoothed."""

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    class_weight: Tensor | None
    zeros: bool | None
    visible: bool
    label_smoothing: float
    divisor: Tensor | float
    gamma: float

    def share(self) -> Tensor:
        """Return the shares, all weights in them, in the wide dtype."""
        share = _shares(SampleRows(*self[:6]), self.label_smoothing)
        return share if self.weight is None else share * self.weight.unsqueeze(1)

    def sum_and_gradient(self, *, wanted: bool) -> tuple[Tensor | float, Tensor | None]:
        logits, target, weight, class_weight, _, visible, label_smoothing, divisor, gamma = self
        if isinstance(divisor, float) and sum_by_core(logits, visible=visible):
            weights = weight, class_weight
            return share_sum_by_core(logits, target, weights, label_smoothing, divisor, gamma, wanted=wanted)
        return self._by_torch(wanted=wanted)

    def _by_torch(self, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """With `L = -log(p)` and `E = q**gamma + gamma * q**(gamma - 1) * p * L` the derivative is `p * sum(y * E) - y * E`.

        In float64 only the largest class needs care: its `q` is the sum of the others, and its derivative
        `p * (sum of the others' y * E) - q * y * E`.
        """
        share, gamma = self.share(), self.gamma
        loss = torch.log_softmax(self.logits, 1, dtype=share.dtype)
        p = loss.exp()
        top = p.argmax(1, keepdim=True)
        q_of_top = p.scatter(1, top, 0.0).sum(1, keepdim=True)
        loss = loss.neg_().scatter_(1, top, q_of_top.neg().log1p_().neg_())
        if gamma == 0:
            total, slope = torch.mul(share, loss).sum(), share
        else:
            q = torch.rsub(p, 1).scatter_(1, top, q_of_top)
            factor = q.pow(gamma)
            total = torch.mul(share, factor).mul_(loss).sum()
            inner = loss.mul_(p).mul_(q.clamp_(min=1e-200).pow_(gamma - 1))
            slope = factor.add_(inner, alpha=gamma).mul_(share)
        total = total / self.divisor
        if not wanted:
            return total, None
        rest = slope.scatter(1, top, 0.0).sum(1, keepdim=True)
        of_top = slope.gather(1, top)
        own = p.gather(1, top).mul_(rest).sub_(q_of_top.mul_(of_top))
        gradient = p.mul_(rest.add_(of_top)).sub_(slope).scatter_(1, top, own).div_(self.divisor)
        return total, gradient.to(self.logits.dtype, memory_format=torch.contiguous_format)

    def plain_sum(self, logits: Tensor) -> Tensor:
        share = self.share()
        masked = (share == 0).all(1, keepdim=True)
        return _values(logits.masked_fill(masked, 0), share, self.gamma).sum() / self.divisor


def soft_sum(
    rows: SampleRows, label_smoothing: float, gamma: float, divisor: Tensor | float, dtype: torch.dtype
) -> Tensor:
    """Return the sum of `soft_values` over `divisor`, a scalar in `dtype`."""
    learned = any(is_learned(x) for x in (rows.target, rows.weight, rows.class_weight, divisor))
    if learned or rows.logits.dtype.itemsize < 4 or plain_operations_needed():
        return (soft_values(rows, label_smoothing, gamma).sum() / divisor).to(dtype)
    return loss_sum(ShareBatch(*rows[:6], label_smoothing, divisor, gamma), dtype)


def soft_values(rows: SampleRows, label_smoothing: float, gamma: float) -> Tensor:
    """Return `w * sum_c w_c y_c (1 - p_c)**gamma * -log(p_c)` of each sample, `(N, ...)` in the wide dtype.

    The largest class goes through its margin, as a label does; for all others `1 - p` loses nothing.
    """
    logits, weight, masked = rows.logits, rows.weight, rows.masked()
    if masked is not None:  # before the arithmetic: selecting afterwards leaves 0 * NaN in the backward pass
        logits = logits.masked_fill(masked.unsqueeze(1), 0)
    values = _values(logits, _shares(rows, label_smoothing), gamma)
    return values if weight is None else values * weight


def _values(logits: Tensor, share: Tensor, gamma: float) -> Tensor:
    """Return `sum_c y_c (1 - p_c)**gamma * -log(p_c)` of the shares `y`, by differentiable operations."""
    largest = logits.detach().argmax(1)
    index = largest.unsqueeze(1)
    gap = margin(logits, largest)
    of_largest = share.gather(1, index).squeeze(1)
    wide = share.dtype
    offset = F.logsigmoid(gap) - logits.gather(1, index).squeeze(1).to(wide)
    # A class without a share is left out before the logarithm, which may be infinite there.
    counts = (share != 0).scatter(1, index, False)
    loss = torch.where(counts, -(logits.to(wide) + offset.unsqueeze(1)), 1.0)
    if gamma:
        loss = loss * (gamma * torch.log1p(-(-loss).exp())).exp()
    values = torch.where(counts, share * loss, 0.0).sum(1)
    return values + torch.where(of_largest == 0, 0.0, of_largest * focal_of_margin(gap, gamma))


def _shares(rows: SampleRows, label_smoothing: float) -> Tensor:
    """Return the weighted share of every class, `(N, C, ...)` in the wide dtype, 0 for masked samples."""
    target, classes = rows.target, rows.logits.shape[1]
    spread = label_smoothing / classes
    if rows.soft():
        share = target.to(wide_dtype(target.device))
        share = share * (1 - label_smoothing) + spread if label_smoothing else share
    else:
        share = torch.full_like(rows.logits, spread, dtype=wide_dtype(target.device), requires_grad=False)
        share = share.scatter(1, target.unsqueeze(1), 1 - label_smoothing + spread)
    if rows.class_weight is not None:
        share = share * along_classes(rows.class_weight, share)
    masked = rows.masked()
    return share if masked is None else share.masked_fill(masked.unsqueeze(1), 0)
