"""The margin loss, which asks for each class separately whether it is present."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._checks import check_choice, check_number, describe
from linkboy._tensors import in_work_dtype, values_visible
from linkboy.capsules._arguments import one_hot

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS = get_args(Reduction)  # not asked in the call, where torch.compile would have to follow it


def margin_loss(
    input: Tensor,
    target: Tensor,
    *,
    m_plus: float = 0.9,
    m_minus: float = 0.1,
    down_weight: float = 0.5,
    sample_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Make the capsules of the classes that are present long, and all others short.

    An example contributes `sum_j T_j max(0, m_plus - l_j)**2 + down_weight (1 - T_j) max(0, l_j - m_minus)**2`, `l_j` the
    length of the capsule of class `j`, `T_j` 1 where the class is present and 0 elsewhere.

    Args:
        input: `(N, C)` lengths of capsules, floating point (`capsule_norm` of `CapsuleLinear`'s output).
        target: `(N,)` class indices in `[0, C)`, or `(N, C)` zeros and ones of any dtype, where several classes, or none,
            may be present.
        m_plus: length from which a class that is present adds no loss.
        m_minus: length up to which an absent class adds no loss.
        down_weight: weight of the absent classes.
        sample_weight: `(N,)`, one non-negative number per example; 0 masks the example, even if it is NaN.
        reduction: `"none"`, `"mean"` over the examples (by their weights where they have some), or `"sum"`.

    Returns:
        `(N,)` for `"none"`, else a scalar, in the dtype of `input`. The mean of no examples is 0.

    Raises:
        TypeError: `input` is not floating point, or class indices are not integers.
        ValueError: a shape, a label, a length, a weight or an option is impossible. Values are checked on a CPU only.

    Examples:
        >>> import torch
        >>> from linkboy import margin_loss
        >>> lengths = torch.tensor([[0.9, 0.1], [0.5, 0.3]])
        >>> margin_loss(lengths, torch.tensor([0, 1]), reduction="none")
        tensor([0.0000, 0.4400])

    Source: Sabour et al. 2017, eq. 4, https://arxiv.org/abs/1710.09829.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_number("m_plus", m_plus)
    check_number("m_minus", m_minus)
    check_number("down_weight", down_weight, minimum=0)
    lengths = _checked_lengths(input)
    weight = None if sample_weight is None else _checked_weight(sample_weight, lengths)
    if weight is not None:
        lengths = lengths.masked_fill((weight == 0).unsqueeze(1), 0)
    present = _present(lengths, target).to(lengths.dtype)
    missing, surplus = F.relu(m_plus - lengths).square(), F.relu(lengths - m_minus).square()
    loss = (present * missing + down_weight * (1 - present) * surplus).sum(1)
    if weight is not None:
        loss = loss * weight
    if reduction == "mean" and weight is not None:
        total = weight.sum()
        loss = loss.sum() / torch.where(total == 0, 1.0, total)
    elif reduction != "none":
        loss = loss.sum() / (max(len(loss), 1) if reduction == "mean" else 1)
    return loss.to(input.dtype)


def _checked_weight(weight: object, lengths: Tensor) -> Tensor:
    """Return one weight per example in the dtype of the lengths, or raise."""
    if not isinstance(weight, Tensor) or weight.shape != lengths.shape[:1]:
        raise ValueError(
            f"sample_weight must be a tensor with one number per example, shape ({len(lengths)},), got {describe(weight)}"
        )
    if values_visible(weight) and weight.numel() and not weight.detach().amin() >= 0:
        raise ValueError(f"sample_weight must not be negative or NaN, got {weight.detach().amin().item():.4g}")
    return weight.to(lengths.dtype)


def _checked_lengths(input: Tensor) -> Tensor:
    """Return lengths `(N, C)`, in float32 where they are of half precision."""
    if not isinstance(input, Tensor) or not input.is_floating_point():
        raise TypeError(f"input must be a floating point tensor of lengths, got {describe(input)}")
    if input.dim() != 2:
        fix = "; take capsule_norm of the capsules first" if input.dim() == 3 else ""
        raise ValueError(f"input must be lengths of shape (N, C), got {describe(input)}{fix}")
    if values_visible(input) and input.numel() and input.detach().amin() < 0:
        raise ValueError(
            f"input must hold lengths, which are not negative, got {input.detach().amin().item():.4g}; "
            "take capsule_norm of the capsules, not logits"
        )
    return in_work_dtype(input)


def _present(lengths: Tensor, target: Tensor) -> Tensor:
    """Return `(N, C)`, 1 or true where a class is present."""
    batch, classes = lengths.shape
    if not isinstance(target, Tensor) or target.shape not in ((batch,), (batch, classes)):
        raise ValueError(
            f"target must be class indices of shape ({batch},) or zeros and ones of shape ({batch}, {classes}), "
            f"got {describe(target)}"
        )
    if target.dim() == 1:
        return one_hot(target, classes)
    if values_visible(target) and not ((target == 0) | (target == 1)).all():
        raise ValueError(
            "target of shape (N, C) must hold zeros and ones, got other numbers; pass labels as indices (N,)"
        )
    return target
