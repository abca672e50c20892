"""Count the parameters of a model or of a checkpoint file, exactly."""

import os
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from linkboy._checks import check_choice
from linkboy._report import listed, plural
from linkboy._tensors import dense_parts, describe_with_fix, is_plain
from linkboy._walk import NamedTensor, unregistered, unwrapped, walk
from linkboy.parameters._files import count_file
from linkboy.parameters._packed import hidden_weights, logical_numel, numel_behind
from linkboy.parameters.report import ParameterCount, ParameterRow


def count_parameters(
    model: nn.Module | str | os.PathLike[str], *, by: Literal["module", "dtype"] | None = None
) -> ParameterCount:
    """Count what a model or a checkpoint holds: each tensor once, however it is shared, packed or sharded.

    A file is read by its header only (`.safetensors`, `*.safetensors.index.json`, a folder with either) or by the
    opcodes of its pickle (`.pt`, `.pth`, `.bin`, `.ckpt`): no tensor is loaded and nothing in the file is executed.

    Args:
        model: a module, or the path of a checkpoint or of a folder that holds one.
        by: `"module"` adds a row for each module that owns parameters (for each key of a checkpoint), `"dtype"` a
            row for each dtype.

    Returns:
        A `ParameterCount`. Its `total` equals `sum(p.numel() for p in model.parameters())`; `logical` is what packed weights
        stand for (a 4-bit tensor holds two in a byte).

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
        return count_file(model, by)
    raise TypeError(f"model must be an nn.Module or the path of a checkpoint, got {describe_with_fix(model)}")


# Most modules of most models: known to hide nothing.
_TORCH_LAYERS = frozenset(
    f"torch.nn.modules.{part}" for part in ("container", "linear", "dropout", "normalization", "conv")
)


def _count_module(model: nn.Module, by: Literal["module", "dtype"] | None) -> ParameterCount:
    modules, found = walk(model, plain=True)
    parameters = [each for each in found if each.is_parameter]
    buffers = [each for each in found if not each.is_parameter]
    total = trainable = logical = nbytes = local = 0
    sharded = False
    lazy: list[str] = []
    storages: dict[int, int] = {}
    for each in parameters:
        tensor = each.tensor
        if is_plain(tensor):
            count = tensor.numel()
            total += count
            logical += count
            local += count
            nbytes += tensor.nbytes
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        elif each.is_lazy:
            lazy.append(each.name)
            continue
        else:
            count = tensor.numel()
            total += count
            logical += logical_numel(tensor)
            shard = getattr(tensor, "_local_tensor", None)
            sharded |= shard is not None
            local += count if shard is None else shard.numel()
            nbytes += _add_parts(dense_parts(tensor), storages)
        if tensor.requires_grad:
            trainable += count
    hidden_count, hidden_nbytes, unreadable = _count_hidden(modules, storages)
    filled = [each.tensor for each in buffers if not each.is_lazy]
    return ParameterCount(
        source=type(unwrapped(model)).__name__,
        total=total,
        trainable=trainable,
        frozen=total - trainable,
        logical=logical + hidden_count,
        nbytes=nbytes + hidden_nbytes,
        unique_storage_nbytes=sum(storages.values()),
        buffer_count=sum(buffer.numel() for buffer in filled),
        buffer_nbytes=sum(map(_stored_nbytes, filled)),
        nonzero=_count_unpruned(buffers, total),
        tied=tuple([each.names for each in parameters if len(each.places) > 1]),
        uninitialized=tuple(lazy),
        uncounted=tuple(unreadable),
        sharded=(local, total) if sharded else None,
        by=by,
        rows=_rows(parameters, by) if by else (),
        notes=_notes(lazy, unreadable, hidden_count, _aside(model)),
    )


def _aside(model: nn.Module) -> list[str]:
    """Return the layers and parameters that the model does not register, and tensors that are meant to be trained."""
    return [
        f"{name} ({type(thing).__name__})"
        for name, thing in unregistered(model)
        if (isinstance(thing, Tensor) and thing.is_leaf and thing.requires_grad)
        or isinstance(thing, nn.Parameter)
        or (isinstance(thing, nn.Module) and next(thing.parameters(), None) is not None)
    ]


def _add_parts(parts: Iterable[Tensor], storages: dict[int, int]) -> int:
    nbytes = 0
    for part in parts:
        nbytes += part.nbytes
        storage = part.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    return nbytes


def _stored_nbytes(tensor: Tensor) -> int:
    return sum(part.nbytes for part in dense_parts(tensor))


def _count_hidden(modules: Sequence[tuple[str, nn.Module]], storages: dict[int, int]) -> tuple[int, int, list[str]]:
    count = nbytes = 0
    unreadable: list[str] = []
    seen: set[int] = set()
    for name, module in modules:
        if type(module).__module__ in _TORCH_LAYERS or id(module) in seen:
            continue
        weights = hidden_weights(module)
        seen.add(id(module))
        if weights is None:
            behind = numel_behind(module) if "qweight" in module._buffers else None
            count += behind or 0  # their bytes are those of the buffers
            unreadable += [name] * (behind is None)
            continue
        for weight in weights:
            # bias and scales of a packed module are new tensors at each reading: their storages are their own
            count += weight.numel()
            nbytes += weight.numel() * weight.element_size()
            storages[-len(storages) - 1] = weight.numel() * weight.element_size()
    return count, nbytes, unreadable


def _count_unpruned(buffers: Sequence[NamedTensor], total: int) -> int | None:
    masks = [each.tensor for each in buffers if _is_mask(each)]
    if not masks or any(mask.is_meta for mask in masks):
        return None
    return total - sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks)


def _is_mask(buffer: NamedTensor) -> bool:
    """Return whether `torch.nn.utils.prune` multiplies a weight with this buffer."""
    _, owner, key = buffer.places[0]
    return key.endswith("_mask") and f"{key[:-4]}orig" in owner._parameters


def _rows(parameters: Sequence[NamedTensor], by: str) -> tuple[ParameterRow, ...]:
    groups: dict[str, tuple[str, list[NamedTensor]]] = {}
    for each in parameters:
        if by == "module":
            path, module, _ = each.places[0]
            groups.setdefault(path or "(root)", (type(module).__name__, []))[1].append(each)
        else:
            groups.setdefault(str(each.tensor.dtype).removeprefix("torch."), ("", []))[1].append(each)
    return tuple(_row(name, kind, group, by) for name, (kind, group) in groups.items())


def _row(name: str, kind: str, group: Sequence[NamedTensor], by: str) -> ParameterRow:
    known = [each for each in group if not each.is_lazy]
    tensors = [each.tensor for each in known]
    return ParameterRow(
        name=name,
        kind=kind,
        tensors=tuple((each.places[0][2] if by == "module" else each.name, tuple(each.tensor.shape)) for each in known),
        parameter_count=sum(tensor.numel() for tensor in tensors),
        trainable_count=sum(tensor.numel() for tensor in tensors if tensor.requires_grad),
        nbytes=sum(map(_stored_nbytes, tensors)),
    )


def _notes(lazy: Sequence[str], unreadable: Sequence[str], hidden_count: int, aside: Sequence[str]) -> tuple[str, ...]:
    notes: list[str] = []
    if aside:
        notes.append(
            f"not registered, so neither counted nor trained nor saved: {listed(aside)}; use nn.ModuleList, nn.ModuleDict "
            "or nn.Parameter"
        )
    if lazy:
        notes.append(f"not yet materialised, so the total is a lower bound: {listed(lazy)}")
    if hidden_count:
        notes.append(
            f"{plural(hidden_count, 'weight')}, quantised or of a frozen script, "
            f"{'is' if hidden_count == 1 else 'are'} outside model.parameters()"
        )
    if unreadable:
        notes.append(f"packed weights that cannot be counted: {listed(unreadable)}")
    return tuple(notes)
