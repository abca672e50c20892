"""The rows of words that a file does not have."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UNK_INITS = ("match", "zeros", "mean")
_CHUNK = 1024  # rows


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
        mean, std = (torch.from_numpy(row) for row in _statistics(weight.numpy(), np.flatnonzero(known)))
        for some in rows.split(_CHUNK):
            drawn = mean.expand(len(some), -1)
            if unk_init == "match":
                noise = torch.randn(len(some), weight.shape[1], generator=generator, dtype=weight.dtype)
                drawn = drawn + noise * std
            weight[some] = drawn.to(weight.dtype)


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


def _statistics(weight: NDArray[Any], known: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each column over the finite known rows, in chunks that bound the memory."""
    total, squares, count = np.zeros(weight.shape[1]), np.zeros(weight.shape[1]), 0
    for rows in _finite_chunks(weight, known):
        total += rows.sum(0, dtype=np.float64)
        count += len(rows)
    mean = total / max(count, 1)
    for rows in _finite_chunks(weight, known):
        difference = rows - mean
        squares += np.einsum("rc,rc->c", difference, difference)
    return mean, np.sqrt(squares / max(count, 1))


def _finite_chunks(weight: NDArray[Any], known: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(known), _CHUNK):
        rows = weight[known[start : start + _CHUNK]]
        with np.errstate(invalid="ignore", over="ignore"):
            all_finite = np.isfinite(rows.sum())
        yield rows if all_finite else rows[np.isfinite(rows).all(1)]
