"""An embedding with frozen rows that no optimizer can move."""

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkboy._checks import check_number, describe
from linkboy._report import plural
from linkboy._tensors import transforms_active

_WEIGHT = "weight"
_MASK = "to freeze some rows write mask = torch.zeros(num_embeddings, dtype=torch.bool); mask[rows] = True"
_NOT_ASSIGNED = (
    "weight is put together from the trainable and the frozen rows and cannot be assigned; "
    "load_state_dict({'weight': table}) takes the rows of another table"
)


class _Rows(nn.Embedding):
    """The trainable rows, whose state the whole table keeps; DDP takes sparse gradients from an nn.Embedding alone."""

    def __init__(self, rows: Tensor, *, padding_idx: int | None, sparse: bool) -> None:
        super().__init__(*rows.shape, padding_idx=padding_idx, sparse=sparse, _weight=rows.clone())

    def _save_to_state_dict(self, *arguments: Any, **options: Any) -> None:
        return

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        return


class PretrainedEmbedding(nn.Module):
    """`nn.Embedding` with rows that cannot move: not by weight decay, momentum, `requires_grad_(True)` or a sparse update.

    Frozen rows are a buffer, trainable ones the parameter `trainable.weight`, so the state of an optimizer is that of the
    trainable rows alone. The state dict is that of `nn.Embedding`, in both directions: one entry, `weight`. The attribute
    `weight` is a copy: what is written into it changes no row, `load_state_dict({"weight": table})` does.

    Args:
        weight: `(num_embeddings, embedding_dim)`, floating point, which is copied; or `num_embeddings`, for rows drawn from
            N(0, 1) as those of `nn.Embedding`.
        embedding_dim: only with `num_embeddings`.
        freeze: `True` for all rows, `False` for none, or a bool per row, `True` where it is frozen.
        padding_idx: a row that is zero and stays zero.
        sparse: whether the gradient of the trainable rows is a sparse tensor.
        device: only with `num_embeddings`.
        dtype: only with `num_embeddings`.

    Shape: ids `(*)`, int64 or int32 -> `(*, embedding_dim)`.

    Raises:
        IndexError: an id is out of range (on the CPU).
        TypeError: `weight` is not floating point, `freeze` is neither a bool nor bools, or ids are not int64 or int32.
        ValueError: a shape does not fit, or `padding_idx` is out of range.

    Examples:
        >>> import torch, linkboy as lb
        >>> table = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
        >>> embedding = lb.PretrainedEmbedding(table, freeze=torch.tensor([False, True, False]), padding_idx=0)
        >>> embedding(torch.tensor([[1, 2]])).tolist()
        [[[1.0, 2.0], [3.0, 4.0]]]
        >>> embedding.trainable.weight.shape, list(embedding.state_dict())
        (torch.Size([1, 2]), ['weight'])

    Differs from `nn.Embedding.from_pretrained`, which shares memory with the table, does not zero the padding row, and is
    unfrozen by `model.requires_grad_(True)`; and from a hook that masks the gradient, past which AdamW's decay moves rows.
    """

    frozen: Tensor | None
    position: Tensor  # of each row in the trainable rows followed by the frozen ones

    def __init__(
        self,
        weight: Tensor | int,
        embedding_dim: int | None = None,
        *,
        freeze: bool | Tensor | Sequence[bool] = True,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        table = _table(weight, embedding_dim, device, dtype)
        self.num_embeddings, self.embedding_dim = table.shape
        self.sparse = sparse
        self.padding_idx = _checked_padding(padding_idx, self.num_embeddings)
        is_frozen = _mask(freeze, self.num_embeddings)
        if self.padding_idx is not None and is_frozen.any():
            is_frozen[self.padding_idx] = True  # where all rows are trained it has no gradient, as in nn.Embedding
        order = is_frozen.to(torch.uint8).argsort(stable=True)
        self._trainable_rows = int((~is_frozen).sum())
        self._places = order.argsort()  # on the CPU: the buffer has no values on the meta device and after `to_empty`
        self.register_buffer("position", self._places.to(table.device), persistent=False)
        trainable, frozen = self._split(table)
        own_padding = self.padding_idx if not len(frozen) else None
        self.trainable = _Rows(trainable, padding_idx=own_padding, sparse=sparse) if len(trainable) else None
        self.register_buffer("frozen", frozen.clone() if len(frozen) else None, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The whole table `(num_embeddings, embedding_dim)`, put together at each access; gradients reach the trainable rows."""
        trainable = None if self.trainable is None else self.trainable.weight
        rows = [part for part in (trainable, self.frozen) if part is not None]
        return torch.cat(rows).index_select(0, self.position)

    @weight.setter
    def weight(self, value: object) -> None:
        raise AttributeError(_NOT_ASSIGNED)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; `weight` is not one."""
        if name == _WEIGHT:
            raise AttributeError(_NOT_ASSIGNED)
        super().register_parameter(name, param)

    @property
    def is_frozen(self) -> Tensor:
        """A bool for each row, `True` where it is frozen."""
        return self.position >= self._trainable_rows

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of the ids, `(*, embedding_dim)`."""
        if not isinstance(input, Tensor) or input.dtype not in (torch.int64, torch.int32):
            fix = "convert them with .long()" if isinstance(input, Tensor) else "pass a tensor"
            raise TypeError(f"input must be int64 or int32 ids, got {describe(input)}; {fix}")
        if self.trainable is None:
            return F.embedding(input, cast("Tensor", self.frozen))
        if self.frozen is None:
            return self.trainable(input)
        place = self.position.index_select(0, input.flatten())  # unlike indexing, refuses ids below 0
        is_trainable = place < self._trainable_rows
        rows = F.embedding((place - self._trainable_rows).clamp_min(0), self.frozen)
        no_values = torch.compiler.is_compiling() or place.is_meta or transforms_active()
        if no_values and not self.sparse:
            # No shape may depend on values here; the row looked up in place of a frozen one gets a gradient of zero.
            trained = self.trainable(place.clamp_max(self._trainable_rows - 1))
            rows = torch.where(is_trainable[:, None], trained, rows)
        else:
            rows = rows.index_put((is_trainable,), self.trainable(place[is_trainable]))
        return rows.view(*input.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """Return the sizes as nn.Embedding shows them, and how many rows are trained."""
        parts = [f"{self.num_embeddings}, {self.embedding_dim}, trainable_rows={self._trainable_rows}"]
        parts += [f"padding_idx={self.padding_idx}"] if self.padding_idx is not None else []
        return ", ".join(parts + (["sparse=True"] if self.sparse else []))

    def _split(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trainable and the frozen rows of a table; the padding row comes out as zeros."""
        table = table.detach()
        if self.padding_idx is not None:
            table = table.index_fill(0, torch.tensor([self.padding_idx], device=table.device), 0)
        rows = table.index_select(0, self._places.to(table.device).argsort())
        return rows[: self._trainable_rows], rows[self._trainable_rows :]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.position = self._places.to(self.position.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        weight = self.weight
        destination[prefix + _WEIGHT] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + _WEIGHT
        if strict:
            unexpected_keys += [name for name in state_dict if name.startswith(prefix) and name != key]
        if key not in state_dict:
            missing_keys += [key] if strict else []
            return
        table = state_dict[key]
        expected = (self.num_embeddings, self.embedding_dim)
        if not isinstance(table, Tensor) or table.shape != expected:
            error_msgs.append(f"{key} must have the shape {expected}, got {describe(table)}")
            return
        assign = local_metadata.get("assign_to_params_buffers", False)
        if self.position.is_meta and not assign:
            error_msgs.append(f"{key} cannot be copied to the meta device; pass assign=True")
            return
        trainable, frozen = self._split(table)
        if assign:
            self.position = self._places.to(table.device)
            if self.trainable is not None:
                self.trainable.weight = nn.Parameter(trainable, self.trainable.weight.requires_grad)
            if self.frozen is not None:
                self.frozen = frozen
            return
        with torch.no_grad():
            if self.trainable is not None:
                self.trainable.weight.copy_(trainable)
            if self.frozen is not None:
                self.frozen.copy_(frozen)


def _table(
    weight: Tensor | int, embedding_dim: int | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    if isinstance(weight, Tensor):
        if embedding_dim is not None or device is not None or dtype is not None:
            raise ValueError("embedding_dim, device and dtype are those of weight where it is a tensor; leave them out")
        if not weight.is_floating_point():
            raise TypeError(f"weight must be floating point, got {describe(weight)}; convert it with .float()")
        if weight.dim() != 2:
            raise ValueError(f"weight must have the shape (num_embeddings, embedding_dim), got {describe(weight)}")
        return weight.detach()
    if not isinstance(weight, int):
        fix = "pass its .weight" if isinstance(weight, nn.Module) else "write torch.as_tensor(weight)"
        raise TypeError(f"weight must be a tensor or a number of rows, got {describe(weight)}; {fix}")
    check_number("num_embeddings", weight, minimum=1, integer=True)
    check_number("embedding_dim", embedding_dim, minimum=1, integer=True)
    return torch.randn(weight, embedding_dim or 0, device=device, dtype=dtype)


def _mask(freeze: bool | Tensor | Sequence[bool], rows: int) -> Tensor:
    if isinstance(freeze, bool):
        return torch.full((rows,), freeze, device="cpu")
    try:
        mask = torch.as_tensor(freeze, device="cpu")
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"freeze must be True, False or a bool per row, got {describe(freeze)}; {_MASK}") from None
    if mask.dtype != torch.bool:
        fix = "write mask.bool()" if mask.shape == (rows,) and not (mask > 1).any() else _MASK
        raise TypeError(f"freeze must be True, False or a bool per row, got {describe(mask)}; {fix}")
    if mask.shape != (rows,):
        raise ValueError(f"freeze must have one bool for each of the {plural(rows, 'row')}, got {describe(mask)}")
    return mask.clone()


def _checked_padding(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    check_number("padding_idx", padding_idx, minimum=-rows, maximum=rows - 1, integer=True)
    return padding_idx % rows
