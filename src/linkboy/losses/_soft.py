"""Soft targets: every class of a sample contributes, and only the largest can have a probability above 1/2."""

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy.losses._arguments import wide_dtype
from linkboy.losses._margin import focal_of_margin, margin


def soft_values(logits: Tensor, target: Tensor, class_weight: Tensor | None, gamma: float) -> Tensor:
    """Return `sum_c w_c y_c (1 - p_c)**gamma * -log(p_c)`, `(N, S)` in the wide dtype, of `(N, C, S)` and `(N, C, S)`.

    The largest class goes through its margin, like a label; for all others `1 - p` loses nothing.
    """
    wide = wide_dtype(logits.device)
    share = target.to(wide) if class_weight is None else target.to(wide) * class_weight[:, None]  # (N, C, S)
    largest = logits.detach().argmax(1)  # (N, S)
    index = largest.unsqueeze(1)
    gap = margin(logits, largest)
    log_p_largest = F.logsigmoid(gap)
    offset = log_p_largest - logits.gather(1, index).squeeze(1).to(wide)
    counts = (share != 0).scatter(1, index, False)
    log_p = torch.where(counts, logits.to(wide) + offset.unsqueeze(1), -1.0)
    value = -log_p
    if gamma:
        value = value * (gamma * torch.log1p(-log_p.exp())).exp()
    others = torch.where(counts, share * value, 0.0).sum(1)
    of_largest = share.gather(1, index).squeeze(1)
    return others + torch.where(of_largest == 0, 0.0, of_largest * focal_of_margin(gap, gamma))
