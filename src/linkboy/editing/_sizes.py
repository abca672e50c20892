"""Resize a head or the embeddings: old rows stay bit-identical, new ones are drawn like them, what is tied follows."""

from typing import Any

import torch
from torch import Tensor, nn

from linkboy._checks import check_number
from linkboy._report import plural
from linkboy.editing._changes import Changes, distinct_places
from linkboy.editing._edits import exchange
from linkboy.editing._names import ModulePlace, find_editable, kind_of, refuse_adapted, saved_by_adapter
from linkboy.editing._rows import TABLES, Fill, is_split, rows_like, set_rows
from linkboy.editing._tables import find_outputs, find_tables

_OUTPUTS = {nn.Linear: "out_features", nn.Conv1d: "out_channels", nn.Conv2d: "out_channels", nn.Conv3d: "out_channels"}


def resize_head(
    changes: Changes, name: str, out_features: int, *, fill: Fill | None, generator: torch.Generator | None
) -> None:
    """Give an output layer another number of outputs; see `surgery.resize_head`."""
    check_number("out_features", out_features, minimum=1, integer=True)
    place = find_editable(changes.model, name)
    for one in saved_by_adapter(place) or [place]:
        _resize_head(changes, one, out_features, fill, generator)


def _resize_head(
    changes: Changes, place: ModulePlace, out_features: int, fill: Fill | None, generator: torch.Generator | None
) -> None:
    head = place.module
    refuse_adapted(changes.model, place.name)
    attribute = next((attribute for kind, attribute in _OUTPUTS.items() if isinstance(head, kind)), None)
    if attribute is None or getattr(head, "groups", 1) != 1:
        inner = [f"{place.name}.{path}" for path, part in head.named_modules() if path and isinstance(part, nn.Linear)]
        raise TypeError(
            f"resize_head needs a Linear or an ungrouped convolution, and {place.name!r} is a {kind_of(head)}"
            + f"; it holds {', '.join(inner)}" * bool(inner)
        )
    weight = _weight(head, place.name)
    shared = [other.name for other in distinct_places(changes.model, weight) if other.owner is not head]
    if shared:
        raise ValueError(
            f"{place.name!r} is tied to {', '.join(shared)}; resize_embeddings changes both together, "
            "replace(..., tie=False) ends the tie"
        )
    old = weight.shape[0]
    _resize_outputs(changes, head, attribute, out_features, fill, generator)
    changes.sizes.append(("labels", head, old, out_features))
    changes.edits.append(f"resized {place.name}: {old} -> {plural(out_features, 'output')}")


def resize_embeddings(
    changes: Changes,
    count: int,
    name: str | None,
    *,
    head: str | None,
    fill: Fill | None,
    generator: torch.Generator | None,
) -> None:
    """Give the embedding table, and the output layer over the same words, another number of rows."""
    check_number("num_embeddings", count, minimum=1, integer=True)
    tables = find_tables(changes.model, name)
    outputs = find_outputs(changes.model, head)
    for place in tables:
        _resize_table(changes, place, outputs, count, fill, generator)


def _resize_table(
    changes: Changes,
    place: ModulePlace,
    outputs: list[nn.Linear],
    count: int,
    fill: Fill | None,
    generator: torch.Generator | None,
) -> None:
    table: Any = place.module
    old = table.num_embeddings
    if table.padding_idx is not None and table.padding_idx >= count:
        raise ValueError(f"num_embeddings must keep the padding row {table.padding_idx} of {place.name!r}, got {count}")
    if is_split(table):
        table = _resize_split(changes, place, count, fill, generator)
    else:
        _resize_rows(changes, place, count, fill, generator)
    for output in outputs:
        # An encoder and a decoder may each have a table; the output layer then follows the one that it is tied to.
        tied = any(isinstance(other.owner, TABLES) for other in distinct_places(changes.model, output.weight))
        if output.weight is not table.weight and not tied and output.weight.shape[0] == old:
            _resize_outputs(changes, output, "out_features", count, fill, generator)
    changes.sizes.append(("vocabulary", table, old, count))
    changes.edits.append(f"resized {place.name}: {old} -> {plural(count, 'row')}")


def _resize_rows(
    changes: Changes, place: ModulePlace, count: int, fill: Fill | None, generator: torch.Generator | None
) -> None:
    """Put a table with `count` rows in every place of the old one."""
    table: Any = place.module
    weight = _weight(table, place.name)
    followers = [other for other in distinct_places(changes.model, weight) if other.owner is not table]
    odd = next((other for other in followers if not isinstance(other.owner, (nn.Linear, *TABLES))), None)
    if odd is not None:
        raise TypeError(
            f"{odd.name!r} is tied to {place.name!r} and belongs to a {kind_of(odd.owner)}, which cannot follow"
        )
    new = nn.Parameter(rows_like(weight, count, fill, generator, table.padding_idx), weight.requires_grad)
    changes.hold(weight)
    changes.resized[id(weight)] = new
    for owner in [table, *(other.owner for other in followers)]:
        changes.snapshot.keep(owner)
        owner._parameters["weight"] = new
        set_rows(owner, count)
        if isinstance(owner, nn.Linear) and owner.bias is not None:
            _resize(changes, owner.bias, count, fill, generator)
    if followers:
        changes.repairs.append(f"{', '.join(other.name for other in followers)} stays tied to {place.name}.weight")


def _resize_split(
    changes: Changes, place: ModulePlace, count: int, fill: Fill | None, generator: torch.Generator | None
) -> nn.Module:
    """Put another table in the place of a partly frozen one: its rows are unchanged, and new ones are trainable."""
    old: Any = place.module
    rows = rows_like(old.weight, count, fill, generator, old.padding_idx)
    frozen = [*old.is_frozen.tolist(), *[False] * count][:count]
    new = type(old)(rows, freeze=frozen, padding_idx=old.padding_idx, sparse=old.sparse)
    if old.trainable is not None and not old.trainable.weight.requires_grad:
        new.requires_grad_(False)
    exchange(changes, place, new, like=True, hooks=True, tie=True)
    changes.origin[id(new)] = old  # its rows have their values from there
    return new


def _resize_outputs(
    changes: Changes, head: Any, attribute: str, count: int, fill: Fill | None, generator: torch.Generator | None
) -> None:
    for tensor in (head.weight, head.bias):
        if tensor is not None:
            _resize(changes, tensor, count, fill, generator)
    changes.snapshot.keep(head)
    setattr(head, attribute, count)


def _resize(
    changes: Changes, tensor: nn.Parameter, count: int, fill: Fill | None, generator: torch.Generator | None
) -> None:
    """Put a tensor with `count` rows in every place of the old one."""
    new = nn.Parameter(rows_like(tensor, count, fill, generator, None), tensor.requires_grad)
    for place in distinct_places(changes.model, tensor):
        changes.snapshot.keep(place.owner)
        place.owner._parameters[place.key] = new
    changes.hold(tensor)
    changes.resized[id(tensor)] = new


def _weight(module: nn.Module, name: str) -> nn.Parameter:
    weight = module._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"{name!r} has no plain weight (it is parametrized or packed) and cannot be resized; replace it"
        )
    if not weight.is_floating_point() or type(weight.data) is not Tensor:
        raise ValueError(
            f"{name!r} has a quantised weight ({weight.dtype}), which cannot be resized; dequantise it first"
        )
    return weight  # type: ignore[return-value]
