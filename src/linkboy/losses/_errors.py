"""What the errors of a regression cost, and its sum or mean: by one call of the compiled core, or by plain operations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linkboy._tensors import values_visible
from linkboy.losses._small import error_sum_by_core, sum_by_core
from linkboy.losses._sums import loss_sum
from linkboy.losses.weighting import weighted_mean


class ErrorCost(NamedTuple):
    """What an error costs.

    Attributes:
        values: gives the cost of each error of predictions and true values.
        kind: its number in the core, -1 where that does not have it.
        first: what the core takes for that kind, as is `second`.
        kernel: torch's own for all three reductions, with the number of one; `None` where there is none.
    """

    values: Callable[[Tensor, Tensor], Tensor]
    kind: int
    first: float = 0.0
    second: float = 0.0
    kernel: Callable[[Tensor, Tensor, int], Tensor] | None = None


# Not F.mse_loss and the like, which first expand both tensors to one shape: that takes as long as the kernel of a small batch.
_NN: Any = torch._C._nn  # pyright: ignore[reportAttributeAccessIssue]
SQUARE = ErrorCost(lambda x, y: (x - y).square(), 0, kernel=_NN.mse_loss)
ABSOLUTE = ErrorCost(lambda x, y: (x - y).abs(), 2, 1.0, 1.0, kernel=_NN.l1_loss)


def huber(delta: float) -> ErrorCost:
    """Return half the square, and a straight line beyond `delta`."""

    def kernel(x: Tensor, y: Tensor, reduction: int = 0) -> Tensor:
        return _NN.huber_loss(x, y, reduction, delta)

    return ErrorCost(kernel, 1, delta, kernel=kernel)


def pinball(share: float | Tensor) -> ErrorCost:
    """Return `share` times an error below the true value, and `1 - share` times one above it."""

    def values(x: Tensor, y: Tensor) -> Tensor:
        error = y - x
        return torch.maximum(share * error, (share - 1) * error)

    return ErrorCost(values, -1) if isinstance(share, Tensor) else ErrorCost(values, 2, 1 - share, share)


class ErrorBatch(NamedTuple):
    """Predictions, true values and weights of one dtype and shape, with all that their sum takes; a weight of 0 masks.

    Attributes:
        logits: predictions.
        target: true values.
        weight: `None` where all weigh 1.
        cost: what an error costs.
        mean: whether the sum is divided by that of the weights.
        root: whether the root is taken of the result.
        visible: whether looking at values is free.
    """

    logits: Tensor
    target: Tensor
    weight: Tensor | None
    cost: ErrorCost
    mean: bool
    root: bool
    visible: bool

    def sum_and_gradient(self, *, wanted: bool) -> tuple[float, Tensor | None]:
        return error_sum_by_core(*self[:3], self.cost[1:4], mean=self.mean, root=self.root, wanted=wanted)

    def plain_sum(self, logits: Tensor) -> Tensor:
        weight = self.weight
        values = self.cost.values(*masked(logits, self.target, weight))
        if not self.mean:
            total = (values if weight is None else values * weight).sum()
        else:
            total = values.sum() / max(values.numel(), 1) if weight is None else weighted_mean(values, weight)
        # Masked before the root as well as after it: the branch not taken would give 0 * inf.
        return torch.where(total > 0, torch.where(total > 0, total, 1.0).sqrt(), total) if self.root else total


def masked(input: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both with 0 where the weight is 0: selecting after the arithmetic would leave 0 * NaN in the backward pass."""
    return (
        (input, target) if weight is None else (input.masked_fill(weight == 0, 0), target.masked_fill(weight == 0, 0))
    )


def error_sum(
    input: Tensor, target: Tensor, weight: Tensor | None, cost: ErrorCost, *, mean: bool, root: bool = False
) -> Tensor:
    """Return the sum, the mean or its root of what the errors cost, in the dtype of the tensors, which have one."""
    given = [target] if weight is None else [target, weight]
    constant = all(values_visible(tensor) and not tensor.requires_grad for tensor in given)
    visible = cost.kind >= 0 and constant and values_visible(input)
    batch = ErrorBatch(input, target, weight, cost, mean, root, visible)
    return loss_sum(batch, input.dtype) if sum_by_core(input, visible=visible) else batch.plain_sum(input)
