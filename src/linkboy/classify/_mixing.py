"""Several models in one: the weights of their logits that make the judged rows likeliest."""

from collections.abc import Sequence

import torch
from torch import Tensor

PRIOR = 1e-3  # how strongly the weights are drawn towards equal ones
STEPS = 100


def centred(logits: Tensor) -> Tensor:
    """Return logits `(N, C)` whose mean over the classes is 0, in float64."""
    logits = logits.double()
    return logits - logits.mean(1, keepdim=True)


def mean_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the rows."""
    return -(weights * logits.log_softmax(1).gather(1, targets[:, None])[:, 0]).sum() / weights.sum()


def mix(members: Sequence[Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    """Return `(M,)`, the non-negative weights of the members' logits for which the rows are likeliest.

    A weak prior around `1 / M` keeps rows without mistakes from asking for certainty. The scale of the sum is chosen as well,
    so nothing needs a temperature afterwards.

    Args:
        members: M times `(N, C)` logits of rows that the members have not learned from.
        targets: `(N,)` class indices.
        weights: `(N,)` non-negative.
    """
    stacked = torch.stack([logits.double() for logits in members])
    share = (weights.double() / weights.double().sum())[:, None]
    start = torch.full((len(members),), 1 / len(members), dtype=torch.float64)

    def objective(a: Tensor) -> Tensor:
        z = torch.einsum("m,mnc->nc", a, stacked)
        return mean_loss(z, targets, weights.double()) + PRIOR / 2 * (a - start).square().sum()

    a, value = start, objective(start)
    for _ in range(STEPS):
        p = torch.einsum("m,mnc->nc", a, stacked).softmax(1)
        own = stacked.gather(2, targets.expand(len(members), -1)[..., None])[..., 0]
        mean = torch.einsum("nc,mnc->mn", p, stacked)
        gradient = ((mean - own) * share[:, 0]).sum(1) + PRIOR * (a - start)
        second = torch.stack([(stacked * (p * share * stacked[m])).sum((1, 2)) for m in range(len(members))])
        second = second - (mean * share[:, 0]) @ mean.T + PRIOR * torch.eye(len(members), dtype=torch.float64)
        free = (a > 0) | (gradient < 0)
        move = torch.zeros_like(a)
        move[free] = -torch.linalg.solve(second[free][:, free], gradient[free])
        size = 1.0
        while size > 1e-6 and objective((a + size * move).clamp_min(0)) >= value - 1e-12:
            size /= 2
        if size <= 1e-6:
            break
        a = (a + size * move).clamp_min(0)
        value = objective(a)
    return a
