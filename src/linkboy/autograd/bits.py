"""Numbers as bits and back, with a gradient of 1 from end to end."""

import torch
from torch import Tensor

from linkboy._checks import describe
from linkboy._tensors import values_visible, wide_dtype
from linkboy.autograd._cells import cell_of, check_cells, check_numbers, middle_of
from linkboy.autograd._substitute import substitute


def encode_bits(x: Tensor, *, bits: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Turn each number into the `bits` bits of its cell, the most significant first.

    The cells are those of `quantize_uniform`. In backward a number receives the mean of the gradients of its bits,
    and `decode_bits` gives each bit the gradient of its number, so that from end to end it is 1 per number.

    Args:
        x: `(..., n)`, floating point, at least one dimension.
        bits: 1 to 24 bits per number, in any dtype.
        low: lower end of the range; below it the bits are all 0.
        high: upper end of the range; from it on they are all 1.

    Returns:
        `(..., n * bits)`, exactly 0.0 or 1.0, in the dtype and on the device of `x`.

    Raises:
        TypeError: `x` is not a floating point tensor, or `bits` is not an integer.
        ValueError: `bits` or the range is out of bounds, `x` has no dimension, or holds NaN (seen on a CPU; on another
            device or in a compiled function NaN becomes the bits of `low`).

    Examples:
        >>> encode_bits(torch.tensor([0.0, 0.3, 1.0]), bits=2).tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    check_cells(bits, low, high)
    check_numbers("x", x)
    if not x.ndim:
        raise ValueError("x must have at least one dimension, along which its bits are laid out; use x.reshape(1)")
    shifts = torch.arange(bits - 1, -1, -1, device=x.device)
    cell = cell_of(x, bits, low, high).nan_to_num(0.0).long()
    code = (cell.unsqueeze(-1) >> shifts) & 1  # (..., n, bits)
    spread = (x / bits).unsqueeze(-1).expand(code.shape)  # its backward is the mean over the bits
    return substitute(code.to(x.dtype).flatten(-2), spread.flatten(-2))


def decode_bits(
    b: Tensor, *, bits: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Turn bits into the middle of their cell: `decode_bits(encode_bits(x))` is `quantize_uniform(x)`, bit for bit.

    Soft bits, such as the probabilities that a receiver computes, are weighted by their place. The gradient of each bit is
    that of its number, whatever its place; see `encode_bits`.

    Args:
        b: `(..., n * bits)`, numbers from 0 to 1, the most significant bit of each number first; floating point, or
            hard bits in any integer dtype or bool.
        bits: 1 to 24 bits per number.
        low: lower end of the range.
        high: upper end of the range.
        dtype: dtype of the result; that of `b` by default, or torch's default dtype if `b` is not floating point. Codes of
            more than 10 bits (float16) or 7 (bfloat16) need a wider one to stay apart.

    Returns:
        `(..., n)`.

    Raises:
        TypeError: `b` is not a tensor of real numbers, `bits` is not an integer, or `dtype` is not floating point.
        ValueError: `bits` or the range is out of bounds, the last dimension is not a multiple of `bits`, or an element is
            not in `[0, 1]` (seen on a CPU).

    Examples:
        >>> decode_bits(torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]), bits=2).tolist()
        [0.125, 0.375, 0.875]
    """
    check_cells(bits, low, high)
    _check_soft_bits(b, bits)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating point dtype such as torch.float32, got {dtype!r}")
    dtype = dtype or (b.dtype if b.is_floating_point() else torch.get_default_dtype())
    soft = b.reshape(*b.shape[:-1], b.shape[-1] // bits, bits)  # (..., n, bits)
    weights = 2.0 ** torch.arange(bits - 1, -1, -1, device=b.device, dtype=wide_dtype(b.device))
    cell = (soft.detach() * weights).sum(-1)
    return substitute(middle_of(cell, bits, low, high, dtype), soft.to(dtype).sum(-1))


def _check_soft_bits(b: Tensor, bits: int) -> None:
    if not isinstance(b, Tensor) or b.is_complex():
        raise TypeError(f"b must be a tensor of bits, got {describe(b)}")
    if not b.ndim or b.shape[-1] % bits:
        raise ValueError(
            f"b must have a last dimension that is a multiple of bits ({bits}), got shape {tuple(b.shape)}"
        )
    if values_visible(b) and b.numel():
        least, most = (bound.item() for bound in b.detach().aminmax())
        if not (least >= 0 and most <= 1):
            raise ValueError(
                f"b must hold numbers from 0 to 1, got {least:.6g} to {most:.6g}; pass logits through torch.sigmoid"
            )
