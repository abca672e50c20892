"""Compare an edited model with what it was: parameters, keys of its state_dict, modules, shapes."""

from collections.abc import Iterable

from torch import Tensor, nn

from linkboy.editing._changes import Changes, Structure
from linkboy.editing._checks import Checked
from linkboy.editing._names import kind_of
from linkboy.editing.report import ModuleChange, ShapeChange, SurgeryReport


def make_report(changes: Changes, checked: Checked) -> SurgeryReport:
    """Return the report of a transaction whose checks have passed."""
    after = Structure.of(changes.model)
    keys, new, removed, resized = _keys(changes, after)
    return SurgeryReport(
        model=kind_of(changes.model),
        edits=tuple(changes.edits),
        modules=tuple(_modules(changes, after)),
        parameter_count_before=_count(changes.before),
        parameter_count_after=_count(after),
        keys=keys,
        new_keys=new,
        removed_keys=removed,
        resized_keys=resized,
        repairs=tuple(changes.repairs),
        checked=checked.how,
        shapes=tuple(_shapes(after, checked)),
        outputs=checked.outputs,
        cache_difference=checked.cached.difference,
        cache_difference_before=checked.before.cached.difference,
        notes=tuple(dict.fromkeys(changes.notes)),
    )


def _count(structure: Structure) -> int:
    parameters = {id(place.tensor): place.tensor for place in structure.tensors}
    return sum(
        tensor.numel()
        for tensor in parameters.values()
        if isinstance(tensor, nn.Parameter) and not nn.parameter.is_lazy(tensor)
    )


Keys = tuple[dict[str, str], tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def _keys(changes: Changes, after: Structure) -> Keys:
    old: dict[tuple[int, str], list[str]] = {}
    shapes: dict[str, tuple[int, ...] | None] = {}
    for place in changes.before.tensors:
        if place.persistent:
            old.setdefault((id(place.owner), place.key), []).append(place.name)
            shapes[place.name] = _shape(place.tensor)
    copies = changes.copied()
    keys, new, resized, used = {}, [], [], set()
    for place in after.tensors:
        if not place.persistent:
            continue
        owner = place.owner
        while id(owner) in copies:
            owner = copies[id(owner)]
        names = old.get((id(owner), place.key))
        if names is None:
            new.append(place.name)
            continue
        name = place.name if place.name in names else next((name for name in names if name not in used), names[-1])
        used.add(name)
        if shapes[name] != _shape(place.tensor):
            resized.append(place.name)
        else:
            keys[place.name] = name
    return keys, tuple(new), tuple(name for name in shapes if name not in used), tuple(resized)


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    return None if nn.parameter.is_lazy(tensor) else tuple(tensor.shape)


def _modules(changes: Changes, after: Structure) -> Iterable[ModuleChange]:
    was, now = _first_names(changes.before), _first_names(after)
    replaced = {id(new): key for key, new in changes.successor.items()}
    for name, module in changes.before.names.items():
        gone = id(module) not in now and name == was[id(module)]
        if gone and id(module) not in changes.successor and not _parent_in(name, changes.before, set(was) - set(now)):
            yield ModuleChange("removed", name, "-", kind_of(module))
    for name, module in after.names.items():
        if name != now[id(module)]:
            continue
        old = was.get(replaced.get(id(module), 0))
        if id(module) not in was:
            if old is not None:
                kind = f"{kind_of(changes.before.names[old])} -> {kind_of(module)}"
                yield ModuleChange("replaced", old, name, kind)
            elif not _parent_in(name, after, set(now) - set(was)):
                yield ModuleChange("new", "-", name, kind_of(module))
        elif was[id(module)] != name and not _moved_along(name, was, after):
            yield ModuleChange("moved", was[id(module)], name, kind_of(module))


def _first_names(structure: Structure) -> dict[int, str]:
    return {id(module): name for name, module in reversed(structure.names.items())}


def _parent_in(name: str, structure: Structure, ids: set[int]) -> bool:
    return bool(name) and id(structure.names[name.rpartition(".")[0]]) in ids


def _moved_along(name: str, was: dict[int, str], after: Structure) -> bool:
    path, _, key = name.rpartition(".")
    old_path = was.get(id(after.names[path]))
    return old_path is not None and was[id(after.names[name])] == f"{old_path}.{key}".removeprefix(".")


def _shapes(after: Structure, checked: Checked) -> Iterable[ShapeChange]:
    before = checked.before.good.shapes if checked.before.good is not None else {}
    now = checked.after.shapes if checked.after is not None else {}
    for name, module in after.names.items():
        shape = ", ".join(now.get(id(module), ()))
        old = ", ".join(before.get(id(module), ()))
        if name and shape and old and shape != old:
            yield ShapeChange(name, old, shape)
