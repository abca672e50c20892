"""What a transaction did: modules, state_dict keys, repairs, the checked run and the change of the output."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from linkboy._report import Block, Report, Table, format_count
from linkboy.editing._changes import Changes, Structure
from linkboy.editing._checks import Checked, OutputChange
from linkboy.editing._names import kind_of


@dataclasses.dataclass(frozen=True)
class ModuleChange:
    """A module that came, went, or has another name; what is below it went with it."""

    what: str
    before: str
    after: str
    kind: str


@dataclasses.dataclass(frozen=True)
class ShapeChange:
    """A module whose output changed its shape or dtype in the checked run."""

    name: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True)
class SurgeryReport(Report):
    """What an edit did to a model, and how it was shown that the model still runs.

    `keys`: each state_dict key of the edited model -> the key that its values had before; `new_keys` have no values
    from before, `removed_keys` are gone, `resized_keys` have other shapes. `cache_difference`: of step-by-step
    outputs from those of a full pass, relative to the largest, where the model has a cache.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy import remove_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> report = remove_layer(model, "1", example=torch.ones(1, 4))
        >>> report.keys
        {'0.weight': '0.weight', '0.bias': '0.bias', '1.weight': '2.weight', '1.bias': '2.bias'}
    """

    model: str
    edits: tuple[str, ...]
    modules: tuple[ModuleChange, ...]
    parameters_before: int
    parameters_after: int
    keys: dict[str, str]
    new_keys: tuple[str, ...]
    removed_keys: tuple[str, ...]
    resized_keys: tuple[str, ...]
    repairs: tuple[str, ...]
    checked: str
    shapes: tuple[ShapeChange, ...]
    outputs: tuple[OutputChange, ...]
    cache_difference: float | None
    warnings: tuple[str, ...]

    def convert(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the values of a checkpoint of the unedited model the names of the edited one.

        Keys of removed layers are left out; `new_keys` and `resized_keys` have no values in an old checkpoint, so
        that where there are some, the result is loaded with `strict=False`.

        Args:
            state_dict: of the model before the edit.

        Raises:
            KeyError: a key of the model before the edit is missing.
        """
        missing = sorted({old for old in self.keys.values() if old not in state_dict})
        if missing:
            raise KeyError(f"state_dict must come from the model before the edit, and lacks {', '.join(missing[:5])}")
        return {new: state_dict[old] for new, old in self.keys.items()}

    def _blocks(self) -> Iterable[Block]:
        count = f"{format_count(self.parameters_before)} -> {format_count(self.parameters_after)} parameters"
        yield "\n".join([f"{self.model}: {count}", *(f"  {edit}" for edit in self.edits)])
        if self.modules:
            rows = [(change.what, change.before, change.after, change.kind) for change in self.modules]
            yield _shortened(Table(("module", "before", "after", "type"), rows))
        yield self._key_line()
        if self.repairs:
            yield "\n".join(["mended", *(f"  {repair}" for repair in self.repairs)])
        cached = "" if self.cache_difference is None else f"; with and without cache: {self.cache_difference:.1e} apart"
        yield f"checked: {self.checked}{cached}"
        if self.outputs:
            rows = [(one.name, one.before, one.after, one.difference) for one in self.outputs]
            yield _shortened(Table(("output", "before", "after", "largest difference"), rows))
        if self.shapes:
            rows = [(one.name, one.before, one.after) for one in self.shapes]
            yield _shortened(Table(("output of", "before", "after"), rows))
        if self.warnings:
            yield "\n".join(["mind", *(f"  {warning}" for warning in self.warnings)])

    def _key_line(self) -> str:
        renamed = sum(new != old for new, old in self.keys.items())
        parts = [
            (len(self.keys) - renamed, "kept"),
            (renamed, "renamed"),
            (len(self.removed_keys), "removed"),
            (len(self.new_keys), "new"),
            (len(self.resized_keys), "resized"),
        ]
        return "state_dict keys: " + ", ".join(f"{count} {what}" for count, what in parts if count)


def _shortened(table: Table, most: int = 12) -> Table:
    if len(table.rows) <= most:
        return table
    rest = (f"and {len(table.rows) - most} more", *[""] * (len(table.columns) - 1))
    return dataclasses.replace(table, rows=[*table.rows[:most], rest])


def make_report(changes: Changes, checked: Checked) -> SurgeryReport:
    """Compare the model with what it was."""
    after = Structure.of(changes.model)
    keys, new, removed, resized = _keys(changes, after)
    return SurgeryReport(
        model=kind_of(changes.model),
        edits=tuple(changes.edits),
        modules=tuple(_modules(changes, after)),
        parameters_before=_count(changes.before),
        parameters_after=_count(after),
        keys=keys,
        new_keys=new,
        removed_keys=removed,
        resized_keys=resized,
        repairs=tuple(changes.repairs),
        checked=checked.how,
        shapes=tuple(_shapes(after, checked)),
        outputs=checked.outputs,
        cache_difference=checked.cache_difference,
        warnings=tuple(dict.fromkeys(changes.warnings)),
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
    shapes: dict[str, Any] = {}
    for place in changes.before.tensors:
        if place.persistent:
            old.setdefault((id(place.owner), place.key), []).append(place.name)
            shapes[place.name] = _shape(place.tensor)
    copies: dict[int, nn.Module] = {}
    for twin, module in changes.copies():
        parts = dict(module.named_modules())  # by path: a repair may have moved a part since the copy was made
        copies |= {id(part): parts[path] for path, part in twin.named_modules() if path in parts}
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
    before = checked.before.shapes if checked.before is not None and checked.before.failure is None else {}
    now = checked.after.shapes if checked.after is not None else {}
    for name, module in after.names.items():
        shape = ", ".join(now.get(id(module), ()))
        old = ", ".join(before.get(id(module), ()))
        if name and shape and old and shape != old:
            yield ShapeChange(name, old, shape)
