"""The sums of small batches on a CPU, where the number of calls is what costs and not the arithmetic.

The compiled core does each with one call and in double precision. Without it NumPy does, which takes a third of the time of
torch to start an operation. The arrays are views of the tensors' memory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from linkboy._compiled import core

# Asked once: the question takes as long as the sum of a small batch.
CORE: Any = core()
# What the core calls the numbers whose bounds it finds.
KINDS = {torch.int64: 0, torch.float32: 1, torch.float64: 2}
# Logits, and samples, up to which NumPy takes less time than torch, which uses more of the processor but starts later.
_FEW, _FEW_ROWS = 2**14, 2**9
# Logits up to which the core takes less time than torch on several threads.
_FEW_FOR_CORE = 2**19
# Up to so many classes the rows are transposed: NumPy reduces one short row at a time, but many columns.
SHORT_ROW = 30

Numbers = NDArray[Any]


def arrays_may_be_used() -> bool:
    """Return whether nobody follows the calls of torch, as a mode does; what NumPy computes would be missing for them."""
    return not (
        torch._C._len_torch_function_stack()  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._len_torch_dispatch_stack()
    )


def core_may_be_used() -> bool:
    """Return whether the core is there, and nobody would miss what it computes."""
    return CORE is not None and arrays_may_be_used()


def sum_by_core(logits: Tensor, *, visible: bool) -> bool:
    """Return whether the core computes the sum of a batch: it has one thread, and torch has more for many logits."""
    few = logits.numel() > 0 and (logits.numel() <= _FEW_FOR_CORE or torch.get_num_threads() == 1)
    return visible and few and core_may_be_used()


def sum_by_arrays(logits: Tensor, most: int, *, visible: bool) -> bool:
    """Return whether the sum of a batch is computed here: it is on a CPU, and has at most so many logits, but some."""
    return visible and 0 < logits.numel() <= most and arrays_may_be_used()


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor with its numbers one after the other, as the core reads them."""
    # An operation, and not a question first: it also takes a tensor that outlived a transform out of its wrapper.
    return tensor.resolve_neg().contiguous()


def address(tensor: Tensor | None) -> int:
    """Return where the numbers of a dense tensor are, 0 for none."""
    if tensor is None:
        return 0
    place = tensor.data_ptr()
    if not place and tensor.numel():
        raise RuntimeError("a tensor of the loss has no memory: its storage was freed")
    return place


def bounds_by_core(numbers: Tensor) -> tuple[float, float]:
    """Return the lowest and the highest of numbers of one of the `KINDS`, NaN if one is."""
    numbers = dense(numbers)
    return CORE.bounds(KINDS[numbers.dtype], address(numbers), numbers.numel())


def logarithms_by_core(numbers: Tensor, factor: float, dtype: torch.dtype) -> tuple[Tensor, float, float]:
    """Return `factor * log(number)` in float32 or float64, and the bounds of the numbers, which are of one of the `KINDS`."""
    numbers = dense(numbers)
    out = torch.empty_like(numbers, dtype=dtype)
    wide = dtype is torch.float64
    bounds = CORE.logarithms(KINDS[numbers.dtype], address(numbers), numbers.numel(), factor, wide, address(out))
    return out, *bounds


def are_0_or_1(numbers: Tensor) -> bool:
    """Return whether all numbers on a CPU are 0 or 1."""
    if not arrays_may_be_used():
        return bool(((numbers == 0) | (numbers == 1)).all())
    if CORE is not None and numbers.dtype in KINDS:
        numbers = dense(numbers)
        return CORE.are_0_or_1(KINDS[numbers.dtype], address(numbers), numbers.numel())
    array = (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).numpy()
    # Of NumPy, which takes a quarter of the time of torch's comparison and reduction.
    return int(np.count_nonzero(array == 1)) + int(np.count_nonzero(array == 0)) == array.size


def weight_sum_by_core(target: Tensor, weight: Tensor | None, class_weight: Tensor) -> float:
    """Return the sum of the weights of all samples times those of their classes."""
    target, class_weight = dense(target), dense(class_weight)
    weight = None if weight is None else dense(weight)
    return CORE.weight_sum(address(target), address(weight), address(class_weight), target.numel())


