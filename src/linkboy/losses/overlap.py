"""Overlap of a predicted and a true region: the Tversky loss, with Dice and the focal Tversky loss as cases."""

from typing import Literal

import torch
from torch import Tensor

from linkboy._checks import check_choice, check_flag
from linkboy._tensors import in_work_dtype, result_dtype, wide_dtype
from linkboy.losses._arguments import (
    REDUCTIONS,
    PerClass,
    Reduction,
    SampleRows,
    check_device,
    check_input,
    check_labels,
    check_real,
    check_sample_weight,
    check_tensor,
    class_numbers,
    class_rows,
    loss_function,
    number,
    proposed_shape,
)

Over = Literal["sample", "batch"]


@loss_function(
    weight="weights per class are alpha, weights per position sample_weight",
    beta="the weights of what is predicted in excess and of what is missed are false_positive and false_negative",
    include_background="a weight of 0 in alpha leaves a class out",
    sigmoid="one channel, or multi_label=True, takes sigmoids",
    softmax="several channels take a softmax, without multi_label=True",
    from_logits="input holds logits always",
    smooth_nr="smooth is added below the line",
    smooth_dr="smooth is added below the line",
    batch="over='batch' sums over the batch",
)
def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    false_positive: float = 0.5,
    false_negative: float = 0.5,
    gamma: float = 1.0,
    alpha: PerClass | None = None,
    smooth: float = 1.0,
    over: Over = "sample",
    multi_label: bool = False,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""`1 - TP / (TP + a * FP + b * FN)` of each class, for segmentation; `a = b = 1/2` is the Dice loss.

    `TP`, `FP` and `FN` are sums of probabilities over the positions: right ones, those predicted in excess, those missed.
    It is computed as `(a * FP + b * FN) / (TP + a * FP + b * FN + smooth)`, so that nothing cancels near a perfect fit.

    Args:
        input: logits `(N, C, d1, ..., dk)`, floating point. `C = 1` is one region and its background.
        target: class indices `(N, d1, ..., dk)`, each in `[0, C)` or `ignore_index`, or soft targets with the shape of
            `input`. For `C = 1` and with `multi_label`, labels from 0 to 1 (or `ignore_index`) in the shape of `input`.
        false_positive: `a`, the weight of what is predicted in excess, at least 0.
        false_negative: `b`, the weight of what is missed, at least 0; both 1/2 is Dice, both 1 is Jaccard.
        gamma: exponent of the loss of each class, above 0: the focal Tversky loss has 3/4.
        alpha: weight of each class in the mean over classes, `C` non-negative numbers; 0 leaves the background out.
        smooth: number of positions added below the line. With more than 0 a class that is nowhere costs nothing where nothing
            of it is predicted, and what is predicted has a gradient; with 0 it costs 1 whatever is predicted.
        over: whether the sums run over each `"sample"` on its own or over the whole `"batch"`.
        multi_label: whether a position may have several classes: probabilities are then sigmoids.
        sample_weight: one non-negative number per position, `(N, d1, ..., dk)`; 0 masks the position, even if it is NaN.
        ignore_index: target value that counts nowhere.
        reduction: `"none"`, `"mean"`, weighted by `alpha`, or `"sum"`.

    Returns:
        `(N, C)`, or `(C,)` over the batch, for `"none"`, else a scalar; in the dtype of `input`, but float32 for half
        precision under autocast.

    Raises:
        TypeError: `input` is not floating point, or `target` has the wrong kind of dtype.
        ValueError: a shape, a label, a weight or an option is impossible. Values are checked on a CPU only.

    Examples:
        >>> import torch
        >>> from linkboy import tversky_loss
        >>> logits = torch.tensor([[[4.0, 4.0, -4.0], [-4.0, -4.0, 4.0]]])
        >>> tversky_loss(logits, torch.tensor([[0, 0, 1]]))
        tensor(0.0002)
        >>> empty = torch.zeros(1, 1, 4, 4)
        >>> tversky_loss(torch.full((1, 1, 4, 4), -20.0), empty)
        tensor(1.6489e-08)

    Source: Salehi et al. 2017, https://arxiv.org/abs/1706.05721; `gamma`: Abraham and Khan 2018,
    https://arxiv.org/abs/1810.07842. With both weights 1/2 and `smooth=s` it is the usual Dice loss with `2 * s` added above
    and below the line.
    """
    a = number("false_positive", false_positive, minimum=0)
    b = number("false_negative", false_negative, minimum=0)
    gamma = number("gamma", gamma, above=0)
    smooth = number("smooth", smooth, minimum=0)
    check_choice("over", over, ("sample", "batch"))
    check_choice("reduction", reduction, REDUCTIONS)
    check_flag("multi_label", multi_label)
    check_input("input", input)
    single = input.dim() > 1 and input.shape[1] == 1
    rows = _binary_rows if multi_label or single else _class_rows
    share, rest, truth, weight = rows(input, target, sample_weight, ignore_index)
    if isinstance(alpha, (int, float)) or (isinstance(alpha, Tensor) and not alpha.dim()):
        raise ValueError(
            f"alpha needs one number per class, got {alpha}; the weights of what is predicted in excess and of what is missed "
            "are false_positive and false_negative"
        )
    per_class = None if alpha is None else class_numbers("alpha", alpha, input)[0]
    dims = [*([0] if over == "batch" else []), *range(2, share.dim())]
    hits, excess, missed = (
        (part if not dims else part.sum(dims, dtype=wide_dtype(share.device)))
        for part in (weight * share * truth, weight * share * (1 - truth), weight * rest * truth)
    )
    wrong = a * excess + b * missed
    whole = wrong + hits + smooth
    loss = wrong / torch.where(whole == 0, 1.0, whole)
    if gamma != 1:
        loss = torch.where(loss > 0, torch.where(loss > 0, loss, 1.0) ** gamma, 0.0)  # no infinite slope at 0
    if per_class is not None:
        loss = loss * per_class
    if reduction == "sum":
        loss = loss.sum()
    elif reduction == "mean":
        total = loss.numel() if per_class is None else per_class.sum() * (loss.numel() // max(loss.shape[-1], 1))
        loss = loss.sum() / (max(total, 1) if isinstance(total, int) else torch.where(total == 0, 1.0, total))
    return loss.to(result_dtype(input))


def _class_rows(
    input: Tensor, target: Tensor, sample_weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Return softmax, 1 minus it, one-hot or soft targets, and weights that broadcast; masked positions weigh 0."""
    rows = class_rows(input, target, sample_weight=sample_weight, ignore_index=ignore_index)
    logits = in_work_dtype(rows.logits)
    masked = rows.masked()
    if masked is not None:
        logits = logits.masked_fill(masked.unsqueeze(1), 0)
    share = logits.softmax(1)
    # 1 minus a probability near 1 has few digits: for the largest it is the sum of the others.
    top = share.argmax(1, keepdim=True)
    rest = (1 - share).scatter(1, top, share.scatter(1, top, 0.0).sum(1, keepdim=True))
    return (
        share,
        rest,
        _truth(rows, share, masked),
        1.0 if rows.weight is None else rows.weight.unsqueeze(1).to(share.dtype),
    )


