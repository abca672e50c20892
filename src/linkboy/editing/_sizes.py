"""Resize a head or the embeddings: old rows stay bit-identical, new ones are drawn like them, what is tied follows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from linkboy._checks import check_number, describe
from linkboy._tensors import fill_rows_like
from linkboy.editing._changes import Changes, Size, Structure, TensorPlace, distinct_places
from linkboy.editing._checks import Checked
from linkboy.editing._configs import configs_for, set_field
from linkboy.editing._edits import exchange
from linkboy.editing._names import ModulePlace, find_editable, kind_of, places_of, refuse_adapted, saved_by_adapter
from linkboy.editing._rebuild import build, parts_with_config, saved_shapes
from linkboy.editing._recorder import RecordedRun

Fill = Callable[[Tensor], Any]

_TABLES = (nn.Embedding, nn.EmbeddingBag)
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
    changes.edits.append(f"resized {place.name}: {old} -> {out_features} outputs")


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
    tables = _tables(changes.model, name)
    outputs = _outputs(changes.model, head)
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
    if _is_split(table):
        table = _resize_split(changes, place, count, fill, generator)
    else:
        _resize_rows(changes, place, count, fill, generator)
    for output in outputs:
        if output.weight is not table.weight and output.weight.shape[0] == old:
            _resize_outputs(changes, output, "out_features", count, fill, generator)
    changes.sizes.append(("vocabulary", table, old, count))
    changes.edits.append(f"resized {place.name}: {old} -> {count} rows")


def _resize_rows(
    changes: Changes, place: ModulePlace, count: int, fill: Fill | None, generator: torch.Generator | None
) -> None:
    """Put a table with `count` rows in every place of the old one."""
    table: Any = place.module
    weight = _weight(table, place.name)
    followers = [other for other in distinct_places(changes.model, weight) if other.owner is not table]
    odd = next((other for other in followers if not isinstance(other.owner, (nn.Linear, *_TABLES))), None)
    if odd is not None:
        raise TypeError(
            f"{odd.name!r} is tied to {place.name!r} and belongs to a {kind_of(odd.owner)}, which cannot follow"
        )
    new = nn.Parameter(_rows(weight, count, fill, generator, table.padding_idx), weight.requires_grad)
    changes.hold(weight)
    changes.resized[id(weight)] = new
    for owner in [table, *(other.owner for other in followers)]:
        changes.snapshot.keep(owner)
        owner._parameters["weight"] = new
        _set_rows(owner, count)
        if isinstance(owner, nn.Linear) and owner.bias is not None:
            _resize(changes, owner.bias, count, fill, generator)
    if followers:
        changes.repairs.append(f"{', '.join(other.name for other in followers)} stays tied to {place.name}.weight")


def _resize_split(
    changes: Changes, place: ModulePlace, count: int, fill: Fill | None, generator: torch.Generator | None
) -> nn.Module:
    """Put another table in the place of a partly frozen one: its rows are unchanged, and new ones are trainable."""
    old: Any = place.module
    rows = _rows(old.weight, count, fill, generator, old.padding_idx)
    frozen = [*old.is_frozen.tolist(), *[False] * count][:count]
    new = type(old)(rows, freeze=frozen, padding_idx=old.padding_idx, sparse=old.sparse)
    if old.trainable is not None and not old.trainable.weight.requires_grad:
        new.requires_grad_(False)
    exchange(changes, place, new, like=True, hooks=True, tie=True)
    changes.origin[id(new)] = old  # its rows have their values from there
    return new


def _is_split(module: nn.Module) -> bool:
    return kind_of(module) == "PretrainedEmbedding"


def note_replaced(changes: Changes) -> None:
    """Record a replaced embedding or output layer with another number of rows as a resized one."""
    names = {id(module): name for name, module in changes.before.names.items()}
    for key, new in changes.successor.items():
        old = changes.before.names.get(names.get(key, ""))
        counts = [getattr(module, "num_embeddings", None) for module in (old, new)]
        if isinstance(counts[0], int) and isinstance(counts[1], int):
            changes.sizes.append(("vocabulary", new, counts[0], counts[1]))
        elif isinstance(old, nn.Linear) and (count := _outputs_of(new)) is not None:
            changes.sizes.append(("labels", new, old.out_features, count))
            if isinstance(new, nn.Linear):
                _set_beside(changes, old, new)


def set_sizes_seen(changes: Changes, checked: Checked) -> None:
    """Set the number of labels that the run showed, where a head of another sort gave it."""
    before, after = checked.before.good, checked.after
    if before is None or after is None:
        return
    known = {id(module) for _, module, _, _ in changes.sizes}
    found = []
    seen = {(_last(one.before), _last(one.after)) for one in checked.outputs}
    for key, new in changes.successor.items():
        was, now = (run.shapes.get(part, ("",)) for run, part in ((before, key), (after, id(new))))
        pair = _last(was[0]), _last(now[0])
        if id(new) not in known and pair in seen and pair[0] and pair[1]:
            found.append(("labels", new, *pair))
    set_sizes(changes, found)
    _set_widths(changes, before, after)


def _set_widths(changes: Changes, before: RecordedRun, after: RecordedRun) -> None:
    """Set the width that a module without parameters keeps of what it passes on, as the Pooling of sentence-transformers."""
    for name, part in changes.model.named_modules():
        fields = [field for field in part.__dict__ if "dim" in field and getattr(type(part), "config_keys", None)]
        was, now = ([_last(shape) for shape in run.shapes.get(id(part), ())] for run in (before, after))
        new = set(now) - set(was)
        for field in fields if len(new) == 1 and not list(part.parameters()) else ():
            old = part.__dict__.get(field)
            if type(old) is int and old in was and old not in now:
                _set_attribute(changes, part, field, *new)
                changes.repairs.append(f"{field} of {name}: {old} -> {min(new)}")


def _last(shape: str) -> int:
    """Return the last size in `f32[2, 3]`; 0 where there is none."""
    size = shape.rstrip("]").rpartition("[")[2].rpartition(" ")[2]
    return int(size) if size.isdigit() else 0


def _outputs_of(module: nn.Module) -> int | None:
    """Return the number of outputs of a Linear, or of a Sequential whose last module with parameters is one."""
    if isinstance(module, nn.Linear):
        return module.out_features
    parts = reversed(list(module.children())) if isinstance(module, nn.Sequential) else iter(())
    last = next((part for part in parts if next(part.parameters(), None) is not None), None)
    return None if last is None else _outputs_of(last)


def set_sizes(changes: Changes, sizes: list[Size]) -> None:
    """Write new vocabulary sizes and numbers of labels into the configs and attributes that held the old ones."""
    names = {id(module): name for name, module in changes.model.named_modules()}
    for kind, module, old, new in sizes:
        while id(module) not in names and id(module) in changes.successor:  # replaced after it was resized
            module = changes.successor[id(module)]
        name = names.get(id(module))
        if old == new or name is None:
            continue
        field = "vocab_size" if kind == "vocabulary" else "num_labels"
        if kind == "vocabulary" and not _is_vocabulary(changes.model, module):
            continue
        for held in configs_for(changes.model, name):
            if getattr(held.config, field, None) == old:
                _set_size(changes, held.config, field, new)
        for part in changes.model.modules():
            if part.__dict__.get(field) == old:
                _set_attribute(changes, part, field, new)
        if kind == "labels":
            _set_counts(changes, name, old, new)


_COUNTS = (
    "num_classes",
    "n_classes",
    "num_outputs",
    "output_dim",
)  # of any module around a head, as timm's reset sets it
_COUNTS_BESIDE = ("out_features", "out_channels", "out_dim", "output_size")  # of the module that holds it


def _set_counts(changes: Changes, name: str, old: int, new: int) -> None:
    """Set the number of outputs that modules around a head keep."""
    *around, holder = _ancestors(name)
    for path, fields in [*((path, _COUNTS) for path in around), (holder, (*_COUNTS, *_COUNTS_BESIDE))]:
        part = changes.model.get_submodule(path)
        for field in fields:
            if type(part.__dict__.get(field)) is int and part.__dict__[field] == old:
                _set_attribute(changes, part, field, new)
                changes.repairs.append(f"{field} of {path or 'the model'}: {old} -> {new}")


def _set_beside(changes: Changes, old: nn.Linear, new: nn.Linear) -> None:
    """Set what the holder of a replaced Linear keeps of it beside the outputs, as the Dense of sentence-transformers does."""
    pairs = {"in_features": (old.in_features, new.in_features), "bias": (old.bias is not None, new.bias is not None)}
    for place in places_of(changes.model, new):
        for field, (before, after) in pairs.items():
            held = place.parent.__dict__.get(field)
            if type(held) is type(before) and held == before != after:
                _set_attribute(changes, place.parent, field, after)
                changes.repairs.append(f"{field} beside {place.name}: {before} -> {after}")


def _set_attribute(changes: Changes, part: nn.Module, field: str, value: int) -> None:
    changes.snapshot.keep(part)
    setattr(part, field, value)


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def follow_config(changes: Changes) -> None:
    """Resize the tensors that a model built from the resized config would have in the new size, such as biases over words."""
    pairs = {(old, new) for _, _, old, new in changes.sizes if old != new}
    if not pairs or changes.config != "auto":
        return
    for part in parts_with_config(changes.model).values():
        try:
            wanted = saved_shapes(Structure.of(build(part.module, part.config)))
        except Exception:  # noqa: BLE001 - a class may refuse its own config in any way; the check of the config says so
            continue
        for place in Structure.of(part.module).tensors:
            shape, new = tuple(place.tensor.shape), wanted.get(place.name)
            dims = [dim for dim, pair in enumerate(zip(shape, new or (), strict=False)) if pair[0] != pair[1]]
            if (
                new is not None
                and len(new) == len(shape)
                and len(dims) == 1
                and (shape[dims[0]], new[dims[0]]) in pairs
            ):
                _follow(changes, place, dims[0], new[dims[0]])


def _follow(changes: Changes, place: TensorPlace, dim: int, count: int) -> None:
    if place.owner._parameters.get(place.key, place.owner._buffers.get(place.key)) is not place.tensor:
        return  # tied to one that was resized before
    before = tuple(place.tensor.shape)
    rows = _rows(place.tensor.movedim(dim, 0), count, None, None, None).movedim(0, dim).contiguous()
    is_parameter = isinstance(place.tensor, nn.Parameter)
    new = nn.Parameter(rows, place.tensor.requires_grad) if is_parameter else rows
    for other in distinct_places(changes.model, place.tensor):
        changes.snapshot.keep(other.owner)
        (other.owner._parameters if is_parameter else other.owner._buffers)[other.key] = new  # type: ignore[assignment]
        if other.key == "weight" and dim == 0 and isinstance(other.owner, (nn.Linear, *_TABLES)):
            _set_rows(other.owner, count)
    changes.hold(place.tensor)
    changes.resized[id(place.tensor)] = new
    changes.repairs.append(f"{place.name} follows: {before} -> {tuple(new.shape)}")


def _set_size(changes: Changes, config: Any, field: str, new: int) -> None:
    labels = vars(config).get("id2label")
    if field == "num_labels" and isinstance(labels, dict):
        named = {index: labels.get(index, f"LABEL_{index}") for index in range(new)}
        set_field(changes, config, "id2label", named)
        set_field(changes, config, "label2id", {label: index for index, label in named.items()})
    else:
        set_field(changes, config, field, new)


def _is_vocabulary(model: nn.Module, module: nn.Module) -> bool:
    for part in model.modules():
        if callable(getter := getattr(part, "get_input_embeddings", None)):
            try:
                table: Any = getter()
                return any(inner is module for inner in table.modules())
            except (NotImplementedError, AttributeError):
                continue
    return True


def _tables(model: nn.Module, name: str | None) -> list[ModulePlace]:
    """Return the table to resize, or the copies of it that adapters keep, that of the active one first."""
    if name is not None:
        place = find_editable(model, name)
    else:
        place = _found_table(model)
    around = next((path for path in _ancestors(place.name)[1:] if _is_split(model.get_submodule(path))), None)
    if around is not None:
        raise TypeError(f"{place.name!r} is a part of the PretrainedEmbedding {around!r}, which is resized as a whole")
    refuse_adapted(model, place.name)
    places = saved_by_adapter(place) or [place]
    odd = next((one for one in places if not _is_table(one.module)), None)
    if odd is not None:
        raise TypeError(f"name must name an Embedding, and {odd.name!r} is a {kind_of(odd.module)}")
    return places


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, _TABLES) or _is_split(module)


def _found_table(model: nn.Module) -> ModulePlace:
    names = {id(part): path for path, part in model.named_modules()}
    table = _from_getter(model, "get_input_embeddings")
    if table is not None and names.get(id(table)):
        return find_editable(model, names[id(table)])
    tables = [path for path, part in model.named_modules() if _is_table(part) and path]
    tables = [path for path in tables if not any(path.startswith(f"{outer}.") for outer in tables)]
    if len(tables) != 1:
        raise ValueError(
            f"name must say which Embedding to resize, as the model has {len(tables)}"
            + f": {', '.join(tables)}" * bool(tables)
        )
    return find_editable(model, tables[0])


def _from_getter(model: nn.Module, getter: str) -> nn.Module | None:
    """Return what the outermost module with such a method says, as a SentenceTransformer's encoder does."""
    for part in model.modules():
        if callable(method := getattr(part, getter, None)):
            try:
                found = method()
            except (NotImplementedError, AttributeError):
                continue
            if isinstance(found, nn.Module):
                return found
    return None