def _sum_and_gradient(
    function: Callable[..., float], tensors: Sequence[Tensor | None], *numbers: float, wanted: bool
) -> tuple[float, Tensor | None]:
    """Return the sum that a function of the core computes, and the gradient by the first of the tensors that it fills in."""
    held = [None if tensor is None else dense(tensor) for tensor in tensors]
    logits: Any = held[0]
    gradient = torch.empty_like(logits) if wanted else None
    total = function(logits.dtype is torch.float64, *map(address, held), address(gradient), *numbers)
    return total, gradient


def label_sum_by_core(
    logits: Tensor,
    target: Tensor,
    weights: tuple[Tensor | None, Tensor | None],
    shift: Tensor | None,
    divisor: float,
    gamma: float,
    *,
    wanted: bool,
) -> tuple[float, Tensor | None]:
    """Return what `label_sum` returns of `logits + shift`; the weights are of samples and of classes, and 0 masks."""
    samples, classes = logits.shape[:2]
    sizes = samples, classes, target.numel() // samples
    return _sum_and_gradient(CORE.label_sum, (logits, target, *weights, shift), *sizes, gamma, divisor, wanted=wanted)


def label_sum(
    logits: Tensor, target: Tensor, weight: Tensor | None, divisor: float, gamma: float, *, wanted: bool
) -> tuple[float, Tensor | None]:
    """Return the sum of `w * (1 - p)**gamma * -log(p)` over `divisor`, and its gradient; the sum may be infinite or NaN.

    `q = 1 - p` and `-log(p)` come from the odds `q / p`, which are the sum of the others' exponentials, relative to the largest
    of them, over that of the target. Only odds above 1e308 are out of reach, and the sum is infinite then.
    """
    numbers, labels = logits.detach().resolve_neg().numpy(), target.numpy()
    few = numbers.size <= _FEW
    by_column = few and numbers.ndim == 2 and numbers.shape[1] <= SHORT_ROW < numbers.shape[0]
    # Samples, classes, positions: a matrix has one position a sample, or as columns one sample.
    shares = (numbers.T[None] if by_column else numbers.reshape(*numbers.shape[:2], -1)).copy()
    samples, classes, positions = shares.shape
    place = np.arange(0, shares.size, classes * positions)[:, None] + labels.reshape(samples, positions) * positions
    if positions > 1:
        place += np.arange(positions)
    entries = shares.reshape(-1)
    own = entries.take(place)
    with np.errstate(all="ignore"):  # what is not finite is computed again by other means
        entries[place] = -np.inf
        top, rest = _exponentials(shares, few=few)
        odds = _exp(np.subtract(top, own, dtype=np.float64))
        odds *= rest
        loss = _log1p(odds)
        p = 1 / (1 + odds)
        q = odds * p
        scale: Any = 1 / divisor if weight is None else weight.detach().resolve_neg().numpy().reshape(q.shape) / divisor
        if gamma == 0:
            total, slope = np.add.reduce(loss * scale, None), q * scale
        else:
            power = q * q if gamma == 2 else q**gamma
            power *= scale
            total = np.vdot(loss, power)
            slope = loss * p
            slope *= gamma
            slope += q
            slope *= power
        if not wanted:
            return float(total), None
        entries[place] = -rest
        slope /= rest
        _scale(shares, slope[:, None], few=few)
    return float(total), torch.from_numpy(shares[0].T.copy() if by_column else shares.reshape(numbers.shape))


def share_sum_by_core(
    logits: Tensor,
    target: Tensor,
    weights: tuple[Tensor | None, Tensor | None],
    label_smoothing: float,
    divisor: float,
    gamma: float,
    *,
    wanted: bool,
) -> tuple[float, Tensor | None]:
    """Return the sum of `w * sum_c w_c y_c (1 - p_c)**gamma * -log(p_c)` over `divisor`, and its gradient.

    The target holds labels, or the shares `y`.
    """
    targets = (target.double(), None) if target.is_floating_point() else (None, target)
    samples, classes = logits.shape[:2]
    sizes = samples, classes, logits.numel() // (samples * classes)
    return _sum_and_gradient(
        CORE.share_sum, (logits, *targets, *weights), *sizes, label_smoothing, gamma, divisor, wanted=wanted
    )


