"""Soft targets: every class of a sample contributes, and only the largest can have a probability above 1/2."""

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._tensors import wide_dtype
from linkboy.losses._arguments import SampleRows
from linkboy.losses._margin import focal_of_margin, margin


def soft_values(rows: SampleRows, label_smoothing: float, gamma: float) -> Tensor:
    """Return `w * sum_c w_c y_c (1 - p_c)**gamma * -log(p_c)` of each sample, `(N, S)` in the wide dtype.

    The largest class goes through its margin, as a label does; for all others `1 - p` loses nothing.
    """
    logits, _, weight, _ = rows
    if weight is not None:  # masked before the arithmetic: selecting afterwards leaves 0 * NaN in the backward pass
        logits = logits.masked_fill((weight == 0).unsqueeze(1), 0)
    share = _shares(rows, label_smoothing)
    largest = logits.detach().argmax(1)
    index = largest.unsqueeze(1)
    gap = margin(logits, largest)
    of_largest = share.gather(1, index).squeeze(1)
    wide = share.dtype
    offset = F.logsigmoid(gap) - logits.gather(1, index).squeeze(1).to(wide)
    # A class without a share is left out before the logarithm, which may be infinite there.
    counts = (share != 0).scatter(1, index, False)
    loss = torch.where(counts, -(logits.to(wide) + offset.unsqueeze(1)), 1.0)
    if gamma:
        loss = loss * (gamma * torch.log1p(-(-loss).exp())).exp()
    values = torch.where(counts, share * loss, 0.0).sum(1)
    values = values + torch.where(of_largest == 0, 0.0, of_largest * focal_of_margin(gap, gamma))
    return values if weight is None else values * weight


def _shares(rows: SampleRows, label_smoothing: float) -> Tensor:
    """Return the weighted share of every class, `(N, C, S)` in the wide dtype, 0 for masked samples."""
    target, classes = rows.target, rows.logits.shape[1]
    if rows.soft():
        share = target.to(wide_dtype(target.device))
    else:
        share = torch.zeros_like(rows.logits, dtype=wide_dtype(target.device), requires_grad=False)
        share = share.scatter(1, target.unsqueeze(1), 1.0)
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / classes
    if rows.class_weight is not None:
        share = share * rows.class_weight[:, None]
    return share if rows.weight is None else share.masked_fill((rows.weight == 0).unsqueeze(1), 0)
