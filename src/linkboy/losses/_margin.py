"""The arithmetic of the focal loss, once: everything is a function of the margin between a class and all others.

With `gap = x_t - logsumexp(x_j, j != t)` the softmax probability of class `t` is `p = sigmoid(gap)`, so `1 - p` is
`sigmoid(-gap)` and `-log p` is `softplus(-gap)`: nothing is subtracted from 1, and an easy sample keeps its digits.
The functions here are plain differentiable torch; they serve `torch.func`, double backward, and soft targets under
`torch.compile`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from linkboy._tensors import wide_dtype, work_dtype
from linkboy.losses._arguments import along_classes

# Below this gap p is zero beside 1 in every dtype, and the loss is the straight line -gap. Taking that line instead of
# the product keeps `p * log p` from being 0 * inf where the target class is masked with -inf.
_STRAIGHT_BELOW = -100.0


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """Return `x_t - logsumexp(others)`, `(N, ...)` in the wide dtype, of logits `(N, C, ...)` and labels `(N, ...)`.

    The shift is the largest of the *other* logits: with the target's own, the rounding of `x_j - x_t` alone would cost
    half an ulp of the gap, which `(1 - p)**gamma` amplifies.

    The target's place is told by comparison: torch.compile puts that into the loops there are, here and in backward, and makes
    a loop of its own of a scatter or a gather.
    """
    wide = wide_dtype(logits.device)
    work = logits.to(work_dtype(logits))
    classes = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    label = classes.gather(0, target.reshape(-1)).view(target.shape)  # refuses a label outside the classes
    is_target = along_classes(classes, work) == label.unsqueeze(1)
    others = work.masked_fill(is_target, -torch.inf)
    top = others.detach().amax(1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    rest = (others - top).exp().sum(1).to(wide)
    # No other class at all (C = 1, or all of them masked): the gap is infinite, its slope 0. A NaN is not 0, and stays.
    empty = rest == 0
    log_rest = torch.where(empty, -torch.inf, torch.where(empty, 1.0, rest).log())
    own = torch.where(is_target, work, 0.0).sum(1)
    return own.to(wide) - top.squeeze(1).to(wide) - log_rest


def focal_of_margin(gap: Tensor, gamma: float) -> Tensor:
    """Return `(1 - p)**gamma * -log(p)` of `p = sigmoid(gap)`, differentiable to any order."""
    straight = gap < _STRAIGHT_BELOW
    inner = torch.where(straight, _STRAIGHT_BELOW, gap)  # not clamp, whose derivative at NaN is 0
    value = -F.logsigmoid(inner)
    if gamma:
        value = value * (gamma * F.logsigmoid(-inner)).exp()  # a power would have the slope 0 * inf at q = 0
    return torch.where(straight, -gap, value)


def plain_margin_loss(logits: Tensor, target: Tensor, masked: Tensor | None, gamma: float) -> Tensor:
    """Return `focal_of_margin(margin(...))`, 0 where `masked`: no NaN there reaches value or gradient."""
    if masked is not None:  # before the arithmetic: selecting afterwards would leave 0 * NaN in the backward pass
        logits = logits.masked_fill(masked.unsqueeze(1), 0)
    values = focal_of_margin(margin(logits, target), gamma)
    return values if masked is None else values.masked_fill(masked, 0)