def element_sum_by_core(
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
    """Return what `element_sum` returns, at least as exact."""
    numbers = logits.numel(), positive / divisor, negative / divisor, gamma
    return _sum_and_gradient(CORE.element_sum, (logits, label, kept, weight), *numbers, wanted=wanted)


def error_sum_by_core(
    predicted: Tensor,
    target: Tensor,
    weight: Tensor | None,
    cost: tuple[int, float, float],
    *,
    mean: bool,
    root: bool,
    wanted: bool,
) -> tuple[float, Tensor | None]:
    """Return the sum of what the errors cost, or their mean, or its root, and its gradient; all tensors have one dtype."""
    numbers = predicted.numel(), *cost, mean, root
    return _sum_and_gradient(CORE.error_sum, (predicted, target, weight), *numbers, wanted=wanted)


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
    # In float64, because torch's sigmoid of float32 has an error that a power of 5 makes 4e-6.
    labels = label.numpy().reshape(-1).astype(np.float64)
    sign = labels * -2
    sign += 1
    with np.errstate(all="ignore"):  # what is not finite is computed again by other means
        deficit = sign * logits.detach().resolve_neg().numpy().reshape(-1)
        skipped = None if kept is None else ~kept.numpy().reshape(-1)
        if skipped is not None:  # before the arithmetic: 0 * NaN
            deficit[skipped] = 0
        gap = torch.from_numpy(deficit)
        loss = F.softplus(gap, threshold=40.0).numpy()
        q = gap.sigmoid_().numpy()
        factor = q * q if gamma == 2 else np.ones_like(q) if gamma == 0 else q**gamma
        factor *= _by_label(labels, positive / divisor, negative / divisor)
        if weight is not None:
            factor *= weight.detach().resolve_neg().numpy().reshape(-1)
        if skipped is not None:
            factor[skipped] = 0
        loss *= factor
        total = float(np.add.reduce(loss))
        if not wanted:
            return total, None
        slope = factor
        slope *= q
        if gamma:  # the derivative of the power: gamma * p * -log(p)
            p = 1 - q
            p *= gamma
            loss *= p
            slope += loss
        slope *= sign
    return total, torch.from_numpy(slope.reshape(logits.shape)).to(logits.dtype)


def _by_label(labels: Numbers, positive: float, negative: float) -> Numbers | float:
    """Return the numbers for labels 1 and 0 in the places of these, one number where both are equal."""
    if positive == negative:
        return positive
    numbers = labels * (positive - negative)
    numbers += negative
    return numbers


def _exponentials(logits: Numbers, *, few: bool) -> tuple[Numbers, Numbers]:
    """Return the largest of each sample's logits, and the sum of the exponentials relative to it that they turn into."""
    if few:
        top = np.maximum.reduce(logits, 1, keepdims=True)
        logits -= top
        np.exp(logits, out=logits)
        return top[:, 0], np.add.reduce(logits, 1, dtype=np.float64)
    numbers = torch.from_numpy(logits)
    top = numbers.amax(1, keepdim=True)
    rest = numbers.sub_(top).exp_().sum(1)
    return top.squeeze(1).numpy(), rest.numpy()


def _scale(rows: Numbers, factor: Numbers, *, few: bool) -> None:
    if few:
        rows *= factor
    else:
        torch.from_numpy(rows).mul_(torch.from_numpy(factor.astype(rows.dtype)))


def _exp(numbers: Numbers) -> Numbers:
    return np.exp(numbers, out=numbers) if numbers.size <= _FEW_ROWS else torch.from_numpy(numbers).exp_().numpy()


def _log1p(numbers: Numbers) -> Numbers:
    return np.log1p(numbers) if numbers.size <= _FEW_ROWS else torch.from_numpy(numbers).log1p().numpy()
