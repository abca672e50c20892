"""Focal loss for labels 0 and 1: one logit per element, binary or multi-label."""

import torch
from torch import Tensor

from linkboy._checks import check_number, check_same_shape
from linkboy._tensors import check_floating, result_dtype, values_visible, work_dtype
from linkboy.losses._arguments import (
    Normalizer,
    PerClass,
    Reduction,
    check_device,
    check_real,
    check_reduction,
    check_sample_weight,
    check_tensor,
    check_weight_values,
    number,
    to_numbers,
)
from linkboy.losses._fused import pointwise_focal


def binary_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | PerClass | None = None,
    pos_weight: float | PerClass | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    normalizer: Normalizer = "count",
) -> Tensor:
    r"""Binary cross-entropy that gives less weight to the elements the model already gets right.

    An element with label 1 contributes `w * (1 - p)**gamma * -log(p)`, one with label 0 `w * p**gamma * -log(1 - p)`,
    with `p = sigmoid(input)`; a label in between is a mixture of both.

    Args:
        input: logits of any shape, floating point.
        target: labels in the same shape, from 0 to 1 (or `ignore_index`), floating point, integer or bool.
        gamma: focusing exponent, at least 0; 0 is `F.binary_cross_entropy_with_logits`.
        alpha: weight of label 1, from 0 to 1; label 0 then weighs `1 - alpha`. `None` weighs both by 1. A tensor must
            broadcast to the shape of `input`, as `pos_weight`.
        pos_weight: a further factor for label 1, as in `F.binary_cross_entropy_with_logits`: a number, or one per class
            where the classes are the last dimension, or anything that broadcasts to the shape of `input`.
        sample_weight: one non-negative number per element, in the shape of `input`; 0 masks the element.
        ignore_index: target value that gives neither loss nor gradient; `None` ignores nothing.
        reduction: `"none"`, `"mean"` or `"sum"`.
        normalizer: what a mean divides by: `"count"`, the number of elements that are not masked, as torch does;
            `"weights"`, the sum of all their weights; `"positives"`, the number of labels above 1/2, at least 1
            (RetinaNet); or a number.

    Returns:
        The shape of `input` for `"none"`, else a scalar; in the dtype of `input`, but float32 for half precision under
        autocast. A mean over nothing is 0.

    Raises:
        TypeError: `input` is not floating point, or `target` is not a tensor.
        ValueError: a shape, a label, a weight or an option is impossible. Values are checked on a CPU only.

    Examples:
        >>> import torch
        >>> from linkboy import binary_focal_loss
        >>> logits = torch.tensor([[3.0, -1.0], [0.0, 2.0]])
        >>> binary_focal_loss(logits, torch.tensor([[1, 0], [1, 0]]), gamma=2.0, alpha=0.25)
        tensor(0.3245)

    Source: Lin et al. 2017, eq. 5, https://arxiv.org/abs/1708.02002. Unlike `torchvision.ops.sigmoid_focal_loss` it has
    a finite gradient for `gamma < 1`, takes integer labels, and masks.
    """
    gamma = number("gamma", gamma, minimum=0)
    normalizer = check_reduction(reduction, normalizer, "count")
    label, kept = _labels(input, target, ignore_index)
    weight = None
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, tuple(input.shape), input)
        kept = weight != 0 if kept is None else kept & (weight != 0)
    logits = input.to(work_dtype(input))
    if kept is not None:  # masked before the arithmetic: selecting afterwards leaves 0 * NaN in the backward pass
        logits, label = logits.masked_fill(~kept, 0), label.masked_fill(~kept, 0)
    _check_labels(label)
    positive, negative = _factors(input, alpha, pos_weight, logits.dtype)
    if label.is_floating_point():
        label = label.to(logits.dtype)
        weights = positive * label + negative * (1 - label)
        # A side without a share is left out where its loss is infinite: 0 * inf.
        to_one = logits.masked_fill((label == 0) & (logits == -torch.inf), 0)
        to_zero = -logits.masked_fill((label == 1) & (logits == torch.inf), 0)
        values = positive * label * pointwise_focal(to_one, gamma)
        values = values + negative * (1 - label) * pointwise_focal(to_zero, gamma)
    else:
        weights = torch.where(label == 1, positive, negative).expand(label.shape)
        values = weights * pointwise_focal(torch.where(label == 1, logits, -logits), gamma)
    if weight is not None:
        weights, values = weights * weight, values * weight
    if kept is not None:
        weights, values = weights.masked_fill(~kept, 0), values.masked_fill(~kept, 0)
    if reduction == "mean":
        values = values.sum(dtype=weights.dtype) / _divisor(normalizer, label, kept, weights)
    elif reduction == "sum":
        values = values.sum()
    return values.to(result_dtype(input))


def _labels(input: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor | None]:
    """Return the checked target, and where it is not ignored (`None` for everywhere)."""
    check_floating("input", input)
    target = check_tensor("target", target, "a tensor of labels from 0 to 1")
    check_same_shape("target", target, "input", input)
    check_device("target", target, input)
    check_real("target", target)
    if ignore_index is None:
        return target, None
    check_number("ignore_index", ignore_index, integer=True)
    if target.dtype == torch.bool:
        raise ValueError("ignore_index needs numbers as target, got bool, which cannot hold it; use sample_weight")
    return target, target != ignore_index


def _check_labels(label: Tensor) -> None:
    if values_visible(label) and label.numel() and label.dtype != torch.bool:
        low, high = (bound.item() for bound in label.detach().aminmax())
        if not (low >= 0 and high <= 1):
            wrong = high if low >= 0 else low
            raise ValueError(f"target must hold labels from 0 to 1, got {wrong:.6g}")


def _factors(
    input: Tensor, alpha: float | PerClass | None, pos_weight: float | PerClass | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the weights of label 1 and label 0, each broadcasting to the shape of `input`."""
    one = torch.ones((), dtype=dtype, device=input.device)
    positive = negative = one
    if alpha is not None:
        positive = _factor("alpha", alpha, input, dtype)
        if values_visible(positive) and not (positive <= 1).all():
            raise ValueError(f"alpha must be from 0 to 1, got {positive.max().item():.6g}")
        negative = 1 - positive
    if pos_weight is not None:
        positive = positive * _factor("pos_weight", pos_weight, input, dtype)
    return positive, negative


def _factor(argument: str, value: float | PerClass, input: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(value, Tensor):
        value = to_numbers(argument, value, dtype).to(input.device)
    shape = value.shape
    fits = len(shape) <= input.dim() and all(
        size in (1, whole) for size, whole in zip(reversed(shape), reversed(input.shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{argument} must broadcast to the shape of input {tuple(input.shape)}, got {tuple(shape)}; "
            "one number per class belongs to the last dimension"
        )
    check_device(argument, value, input)
    check_weight_values(argument, value)
    return value.to(dtype)


def _divisor(normalizer: Normalizer, label: Tensor, kept: Tensor | None, weights: Tensor) -> Tensor | float:
    if not isinstance(normalizer, str):
        return normalizer
    if normalizer == "weights":
        total = weights.sum()
        return torch.where(total == 0, 1.0, total)
    if normalizer == "positives":  # masked labels have become 0
        return (label > 0.5).sum().clamp(min=1)
    return max(label.numel(), 1) if kept is None else kept.sum().clamp(min=1)
