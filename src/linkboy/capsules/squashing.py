"""The length of a capsule, and the squashing that keeps it below 1: exact from 0 to the largest number of the dtype.

A length is `largest * |x / largest|`, with `largest` the largest entry: no square underflows or overflows. `largest` is
detached, which is exact: the value does not depend on it.
"""

from torch import Tensor

from linkboy._checks import check_number, describe
from linkboy._tensors import autocast_dtype, in_work_dtype


def squash(input: Tensor, dim: int = -1) -> Tensor:
    r"""Shrink capsules to a length below 1 and keep their direction: `s * |s| / (1 + |s|**2)`.

    Args:
        input: capsules along `dim`, of any other dimensions, floating point.
        dim: the dimension that holds the entries of a capsule.

    Returns:
        The shape and dtype of `input`; half precision is computed in float32.

    Raises:
        TypeError: `input` is not a floating point tensor, or `dim` is not an integer.
        ValueError: capsules have no entries, or `input` has no such `dim`.

    Examples:
        >>> import torch
        >>> from linkboy import squash
        >>> squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.5769, 0.7692],
                [0.0000, 0.0000]])

    Source: Sabour et al. 2017, eq. 1, https://arxiv.org/abs/1710.09829. Differs from the copies: value and gradient are 0
    at 0, where dividing by the length gives NaN, and no `eps` shortens short capsules; entries are not squashed one by one.
    A capsule with an infinite entry has no direction and gives NaN.
    """
    largest, ratio, zero = _split_length(input, dim)
    # |s| / (1 + |s|^2) with numerator and denominator divided by largest^2 where that is above 1.
    below, above = largest.clamp(max=1), largest.clamp(min=1).reciprocal()
    scale = below * above * ratio / (above.square() + (below * ratio).square())
    return (input * scale.masked_fill(zero, 0)).to(input.dtype)


def capsule_norm(input: Tensor, dim: int = -1) -> Tensor:
    r"""Return the lengths of capsules, with gradient 0 where the length is 0.

    Args:
        input: capsules along `dim`, of any other dimensions, floating point.
        dim: the dimension that holds the entries of a capsule.

    Returns:
        The shape of `input` without `dim`, in its dtype; float32 for half precision under autocast, as torch's norms.

    Raises:
        TypeError: `input` is not a floating point tensor, or `dim` is not an integer.
        ValueError: capsules have no entries, or `input` has no such `dim`.

    Examples:
        >>> import torch
        >>> from linkboy import capsule_norm
        >>> capsule_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.])

    Differs from `input.norm(dim=-1)`: squares neither underflow nor overflow, and second derivatives at 0 are not NaN; an
    infinite entry gives NaN.
    """
    largest, ratio, zero = _split_length(input, dim)
    length = (largest * ratio).masked_fill(zero, 0).squeeze(dim)
    return length if autocast_dtype(input.device) else length.to(input.dtype)


def _split_length(input: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest entry, the length over it, and where that is 0 over 0; `dim` is kept with size 1."""
    if not isinstance(input, Tensor) or not input.is_floating_point():
        raise TypeError(f"input must be a floating point tensor of capsules, got {describe(input)}")
    if input.dim():
        check_number("dim", dim, minimum=-input.dim(), maximum=input.dim() - 1, integer=True)
    if input.dim() == 0 or input.shape[dim] == 0:
        raise ValueError(f"input must have capsules of at least one entry along dim {dim}, got {describe(input)}")
    work = in_work_dtype(input)
    largest = work.detach().abs().amax(dim, keepdim=True)
    zero = largest == 0
    largest = largest.masked_fill(zero, 1)
    # The root has no slope at 0: 0 is replaced before it, so that no 0 * inf reaches a gradient.
    ratio = (work / largest).square().sum(dim, keepdim=True).masked_fill(zero, 1).sqrt()
    return largest, ratio, zero
