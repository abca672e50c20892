"""What follows a size that was changed: entries of configs, attributes of modules, and tensors such as biases over words."""

from collections.abc import Set
from typing import Any

from torch import nn

from linkboy.editing._changes import Changes, Size, Structure, TensorPlace, distinct_places
from linkboy.editing._checks import Checked
from linkboy.editing._configs import configs_for, set_field
from linkboy.editing._names import places_of
from linkboy.editing._rebuild import build, parts_with_config, plain_differences, saved_shapes
from linkboy.editing._recorder import RecordedRun
from linkboy.editing._rows import TABLES, rows_like, set_rows
from linkboy.editing._tables import ancestors

# Numbers of outputs that any module around a head may keep, as timm's reset sets them; then of the module that holds it.
_COUNTS = ("num_classes", "n_classes", "num_outputs", "output_dim")
_COUNTS_BESIDE = ("out_features", "out_channels", "out_dim", "output_size")


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


def follow_config(changes: Changes) -> None:
    """Give tensors and numbers the new size that a model built from the resized config has, such as biases over words."""
    pairs = {(old, new) for _, _, old, new in changes.sizes if old != new}
    if not pairs or changes.config != "auto":
        return
    for part in parts_with_config(changes.model).values():
        try:
            fresh = build(part.module, part.config)
        except Exception:  # noqa: BLE001 - a class may refuse its own config in any way; the check of the config says so
            continue
        wanted = saved_shapes(Structure.of(fresh))
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
        twins = dict(fresh.named_modules())
        for path, module in part.module.named_modules():
            if path in twins and type(module) is type(twins[path]):
                _follow_numbers(changes, ".".join(filter(None, (part.name, path))), module, twins[path], pairs)


def _follow_numbers(
    changes: Changes, name: str, module: nn.Module, twin: nn.Module, pairs: Set[tuple[int, int]]
) -> None:
    """Set the numbers of a module that are an old size, and the new one in a fresh model, such as XLM's `n_words`."""
    for key, (mine, theirs) in list(plain_differences(module, twin)):
        if type(mine) is int and (mine, theirs) in pairs:
            _set_attribute(changes, module, key, theirs)  # type: ignore[arg-type]  # an int, as in a pair
            changes.repairs.append(f"{key} of {name or 'the model'}: {mine} -> {theirs}")


def _outputs_of(module: nn.Module) -> int | None:
    """Return the number of outputs of a Linear, or of a Sequential whose last module with parameters is one."""
    if isinstance(module, nn.Linear):
        return module.out_features
    parts = reversed(list(module.children())) if isinstance(module, nn.Sequential) else iter(())
    last = next((part for part in parts if next(part.parameters(), None) is not None), None)
    return None if last is None else _outputs_of(last)


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


def _set_counts(changes: Changes, name: str, old: int, new: int) -> None:
    """Set the number of outputs that modules around a head keep."""
    *around, holder = ancestors(name)
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


def _follow(changes: Changes, place: TensorPlace, dim: int, count: int) -> None:
    if place.owner._parameters.get(place.key, place.owner._buffers.get(place.key)) is not place.tensor:
        return  # tied to one that was resized before
    before = tuple(place.tensor.shape)
    rows = rows_like(place.tensor.movedim(dim, 0), count, None, None, None).movedim(0, dim).contiguous()
    is_parameter = isinstance(place.tensor, nn.Parameter)
    new = nn.Parameter(rows, place.tensor.requires_grad) if is_parameter else rows
    for other in distinct_places(changes.model, place.tensor):
        changes.snapshot.keep(other.owner)
        (other.owner._parameters if is_parameter else other.owner._buffers)[other.key] = new  # type: ignore[assignment]
        if other.key == "weight" and dim == 0 and isinstance(other.owner, (nn.Linear, *TABLES)):
            set_rows(other.owner, count)
    changes.hold(place.tensor)
    changes.resized[id(place.tensor)] = new
    changes.repairs.append(f"{place.name} follows: {before} -> {tuple(new.shape)}")
