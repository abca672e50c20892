"""Count the parameters of a model or of a checkpoint file, exactly."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from linkboy._checks import check_choice
from linkboy._report import Block, Report, Table, format_bytes, format_count
from linkboy.parameters._held import (
    Held,
    held_tensors,
    hidden_weights,
    is_plain,
    is_uninitialized,
    logical_numel,
    stored_parts,
)


@dataclasses.dataclass(frozen=True)
class ParameterRow:
    """One line of a `ParameterCount`: the parameters of one module, of one dtype or under one key of a checkpoint.

    `tensors` holds a name and a shape for each parameter; a tied one is counted in the row that has it first.

    Examples:
        >>> import torch
        >>> from linkboy import count_parameters
        >>> count_parameters(torch.nn.Linear(3, 2), by="module").rows[0].tensors
        (('weight', (2, 3)), ('bias', (2,)))
    """

    name: str
    kind: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    parameters: int
    trainable: int | None
    bytes: int


@dataclasses.dataclass(frozen=True)
class ParameterCount(Report):
    """What a model or a checkpoint holds; see `count_parameters` for each field.

    Examples:
        >>> import torch
        >>> from linkboy import count_parameters
        >>> print(count_parameters(torch.nn.Linear(3, 2)))
        Linear: 8 parameters, all trainable, 32 B
    """

    source: str
    total: int
    trainable: int | None
    frozen: int | None
    buffers: int
    logical: int
    bytes: int
    unique_storage_bytes: int
    buffer_bytes: int = 0
    nonzero: int | None = None
    tied: tuple[tuple[str, ...], ...] = ()
    uninitialized: tuple[str, ...] = ()
    sharded: tuple[int, int] | None = None
    by: str | None = None
    rows: tuple[ParameterRow, ...] = ()
    notes: tuple[str, ...] = ()

    def _blocks(self) -> Iterable[Block]:
        yield self._headline()
        if self.rows:
            yield self._table()
        if self.tied:
            yield "\n".join(f"tied: {' = '.join(names)}" for names in _abridged(self.tied))
        if self.notes:
            yield "\n".join(f"note: {note}" for note in self.notes)

    def _headline(self) -> str:
        at_least = "at least " if self.uninitialized else ""
        packed = f" (packed in {format_count(self.total)})" if self.logical != self.total else ""
        share = ""
        if self.trainable is not None and self.frozen is not None:
            share = ", all trainable"
            if self.frozen:
                share = f", {format_count(self.trainable)} trainable, {format_count(self.frozen)} frozen"
        text = f"{self.source}: {at_least}{format_count(self.logical)} parameters{packed}{share}"
        text += f", {format_bytes(self.bytes)}"
        if self.unique_storage_bytes != self.bytes:
            text += f" (in {format_bytes(self.unique_storage_bytes)} of storage)"
        if self.buffers:
            text += f"; buffers {format_count(self.buffers)}, {format_bytes(self.buffer_bytes)}"
        if self.nonzero is not None:
            text += f"; {format_count(self.nonzero)} left after pruning"
        if self.sharded is not None:
            local, whole = self.sharded
            text += f"; sharded: {format_count(local)} of {format_count(whole)} on this process"
        return text

    def _table(self) -> Table:
        per_module, trained = self.by == "module", self.trainable is not None
        body: list[list[str]] = []
        for row in self.rows:
            cells = [row.name]
            if per_module:
                cells += [row.kind] * trained + [_shapes(row.tensors)]
            else:
                cells += [format_count(len(row.tensors))]
            cells += [format_count(row.parameters)] + [_share(row.trainable, row.parameters)] * trained
            body.append([*cells, format_bytes(row.bytes)])
        columns = ["module"] + ["type"] * trained + ["shapes"] if per_module else [str(self.by), "tensors"]
        total = ["total"] + [""] * (len(columns) - 1) + [format_count(self.total)]
        total += [_share(self.trainable, self.total)] * trained + [format_bytes(sum(row.bytes for row in self.rows))]
        return Table([*columns, "parameters", *["trainable"] * trained, "size"], [*body, total])


def count_parameters(
    model: nn.Module | str | os.PathLike[str], *, by: Literal["module", "dtype"] | None = None
) -> ParameterCount:
    """Count what a model or a checkpoint holds: each tensor once, however it is shared, packed or sharded.

    A file is read by its header only (`.safetensors`, `*.safetensors.index.json`, a folder with either) or by the
    opcodes of its pickle (`.pt`, `.pth`, `.bin`): no tensor is loaded and nothing in the file is executed.

    Args:
        model: a module, or the path of a checkpoint or of a folder that holds one.
        by: `"module"` adds a row for each module that owns parameters (for each key of a checkpoint), `"dtype"` a
            row for each dtype.

    Returns:
        `total`: elements of all parameters, equal to `sum(p.numel() for p in model.parameters())`; of these
        `trainable` and `frozen` (`None` for a file, which does not know).
        `logical`: what packed weights stand for (a 4-bit tensor holds two in a byte), with the weights that quantised
        modules hide from `parameters()`.
        `bytes`: what the parameters take where they are stored, with scales and zero points; `unique_storage_bytes`:
        the storages behind them, each counted once; `buffers` and `buffer_bytes` likewise for buffers.
        `nonzero`: what `torch.nn.utils.prune` has left, `None` where nothing is pruned.
        `tied`: all names of each tensor that has several.
        `uninitialized`: lazy parameters, which make `total` a lower bound.
        `sharded`: `(local, global)` elements where a parameter is a DTensor.
        `notes`: what the count cannot know.

    Raises:
        TypeError: `model` is neither a module nor a path.
        ValueError: `by` is unknown, or the file is damaged, hostile or of no known format.
        FileNotFoundError: there is no such file, or a shard that the index names is missing.

    Examples:
        >>> import torch
        >>> from linkboy import count_parameters
        >>> model = torch.nn.Sequential(torch.nn.Embedding(1000, 64), torch.nn.Linear(64, 1000, bias=False))
        >>> model[1].weight = model[0].weight
        >>> print(count_parameters(model, by="module"))
        Sequential: 64,000 parameters, all trainable, 250.0 KiB
        <BLANKLINE>
        module  type       shapes      parameters  trainable       size
        0       Embedding  1000 x 64       64,000        yes  250.0 KiB
        total                              64,000        yes  250.0 KiB
        <BLANKLINE>
        tied: 0.weight = 1.weight

    Differs from `sum(p.numel() for p in model.parameters() if p.requires_grad)`: one pass instead of two; packed and
    hidden weights are seen, lazy ones do not raise, and bytes, storage and ties come with it.
    """
    if by is not None:
        check_choice("by", by, ("module", "dtype"))
    if isinstance(model, nn.Module):
        return _count_module(model, by)
    if isinstance(model, (str, os.PathLike)):
        from linkboy.parameters.files import count_file

        return count_file(model, by)
    raise TypeError(f"model must be an nn.Module or the path of a checkpoint, got {type(model).__name__}")


_PLAIN = (nn.Parameter, Tensor)
# Most modules of most models: known to hide nothing.
_TORCH_LAYERS = frozenset(
    f"torch.nn.modules.{part}" for part in ("container", "linear", "dropout", "normalization", "conv")
)


def _count_module(model: nn.Module, by: str | None) -> ParameterCount:
    held = held_tensors(model)
    total = trainable = logical = nbytes = local = 0
    sharded = False
    lazy: list[str] = []
    storages: dict[int, int] = {}
    for tensor in held.parameters:
        if type(tensor) in _PLAIN and tensor.layout is torch.strided:
            count = tensor.numel()
            total += count
            logical += count
            local += count
            nbytes += tensor.nbytes
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        elif is_uninitialized(tensor):
            lazy += held.names[id(tensor)][:1]
            continue
        else:
            count = tensor.numel()
            total += count
            logical += logical_numel(tensor)
            shard = getattr(tensor, "_local_tensor", None)
            sharded |= shard is not None
            local += count if shard is None else shard.numel()
            nbytes += _add_parts(stored_parts(tensor), storages)
        if tensor.requires_grad:
            trainable += count
    hidden_count, hidden_bytes, unreadable = _count_hidden(held, storages)
    buffers = [buffer for buffer in held.buffers if not is_uninitialized(buffer)]
    return ParameterCount(
        source=type(model).__name__,
        total=total,
        trainable=trainable,
        frozen=total - trainable,
        buffers=sum(buffer.numel() for buffer in buffers),
        logical=logical + hidden_count,
        bytes=nbytes + hidden_bytes,
        unique_storage_bytes=sum(storages.values()),
        buffer_bytes=sum(_stored_bytes(buffer) for buffer in buffers),
        nonzero=_count_unpruned(held, total),
        tied=tuple(tuple(names) for names in map(held.names.__getitem__, map(id, held.parameters)) if len(names) > 1),
        uninitialized=tuple(lazy),
        sharded=(local, total) if sharded else None,
        by=by,
        rows=_rows(held, by) if by else (),
        notes=_notes(lazy, unreadable, hidden_count),
    )


def _add_parts(parts: Iterable[Tensor], storages: dict[int, int]) -> int:
    nbytes = 0
    for part in parts:
        nbytes += part.nbytes
        storage = part.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    return nbytes


def _stored_bytes(tensor: Tensor) -> int:
    return tensor.nbytes if is_plain(tensor) else sum(part.nbytes for part in stored_parts(tensor))


def _count_hidden(held: Held, storages: dict[int, int]) -> tuple[int, int, list[str]]:
    count = nbytes = 0
    unreadable: list[str] = []
    seen: set[int] = set()
    for name, module in held.modules:
        if type(module).__module__ in _TORCH_LAYERS or id(module) in seen:
            continue
        weights = hidden_weights(module)
        seen.add(id(module))
        if weights is None:
            unreadable.append(name)
            continue
        for weight in weights:
            # bias and scales of a packed module are new tensors at each reading: their storages are their own
            count += weight.numel()
            nbytes += weight.numel() * weight.element_size()
            storages[-len(storages) - 1] = weight.numel() * weight.element_size()
    return count, nbytes, unreadable


def _count_unpruned(held: Held, total: int) -> int | None:
    if not held.masks or any(mask.is_meta for mask in held.masks):
        return None
    return total - sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in held.masks)


def _rows(held: Held, by: str) -> tuple[ParameterRow, ...]:
    groups: dict[str, tuple[str, list[Tensor]]] = {}
    for tensor, (path, module) in zip(held.parameters, held.owners, strict=True):
        if by == "module":
            groups.setdefault(path or "(root)", (type(module).__name__, []))[1].append(tensor)
        else:
            groups.setdefault(str(tensor.dtype).removeprefix("torch."), ("", []))[1].append(tensor)
    rows: list[ParameterRow] = []
    for name, (kind, tensors) in groups.items():
        known = [tensor for tensor in tensors if not is_uninitialized(tensor)]
        names = [held.names[id(tensor)][0] for tensor in known]
        if by == "module":
            names = [name.rpartition(".")[2] for name in names]
        rows.append(
            ParameterRow(
                name=name,
                kind=kind,
                tensors=tuple((name, tuple(tensor.shape)) for name, tensor in zip(names, known, strict=True)),
                parameters=sum(tensor.numel() for tensor in known),
                trainable=sum(tensor.numel() for tensor in known if tensor.requires_grad),
                bytes=sum(_stored_bytes(tensor) for tensor in known),
            )
        )
    return tuple(rows)


def _notes(lazy: Sequence[str], unreadable: Sequence[str], hidden_count: int) -> tuple[str, ...]:
    notes: list[str] = []
    if lazy:
        notes.append(f"not yet materialised, so the total is a lower bound: {listed(lazy)}")
    if hidden_count:
        notes.append(f"{format_count(hidden_count)} quantised weights are outside model.parameters()")
    if unreadable:
        notes.append(f"packed weights that cannot be counted: {listed(unreadable)}")
    return tuple(notes)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join the first names with commas and count the rest."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _abridged(tied: Sequence[tuple[str, ...]], most: int = 8) -> list[tuple[str, ...]]:
    shown = [names if len(names) <= most else (*names[:most], f"and {len(names) - most} more") for names in tied[:most]]
    return shown + ([(f"and {len(tied) - most} more tensors",)] if len(tied) > most else [])


def _share(trainable: int | None, parameters: int) -> str:
    if trainable == parameters:
        return "yes"
    return format_count(trainable) if trainable else "no"


def _shapes(tensors: Sequence[tuple[str, tuple[int, ...]]], most: int = 4) -> str:
    shapes = [" x ".join(map(str, shape)) or "()" for _, shape in tensors]
    return listed(shapes, most)