def _truth(rows: SampleRows, share: Tensor, masked: Tensor | None) -> Tensor:
    if not rows.soft():
        return torch.zeros_like(share, requires_grad=False).scatter(1, rows.target.unsqueeze(1), 1.0)
    truth = rows.target.to(share.dtype)
    return truth if masked is None else truth.masked_fill(masked.unsqueeze(1), 0)


def _binary_rows(
    input: Tensor, target: Tensor, sample_weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Return sigmoids, 1 minus them, labels and weights; masked positions weigh 0."""
    if input.dim() < 2:
        raise ValueError(
            f"input must have shape (N, C, d1, ...), got {tuple(input.shape)}; add dimensions with input[None]"
        )
    target = check_tensor("target", target, "a tensor of labels from 0 to 1")
    if target.shape != input.shape:
        fix = proposed_shape("target", target.shape, "input", input.shape)
        raise ValueError(f"target must have the shape of input {tuple(input.shape)}, got {tuple(target.shape)}{fix}")
    check_device("target", target, input)
    check_real("target", target)
    number("ignore_index", ignore_index)
    weight: Tensor | float = 1.0
    kept = target != ignore_index
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, (input.shape[0], *input.shape[2:]), input)[0].unsqueeze(1)
        kept = kept & (weight != 0)
    logits = in_work_dtype(input).masked_fill(~kept, 0)
    truth = target.masked_fill(~kept, 0).to(logits.dtype)
    check_labels(truth)
    return logits.sigmoid(), (-logits).sigmoid(), truth, kept.to(logits.dtype) * weight
