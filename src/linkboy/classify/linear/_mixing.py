"""Several models in one: the weights of their logits that make the judged rows likeliest."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PRIOR = 1e-3  # how strongly the weights are drawn towards equal ones
STEPS = 100
LEAST = 1e-12  # what a step must gain
BLOCK = 2**18  # logits
FARTHEST = 20.0  # a logit


def centred(logits: Tensor) -> Tensor:
    """Return logits `(N, C)` whose mean over the classes is 0, in float64."""
    logits = logits.to(torch.float64, copy=True)
    return logits.sub_(logits.mean(1, keepdim=True))


def row_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `(N,)`, the negative log-likelihood of each row.

    Args:
        logits: `(N, C)`.
        targets: `(N,)` class indices; or `(N, C)`, whether a row has a label, each of which is judged by itself.
    """
    if targets.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").sum(1)
    return -logits.log_softmax(1).gather(1, targets[:, None])[:, 0]


def mean_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the rows."""
    losses = [row_losses(logits[rows], targets[rows]) for rows in row_blocks(len(logits), logits.shape[1])]
    return (weights * torch.cat(losses)).sum() / weights.sum()


def mix(members: Sequence[Tensor], targets: Tensor, weights: Tensor) -> Tensor:
    """Return `(M,)`, the non-negative weights of the members' logits for which the rows are likeliest.

    A weak prior around `1 / M` keeps rows without mistakes from asking for certainty. The scale of the sum is chosen as well,
    so nothing needs a temperature afterwards.

    Args:
        members: M times `(N, C)` logits of rows that the members have not learned from.
        targets: `(N,)` class indices, or `(N, C)` for labels that are judged by themselves.
        weights: `(N,)` non-negative.
    """
    share = weights.double() / weights.double().sum()
    start = torch.full((len(members),), 1 / len(members), dtype=torch.float64)

    def objective(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, slope, second = _derivatives(a, members, targets, share)
        nearness = PRIOR / 2 * (a - start).square().sum()
        return value + nearness, slope + PRIOR * (a - start), second + PRIOR * torch.eye(len(a), dtype=torch.float64)

    a, (value, gradient, second) = start, objective(start)
    for _ in range(STEPS):
        free = (a > 0) | (gradient < 0)
        move = torch.zeros_like(a)
        move[free] = -torch.linalg.solve(second[free][:, free], gradient[free])
        size = 1.0
        while size > 1e-6 and -size * float(gradient @ move) > LEAST:
            candidate = (a + size * move).clamp_min(0)
            found = objective(candidate)
            if found[0] < value - LEAST:
                break
            size /= 2
        else:
            break
        a, (value, gradient, second) = candidate, found
    return a


def row_blocks(rows: int, logits: int) -> Iterator[slice]:
    """Yield blocks of rows with so many logits each that stay in the cache; all rows need several times their logits."""
    size = max(1, BLOCK // max(logits, 1))
    for start in range(0, max(rows, 1), size):
        yield slice(start, start + size)


def _derivatives(a: Tensor, members: Sequence[Tensor], targets: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean loss of the mixed logits and its first and second derivatives by `a`."""
    derivatives = _by_label if targets.ndim == 2 else _by_class
    value, slope, second = (torch.zeros((len(a),) * order, dtype=torch.float64) for order in range(3))
    for rows in row_blocks(len(targets), len(a) * members[0].shape[1]):
        stacked, weight = torch.stack([logits[rows].double() for logits in members]), share[rows]
        z = torch.einsum("m,mnc->nc", a, stacked)
        value += (weight * row_losses(z, targets[rows])).sum()
        of_slope, of_second = derivatives(z, stacked, targets[rows], weight[:, None])
        slope += of_slope
        second += of_second
    return value, slope, second


def _by_class(z: Tensor, stacked: Tensor, targets: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivatives of the mean loss by the weights of the members, of one class a row."""
    p = z.softmax(1)
    own = stacked.gather(2, targets.expand(len(stacked), -1)[..., None])[..., 0]
    mean = torch.einsum("nc,mnc->mn", p, stacked)
    second = torch.stack([(stacked * (p * share * member)).sum((1, 2)) for member in stacked])
    return ((mean - own) * share[:, 0]).sum(1), second - (mean * share[:, 0]) @ mean.T


def _by_label(z: Tensor, stacked: Tensor, targets: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same where a row may have several labels."""
    p = z.sigmoid()
    second = torch.stack([(stacked * (p * (1 - p) * share * member)).sum((1, 2)) for member in stacked])
    return (stacked * ((p - targets.double()) * share)).sum((1, 2)), second


def label_biases(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return `(C,)`: what to add to the logits of each label so that the rows are likeliest.

    A weak prior around 0, worth one row, keeps a label that all or no rows have from asking for certainty.

    Args:
        logits: `(N, C)` of rows that the model has not learned from.
        targets: `(N, C)`, whether a row has a label.
        weights: `(N,)` non-negative.
    """
    logits, weights = logits.double(), weights.double()[:, None]
    wanted = (weights * targets).sum(0)
    low, high = (torch.full((logits.shape[1],), side * FARTHEST, dtype=torch.float64) for side in (-1, 1))
    for _ in range(50):  # the slope of the likelihood falls through zero once
        middle = (low + high) / 2
        rising = wanted - (weights * (logits + middle).sigmoid()).sum(0) - middle > 0
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    return (low + high) / 2
