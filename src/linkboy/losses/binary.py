"""Focal loss for labels 0 and 1: one logit per element, binary or multi-label, symmetric or not."""

import math

import torch
from torch import Tensor

from linkboy._checks import check_number
from linkboy._tensors import result_dtype, values_visible, wide_dtype, work_dtype
from linkboy.losses._arguments import (
    Normalizer,
    PerClass,
    Reduction,
    check_device,
    check_input,
    check_labels,
    check_real,
    check_reduction,
    check_sample_weight,
    check_share,
    check_tensor,
    check_weight_values,
    loss_function,
    number,
    proposed_shape,
    to_numbers,
)
from linkboy.losses._binary import Elements, can_be_summed_at_once, focal_of_negatives
from linkboy.losses._fused import pointwise_focal
from linkboy.losses._small import are_0_or_1
from linkboy.losses._sums import loss_sum

Factor = Tensor | float


@loss_function(
    weight="weights per element are sample_weight, the weight of label 1 is pos_weight",
    class_weight="the weight of label 1 is pos_weight",
    class_weights="the weight of label 1 is pos_weight",
)
def binary_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    gamma_positive: float | None = None,
    gamma_negative: float | None = None,
    margin: float = 0.0,
    alpha: float | PerClass | None = None,
    pos_weight: float | PerClass | None = None,
    label_smoothing: float = 0.0,
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
        gamma_positive: exponent for label 1; `None` takes `gamma`.
        gamma_negative: exponent for label 0; `None` takes `gamma`.
        margin: probability from 0 up to, not including, 1 that is subtracted from that of every element with label 0: what
            lies below it costs nothing. With two exponents this is the asymmetric loss.
        alpha: weight of label 1, from 0 to 1; label 0 then weighs `1 - alpha`. `None` weighs both by 1. A tensor must
            broadcast to the shape of `input`, as `pos_weight`.
        pos_weight: a further factor for label 1, as in `F.binary_cross_entropy_with_logits`: a number, or one per class
            where the classes are the last dimension, or anything that broadcasts to the shape of `input`.
        label_smoothing: share of the label, from 0 to 1, that becomes 1/2: a label `y` counts as
            `y * (1 - label_smoothing) + label_smoothing / 2`.
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
        >>> binary_focal_loss(logits, torch.tensor([[1, 0], [1, 0]]), gamma_positive=0.0, gamma_negative=4.0, margin=0.05)
        tensor(0.3972)

    Source: Lin et al. 2017, eq. 5, https://arxiv.org/abs/1708.02002; two exponents and the margin: Ridnik et al. 2021, eq. 7,
    https://arxiv.org/abs/2009.14119. Unlike `torchvision.ops.sigmoid_focal_loss` it has a finite gradient for `gamma < 1`,
    takes integer labels, and masks.
    """
    gammas = _check_gammas(gamma, gamma_positive, gamma_negative)
    margin = check_share("margin", margin, below_1=True)
    label_smoothing = check_share("label_smoothing", label_smoothing)
    normalizer = check_reduction(reduction, normalizer, "count")
    label, kept = _labels(input, target, ignore_index)
    weight = None
    if sample_weight is not None:
        weight, low = check_sample_weight(sample_weight, tuple(input.shape), input)
        if not low:  # 0, or not known
            kept = weight != 0 if kept is None else kept & (weight != 0)
    if kept is not None:
        label = label.masked_fill(~kept, 0)
    hard = _are_0_or_1(label)
    if not hard:
        check_labels(label)
    positive, negative = _factors(input, alpha, pos_weight, work_dtype(input))
    factors = (weight, positive, negative, normalizer)
    plain = gammas[0] == gammas[1] and not margin and not label_smoothing
    if hard and plain and reduction != "none" and can_be_summed_at_once(input, target, *factors):
        divisor = 1.0
        if reduction == "mean":
            weights = _weights(label == 1, positive, negative, weight) if normalizer == "weights" else None
            if weights is not None and kept is not None:
                weights = weights.masked_fill(~kept, 0)
            divisor = _divisor(normalizer, label, kept, weights)
        visible = values_visible(input)
        batch = Elements(input, label.to(input.dtype), kept, weight, positive, negative, divisor, gammas[0], visible)
        return loss_sum(batch, result_dtype(input))
    logits = input.to(work_dtype(input))
    if kept is not None:  # masked before the arithmetic: selecting afterwards leaves 0 * NaN in the backward pass
        logits = logits.masked_fill(~kept, 0)
    if label_smoothing:
        label = label.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    values, weights = _weighted_values(logits, label, positive, negative, gammas, margin)
    if weight is not None:
        weights, values = weights * weight, values * weight
    if kept is not None:
        weights, values = weights.masked_fill(~kept, 0), values.masked_fill(~kept, 0)
    if reduction == "mean":
        values = values.sum(dtype=weights.dtype) / _divisor(normalizer, label, kept, weights)
    elif reduction == "sum":
        values = values.sum()
    return values.to(result_dtype(input))


def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    sample_weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""`binary_focal_loss` with the options, defaults and names of the asymmetric loss for many labels at once.

    Args:
        input: logits of any shape, floating point.
        target: labels in the same shape, from 0 to 1 (or `ignore_index`).
        gamma_neg: focusing exponent of label 0, `gamma_negative` of `binary_focal_loss`.
        gamma_pos: focusing exponent of label 1, `gamma_positive` of `binary_focal_loss`.
        clip: probability below which an element with label 0 costs nothing, `margin` of `binary_focal_loss`.
        sample_weight: one non-negative number per element, in the shape of `input`; 0 masks the element.
        ignore_index: target value that gives neither loss nor gradient; `None` ignores nothing.
        reduction: `"none"`, `"mean"` or `"sum"`; the authors' code gives the sum.

    Returns:
        What `binary_focal_loss` returns.

    Raises:
        TypeError: `input` is not floating point, or `target` is not a tensor.
        ValueError: a shape, a label, a weight or an option is impossible.

    Examples:
        >>> import torch
        >>> from linkboy import asymmetric_loss
        >>> asymmetric_loss(torch.tensor([2.0, -4.0, 0.0]), torch.tensor([1, 0, 0]), reduction="sum")
        tensor(0.0396)

    Source: Ridnik et al. 2021, eq. 7, https://arxiv.org/abs/2009.14119. The authors' code adds 1e-8 inside the logarithms.
    """
    for name, value in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos)):
        number(name, value, minimum=0)
    check_share("clip", clip, below_1=True)
    return binary_focal_loss(
        input,
        target,
        gamma_positive=gamma_pos,
        gamma_negative=gamma_neg,
        margin=clip,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def _check_gammas(gamma: float, gamma_positive: float | None, gamma_negative: float | None) -> tuple[float, float]:
    """Return the exponents of label 1 and label 0."""
    gamma = number("gamma", gamma, minimum=0)
    positive = gamma if gamma_positive is None else number("gamma_positive", gamma_positive, minimum=0)
    return positive, gamma if gamma_negative is None else number("gamma_negative", gamma_negative, minimum=0)


def _weighted_values(
    logits: Tensor, label: Tensor, positive: Factor, negative: Factor, gammas: tuple[float, float], margin: float
) -> tuple[Tensor, Tensor]:
    """Return the loss of every element times its weight by label, and that weight."""
    symmetric = gammas[0] == gammas[1] and not margin
    if symmetric and not label.is_floating_point():
        weights = _by_label(label == 1, positive, negative, logits.dtype)
        return weights * pointwise_focal(torch.where(label == 1, logits, -logits), gammas[0]), weights
    label = label.to(logits.dtype)
    # A side without a share is left out where its loss is infinite: 0 * inf.
    to_one = logits.masked_fill((label == 0) & (logits == -torch.inf), 0)
    to_zero = logits.masked_fill((label == 1) & (logits == torch.inf), 0)
    of_zero = focal_of_negatives(to_zero, gammas[1], margin) if margin else pointwise_focal(-to_zero, gammas[1])
    values = positive * label * pointwise_focal(to_one, gammas[0]) + negative * (1 - label) * of_zero
    return values, positive * label + negative * (1 - label)


def _labels(input: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor | None]:
    """Return the checked target, and where it is not ignored (`None` for everywhere)."""
    check_input("input", input)
    target = check_tensor("target", target, "a tensor of labels from 0 to 1")
    if target.shape != input.shape:
        fix = proposed_shape("target", target.shape, "input", input.shape)
        if not fix and input.dim() > 1 and target.shape == input.shape[:-1]:
            fix = "; class indices belong to focal_loss"
        raise ValueError(f"target must have the shape of input {tuple(input.shape)}, got {tuple(target.shape)}{fix}")
    check_device("target", target, input)
    check_real("target", target)
    if ignore_index is None:
        return target, None
    check_number("ignore_index", ignore_index, integer=True)
    if target.dtype == torch.bool:
        raise ValueError("ignore_index needs numbers as target, got bool, which cannot hold it; use sample_weight")
    return target, target != ignore_index


def _are_0_or_1(label: Tensor) -> bool:
    """Return whether all labels are known to be 0 or 1: of which kind they are, or by looking at them where that is free."""
    if label.dtype == torch.bool:
        return True
    if not values_visible(label):
        return False
    return are_0_or_1(label.detach())


def _factors(
    input: Tensor, alpha: float | PerClass | None, pos_weight: float | PerClass | None, dtype: torch.dtype
) -> tuple[Factor, Factor]:
    """Return the weights of label 1 and label 0, numbers or tensors that broadcast to the shape of `input`."""
    positive: Factor = 1.0
    negative: Factor = 1.0
    if alpha is not None:
        positive = _factor("alpha", alpha, input, dtype)
        if not isinstance(positive, Tensor) or values_visible(positive):
            largest = positive.max().item() if isinstance(positive, Tensor) else positive
            if not largest <= 1:
                raise ValueError(f"alpha must be from 0 to 1, got {largest:.6g}")
        negative = 1 - positive
    if pos_weight is not None:
        positive = positive * _factor("pos_weight", pos_weight, input, dtype)
    return positive, negative


def _by_label(is_one: Tensor, positive: Factor, negative: Factor, dtype: torch.dtype) -> Tensor:
    """Return the weight of every element by its label."""
    return torch.where(is_one, positive, negative).to(dtype).expand(is_one.shape)


def _weights(is_one: Tensor, positive: Factor, negative: Factor, weight: Tensor | None) -> Tensor | None:
    """Return the weight of every element, `None` where all weigh 1."""
    if isinstance(positive, float) and isinstance(negative, float) and positive == negative == 1:
        return weight
    by_label = _by_label(is_one, positive, negative, wide_dtype(is_one.device))
    return by_label if weight is None else by_label * weight


def _factor(argument: str, value: float | PerClass, input: Tensor, dtype: torch.dtype) -> Factor:
    """Return a checked number, or a tensor."""
    if isinstance(value, bool):
        raise TypeError(f"{argument} must be a number or hold numbers, got {value}")
    if isinstance(value, (int, float)):
        if not 0 <= value < math.inf:
            wrong = "be finite, got inf" if value == math.inf else f"not be negative or NaN, got {value:.6g}"
            raise ValueError(f"{argument} must {wrong}")
        return float(value)
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


def _divisor(normalizer: Normalizer, label: Tensor, kept: Tensor | None, weights: Tensor | None) -> Tensor | float:
    """Return what a mean divides by, never 0; masked labels and weights are 0."""
    if not isinstance(normalizer, str):
        return normalizer
    if normalizer == "weights" and weights is not None:
        total = weights.sum(dtype=torch.promote_types(weights.dtype, torch.float32))
        return torch.where(total == 0, 1.0, total)
    if normalizer != "positives" and kept is None:
        return float(max(label.numel(), 1))
    total = (label > 0.5).sum() if normalizer == "positives" else kept.sum()  # type: ignore[union-attr]
    return float(max(total.item(), 1)) if values_visible(total) else total.clamp(min=1)
