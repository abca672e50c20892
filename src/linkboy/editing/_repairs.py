"""What follows an edit of the structure: layer numbers, what only a first layer owns, ties, and stale references."""

from torch import Tensor, nn

from linkboy._report import plural
from linkboy.editing._changes import Changes, StackChange, TensorPlace, changed_stacks
from linkboy.editing._configs import configs_above, set_field
from linkboy.editing._names import children_of, kind_of, named_once, places_of, references
from linkboy.editing._tied import TiedLinear

_POSITION = frozenset(("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "layer_num"))


def renumber(changes: Changes, stack: StackChange) -> None:
    """Set the integers that held a layer's old position to its new one."""
    slots = _slots(stack.old)
    changed: dict[str, int] = {}
    stale: set[str] = set()
    for position, layer in enumerate(stack.new):
        for path, part in layer.named_modules():
            for attribute in _numbers(part):
                offset = slots.get((path, attribute))
                if offset is None:
                    stale |= {attribute} if attribute in _POSITION and part.__dict__[attribute] != position else set()
                elif part.__dict__[attribute] != position + offset:
                    changes.snapshot.keep(part)
                    setattr(part, attribute, position + offset)
                    changed[attribute] = changed.get(attribute, 0) + 1
    for attribute, count in changed.items():
        changes.repairs.append(f"{attribute} renumbered in {stack.name}: {plural(count, 'value')}")
    for attribute in sorted(stale):
        changes.notes.append(
            f"{attribute} in {stack.name} did not follow the positions before the edit and was left alone"
        )


def _numbers(part: nn.Module) -> list[str]:
    return [key for key, value in part.__dict__.items() if type(value) is int and not key.startswith("_")]


def _slots(layers: list[nn.Module]) -> dict[tuple[str, str], int]:
    """Return the distance from the position of each (path in a layer, attribute) where it is the same in all layers.

    A number that equals one position by chance does not grow with the layers; a known name counts wherever it is
    consistent, another one only if all of two or more layers have it.
    """
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for position, layer in enumerate(layers):
        for path, part in layer.named_modules():
            for attribute in _numbers(part):
                found.setdefault((path, attribute), []).append((position, part.__dict__[attribute]))
    slots = {}
    for (path, attribute), values in found.items():
        distances = {value - position for position, value in values}
        proven = len(values) == len(layers) >= 2
        if len(distances) == 1 and (proven or attribute in _POSITION):
            slots[path, attribute] = distances.pop()
    return slots


def keep_first_owner(changes: Changes, stack: StackChange) -> None:
    """Keep with the first layer what it alone owns for all of them, such as T5's relative position bias.

    Only where the first layer has a submodule that no other layer has, and a flag beside it that says so; then every
    other layer depends on it.

    Raises:
        ValueError: the new first layer has no place for it.
    """
    for path, parent in stack.old[0].named_modules():
        for key, child in children_of(parent):
            others = [_part(layer, path) for layer in stack.old[1:]]
            if not others or any(other is None or key in other._modules for other in others):
                continue
            flags = _flags(parent, others[0])  # type: ignore[arg-type]  # none of them is None
            if flags:
                _move_owned(changes, stack, path, key, child, flags)


def _part(layer: nn.Module, path: str) -> nn.Module | None:
    for name in filter(None, path.split(".")):
        layer = layer._modules.get(name)  # type: ignore[assignment]
        if layer is None:
            return None
    return layer


def _flags(owner: nn.Module, other: nn.Module) -> dict[str, tuple[bool, bool]]:
    """Return the booleans that differ between the owner and another layer: name -> (owner's, other's)."""
    return {
        key: (value, other.__dict__[key])
        for key, value in owner.__dict__.items()
        if type(value) is bool and key != "training" and other.__dict__.get(key, value) is not value
    }


def _move_owned(
    changes: Changes, stack: StackChange, path: str, key: str, child: nn.Module, flags: dict[str, tuple[bool, bool]]
) -> None:
    owned = ".".join(filter(None, (path, key)))
    for position, layer in enumerate(stack.new):
        part = _part(layer, path)
        owns = part is not None and part._modules.get(key) is not None
        if owns is (position == 0):
            continue
        if part is None:
            raise ValueError(
                f"the first layer of {stack.name!r} alone owned {owned!r}, on which all layers depend, and the new first "
                f"layer ({kind_of(layer)}) has no place for it; keep layer 0 first"
            )
        changes.snapshot.keep(part)
        if position == 0:
            part._modules[key] = child
            changes.repairs.append(f"{owned} of the first layer of {stack.name} moved to the new first layer")
        else:
            del part._modules[key]
        for flag, (first, other) in flags.items():
            setattr(part, flag, first if position == 0 else other)


def lend_to_first(changes: Changes, error: BaseException | None) -> bool:
    """Give a new first layer the module that a run missed there and that the old first layer alone had.

    WavLM's first layer owns the position bias of all layers, and RWKV's a norm in front, without a flag that says so.
    """
    part, key = getattr(error, "obj", None), getattr(error, "name", None)
    if not isinstance(error, AttributeError) or not isinstance(part, nn.Module) or not isinstance(key, str):
        return False
    for stack in changed_stacks(changes):
        path = (
            next((path for path, inner in stack.new[0].named_modules() if inner is part), None) if stack.new else None
        )
        owner = None if path is None else _part(stack.old[0], path)
        if path is None or owner is None or owner is part or type(owner) is not type(part):
            continue
        child = owner._modules.get(key)
        others = [_part(layer, path) for layer in stack.old[1:]]
        if child is None or any(other is not None and other._modules.get(key) is not None for other in others):
            continue
        changes.snapshot.keep(part)
        part._modules[key] = child
        if any(inner is owner for inner in changes.model.modules()):
            changes.snapshot.keep(owner)
            del owner._modules[key]
        owned = ".".join(filter(None, (path, key)))
        changes.repairs.append(f"{owned} of the first layer of {stack.name} moved to the new first layer")
        return True
    return False


def retie(changes: Changes) -> None:
    """Give every follower of a tie the tensor of the tie's first name, which is the owner.

    Raises:
        ValueError: a follower cannot take the owner's new shape.
    """
    groups: dict[int, list[TensorPlace]] = {}
    for place in changes.before.tensors:
        groups.setdefault(id(place.tensor), []).append(place)
    present = named_once(changes.model)
    for group in groups.values():
        distinct = {(id(place.owner), place.key): place for place in group}
        if len(distinct) > 1:
            _retie_group(changes, list(distinct.values()), present)


def _retie_group(changes: Changes, group: list[TensorPlace], present: dict[int, str]) -> None:
    now = [(place, _holder(changes, place, present)) for place in group]
    left = [(place, holder) for place, holder in now if holder is not None]
    gone = [place.name for place, holder in now if holder is None]
    names = " = ".join(place.name for place in group)
    if gone and left:
        if now[0][1] is None:
            shared = _share_property(changes, group[0], left, present)
            if shared:
                changes.repairs.append(f"tied again: {names}, which {', '.join(shared)} reads from {group[0].name}")
                return
            _refuse_lost_owner(changes, group[0], names, present)
        changes.notes.append(f"the tie {names} lost {', '.join(gone)}")
    if len(left) < 2:
        return
    owner, tensor = left[0][1], _tensor(left[0][1], left[0][0].key)
    if tensor is None:
        return
    for place, holder in left[1:]:
        current = _tensor(holder, place.key)
        if current is None or current is tensor:
            continue
        replaced = holder is not place.owner
        if id(owner) in changes.untied or id(holder) in changes.untied:
            _end(changes, names, holder, "as asked")
        elif replaced and current.shape != tensor.shape:
            _end(changes, names, holder, f"as the new {place.name} has the shape {tuple(current.shape)}")
        else:
            _follow(changes, holder, place, tensor)
            changes.repairs.append(f"tied again: {names}" + " (the new module's own values were dropped)" * replaced)


def _holder(changes: Changes, place: TensorPlace, present: dict[int, str]) -> nn.Module | None:
    """Return the module that now stands where the owner of a tensor stood; `None` if it is gone."""
    if id(place.owner) in present:
        return place.owner
    new, path = _successor(changes, place, present)
    part = dict(new.named_modules()).get(path) if new is not None else None
    return part if part is not None and _tensor(part, place.key) is not None else None


def _successor(changes: Changes, place: TensorPlace, present: dict[int, str]) -> tuple[nn.Module | None, str]:
    """Return what stands for the nearest ancestor of a tensor that was replaced, and the path in it."""
    parts = place.name.split(".")[:-1]
    for depth in range(len(parts), 0, -1):
        old = changes.before.names.get(".".join(parts[:depth]))
        new = changes.successor.get(id(old)) if old is not None else None
        if new is not None and id(new) in present:
            return new, ".".join(parts[depth:])
    return None, ""


def _share_property(
    changes: Changes, owner: TensorPlace, left: list[tuple[TensorPlace, nn.Module]], present: dict[int, str]
) -> list[str]:
    """Let the followers of a tie read the weight that the owner's successor puts together; return their names.

    Nothing is done where the successor has no such weight, or a follower is neither a plain Linear nor a plain Embedding.
    """
    new, path = _successor(changes, owner, present)
    table = None if new is None else dict(new.named_modules()).get(path)
    if table is None or id(table) in changes.untied:
        return []
    weight = getattr(table, owner.key, None)
    holders = [holder for _, holder in left]
    shapes = {tuple(tensor.shape) for place, holder in left if (tensor := _tensor(holder, place.key)) is not None}
    if not isinstance(weight, Tensor) or owner.key != "weight" or shapes != {tuple(weight.shape)}:
        return []
    if any(type(holder) not in (nn.Linear, nn.Embedding) for holder in holders):
        return []
    for holder in holders:
        reader = TiedLinear(table, holder.bias) if isinstance(holder, nn.Linear) else table
        reader.training = holder.training
        changes.hold(holder, reader)
        for reference in references(changes.model, {id(holder)}):
            reference.redirect(reader)
        for place in places_of(changes.model, holder):
            place.parent._modules[place.key] = reader
        changes.successor[id(holder)] = reader
    return [present[id(holder)] for holder in holders]


def _refuse_lost_owner(changes: Changes, owner: TensorPlace, names: str, present: dict[int, str]) -> None:
    new, _ = _successor(changes, owner, present)
    if new is not None and id(new) not in changes.untied:
        raise ValueError(
            f"{names} are tied, and the new {present[id(new)]} ({kind_of(new)}) has no {owner.key!r} to share; "
            "replace(..., tie=False) ends the tie"
        )


def _tensor(module: nn.Module, key: str) -> Tensor | None:
    found = module._parameters.get(key)
    return found if found is not None else module._buffers.get(key)


def _end(changes: Changes, names: str, holder: nn.Module, why: str) -> None:
    changes.notes.append(f"the tie {names} has ended, {why}")
    for config in configs_above(changes.model, holder):
        if getattr(config, "tie_word_embeddings", False) is True:
            set_field(changes, config, "tie_word_embeddings", False)


def _follow(changes: Changes, holder: nn.Module, place: TensorPlace, tensor: Tensor) -> None:
    current = _tensor(holder, place.key)
    changes.snapshot.keep(holder)
    if current is not None and current.shape != tensor.shape:
        bias = holder._parameters.get("bias")
        fits = isinstance(holder, nn.Linear) and current.shape[1:] == tensor.shape[1:] and place.key == "weight"
        if not fits or bias is not None:
            raise ValueError(
                f"{place.name} {tuple(current.shape)} is tied to a tensor that now has the shape {tuple(tensor.shape)} "
                "and cannot follow; resize_embeddings changes both together, replace(..., tie=False) ends the tie"
            )
        holder.out_features = tensor.shape[0]  # type: ignore[assignment]
    holder._parameters[place.key] = tensor  # type: ignore[assignment]
    if current is not None:
        changes.resized.setdefault(id(current), tensor)
        changes.hold(current)


def rename_arguments(changes: Changes, stack: StackChange) -> None:
    """Let the arguments that a SentenceTransformer keeps by the names of its modules follow them; it saves both."""
    kept = stack.container.__dict__.get("module_kwargs")
    if not isinstance(kept, dict) or not kept:
        return
    prefix = f"{stack.name}." if stack.name else ""
    names = {id(module): name.removeprefix(prefix) for name, module in changes.before.names.items() if name}
    names |= {id(new): names[key] for key, new in changes.successor.items() if key in names}
    renamed = type(kept)(
        (key, kept[name])
        for key, child in children_of(stack.container)
        if (name := names.get(id(changes.origin_of(child)))) in kept
    )
    if renamed != kept:
        changes.snapshot.keep(stack.container)
        stack.container.module_kwargs = renamed  # type: ignore[assignment]
        changes.repairs.append("module_kwargs follows the names of the modules")


def note_unsaved(changes: Changes, stack: StackChange) -> None:
    """Name new modules of a stack that saves each of its modules by their own method, such as a SentenceTransformer."""
    if not stack.old or not all(callable(getattr(part, "save", None)) for part in (stack.container, *stack.old)):
        return
    for key, child in children_of(stack.container):
        if not callable(getattr(child, "save", None)):
            name = f"{stack.name}.{key}".strip(".")
            changes.notes.append(
                f"{name} ({kind_of(child)}) has no method save, with which {kind_of(stack.container)} saves each of its modules"
            )


def note_references(changes: Changes) -> None:
    """Name the plain attributes that still hold a module which has left the model."""
    present = {id(module) for module in changes.model.modules()}
    gone = {id(module) for module in changes.before.names.values() if id(module) not in present}
    for reference in references(changes.model, gone):
        changes.notes.append(f"{reference.name} still holds a module that has left the model")
