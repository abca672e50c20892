"""Resize a head or the embeddings: old rows stay bit-identical, new ones are drawn like them, what is tied follows."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from linkboy._checks import check_number, describe
from linkboy._tensors import fill_rows_like
from linkboy.editing._changes import Changes, Size, Structure, TensorPlace, distinct_places
from linkboy.editing._checks import Checked
from linkboy.editing._configs import configs_for, set_field
from linkboy.editing._names import find_editable, kind_of
from linkboy.editing._rebuild import build, parts_with_config, saved_shapes

Module = TypeVar("Module", bound=nn.Module)
Fill = Callable[[Tensor], Any]

_OUTPUTS = {nn.Linear: "out_features", nn.Conv1d: "out_channels", nn.Conv2d: "out_channels", nn.Conv3d: "out_channels"}


def resize_head(
    changes: Changes, name: str, out_features: int, *, fill: Fill | None, generator: torch.Generator | None
) -> None:
    """Give an output layer another number of outputs; see `surgery.resize_head`."""
    check_number("out_features", out_features, minimum=1, integer=True)
    place = find_editable(changes.model, name)
    head = place.module
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
    place_name, table = _table(changes.model, name)
    old = table.num_embeddings
    if table.padding_idx is not None and table.padding_idx >= count:
        raise ValueError(f"num_embeddings must keep the padding row {table.padding_idx} of {place_name!r}, got {count}")
    weight = _weight(table, place_name)
    followers = [place for place in distinct_places(changes.model, weight) if place.owner is not table]
    odd = next((place for place in followers if not isinstance(place.owner, (nn.Linear, nn.Embedding))), None)
    if odd is not None:
        raise TypeError(
            f"{odd.name!r} is tied to {place_name!r} and belongs to a {kind_of(odd.owner)}, which cannot follow"
        )
    new = nn.Parameter(_rows(weight, count, fill, generator, table.padding_idx), weight.requires_grad)
    changes.hold(weight)
    changes.resized[id(weight)] = new
    for owner in [table, *(place.owner for place in followers)]:
        changes.snapshot.keep(owner)
        owner._parameters["weight"] = new
        _set_rows(owner, count)
        if isinstance(owner, nn.Linear) and owner.bias is not None:
            _resize(changes, owner.bias, count, fill, generator)
    output = _output(changes.model, head)
    if output is not None and output.weight is not new and output.weight.shape[0] == old:
        _resize_outputs(changes, output, "out_features", count, fill, generator)
    changes.sizes.append(("vocabulary", table, old, count))
    changes.edits.append(f"resized {place_name}: {old} -> {count} rows")
    if followers:
        changes.repairs.append(f"{', '.join(place.name for place in followers)} stays tied to {place_name}.weight")


def note_replaced(changes: Changes) -> None:
    """Record a replaced embedding or output layer with another number of rows as a resized one."""
    names = {id(module): name for name, module in changes.before.names.items()}
    for key, new in changes.successor.items():
        old = changes.before.names.get(names.get(key, ""))
        if isinstance(old, nn.Embedding) and isinstance(new, nn.Embedding):
            changes.sizes.append(("vocabulary", new, old.num_embeddings, new.num_embeddings))
        elif isinstance(old, nn.Linear) and (count := _outputs_of(new)) is not None:
            changes.sizes.append(("labels", new, old.out_features, count))


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
        if kind == "labels":  # timm's models keep the number of classes beside their head, as its own reset does
            for path in _ancestors(name):
                part = changes.model.get_submodule(path)
                if part.__dict__.get("num_classes") == old:
                    _set_attribute(changes, part, "num_classes", new)
                    changes.repairs.append(f"num_classes of {path or 'the model'}: {old} -> {new}")


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
                return getter() is module
            except NotImplementedError:
                continue
    return True


def _table(model: nn.Module, name: str | None) -> tuple[str, nn.Embedding]:
    names = {id(part): path for path, part in model.named_modules()}
    if name is not None:
        place = find_editable(model, name)
        _refuse_split_table(model, place.name)
        if not isinstance(place.module, nn.Embedding):
            raise TypeError(f"name must name an Embedding, and {place.name!r} is a {kind_of(place.module)}")
        return place.name, place.module
    table = _from_getter(model, "get_input_embeddings", nn.Embedding)
    if table is not None and id(table) in names:
        _refuse_split_table(model, names[id(table)])
        return names[id(table)], table
    tables = [(path, part) for path, part in model.named_modules() if isinstance(part, nn.Embedding)]
    if len(tables) != 1:
        raise ValueError(
            f"name must say which Embedding to resize, as the model has {len(tables)}"
            + f": {', '.join(path for path, _ in tables)}" * bool(tables)
        )
    _refuse_split_table(model, tables[0][0])
    return tables[0]


def _refuse_split_table(model: nn.Module, name: str) -> None:
    for path in [*_ancestors(name)[1:], name]:
        table = model.get_submodule(path)
        if kind_of(table) == "PretrainedEmbedding":
            raise TypeError(
                f"{path!r} is a PretrainedEmbedding, whose frozen and trainable rows are kept apart; build one with the rows "
                f"you want and use replace({path!r}, ...)"
            )


def _from_getter(model: nn.Module, getter: str, kind: type[Module]) -> Module | None:
    """Return what the outermost module with such a method says, as a SentenceTransformer's encoder does."""
    for part in model.modules():
        if callable(method := getattr(part, getter, None)):
            try:
                found = method()
            except (NotImplementedError, AttributeError):
                continue
            if isinstance(found, kind):
                return found
    return None


def _output(model: nn.Module, head: str | None) -> nn.Linear | None:
    if head is not None:
        found = find_editable(model, head).module
        if not isinstance(found, nn.Linear):
            raise TypeError(f"head must name a Linear, and {head!r} is a {kind_of(found)}")
        return found
    return _from_getter(model, "get_output_embeddings", nn.Linear)


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
    setattr(module, "num_embeddings" if isinstance(module, nn.Embedding) else "out_features", count)


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
