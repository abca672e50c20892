"""Skewed classes: logit adjustment by the class priors, and weights per class from counts."""

import math
from collections.abc import Sequence
from typing import Literal, TypeGuard, get_args

import torch
from torch import Tensor

from linkboy._checks import check_choice, check_flag, check_number, describe
from linkboy._tensors import result_dtype, values_visible, wide_dtype, work_dtype
from linkboy.losses._arguments import (
    Normalizer,
    PerClass,
    Reduction,
    SampleRows,
    check_reduction,
    check_share,
    check_weight_values,
    class_numbers,
    class_rows,
    fix_of_labels,
    loss_function,
    number,
    to_numbers,
)
from linkboy.losses._small import KINDS, core_may_be_used, logarithms_by_core
from linkboy.losses.focal import reduce_rows

Scheme = Literal["balanced", "sqrt", "inverse", "effective"]


@loss_function(weight="the loss has priors in place of weights per class; weights per sample are sample_weight")
def logit_adjusted_loss(
    input: Tensor,
    target: Tensor,
    *,
    priors: PerClass,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
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
        target: class indices `(N,)` or `(N, d1, ..., dk)`, each in `[0, C)` or `ignore_index`; or soft targets with the
            shape of `input`.
        priors: how frequent each class is in the *training part*, as counts or as shares, all above 0.
        tau: strength of the adjustment, at least 0; 1 minimises the balanced error, 0 is `F.cross_entropy`.
        label_smoothing: share of the target, from 0 to 1, that is spread evenly over all classes.
        sample_weight: one non-negative number per sample; 0 masks the sample.
        ignore_index: target value that gives neither loss nor gradient; only for class indices.
        reduction: `"none"`, `"mean"` or `"sum"`.
        normalizer: what a mean divides by, as in `focal_loss`.

    Returns:
        The shape of a target of class indices for `"none"`, else a scalar, in the dtype `F.cross_entropy` gives.

    Raises:
        TypeError: `input` is not floating point, or `target` holds neither class indices nor soft targets.
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
    label_smoothing = check_share("label_smoothing", label_smoothing)
    normalizer = check_reduction(reduction, normalizer, "weights")
    rows = class_rows(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    rows = rows.with_shift(_log_priors(priors, tau, rows))
    return reduce_rows(rows, 0.0, label_smoothing, reduction, normalizer, result_dtype(input))


def _log_priors(priors: PerClass, tau: float, rows: SampleRows) -> Tensor:
    """Return `tau * log(prior)` of each class, or raise; counts need no division by their sum, which changes no softmax."""
    input = rows.logits  # noqa: A001
    dtype = work_dtype(input)
    if _core_reads(priors, rows):
        shift, low, high = logarithms_by_core(priors, tau, dtype)
        if low > 0 and high < math.inf:
            return shift
    share, low = class_numbers("priors", priors, input)
    if low is not None and not low > 0:
        empty = int((share <= 0).nonzero()[0])
        raise ValueError(
            f"priors must be above 0 for every class, got {share[empty].item():.6g} for class {empty}; "
            "leave the class out or count it as 1"
        )
    return (share.log() * tau).to(dtype)


def _core_reads(priors: PerClass, rows: SampleRows) -> TypeGuard[Tensor]:
    """Return whether the compiled core can take the logarithms, which it does in a third of the time of torch."""
    return (
        rows.visible
        and isinstance(priors, Tensor)
        and priors.shape == rows.logits.shape[1:2]
        and priors.dtype in KINDS
        and not priors.requires_grad
        and values_visible(priors)
        and core_may_be_used()
    )


def class_weights(
    targets: Tensor | Sequence[int] | None = None,
    scheme: Scheme = "balanced",
    *,
    counts: PerClass | None = None,
    multi_hot: bool = False,
    sample_weight: PerClass | None = None,
    num_classes: int | None = None,
    beta: float = 0.999,
    ignore_index: int = -100,
) -> Tensor:
    r"""Weights per class from the labels of the training part, for `alpha=` or torch's `weight=`.

    With `n_c` labels of class `c`, `N` in all: `"balanced"` is `N / (C * n_c)` as in scikit-learn, `"inverse"` is
    `1 / n_c`, `"sqrt"` is `1 / sqrt(n_c)`, and `"effective"` is `(1 - beta) / (1 - beta**n_c)`, scaled to a mean of 1.

    Args:
        targets: class indices of any shape, or with `multi_hot` rows of zeros and ones.
        scheme: `"balanced"`, `"sqrt"`, `"inverse"` or `"effective"`.
        counts: in place of `targets`: how often each class occurs, one number above 0 per class.
        multi_hot: whether `targets` are `(N, C)`, 1 where a sample has the class, as for many labels at once.
        sample_weight: one non-negative number per label (with `multi_hot` per row); a class then counts as much as its
            samples weigh.
        num_classes: number of classes `C`; `None` takes the largest label plus 1.
        beta: only for `"effective"`: from 0 (all weights 1) up to, not including, 1 (towards `"inverse"`).
        ignore_index: label that is not counted.

    Returns:
        `(C,)` on the device of `targets`, in torch's default dtype.

    Raises:
        TypeError: `targets` are not integers, or not exactly one of `targets` and `counts` is given.
        ValueError: a class has no label (the message names it), a label is outside the classes, or an option is wrong.

    Examples:
        >>> import torch
        >>> from linkboy import class_weights
        >>> class_weights(torch.tensor([0, 0, 0, 1]))
        tensor([0.6667, 2.0000])
        >>> class_weights(counts=[3, 1])
        tensor([0.6667, 2.0000])

    Source: scikit-learn `compute_class_weight`; for `"effective"` Cui et al. 2019, https://arxiv.org/abs/1901.05555.
    """
    check_choice("scheme", scheme, get_args(Scheme))
    check_flag("multi_hot", multi_hot)
    beta = check_share("beta", beta, below_1=True)
    amount = _amounts(targets, counts, multi_hot, sample_weight, num_classes, ignore_index)
    match scheme:
        case "balanced":
            weights = (amount / len(amount)).sum() / amount
        case "inverse":
            weights = 1 / amount
        case "sqrt":
            weights = amount.rsqrt()
        case _:
            weights = (1 - beta) / (1 - beta**amount)
            weights = weights / weights.mean()
    return weights.to(torch.get_default_dtype())


def pos_weight(
    targets: Tensor | Sequence[Sequence[int]], *, sample_weight: PerClass | None = None, ignore_index: int | None = None
) -> Tensor:
    r"""Zeros over ones of each class, for `pos_weight=` of `binary_focal_loss` and of torch's BCE: both sides then weigh alike.

    Args:
        targets: labels 0 and 1, or `ignore_index`, of shape `(..., C)`; classes are the last dimension. Labels of shape
            `(N,)` are one class.
        sample_weight: one non-negative number per row, in the shape of `targets` without the classes.
        ignore_index: label that is not counted; `None` ignores nothing.

    Returns:
        `(C,)`, or a scalar for labels of shape `(N,)`, on the device of `targets`, in torch's default dtype.

    Raises:
        TypeError: `targets` do not hold numbers.
        ValueError: a label is neither 0 nor 1, or a class has no label 1 (the message names it).

    Examples:
        >>> import torch
        >>> from linkboy import pos_weight
        >>> pos_weight(torch.tensor([[1, 0], [0, 1], [0, 1], [0, 1]]))
        tensor([3.0000, 0.3333])
    """
    labels = _with_values(to_numbers("targets", targets, None))  # type: ignore[arg-type]  # also rows of numbers
    if not labels.dim() or not labels.numel():
        raise ValueError(f"targets must hold at least one row of labels, got {describe(labels)}")
    kept = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    _check_zeros_and_ones(labels, kept)
    weight = kept.to(wide_dtype(labels.device))
    if sample_weight is not None:
        rows = labels.shape if labels.dim() == 1 else labels.shape[:-1]
        per_row = _weights_of("sample_weight", sample_weight, rows, labels.device)
        weight = weight * (per_row if labels.dim() == 1 else per_row.unsqueeze(-1))
    dims = list(range(max(labels.dim() - 1, 1)))
    ones, zeros = ((weight * (labels == value)).sum(dims) for value in (1, 0))
    if not ones.all():
        where = "" if not ones.dim() else f" for class {int((ones == 0).nonzero()[0])}"
        raise ValueError(f"targets must hold a label 1 for every class, got none{where}; leave the class out")
    return (zeros / ones).to(torch.get_default_dtype())


def _amounts(
    targets: Tensor | Sequence[int] | None,
    counts: PerClass | None,
    multi_hot: bool,
    sample_weight: PerClass | None,
    num_classes: int | None,
    ignore_index: int,
) -> Tensor:
    """Return how much there is of each class, all above 0, in the wide dtype."""
    if (targets is None) == (counts is None):
        given = "neither" if targets is None else "both"
        raise TypeError(f"class_weights needs either targets or counts, got {given}")
    if counts is not None:
        if sample_weight is not None or num_classes is not None or multi_hot:
            raise ValueError(
                "counts cannot stand beside multi_hot, sample_weight or num_classes, which belong to targets"
            )
        amount = to_numbers("counts", counts, torch.float64)
        if amount.dim() != 1 or not amount.numel():
            raise ValueError(f"counts must hold one number per class, got {describe(amount)}")
        check_weight_values("counts", amount)
        return _refuse_empty(amount.to(wide_dtype(amount.device)))
    labels = _with_values(to_numbers("targets", targets, None))  # type: ignore[arg-type]  # not None
    if multi_hot:
        return _amounts_of_rows(labels, sample_weight, num_classes)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        if labels.numel():
            raise TypeError(f"targets must hold integer class indices, got {describe(labels)}{_as_indices(labels)}")
        labels = labels.long()
    if labels.dim() == 2 and len(labels) > 2 and labels.shape[1] > 1 and _are_one_hot(labels):
        raise ValueError(f"targets must hold class indices, got one-hot rows {describe(labels)}{_as_indices(labels)}")
    weight = None
    kept = labels != ignore_index
    if sample_weight is not None:
        weight = _weights_of("sample_weight", sample_weight, labels.shape, labels.device)[kept]
    labels = labels[kept].long()
    if num_classes is not None:
        check_number("num_classes", num_classes, minimum=1, integer=True)
    elif labels.numel() == 0:
        raise ValueError("targets must hold at least one label, got none")
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.numel():
        first = wrong[0].item()
        fix = fix_of_labels(labels, first, classes, "targets")
        raise ValueError(f"targets must hold labels from 0 to {classes - 1}, got {first}{fix}")
    amount = torch.bincount(labels, minlength=classes) if weight is None else None
    if amount is None:
        amount = torch.zeros(classes, dtype=weight.dtype, device=labels.device).index_add_(0, labels, weight)  # type: ignore[union-attr]
    if num_classes is None and classes == 256 and not amount.all():
        raise ValueError(
            f"targets must hold every one of the 256 classes, got no label of class {int((amount == 0).nonzero()[0])}; if 255 "
            "marks what is ignored, pass ignore_index=255"
        )
    return _refuse_empty(amount.to(wide_dtype(amount.device)))


def _are_one_hot(labels: Tensor) -> bool:
    """Return whether every row holds one 1 and zeros, which no map of labels does by chance."""
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())


def _as_indices(labels: Tensor) -> str:
    """Return `"; ..."` with code that makes class indices of labels: of rows of zeros and ones, their place."""
    if labels.dim() != 2:
        return "; convert them with .long()"
    ordered = "targets.int()" if labels.dtype is torch.bool else "targets"  # torch orders no truth values
    return f"; turn one-hot rows into class indices with {ordered}.argmax(1), or pass multi_hot=True"


def _amounts_of_rows(labels: Tensor, sample_weight: PerClass | None, num_classes: int | None) -> Tensor:
    """Return how much there is of each class in rows of zeros and ones."""
    if labels.dim() != 2 or num_classes not in (None, labels.shape[1]):
        classes = "C" if num_classes is None else num_classes
        raise ValueError(f"targets must have shape (N, {classes}) with multi_hot, got {describe(labels)}")
    _check_zeros_and_ones(labels, torch.ones_like(labels, dtype=torch.bool))
    rows = labels.to(wide_dtype(labels.device))
    if sample_weight is not None:
        rows = rows * _weights_of("sample_weight", sample_weight, labels.shape[:1], labels.device).unsqueeze(1)
    return _refuse_empty(rows.sum(0))


def _with_values(labels: Tensor) -> Tensor:
    if labels.is_meta:
        raise ValueError(f"targets must have values to count, got {describe(labels)} on the meta device")
    return labels


def _check_zeros_and_ones(labels: Tensor, kept: Tensor) -> None:
    wrong = labels[kept & (labels != 0) & (labels != 1)]
    if wrong.numel():
        raise ValueError(f"targets must hold labels 0 and 1, got {wrong[0].item():.6g}")


def _weights_of(argument: str, value: PerClass, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return weights of a shape in the wide dtype, or raise."""
    weight = to_numbers(argument, value, torch.float64).to(device)
    if weight.shape != shape:
        raise ValueError(f"{argument} must have shape {tuple(shape)}, one number per label, got {tuple(weight.shape)}")
    check_weight_values(argument, weight)
    return weight.to(wide_dtype(device))


def _refuse_empty(amount: Tensor) -> Tensor:
    if not amount.all():
        empty = int((amount == 0).nonzero()[0])
        raise ValueError(
            f"targets must hold every one of the {len(amount)} classes, got no label of class {empty}; "
            "leave the class out or set its weight by hand"
        )
    return amount
