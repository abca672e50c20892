"""Skewed classes: logit adjustment by the class priors, and weights per class from counts."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from linkboy._checks import check_choice, check_number, describe
from linkboy._tensors import in_work_dtype, result_dtype, values_visible, wide_dtype
from linkboy.losses._arguments import (
    Normalizer,
    PerClass,
    Reduction,
    check_logits,
    check_reduction,
    class_numbers,
    class_rows,
    number,
    to_numbers,
)
from linkboy.losses.focal import reduce_rows

Scheme = Literal["balanced", "sqrt", "inverse", "effective"]


def logit_adjusted_loss(
    input: Tensor,
    target: Tensor,
    *,
    priors: PerClass,
    tau: float = 1.0,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    normalizer: Normalizer = "weights",
) -> Tensor:
    r"""Cross-entropy that makes rare classes win by a margin: the first thing to try for a long tail.

    It is the cross-entropy of `input + tau * log(prior)`, in training only. Predict with the raw logits: adding the
    priors again would undo it. (A model that was trained without it can be adjusted by `logits - tau * log(prior)`.)

    Args:
        input: `(N, C)` or `(N, C, d1, ..., dk)`, floating point, unnormalised logits.
        target: class indices `(N,)` or `(N, d1, ..., dk)`, each in `[0, C)` or `ignore_index`.
        priors: how frequent each class is in the *training part*, as counts or as shares, all above 0.
        tau: strength of the adjustment, at least 0; 1 minimises the balanced error, 0 is `F.cross_entropy`.
        sample_weight: one non-negative number per sample; 0 masks the sample.
        ignore_index: target value that gives neither loss nor gradient.
        reduction: `"none"`, `"mean"` or `"sum"`.
        normalizer: what a mean divides by, as in `focal_loss`.

    Returns:
        The shape of `target` for `"none"`, else a scalar, in the dtype `F.cross_entropy` gives.

    Raises:
        TypeError: `input` is not floating point or `target` does not hold integers.
        ValueError: a prior is not above 0 (the message names the class), or a shape, label or option is impossible.

    Examples:
        >>> import torch
        >>> from linkboy import logit_adjusted_loss
        >>> logits = torch.zeros(2, 3)
        >>> logit_adjusted_loss(logits, torch.tensor([0, 2]), priors=[98, 1, 1], reduction="none")
        tensor([0.0202, 4.6052])

    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", eq. 10, https://arxiv.org/abs/2007.07314.
    torch has no such loss.
    """
    tau = number("tau", tau, minimum=0)
    normalizer = check_reduction(reduction, normalizer, "weights")
    check_logits(input)
    share = class_numbers("priors", priors, input)
    if values_visible(share) and not (share > 0).all():
        empty = int((share <= 0).nonzero()[0])
        raise ValueError(
            f"priors must be above 0 for every class, got {share[empty].item():.6g} for class {empty}; "
            "leave the class out or count it as 1"
        )
    rows = class_rows(input, target, sample_weight=sample_weight, ignore_index=ignore_index, allow_soft=False)
    shift = tau * (share / share.sum()).log()
    logits = in_work_dtype(rows.logits)
    rows = rows.with_logits(logits + shift.to(logits.dtype)[:, None])
    loss = reduce_rows(rows, 0.0, 0.0, reduction, normalizer)
    if reduction == "none":
        loss = loss.reshape(target.shape)
    return loss.to(result_dtype(input))


def class_weights(
    targets: Tensor | Sequence[int],
    scheme: Scheme = "balanced",
    *,
    num_classes: int | None = None,
    beta: float = 0.999,
    ignore_index: int = -100,
) -> Tensor:
    r"""Weights per class from the labels of the training part, for `alpha=` or torch's `weight=`.

    With `n_c` labels of class `c`, `N` in all: `"balanced"` is `N / (C * n_c)` as in scikit-learn, `"inverse"` is
    `1 / n_c`, `"sqrt"` is `1 / sqrt(n_c)`, and `"effective"` is `(1 - beta) / (1 - beta**n_c)`, scaled to a mean of 1.

    Args:
        targets: class indices of any shape.
        scheme: `"balanced"`, `"sqrt"`, `"inverse"` or `"effective"`.
        num_classes: number of classes `C`; `None` takes the largest label plus 1.
        beta: only for `"effective"`: from 0 (all weights 1) up to, not including, 1 (towards `"inverse"`).
        ignore_index: label that is not counted.

    Returns:
        `(C,)` on the device of `targets`, in torch's default dtype.

    Raises:
        TypeError: `targets` are not integers.
        ValueError: a class has no label (the message names it), a label is outside the classes, or an option is wrong.

    Examples:
        >>> import torch
        >>> from linkboy import class_weights
        >>> class_weights(torch.tensor([0, 0, 0, 1]))
        tensor([0.6667, 2.0000])

    Source: scikit-learn `compute_class_weight`; for `"effective"` Cui et al. 2019, https://arxiv.org/abs/1901.05555.
    """
    check_choice("scheme", scheme, get_args(Scheme))
    beta = number("beta", beta)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be a number from 0 up to, not including, 1, got {beta!r}")
    counts = _class_counts(targets, num_classes, ignore_index)
    match scheme:
        case "balanced":
            weights = counts.sum() / (len(counts) * counts)
        case "inverse":
            weights = 1 / counts
        case "sqrt":
            weights = counts.rsqrt()
        case _:
            weights = (1 - beta) / (1 - beta**counts)
            weights = weights / weights.mean()
    return weights.to(torch.get_default_dtype())


def _class_counts(targets: Tensor | Sequence[int], num_classes: int | None, ignore_index: int) -> Tensor:
    labels = to_numbers("targets", targets, None)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        if labels.numel():
            raise TypeError(
                f"targets must hold integer class indices, got {describe(labels)}; convert them with .long()"
            )
        labels = labels.long()
    labels = labels[labels != ignore_index].long()
    if num_classes is not None:
        check_number("num_classes", num_classes, minimum=1, integer=True)
    elif labels.numel() == 0:
        raise ValueError("targets must hold at least one label, got none")
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.numel():
        raise ValueError(f"targets must hold labels from 0 to {classes - 1}, got {wrong[0].item()}")
    counts = torch.bincount(labels, minlength=classes)
    if not counts.all():
        empty = int((counts == 0).nonzero()[0])
        raise ValueError(
            f"targets must hold every one of the {classes} classes, got no label of class {empty}; "
            "leave the class out or set its weight by hand"
        )
    return counts.to(wide_dtype(counts.device))
