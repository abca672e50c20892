"""The sums of small batches on a CPU, where the number of calls is what costs and not the arithmetic.

NumPy takes a third of the time of torch to start an operation. The arrays are views of the tensors' memory.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Logits up to which NumPy's exponential takes less time than torch's, which uses more of the processor but starts later.
_FEW = 2**11
# Up to so many classes the rows are transposed: softmax takes one short row at a time, but many columns.
SHORT_ROW = 30

Numbers = NDArray[np.float64]


def arrays_may_be_used() -> bool:
    """Return whether nobody follows the calls of torch, as a mode does; what NumPy computes would be missing for them."""
    return not (
        torch._C._len_torch_function_stack()  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._len_torch_dispatch_stack()
    )


def sum_by_arrays(logits: Tensor, most: int, *, visible: bool) -> bool:
    """Return whether the sum of a batch is computed here: it is on a CPU, and has at most so many logits, but some."""
    return visible and 0 < logits.numel() <= most and arrays_may_be_used()


def label_sum(
    logits: Tensor, target: Tensor, weight: Tensor | None, divisor: float, gamma: float, *, wanted: bool
) -> tuple[float, Tensor | None]:
    """Return the sum of `w * (1 - p)**gamma * -log(p)` over `divisor`, and its gradient; the sum may be infinite or NaN.

    All of it is float64, where `q = 1 - p`, summed over the other classes, has all digits at any gap of float32 logits, and
    `-log(p)` is `log1p(q / p)`. Only a probability below 1e-308 is out of reach, and the sum is infinite then.
    """
    rows = logits.detach()
    if rows.dim() > 2:
        rows, target = rows.movedim(1, -1).reshape(-1, rows.shape[1]), target.reshape(-1)
        weight = weight if weight is None else weight.reshape(-1)
    count, classes = rows.shape
    labels = target.numpy()
    by_column = classes <= SHORT_ROW < count
    with np.errstate(all="ignore"):  # what is not finite is computed again by other means
        if by_column:
            shares, place = _softmax(rows, 0), labels * count + np.arange(count)
        else:
            shares, place = _softmax(rows, 1), labels + np.arange(0, count * classes, classes)
        entries = shares.reshape(-1)
        p = entries.take(place)
        entries[place] = 0
        q = np.add.reduce(shares, 0 if by_column else 1)
        loss = np.log1p(q / p)
        scale: Any = 1 / divisor if weight is None else weight.detach().numpy() / divisor
        if gamma == 0:
            total, slope = np.add.reduce(loss * scale), scale
        else:
            power = scale * (q if gamma == 2 else np.maximum(q, 1e-200) ** (gamma - 1))
            slope = power * q
            total = loss.dot(slope)
            power *= p
            power *= loss
            slope += gamma * power  # over q
        if not wanted:
            return float(total), None
        entries[place] = -q
        shares *= slope if by_column or (weight is None and gamma == 0) else slope[:, None]
    return float(total), _gradient(shares.T if by_column else shares, logits)


def element_sum(
    logits: Tensor,
    label: Tensor,
    kept: Tensor | None,
    weight: Tensor | None,
    positive: float,
    negative: float,
    divisor: float,
    gamma: float,
    *,
    wanted: bool,
) -> tuple[float, Tensor | None]:
    """Return the sum of the binary loss of labels 0 and 1 over `divisor`, and its gradient; the sum may be infinite or NaN.

    The weights of label 1 and label 0 are `positive` and `negative`; what is not `kept` does not count.
    """
    labels = label.numpy().reshape(-1)
    sign = 1 - 2 * labels
    with np.errstate(all="ignore"):  # what is not finite is computed again by other means
        deficit = sign * logits.detach().numpy().reshape(-1)
        skipped = None if kept is None else ~kept.numpy().reshape(-1)
        if skipped is not None:  # before the arithmetic: 0 * NaN
            deficit[skipped] = 0
        gap = torch.from_numpy(deficit)
        loss = F.softplus(gap, threshold=40.0).numpy()
        q = gap.sigmoid_().numpy()
        factor = q * q if gamma == 2 else np.ones_like(q) if gamma == 0 else q**gamma
        if positive != negative:
            factor *= (positive - negative) * labels + negative
        elif positive != 1:
            factor *= positive
        if weight is not None:
            factor *= weight.detach().numpy().reshape(-1)
        if skipped is not None:
            factor[skipped] = 0
        loss *= factor
        total = float(np.add.reduce(loss)) / divisor
        if not wanted:
            return total, None
        factor *= q
        if gamma:  # the derivative of the power: gamma * p * -log(p)
            loss *= gamma - gamma * q
            factor += loss
        sign /= divisor
        factor *= sign
    return total, torch.from_numpy(factor.reshape(logits.shape))


def _softmax(rows: Tensor, axis: int) -> Numbers:
    """Return the softmax of every row, contiguous: as the rows of a matrix for axis 1, as its columns for axis 0."""
    if rows.numel() > _FEW:
        return torch.softmax(rows if axis else rows.t(), axis, dtype=torch.float64).contiguous().numpy()
    numbers = rows.numpy() if axis else rows.numpy().T
    shares = np.subtract(numbers, np.maximum.reduce(numbers, axis, keepdims=True), dtype=np.float64, order="C")
    np.exp(shares, out=shares)
    shares /= np.add.reduce(shares, axis, keepdims=True)
    return shares


def _gradient(rows: Numbers, logits: Tensor) -> Tensor:
    """Return rows of numbers in the shape and dtype of the logits, contiguous."""
    if logits.dim() == 2:
        return torch.from_numpy(rows.astype(_ARRAY_DTYPE[logits.dtype], order="C"))
    shape = (logits.shape[0], *logits.shape[2:], logits.shape[1])
    gradient = torch.from_numpy(np.ascontiguousarray(rows)).view(shape).movedim(-1, 1)
    return gradient.to(logits.dtype, memory_format=torch.contiguous_format)


_ARRAY_DTYPE = {torch.float32: np.float32, torch.float64: np.float64}
