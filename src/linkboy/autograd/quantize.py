"""Round to the middle of one of `2**bits` equal cells, with a gradient that trains."""

from typing import Literal

from torch import Tensor

from linkboy._checks import check_choice
from linkboy.autograd._cells import cell_of, check_cells, check_numbers, middle_of
from linkboy.autograd._substitute import substitute


def quantize_uniform(
    x: Tensor, *, bits: int, low: float = 0.0, high: float = 1.0, outside: Literal["pass", "zero"] = "pass"
) -> Tensor:
    """Round each element to the middle of its cell; the error on `[low, high]` is at most half a cell, both ends included.

    There are `2**bits` equal cells. `high` belongs to the last one, and what lies outside of the range goes to the
    first or the last, infinities too.

    Args:
        x: any shape, floating point.
        bits: 1 to 24. A middle needs `bits + 1` significant bits: quantising twice changes nothing up to 10 bits in
            float16, 7 in bfloat16, 23 in float32 and 24 in float64, on a range such as `[0, 1]` or `[-1, 1]`.
        low: lower end of the range.
        high: upper end of the range.
        outside: gradient outside of the range: `"pass"` lets it through, `"zero"` stops it. Inside it always passes.

    Returns:
        The shape, dtype and device of `x`.

    Raises:
        TypeError: `x` is not a floating point tensor, or `bits` is not an integer.
        ValueError: `bits` is out of bounds, the range empty or beyond the dtype, `outside` unknown, or `x` holds NaN (seen
            on a CPU; on another device or in a compiled function NaN stays NaN).

    Examples:
        >>> import torch
        >>> x = torch.tensor([-3.0, 0.0, 0.3, 1.0], requires_grad=True)
        >>> y = quantize_uniform(x, bits=2, outside="zero")
        >>> y.tolist()
        [0.125, 0.125, 0.375, 0.875]
        >>> torch.autograd.grad(y.sum(), x)[0].tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    check_cells(bits, low, high)
    check_choice("outside", outside, ("pass", "zero"))
    check_numbers("x", x)
    value = middle_of(cell_of(x, bits, low, high), bits, low, high, x.dtype)
    return substitute(value, x if outside == "pass" else x.where((x >= low) & (x <= high), x.detach()))
