"""The cells of a uniform quantiser: which one a number falls into, and the middle of it."""

import math

import torch
from torch import Tensor

from linkboy._checks import check_number
from linkboy._tensors import check_floating, values_visible, wide_dtype

MAX_BITS = 24


def check_cells(bits: int, low: float, high: float) -> None:
    """Raise unless `bits` and the range make cells."""
    check_number("bits", bits, minimum=1, maximum=MAX_BITS, integer=True)
    check_number("low", low)
    check_number("high", high)
    if high <= low:
        raise ValueError(f"high must be above low, got low={low!r} and high={high!r}")


def check_numbers(argument: str, value: object) -> None:
    """Raise unless `value` is a floating point tensor, without NaN where that can be seen."""
    tensor = check_floating(argument, value)
    if values_visible(tensor) and tensor.numel() and tensor.detach().amax().isnan():  # one pass, unlike isnan().any()
        raise ValueError(f"{argument} must not hold NaN, which lies in no cell, got {_first_nan(tensor)}")


def cell_of(x: Tensor, bits: int, low: float, high: float) -> Tensor:
    """Return the number of the cell of each element, from 0 to `2**bits - 1`, as floating point; NaN stays NaN."""
    step = (high - low) / 2**bits
    return (x.detach().to(_work_dtype(x, bits, low, high)) - low).div_(step).floor_().clamp(0, 2**bits - 1)


def middle_of(cell: Tensor, bits: int, low: float, high: float, dtype: torch.dtype) -> Tensor:
    """Return the middle of each cell in `dtype`, or raise where that cannot hold the range."""
    largest = torch.finfo(dtype).max
    if max(abs(low), abs(high)) > largest:
        raise ValueError(
            f"low and high must be within {dtype} (at most {largest:g}), got low={low!r} and high={high!r}; "
            "use a wider dtype"
        )
    return (cell + 0.5).mul_((high - low) / 2**bits).add_(low).to(dtype)


def _work_dtype(x: Tensor, bits: int, low: float, high: float) -> torch.dtype:
    """Return float32 where it rounds nothing, on a range from 0 to a power of two, else float64.

    In float32 -1e-9 + 1 is 1, and the cell the next one.
    """
    exact = low == 0 and math.frexp(high)[0] == 0.5 and bits < MAX_BITS and 2.0**-64 < high < 2.0**64
    return torch.float32 if exact and x.dtype.itemsize <= 4 else wide_dtype(x.device)


def _first_nan(tensor: Tensor) -> str:
    place = tensor.isnan().nonzero()[0].tolist()
    return f"one at {place}" if place else "one"
