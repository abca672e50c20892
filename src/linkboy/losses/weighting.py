"""A weighted mean that is correct under masks, several processes and gradient accumulation."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from linkboy._checks import describe
from linkboy._tensors import values_visible, work_dtype
from linkboy.losses._arguments import (
    check_device,
    check_input,
    check_tensor,
    check_weight_values,
    number,
    proposed_expansion,
)


def weighted_mean(
    values: Tensor,
    weights: Tensor,
    *,
    dim: int | tuple[int, ...] | None = None,
    group: ProcessGroup | None = None,
    total: Tensor | float | None = None,
) -> Tensor:
    r"""`sum(weights * values) / sum(weights)`, over one batch, several processes or a window of accumulated steps.

    Under `DistributedDataParallel` pass `group`: the weights are summed over all its processes, and the result is
    multiplied by their number, since DDP averages gradients. Every process must call it, even one whose weights are all
    0. Under gradient accumulation pass `total`: the weight of the whole window, over all processes of `group` if
    that is given; nothing is then communicated. (Where a wrapper divides each step's loss by the number of steps, as
    Accelerate's `backward` does, multiply by that number.)

    Args:
        values: losses of any shape, floating point.
        weights: non-negative numbers or a mask, of any dtype, in the shape of `values`: nothing is broadcast. Where a weight
            is 0 the value is masked, even if it is NaN.
        dim: dimension or dimensions to average over; `None` for all.
        group: process group whose processes hold the rest of the batch, for example `torch.distributed.group.WORLD`.
        total: what to divide by instead of the sum of `weights`.

    Returns:
        The mean in the dtype of `values`, float32 for half precision. 0, with a gradient of 0, where the weights sum to
        0. Divisors that come from other processes are constants to autograd.

    Raises:
        TypeError: `values` is not floating point, `weights` are not real numbers, or `total` is not a number.
        ValueError: the shapes differ, a weight or `total` is negative, or `weights` require a gradient under `group`.

    Examples:
        >>> import torch
        >>> from linkboy import weighted_mean
        >>> weighted_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([3.0, 1.0, 0.0]))
        tensor(1.5000)
        >>> batches = [(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])), (torch.tensor([5.0]), torch.tensor([4.0]))]
        >>> sum(weighted_mean(values, weights, total=8.0) for values, weights in batches)
        tensor(3.2500)

    torch has no weighted mean; `(values * weights).mean()` divides by the number of values, and if batches differ in
    size, the mean of their means is not the mean.
    """
    check_input("values", values)
    weights = check_tensor("weights", weights)
    if weights.shape != values.shape:
        fix = proposed_expansion("weights", weights.shape, "values", values.shape)
        raise ValueError(
            f"weights must have the shape of values {tuple(values.shape)}, got {tuple(weights.shape)}{fix}"
        )
    check_device("weights", weights, values, "values")
    check_weight_values("weights", weights)
    dtype = work_dtype(values)
    if weights.is_floating_point():
        dtype = torch.promote_types(dtype, work_dtype(weights))
    weights = weights.to(dtype)
    dims = tuple(range(values.dim())) if dim is None else dim
    summed = (values.masked_fill(weights == 0, 0) * weights).sum(dims)
    divisor = weights.sum(dims) if total is None else _check_total(total, summed)
    if total is not None and values_visible(weights) and ((divisor == 0) & (weights.sum(dims) != 0)).any():
        raise ValueError("total must be the weight of all values, got 0 beside weights above 0")
    if group is not None:
        if not isinstance(group, ProcessGroup):
            raise TypeError(f"group must be a process group, got {describe(group)}")
        if weights.requires_grad:
            raise ValueError(
                "weights must not require a gradient under group, which divides by a constant; detach them"
            )
        size = torch.distributed.get_world_size(group)
        if total is None:
            torch.distributed.all_reduce(divisor, group=group)
        summed = summed * size
    mean = summed / torch.where(divisor == 0, 1.0, divisor)
    return mean.to(work_dtype(values))


def _check_total(total: Tensor | float, like: Tensor) -> Tensor:
    if not isinstance(total, Tensor):
        total = number("total", total, minimum=0)
        return torch.tensor(total, dtype=like.dtype, device=like.device)
    if total.shape not in ((), like.shape):
        raise ValueError(
            f"total must be one number or have the shape of the mean {tuple(like.shape)}, got {tuple(total.shape)}"
        )
    check_device("total", total, like, "values")
    check_weight_values("total", total)
    return total.to(like)
