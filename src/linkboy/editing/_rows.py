"""Tensors with another number of rows: the old rows stay bit-identical, new ones are drawn like them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from linkboy._checks import describe
from linkboy._tensors import fill_rows_like
from linkboy.editing._names import kind_of

Fill = Callable[[Tensor], Any]
TABLES = (nn.Embedding, nn.EmbeddingBag)


def rows_like(
    tensor: Tensor, count: int, fill: Fill | None, generator: torch.Generator | None, padding: int | None
) -> Tensor:
    """Return the first rows of a tensor, and below them rows like these: mean and spread of each column."""
    if fill is not None and not callable(fill):
        raise TypeError(f"fill must be a function that fills a tensor in place, got {type(fill).__name__}")
    old = tensor.detach()
    new = old.new_empty((count, *old.shape[1:]))
    kept = min(count, len(old))
    new[:kept] = old[:kept]
    if count == kept:
        return new
    if fill is not None:
        _fill(fill, new[kept:])
    else:
        like = torch.tensor([row for row in range(len(old)) if row != padding])
        fill_rows_like(new, torch.arange(kept, count), like, generator=generator)
    return new


def _fill(fill: Fill, rows: Tensor) -> None:
    try:
        fill(rows)
    except Exception as error:
        error.add_note(f"linkboy.surgery called fill with the new rows {describe(rows)}; those of a bias have one dim")
        raise


def set_rows(module: nn.Module, count: int) -> None:
    """Set the number of rows that a table or a Linear keeps beside its weight."""
    setattr(module, "num_embeddings" if isinstance(module, TABLES) else "out_features", count)


def is_split(module: nn.Module) -> bool:
    """Return whether a module is a `PretrainedEmbedding`, whose rows may be held by two tensors."""
    return kind_of(module) == "PretrainedEmbedding"
