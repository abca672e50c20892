"""Focal loss for one label per sample, dense maps and soft targets."""

import torch
from torch import Tensor

from linkboy._compat import SAYS_WHEN_IT_COMPILES
from linkboy._tensors import result_dtype
from linkboy.losses._arguments import (
    Normalizer,
    PerClass,
    Reduction,
    SampleRows,
    check_reduction,
    check_share,
    class_rows,
    denominator,
    loss_function,
    number,
)
from linkboy.losses._fused import margin_loss, margin_loss_sum
from linkboy.losses._soft import soft_sum, soft_values


@loss_function(weight="weights per class are alpha, weights per sample sample_weight")
def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: PerClass | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: Normalizer = "weights",
) -> Tensor:
    r"""Cross-entropy that gives less weight to the samples the model already gets right.

    A sample with target `t` contributes `w * (1 - p_t)**gamma * -log(p_t)`, `p_t` the softmax probability of its target
    and `w = alpha[t] * sample_weight`. A soft target contributes the sum of that over the classes, weighted by its
    probabilities.

    Args:
        input: `(N, C)` or `(N, C, d1, ..., dk)`, floating point, unnormalised logits.
        target: class indices `(N,)` or `(N, d1, ..., dk)` of any integer dtype, each in `[0, C)` or `ignore_index`; or
            soft targets with the shape of `input`.
        gamma: focusing exponent, at least 0; 0 is `F.cross_entropy`.
        alpha: weight per class, `C` non-negative numbers (`weight` of `F.cross_entropy`); `None` weighs all by 1.
        label_smoothing: share of the target, from 0 to 1, that is spread evenly over all classes.
        sample_weight: one non-negative number per sample, in the shape of a target of class indices. A sample with
            weight 0 is masked: even a NaN in it does not reach the loss or the gradient.
        ignore_index: target value that gives neither loss nor gradient; only for class indices.
        reduction: `"none"`, `"mean"` or `"sum"`.
        normalizer: what a mean divides by: `"weights"`, the sum of `alpha[t] * sample_weight` over the samples that
            are not ignored (of `sample_weight` for soft targets), as `F.cross_entropy` and scikit-learn do; `"count"`,
            their number; `"positives"`, the number of labels other than 0, at least 1; or a number. This choice scales
            the gradient and thereby the learning rate: weights that sum to 1 make `"count"` and `"weights"` differ by N.

    Returns:
        The shape of a target of class indices for `"none"`, else a scalar; in the dtype `F.cross_entropy` gives: that
        of `input`, but float32 for half precision under autocast. If no sample counts (an empty batch, all ignored,
        all weights 0), the mean is 0 with a gradient of 0; `F.cross_entropy` gives NaN there.

    Raises:
        TypeError: `input` is not floating point, or `target` holds neither class indices nor soft targets.
        ValueError: a shape, a length, a label, a weight or an option is impossible. Values are checked on a CPU only.

    Examples:
        >>> import torch
        >>> from linkboy import focal_loss
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
        >>> focal_loss(logits, torch.tensor([0, 1, -100]), gamma=2.0, alpha=[1.0, 2.0, 1.0])
        tensor(0.6460)
        >>> target = torch.tensor([0, 1, 2])
        >>> torch.allclose(focal_loss(logits, target, gamma=0), torch.nn.functional.cross_entropy(logits, target))
        True

    Source: Lin et al. 2017, eq. 5, https://arxiv.org/abs/1708.02002. Differs from the snippet that people copy: the
    factor is computed from the margin and not as `1 - p`, which has no correct digit for easy samples and a NaN
    gradient for `gamma < 1`.
    """
    gamma = number("gamma", gamma, minimum=0)
    label_smoothing = check_share("label_smoothing", label_smoothing)
    normalizer = check_reduction(reduction, normalizer, "weights")
    rows = class_rows(input, target, alpha=alpha, sample_weight=sample_weight, ignore_index=ignore_index)
    return reduce_rows(rows, gamma, label_smoothing, reduction, normalizer, result_dtype(input))


def reduce_rows(
    rows: SampleRows,
    gamma: float,
    label_smoothing: float,
    reduction: Reduction,
    normalizer: Normalizer,
    dtype: torch.dtype,
) -> Tensor:
    """Return the loss of a checked batch in `dtype`, `(N, ...)` or a scalar."""
    divisor = denominator(rows, normalizer) if reduction == "mean" else 1.0
    if rows.soft() or label_smoothing:
        rows = rows.shifted()
        if reduction == "none":
            return soft_values(rows, label_smoothing, gamma).to(dtype)
        return soft_sum(rows, label_smoothing, gamma, divisor, dtype)
    if reduction == "none":
        return margin_loss(rows, gamma).to(dtype)
    if not rows.visible and SAYS_WHEN_IT_COMPILES and torch.compiler.is_compiling():
        # Imported here, because that tells torch of operations which nothing else needs.
        from linkboy.losses._core_in_graph import core_sum, core_takes

        if core_takes(rows):
            return (core_sum(rows, gamma) / divisor).to(dtype)
    return margin_loss_sum(rows, divisor, gamma, dtype)
