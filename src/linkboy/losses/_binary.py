"""The binary focal loss of labels 0 and 1 in one pass, and its side of label 0 with a margin.

With `deficit = x` for label 0 and `-x` for label 1 both sides are one function, `focal_of_margin(-deficit)`. For a sum the
gradient is known up to one factor, so forward makes it, chunk by chunk.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._tensors import wide_dtype
from linkboy.losses._arguments import is_learned, plain_operations_needed
from linkboy.losses._margin import focal_of_margin
from linkboy.losses._small import element_sum, element_sum_by_core, sum_by_arrays, sum_by_core

# Elements up to which NumPy's operations take less time than torch's.
_SMALL = 2**17
# Elements of a chunk per thread: measured as quick from 2**16 to 2**18, and each further chunk costs its calls again.
_CHUNK = 2**17


def can_be_summed_at_once(input: Tensor, target: Tensor, *factors: object) -> bool:
    """Return whether nothing but the logits needs a gradient, and `torch.func` and `torch.compile` are not at work."""
    # Half precision: a gradient divided by N before loss scaling has multiplied it would have lost its small entries.
    learned = target.requires_grad or any(is_learned(factor) for factor in factors)
    return not learned and input.dtype.itemsize >= 4 and not plain_operations_needed()


class Elements(NamedTuple):
    """A batch of labels 0 and 1, with all that its sum takes.

    Attributes:
        logits: of any shape.
        label: 0 or 1, in the dtype of the logits.
        kept: which elements count; `None` for all.
        weight: weight of each element; `None` where all weigh 1.
        positive: a further weight of label 1, a number or a tensor that broadcasts.
        negative: that of label 0.
        divisor: what the sum is divided by.
        gamma: focusing exponent.
        visible: whether looking at values is free.
    """

    logits: Tensor
    label: Tensor
    kept: Tensor | None
    weight: Tensor | None
    positive: Tensor | float
    negative: Tensor | float
    divisor: Tensor | float
    gamma: float
    visible: bool

    def by_label(self, dtype: torch.dtype) -> Tensor | None:
        """Return the weight of each element that its label gives, `None` where both labels weigh 1."""
        if (
            isinstance(self.positive, float)
            and isinstance(self.negative, float)
            and self.positive == self.negative == 1
        ):
            return None
        # Of arithmetic, which takes a quarter of the time of torch.where.
        return self.label.to(dtype).mul(self.positive - self.negative).add_(self.negative)

    def cut(self, place: slice) -> "Elements":
        """Return a piece of the elements, in a flat order."""
        shape = self.logits.shape
        flat = [x.expand(shape).reshape(-1)[place] if isinstance(x, Tensor) else x for x in self[:6]]
        return Elements(*flat, self.divisor, self.gamma, self.visible)  # type: ignore[arg-type]

    def sum_and_gradient(self, *, wanted: bool) -> tuple[Tensor | float, Tensor | None]:
        """Return the sum, and its derivative by the logits if that is `wanted`."""
        logits, label, kept, weight, *numbers, gamma, visible = self
        known = all(isinstance(number, float) for number in numbers)
        if known and sum_by_core(logits, visible=visible):
            return element_sum_by_core(logits, label, kept, weight, *numbers, gamma, wanted=wanted)  # type: ignore[arg-type]
        if known and sum_by_arrays(logits, _SMALL, visible=visible):
            return element_sum(logits, label, kept, weight, *numbers, gamma, wanted=wanted)  # type: ignore[arg-type]
        length, step = logits.numel(), _CHUNK * torch.get_num_threads()
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format) if wanted else None
        if length <= step:
            return _of_chunk(self, gradient), gradient
        out = None if gradient is None else gradient.view(-1)
        total = torch.zeros((), dtype=wide_dtype(logits.device), device=logits.device)
        for first in range(0, length, step):
            place = slice(first, first + step)
            total += _of_chunk(self.cut(place), None if out is None else out[place])
        return total, gradient

    def plain_sum(self, logits: Tensor) -> Tensor:
        """Return the sum by differentiable operations."""
        if self.kept is not None:
            logits = logits.masked_fill(~self.kept, 0)
        wide = logits.to(wide_dtype(logits.device))
        values = focal_of_margin(torch.where(self.label == 1, wide, -wide), self.gamma)
        for weight in (self.by_label(wide.dtype), self.weight):
            values = values if weight is None else values * weight
        return (values if self.kept is None else values.masked_fill(~self.kept, 0)).sum() / self.divisor


def _of_chunk(elements: Elements, out: Tensor | None) -> Tensor:
    """Return the weighted sum of a chunk, and fill `out` with its gradient."""
    logits, label, kept, gamma, divisor = *elements[:3], elements.gamma, elements.divisor
    # On a CPU in float64, because torch's sigmoid of float32 has an error there that a power of 5 makes 4e-6.
    sign = torch.rsub(label.double() if label.device.type == "cpu" else label, 1, alpha=2)
    deficit = sign * logits
    if kept is not None:  # before the arithmetic: 0 * NaN
        deficit.masked_fill_(~kept, 0)
    loss = F.softplus(deficit, threshold=40.0)
    q = deficit.sigmoid_()
    factor = _weighted_factor(q, elements, gamma)
    if factor is not None:
        loss.mul_(factor)
    if out is not None:
        slope = q if factor is None else factor.mul_(q)
        if gamma:  # the derivative of the power: gamma * p * -log(p)
            slope.addcmul_(torch.rsub(q, 1), loss if elements.visible else loss.clamp(max=1e30), value=gamma)
        torch.mul(slope, sign.mul_(1 / divisor) if isinstance(divisor, float) else sign.div_(divisor), out=out)
    return loss.sum().div_(divisor)


def _weighted_factor(q: Tensor, elements: Elements, gamma: float) -> Tensor | None:
    """Return `q**gamma` times all weights, `None` where that is 1."""
    factor = None if gamma == 0 else q.square() if gamma == 2 else q.pow(gamma)
    by_label, weight = elements.by_label(q.dtype), elements.weight
    if by_label is not None:
        factor = by_label.expand_as(q).contiguous() if factor is None else factor.mul_(by_label)
    if weight is not None:
        factor = weight.to(q.dtype, copy=True).expand_as(q) if factor is None else factor.mul_(weight)
    if elements.kept is None:
        return factor
    return (torch.ones_like(q) if factor is None else factor).masked_fill_(~elements.kept, 0)


def focal_of_negatives(logits: Tensor, gamma: float, margin: float) -> Tensor:
    """Return `s**gamma * -log(1 - s)` with `s = max(sigmoid(x) - margin, 0)`, differentiable to any order."""
    share = torch.sigmoid(logits.to(wide_dtype(logits.device))) - margin
    counts = share > 0
    inner = torch.where(counts, share, 0.5)  # where nothing counts a power below 1 would have the slope 0 * inf
    values = -torch.log1p(-inner)
    if gamma:
        values = values * inner**gamma
    return torch.where(counts, values, share.clamp(max=0) * 0).to(logits.dtype)