def _outputs(model: nn.Module, head: str | None) -> list[nn.Linear]:
    """Return the layers over the words: that named, or what the model says, with the copies that adapters keep."""
    if head is not None:
        place = find_editable(model, head)
    else:
        names = {id(part): path for path, part in model.named_modules()}
        found = _from_getter(model, "get_output_embeddings")
        if found is None or not names.get(id(found)):
            return []
        place = find_editable(model, names[id(found)])
    layers = [one.module for one in saved_by_adapter(place) or [place]]
    odd = next((layer for layer in layers if not isinstance(layer, nn.Linear)), None)
    if odd is None:
        return layers  # type: ignore[return-value]  # each is a Linear
    refuse_adapted(model, place.name)
    if head is not None:
        raise TypeError(f"head must name a Linear, and {head!r} is a {kind_of(odd)}")
    return []


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
    new = nn.Parameter(_rows(tensor, count, fill, generator, None), tensor.requires_grad)
    for place in distinct_places(changes.model, tensor):
        changes.snapshot.keep(place.owner)
        place.owner._parameters[place.key] = new
    changes.hold(tensor)
    changes.resized[id(tensor)] = new


def _set_rows(module: nn.Module, count: int) -> None:
    setattr(module, "num_embeddings" if isinstance(module, _TABLES) else "out_features", count)


def _rows(
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
