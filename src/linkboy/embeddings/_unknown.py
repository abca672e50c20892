"""The rows of words that a file does not have."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._tensors import fill_rows_like

UNK_INITS = ("match", "zeros", "mean")


def fill_unknown(
    weight: Tensor, known: NDArray[np.bool_], unk_init: str | Callable[[Tensor], Any], generator: torch.Generator | None
) -> None:
    """Fill the rows of `weight` that are not known, in place."""
    rows = torch.from_numpy(np.flatnonzero(~known))
    if not len(rows):
        return
    if callable(unk_init):
        weight[rows] = _called(unk_init, weight.new_zeros(len(rows), weight.shape[1]))
    elif unk_init != "zeros":
        like = torch.from_numpy(np.flatnonzero(known))
        fill_rows_like(weight, rows, like, spread=unk_init == "match", generator=generator)


def _called(unk_init: Callable[[Tensor], Any], rows: Tensor) -> Tensor:
    result = unk_init(rows)
    if result is None:
        return rows  # filled in place
    if not isinstance(result, Tensor) or result.shape != rows.shape:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"unk_init must return a tensor of the shape {tuple(rows.shape)} that it is given, got {shape}"
        )
    return result.detach()
